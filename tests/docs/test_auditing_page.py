"""The code on the page for auditors does what it says: a leaf and a path, with nothing of ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from coordinator.crypto.log.leaf import hash_of
from coordinator.crypto.log.tiles import TreeEdge, inclusion_path

PAGE = Path(__file__).parents[2] / "docs" / "auditing.md"


def functions() -> dict[str, Any]:
    """What the Python blocks of the page define."""
    defined: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    for block in blocks:
        exec(block, defined)
    assert 2 == len(blocks)
    return defined


def test_the_leaf_of_the_page_is_the_leaf_of_the_log() -> None:
    """The ten lines hash small and large events as the notary does."""
    leaf_hash = functions()["leaf_hash"]
    for state in (b'{"at":1}', b'{"a":"' + b"x" * 60_000 + b'"}'):
        parts = (
            17,
            "018f4c5e-7d30-7c3a-9a4f-000000000001",
            2,
            "job.submitted.v1",
            b'{"command_id":"c"}',
            state,
        )
        assert hash_of(*parts) == leaf_hash(*parts)


def test_the_path_of_the_page_leads_to_the_root() -> None:
    """The loop on the page folds the path of each leaf of trees of up to 70 leaves to the root."""
    made = functions()
    leaf_hash, root_from_path = made["leaf_hash"], made["root_from_path"]
    hashes = [leaf_hash(n + 1, "s", 1, "a.b.v1", b"{}", b"{}") for n in range(70)]
    for size in (1, 2, 3, 31, 64, 70):
        edge = TreeEdge()
        tiles = edge.extend(hashes[:size])
        for index in range(size):
            path = inclusion_path(tiles, index, size)
            assert edge.root() == root_from_path(hashes[index], index, size, path)
