"""Merkle trees: the reference values of Certificate Transparency, and paths for every leaf of every size."""

import pytest

from coordinator.crypto.merkle import leaf_hash, root_and_paths, root_of_path
from tests.harness.cases import every

# From the test data of Certificate Transparency's own implementation.
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
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


@every("size", range(1, 9))
def test_roots_are_those_of_the_reference(size: int) -> None:
    """The first leaves of the reference data give the published roots."""
    root, _ = root_and_paths([leaf_hash(leaf) for leaf in LEAVES[:size]])
    assert ROOTS[size - 1] == root.hex()


@every("size", [*range(1, 34), 100])
def test_every_path_leads_to_the_root_from_its_own_place_only(size: int) -> None:
    """Each leaf's path gives the root at its index, and at no other, nor for another leaf or size."""
    leaves = [leaf_hash(bytes([number])) for number in range(size)]
    root, paths = root_and_paths(leaves)
    for index, path in enumerate(paths):
        assert root == root_of_path(leaves[index], index, size, path)
        others = [i for i in (*range(size), size, -1) if i != index]
        assert root not in {root_of_path(leaves[index], other, size, path) for other in others}
        assert root != root_of_path(leaf_hash(b"another"), index, size, path)
        assert root_of_path(leaves[index], index, size, [*path, root]) is None
        if path:
            assert root != root_of_path(leaves[index], index, size, path[:-1])


def test_a_node_is_no_leaf() -> None:
    """The two children's hashes, taken for one leaf's content, give another root."""
    left, right = leaf_hash(b"1"), leaf_hash(b"2")
    root, _ = root_and_paths([left, right])
    assert root != root_and_paths([leaf_hash(left + right)])[0]


def test_no_leaves_have_no_root() -> None:
    """An empty tree is refused rather than given a root that nothing leads to."""
    with pytest.raises(ValueError, match="at least one leaf"):
        root_and_paths([])
