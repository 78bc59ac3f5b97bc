"""Each alert fires while its cause lasts and clears after it, on a real Prometheus with the product's rules.

Prometheus scrapes four times a second, and the waits of the rules (`for`) are left out: promtool's tests hold
them (`tests/integration/test_monitoring.py`). Limits of minutes are seconds here.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator.dev.servers import PostgresServer, RabbitMQServer
from coordinator.storage.connections.postgres_pool import LEADER_LOCK_CLASS
from coordinator.storage.tables.leadership import LEADER_APPLICATION
from coordinator.wire.topology import COMMANDS_QUEUE, DEAD_QUEUE
from tests.harness.executor import SERVICE, SPEC
from tests.harness.monitoring import Monitoring, rules
from tests.harness.stage import ALICE, ROOT, Stage
from tests.harness.waiting import eventually

LIMITS = {
    "coordinator:oldest_queued_job_seconds:limit": 1.0,
    "coordinator:checkpoint_age_seconds:limit": 3.0,
    "coordinator:follower_stalled_seconds:limit": 3.0,
    "coordinator:settlement_seconds:limit": 1.0,
}
DISK_BYTES = 2**30
SERVERS = frozenset(
    {
        "CoordinatorOldestQueuedJob",
        "CoordinatorMinersGone",
        "CoordinatorDeadLetters",
        "CoordinatorConsumersGone",
        "CoordinatorBrokerAway",
        "CoordinatorFollowerStalled",
        "CoordinatorCheckpointStale",
        "CoordinatorNobodyLeads",
        "CoordinatorDatabaseAway",
        "CoordinatorRequestsFail",
        "CoordinatorDown",
    }
)
FILES = frozenset(
    {
        "CoordinatorDiskNearlyFull",
        "CoordinatorPartFails",
        "CoordinatorAuditDivergence",
        "CoordinatorFollowerStopped",
    }
)

MONEY = frozenset({"CoordinatorSettlementLate"})


async def submit(stage: Stage, **more: object) -> int:
    """One try over HTTP; its status."""
    body = {"service": SERVICE, "payload": {"seconds": 0.01}, **more}
    async with httpx.AsyncClient(base_url=stage.urls["main"], timeout=30) as http:
        return (await http.post("/v1/jobs", json=body, headers={"X-Api-Key": ALICE})).status_code


@asynccontextmanager
async def submitting(stage: Stage) -> AsyncIterator[None]:
    """Somebody submits jobs all the while, whatever becomes of them."""

    async def go_on() -> None:
        while True:
            with suppress(httpx.HTTPError):
                await submit(stage)
            await asyncio.sleep(0.1)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_every_alert_has_its_cause_below() -> None:
    """A new alert needs a test that makes its cause."""
    assert {rule["alert"] for rule in rules() if "alert" in rule} == SERVERS | FILES | MONEY


@pytest.mark.timeout(400)
async def test_alerts_of_servers_and_miners(
    tmp_path: Path, breakable_postgres: PostgresServer, breakable_rabbitmq: RabbitMQServer
) -> None:
    """Miners, RabbitMQ, Postgres, locks, leadership and the process itself, one after the other."""
    database_url, amqp_url = breakable_postgres.new_database(), breakable_rabbitmq.new_vhost()
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        process = stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        with Monitoring(tmp_path / "monitoring", [stage.urls["main"]], ROOT, LIMITS) as monitoring:
            await eventually(lambda: monitoring.server.query("coordinator_checkpoint_events"), "a scrape")
            await eventually(lambda: not monitoring.server.firing(), "calm")

            # Jobs, and nobody who does them.
            assert 201 == await submit(stage)
            await monitoring.fires("CoordinatorOldestQueuedJob")
            await monitoring.fires("CoordinatorMinersGone")
            stage.miner("rig1", concurrency=4)
            await monitoring.clears("CoordinatorMinersGone")
            await monitoring.clears("CoordinatorOldestQueuedJob")

            # A message with an invalid key; the operator has looked at it.
            async with stage.rpc("alice:not-her-secret") as rpc:
                assert "refused" == (await rpc.call("job.cancel", {"job_id": f"{1:032x}"}))["status"]
            await monitoring.fires("CoordinatorDeadLetters")
            await on_queue(amqp_url, DEAD_QUEUE, lambda queue: queue.purge())
            await monitoring.clears("CoordinatorDeadLetters")

            # RabbitMQ's user may not read commands any more; it may again.
            rights(breakable_rabbitmq, amqp_url, f"^(?!{COMMANDS_QUEUE.replace('.', '[.]')}$).*")
            await on_queue(
                amqp_url, COMMANDS_QUEUE, lambda queue: queue.delete(if_unused=False, if_empty=False)
            )
            await monitoring.fires("CoordinatorConsumersGone")
            rights(breakable_rabbitmq, amqp_url, ".*")
            await monitoring.clears("CoordinatorConsumersGone")

            await asyncio.to_thread(breakable_rabbitmq.kill)
            await monitoring.fires("CoordinatorBrokerAway")
            await asyncio.to_thread(breakable_rabbitmq.start)
            await monitoring.clears("CoordinatorBrokerAway")

            # Somebody locks the tables of projector and notary while jobs come in.
            async with submitting(stage), await psycopg.AsyncConnection.connect(database_url) as locking:
                await locking.execute("LOCK TABLE jobs, merkle_tiles, checkpoints IN ACCESS EXCLUSIVE MODE")
                await monitoring.fires("CoordinatorFollowerStalled")
                await monitoring.fires("CoordinatorCheckpointStale")
                await locking.rollback()
                await monitoring.clears("CoordinatorFollowerStalled")
            await monitoring.clears("CoordinatorCheckpointStale")

            # Another session has the lock of the projector's leader.
            async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as holding:
                taken = asyncio.create_task(take_leadership(holding, "projector"))
                await eventually(lambda: waits_for_lock(database_url), "the session to wait")
                await end_sessions(database_url, LEADER_APPLICATION)
                await taken
                await monitoring.fires("CoordinatorNobodyLeads")
            await monitoring.clears("CoordinatorNobodyLeads")

            async with submitting(stage):
                await asyncio.to_thread(breakable_postgres.kill)
                await monitoring.fires("CoordinatorDatabaseAway")
                await monitoring.fires("CoordinatorRequestsFail")
                await asyncio.to_thread(breakable_postgres.start)
                await monitoring.clears("CoordinatorDatabaseAway")
                await monitoring.clears("CoordinatorRequestsFail", 60.0)

            process.kill()
            await monitoring.fires("CoordinatorDown")
            stage.coordinator()
            await stage.ready()
            await monitoring.clears("CoordinatorDown")
            await eventually(lambda: monitoring.server.firing() == set(), "no alert", 60.0)


@pytest.mark.timeout(300)
async def test_alerts_of_files(tmp_path: Path) -> None:
    """The disk, the blob store, and a log that somebody has changed."""
    disk = os.statvfs(tmp_path)
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    limits = {**LIMITS, "coordinator:disk_free_ratio:limit": (free - DISK_BYTES / 2) / size}
    with Stage(tmp_path) as stage:
        process = stage.coordinator()
        await stage.ready()
        with Monitoring(tmp_path / "monitoring", [stage.urls["main"]], ROOT, limits) as monitoring:
            await eventually(lambda: monitoring.server.query("coordinator_checkpoint_events"), "a scrape")
            await eventually(lambda: not monitoring.server.firing(), "calm")

            with (tmp_path / "large").open("wb") as large:
                os.posix_fallocate(large.fileno(), 0, DISK_BYTES)
            await monitoring.fires("CoordinatorDiskNearlyFull")
            (tmp_path / "large").unlink()
            await monitoring.clears("CoordinatorDiskNearlyFull")

            uploads = tmp_path / "blobs" / "tmp"
            uploads.rmdir()
            uploads.touch()
            await monitoring.fires("CoordinatorPartFails")
            uploads.unlink()
            uploads.mkdir()
            await monitoring.clears("CoordinatorPartFails")

            # A stored event is changed while the coordinator is stopped; then it is as it was. In between the
            # coordinator tells webhooks of the stopped follower, by an event of its own.
            assert 0 == process.stop()
            log = tmp_path / "data-main" / "coordinator.db"
            position = last_position(log)
            change_event(log, position, lambda state: state.replace(b"coordinator", b"codrinoator"))
            assert (7, 1.0) == audited(stage)  # what node_exporter would show of it
            process = stage.coordinator()
            await monitoring.fires("CoordinatorAuditDivergence", 60.0)
            await monitoring.fires("CoordinatorFollowerStopped")
            process.stop()
            change_event(log, position, lambda state: state.replace(b"codrinoator", b"coordinator"))
            assert (0, 0.0) == audited(stage)
            stage.coordinator()
            await stage.ready()
            await monitoring.clears("CoordinatorAuditDivergence")
            await monitoring.clears("CoordinatorFollowerStopped")
            await eventually(lambda: monitoring.server.firing() == set(), "no alert", 60.0)


def audited(stage: Stage) -> tuple[int, float]:
    """The exit code of an audit, and the divergences in the file that it writes."""
    file = stage.folder / "audit.prom"
    audit = stage.command("audit", "--metrics", str(file), data_dir=str(stage.folder / "data-main"))
    code = audit.wait()
    [found] = [
        sample.value
        for family in text_string_to_metric_families(file.read_text(encoding="utf-8"))
        for sample in family.samples
        if (sample.name, sample.labels) == ("coordinator_audit_divergences", {"check": "audit"})
    ]
    return code, found


def last_position(log: Path) -> int:
    with closing(sqlite3.connect(log)) as database:
        [(position,)] = database.execute("SELECT MAX(rowid) FROM stored_events").fetchall()
        found: int = position
        return found


def change_event(log: Path, position: int, change: Callable[[bytes], bytes]) -> None:
    with closing(sqlite3.connect(log)) as database, database:
        [(state,)] = database.execute(
            "SELECT state FROM stored_events WHERE rowid = ?", (position,)
        ).fetchall()
        changed = change(bytes(state))
        assert changed != state
        database.execute("UPDATE stored_events SET state = ? WHERE rowid = ?", (changed, position))


async def on_queue(amqp_url: str, name: str, act: Callable[[aio_pika.abc.AbstractQueue], object]) -> None:
    async with await aio_pika.connect(amqp_url) as connection:
        queue = await (await connection.channel()).get_queue(name)
        done = act(queue)
        if asyncio.iscoroutine(done):
            await done


def rights(server: RabbitMQServer, amqp_url: str, reads: str) -> None:
    """Let the user of this address read what fits the pattern."""
    parts = urlsplit(amqp_url)
    user, vhost = f'<<"{parts.username}">>', f'<<"{parts.path[1:]}">>'
    allowed = ", ".join(f'<<"{pattern}">>' for pattern in (".*", ".*", reads))
    server.evaluate(f'rabbit_auth_backend_internal:set_permissions({user}, {vhost}, {allowed}, <<"test">>)')


async def take_leadership(connection: psycopg.AsyncConnection[object], name: str) -> None:
    await connection.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (LEADER_LOCK_CLASS, name))


def waits_for_lock(database_url: str) -> bool:
    with psycopg.connect(database_url, autocommit=True) as connection:
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        row = connection.execute(waiting).fetchone()
        return row is not None and row[0] > 0


async def end_sessions(database_url: str, application: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            (application,),
        )


@pytest.mark.timeout(300)
async def test_alerts_of_money(tmp_path: Path) -> None:
    """A file in the way of a settlement batch."""
    folder = tmp_path / "paid"
    folder.mkdir(0o700)
    blocked = folder / "settlement-000001.json"
    blocked.write_text("of somebody else")
    terms: dict[str, Any] = {
        "settlement": "on",
        "settlement_sink": "file",
        "settlement_dir": folder,
        "settlement_amount": 1,
    }
    with Stage(tmp_path, **terms, settlement_minimum=1, dispute_window_seconds=0) as stage:
        stage.coordinator()
        await stage.ready()
        url = stage.urls["main"]
        async with httpx.AsyncClient(base_url=url, timeout=30, headers={"X-Api-Key": ROOT}) as http:
            assert (await http.post("/v1/registry/services", json=SPEC)).is_success
            money = {"amount": 10**9, "business_id": "d1"}
            assert (await http.post("/v1/admin/accounts/alice/deposits", json=money)).is_success
        with Monitoring(tmp_path / "monitoring", [url], ROOT, LIMITS) as monitoring:
            stage.miner("rig1", transport="http")
            assert 201 == await submit(stage)
            await monitoring.fires("CoordinatorSettlementLate")
            blocked.unlink()
            await monitoring.clears("CoordinatorSettlementLate", 120.0)
