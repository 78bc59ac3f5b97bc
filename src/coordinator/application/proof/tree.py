"""The stored tree: tiles read from their table, and rows made of tiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from coordinator.application.ports import Row, Tables
from coordinator.application.proof.leaves import pack_positions, unpack_positions
from coordinator.crypto.log.tiles import FULL_BYTES, WIDTH, Tile, TreeEdge, root_at, tiles_of
from coordinator.crypto.merkle import HASH_BYTES, Range

NO_POSITION = -1
"""`first_position` of a tile above level 0."""


class StoredTree:
    """The right edge of the stored tree, with the positions of its last leaves."""

    def __init__(self, edge: TreeEdge, positions: Sequence[int]) -> None:
        self.edge = edge
        self._positions = list(positions)
        """Those of the partial tile of leaves."""

    @classmethod
    def empty(cls) -> StoredTree:
        """A tree without leaves."""
        return cls(TreeEdge(), ())

    @classmethod
    def load(cls, tables: Tables) -> StoredTree:
        """The tree as it is stored. Raises BadTile if its tiles do not fit each other."""
        partial: list[bytes] = []
        size, positions = 0, list[int]()
        while rows := tables.query("proof_last_tile", level=len(partial)):
            row, level = rows[0], len(partial)
            content = bytes(row["hashes"])
            if level == 0:
                size = row["tile"] * WIDTH + len(content) // HASH_BYTES
                positions = list(unpack_positions(row["positions"]))
            partial.append(b"" if len(content) == FULL_BYTES else content)
        if size % WIDTH == 0:
            positions = []
        return cls(TreeEdge(size, partial), positions)

    @property
    def size(self) -> int:
        return self.edge.size

    def append(self, hashes: Sequence[bytes], positions: Sequence[int]) -> list[Row]:
        """Append leaves; the rows of the tiles that changed."""
        number = self.size // WIDTH
        changed = self.edge.extend(hashes)
        pending = self._positions + list(positions)
        by_tile = {number + n: pending[n * WIDTH : (n + 1) * WIDTH] for n in range(len(pending) // WIDTH + 1)}
        self._positions = by_tile[self.size // WIDTH]
        return [_row(tile, content, by_tile) for tile, content in changed.items()]


def _row(tile: Tile, content: bytes, positions: Mapping[int, Sequence[int]]) -> Row:
    leaves = positions[tile.number] if tile.level == 0 else ()
    return {
        "level": tile.level,
        "tile": tile.number,
        "hashes": content,
        "positions": pack_positions(leaves),
        "first_position": leaves[0] if leaves else NO_POSITION,
    }


def read_tiles(tables: Tables, wanted: Iterable[Tile]) -> dict[Tile, bytes]:
    """These tiles, as far as they are stored; one query for each level."""
    by_level: dict[int, list[int]] = {}
    for tile in wanted:
        by_level.setdefault(tile.level, []).append(tile.number)
    return {
        Tile(level, row["tile"]): bytes(row["hashes"])
        for level, numbers in by_level.items()
        for row in tables.query("proof_tiles", level=level, tiles=numbers)
    }


def stored_root(tables: Tables, size: int) -> bytes:
    """The root of the stored tree's first `size` leaves. Raises BadTile if it has fewer."""
    return root_at(read_tiles(tables, tiles_of([Range(0, size)])), size)
