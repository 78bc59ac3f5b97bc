"""API keys as users of a real RabbitMQ: what each may do there, and what is refused."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiormq
import pytest
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import AMQPError, ChannelAccessRefused, ChannelPreconditionFailed
from pamqp.commands import Basic

from coordinator.crypto.canonical import salted_digest
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.sealing import NotSealed, attempt_context, unseal
from coordinator.dev import servers
from coordinator.dev.servers import AUTH_PLUGINS, PostgresServer, RabbitMQServer, auth_settings
from coordinator.dev.servers.processes import free_port
from coordinator.wire.amqp.rpc import AmqpRpc
from tests.harness.cases import every
from tests.harness.executor import SPEC
from tests.harness.hand import HandMiner
from tests.harness.processes import Process, as_settings
from tests.harness.stage import ALICE, ANSWER_SECONDS, BOB, MINERS, QUICK, ROOT, START_SECONDS, Stage, key_of
from tests.harness.waiting import eventually, eventually_now

CACHE_SECONDS = 1.0
SOON = 30.0
RIG3 = key_of("rig3")
PASSWORDS = dict(key.split(":") for key in (ALICE, BOB, ROOT, *map(key_of, MINERS)))


class Rights(Stage):
    """A stage whose miners and clients are users of the broker."""

    def __init__(self, folder: Path, node: RabbitMQServer, database_url: str, auth_port: int) -> None:
        self.broker_url = node.new_vhost()
        super().__init__(folder, database_url=database_url, amqp_url=self.broker_url, broker_users="keys")
        self.node = node
        self.auth_port = auth_port
        self.profiles: dict[str, str] = {}
        self.answering: Process
        self.vhost = self.broker_url.rpartition("/")[2]
        # Without a user: each logs in with its key.
        self.keyless_url = re.sub(r"//[^@]*@", "//", self.broker_url)
        self.management_url = f"http://guest:guest@127.0.0.1:{node.plugin_ports['rabbitmq_management']}"  # type: ignore[attr-defined]

    def answerer(self) -> Process:
        settings = {
            "database_url": self.database_url,
            "amqp_url": self.broker_url,
            "broker_auth_port": self.auth_port,
            "broker_management_url": self.management_url,
            "client_api_keys": f"{ALICE},{BOB}",
            "admin_api_keys": ROOT,
            "miner_api_keys": ",".join(map(key_of, MINERS)),
        }
        process = self._start("auth", "coordinator", "broker-auth", **as_settings(settings))

        eventually_now(
            lambda: "Answering RabbitMQ" in process.log.read_text(), "the answerer's line", START_SECONDS
        )
        return process

    def as_user(self, key: str) -> AmqpRpc:
        return AmqpRpc(
            self.keyless_url,
            key,
            answer_timeout_seconds=ANSWER_SECONDS,
            backoff=QUICK,
            coordinator_keys=[self.coordinator_key],
        )

    def login_url(self, name: str, vhost: str | None = None) -> str:
        url = self.keyless_url.replace("//", f"//{name}:{PASSWORDS[name]}@")
        return url if vhost is None else url.rpartition("/")[0] + f"/{vhost}"

    @asynccontextmanager
    async def channel(self, name: str) -> AsyncIterator[AbstractChannel]:
        connection = await aiormq.connect(self.login_url(name))
        try:
            yield await connection.channel()
        finally:
            await connection.close()

    @asynccontextmanager
    async def offers(self, name: str, queue: str) -> AsyncIterator[Callable[[], Awaitable[dict[str, Any]]]]:
        """The next of the offers on a queue, as this user reads them; none in time is an error."""
        bodies: asyncio.Queue[bytes] = asyncio.Queue()

        async def take(message: DeliveredMessage) -> None:
            bodies.put_nowait(message.body)

        async def next_offer() -> dict[str, Any]:
            async with asyncio.timeout(SOON):
                [offer] = json.loads(await bodies.get())
            return dict(offer)

        async with self.channel(name) as channel:
            await channel.basic_consume(queue, take, no_ack=True)
            yield next_offer

    @asynccontextmanager
    async def internal(self) -> AsyncIterator[AbstractChannel]:
        """As the coordinator's own user."""
        connection = await aiormq.connect(self.broker_url)
        try:
            yield await connection.channel()
        finally:
            await connection.close()


