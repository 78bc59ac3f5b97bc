"""Proofs from a log of a million events: a handful of rows for each, in milliseconds."""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path

import pytest

from coordinator.application.proof.tree import StoredTree
from coordinator.crypto.log.checkpoint import Checkpoint, sign_checkpoint
from coordinator.crypto.merkle import verify_consistency, verify_inclusion
from tests.harness.notarizing import KEY, ORIGIN, NotarizedLog

LEAVES = 1_000_000
STEP = 100_000
BOUND_SECONDS = 0.010


def hash_at(index: int) -> bytes:
    return hashlib.sha256(b"%d" % index).digest()


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_a_proof_of_a_million(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Proofs from a log of 1,000,000 events verify, and take less than 10 ms of this process's time."""
    target = str(tmp_path / "c.db") if engine == "sqlite" else request.getfixturevalue("database_url")
    notarized = NotarizedLog(target, tmp_path / "checkpoint")
    try:
        notarized.start(notarized.notary())
        tree = StoredTree.empty()
        for start in range(0, LEAVES, STEP):
            indices = range(start, start + STEP)
            rows = tree.append([hash_at(n) for n in indices], [2 * n + 1 for n in indices])  # with gaps
            with notarized.database.transaction() as tables:
                tables.put("merkle_tiles", rows)
        root = tree.edge.root()
        signed = sign_checkpoint(KEY, Checkpoint(ORIGIN, LEAVES, root))
        row = {"origin": ORIGIN, "size": LEAVES, "root": root, "position": 2 * LEAVES - 1, "signed_at": 0}
        with notarized.database.transaction() as tables:
            tables.put("checkpoints", [{**row, "note": signed.text}])
        proofs, took = notarized.proofs, list[float]()
        random.seed(3)
        for index in (0, LEAVES - 1, *random.sample(range(LEAVES), 40)):
            begun = time.process_time()
            proof, _ = proofs.inclusion(2 * index + 1)
            took.append(time.process_time() - begun)
            assert (index, hash_at(index)) == (proof.index, proof.leaf_hash)
            assert verify_inclusion(proof.leaf_hash, index, LEAVES, proof.path, root)
        for old in (1, 999_999, 123_457):
            _, path, _ = proofs.consistency(old)
            before = StoredTree.empty()
            before.append([hash_at(n) for n in range(old)], list(range(old)))
            assert verify_consistency(old, LEAVES, path, before.edge.root(), root)
    finally:
        notarized.close()
    assert sorted(took)[len(took) // 2] < BOUND_SECONDS
