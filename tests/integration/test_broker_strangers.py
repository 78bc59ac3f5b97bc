"""Where all share one user of the broker: what a stranger with that user can't do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import aiormq
import pytest
from aiormq.abc import AbstractChannel
from pamqp.commands import Basic
from pydantic_core import from_json, to_json

from coordinator.application.keys.keyring import Keyring
from coordinator.application.ports import Intent
from coordinator.broker.connection import Broker, BrokerUnreachable
from coordinator.broker.envelope import MAX_AGE_MS, NOT_REPEATABLE
from coordinator.broker.inbox import CommandInbox
from coordinator.broker.offers import RabbitWorkQueues
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.mac import message_to_sign, sign_message
from coordinator.domain.messages import Principal, Role
from coordinator.wire.amqp.rpc import AmqpRpc
from coordinator.wire.answers import Accepted, Answer
from coordinator.wire.backoff import Backoff
from coordinator.wire.heartbeat import Heartbeat
from coordinator.wire.offers import Offer
from coordinator.wire.signed_messages import MessageSigner, offer_for
from tests.harness.cases import every
from tests.harness.keys import SIGNER

KEYS = Keyring({Role.MINER: ["rig:secret-of-rig"], Role.ADMIN: ["root:secret-of-root"]})
COORDINATOR = SigningKey.from_hex("5a" * 32).key_id
QUICK = Backoff(first_seconds=0.05, longest_seconds=0.2)
SOON = 60.0
REGISTER = {
    "miner_id": "rig",
    "session_id": "session-1",
    "capabilities": {"services": ["checksum"]},
    "public_key": "A" * 43,
}


class Front:
    """Accepts every command and remembers it."""

    def __init__(self) -> None:
        self.intents: list[Intent] = []

    async def handle(self, intents: Sequence[Intent]) -> list[Answer]:
        self.intents += intents
        return [Accepted(1, {"miner_id": "rig", "profile": "p"}) for _ in intents]

    async def heartbeat(self, principal: Principal, beats: Sequence[Heartbeat]) -> list[Answer]:
        return [Accepted(1) for _ in beats]

    async def canonical(self, service: str) -> str:
        return service

    async def state(self, stream: UUID) -> Any:
        return None


def an_offer(**payload: object) -> Offer:
    return Offer(
        job_id=uuid4(),
        attempt=1,
        service="checksum",
        payload=payload,
        payload_salt="00" * 16,
        payload_digest="00" * 32,
        timeout_seconds=60,
        expires_at=2**41,
    )


async def ask(channel: AbstractChannel, kind: str, fields: object, issued_at: int | None) -> Any:
    """A message that somebody recorded, word for word; the answer."""
    who = "rig" if kind.startswith("miner.") else "root"
    body, message_id = to_json(fields), uuid4().hex
    signed = message_to_sign(kind, message_id, "amq.rabbitmq.reply-to", message_id, body, issued_at)
    headers: dict[str, Any] = {"principal": who, "signature": sign_message(f"secret-of-{who}", signed)}
    if issued_at is not None:
        headers["issued_at"] = issued_at
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def note(message: aiormq.abc.DeliveredMessage) -> None:
        answered.set_result(from_json(message.body))

    consuming = await channel.basic_consume("amq.rabbitmq.reply-to", note, no_ack=True)
    properties = Basic.Properties(
        message_type=kind,
        message_id=message_id,
        correlation_id=message_id,
        reply_to="amq.rabbitmq.reply-to",
        headers=headers,
    )
    await channel.basic_publish(
        body, exchange="coordinator.commands", routing_key=kind, properties=properties
    )
    async with asyncio.timeout(SOON):
        answer = await answered
    await channel.basic_cancel(str(consuming.consumer_tag))
    return answer


async def test_recorded_commands_change_nothing(broker: Broker, amqp_url: str) -> None:
    """A drain names its session; commands that could bring back an earlier state have a recent moment."""
    front = Front()
    inbox = CommandInbox(broker, front, KEYS, SIGNER)
    await inbox.start()
    connection = await aiormq.connect(amqp_url)
    try:
        channel = await connection.channel()
        now = time.time_ns() // 1_000_000
        refused = await ask(channel, "miner.drain", {"miner_id": "rig"}, now)
        assert (refused["code"], "session_id" in refused["detail"]) == ("INVALID_PAYLOAD", True)
        for kind in NOT_REPEATABLE:
            fields = REGISTER if kind == "miner.register" else {"service": "checksum"}
            for moment in (None, now - MAX_AGE_MS - 60_000, now + MAX_AGE_MS + 60_000):
                refused = await ask(channel, kind, fields, moment)
                assert (refused["code"], "issued_at" in refused["detail"]) == ("INVALID_PAYLOAD", True), kind
        assert front.intents == []
        assert (await ask(channel, "miner.register", REGISTER, now))["status"] == "accepted"
        assert (await ask(channel, "service.retire", {"service": "checksum"}, now))["status"] == "accepted"
    finally:
        await connection.close()
        await inbox.stop()


@every("arguments", [{}, {"x-queue-type": "quorum"}, {"x-max-length": 1, "x-overflow": "drop-head"}])
async def test_a_name_that_was_taken_heals(arguments: dict[str, Any], broker: Broker, amqp_url: str) -> None:
    """A work or control queue of other properties, declared first, is replaced when its miner registers."""
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    inbox = CommandInbox(broker, Front(), KEYS, SIGNER)
    queues = RabbitWorkQueues(broker, SIGNER)
    try:
        await inbox.start()
        for name in ("work.p", "miner.rig"):
            await channel.queue_delete(name)
            await channel.queue_declare(name, durable=True, arguments=arguments)
        await queues.ensure("p")
        async with AmqpRpc(amqp_url, "rig:secret-of-rig", backoff=QUICK) as rpc, asyncio.timeout(SOON):
            answer = await rpc.call("miner.register", REGISTER)
        assert answer["status"] == "accepted"
        offered = an_offer(n=1)
        assert await queues.publish("p", [[offered]]) == []
        taken = await queues.take("p", SOON)
        assert taken is not None
        assert taken.offer == offered
        await taken.done()
    finally:
        await queues.stop()
        await inbox.stop()
        await connection.close()


async def test_a_name_that_a_connection_holds_is_named(broker: Broker, amqp_url: str) -> None:
    """An exclusive queue can't be replaced: the refusal says why, and its end heals it."""
    holder = await aiormq.connect(amqp_url)
    channel = await holder.channel()
    for name in ("work.p", "miner.rig"):
        await channel.queue_declare(name, exclusive=True)
    connection = await aiormq.connect(amqp_url)
    inbox = CommandInbox(broker, Front(), KEYS, SIGNER)
    queues = RabbitWorkQueues(broker, SIGNER)
    await inbox.start()
    try:
        with pytest.raises(BrokerUnreachable, match=r"work\.p is another connection's"):
            await queues.ensure("p")
        now = time.time_ns() // 1_000_000
        refused = await ask(await connection.channel(), "miner.register", REGISTER, now)
        assert refused["code"] == "UNAVAILABLE"
        assert "miner.rig is another connection's" in refused["detail"]

        await holder.close()
        async with AmqpRpc(amqp_url, "rig:secret-of-rig", backoff=QUICK) as rpc, asyncio.timeout(SOON):
            assert (await rpc.call("miner.register", REGISTER))["status"] == "accepted"
        await queues.ensure("p")
    finally:
        await queues.stop()
        await inbox.stop()
        await connection.close()


