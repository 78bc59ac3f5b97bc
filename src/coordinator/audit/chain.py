"""The Merkle tree over the log, computed again, against the stored tree and the signed checkpoints."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

from coordinator.audit.entries import Divergence, StoredCheckpoint, StoredLeaves, Tables
from coordinator.crypto.keys import EncodingError, check_key_id, decode_base64url
from coordinator.crypto.log.checkpoint import Checkpoint, read_checkpoint, verify_checkpoint
from coordinator.crypto.log.note import Algorithm, BadNote, VerifierKey
from coordinator.crypto.log.tiles import WIDTH, TreeEdge
from coordinator.crypto.merkle import HASH_BYTES

_NONE: Final = StoredLeaves(b"", ())


class Seen(NamedTuple):
    """A checkpoint that was verified."""

    origin: str
    size: int
    root: bytes


class Chain:
    """Grows with the log. Checkpoints of former origins and of the current one may alternate in size."""

    def __init__(
        self,
        checkpoints: Iterator[StoredCheckpoint],
        trusted: Collection[str] | None,
        tables: Tables | None,
        edge: TreeEdge | None = None,
        after: int = 0,
    ) -> None:
        """`trusted`: ids of keys, or None for those that the log names; `after`: an earlier audit's size."""
        self._edge = edge or TreeEdge()
        self._trusted = trusted
        self._tables = tables
        self._checkpoints = iter(sorted((c for c in checkpoints if c.size > after), key=lambda c: c.size))
        self._next = next(self._checkpoints, None)
        self._tile: tuple[int, StoredLeaves] = (-1, _NONE)
        self._last_tile = -1 if tables is None else tables.last_tile()
        self._first: int | None = None
        """The position of the first event since the last checkpoint."""
        self._keys: dict[str, None] = {}
        self.broken: int | None = None
        """The last position under the first wrong root."""
        self.verified = 0
        self.last: Seen | None = None

    @property
    def size(self) -> int:
        """The number of leaves so far."""
        return self._edge.size

    def key_in_force(self, key_id: str) -> None:
        """The log says that this key signs."""
        self._keys[key_id] = None

    def extend(self, positions: list[int], hashes: bytes) -> Divergence | None:
        """Add the leaves of the next events; the first divergence."""
        start = 0
        for number, position in enumerate(positions):
            leaf = hashes[number * HASH_BYTES : (number + 1) * HASH_BYTES]
            if divergence := self._against_tree(self.size + number - start, position, leaf):
                return divergence
            if self._first is None:
                self._first = position
            if self._next is not None and self.size + number + 1 - start == self._next.size:
                self._edge.extend([hashes[start * HASH_BYTES : (number + 1) * HASH_BYTES]])
                start = number + 1
                if divergence := self._checkpoint(position):
                    return divergence
        self._edge.extend([hashes[start * HASH_BYTES : len(positions) * HASH_BYTES]])
        return None

    def finish(self, last_position: int) -> Divergence | None:
        """At the end of the log: no checkpoint, and no leaf of the tree, may be left."""
        tile = self._stored(self.size // WIDTH)
        missing = tile.positions[self.size % WIDTH :]
        if missing:
            detail = f"the tree has {len(missing)} events more, the first one at position {missing[0]}"
            return Divergence(missing[0], "missing", f"the log ends at position {last_position}; {detail}")
        if self._next is not None:
            detail = f"the log has {self.size} events, and a checkpoint of more was signed"
            return Divergence(last_position, "truncated", detail, self._next.size, self.size)
        return None

    def _checkpoint(self, position: int) -> Divergence | None:
        while self._next is not None and self._next.size == self.size:
            stored = self._next
            try:
                checkpoint = self._verify(stored)
            except BadNote as error:
                return Divergence(position, "checkpoint", f"the checkpoint of size {stored.size}: {error}")
            root = self._edge.root()
            if checkpoint.root != root:
                first = position if self._first is None else self._first
                self.broken = position
                detail = f"the events from position {first} to {position} are not those that were signed"
                return Divergence(first, "root", detail, _shown(checkpoint.root), _shown(root))
            self.last = Seen(checkpoint.origin, checkpoint.size, checkpoint.root)
            self.verified += 1
            self._next = next(self._checkpoints, None)
        self._first = None
        return None

    def _verify(self, stored: StoredCheckpoint) -> Checkpoint:
        signed = read_checkpoint(stored.note.encode())
        if (signed.checkpoint.origin, signed.checkpoint.size) != (stored.origin, stored.size):
            raise BadNote("the note is of another origin or size")
        keys = [
            VerifierKey(stored.origin, Algorithm.NOTE, decode_base64url(key))
            for key in (self._keys if self._trusted is None else self._trusted)
        ]
        return verify_checkpoint(signed, keys).checkpoint

    def _against_tree(self, index: int, position: int, leaf: bytes) -> Divergence | None:
        stored = self._stored(index // WIDTH)
        place = index % WIDTH
        if len(stored.hashes) != len(stored.positions) * HASH_BYTES:
            detail = f"the tile {index // WIDTH} has {len(stored.hashes)} bytes of hashes"
            return Divergence(
                position, "leaf", detail, len(stored.positions) * HASH_BYTES, len(stored.hashes)
            )
        if place >= len(stored.positions):
            if index // WIDTH < self._last_tile:
                return Divergence(position, "leaf", "the tree goes on after the event, and does not have it")
            return None  # the notary has not come so far
        expected = stored.positions[place]
        if expected < position:
            return Divergence(
                expected, "missing", f"the tree has an event at position {expected}, the log has none"
            )
        if expected > position:
            detail = f"the log has an event at position {position}, the tree has none"
            return Divergence(position, "inserted", detail)
        hashed = stored.hashes[place * HASH_BYTES : (place + 1) * HASH_BYTES]
        if hashed != leaf:
            detail = f"the event at position {position} is not the one in the tree"
            return Divergence(position, "leaf", detail, hashed.hex(), leaf.hex())
        return None

    def _stored(self, tile: int) -> StoredLeaves:
        if self._tile[0] != tile:
            self._tile = (tile, _NONE if self._tables is None else self._tables.leaves(tile))
        return self._tile[1]

    def dump(self) -> dict[str, Any]:
        """For a file: the right edge of the tree, and the last checkpoint."""
        seen = None if self.last is None else [self.last.origin, self.last.size, self.last.root.hex()]
        partial = [base64.b64encode(tile).decode() for tile in self._edge.partial]
        return {"size": self.size, "partial": partial, "checkpoint": seen, "keys": list(self._keys)}


def check_trusted(key_ids: Collection[str]) -> None:
    """Raise ValueError unless these are public keys."""
    for key_id in key_ids:
        try:
            check_key_id(key_id)
        except EncodingError as error:
            raise ValueError(f"{key_id}: {error}") from None


def _shown(root: bytes) -> str:
    return base64.b64encode(root).decode()
