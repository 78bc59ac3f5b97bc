"""The AMQP edge against a real broker, with a front that records what it is asked."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import pika
import pytest
from aio_pika import Message, connect
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from pamqp import decode
from pamqp.commands import Basic

from coordinator.application.keys.keyring import Keyring
from coordinator.application.ports import Intent
from coordinator.broker.connection import Broker
from coordinator.broker.inbox import CommandInbox, retry_delay
from coordinator.broker.pamqp_patch import read_tolerantly
from coordinator.broker.topology import COMMAND_DELIVERY_LIMIT
from coordinator.crypto.mac import message_to_sign, sign_message
from coordinator.domain.errors import Code
from coordinator.domain.job import JobSubmit
from coordinator.domain.messages import Principal, Role
from coordinator.wire.answers import Accepted, Answer, Refused
from coordinator.wire.heartbeat import Heartbeat
from coordinator.wire.topology import COMMANDS_QUEUE, DEAD_QUEUE, HEARTBEATS_QUEUE
from tests.harness.cases import every
from tests.harness.keys import SIGNER
from tests.harness.waiting import eventually

SOON = 60.0
SECRETS = {"alice": "alice-secret", "gpu": "gpu-secret-1"}
SUBMIT = {"service": "checksum", "payload": {"text": "hello"}}


class RecordingFront:
    """Answers everything with "accepted", unless told otherwise."""

    def __init__(self) -> None:
        self.calls: list[list[Intent]] = []
        self.beats: list[tuple[Principal, list[Heartbeat]]] = []
        self.answer: Callable[[Intent], Answer] = lambda _: Accepted(7, {"job_id": "j"})
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None
        self.waiting = 0
        self.most_waiting = 0
        self.called = asyncio.Condition()

    @property
    def intents(self) -> list[Intent]:
        return [intent for call in self.calls for intent in call]

    async def handle(self, intents: Sequence[Intent]) -> list[Answer]:
        self.calls.append(list(intents))
        self.waiting += 1
        self.most_waiting = max(self.waiting, self.most_waiting)
        async with self.called:
            self.called.notify_all()
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.error is not None:
                raise self.error
            return [self.answer(intent) for intent in intents]
        finally:
            self.waiting -= 1

    async def heartbeat(self, principal: Principal, beats: Sequence[Heartbeat]) -> list[Answer]:
        self.beats.append((principal, list(beats)))
        async with self.called:
            self.called.notify_all()
        if self.error is not None:
            raise self.error
        return [Accepted(8, {"state": "ONLINE", "cancel": []}) for _ in beats]

    async def canonical(self, service: str) -> str:
        return service

    async def state(self, stream: UUID) -> Any:
        return None

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SOON), self.called:
            await self.called.wait_for(condition)


class Sender:
    """A client: sends signed messages and waits for what comes back."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def start(self) -> None:
        self.connection = await connect(self.url)
        self.channel = await self.connection.channel(on_return_raises=True)
        self.commands = await self.channel.get_exchange("coordinator.commands")
        self.replies = await self.channel.declare_queue(exclusive=True)
        self.dead = await self.channel.get_queue(DEAD_QUEUE)

    async def stop(self) -> None:
        await self.connection.close()

    async def send(
        self,
        body: Any,
        kind: str | None = "job.submit",
        *,
        who: str = "alice",
        message_id: str | None = "m",
        reply: bool = True,
        reply_to: str | None = None,
        correlation_id: str = "c",
        secret: str | None = None,
        routing_key: str | None = None,
        queue: str | None = None,
        headers: dict[str, Any] | None = None,
        issued_at: int | None = None,
    ) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply_to = reply_to or (self.replies.name if reply else None)
        routing_key = routing_key or kind or ""
        signed_reply_to = "amq.rabbitmq.reply-to" if "reply-to" in (reply_to or "") else reply_to or ""
        signed = message_to_sign(
            kind or routing_key, message_id or "", signed_reply_to, correlation_id, raw, issued_at
        )
        message = Message(
            raw,
            type=kind,
            message_id=message_id,
            reply_to=reply_to,
            correlation_id=correlation_id,
            content_type="application/json",
            headers={
                "principal": who,
                "signature": sign_message(secret or SECRETS.get(who, "?"), signed),
                **({} if issued_at is None else {"issued_at": issued_at}),
                **(headers or {}),
            },
        )
        if message_id is None:
            await self._send_without_id(message, routing_key)
        elif queue is not None:
            await self.channel.default_exchange.publish(message, queue)
        else:
            await self.commands.publish(message, routing_key)

    async def _send_without_id(self, message: Message, routing_key: str) -> None:
        def publish() -> None:  # aiormq gives every message an id; pika does not
            properties = pika.BasicProperties(
                type=message.type,
                reply_to=message.reply_to,
                correlation_id=message.correlation_id,
                headers=dict(message.headers),
            )
            publish_raw(self.url, routing_key, message.body, properties)

        await asyncio.to_thread(publish)

    async def ask(self, body: Any, kind: str | None = "job.submit", **options: Any) -> Any:
        await self.send(body, kind, **options)
        return await self.reply()

    async def reply(self) -> Any:
        message = await next_message(self.replies)
        assert message.correlation_id == "c"
        assert message.content_type == "application/json"
        return json.loads(message.body)

    async def dead_letter(self) -> AbstractIncomingMessage:
        return await next_message(self.dead)

    async def count(self, queue: str) -> int:
        """How many messages wait there, those that are being handled not among them."""
        declared = await self.channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0


