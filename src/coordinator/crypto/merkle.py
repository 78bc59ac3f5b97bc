"""Merkle trees by RFC 6962: roots, inclusion and consistency proofs, and their verification.

A proof names ranges of leaves. Each range is a row of perfect subtrees, so a store with some nodes of the
tree (such as `crypto.log.tiles`) answers any proof with a few of them. Verification needs no store.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""
MAX_PROOF: Final = 64
"""More hashes than any proof has for a tree of less than 2**63 leaves."""
_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


class Range(NamedTuple):
    """The leaves `start`, …, `end - 1`; `start` is a multiple of the largest subtree, as in every proof."""

    start: int
    end: int


class Node(NamedTuple):
    """The perfect subtree over the leaves from `number * 2**height` on."""

    height: int
    number: int


# --- hashes ------------------------------------------------------------------------------------------------
def leaf_hash(content: bytes) -> bytes:
    """The hash of a leaf (RFC 6962, section 2.1)."""
    return hashlib.sha256(_LEAF + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node; the prefix tells it from a leaf."""
    return hashlib.sha256(_NODE + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root over these leaf hashes."""
    if not hashes:
        return EMPTY_ROOT
    level = list(hashes)
    # Pairing from the left and passing an odd last node up builds the same tree as the RFC's split at the
    # largest power of two.
    while len(level) > 1:
        level = _pairs(level)
    return level[0]


def root_and_paths(leaves: Sequence[bytes]) -> tuple[bytes, list[list[bytes]]]:
    """The root over these leaf hashes, and each leaf's audit path, from the bottom up (RFC 6962, 2.1.1).

    Raises ValueError without leaves.
    """
    if not leaves:
        raise ValueError("a tree has at least one leaf")
    paths: list[list[bytes]] = [[] for _ in leaves]
    places = list(range(len(leaves)))
    level = list(leaves)
    while len(level) > 1:
        for leaf, place in enumerate(places):
            sibling = place ^ 1
            if sibling < len(level):
                paths[leaf].append(level[sibling])
            places[leaf] = place // 2
        level = _pairs(level)
    return level[0], paths


def _pairs(level: list[bytes]) -> list[bytes]:
    sha256 = hashlib.sha256
    pairs = [sha256(_NODE + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
    return [*pairs, level[-1]] if len(level) % 2 else pairs


# --- the parts of a proof ----------------------------------------------------------------------------------
def inclusion_ranges(index: int, size: int) -> list[Range]:
    """The ranges whose roots prove leaf `index` in a tree of `size`, from the bottom up (RFC 6962, 2.1.1).

    Raises ValueError unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ValueError("the index is not in the tree")
    found, start, end = [], 0, size
    while end - start > 1:
        middle = start + _largest_power_below(end - start)
        if index < middle:
            found.append(Range(middle, end))
            end = middle
        else:
            found.append(Range(start, middle))
            start = middle
    return found[::-1]


def consistency_ranges(old: int, size: int) -> list[Range]:
    """The ranges whose roots prove that the tree of `size` begins with the tree of `old` (RFC 6962, 2.1.2).

    None for `old` 0 or `size`. Raises ValueError unless 0 <= old <= size.
    """
    if not 0 <= old <= size:
        raise ValueError("a tree only grows")
    found: list[Range] = []
    start, end = 0, size
    if old in (0, size):
        return found
    while old < end:
        middle = start + _largest_power_below(end - start)
        if old <= middle:
            found.append(Range(middle, end))
            end = middle
        else:
            found.append(Range(start, middle))
            start = middle
    if start > 0:  # otherwise it is the old root, which the verifier has
        found.append(Range(start, end))
    return found[::-1]


def perfect_nodes(leaves: Range) -> Iterator[Node]:
    """The perfect subtrees of a range, from the left; its root is `join` of their hashes."""
    start = leaves.start
    while start < leaves.end:
        height = (leaves.end - start).bit_length() - 1
        yield Node(height, start >> height)
        start += 1 << height


def join(hashes: Sequence[bytes]) -> bytes:
    """The root over perfect subtrees of falling size, from the left."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def _largest_power_below(number: int) -> int:
    return 1 << ((number - 1).bit_length() - 1)


# --- verification ------------------------------------------------------------------------------------------
def root_of_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that a path leads to from the leaf hash at `index` of `size`; None for an invalid path.

    RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return None
    place, last, root = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if place & 1 or place == last:
            root = node_hash(sibling, root)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        place, last = place >> 1, last >> 1
    return root if last == 0 else None


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether the path proves that the leaf with this hash is at `index` of the tree with this root."""
    return root_of_path(leaf, index, size, path) == root


def verify_consistency(old: int, size: int, path: Sequence[bytes], old_root: bytes, root: bytes) -> bool:
    """Whether the path proves that the tree of `size` with `root` begins with the one of `old`.

    RFC 9162, section 2.1.4.2. A tree without leaves is the beginning of any other.
    """
    if not 0 <= old <= size:
        return False
    if old == size:
        return not path and old_root == root
    if old == 0:
        return not path and old_root == EMPTY_ROOT
    hashes = list(path)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        return False
    place, last = old - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    first = second = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        place, last = place >> 1, last >> 1
    return first == old_root and second == root and last == 0
