"""API keys made at run time, on two coordinators with one Postgres and one RabbitMQ between them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from coordinator.client.errors import NotAuthorised
from coordinator.dev.servers import PostgresServer, RabbitMQServer
from coordinator.wire.amqp.rpc import AmqpRpc
from tests.harness.executor import SERVICE
from tests.harness.stage import ROOT, Stage
from tests.harness.waiting import eventually

BOTH = ("one", "other")
MOMENTS = 60.0
"""Generous: a notification takes milliseconds, and the poll behind it a second."""


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, rabbitmq: RabbitMQServer, postgres: PostgresServer
) -> Iterator[Stage]:
    """Two coordinators, the second a standby."""
    amqp_url, database_url = rabbitmq.new_vhost(), postgres.new_database()
    with Stage(tmp_path_factory.mktemp("keys"), database_url=database_url, amqp_url=amqp_url) as stage:
        stage.begin(BOTH)
        yield stage
    rabbitmq.drop_vhost(amqp_url)
    postgres.drop_database(database_url)


async def create(stage: Stage, at: str = "one", **fields: Any) -> dict[str, Any]:
    async with stage.client(ROOT, at) as root:
        return await root.keys.create(**{"name": "carol", "role": "client", **fields})


async def lets_in(stage: Stage, at: str, key: str) -> bool:
    """Whether this coordinator takes the key over HTTP."""
    async with stage.client(key, at, tries=1) as client:
        try:
            async for _ in client.jobs(limit=1):
                pass
        except NotAuthorised:
            return False
    return True


async def until(stage: Stage, at: str, key: str, expected: bool) -> None:
    async def so() -> bool:
        return await lets_in(stage, at, key) is expected

    await eventually(so, timeout=MOMENTS, tolerate=False)


async def answers(rpc: AmqpRpc, number: int) -> list[str]:
    """What several submits at a time are told: both coordinators take some of them."""
    command = {"service": SERVICE, "payload": {}, "constraints": {"region": "nowhere"}}
    told = await asyncio.gather(
        *(rpc.call("job.submit", {**command, "idempotency_key": f"{number}-{n}"}) for n in range(20))
    )
    return [str(answer.get("code") or answer["status"]) for answer in told]


@pytest.mark.parametrize("at", BOTH)
async def test_a_key_opens_both_coordinators_and_the_broker(stage: Stage, at: str) -> None:
    """At once where it was made, within moments at the other, leading or not; over HTTP and AMQP alike."""
    made = await create(stage, at)
    other = BOTH[1 - BOTH.index(at)]
    assert await lets_in(stage, at, made["key"])
    await until(stage, other, made["key"], True)
    async with stage.rpc(made["key"]) as rpc:
        assert {"accepted"} == set(await answers(rpc, 1))


@pytest.mark.parametrize("at", BOTH)
async def test_a_revoked_key_is_refused_everywhere(stage: Stage, at: str) -> None:
    """At once where it was revoked, within moments at the other, also for connections that are open."""
    made = await create(stage)
    other = BOTH[1 - BOTH.index(at)]
    await until(stage, other, made["key"], True)
    async with stage.rpc(made["key"]) as rpc:
        assert {"accepted"} == set(await answers(rpc, 2))
        async with stage.client(ROOT, at) as root:
            assert "REVOKED" == (await root.keys.revoke(made["key_id"], "lost"))["state"]
        assert not await lets_in(stage, at, made["key"])
        await until(stage, other, made["key"], False)
        assert {"UNAUTHORIZED_KEY"} == set(await answers(rpc, 3))


async def test_a_rotated_key_over_the_broker(stage: Stage) -> None:
    """Old and new secret sign in the grace, then the new one alone; the name stays who it is."""
    made = await create(stage)
    async with stage.client(ROOT, "other") as root:
        rotated = await root.keys.rotate(made["key_id"], grace_seconds=3600, generation=1)
        await until(stage, "one", rotated["key"], True)
        async with stage.rpc(made["key"]) as old, stage.rpc(rotated["key"]) as new:
            assert [{"accepted"}] * 2 == [set(await answers(rpc, n)) for n, rpc in ((4, old), (5, new))]
            last = await root.keys.rotate(made["key_id"])
            await until(stage, "one", last["key"], True)
            refused = [set(await answers(rpc, n)) for n, rpc in ((6, old), (7, new))]
            assert [{"UNAUTHORIZED_KEY"}] * 2 == refused
    assert {"carol"} == {e.data["client"] for e in stage.log.entries("job.submitted.v1")}


async def test_a_miner_with_a_new_key_works(stage: Stage) -> None:
    """The product's own miner registers, mines and is paid under the name of its key; revoked, it is out."""
    made = await create(stage, name="new-rig", role="miner")
    client = await create(stage, name="dora")
    await until(stage, "other", client["key"], True)  # and so the miner's, which was made before
    miner = stage.program_miner(
        "new-rig", transport="amqp", coordinator="one", coordinator_api_key=made["key"]
    )
    await stage.registered("new-rig")
    async with stage.client(client["key"], "one") as dora:
        job = await dora.submit("checksum", {"text": "hello"})
        result = await job.wait(timeout=60)
        assert ("COMPLETED", "new-rig") == (result.state, result.assigned_miner_id)
    async with stage.client(ROOT, "one") as root:
        await root.keys.revoke(made["key_id"])
    miner.stop()


async def test_secrets_go_through_no_queue(stage: Stage) -> None:
    """Creating and rotating are refused over AMQP, revoking is not."""
    made = await create(stage)
    async with stage.rpc(ROOT) as root:
        for command, fields in (
            ("key.create", {"name": "eve", "role": "admin"}),
            ("key.rotate", {"key_id": made["key_id"]}),
        ):
            answer = await root.call(command, fields)
            assert ("refused", "FORBIDDEN") == (answer["status"], answer["code"])
        answer = await root.call("key.revoke", {"key_id": made["key_id"]})
        assert ("accepted", "REVOKED") == (answer["status"], answer["state"])
    for name in BOTH:  # whichever of them revoked it
        await until(stage, name, made["key"], False)
    async with stage.rpc(made["key"]) as carol:
        assert "UNAUTHORIZED_KEY" == (await carol.call("job.cancel", {"job_id": made["key_id"]}))["code"]
    assert not any(e.data["name"] == "eve" for e in stage.log.entries("key.created.v1"))


async def test_keys_outlive_their_coordinators(stage: Stage) -> None:
    """A standby that is started anew knows what was made and revoked while it was away."""
    kept, gone = await create(stage), await create(stage)
    other = next(p for p in stage.processes if p.name.startswith("other"))
    other.kill()
    late = await create(stage)
    async with stage.client(ROOT, "one") as root:
        await root.keys.revoke(gone["key_id"])
    stage.coordinator("other")
    await stage.ready("other")
    assert [True, True, False] == [await lets_in(stage, "other", k["key"]) for k in (kept, late, gone)]


async def test_no_secret_is_in_the_database(stage: Stage) -> None:
    """Neither in an event nor in any table, in text or in bytes."""
    made = await create(stage, signed=True)
    assert stage.database_url
    with psycopg.connect(stage.database_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        rows = [str(row) for (t,) in tables for row in connection.execute(f'SELECT * FROM "{t}"').fetchall()]
    assert any(made["key_id"] in row for row in rows)
    for secret in (made["key"].partition(":")[2], made["hmac_secret"]):
        assert not any(secret in row for row in rows)
