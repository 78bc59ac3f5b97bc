"""The notary: the follower that grows the Merkle tree over the log, and signs its checkpoints.

It gives each event its index, in the order of positions. A batch of events, after a second or 4,000 of
them, is one transaction: their hashes in the tiles, one signed checkpoint, and the position.

It signs one log only. What was signed last is in the database and in a memory outside of it. Before the first
signature, and before each one, both are compared with the tree: a log that is smaller, or that has another
root, is never signed, and the follower stops (`errors.LogRewritten`). Stored events are hashed again in turn,
some at the start and the others while there is time, so that a change of an old event is found as well.

The order at a crash: the tiles of a batch are stored together with its checkpoint. The memory outside may be
one checkpoint ahead of the database; the next leader reaches the same size from the log and compares.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from coordinator.application.followers.follower import FollowerBase
from coordinator.application.ports import Clock, Database, EventLog, PositionMoved, Recorded, Row, Tables
from coordinator.application.proof.errors import LeavesDiffer, LogWentBack, RootDiffers, UnknownOrigin
from coordinator.application.proof.leaves import LeafTile, leaf_hashes, read_leaves
from coordinator.application.proof.memory import CheckpointMemory
from coordinator.application.proof.origins import NOTARY, ensure_origins
from coordinator.application.proof.tree import StoredTree, read_tiles, stored_root
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.log.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    log_key,
    read_checkpoint,
    sign_checkpoint,
    verify_checkpoint,
)
from coordinator.crypto.log.note import BadNote
from coordinator.crypto.log.tiles import WIDTH, Tile, hashes_in
from coordinator.crypto.merkle import root_of

BATCH = 4000
"""A signed checkpoint and the tiles that it changes cost as much as a thousand leaves."""
LINGER_SECONDS = 1.0
FAR_BEHIND = 10_000
"""Positions behind the log at which a checkpoint is signed only once a second."""
CHECK_SECONDS = 1.0
"""Between two tiles whose events are hashed again …"""
BUSY_CHECK_SECONDS = 10.0
"""… while the log grows by more than a tile meanwhile: reading one costs as much as twenty jobs."""
START_TILES = 4
"""The last tiles whose events are hashed again at the start."""
DATABASE = "the database"

log = structlog.get_logger("notary")


class Signed(NamedTuple):
    """A stored checkpoint of this process."""

    checkpoint: SignedCheckpoint
    position: int
    """That of the last leaf."""
    at: int
    """Unix milliseconds."""


class Notary(FollowerBase):
    """See the module. `on_checkpoint` is called on the event loop, with each stored checkpoint."""

    name = NOTARY
    batch = BATCH
    acts_on = frozenset()

    def __init__(
        self,
        key: SigningKey,
        event_log: EventLog,
        database: Database,
        memory: CheckpointMemory,
        head: Callable[[], int],
        clock: Clock,
        origin: str | None = None,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        """`head`: the log's last position that this process knows. `origin`: see `origins.ensure_origins`."""
        self.linger_seconds = linger_seconds
        self.on_checkpoint: Callable[[Signed], None] = lambda signed: None
        self.witnessed: Callable[[], tuple[str, int] | None] = lambda: None
        """A witness that had signed a larger log when this process started, and that size."""
        self.origin = ""
        self.last: Signed | None = None
        """The last stored checkpoint of this process."""
        self._key = key
        self._log = event_log
        self._database = database
        self._memory = memory
        self._head = head
        self._clock = clock
        self._setting = origin
        self._tree = StoredTree.empty()
        self._remembered: SignedCheckpoint | None = None
        """What the memory outside had when it was last read or written."""
        self._awaited: dict[int, str] = {}
        """Sizes that were signed already and that the tree has not reached, with the place that says so."""
        self._signed: dict[int, bytes] = {}
        """The roots of `_awaited`, as far as they are known."""
        self._largest = 0
        """The largest size that was ever signed under this origin."""
        self._new: Signed | None = None
        self._signed_at = 0.0
        self._checked_at = 0.0
        self._checked_size = 0
        """The size of the tree at that time."""
        self._next_check = 0

    # --- the start -----------------------------------------------------------------------------------------
    def take_over(self, tables: Tables) -> None:
        now = self._clock.now()
        origins = ensure_origins(tables, self._setting, now)
        self.origin = origins.current
        self._tree = StoredTree.load(tables)
        self._awaited, self._signed, self._largest, self._new = {}, {}, 0, None
        self._remembered = remembered = self._memory.load()
        stored = tables.query("proof_latest", origin=self.origin)
        if stored:
            self._note_signed(tables, self._own(stored[0]["note"]), DATABASE)
        if remembered is not None:
            origin = remembered.checkpoint.origin
            if origin not in origins.known:
                raise UnknownOrigin(origin, str(self._memory))
            if origin == self.origin:
                self._note_signed(tables, remembered.checkpoint, str(self._memory))
                if remembered.checkpoint.size == self._largest <= self._tree.size:
                    self._restore_row(tables, remembered)
        if (witnessed := self.witnessed()) is not None and witnessed[1] > self._tree.size:
            self._awaited[witnessed[1]] = f"the witness {witnessed[0]}"
            self._largest = max(self._largest, witnessed[1])
        self._check_last_leaves(tables)
        if self._tree.size > self._largest and self._tree.size > 0:
            self._sign(tables, tables.position(self.name))
        self._next_check = 0

    def _note_signed(self, tables: Tables, checkpoint: Checkpoint, where: str) -> None:
        """Compare the tree with a checkpoint, now or when it has grown so far. Raises RootDiffers."""
        size, root = checkpoint.size, checkpoint.root
        self._largest = max(self._largest, size)
        if size > self._tree.size:
            if self._signed.setdefault(size, root) != root:
                raise RootDiffers(self.origin, size, where)
            self._awaited[size] = where
        elif stored_root(tables, size) != root:
            raise RootDiffers(self.origin, size, where)

    def _own(self, note: str) -> Checkpoint:
        """A checkpoint from the database; a signature of our key must be right. Raises RootDiffers."""
        signed = read_checkpoint(note.encode())
        try:
            if signed.note.signed_by([log_key(self._key, self.origin)]):
                verify_checkpoint(signed, [log_key(self._key, self.origin)])
        except BadNote:
            raise RootDiffers(self.origin, signed.checkpoint.size, DATABASE) from None
        return signed.checkpoint

    def _restore_row(self, tables: Tables, remembered: SignedCheckpoint) -> None:
        """After a crash of its server the database may lack the last checkpoints, whose events it has."""
        size = remembered.checkpoint.size
        if not tables.query("proof_checkpoint", origin=self.origin, size=size):
            log.warning("a checkpoint is back in the database", size=size)
            tables.put(
                "checkpoints", [self._row(remembered, self._position_of(tables, size), self._clock.now())]
            )

    def _position_of(self, tables: Tables, size: int) -> int:
        tile = LeafTile.of(tables.query("proof_leaves", tile=(size - 1) // WIDTH)[0])
        return tile.positions[(size - 1) % WIDTH]

    def _check_last_leaves(self, tables: Tables) -> None:
        last = (self._tree.size - 1) // WIDTH if self._tree.size else -1
        for number in range(max(0, last - START_TILES + 1), last + 1):
            self._check_tile(tables, number)

    # --- events --------------------------------------------------------------------------------------------
    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        hashes, positions = leaf_hashes(events), [event.position for event in events]
        before, after = self._tree.size, self._tree.size + len(events)
        rows: dict[tuple[int, int], Row] = {}
        done = 0
        for size in self._sizes_to_compare(tables, before, after):
            taken = size - before
            self._append(rows, hashes[done:taken], positions[done:taken])
            done = taken
            if self._tree.edge.root() != self._signed.pop(size):
                raise RootDiffers(self.origin, size, self._awaited.get(size, DATABASE))
            self._awaited.pop(size, None)
            self._put_again(tables, size, positions[taken - 1])
        self._append(rows, hashes[done:], positions[done:])
        if self._tree.size > self._largest and self._due(positions[-1]):
            # Before the first write: no other transaction waits for the memory's disk.
            self._sign(tables, positions[-1])
        tables.put("merkle_tiles", list(rows.values()))

    def _put_again(self, tables: Tables, size: int, position: int) -> None:
        """Store the checkpoint that the memory has and the database may lack: its tree is there now."""
        remembered = self._remembered
        if remembered is not None and remembered.checkpoint[:2] == (self.origin, size):
            now = self._clock.now()
            tables.put("checkpoints", [self._row(remembered, position, now)])
            self._new = Signed(remembered, position, now)

    def _append(
        self, rows: dict[tuple[int, int], Row], hashes: Sequence[bytes], positions: Sequence[int]
    ) -> None:
        for row in self._tree.append(hashes, positions):
            rows[row["level"], row["tile"]] = row

    def _sizes_to_compare(self, tables: Tables, before: int, after: int) -> list[int]:
        """Sizes at which the tree's root is known; the roots are in `_signed`."""
        if before >= self._largest:
            return []
        for row in tables.query("proof_between", origin=self.origin, after=before, until=after):
            root = bytes(row["root"])
            if self._signed.setdefault(row["size"], root) != root:
                raise RootDiffers(self.origin, row["size"], DATABASE)
        return sorted(size for size in self._signed if before < size <= after)

    def _due(self, position: int) -> bool:
        behind = self._head() - position
        return behind < FAR_BEHIND or self._clock.monotonic() - self._signed_at >= LINGER_SECONDS

    def _sign(self, tables: Tables, position: int) -> None:
        """Sign the tree as it is, and remember it outside of the database and in it."""
        found = self._memory.load()
        if found is not None and found != self._remembered:
            # Another process signs, or somebody put another file there: begin again, with all comparisons.
            raise PositionMoved(f"{self._memory} was changed by another process")
        signed = sign_checkpoint(self._key, Checkpoint(self.origin, self._tree.size, self._tree.edge.root()))
        self._memory.store(signed)
        self._remembered, self._largest = signed, signed.checkpoint.size
        now = self._clock.now()
        tables.put("checkpoints", [self._row(signed, position, now)])
        self._new, self._signed_at = Signed(signed, position, now), self._clock.monotonic()

    def _row(self, signed: SignedCheckpoint, position: int, now: int) -> Row:
        return {
            "origin": signed.checkpoint.origin,
            "size": signed.checkpoint.size,
            "root": signed.checkpoint.root,
            "position": position,
            "signed_at": now,
            "note": signed.text,
        }

    # --- meanwhile -----------------------------------------------------------------------------------------
    async def tick(self, stored_to: int) -> None:
        if stored_to >= self._head():
            await self._check_size(stored_to)
        if self._new is not None and self._new.position <= stored_to:
            self.last, self._new = self._new, None
            self.on_checkpoint(self.last)
        now = self._clock.monotonic()
        pause = CHECK_SECONDS if self._tree.size - self._checked_size <= WIDTH else BUSY_CHECK_SECONDS
        if self._tree.size >= WIDTH and now - self._checked_at >= pause:
            self._checked_at, self._checked_size = now, self._tree.size
            await asyncio.to_thread(self._check_next)

    async def _check_size(self, stored_to: int) -> None:
        """The tree has all events of the log that this process knows. Raises LogWentBack if that is less."""
        for size, where in self._awaited.items():
            # Another process may have appended and signed meanwhile: the log itself decides.
            if size > self._tree.size and await asyncio.to_thread(self._log.head) <= stored_to:
                raise LogWentBack(self.origin, size, self._tree.size, where)

    def _check_next(self) -> None:
        """Hash the events of the next full tile again. Raises LeavesDiffer, LogError."""
        if (self._next_check + 1) * WIDTH > self._tree.size:
            self._next_check = 0
        with self._database.transaction() as tables:
            self._check_tile(tables, self._next_check)
        self._next_check += 1

    def _check_tile(self, tables: Tables, number: int) -> None:
        rows = tables.query("proof_leaves", tile=number)
        if not rows:  # not stored yet
            return
        tile = LeafTile.of(rows[0])
        read_leaves(self._log, tile)
        if len(tile.hashes) == WIDTH:
            above = Tile(1, number // WIDTH)
            roots = hashes_in(read_tiles(tables, [above])[above])
            if root_of(tile.hashes) != roots[number % WIDTH]:
                raise LeavesDiffer(tile.first_index, "a tile of the tree was changed")