def publish_raw(url: str, routing_key: Any, body: bytes, properties: pika.BasicProperties) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("coordinator.commands", routing_key, body, properties)


async def next_message(queue: AbstractQueue) -> AbstractIncomingMessage:
    async with asyncio.timeout(SOON), queue.iterator() as messages:
        async for message in messages:
            await message.ack()
            return message
    raise AssertionError("the queue was closed")


@pytest.fixture
def gateway() -> RecordingFront:
    return RecordingFront()


KEYS = Keyring({Role.CLIENT: ["alice:alice-secret"], Role.MINER: ["gpu:gpu-secret-1"]})


@pytest.fixture
async def inbox(broker: Broker, gateway: RecordingFront) -> AsyncIterator[CommandInbox]:
    inbox = CommandInbox(broker, gateway, KEYS, SIGNER, graceful_timeout=1.0)
    await inbox.start()
    yield inbox
    await inbox.stop()


@pytest.fixture
async def sender(inbox: CommandInbox, amqp_url: str) -> AsyncIterator[Sender]:
    sender = Sender(amqp_url)
    await sender.start()
    yield sender
    await sender.stop()


# --- what is meant to work ---------------------------------------------------------------------------------
async def test_a_command_is_answered(sender: Sender, gateway: RecordingFront) -> None:
    """One object: one intent with its sender, id and trace, and one object as the answer."""
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"

    answer = await sender.ask(SUBMIT, headers={"traceparent": trace})

    assert answer == {"status": "accepted", "job_id": "j", "position": 7}
    (intent,) = gateway.intents
    assert intent.principal == Principal("alice", Role.CLIENT)
    assert intent.message_id == "m"
    assert intent.traceparent == trace
    assert isinstance(intent.command, JobSubmit)
    assert intent.command.payload == SUBMIT["payload"]
    assert await sender.count(COMMANDS_QUEUE) == 0


async def test_an_array_is_answered_by_an_array(sender: Sender, gateway: RecordingFront) -> None:
    """Elements are known by the message's id and their place, and answered in order in one message."""
    gateway.answer = lambda intent: Accepted(1, {"job_id": intent.message_id})

    answer = await sender.ask([SUBMIT] * 500)

    assert [f"m:{i}" for i in range(500)] == [a["job_id"] for a in answer]
    assert len(gateway.calls) == 1