@pytest.fixture(scope="module")
def stage(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rights]:
    """One node, one coordinator, one answerer, and two miners with profiles of their own."""
    port = free_port()
    settings = auth_settings(f"http://127.0.0.1:{port}/auth", CACHE_SECONDS)
    database_url = postgres.new_database()
    with ExitStack() as stack:
        node = stack.enter_context(servers.private_rabbitmq(plugins=AUTH_PLUGINS, settings=settings))
        with Rights(tmp_path_factory.mktemp("rights"), node, database_url, port) as stage:
            stage.coordinator()
            asyncio.run(stage.ready())
            stage.answering = stage.answerer()
            stage.amqp_url = stage.keyless_url
            asyncio.run(_rehearse(stage))
            for name, region in (("rig1", "north"), ("rig2", "south")):
                stage.miner(name, region=region)
            asyncio.run(stage.registered("rig1", "rig2"))
            for entry in stage.log.entries("miner.registered.v1"):
                stage.profiles[entry.data["miner_id"]] = entry.data["profile"]
            yield stage
    postgres.drop_database(database_url)


async def _rehearse(stage: Rights) -> None:
    async with stage.as_user(ROOT) as rpc:
        answer = await rpc.call("service.register", {"spec": SPEC})
        assert answer["status"] == "accepted", answer


# --- what works --------------------------------------------------------------------------------------------
async def test_a_job_runs_with_these_rights(stage: Rights) -> None:
    """A client submits, reads its own events and progress live, and gets the result; all over AMQP."""
    seen: list[tuple[str, Any]] = []

    async def note(message: DeliveredMessage) -> None:
        seen.append((message.routing_key or "", json.loads(message.body)))

    async with stage.channel("alice") as channel, stage.as_user(ALICE) as rpc:
        await channel.queue_declare("events.alice.desk", exclusive=True)
        await channel.queue_bind("events.alice.desk", "coordinator.events", "*.*.alice.*")
        await channel.queue_bind("events.alice.desk", "coordinator.progress", "alice.*")
        await channel.basic_consume("events.alice.desk", note, no_ack=True)
        job = await stage.submit(
            rpc, "live", payload={"tokens": 3, "pause": 0.2}, constraints={"region": "north"}
        )
        await stage.ended([job])

        def told() -> bool:
            keys = [key for key, _ in seen]
            return f"job.completed.alice.{job}" in keys and f"alice.{job}" in keys

        await eventually(told, "the events and the progress")
    assert all(key.split(".")[-2] == "alice" for key, _ in seen)


async def test_an_auditor_reads_the_stream(stage: Rights) -> None:
    """An admin's key reads the stream of all events, and may not delete or fill it."""
    first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def take(message: DeliveredMessage) -> None:
        if not first.done():
            first.set_result(message.body)

    async with stage.channel("root") as channel:
        await channel.basic_qos(prefetch_count=10)
        await channel.basic_consume("coordinator.events.log", take, arguments={"x-stream-offset": "first"})
        async with asyncio.timeout(SOON):
            events = json.loads(await first)
    assert events[0]["topic"].endswith(".v1")


