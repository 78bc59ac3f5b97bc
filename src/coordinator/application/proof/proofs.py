"""The proofs that readers ask for: checkpoints, tiles, entries, inclusion and consistency.

Everything comes from the tables, so that any process answers, whether it runs the notary or not. Nothing
beyond the published checkpoint is shown. All calls block: use them in threads.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coordinator.application.ports import Database, EventLog, Tables
from coordinator.application.proof.leaves import LeafTile, read_leaves
from coordinator.application.proof.origins import read_origins
from coordinator.application.proof.tree import read_tiles
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.log.checkpoint import SignedCheckpoint, log_key, read_checkpoint
from coordinator.crypto.log.note import VerifierKey, read_signatures
from coordinator.crypto.log.tiles import WIDTH, Tile, consistency_path, inclusion_path, tiles_of
from coordinator.crypto.merkle import HASH_BYTES, consistency_ranges, inclusion_ranges


class NoProof(Exception):
    """There is nothing to prove this with; the text says what is missing."""


class NotPublished(NoProof):
    """No checkpoint is published yet; the first one follows an event within a second or so."""

    def __init__(self) -> None:
        super().__init__("no checkpoint is published yet; ask again in a moment")


class BeyondTheCheckpoint(NoProof):
    """The published checkpoint does not cover this yet."""


class UnknownPosition(NoProof):
    """No event has this position."""


class Published(NamedTuple):
    """The published checkpoint: the newest one that has the quorum of cosignatures."""

    signed: SignedCheckpoint
    """With its cosignatures."""
    position: int
    """That of its last leaf."""
    signed_at: int
    """Unix milliseconds."""

    @property
    def size(self) -> int:
        return self.signed.checkpoint.size


@dataclass(frozen=True, slots=True)
class Inclusion:
    """The proof that a checkpoint's tree has an event."""

    position: int
    index: int
    leaf_hash: bytes
    size: int
    path: Sequence[bytes]


class LogNames(NamedTuple):
    """The log's name, the key of its checkpoints, and the names before."""

    origin: str
    key: VerifierKey
    former: Sequence[str]


