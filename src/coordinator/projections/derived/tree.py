"""The notary's tiles: every hash of the Merkle tree, and the positions of its leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from coordinator.application.ports import Recorded, Row, Tables
from coordinator.application.proof.leaves import leaf_hashes
from coordinator.application.proof.tree import StoredTree
from coordinator.domain.messages import Event
from coordinator.projections.derived.port import StoredRows, compare

TILES = "merkle_tiles"
BATCH = 1024


class TreeTables:
    """See the module. Memory grows with the log: 40 bytes an event."""

    follower: ClassVar[str] = "notary"
    events: ClassVar[tuple[type[Event], ...]] = (Event,)
    statements: ClassVar[Mapping[str, str]] = {TILES: "derived_tiles"}

    def __init__(self) -> None:
        self._tree = StoredTree.empty()
        self._waiting: list[Recorded] = []
        self._rows: dict[str, Row] = {}

    def take(self, recorded: Recorded) -> None:
        self._waiting.append(recorded)
        if len(self._waiting) == BATCH:
            self._grow()

    def key_of(self, table: str, row: Mapping[str, Any]) -> str:
        return f"level {row['level']} tile {row['tile']}"

    def differences(self, stored: StoredRows) -> Iterator[str]:
        self._grow()
        tiles = {
            key: {**row, "hashes": bytes(row["hashes"]), "positions": bytes(row["positions"])}
            for key, row in stored[TILES].items()
        }
        yield from compare(TILES, self._rows, tiles)

    def write(self, tables: Tables) -> None:
        tables.execute("proof_clear_tiles")

    def _grow(self) -> None:
        events, self._waiting = self._waiting, []
        if events:
            positions = [event.position for event in events]
            for row in self._tree.append(leaf_hashes(events), positions):
                self._rows[self.key_of(TILES, row)] = row