async def test_a_private_payload_reaches_its_miner_alone(stage: Rights) -> None:
    """Offers of a private service have no payload and no salt; the claim's answer has both."""
    secret = {"seconds": 0, "text": "for one miner only"}
    private = {**SPEC, "id": "confidential", "name": "Confidential", "private": True}
    async with stage.as_user(ALICE) as alice, stage.as_user(ROOT) as root, stage.as_user(RIG3) as rpc:
        answer = await root.call("service.register", {"spec": private})
        assert answer["status"] == "accepted", answer
        miner = HandMiner(rpc, "rig3", services=("confidential",))
        registered = await miner.register("private")
        job = await stage.submit(
            alice, "private", service="confidential", payload=secret, constraints={"region": "private"}
        )
        async with stage.offers("rig3", registered["queue"]) as next_offer:
            offer = await next_offer()
        assert (offer["job_id"], offer["private"], offer["payload_salt"]) == (job, True, "")
        assert "payload" not in offer

        plain = await miner.start(job)
        assert plain["payload"] == secret
        assert salted_digest(bytes.fromhex(plain["payload_salt"]), secret) == offer["payload_digest"]
        # A repeat of the claim, whose answer was lost, brings it again; here sealed.
        sealed = await rpc.call("job.start", {**miner.names(job, 1), "sealed": True})
        assert "payload" not in sealed
        context = attempt_context(job, 1)
        assert json.loads(unseal(miner.key, context, sealed["sealed"]))["payload"] == secret
        for key, other_context in ((SigningKey.generate(), context), (miner.key, attempt_context(job, 2))):
            with pytest.raises(NotSealed):
                unseal(key, other_context, sealed["sealed"])
        async with stage.as_user(key_of("rig2")) as other:
            thief = HandMiner(other, "x@rig2", services=("confidential",))
            await thief.register("private")
            refused = await thief.start(job)
        assert refused["status"] == "refused"
        assert "payload" not in refused


async def _withheld(stage: Rights, alice: AmqpRpc) -> None:
    """Until the dispatcher, which remembers entries for a second, takes the rehearsal for private."""
    async with stage.as_user(RIG3) as rpc:
        registered = await HandMiner(rpc, "rig3").register("watched")
        async with stage.offers("rig3", registered["queue"]) as next_offer:
            for number in itertools.count():
                job = await stage.submit(alice, f"watched-{number}", constraints={"region": "watched"})
                offer = await next_offer()
                assert offer["job_id"] == job
                assert (await alice.call("job.cancel", {"job_id": job}))["status"] == "accepted"
                if offer.get("private"):
                    return


async def test_our_miner_runs_private_work(stage: Rights) -> None:
    """Our miner program asks for the sealed payload, opens it and returns the result, over AMQP and HTTP."""
    spec = {**SPEC, "private": True}
    async with stage.as_user(ROOT) as root, stage.as_user(ALICE) as alice:
        assert (await root.call("service.revise", {"spec": spec}))["status"] == "accepted"
        await _withheld(stage, alice)
        stage.miner("rig4", transport="http", region="polling")
        await stage.registered("rig4")
        jobs = [
            await stage.submit(alice, f"sealed-{region}", payload={"n": 1}, constraints={"region": region})
            for region in ("north", "polling")
        ]
        await stage.ended(jobs)
        assert (await root.call("service.revise", {"spec": SPEC}))["status"] == "accepted"
    done = {e.data["job_id"] for e in stage.log.entries("job.completed.v1")}
    assert set(jobs) <= done


# --- what is refused ---------------------------------------------------------------------------------------
Attack = Callable[[Rights, AbstractChannel], Awaitable[object]]


def consume(queue: str) -> Attack:
    async def attack(stage: Rights, channel: AbstractChannel) -> object:
        async def take(message: DeliveredMessage) -> None:
            pass

        await channel.basic_qos(prefetch_count=1)
        return await channel.basic_consume(_filled(stage, queue), take)

    return attack


def get(queue: str) -> Attack:
    return lambda stage, channel: channel.basic_get(_filled(stage, queue))


def declare(queue: str, **arguments: Any) -> Attack:
    return lambda stage, channel: channel.queue_declare(
        _filled(stage, queue), durable=True, arguments=arguments
    )


def delete(queue: str) -> Attack:
    return lambda stage, channel: channel.queue_delete(_filled(stage, queue))


def purge(queue: str) -> Attack:
    return lambda stage, channel: channel.queue_purge(_filled(stage, queue))


def publish(exchange: str, key: str) -> Attack:
    return lambda stage, channel: channel.basic_publish(
        b"[]", exchange=exchange, routing_key=_filled(stage, key)
    )


def bind(exchange: str, key: str) -> Attack:
    async def attack(stage: Rights, channel: AbstractChannel) -> object:
        await channel.queue_declare("events.bob.desk", exclusive=True)
        return await channel.queue_bind("events.bob.desk", exchange, key)

    return attack


