"""Each fault shows in `/health/ready` within five seconds, with its reason, and no longer than it lasts."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import aio_pika
import httpx
import pytest
from aiormq.abc import AbstractChannel

from coordinator.dev.servers import PostgresServer, RabbitMQServer
from tests.harness.health_watch import HealthWatch
from tests.harness.length import FULL
from tests.harness.stage import ALICE, Stage
from tests.harness.waiting import eventually

TIMEOUT_SECONDS = 3.0
QUICK_SILENCE = {"heartbeat_interval_seconds": 0.5, "heartbeat_timeout_seconds": TIMEOUT_SECONDS}


async def submit(stage: Stage, key: str, **more: object) -> tuple[int, dict[str, str]]:
    """One try over HTTP."""
    async with httpx.AsyncClient(base_url=stage.urls["main"], timeout=30) as http:
        answer = await http.post(
            "/v1/jobs",
            json={"service": "checksum", "payload": {"text": key}, **more},
            headers={"X-Api-Key": ALICE, "Idempotency-Key": key},
        )
        return answer.status_code, answer.json()


# --- the database ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_an_idle_coordinator_misses_its_database(
    tmp_path: Path, amqp_url: str, breakable_postgres: PostgresServer, how: str
) -> None:
    """Postgres is killed or stands still while nobody sends anything: not ready; back: ready."""
    with Stage(tmp_path, database_url=breakable_postgres.new_database(), amqp_url=amqp_url) as stage:
        stage.coordinator()
        await stage.ready()
        with HealthWatch(stage.urls["main"]) as health:
            await health.works()
            fault = time.monotonic()
            await asyncio.to_thread(breakable_postgres.kill if how == "killed" else breakable_postgres.pause)
            await health.fails(fault, "the database" if how == "killed" else "no answer")
            await asyncio.to_thread(
                breakable_postgres.start if how == "killed" else breakable_postgres.resume
            )
            await health.works()
        assert 201 == (await submit(stage, "after"))[0]


async def test_a_full_disk_beneath_sqlite(tmp_path: Path) -> None:
    """The database file can't grow: not ready, even idle; commands are refused; ready once there is room."""
    with Stage(tmp_path) as stage:
        process = stage.coordinator()
        await stage.ready()
        with HealthWatch(stage.urls["main"]) as health:
            await health.works()
            log = tmp_path / "data-main" / "coordinator.db-wal"
            _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            fault = time.monotonic()
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, hard))
            await health.fails(fault, "the database file can't be used")
            code, answer = await submit(stage, "full")
            assert (503, "UNAVAILABLE") == (code, answer["code"])
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
            await health.works()
        assert 201 == (await submit(stage, "full"))[0]


async def test_a_blob_store_that_can_not_be_written(tmp_path: Path) -> None:
    """A file stands where uploads go: not ready; the folder is back: ready."""
    with Stage(tmp_path) as stage:
        stage.coordinator()
        await stage.ready()
        with HealthWatch(stage.urls["main"]) as health:
            await health.works()
            uploads = tmp_path / "blobs" / "tmp"
            fault = time.monotonic()
            uploads.rmdir()
            uploads.touch()
            await health.fails(fault, "the blob store can't be written")
            uploads.unlink()
            uploads.mkdir()
            await health.works()


# --- the broker --------------------------------------------------------------------------------------------
async def on_channel(url: str, act: Callable[[AbstractChannel], Awaitable[object]]) -> None:
    async with await aio_pika.connect(url) as connection:
        await act(await (await connection.channel()).get_underlay_channel())


def exchange(name: str) -> Callable[[AbstractChannel], Awaitable[object]]:
    return lambda channel: channel.exchange_delete(name)


def queue(name: str) -> Callable[[AbstractChannel], Awaitable[object]]:
    return lambda channel: channel.queue_delete(name)


def binding(name: str) -> Callable[[AbstractChannel], Awaitable[object]]:
    return lambda channel: channel.queue_unbind(name, name.removesuffix(".log"), "#")


DELETED = [
    ("queue coordinator.commands", queue("coordinator.commands")),
    ("queue coordinator.heartbeats", queue("coordinator.heartbeats")),
    ("queue coordinator.dead", queue("coordinator.dead")),
    ("queue coordinator.events.log", queue("coordinator.events.log")),
    ("exchange coordinator.commands", exchange("coordinator.commands")),
    ("exchange coordinator.work", exchange("coordinator.work")),
    ("exchange coordinator.control", exchange("coordinator.control")),
    ("exchange coordinator.events", exchange("coordinator.events")),
    ("exchange coordinator.progress", exchange("coordinator.progress")),
]
OFTEN_LOST = ("queue coordinator.commands", "exchange coordinator.work", "exchange coordinator.control")
"""Those of a short round."""
HINT_SECONDS = 5.0
HEARTBEAT_SECONDS = 60
"""A miner would learn of a cancellation by then, without a hint."""
UNBOUND = [binding("coordinator.commands"), binding("coordinator.events.log")]


