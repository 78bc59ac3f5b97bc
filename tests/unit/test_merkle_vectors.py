"""Merkle trees against the published vectors of RFC 6962, and tiles against the definition of the tree."""

from __future__ import annotations

import hashlib
import random
from itertools import pairwise

import pytest

from coordinator.crypto.log.tiles import (
    FULL_BYTES,
    BadTile,
    Tile,
    TreeEdge,
    consistency_path,
    inclusion_path,
    read_tile_path,
    root_at,
    tile_path,
    tiles_of,
)
from coordinator.crypto.merkle import (
    EMPTY_ROOT,
    Range,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from tests.harness.cases import every

# The tree of Certificate Transparency's own tests (certificate-transparency, merkle_tree_test.cc).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
HASHES = [leaf_hash(leaf) for leaf in LEAVES]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): INCLUSION[(0, 8)],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def grown(hashes: list[bytes], *steps: int) -> tuple[TreeEdge, dict[Tile, bytes]]:
    """A tree that grew in these steps, and its tiles."""
    edge, tiles = TreeEdge(), dict[Tile, bytes]()
    for start, end in pairwise((0, *steps, len(hashes))):
        tiles |= edge.extend(hashes[start:end])
    return edge, tiles


def mth(hashes: list[bytes]) -> bytes:
    """The root as RFC 6962, section 2.1 defines it."""
    if len(hashes) < 2:
        return hashes[0] if hashes else hashlib.sha256(b"").digest()
    split = 1
    while 2 * split < len(hashes):
        split *= 2
    return hashlib.sha256(b"\x01" + mth(hashes[:split]) + mth(hashes[split:])).digest()


@every("size", range(9))
def test_the_published_roots(size: int) -> None:
    """The roots of the published tree are the published ones, from leaves and from tiles."""
    edge, tiles = grown(HASHES[:size])

    assert ROOTS[size] == root_of(HASHES[:size]).hex() == edge.root().hex() == root_at(tiles, size).hex()


def test_the_published_proofs() -> None:
    """The proofs of the published tree are the published ones, and verify."""
    _, tiles = grown(HASHES)

    for (index, size), path in INCLUSION.items():
        found = inclusion_path(tiles, index, size)
        assert path == [h.hex() for h in found]
        assert verify_inclusion(HASHES[index], index, size, found, bytes.fromhex(ROOTS[size]))
    for (old, size), path in CONSISTENCY.items():
        found = consistency_path(tiles, old, size)
        assert path == [h.hex() for h in found]
        roots = bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[size])
        assert verify_consistency(old, size, found, *roots)


def test_every_proof_of_small_trees_verifies_and_no_other() -> None:
    """All inclusion and consistency proofs up to 40 leaves verify; with any change they do not."""
    hashes = [leaf_hash(b"%d" % n) for n in range(40)]
    _, tiles = grown(hashes)
    roots = [mth(hashes[:n]) for n in range(41)]
    for size in range(1, 41):
        for index in range(size):
            path = inclusion_path(tiles, index, size)
            assert verify_inclusion(hashes[index], index, size, path, roots[size])
            assert not verify_inclusion(hashes[index - 1], index, size, path, roots[size]) or size == 1
            assert not verify_inclusion(hashes[index], index, size, [*path, roots[1]], roots[size])
            assert not path or not verify_inclusion(hashes[index], index, size, path[:-1], roots[size])
        for old in range(size + 1):
            path = consistency_path(tiles, old, size)
            assert verify_consistency(old, size, path, roots[old], roots[size])
            assert not verify_consistency(old, size, [*path, roots[1]], roots[old], roots[size])
            wrong = roots[(old + 1) % 41]
            assert not verify_consistency(old, size, path, wrong, roots[size])
            for place in range(len(path)):
                changed = [*path[:place], EMPTY_ROOT, *path[place + 1 :]]
                assert not verify_consistency(old, size, changed, roots[old], roots[size])