@dataclass(frozen=True, slots=True)
class Proofs:
    """Reads of the stored tree. `quorum`: the cosignatures that a checkpoint needs to be published."""

    database: Database
    event_log: EventLog
    key: SigningKey
    quorum: int = 0

    def names(self) -> LogNames:
        """The log's name and key. Raises NotPublished before the notary's first start."""
        with self.database.transaction() as tables:
            origins = read_origins(tables)
        if origins is None:
            raise NotPublished
        former = sorted(set(origins.known) - {origins.current})
        return LogNames(origins.current, log_key(self.key, origins.current), former)

    def published(self) -> Published:
        """The published checkpoint. Raises NotPublished."""
        with self.database.transaction() as tables:
            return self._published(tables)

    def tile(self, tile: Tile, width: int) -> bytes:
        """The first `width` hashes of a tile. Raises BeyondTheCheckpoint, NotPublished."""
        with self.database.transaction() as tables:
            self._check_covers(tables, tile, width)
            content = read_tiles(tables, [tile]).get(tile, b"")[: width * HASH_BYTES]
        if len(content) < width * HASH_BYTES:
            raise NoProof("the tile is being derived from the log again; ask again in a moment")
        return content

    def entries(self, number: int, width: int) -> list[bytes]:
        """The first `width` leaves of a tile at level 0, from the log.

        Raises BeyondTheCheckpoint, NotPublished, and LeavesDiffer for a log that is not the tree's.
        """
        with self.database.transaction() as tables:
            self._check_covers(tables, Tile(0, number), width)
            rows = tables.query("proof_leaves", tile=number)
        if not rows:
            raise NoProof("the tile is being derived from the log again; ask again in a moment")
        tile = LeafTile.of(rows[0])
        return read_leaves(
            self.event_log, tile._replace(hashes=tile.hashes[:width], positions=tile.positions[:width])
        )

    def inclusion(self, position: int, size: int | None = None) -> tuple[Inclusion, Published]:
        """The proof that the tree of `size` leaves (that of the published checkpoint) has this event.

        Raises UnknownPosition, BeyondTheCheckpoint, NotPublished.
        """
        with self.database.transaction() as tables:
            published = self._published(tables)
            size = published.size if size is None else size
            [place] = self._places(tables, [position])
            if place is None:
                if position > published.position:
                    raise BeyondTheCheckpoint(f"the checkpoint covers positions up to {published.position}")
                raise UnknownPosition(f"no event has the position {position}")
            index, hashed = place
            if not index < size <= published.size:
                raise BeyondTheCheckpoint(
                    f"the event has index {index}, and the published checkpoint {published.size} events: "
                    "a size is between them"
                )
            tiles = read_tiles(tables, tiles_of(inclusion_ranges(index, size)))
        path = inclusion_path(tiles, index, size)
        return Inclusion(position, index, hashed, size, path), published

    def inclusions(self, positions: Sequence[int]) -> tuple[list[Inclusion], Published]:
        """The proofs that the published checkpoint's tree has these events, from one reading of the tables.

        `positions` increase. Raises UnknownPosition, BeyondTheCheckpoint, NotPublished.
        """
        with self.database.transaction() as tables:
            published = self._published(tables)
            size = published.size
            places = self._places(tables, positions)
            found = [(p, *place) for p, place in zip(positions, places, strict=True) if place is not None]
            if len(found) < len(positions) or found[-1][1] >= size:
                if positions[-1] > published.position:
                    raise BeyondTheCheckpoint(f"the checkpoint covers positions up to {published.position}")
                raise UnknownPosition("not all of these positions have events")
            ranges = [leaves for _, index, _ in found for leaves in inclusion_ranges(index, size)]
            tiles = read_tiles(tables, tiles_of(ranges))
        return [
            Inclusion(position, index, hashed, size, inclusion_path(tiles, index, size))
            for position, index, hashed in found
        ], published

    def consistency(self, old: int, size: int | None = None) -> tuple[int, list[bytes], Published]:
        """The size (that of the published checkpoint by default), and the proof that it has grown from `old`.

        Raises BeyondTheCheckpoint, NotPublished.
        """
        with self.database.transaction() as tables:
            published = self._published(tables)
            size = published.size if size is None else size
            if not 0 <= old <= size <= published.size:
                raise BeyondTheCheckpoint(
                    f"the published checkpoint has {published.size} events, and a log only grows: "
                    "0 <= from <= to <= that size"
                )
            tiles = read_tiles(tables, tiles_of(consistency_ranges(old, size)))
        return size, consistency_path(tiles, old, size), published

    def newest(self) -> SignedCheckpoint | None:
        """The newest checkpoint, whatever the quorum, without cosignatures; None before the first."""
        with self.database.transaction() as tables:
            origins = read_origins(tables)
            rows = [] if origins is None else tables.query("proof_latest", origin=origins.current)
        return read_checkpoint(rows[0]["note"].encode()) if rows else None

    def path(self, old: int, size: int) -> list[bytes]:
        """The consistency proof between two sizes of the stored tree. Raises BadTile, ValueError."""
        with self.database.transaction() as tables:
            return consistency_path(read_tiles(tables, tiles_of(consistency_ranges(old, size))), old, size)

    def _published(self, tables: Tables) -> Published:
        origins = read_origins(tables)
        if origins is None:
            raise NotPublished
        if self.quorum:
            rows = tables.query("proof_latest_cosigned", origin=origins.current, quorum=self.quorum)
        else:
            rows = tables.query("proof_latest", origin=origins.current)
        if not rows:
            raise NotPublished
        row = rows[0]
        signed = read_checkpoint(row["note"].encode())
        lines = tables.query("proof_cosignatures", origin=origins.current, size=row["size"])
        more = [signature for line in lines for signature in read_signatures(line["line"])]
        signed = signed._replace(note=signed.note.with_signatures(more))
        return Published(signed, row["position"], row["signed_at"])

    def _check_covers(self, tables: Tables, tile: Tile, width: int) -> None:
        size = self._published(tables).size
        if not 0 < width <= WIDTH or tile.width_in(size) < width:
            raise BeyondTheCheckpoint(
                f"the checkpoint of {size} events has {tile.width_in(size)} hashes in this tile"
            )

    def _places(self, tables: Tables, positions: Sequence[int]) -> list[tuple[int, bytes] | None]:
        """Index and leaf hash of the events at increasing positions; None where the tree has none."""
        found: list[tuple[int, bytes] | None] = []
        tile: LeafTile | None = None
        for position in positions:
            if tile is None or not tile.positions or position > tile.positions[-1]:
                rows = tables.query("proof_leaves_at", position=position)
                tile = LeafTile.of(rows[0]) if rows else None
            place = -1 if tile is None else bisect_left(tile.positions, position)
            known = tile is not None and place < len(tile.positions) and tile.positions[place] == position
            found.append((tile.first_index + place, tile.hashes[place]) if tile and known else None)
        return found