@pytest.mark.timeout(300)
async def test_whatever_is_deleted_on_the_broker_comes_back(
    tmp_path: Path, database_url: str, amqp_url: str
) -> None:
    """Each exchange and queue deleted while all runs: not ready and named; made again, and jobs go on."""
    settings = {"heartbeat_interval_seconds": HEARTBEAT_SECONDS, "heartbeat_timeout_seconds": 120}
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url, **settings) as stage:
        stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        stage.miner("rig1")
        await stage.registered("rig1")
        async with stage.rpc() as rpc:
            with HealthWatch(stage.urls["main"]) as health:
                await health.works()
                for name, delete in DELETED:
                    if name not in OFTEN_LOST and not FULL:
                        continue
                    fault = time.monotonic()
                    await on_channel(amqp_url, delete)
                    await health.fails(fault, name)
                    await health.works()
                    await stage.ended([await stage.submit(rpc, name)])
                for number, unbind in enumerate(UNBOUND):
                    await on_channel(amqp_url, unbind)
                    await stage.ended([await stage.submit(rpc, f"unbound-{number}")])
                # Hints find their way again: the control exchange is one of those above.
                drained = await stage.submit(rpc, "long", payload={"until": "never"})
                await stage.noted(f"begun-{drained}-1")
                canceled = time.monotonic()
                assert "accepted" == (await rpc.call("job.cancel", {"job_id": drained}))["status"]
                await stage.noted(f"stopped-{drained}-1")
                assert time.monotonic() - canceled < HINT_SECONDS
                [offers] = {e.data["profile"] for e in stage.log.entries("miner.registered.v1")}
                await on_channel(amqp_url, queue(f"work.{offers}"))
                await stage.ended([await stage.submit(rpc, "without a work queue")])
                await on_channel(
                    amqp_url, lambda ch: ch.queue_unbind(f"work.{offers}", "coordinator.work", offers)
                )
                await stage.ended([await stage.submit(rpc, "without its binding")])
        await stage.check()
        assert 0 == stage.log.count("miner.lost.v1")