def test_a_tree_of_many_tiles() -> None:
    """70,000 leaves make the tiles that C2SP tlog-tiles lists, however they arrived, and the same root."""
    random.seed(7)
    hashes = [leaf_hash(b"%d" % n) for n in range(70_000)]
    edge, tiles = grown(hashes, *sorted(random.sample(range(70_000), 40)))

    by_level: dict[int, list[int]] = {}
    for tile, content in tiles.items():
        by_level.setdefault(tile.level, []).append(len(content))
    assert {0: 273 * [FULL_BYTES] + [112 * 32], 1: [FULL_BYTES, 17 * 32], 2: [32]} == {
        level: sorted(widths, reverse=True) for level, widths in by_level.items()
    }
    assert mth(hashes) == edge.root()
    for index, size in ((0, 70_000), (65_535, 70_000), (69_999, 70_000), (300, 65_536), (12_345, 54_321)):
        needed = {tile: tiles[tile] for tile in tiles_of(inclusion_ranges(index, size))}
        path = inclusion_path(needed, index, size)
        assert verify_inclusion(hashes[index], index, size, path, mth(hashes[:size]))
    for old, size in ((1, 70_000), (65_536, 70_000), (65_537, 70_000), (256, 65_536), (54_321, 69_999)):
        needed = {tile: tiles[tile] for tile in tiles_of(consistency_ranges(old, size))}
        path = consistency_path(needed, old, size)
        assert verify_consistency(old, size, path, mth(hashes[:old]), mth(hashes[:size]))


def test_the_edge_goes_on_from_its_stored_tiles() -> None:
    """A tree grows on from its last tiles alone, and refuses tiles that do not fit its size."""
    hashes = [leaf_hash(b"%d" % n) for n in range(1000)]
    _, tiles = grown(hashes[:700])
    edge = TreeEdge(700, [tiles[Tile(0, 2)], tiles[Tile(1, 0)]])
    tiles |= edge.extend(hashes[700:])

    assert mth(hashes) == edge.root() == root_at(tiles, 1000)
    assert 1000 == edge.size
    for partial in ([], [tiles[Tile(0, 2)][32:], tiles[Tile(1, 0)]], [tiles[Tile(0, 2)]]):
        with pytest.raises(BadTile):
            TreeEdge(700, partial)


def test_a_missing_tile_is_an_error() -> None:
    """A root that needs a missing or a too short tile raises, instead of hashing what is there."""
    _, tiles = grown([leaf_hash(b"%d" % n) for n in range(300)])
    with pytest.raises(BadTile):
        root_at({Tile(0, 1): tiles[Tile(0, 1)]}, 300)
    with pytest.raises(BadTile):
        root_at(tiles, 301)


def test_ranges_of_a_proof_refuse_places_outside_of_the_tree() -> None:
    """There is no proof for an index beyond the tree, or from a larger tree to a smaller one."""
    for index, size in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(ValueError):
            inclusion_ranges(index, size)
    for old, size in ((4, 3), (-1, 3)):
        with pytest.raises(ValueError):
            consistency_ranges(old, size)
    assert {Tile(0, 0)} == tiles_of([Range(0, 1)])


@every("number, width, path", [(1234067, 256, "x001/x234/067"), (0, 17, "000.p/17"), (255, 256, "255")])
def test_a_tiles_path(number: int, width: int, path: str) -> None:
    """A tile's number is written in groups of three digits; a partial tile names its width."""
    assert path == tile_path(number, width)
    assert (number, width) == read_tile_path(path)


@every(
    "path",
    [
        "0",
        "67",
        "001/234",
        "x000/001",
        "000.p/0",
        "000.p/256",
        "000.p/017",
        "x1/000",
        "",
        "000/",
        "../000",
        "٣٣٣",
    ],
)
def test_another_spelling_of_a_tiles_path_is_refused(path: str) -> None:
    """Each tile has one path: no other number of zeros, no full tile as a partial one."""
    with pytest.raises(BadTile):
        read_tile_path(path)
