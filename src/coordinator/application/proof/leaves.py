"""The leaves of stored events, and their positions in packed form."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from coordinator.application.ports import EventLog, Recorded, Row
from coordinator.application.proof.errors import LeavesDiffer
from coordinator.crypto.log.leaf import BadLeaf, leaf
from coordinator.crypto.log.tiles import WIDTH, hashes_in

POSITION_BYTES: Final = 8


class LeafTile(NamedTuple):
    """A tile of leaves: the hashes, and the positions of the events."""

    number: int
    hashes: Sequence[bytes]
    positions: Sequence[int]

    @classmethod
    def of(cls, row: Row) -> LeafTile:
        """The tile of a row of `merkle_tiles`."""
        return cls(row["tile"], hashes_in(row["hashes"]), unpack_positions(row["positions"]))

    @property
    def first_index(self) -> int:
        return self.number * WIDTH


def leaf_of(recorded: Recorded) -> bytes:
    """The leaf of an event, from its stored bytes. Raises BadLeaf."""
    topic, state = recorded.original or (recorded.event.topic, recorded.data)
    return leaf(recorded.position, recorded.key, recorded.version, topic, recorded.metadata_json, state)


def leaf_hashes(events: Sequence[Recorded]) -> list[bytes]:
    """The hashes of the events' leaves. Raises BadLeaf."""
    return [sha256(b"\x00" + leaf_of(recorded)).digest() for recorded in events]


def pack_positions(positions: Sequence[int]) -> bytes:
    """The positions, 8 bytes each, the highest first."""
    return struct.pack(f">{len(positions)}q", *positions)


def unpack_positions(packed: bytes) -> Sequence[int]:
    """See `pack_positions`."""
    return struct.unpack(f">{len(packed) // POSITION_BYTES}q", packed)


def read_leaves(event_log: EventLog, tile: LeafTile) -> list[bytes]:
    """The leaves of a tile from the log. Raises LeavesDiffer unless they have the tile's hashes; LogError."""
    if not tile.positions:
        return []
    events = event_log.read(tile.positions[0] - 1, len(tile.positions))
    first = tile.first_index
    found = [event.position for event in events]
    if found != list(tile.positions):
        place = next(
            (n for n, (a, b) in enumerate(zip(found, tile.positions, strict=False)) if a != b), len(found)
        )
        raise LeavesDiffer(
            first + place,
            f"expected the event at position {tile.positions[min(place, len(tile.positions) - 1)]}",
        )
    leaves = []
    for number, (event, expected) in enumerate(zip(events, tile.hashes, strict=True)):
        try:
            content = leaf_of(event)
        except BadLeaf as error:
            raise LeavesDiffer(first + number, f"position {event.position}: {error}") from None
        if sha256(b"\x00" + content).digest() != expected:
            raise LeavesDiffer(first + number, f"the event at position {event.position} was changed")
        leaves.append(content)
    return leaves