def _filled(stage: Rights, name: str) -> str:
    return name.format(profile=stage.profiles["rig1"])


WORK = "work.{profile}"
CLIENT = [
    *(
        (f"{verb.__name__} {queue}", verb(queue))
        for queue in (
            WORK,
            "miner.rig1",
            "coordinator.commands",
            "coordinator.heartbeats",
            "coordinator.dead",
            "coordinator.events.log",
            "events.alice.desk",
            "events.bobby.desk",
        )
        for verb in (consume, get, declare, delete, purge)
    ),
    *((f"take the name {name}", declare(name)) for name in ("work.new", "miner.rig3", "anything", "")),
    ("dead letters into any queue", declare("events.bob.x", **{"x-dead-letter-exchange": ""})),
    ("dead letters as offers", declare("events.bob.x", **{"x-dead-letter-exchange": "coordinator.work"})),
    *((f"publish to {key} directly", publish("", key)) for key in (WORK, "miner.rig1", "events.alice.desk")),
    ("publish a heartbeat directly", publish("", "coordinator.heartbeats")),
    ("forge an offer", publish("coordinator.work", "{profile}")),
    ("forge a hint", publish("coordinator.control", "rig1")),
    ("forge an event", publish("coordinator.events", "job.completed.alice.x")),
    ("forge a heartbeat", publish("coordinator.heartbeats", "miner.heartbeat")),
    ("forge progress", publish("coordinator.progress", "alice.x")),
    ("forge a dead letter", publish("coordinator.dead", "")),
    *(
        (f"command {key}", publish("coordinator.commands", key))
        for key in ("job.start", "job.complete", "miner.register", "service.register", "miner.lose", "x")
    ),
    *(
        (f"bind {key} of events", bind("coordinator.events", key))
        for key in ("#", "*.*.*.*", "*.*.alice.*", "job.#", "#.bob.#", "*.*.bob.#", "*.bob.*.*", "bob")
    ),
    *((f"bind {key} of progress", bind("coordinator.progress", key)) for key in ("#", "*.*", "alice.*")),
    *(
        (f"bind {exchange}", bind(exchange, "#"))
        for exchange in (
            "coordinator.commands",
            "coordinator.work",
            "coordinator.control",
            "coordinator.dead",
        )
    ),
    ("delete an exchange", lambda s, c: c.exchange_delete("coordinator.work")),
    ("declare an exchange", lambda s, c: c.exchange_declare("events.bob.x", exchange_type="fanout")),
    (
        "forward all events as commands",
        lambda s, c: c.exchange_bind("coordinator.commands", "coordinator.events", "#"),
    ),
]
MINER = [
    *(
        (f"{verb.__name__} {queue}", verb(queue))
        for queue in (
            WORK,
            "miner.rig1",
            "coordinator.commands",
            "coordinator.events.log",
            "events.rig1.x",
            "events.rig2.x",
        )
        for verb in (consume, get, declare, delete, purge)
    ),
    ("forge an offer", publish("coordinator.work", "{profile}")),
    ("publish a result to a client", publish("", "events.alice.desk")),
    ("submit a job", publish("coordinator.commands", "job.submit")),
    ("bind all progress", lambda s, c: c.exchange_bind("coordinator.progress", "coordinator.events", "#")),
    (
        "progress of nobody's job",
        publish("coordinator.progress", "alice.0190163d-8694-739b-aea5-966c26f8ad91"),
    ),
    ("progress of all jobs", publish("coordinator.progress", "alice.*")),
    ("delete its own work queue", lambda s, c: c.queue_delete(f"work.{s.profiles['rig2']}")),
    ("delete its own control queue", lambda s, c: c.queue_delete("miner.rig2")),
]


@every("who, what, attack", [("bob", *case) for case in CLIENT] + [("rig2", *case) for case in MINER])
async def test_the_broker_refuses(who: str, what: str, attack: Attack, stage: Rights) -> None:
    """An operation on another's or the coordinator's queues, exchanges and keys is refused by the broker."""
    async with stage.channel(who) as channel:
        with pytest.raises(ChannelAccessRefused):
            async with asyncio.timeout(SOON):
                await attack(stage, channel)


