"""The coordinator dies while it signs, and a backup takes the log's place: it never signs two histories."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from coordinator.application.proof.leaves import leaf_hashes
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.log.checkpoint import Checkpoint, log_key, read_checkpoint, verify_checkpoint
from coordinator.crypto.log.leaf import read_leaf
from coordinator.crypto.merkle import leaf_hash, root_of, verify_consistency
from coordinator.storage.log.postgres import PostgresEventLog
from coordinator.storage.log.sqlite import SqliteEventLog
from tests.harness.stage import ROOT, SIGNING_SEED, Stage
from tests.harness.waiting import eventually

KEY = SigningKey.from_hex(SIGNING_SEED)
ORIGIN = "example.com/log"


def get(stage: Stage, path: str, key: str | None = None) -> bytes:
    headers = {} if key is None else {"X-Api-Key": key}
    request = urllib.request.Request(f"{stage.urls['main']}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        content: bytes = answer.read()
        return content


def checkpoint(stage: Stage) -> Checkpoint:
    signed = read_checkpoint(get(stage, "/checkpoint"))
    return verify_checkpoint(signed, [log_key(KEY, ORIGIN)]).checkpoint


def all_hashes(source: str | Path) -> list[bytes]:
    log = PostgresEventLog(str(source)) if isinstance(source, str) else SqliteEventLog(source)
    with closing(log):
        return leaf_hashes(log.read(0, 100_000))


async def submit(stage: Stage, count: int, first: int = 0, pause: float = 0.0) -> None:
    async with stage.client(tries=60) as client:
        for n in range(first, first + count):
            await client.submit("checksum", {"text": f"{n}"}, idempotency_key=f"job-{n}")
            await asyncio.sleep(pause)


async def signed_all(stage: Stage, source: str | Path) -> Checkpoint:
    """The checkpoint once it covers the whole log."""
    await eventually(lambda: checkpoint(stage).size == len(all_hashes(source)), "a checkpoint of all events")
    return checkpoint(stage)


@pytest.mark.parametrize("mode", ["embedded", "standard"])
async def test_killed_between_the_file_and_the_tables(
    tmp_path: Path, mode: str, request: pytest.FixtureRequest
) -> None:
    """Killed with a checkpoint signed and not stored, and started again: one history, which has it."""
    urls: dict[str, Any] = {}
    if mode == "standard":
        urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    with Stage(tmp_path, log_origin=ORIGIN, **urls) as stage:
        doomed = stage.coordinator(dies=("in-checkpoint", 2))
        source = urls.get("database_url") or tmp_path / "data-main" / "coordinator.db"
        submitting = asyncio.create_task(submit(stage, 12, pause=0.4))
        await eventually(lambda: doomed.ended is not None, "its death")
        assert -signal.SIGKILL == doomed.ended
        lost = read_checkpoint((tmp_path / "data-main" / "checkpoint").read_bytes()).checkpoint
        stage.coordinator()
        await submitting
        await stage.ready()
        now = await signed_all(stage, source)
        hashes = all_hashes(source)

        assert Checkpoint(ORIGIN, len(hashes), root_of(hashes)) == now
        assert root_of(hashes[: lost.size]) == lost.root
        proof = json.loads(get(stage, f"/v1/proofs/consistency?from={lost.size}&to={now.size}"))
        path = [bytes.fromhex(text) for text in proof["path"]]
        assert verify_consistency(lost.size, now.size, path, lost.root, now.root)


async def test_a_restored_data_base_stops_the_notary(tmp_path: Path) -> None:
    """With an older copy of the database /health is red, until an operator decides on a new name."""
    data = tmp_path / "data-main"
    with Stage(tmp_path) as stage:
        first = stage.coordinator(log_origin=ORIGIN)
        await stage.ready()
        await submit(stage, 5)
        await signed_all(stage, data / "coordinator.db")
        first.stop()
        shutil.copy(data / "coordinator.db", tmp_path / "copy.db")
        second = stage.coordinator(log_origin=ORIGIN)
        await stage.ready()
        await submit(stage, 5, first=5)
        before = await signed_all(stage, data / "coordinator.db")
        second.stop()
        for name in ("coordinator.db-wal", "coordinator.db-shm"):
            (data / name).unlink(missing_ok=True)
        shutil.copy(tmp_path / "copy.db", data / "coordinator.db")

        third = stage.coordinator(log_origin=ORIGIN)
        await eventually(lambda: any("LogWentBack" in r for r in stage.health()["reasons"]), "a red health")
        [reason] = [r for r in stage.health()["reasons"] if r.startswith("notary")]
        assert f"has its checkpoint of {before.size}" in reason
        assert "coordinator log continue-as NEW_ORIGIN" in reason
        assert checkpoint(stage).size < before.size
        third.stop()
        stage.continue_as("example.com/two")

        stage.coordinator()
        await stage.ready()
        again = await eventually(lambda: get(stage, "/checkpoint"), "the first checkpoint of the new name")
        signed = read_checkpoint(again)
        hashes = all_hashes(data / "coordinator.db")
        assert "example.com/two" == signed.checkpoint.origin
        assert root_of(hashes[: signed.checkpoint.size]) == signed.checkpoint.root
        bundle = get(stage, "/tile/entries/000.p/3", ROOT)
        length = int.from_bytes(bundle[:2], "big")
        assert hashes[0] == leaf_hash(bundle[2 : 2 + length])
        assert 1 == read_leaf(bundle[2 : 2 + length]).position