async def test_polls_get_no_forged_offer(broker: Broker, amqp_url: str) -> None:
    """The coordinator hands out only its own offers from a work queue, to miners that poll over HTTP."""
    queues = RabbitWorkQueues(broker, SIGNER)
    await queues.ensure("p")
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    stranger = MessageSigner(SigningKey.generate())
    try:
        for signer, profile in ((None, "p"), (stranger, "p"), (SIGNER, "another")):
            body = to_json([an_offer(forged=True)])
            headers = None if signer is None else signer.headers(offer_for(profile), body, 60_000)
            await channel.basic_publish(
                body, routing_key="work.p", properties=Basic.Properties(headers=headers)
            )
        genuine = an_offer(forged=False)
        assert await queues.publish("p", [[genuine]]) == []
        taken = await queues.take("p", SOON)
        assert taken is not None
        assert taken.offer == genuine
        await taken.done()
    finally:
        await connection.close()
        await queues.stop()


async def test_nobody_gets_an_answer_for_anothers_request(broker: Broker, amqp_url: str) -> None:
    """A refusal that a stranger obtains for an altered copy of a request is no answer to the request."""
    inbox = CommandInbox(broker, Front(), KEYS, SIGNER)
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    # The stranger takes the command off the queue before the coordinator reads it.
    try:
        async with AmqpRpc(
            amqp_url,
            "rig:secret-of-rig",
            coordinator_keys=[COORDINATOR],
            answer_timeout_seconds=3,
            backoff=QUICK,
        ) as rpc:
            command = {"miner_id": "rig", "session_id": "session-1"}
            calling = asyncio.create_task(rpc.call("miner.leave", command))
            seen = await next_message(channel, "coordinator.commands")
            properties = seen.header.properties
            victim, headers = str(properties.reply_to), dict(properties.headers or {})
            properties.reply_to = queue = str((await channel.queue_declare(exclusive=True)).queue)
            await inbox.start()
            for change in ({"principal": "root"}, {"signature": "00" * 32}, {"issued_at": 1}):
                properties.headers = {**headers, **change}
                await channel.basic_publish(
                    seen.body,
                    exchange="coordinator.commands",
                    routing_key="miner.leave",
                    properties=properties,
                )
                answer = await next_message(channel, queue)
                assert from_json(answer.body)["code"] == "UNAUTHORIZED_KEY"
                # Everybody with the shared user may publish to the address of a direct reply that they saw.
                await channel.basic_publish(
                    answer.body, routing_key=victim, properties=answer.header.properties
                )
            async with asyncio.timeout(SOON):
                assert (await calling)["status"] == "accepted"
    finally:
        await inbox.stop()
        await connection.close()


async def next_message(channel: AbstractChannel, queue: str) -> aiormq.abc.DeliveredMessage:
    async with asyncio.timeout(SOON):
        while True:
            message = await channel.basic_get(queue, no_ack=True)
            if message.body:
                return message
            await asyncio.sleep(0.02)