async def test_no_other_virtual_host_and_no_wrong_secret(stage: Rights) -> None:
    """A key opens the coordinator's virtual host only, and only with its secret."""
    for url in (
        stage.login_url("bob", "%2F"),
        stage.login_url("bob").replace(PASSWORDS["bob"], "wrong-secret"),
    ):
        with pytest.raises((AMQPError, ConnectionError)):
            await aiormq.connect(url)
    other = stage.node.new_vhost().rpartition("/")[2]
    with pytest.raises((AMQPError, ConnectionError)):
        await aiormq.connect(stage.login_url("bob", other))


async def test_no_message_in_another_name(stage: Rights) -> None:
    """The broker checks the property `user_id`; headers and fields in the body prove nothing."""
    command = json.dumps({"service": "rehearsal", "payload": {}, "idempotency_key": "spoofed"}).encode()
    async with stage.channel("bob") as channel:
        with pytest.raises(ChannelPreconditionFailed):
            await channel.basic_publish(
                command,
                exchange="coordinator.commands",
                routing_key="job.submit",
                properties=Basic.Properties(message_type="job.submit", user_id="alice"),
            )
    answers: asyncio.Queue[tuple[str | None, Any]] = asyncio.Queue()

    async def note(message: DeliveredMessage) -> None:
        properties = message.header.properties
        answers.put_nowait((properties.correlation_id, json.loads(message.body)))

    async with stage.channel("bob") as channel:
        await channel.basic_consume("amq.rabbitmq.reply-to", note, no_ack=True)

        async def ask(number: str, body: bytes, kind: str, **properties: Any) -> Any:
            await channel.basic_publish(
                body,
                exchange="coordinator.commands",
                routing_key="job.submit",
                properties=Basic.Properties(
                    message_type=kind,
                    message_id=number,
                    correlation_id=number,
                    reply_to="amq.rabbitmq.reply-to",
                    headers={"principal": "alice", "signature": "00" * 32},
                    **properties,
                ),
            )
            async with asyncio.timeout(SOON):
                asked, answer = await answers.get()
            assert asked == number
            return answer

        assert (await ask("nobody", command, "job.submit"))["code"] == "UNAUTHORIZED_KEY"
        assert (await ask("mine", command, "job.submit", user_id="bob"))["status"] == "accepted"
        # The broker looks at the routing key: the type may not be another command.
        start = json.dumps({"job_id": "x"}).encode()
        assert (await ask("type", start, "job.start", user_id="bob"))["code"] == "INVALID_PAYLOAD"
    owners = {entry.data["client"] for entry in stage.log.entries("job.submitted.v1")}
    assert "bob" in owners
    spoofed = [e for e in stage.log.entries("job.submitted.v1") if e.data["client"] == "alice"]
    assert not any(e.data.get("idempotency_key") == "spoofed" for e in spoofed)


async def test_the_coordinator_is_no_detour_to_another_queue(stage: Rights) -> None:
    """A reply goes to no queue, whoever owns it: only straight to the channel that asks."""
    async with stage.channel("alice") as alice, stage.channel("bob") as bob:
        for name, channel in (("alice", alice), ("bob", bob)):
            await channel.queue_declare(f"events.{name}.desk", exclusive=True)
            await bob.basic_publish(
                json.dumps({"job_id": "no-uuid"}).encode(),
                exchange="coordinator.commands",
                routing_key="job.cancel",
                properties=Basic.Properties(
                    message_type="job.cancel",
                    message_id="detour",
                    user_id="bob",
                    reply_to=f"events.{name}.desk",
                ),
            )
        async with stage.as_user(BOB) as rpc:  # answered after the two
            assert (await rpc.call("job.cancel", {"job_id": str(uuid4())}))["status"] == "refused"
        for name, channel in (("alice", alice), ("bob", bob)):
            assert (await channel.basic_get(f"events.{name}.desk", no_ack=True)).body == b"", name