async def test_events_that_nobody_confirms(tmp_path: Path, database_url: str, amqp_url: str) -> None:
    """A queue on the events exchange refuses all messages: not ready, the publisher says so; gone: ready."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        stage.coordinator()
        await stage.ready()
        with HealthWatch(stage.urls["main"]) as health:
            await health.works()

            async def refuse(channel: AbstractChannel) -> None:
                arguments: dict[str, object] = {"x-max-length": 0, "x-overflow": "reject-publish"}
                await channel.queue_declare("refusing", durable=True, arguments=arguments)  # type: ignore[arg-type]
                await channel.queue_bind("refusing", "coordinator.events", "#")

            await on_channel(amqp_url, refuse)
            fault = time.monotonic()
            assert 201 == (await submit(stage, "unheard"))[0]
            await health.fails(fault, "publisher is interrupted: RabbitMQ did not confirm")
            await on_channel(amqp_url, queue("refusing"))
            await health.works()


async def test_a_blocked_miner_is_not_a_silent_one(
    tmp_path: Path, database_url: str, breakable_rabbitmq: RabbitMQServer
) -> None:
    """A memory alarm blocks all publishers for two timeouts: not ready, and no lease or session ends."""
    broker, url = breakable_rabbitmq, breakable_rabbitmq.new_vhost()

    def limit_memory(share: float) -> None:
        broker.evaluate(f"vm_memory_monitor:set_vm_memory_high_watermark({share:f}), ok")

    with Stage(tmp_path, database_url=database_url, amqp_url=url, **QUICK_SILENCE) as stage:
        stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        stage.miner("rig1")
        async with stage.rpc() as rpc:
            job_id = await stage.submit(rpc, "long", payload={"until": "enough"})
            await stage.noted(f"begun-{job_id}-1")
            with HealthWatch(stage.urls["main"]) as health:
                await health.works()
                fault = time.monotonic()
                await asyncio.to_thread(limit_memory, 0.00001)
                try:
                    await health.fails(fault, "the broker blocks publishers")
                    while time.monotonic() < fault + 3 * TIMEOUT_SECONDS:
                        assert not health.ready
                        await asyncio.sleep(0.5)  # an alarm of this length is what is tested
                finally:
                    await asyncio.to_thread(limit_memory, 0.9)
                await health.works()
            until = time.time() * 1000 + 2 * TIMEOUT_SECONDS * 1000
            await eventually(
                lambda: stage.log.column("SELECT lease_until FROM leases")[0] > until, "the lease extended"
            )
            stage.release("enough")
            await stage.ended([job_id])
        checked = await stage.check()
        assert {1: 1} == checked.starts()
        assert 0 == stage.log.count("miner.lost.v1")


async def test_a_broker_that_no_longer_knows_us(
    tmp_path: Path, database_url: str, breakable_rabbitmq: RabbitMQServer
) -> None:
    """The password is changed and all connections are closed: not ready; changed back: ready."""
    broker, url = breakable_rabbitmq, breakable_rabbitmq.new_vhost()

    def change(password: str) -> None:
        broker.evaluate(
            f'rabbit_auth_backend_internal:change_password(<<"guest">>, <<"{password}">>, <<"test">>), '
            'rabbit_networking:close_all_connections("a test"), ok'
        )

    with Stage(tmp_path, database_url=database_url, amqp_url=url) as stage:
        stage.coordinator()
        await stage.ready()
        with HealthWatch(stage.urls["main"]) as health:
            await health.works()
            fault = time.monotonic()
            await asyncio.to_thread(change, "other")
            try:
                await health.fails(fault, "the broker is out of reach")
            finally:
                await asyncio.to_thread(change, "guest")
            await health.works()
        async with stage.rpc() as rpc:
            await stage.submit(rpc, "after", service="checksum", payload={"text": "x"})


# --- the virtual host --------------------------------------------------------------------------------------
async def test_a_virtual_host_belongs_to_one_log(
    tmp_path: Path, database_url: str, amqp_url: str, postgres: PostgresServer
) -> None:
    """A coordinator with another database refuses to start on it and says why; one of the same log starts."""
    other_url = postgres.new_database()
    try:
        with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
            stage.coordinator()
            await stage.ready()
            with HealthWatch(stage.urls["main"]) as health:
                await health.works()
                began = time.monotonic()
                stranger = stage.coordinator("stranger", database_url=other_url)
                assert 0 != await eventually(lambda: stranger.ended, "the stranger ends")
                assert "belongs to the log of another database" in stranger.tail()
                assert "TOPOLOGY" in stranger.tail()
                assert "Traceback" not in stranger.tail()
                stage.coordinator("second")
                await stage.ready("second")
                assert health.never_failed(began)
    finally:
        postgres.drop_database(other_url)


# --- the clock ---------------------------------------------------------------------------------------------
def tells(stage: Stage, warning: str) -> bool:
    return any(text.startswith(warning) for text in stage.health()["warnings"])


@pytest.mark.parametrize("jump", [3600, -3600])
async def test_a_clock_that_jumps(tmp_path: Path, database_url: str, amqp_url: str, jump: int) -> None:
    """The clock is set by an hour and back again: no job expires, no lease or session ends; health tells."""
    clock = tmp_path / "clock"
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url, **QUICK_SILENCE) as stage:
        stage.coordinator(dies=("never", 1), clock_offset_file=clock)
        await stage.ready()
        stage.miner("rig1")
        async with stage.rpc() as rpc:
            running = await stage.submit(rpc, "running", payload={"until": "enough"})
            waiting = await stage.submit(rpc, "waiting", payload={}, ttl_seconds=900)
            await stage.noted(f"begun-{running}-1")
            for offset, before in ((jump, 0), (0, jump)):
                clock.write_text(str(offset))
                told = f"the clock was set {'forward' if offset > before else 'back'} by 3600 s"
                await eventually(partial(tells, stage, told), told)
                assert stage.health()["ready"]
            await eventually(lambda: not stage.health()["warnings"], "the jump over")
            assert ["job.submitted", "job.started"] == stage.log.topics(running)
            stage.release("enough")
            await stage.ended([running, waiting])
        checked = await stage.check()
        assert {"COMPLETED": 2} == checked.states()
        assert {1: 2} == checked.starts()
        assert 0 == stage.log.count("miner.lost.v1")


async def test_a_silent_miner_is_noticed_after_a_clock_was_set_back(
    tmp_path: Path, database_url: str, amqp_url: str
) -> None:
    """The clock goes back by an hour and stays there: a miner that dies then loses its lease in due time."""
    clock = tmp_path / "clock"
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url, **QUICK_SILENCE) as stage:
        stage.coordinator(dies=("never", 1), clock_offset_file=clock)
        await stage.ready()
        miner = stage.miner("rig1")
        async with stage.rpc() as rpc:
            job_id = await stage.submit(rpc, "running", payload={"until": "never"})
            await stage.noted(f"begun-{job_id}-1")
            miner.kill()
            clock.write_text("-3600")
            await eventually(lambda: stage.log.count("miner.lost.v1"), "the miner lost", 30)
            assert ["job.submitted", "job.started", "job.attempt_ended", "job.requeued"] == stage.log.topics(
                job_id
            )
