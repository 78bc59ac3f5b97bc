"""`coordinator restore` to a moment before the loss, on real servers, while miners run on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from coordinator.dev.servers import PostgresServer
from tests.harness.executor import SERVICE
from tests.harness.processes import as_settings
from tests.harness.stage import SIGNING_SEED, Stage
from tests.harness.waiting import eventually

QUICK_SILENCE: dict[str, Any] = {"heartbeat_interval_seconds": 0.5, "heartbeat_timeout_seconds": 3.0}


def run(stage: Stage, *arguments: str) -> tuple[int | None, dict[str, Any]]:
    """An operator's command with the coordinator's settings: its exit code, and what it printed."""
    given: dict[str, object] = {
        "data_dir": stage.folder / "data-main",
        "blob_store": stage.folder / "blobs",
        "receipt_signing_key_hex": SIGNING_SEED,
    }
    if stage.database_url:
        given |= {"database_url": stage.database_url, "amqp_url": stage.amqp_url}
    process = stage.command(*arguments, "--json", **as_settings(given))
    code = process.wait()
    lines = [line for line in process.tail().splitlines() if line.startswith("{")]
    return code, json.loads(lines[-1])


def empty(server: PostgresServer, url: str) -> None:
    """The database is lost: a new one has its place."""
    name = urlsplit(url).path[1:]
    with psycopg.connect(server.url, autocommit=True) as connection:
        for statement in (f"DROP DATABASE {name} WITH (FORCE)", f"CREATE DATABASE {name}"):
            connection.execute(statement.encode())


async def test_a_restore_to_a_moment_while_miners_run_on(
    tmp_path: Path, postgres: PostgresServer, database_url: str, amqp_url: str
) -> None:
    """Leases that the log lost, results of jobs that it does not know: all jobs end once, paid once."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url, **QUICK_SILENCE) as stage:
        coordinator = stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        stage.miner("rig1")
        stage.miner("rig2", transport="http")
        await stage.registered("rig1", "rig2")
        copy = tmp_path / "copy"
        async with stage.rpc() as rpc:
            before = [await stage.submit(rpc, f"before-{n}", payload={"text": "x"}) for n in range(4)]
            await stage.ended(before)
            held = await stage.submit(rpc, "held", payload={"until": "restored"})
            await stage.noted(f"begun-{held}-1")
            code, first = await asyncio.to_thread(run, stage, "backup", str(copy))
            assert (0, False) == (code, first["private_key"])
            moment = first["position"]
            # After the moment: jobs that end, and one that begins and that the restored log does not know.
            after = [await stage.submit(rpc, f"after-{n}", payload={"text": "y"}) for n in range(4)]
            await stage.ended(after)
            async with stage.client() as client:
                await client.job(before[0]).erase("asked to be forgotten")
            unknown = await stage.submit(rpc, "unknown", payload={"until": "restored"})
            await stage.noted(f"begun-{unknown}-1")
            code, second = await asyncio.to_thread(run, stage, "backup", str(copy))
            assert (0, 2) == (code, second["parts"])
            coordinator.kill()
            stage.release("restored")  # both miners report, to nobody yet
            await asyncio.to_thread(empty, postgres, database_url)

            code, refused = await asyncio.to_thread(run, stage, "restore", str(copy), "--at", str(moment))
            assert (3, "HISTORY_SIGNED") == (code, refused["code"])
            code, done = await asyncio.to_thread(
                run,
                stage,
                *("restore", str(copy), "--at", str(moment)),
                *("--continue-as", "example.com/restored", "--reason", "the disk was lost"),
            )
            assert (0, moment) == (code, done["position"])
            stage.accepted = {*before, held}
            stage.coordinator()
            await stage.ready()
            # Their senders repeat what was lost: the same jobs, by their keys.
            again = [await stage.submit(rpc, f"after-{n}", payload={"text": "y"}) for n in range(4)]
            once_more = await stage.submit(rpc, "unknown", payload={"until": "restored"})
            assert ([*after, unknown]) == [*again, once_more]
            await stage.ended([*before, held, *again, once_more], timeout=60)

        def under_the_new_name() -> bool:
            rows = stage.log.rows("SELECT origin FROM checkpoints ORDER BY signed_at DESC LIMIT 1")
            return rows == [("example.com/restored",)]

        await eventually(under_the_new_name, "checkpoints under the new name")
        # The erasure after the moment is in the restored log, too, and its content is not.
        erased = stage.log.entries("content.erased.v1")
        assert [("alice", [before[0]], "repeated after a restore: asked to be forgotten")] == [
            (e.data["by"], e.data["jobs"], e.data["reason"]) for e in erased
        ]
        assert (2, 1) == (done["erased"], len(erased))
        assert [] == stage.log.rows("SELECT key FROM restored_erasures")
        assert [] == stage.log.rows("SELECT kind FROM payloads WHERE job_id = CAST(? AS uuid)", before[0])
        checked = await stage.check()
        assert {"COMPLETED": 10} == checked.states()
        assert {1} == {len(job.receipts) for job in checked.jobs.values()}
        [held_job] = [job for job in checked.jobs.values() if job.job_id == held]
        assert SERVICE == held_job.submitted["service"]
        assert held_job.starts <= 2
