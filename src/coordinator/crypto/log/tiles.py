"""The Merkle tree in tiles of 256 hashes (C2SP tlog-tiles): the form that is stored and served.

A tile at level 0 has leaf hashes; one at level 1 the roots of full tiles at level 0, and so on. Full tiles
never change. Each node of the tree is computed from one tile.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from coordinator.crypto.merkle import (
    HASH_BYTES,
    Node,
    Range,
    consistency_ranges,
    inclusion_ranges,
    join,
    perfect_nodes,
    root_of,
)

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
"""Hashes in a full tile."""
FULL_BYTES: Final = WIDTH * HASH_BYTES
_PATH: Final = re.compile(r"((?:x[0-9]{3}/){0,5})([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


class BadTile(ValueError):
    """A tile's path is malformed, or a tile is missing or too short for what is asked."""


class Tile(NamedTuple):
    """The place of a tile."""

    level: int
    number: int

    def width_in(self, size: int) -> int:
        """The number of its hashes in a tree of `size` leaves: 0 to 256."""
        return min(WIDTH, max(0, (size >> (HEIGHT * self.level)) - self.number * WIDTH))


# --- paths -------------------------------------------------------------------------------------------------
def tile_path(number: int, width: int = WIDTH) -> str:
    """The last part of a tile's URL, such as `x001/x234/067` or `000.p/17`."""
    parts = [f"{number % 1000:03}"]
    while number >= 1000:
        number //= 1000
        parts.append(f"x{number % 1000:03}")
    return "/".join(reversed(parts)) + ("" if width == WIDTH else f".p/{width}")


def read_tile_path(path: str) -> tuple[int, int]:
    """The number and the width of a tile. Raises BadTile unless `tile_path` would write this path."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise BadTile("a tile's path is like x001/x234/067, or 000.p/17 for a partial tile")
    number = int(found[1].replace("x", "").replace("/", "") + found[2])
    width = WIDTH if found[3] is None else int(found[3])
    if (found[3] is not None and width >= WIDTH) or tile_path(number, width) != path:
        raise BadTile("a tile's path has no additional zeros, and a partial tile has 1 to 255 hashes")
    return number, width


# --- hashes from tiles -------------------------------------------------------------------------------------
def tile_of(node: Node) -> tuple[Tile, int, int]:
    """The tile of a node, and the first and the number of its hashes below the node."""
    level, height = divmod(node.height, HEIGHT)
    first = node.number << height
    return Tile(level, first >> HEIGHT), first % WIDTH, 1 << height


def tiles_of(ranges: Iterable[Range]) -> set[Tile]:
    """The tiles from which the roots of these ranges are computed."""
    return {tile_of(node)[0] for leaves in ranges for node in perfect_nodes(leaves)}


def hashes_in(tile: bytes) -> list[bytes]:
    """The hashes of a tile."""
    return [tile[i : i + HASH_BYTES] for i in range(0, len(tile), HASH_BYTES)]


def range_root(tiles: Mapping[Tile, bytes], leaves: Range) -> bytes:
    """The root over a range of leaves. Raises BadTile if a tile is missing or too short."""
    return join([_node_root(tiles, node) for node in perfect_nodes(leaves)])


def _node_root(tiles: Mapping[Tile, bytes], node: Node) -> bytes:
    tile, first, count = tile_of(node)
    content = tiles.get(tile, b"")[first * HASH_BYTES : (first + count) * HASH_BYTES]
    if len(content) != count * HASH_BYTES:
        raise BadTile(f"tile {tile_path(tile.number)} of level {tile.level} is missing or too short")
    return root_of(hashes_in(content))


def root_at(tiles: Mapping[Tile, bytes], size: int) -> bytes:
    """The root of the tree's first `size` leaves; needs `tiles_of([Range(0, size)])`. Raises BadTile."""
    return range_root(tiles, Range(0, size))


def inclusion_path(tiles: Mapping[Tile, bytes], index: int, size: int) -> list[bytes]:
    """The inclusion proof; needs `tiles_of(inclusion_ranges(index, size))`. Raises BadTile, ValueError."""
    return [range_root(tiles, leaves) for leaves in inclusion_ranges(index, size)]


def consistency_path(tiles: Mapping[Tile, bytes], old: int, size: int) -> list[bytes]:
    """The consistency proof; needs `tiles_of(consistency_ranges(old, size))`. Raises BadTile, ValueError."""
    return [range_root(tiles, leaves) for leaves in consistency_ranges(old, size)]


class TreeEdge:
    """The right edge of a growing tree: its partial tiles. All that appending needs."""

    def __init__(self, size: int = 0, partial: Sequence[bytes] = ()) -> None:
        """`partial`: the partial tile of each level from 0 on, empty where there is none. Raises BadTile."""
        self.size = size
        self._partial = [bytearray(tile) for tile in partial]
        for level in range(max(len(self._partial), (size.bit_length() + HEIGHT - 1) // HEIGHT)):
            found = len(self._partial[level]) if level < len(self._partial) else 0
            if found != self._partial_tile(level).width_in(size) * HASH_BYTES:
                raise BadTile(f"the last tile of level {level} does not fit a tree of {size} leaves")

    @property
    def partial(self) -> list[bytes]:
        """The partial tile of each level, from which a `TreeEdge` of this size can be made again."""
        return [bytes(tile) for tile in self._partial]

    def extend(self, hashes: Iterable[bytes]) -> dict[Tile, bytes]:
        """Append leaf hashes; the tiles that changed, with their whole content."""
        changed: dict[Tile, bytes] = {}
        new = b"".join(hashes)
        if len(new) % HASH_BYTES:
            raise ValueError(f"a hash has {HASH_BYTES} bytes")
        level, before = 0, self.size
        self.size += len(new) // HASH_BYTES
        while new:
            if level == len(self._partial):
                self._partial.append(bytearray())
            content = bytes(self._partial[level]) + new
            number = (before >> (HEIGHT * level)) >> HEIGHT
            roots = []
            for start in range(0, len(content), FULL_BYTES):
                tile = content[start : start + FULL_BYTES]
                changed[Tile(level, number)] = tile
                number += 1
                if len(tile) == FULL_BYTES:
                    roots.append(root_of(hashes_in(tile)))
            self._partial[level] = bytearray(content[len(roots) * FULL_BYTES :])
            new, level = b"".join(roots), level + 1
        return changed

    def root(self) -> bytes:
        """The root of the tree."""
        tiles = {self._partial_tile(level): bytes(tile) for level, tile in enumerate(self._partial)}
        return root_at(tiles, self.size)

    def _partial_tile(self, level: int) -> Tile:
        return Tile(level, self.size >> (HEIGHT * (level + 1)))