async def test_copies_of_events_fill_no_queue_of_ours(stage: Rights) -> None:
    """A client's events that a binding or a queue of its own passes on as commands are dropped."""
    async with stage.channel("bob") as bob, stage.internal() as own:
        before = (await own.queue_declare("coordinator.dead", passive=True)).message_count
        await bob.exchange_bind("coordinator.commands", "coordinator.events", "*.*.bob.*")
        await bob.queue_declare(
            "events.bob.forward",
            exclusive=True,
            arguments={
                "x-message-ttl": 0,
                "x-dead-letter-exchange": "coordinator.commands",
                "x-dead-letter-routing-key": "job.submit",
            },
        )
        await bob.queue_bind("events.bob.forward", "coordinator.events", "*.*.bob.*")
        async with stage.as_user(BOB) as rpc:
            job = await stage.submit(rpc, "copied", constraints={"region": "north"})
            await stage.ended([job])
            # A command that comes after the copies is answered after them.
            assert (await rpc.call("job.cancel", {"job_id": job}))["status"] == "refused"
        await bob.exchange_unbind("coordinator.commands", "coordinator.events", "*.*.bob.*")
        assert (await own.queue_declare("coordinator.dead", passive=True)).message_count == before


async def test_progress_of_another_miner_is_refused(stage: Rights) -> None:
    """Only the miner that holds a job may publish its progress; the holder's own goes through."""
    async with stage.as_user(ALICE) as rpc:
        job = await stage.submit(
            rpc, "progress", payload={"until": "progress"}, constraints={"region": "north"}
        )
        await stage.noted(f"begun-{job}")
        key = f"alice.{job}"
        async with stage.channel("rig2") as thief:
            with pytest.raises(ChannelAccessRefused):
                await thief.basic_publish(b"{}", exchange="coordinator.progress", routing_key=key)
        async with stage.channel("rig1") as holder:
            await holder.basic_publish(b"{}", exchange="coordinator.progress", routing_key=key)
        stage.release("progress")
        await stage.ended([job])


# --- keys and the answerer come and go ---------------------------------------------------------------------
async def test_without_an_answerer_nothing_is_lost(stage: Rights) -> None:
    """Miner and client go on, or go on again, after the answerer was away for longer than the cache lasts."""
    async with stage.as_user(ALICE) as rpc:
        running = await stage.submit(
            rpc, "through", payload={"until": "answerer-back"}, constraints={"region": "north"}
        )
        await stage.noted(f"begun-{running}")
        stage.answering.kill()
        # Beyond the cache: each command from now on may close its sender's channel.
        await asyncio.sleep(2 * CACHE_SECONDS)
        submits = [
            asyncio.create_task(stage.submit(rpc, f"away-{n}", constraints={"region": "north"}))
            for n in range(10)
        ]
        await asyncio.sleep(2 * CACHE_SECONDS)
        stage.answering = await asyncio.to_thread(stage.answerer)
        async with asyncio.timeout(60):
            jobs = await asyncio.gather(*submits)
        stage.release("answerer-back")
        await stage.ended([running, *jobs])
    completed = {entry.data["job_id"] for entry in stage.log.entries("job.completed.v1")}
    assert {running, *jobs} <= completed
    attempts = [e.data["attempt"] for e in stage.log.entries("job.completed.v1", job_id=running)]
    assert attempts == [1], "the running attempt kept its lease"


async def test_a_revoked_key_loses_its_connection(stage: Rights) -> None:
    """A key that was made at run time logs in at once; once revoked, its consumer ends and it stays out."""
    async with stage.client(ROOT) as root:
        made = await root.keys.create("visitor", "client")
        PASSWORDS["visitor"] = made["key"].partition(":")[2]
        connection = await aiormq.connect(stage.login_url("visitor"))
        channel = await connection.channel()

        async def ignore(message: DeliveredMessage) -> None:
            pass

        await channel.queue_declare("events.visitor.desk", exclusive=True)
        await channel.basic_consume("events.visitor.desk", ignore)
        await root.keys.revoke(made["key_id"])
        await eventually(lambda: connection.is_closed, "the connection closed", SOON)

    async def out() -> bool:
        try:
            again = await aiormq.connect(stage.login_url("visitor"))
        except (AMQPError, ConnectionError):
            return True
        await again.close()
        return False

    await eventually(out, "the login refused, at the latest when the cache has forgotten it")