async def test_elements_fail_singly(sender: Sender, gateway: RecordingFront) -> None:
    """A bad element of an array is refused in its place; the others are handled."""
    gateway.answer = lambda intent: Accepted(1, {"job_id": intent.message_id})
    bad = {**SUBMIT, "typo": 1}

    answer = await sender.ask([SUBMIT, bad, 5, SUBMIT, None])

    assert [a["status"] for a in answer] == ["accepted", "refused", "refused", "accepted", "refused"]
    assert {"INVALID_PAYLOAD"} == {a["code"] for a in answer if a["status"] == "refused"}
    assert [i.message_id for i in gateway.intents] == ["m:0", "m:3"]
    assert await sender.count(DEAD_QUEUE) == 0


async def test_an_array_of_bad_elements_only(sender: Sender, gateway: RecordingFront) -> None:
    """Nothing is left for the front then, and the answer is an array all the same."""
    answer = await sender.ask([1, 2])

    assert [a["code"] for a in answer] == ["INVALID_PAYLOAD", "INVALID_PAYLOAD"]
    assert gateway.calls == []


async def test_the_routing_key_names_the_type_where_the_property_is_missing(
    sender: Sender, gateway: RecordingFront
) -> None:
    """Without a `type` the routing key is the type, and is what is signed."""
    answer = await sender.ask(SUBMIT, None, routing_key="job.submit")

    assert answer["status"] == "accepted"
    assert gateway.intents[0].command.topic == "job.submit"


async def test_a_refusal_by_the_front_is_an_ordinary_answer(
    sender: Sender, inbox: CommandInbox, gateway: RecordingFront
) -> None:
    """What `decide` refuses is answered and is no dead letter, with a reply wanted or not."""
    gateway.answer = lambda _: Refused(Code.CONFLICT_STATE, "it is final")

    answer = await sender.ask(SUBMIT)
    await sender.send(SUBMIT, reply=False)
    await gateway.until(lambda: len(gateway.calls) == 2)

    assert answer == {"status": "refused", "code": "CONFLICT_STATE", "detail": "it is final"}
    await nothing_left(sender, inbox)
    assert await sender.count(DEAD_QUEUE) == 0


async def test_a_submit_that_could_not_be_recognised_again(sender: Sender, gateway: RecordingFront) -> None:
    """A submit with neither an idempotency key nor a message id is refused; with either it is not."""
    answer = await sender.ask(SUBMIT, message_id=None)
    keyed = await sender.ask({**SUBMIT, "idempotency_key": "k"}, message_id=None)

    assert answer["code"] == "INVALID_PAYLOAD"
    assert "message_id" in answer["detail"]
    assert keyed["status"] == "accepted"
    assert gateway.intents[0].message_id is None


async def test_messages_are_handled_together(sender: Sender, gateway: RecordingFront) -> None:
    """While one command waits for its commit the next ones are handed in, so that one commit can have all."""
    gateway.gate = asyncio.Event()
    for i in range(40):
        await sender.send(SUBMIT, message_id=f"m{i}")

    await gateway.until(lambda: gateway.waiting == 40)
    gateway.gate.set()

    answers = [await sender.reply() for _ in range(40)]
    assert {"accepted"} == {a["status"] for a in answers}
    assert gateway.most_waiting == 40


async def test_the_prefetch_bounds_what_is_in_flight(
    broker: Broker, gateway: RecordingFront, amqp_url: str
) -> None:
    """No more messages than the prefetch are handled at a time; the rest waits on the broker."""
    gateway.gate = asyncio.Event()
    inbox = CommandInbox(broker, gateway, KEYS, SIGNER, prefetch=3, graceful_timeout=1.0)
    await inbox.start()
    sender = Sender(amqp_url)
    await sender.start()
    for i in range(10):
        await sender.send(SUBMIT, message_id=f"m{i}")

    await gateway.until(lambda: gateway.waiting == 3)
    assert await sender.count(COMMANDS_QUEUE) == 7
    gateway.gate.set()

    assert len([await sender.reply() for _ in range(10)]) == 10
    assert gateway.most_waiting == 3
    await inbox.stop()
    await sender.stop()


async def test_what_is_done_is_acknowledged_although_something_before_it_is_not(
    sender: Sender, inbox: CommandInbox, gateway: RecordingFront
) -> None:
    """A command that takes long holds up the acknowledgement of none behind it."""
    slow = asyncio.Event()
    handle = gateway.handle

    async def handle_slowly(intents: Sequence[Intent]) -> list[Answer]:
        if intents[0].message_id == "m3":
            await slow.wait()
        return await handle(intents)

    gateway.handle = handle_slowly  # type: ignore[method-assign]
    for i in range(8):
        await sender.send(SUBMIT, message_id=f"m{i}")
    assert len([await sender.reply() for _ in range(7)]) == 7

    await inbox.stop()

    async def given_back() -> bool:
        return await sender.count(COMMANDS_QUEUE) == 1

    await eventually(given_back)
    slow.set()
    await inbox.start()
    assert (await sender.reply())["status"] == "accepted"
    await nothing_left(sender, inbox)


async def test_a_registered_miner_finds_its_control_queue(sender: Sender, gateway: RecordingFront) -> None:
    """The answer to `miner.register` means that the miner's queue of hints is there."""
    register = {
        "miner_id": "node@gpu",
        "session_id": "session-1",
        "capabilities": {"services": ["checksum"]},
        "public_key": "A" * 43,
    }
    answer = await sender.ask(register, "miner.register", who="gpu", issued_at=time.time_ns() // 1_000_000)

    assert answer["status"] == "accepted"
    assert await sender.count("miner.node@gpu") == 0


# --- heartbeats --------------------------------------------------------------------------------------------
BEAT = {"miner_id": "gpu", "session_id": "session-1"}


async def test_heartbeats_are_answered(sender: Sender, gateway: RecordingFront) -> None:
    """One heartbeat, an array of them, and one with a bad element."""
    send: dict[str, Any] = {"kind": "miner.heartbeat", "who": "gpu", "queue": HEARTBEATS_QUEUE}
    inflight = [{"job_id": str(uuid4()), "attempt": 2}]

    one = await sender.ask({**BEAT, "inflight": inflight}, **send)
    many = await sender.ask([BEAT, {**BEAT, "typo": 1}], **send)

    assert one == {"status": "accepted", "state": "ONLINE", "cancel": [], "position": 8}
    assert [a["status"] for a in many] == ["accepted", "refused"]
    assert gateway.beats[0][1][0].inflight[0].attempt == 2


async def test_heartbeats_of_others(sender: Sender, gateway: RecordingFront) -> None:
    """A client's key and another type of message are refused on the queue of heartbeats."""
    by_client = await sender.ask(BEAT, "miner.heartbeat", queue=HEARTBEATS_QUEUE)
    other = await sender.ask(SUBMIT, "job.submit", queue=HEARTBEATS_QUEUE)

    assert by_client["code"] == "FORBIDDEN"
    assert other["code"] == "UNKNOWN_COMMAND"
    assert gateway.beats == []


async def test_a_heartbeat_that_fails_is_forgotten(
    sender: Sender, inbox: CommandInbox, gateway: RecordingFront
) -> None:
    """A heartbeat means nothing later: it is neither kept nor buried when the front fails."""
    gateway.error = RuntimeError("no")
    send: dict[str, Any] = {"kind": "miner.heartbeat", "who": "gpu", "queue": HEARTBEATS_QUEUE}

    answer = await sender.ask(BEAT, **send)
    await sender.send(BEAT, reply=False, **send)
    await gateway.until(lambda: len(gateway.beats) == 2)
    await nothing_left(sender, inbox, HEARTBEATS_QUEUE)

    assert answer["code"] == "INTERNAL"
    assert await sender.count(DEAD_QUEUE) == 0


# --- hostile input -----------------------------------------------------------------------------------------
DEEP = b'{"service":"checksum","payload":{"a":' + b"[" * 5000 + b"]" * 5000 + b"}}"
HOSTILE = [
    pytest.param(b"", "INVALID_PAYLOAD", id="empty"),
    pytest.param(b'{"service":', "INVALID_PAYLOAD", id="malformed"),
    pytest.param(b"\xff\xfe\x00", "INVALID_PAYLOAD", id="not UTF-8"),
    pytest.param(b"null", "INVALID_PAYLOAD", id="null"),
    pytest.param(b"3", "INVALID_PAYLOAD", id="a number"),
    pytest.param(b'"job.submit"', "INVALID_PAYLOAD", id="a string"),
    pytest.param(b"[]", "INVALID_PAYLOAD", id="empty array"),
    pytest.param(b'{"service":1,"payload":[]}', "INVALID_PAYLOAD", id="wrong types"),
    pytest.param(DEEP, "INVALID_PAYLOAD", id="deep"),
    pytest.param(b"[" * 10_000, "INVALID_PAYLOAD", id="only brackets"),
    pytest.param(b'{"service":"checksum","payload":{"a":"\\u0000"}}', "INVALID_PAYLOAD", id="NUL"),
    pytest.param(b'{"service":"checksum","payload":{"a":"\\ud800"}}', "INVALID_PAYLOAD", id="surrogate"),
    pytest.param(b'{"service":"checksum","payload":{"a":NaN}}', "INVALID_PAYLOAD", id="NaN"),
    pytest.param(b'{"service":"checksum","payload":{"a":1e999}}', "INVALID_PAYLOAD", id="infinite"),
    pytest.param(b'{"service":"checksum","payload":{"a":' + b"9" * 30 + b"}}", "INVALID_PAYLOAD", id="huge"),
    pytest.param(json.dumps([SUBMIT] * 501).encode(), "TOO_LARGE", id="501 elements"),
    pytest.param(b" " * 2**21, "TOO_LARGE", id="2 MiB"),
    pytest.param(b"[" + b"1.0," * 60_000 + b"1.0]", "TOO_LARGE", id="many values"),
]


@pytest.mark.parametrize(("body", "code"), HOSTILE)
async def test_hostile_bodies(sender: Sender, gateway: RecordingFront, body: bytes, code: str) -> None:
    """What can't be handled is refused with its code, becomes a dead letter, and stops nobody else."""
    answer = await sender.ask(body)
    dead = await sender.dead_letter()

    assert (answer["status"], answer["code"]) == ("refused", code)
    assert dead.body == body
    assert dead.headers["code"] == code
    assert dead.headers["reason"] == answer["detail"]
    assert dead.headers["principal"] == "alice"
    assert dead.headers["routing_key"] == "job.submit"
    assert "signature" not in dead.headers
    assert gateway.calls == []
    assert (await sender.ask(SUBMIT))["status"] == "accepted"


async def test_hostile_bodies_without_a_reply(
    sender: Sender, inbox: CommandInbox, gateway: RecordingFront
) -> None:
    """Where nobody wants a reply, the dead letters are what there is."""
    await sender.send(b"{", reply=False)

    assert (await sender.dead_letter()).headers["code"] == "INVALID_PAYLOAD"
    await nothing_left(sender, inbox)


@every(
    ("options", "code"),
    [
        pytest.param({"kind": "job.nothing"}, "UNKNOWN_COMMAND", id="unknown type"),
        pytest.param({"kind": "x" * 255, "routing_key": "x"}, "UNKNOWN_COMMAND", id="long type"),
        pytest.param({"kind": "job.lose"}, "INVALID_PAYLOAD", id="our own type"),
        pytest.param({"kind": "miner.leave"}, "INVALID_PAYLOAD", id="another role's"),
        pytest.param({"secret": "a-wrong-secret"}, "UNAUTHORIZED_KEY", id="forged"),
        pytest.param({"who": "mallory"}, "UNAUTHORIZED_KEY", id="unknown name"),
        pytest.param({"headers": {"signature": None}}, "UNAUTHORIZED_KEY", id="no signature"),
        pytest.param({"headers": {"signature": "ü" * 64}}, "UNAUTHORIZED_KEY", id="no hex"),
        pytest.param({"headers": {"signature": {"a": 1}}}, "UNAUTHORIZED_KEY", id="a table"),
        pytest.param({"headers": {"principal": None}}, "UNAUTHORIZED_KEY", id="no principal"),
        pytest.param({"headers": {"principal": ["alice"]}}, "UNAUTHORIZED_KEY", id="a list"),
        pytest.param({"headers": {"principal": "bob"}}, "UNAUTHORIZED_KEY", id="another's name"),
        pytest.param({"message_id": "a\x00b"}, "INVALID_PAYLOAD", id="NUL in the id"),
    ],
)
async def test_hostile_properties(
    sender: Sender, gateway: RecordingFront, options: dict[str, Any], code: str
) -> None:
    """Missing, wrong and forged properties are refused with their code and become dead letters."""
    answer = await sender.ask(SUBMIT, **options)

    assert (answer["status"], answer["code"]) == ("refused", code)
    assert (await sender.dead_letter()).headers["code"] == code
    assert gateway.calls == []


async def test_a_signature_is_good_for_its_message_only(sender: Sender, gateway: RecordingFront) -> None:
    """Another body, id, type or reply queue under a copied signature is refused."""
    signed = message_to_sign("job.submit", "m", sender.replies.name, "c", json.dumps(SUBMIT).encode())
    headers = {"signature": sign_message(SECRETS["alice"], signed)}

    assert (await sender.ask(SUBMIT, headers=headers))["status"] == "accepted"
    for changed in (
        {"body": {**SUBMIT, "priority": 9}},
        {"body": SUBMIT, "message_id": "m2"},
        {"body": SUBMIT, "kind": None, "routing_key": "job.cancel"},
    ):
        assert (await sender.ask(headers=headers, **changed))["code"] == "UNAUTHORIZED_KEY"
    assert len(gateway.calls) == 1


def unreadable(**properties: Any) -> pika.BasicProperties:
    return pika.BasicProperties(**{"type": "job.submit", "message_id": "m", **properties})


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@every(
    "properties",
    [
        pytest.param(unreadable(type=b"\xff\xff"), id="type not UTF-8"),
        pytest.param(unreadable(type=b"\xff" * 255), id="longer when it is replaced"),
        pytest.param(unreadable(message_id=b"\xff" * 255, reply_to=b"\xff" * 255), id="so are others"),
        pytest.param(unreadable(content_type=b"\xff" * 255), id="and this one"),
        pytest.param(unreadable(headers={"principal": "p" * 130_000}), id="a name as large as a frame"),
        pytest.param(unreadable(correlation_id=b"\xc3\x28"), id="correlation id not UTF-8"),
        pytest.param(unreadable(reply_to=b"\xc3\x28"), id="reply_to not UTF-8"),
        pytest.param(unreadable(priority=255), id="priority"),
        pytest.param(unreadable(timestamp=2**63 - 1), id="timestamp"),
        pytest.param(unreadable(headers={"a": b"\xff"}), id="bytes in a header"),
        pytest.param(unreadable(headers={"principal": b"\xff", "signature": 2**40}), id="odd headers"),
        pytest.param(unreadable(headers={"a": nested(400)}), id="nested headers"),
        pytest.param(unreadable(app_id="x" * 255, user_id="guest"), id="user id"),
    ],
)
async def test_properties_that_can_hardly_be_read(
    sender: Sender, inbox: CommandInbox, properties: pika.BasicProperties
) -> None:
    """Properties that RabbitMQ lets through and the codec refuses do not cost the connection."""
    await asyncio.to_thread(publish_raw, sender.url, "job.submit", b"{}", properties)

    dead = await sender.dead_letter()

    assert dead.headers["code"] == "UNAUTHORIZED_KEY"
    assert inbox.connected
    await nothing_left(sender, inbox)
    assert (await sender.ask(SUBMIT))["status"] == "accepted"


def test_a_delivery_mode_that_does_not_exist() -> None:
    """RabbitMQ 3.10 refuses one itself; where a broker does not, it is read as absent."""
    read_tolerantly()
    properties = Basic.Properties()

    properties.unmarshal(Basic.Properties.flags["delivery_mode"], b"\x07")

    assert properties.delivery_mode is None


def test_a_header_table_that_is_nested_without_end() -> None:
    """A table too deep to read is read as empty, and what follows it is read all the same."""
    read_tolerantly()
    array = b""
    for _ in range(5000):
        array = b"A" + struct.pack(">I", len(array)) + array
    table = b"\x01a" + array

    assert decode.METHODS["table"](struct.pack(">I", len(table)) + table) == (len(table) + 4, {})


async def test_a_routing_key_that_is_not_text(sender: Sender, inbox: CommandInbox) -> None:
    """A routing key that is not UTF-8 does not cost the connection either."""
    await asyncio.to_thread(publish_raw, sender.url, b"\xff" * 255, b"{}", pika.BasicProperties())

    assert (await sender.dead_letter()).headers["code"] == "UNAUTHORIZED_KEY"
    assert (await sender.ask(SUBMIT))["status"] == "accepted"


@pytest.mark.parametrize(
    "reply_to", ["gone", "amq.rabbitmq.reply-to.nonsense", "amq.gen-nothing", "x" * 255, "ü" * 127]
)
async def test_a_reply_to_a_queue_that_is_gone(
    sender: Sender, inbox: CommandInbox, gateway: RecordingFront, reply_to: str
) -> None:
    """A departed sender's command counts, and its lost reply hurts nobody."""
    await sender.send(SUBMIT, reply_to=reply_to)
    await gateway.until(lambda: len(gateway.calls) == 1)

    await nothing_left(sender, inbox)
    assert (await sender.ask(SUBMIT))["status"] == "accepted"


async def test_direct_replies(sender: Sender) -> None:
    """RabbitMQ's direct reply-to works: the signed name is the one before the broker rewrites it."""
    # The broker replaces amq.rabbitmq.reply-to by a name of its own, which the sender can't sign.
    replies = await sender.channel.get_queue("amq.rabbitmq.reply-to")
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def on_reply(message: AbstractIncomingMessage) -> None:
        await arrived.put(message.body)

    await replies.consume(on_reply, no_ack=True)
    await sender.send(SUBMIT, reply_to="amq.rabbitmq.reply-to")

    answer = json.loads(await asyncio.wait_for(arrived.get(), SOON))
    assert answer["status"] == "accepted"


@pytest.mark.parametrize("reply_to", [COMMANDS_QUEUE, HEARTBEATS_QUEUE, "work.p", "miner.gpu"])
async def test_replies_never_go_to_our_own_queues(
    sender: Sender, inbox: CommandInbox, gateway: RecordingFront, reply_to: str
) -> None:
    """Nobody can make the coordinator write to a queue of its own by asking for a reply there."""
    work = await sender.channel.declare_queue("work.p", durable=True)
    await sender.send(SUBMIT, reply_to=reply_to)

    assert (await sender.dead_letter()).headers["code"] == "INVALID_PAYLOAD"
    await nothing_left(sender, inbox)
    assert gateway.calls == []
    assert await sender.count(DEAD_QUEUE) == 0
    assert await sender.count(work.name) == 0


# --- a front that fails ------------------------------------------------------------------------------------
async def test_a_front_that_raises(sender: Sender, gateway: RecordingFront) -> None:
    """A bug behind the front is answered INTERNAL; without a reply the command becomes a dead letter."""
    gateway.error = RuntimeError("a bug")

    assert (await sender.ask(SUBMIT))["code"] == "INTERNAL"
    await sender.send([SUBMIT, SUBMIT], reply=False)
    dead = await sender.dead_letter()

    assert dead.headers["code"] == "INTERNAL"
    assert json.loads(dead.body) == [SUBMIT, SUBMIT]
    gateway.error = None
    assert (await sender.ask(SUBMIT))["status"] == "accepted"


async def test_a_front_that_miscounts(sender: Sender, gateway: RecordingFront) -> None:
    """Answers that do not fit the questions are never told to anybody."""
    gateway.handle = lambda intents: asyncio.sleep(0, [Accepted(1)])  # type: ignore[method-assign]

    answer = await sender.ask([SUBMIT, SUBMIT])

    assert [a["code"] for a in answer] == ["INTERNAL", "INTERNAL"]


async def test_a_front_that_hangs(broker: Broker, gateway: RecordingFront, amqp_url: str) -> None:
    """A front that does not answer is taken for one whose log is out of reach, and others go on."""
    gateway.gate = asyncio.Event()
    inbox = CommandInbox(broker, gateway, KEYS, SIGNER, handle_timeout=0.3, graceful_timeout=0.5)
    await inbox.start()
    sender = Sender(amqp_url)
    await sender.start()

    assert (await sender.ask(SUBMIT))["code"] == "UNAVAILABLE"
    gateway.gate.set()
    assert (await sender.ask(SUBMIT))["status"] == "accepted"

    await inbox.stop()
    await sender.stop()


async def test_a_stop_while_the_front_hangs(broker: Broker, gateway: RecordingFront, amqp_url: str) -> None:
    """Stopping waits for the graceful timeout and no longer; the command stays on the queue for the next."""
    gateway.gate = asyncio.Event()
    inbox = CommandInbox(broker, gateway, KEYS, SIGNER, graceful_timeout=0.3)
    await inbox.start()
    sender = Sender(amqp_url)
    await sender.start()
    await sender.send(SUBMIT)
    await gateway.until(lambda: gateway.waiting == 1)

    async with asyncio.timeout(SOON):
        await inbox.stop()
        await inbox.stop()

    gateway.gate = None
    async with asyncio.timeout(SOON):
        again = CommandInbox(broker, gateway, KEYS, SIGNER)
        await again.start()
        assert (await sender.reply())["status"] == "accepted"
    await again.stop()
    await sender.stop()


async def test_a_log_out_of_reach_loses_nothing(
    sender: Sender, inbox: CommandInbox, gateway: RecordingFront
) -> None:
    """UNAVAILABLE is told to who waits; where nobody does, the command comes again until it is handled."""
    tries = 0

    def twice(_: Intent) -> Answer:
        nonlocal tries
        tries += 1
        return Accepted(9) if tries > 3 else Refused(Code.UNAVAILABLE, "the log is out of reach")

    gateway.answer = twice

    assert (await sender.ask(SUBMIT))["code"] == "UNAVAILABLE"
    assert tries == 1
    await sender.send(SUBMIT, reply=False)
    await gateway.until(lambda: tries == 3)
    await gateway.until(lambda: tries == 4)
    await nothing_left(sender, inbox)
    assert await sender.count(DEAD_QUEUE) == 0


def test_redeliveries_last_longer_than_an_outage() -> None:
    """The delays between the deliveries add up to more than half an hour before the limit is reached."""
    assert 1800 < sum(retry_delay(n) for n in range(COMMAND_DELIVERY_LIMIT)) < 7200


async def nothing_left(sender: Sender, inbox: CommandInbox, queue: str = COMMANDS_QUEUE) -> None:
    """Every message that was delivered has been acknowledged: a stopped inbox gives back what is not.

    What is given back goes through the queue's log and is counted a moment later: not before a message that
    is published after it is confirmed.
    """
    await inbox.stop()
    await sender.channel.default_exchange.publish(Message(b"the last"), queue)
    assert await sender.count(queue) == 1
    await (await sender.channel.get_queue(queue, ensure=False)).purge()
    await inbox.start()
