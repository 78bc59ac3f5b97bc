"""The miner program over a real RabbitMQ, against a small coordinator that speaks the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from coordinator.crypto.canonical import salted_digest
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.mac import message_to_sign, sign_message
from coordinator.crypto.statement import verify_statement
from coordinator.dev.servers import RabbitMQServer
from coordinator.miner.amqp import AmqpTransport
from coordinator.miner.config import Hardware, MinerConfig
from coordinator.miner.executors.base import Outcome, Work
from coordinator.miner.executors.errors import ExecutorError
from coordinator.miner.program import MinerProgram
from coordinator.wire.amqp.rpc import AmqpRpc, SenderClosed
from coordinator.wire.backoff import Backoff
from coordinator.wire.signed_messages import MessageSigner, Recipient, answer_to, hint_for, offer_for
from tests.harness.keys import SIGNER
from tests.harness.waiting import eventually

KEY = "alice:a-secret-of-alice"
SALT = bytes(range(16))
QUICK = Backoff(first_seconds=0.05, longest_seconds=0.5)
PATIENCE_SECONDS = 60.0
QUEUE = "work.profile"
COORDINATOR = SigningKey.from_hex("5a" * 32).key_id


class Stub:
    """Jobs, and the rules about them that a miner meets. `hold` keeps commands of a type unanswered."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.jobs: dict[str, dict[str, Any]] = {}
        self.sessions: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.messages: list[tuple[str, int]] = []
        self.beats: list[dict[str, Any]] = []
        self.hold: set[str] = set()
        self.again_later: dict[str, int] = {}
        self.cancel: list[dict[str, Any]] = []
        self.state = "ONLINE"
        self.signer = SIGNER
        self.forge = False
        self.forged = 0
        self.heartbeat_seconds = 0.2
        self.queue = QUEUE
        self.changed = asyncio.Condition()

    async def start(self) -> None:
        self.connection = await aio_pika.connect(self.url)
        self.channel = await self.connection.channel()
        commands = await self.channel.declare_exchange("coordinator.commands", "topic", durable=True)
        # Classic: RabbitMQ 3.10 loses a quorum queue that is younger than a second when it is killed.
        queue = await self.channel.declare_queue("coordinator.commands", durable=True)
        await queue.bind(commands, "#")
        beats = await self.channel.declare_queue("coordinator.heartbeats", durable=True)
        await queue.consume(self._on_commands)
        by_type = await self.channel.declare_exchange("coordinator.heartbeats", "direct", durable=True)
        await beats.bind(by_type, "miner.heartbeat")
        await beats.consume(self._on_beats)

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await self.connection.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), self.changed:
            await self.changed.wait_for(condition)

    async def notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    def add(self, service: str = "work", attempt: int = 1, **payload: Any) -> dict[str, Any]:
        """A queued job; its offer."""
        job_id = str(uuid.uuid4())
        self.jobs[job_id] = {"state": "QUEUED", "attempt": attempt}
        return {
            "job_id": job_id,
            "attempt": attempt,
            "service": service,
            "payload": payload,
            "payload_salt": SALT.hex(),
            "payload_digest": salted_digest(SALT, payload),
            "timeout_seconds": 60,
            "expires_at": 2**41,
        }

    async def offer(self, *offers: dict[str, Any]) -> None:
        """Put a bundle on the work queue."""
        await self.send(self.queue, offer_for("profile"), offers)

    async def hint(self, miner: str, **hint: Any) -> None:
        await self.send(f"miner.{miner}", hint_for(miner), hint)

    async def send(
        self,
        queue: str,
        recipient: Recipient | None,
        value: object,
        correlation_id: str | None = None,
        signer: MessageSigner | None = None,
    ) -> None:
        """Publish to a queue; without a recipient it is not signed."""
        body = json.dumps(value).encode()
        headers = None if recipient is None else (signer or self.signer).headers(recipient, body, 60_000)
        message = aio_pika.Message(body, correlation_id=correlation_id, headers=headers)
        await self.channel.default_exchange.publish(message, queue, mandatory=False, timeout=10)

    async def until_depth(self, expected: int) -> None:
        async def so() -> bool:
            return await self.depth() == expected

        await eventually(so, f"{expected} offers wait")

    async def depth(self) -> int:
        """Messages that are ready on the work queue."""
        queue = await self.channel.declare_queue(self.queue, passive=True)
        assert queue.declaration_result.message_count is not None
        return queue.declaration_result.message_count

    def states(self) -> list[str]:
        return [job["state"] for job in self.jobs.values()]

    def sent(self, kind: str) -> list[dict[str, Any]]:
        return [fields for received, fields in self.received if received == kind]

    async def _on_commands(self, message: AbstractIncomingMessage) -> None:
        kind = message.type or ""
        self._check(message)
        body = json.loads(message.body)
        commands = body if isinstance(body, list) else [body]
        self.messages.append((kind, len(commands)))
        self.received += [(kind, command) for command in commands]
        if kind not in self.hold:
            answers = []
            for command in commands:
                if self.again_later.get(kind, 0) > 0:
                    self.again_later[kind] -= 1
                    answers.append({"status": "refused", "code": "UNAVAILABLE", "detail": "later"})
                else:
                    answers.append(await self._decide(kind, command))
            await self._reply(message, answers if isinstance(body, list) else answers[0])
        await message.ack()
        await self.notify()

    async def _on_beats(self, message: AbstractIncomingMessage) -> None:
        self._check(message)
        beat = json.loads(message.body)
        self.beats.append(beat)
        if beat["session_id"] == self.sessions.get(beat["miner_id"]):
            answer = {"status": "accepted", "state": self.state, "cancel": self.cancel, "position": 1}
        else:
            answer = _refused("SESSION_NOT_LIVE")
        await self._reply(message, answer)
        await message.ack()
        await self.notify()

    async def _reply(self, message: AbstractIncomingMessage, answer: object) -> None:
        assert message.reply_to
        signature = message.headers["signature"]
        assert isinstance(signature, str)
        asked = message.message_id or ""
        to = answer_to(KEY.partition(":")[0], asked, message.correlation_id or "", signature)
        if self.forge:
            lie = {**_accepted(), "state": "FORGED"}
            another = answer_to("alice", "another", message.correlation_id or "", signature)
            stranger = MessageSigner(SigningKey.generate())
            for recipient, signer in ((to, stranger), (another, self.signer), (None, None)):
                await self.send(message.reply_to, recipient, lie, message.correlation_id, signer)
                self.forged += 1
        await self.send(message.reply_to, to, answer, message.correlation_id)

    def _check(self, message: AbstractIncomingMessage) -> None:
        signed = message_to_sign(
            message.type or "",
            message.message_id or "",
            "amq.rabbitmq.reply-to",
            message.correlation_id or "",
            message.body,
            int(str(message.headers["issued_at"])),
        )
        name, _, secret = KEY.partition(":")
        assert message.headers["principal"] == name
        assert message.headers["signature"] == sign_message(secret, signed)

    async def _decide(self, kind: str, command: dict[str, Any]) -> dict[str, Any]:
        miner, session = command["miner_id"], command["session_id"]
        if kind == "miner.register":
            if session in self.sessions.get(f"past {miner}", ""):
                return _refused("SESSION_NOT_LIVE")
            await self.channel.declare_queue(self.queue, durable=True)
            await self.channel.declare_queue(f"miner.{miner}", durable=True)
            self.sessions[miner] = session
            self.keys[miner] = command["public_key"]
            return _accepted(
                miner_id=miner,
                session_id=session,
                profile="profile",
                state="ONLINE",
                queue=self.queue,
                control_queue=f"miner.{miner}",
                heartbeat_interval_seconds=self.heartbeat_seconds,
                heartbeat_timeout_seconds=self.heartbeat_seconds * 3,
            )
        if kind.startswith("miner."):
            return _accepted(miner_id=miner, session_id=session, state="DRAINING")
        return self._decide_job(kind, command)

    def _decide_job(self, kind: str, command: dict[str, Any]) -> dict[str, Any]:
        job, holder = self.jobs[command["job_id"]], (command["miner_id"], command["session_id"])
        if command["attempt"] != job["attempt"]:
            return _refused("STALE_ATTEMPT")
        if job["state"] == "QUEUED" and kind != "job.release":
            if command["session_id"] != self.sessions.get(command["miner_id"]):
                return _refused("SESSION_NOT_LIVE")
            job.update(state="RUNNING", holder=holder)
        if job.get("holder") != holder:
            return _refused("CONFLICT_STATE")
        if kind == "job.complete":
            statement = command["statement"]
            verify_statement(statement, self.keys[command["miner_id"]])
            salt = bytes.fromhex(command["result_salt"])
            assert statement["result_digest"] == salted_digest(salt, command["result"])
            assert statement["payload_digest"]
            job.update(state="COMPLETED", result=command["result"])
        elif kind == "job.fail":
            job.update(state="FAILED", code=command["error_code"], retryable=command["retryable"])
        elif kind == "job.release":
            job.update(state="QUEUED", attempt=job["attempt"] + 1)
        return _accepted(job_id=command["job_id"], state=job["state"], attempt=command["attempt"])


def _accepted(**fields: Any) -> dict[str, Any]:
    return {"status": "accepted", **fields, "position": 1}


def _refused(code: str) -> dict[str, Any]:
    return {"status": "refused", "code": code, "detail": "so"}


class Hands:
    """An executor that works until it is told to finish, and says what happened to it."""

    services = ("work",)

    def __init__(self) -> None:
        self.started: asyncio.Queue[Work] = asyncio.Queue()
        self.killed: asyncio.Queue[str] = asyncio.Queue()
        self.finish = asyncio.Event()
        self.runs: list[tuple[str, int]] = []

    async def check(self) -> str | None:
        return None

    async def run(self, work: Work) -> Outcome:
        self.runs.append((work.job_id, work.attempt))
        self.started.put_nowait(work)
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            self.killed.put_nowait(work.job_id)
            raise
        return Outcome({"echo": dict(work.payload)}, {"steps": 1})

    async def next_started(self) -> Work:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.started.get()

    async def next_killed(self) -> str:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.killed.get()


class Echo:
    """Work that is over at once."""

    services = ("work",)
    instant = True

    async def check(self) -> str | None:
        return None

    async def run(self, work: Work) -> Outcome:
        match work.payload.get("do"):
            case "raise":
                raise KeyError("something of this machine")
            case "refuse":
                raise ExecutorError("UNSUPPORTED", "can't", retryable=False)
            case "large":
                return Outcome({"text": "x" * 2**20})
            case "poison":
                return Outcome({"text": "\0"})
        return Outcome({"echo": dict(work.payload)})


class Miners:
    """Programs that run beside a test."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.tasks: dict[MinerProgram, asyncio.Task[int]] = {}

    def start(
        self,
        executor: Any,
        node: str | None = None,
        slots: int = 1,
        answer_seconds: float = PATIENCE_SECONDS,
        **options: Any,
    ) -> MinerProgram:
        """`answer_seconds`: after which an unanswered command is repeated. Never by accident: tests count."""
        config = MinerConfig(
            key=KEY,
            node=node,
            concurrency=slots,
            coordinator_url="http://127.0.0.1:9",
            hardware=Hardware(),
            key_file=self.folder / "miner.key",
            **options,
        )
        transport = AmqpTransport(self.url, KEY, answer_timeout_seconds=answer_seconds, backoff=QUICK)
        program = MinerProgram(
            config, transport, {"work": executor}, signing_key=SigningKey.load_or_create(config.key_file)
        )
        self.tasks[program] = asyncio.create_task(program.run(handle_signals=False))
        return program

    async def exit_code(self, program: MinerProgram) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.tasks[program]

    async def close(self) -> None:
        for program in self.tasks:
            program.stop()
            program.stop()
        await asyncio.gather(*self.tasks.values())


@pytest.fixture
async def stub(amqp_url: str) -> AsyncIterator[Stub]:
    stub = Stub(amqp_url)
    await stub.start()
    yield stub
    await stub.close()


@pytest.fixture
async def miners(stub: Stub, tmp_path: Path) -> AsyncIterator[Miners]:
    miners = Miners(stub.url, tmp_path)
    yield miners
    stub.hold.clear()
    await miners.close()


async def test_job_claimed_run_and_completed(stub: Stub, miners: Miners) -> None:
    """An offer is claimed, run, and completed with a statement that verifies; the queue is empty then."""
    hands = Hands()
    hands.finish.set()
    miners.start(hands, node="one")
    await stub.until(lambda: bool(stub.sessions))
    offer = stub.add(text="hello")
    await stub.offer(offer)
    await stub.until(lambda: stub.states() == ["COMPLETED"])
    assert stub.jobs[offer["job_id"]]["result"] == {"echo": {"text": "hello"}}
    assert [kind for kind, _ in stub.received] == ["miner.register", "job.start", "job.complete"]
    assert stub.sent("job.complete")[0]["metrics"] == {"steps": 1}
    assert await stub.depth() == 0


async def test_instant_work_leaves_out_the_claim(stub: Stub, miners: Miners) -> None:
    """Instant work sends one command a job, in arrays, and a failure of it needs no claim either."""
    miners.start(Echo(), slots=200)
    await stub.until(lambda: bool(stub.sessions))
    offers = [stub.add(n=n) for n in range(400)] + [stub.add(do="raise"), stub.add(do="refuse")]
    for start in range(0, len(offers), 100):
        await stub.offer(*offers[start : start + 100])
    await stub.until(lambda: "QUEUED" not in stub.states())
    assert stub.states() == ["COMPLETED"] * 400 + ["FAILED"] * 2
    assert stub.sent("job.start") == []
    assert len(stub.sent("job.complete")) == 400
    assert len([count for kind, count in stub.messages if kind == "job.complete"]) < 100
    assert [job["code"] for job in stub.jobs.values() if "code" in job] == ["EXECUTOR_FAILED", "UNSUPPORTED"]
    assert [job["retryable"] for job in stub.jobs.values() if "code" in job] == [True, False]
    assert "machine" not in json.dumps(stub.sent("job.fail"))


async def test_what_can_not_be_sent_fails_its_own_job(stub: Stub, miners: Miners) -> None:
    """A result that is too large or not storable, and a payload that is not the client's, fail their jobs."""
    miners.start(Echo(), slots=8)
    await stub.until(lambda: bool(stub.sessions))
    tampered = stub.add(n=1)
    tampered["payload"] = {"n": 2}
    await stub.offer(stub.add(do="large"), stub.add(do="poison"), tampered, stub.add(n=1))
    await stub.until(lambda: "QUEUED" not in stub.states())
    assert [job.get("code") for job in stub.jobs.values()] == [
        "INVALID_PAYLOAD",
        "RESULT_TOO_LARGE",
        "INVALID_RESULT",
        None,
    ]
    assert stub.jobs[tampered["job_id"]]["retryable"] is True


async def test_busy_miner_leaves_offers_to_an_idle_one(stub: Stub, miners: Miners) -> None:
    """A miner whose one slot is busy hands back the offer it was sent, and an idle one serves it."""
    busy, idle = Hands(), Hands()
    miners.start(busy, node="busy")
    await stub.until(lambda: "busy@alice" in stub.sessions)
    await stub.offer(stub.add(n=1))
    await busy.next_started()
    await stub.offer(stub.add(n=2))
    await stub.offer(stub.add(n=3))
    miners.start(idle, node="idle")
    first = await idle.next_started()
    assert first.payload in ({"n": 2}, {"n": 3})
    # Both are busy now: nobody may sit on the third.
    await stub.until_depth(1)
    assert len(busy.runs) == 1
    busy.finish.set()
    third = await busy.next_started()
    assert {first.payload["n"], third.payload["n"]} == {2, 3}
    assert busy.killed.empty()


async def test_bundle_larger_than_the_slots_is_shared(stub: Stub, miners: Miners) -> None:
    """A bundle of which one offer was claimed goes back for the others, and no job is run twice."""
    first, second = Hands(), Hands()
    miners.start(first, node="first")
    await stub.until(lambda: len(stub.sessions) == 1)
    await stub.offer(*[stub.add(n=n) for n in range(3)])
    await first.next_started()
    miners.start(second, node="second")
    await second.next_started()
    first.finish.set()
    second.finish.set()
    await stub.until(lambda: stub.states() == ["COMPLETED"] * 3)
    runs = first.runs + second.runs
    assert len(runs) == len(set(runs)) == 3


async def test_copies_of_an_offer_run_once(stub: Stub, miners: Miners) -> None:
    """An offer that comes again, during the run and after it, is acknowledged and not run again."""
    hands = Hands()
    miners.start(hands, slots=2)
    await stub.until(lambda: bool(stub.sessions))
    offer = stub.add(n=1)
    await stub.offer(offer, offer)
    await hands.next_started()
    await stub.offer(offer)
    hands.finish.set()
    await stub.until(lambda: stub.states() == ["COMPLETED"])
    await stub.offer(offer)
    other = stub.add(n=2)
    await stub.offer(other)
    await stub.until(lambda: stub.states() == ["COMPLETED"] * 2)
    assert hands.runs == [(offer["job_id"], 1), (other["job_id"], 1)]
    await stub.until_depth(0)


async def test_claim_of_a_completed_attempt_is_not_run(stub: Stub, miners: Miners) -> None:
    """A claim that is accepted because this session completed it long ago starts nothing."""
    hands = Hands()
    hands.finish.set()
    program = miners.start(hands)
    await stub.until(lambda: bool(stub.sessions))
    offer = stub.add(n=1)
    stub.jobs[offer["job_id"]].update(state="COMPLETED", holder=("alice", program.session_id))
    await stub.offer(offer)
    await stub.until(lambda: len(stub.sent("job.start")) == 1)
    last = stub.add(n=2)
    await stub.offer(last)
    await stub.until(lambda: stub.states() == ["COMPLETED"] * 2)
    assert hands.runs == [(last["job_id"], 1)]


async def test_stale_offers_are_dropped(stub: Stub, miners: Miners) -> None:
    """Offers whose claim is refused leave the queue and cost no slot; rubbish does so too."""
    hands = Hands()
    hands.finish.set()
    miners.start(hands)
    await stub.until(lambda: bool(stub.sessions))
    stale, taken = stub.add(n=1), stub.add(n=2)
    stub.jobs[stale["job_id"]]["attempt"] = 2
    stub.jobs[taken["job_id"]].update(state="RUNNING", holder=("bob", "other"))
    await stub.offer(stale, taken)
    await stub.channel.default_exchange.publish(aio_pika.Message(b"no json"), QUEUE)
    await stub.offer({"job_id": "only"})
    last = stub.add(n=3)
    await stub.offer(last)
    await stub.until(lambda: stub.jobs[last["job_id"]]["state"] == "COMPLETED")
    assert hands.runs == [(last["job_id"], 1)]
    await stub.until_depth(0)


async def test_commands_are_repeated_until_answered(stub: Stub, miners: Miners) -> None:
    """Unanswered commands, and those answered with "later", are sent again until they are answered."""
    hands = Hands()
    hands.finish.set()
    miners.start(hands, answer_seconds=0.5)
    await stub.until(lambda: bool(stub.sessions))
    stub.hold.add("job.start")
    stub.again_later["job.complete"] = 2
    await stub.offer(stub.add(n=1))
    await stub.until(lambda: len(stub.sent("job.start")) >= 2)
    stub.hold.clear()
    await stub.until(lambda: stub.states() == ["COMPLETED"])
    assert len(hands.runs) == 1
    assert len(stub.sent("job.complete")) >= 3
    assert len({json.dumps(command, sort_keys=True) for command in stub.sent("job.complete")}) == 1


async def test_cancel_hint_kills_the_executor(stub: Stub, miners: Miners) -> None:
    """A cancel hint stops the run at once and nothing is reported; the slot takes the next job."""
    hands = Hands()
    miners.start(hands, node="one")
    await stub.until(lambda: bool(stub.sessions))
    offer = stub.add(n=1)
    await stub.offer(offer)
    await hands.next_started()
    stub.cancel = [{"job_id": offer["job_id"], "attempt": 1}]
    await stub.hint("one@alice", hint="cancel", job_id=offer["job_id"], attempt=1)
    assert await hands.next_killed() == offer["job_id"]
    hands.finish.set()
    await stub.offer(stub.add(n=2))
    await stub.until(lambda: stub.states() == ["RUNNING", "COMPLETED"])
    assert stub.sent("job.fail") == stub.sent("job.release") == []


async def test_heartbeat_names_what_runs_and_obeys_cancel(stub: Stub, miners: Miners) -> None:
    """Heartbeats name the claimed attempts; one that comes back in `cancel` is stopped and named no more."""
    hands = Hands()
    miners.start(hands)
    await stub.until(lambda: bool(stub.sessions))
    offer = stub.add(n=1)
    await stub.offer(offer)
    names = {"job_id": offer["job_id"], "attempt": 1}
    await stub.until(lambda: stub.beats[-1:] != [] and stub.beats[-1]["inflight"] == [names])
    stub.cancel = [names]
    assert await hands.next_killed() == offer["job_id"]
    await stub.until(lambda: stub.beats[-1]["inflight"] == [])


async def test_lost_session_registers_anew(stub: Stub, miners: Miners) -> None:
    """A session that the coordinator does not know ends what runs, and a new one serves on."""
    hands = Hands()
    program = miners.start(hands)
    await stub.until(lambda: bool(stub.sessions))
    before = program.session_id
    await stub.offer(stub.add(n=1))
    await hands.next_started()
    stub.sessions["alice"] = "someone-elses"
    await hands.next_killed()
    await stub.until(lambda: stub.sessions["alice"] == program.session_id)
    assert program.session_id != before
    hands.finish.set()
    await stub.offer(stub.add(n=2))
    await stub.until(lambda: stub.states() == ["RUNNING", "COMPLETED"])


async def test_offer_refused_for_a_lost_session_is_not_lost(stub: Stub, miners: Miners) -> None:
    """An offer whose claim meets a lost session goes back, and the new session serves it."""
    hands = Hands()
    hands.finish.set()
    miners.start(hands)
    await stub.until(lambda: bool(stub.beats))
    stub.sessions["alice"] = "someone-elses"
    await stub.offer(stub.add(n=1))
    await stub.until(lambda: stub.states() == ["COMPLETED"])
    assert len(stub.sent("miner.register")) == 2


async def test_vanished_queue_is_made_again(stub: Stub, miners: Miners) -> None:
    """When the work queue is deleted the miner registers the same session again and consumes again."""
    hands = Hands()
    hands.finish.set()
    program = miners.start(hands)
    await stub.until(lambda: bool(stub.sessions))
    session = program.session_id
    await stub.channel.queue_delete(QUEUE)
    await stub.until(lambda: len(stub.sent("miner.register")) == 2)
    await stub.offer(stub.add(n=1))
    await stub.until(lambda: stub.states() == ["COMPLETED"])
    assert {command["session_id"] for command in stub.sent("miner.register")} == {session}


async def test_first_stop_finishes_what_runs(stub: Stub, miners: Miners) -> None:
    """A stop drains, lets what runs finish and be reported, leaves, and exits with 0."""
    hands = Hands()
    program = miners.start(hands)
    await stub.until(lambda: bool(stub.sessions))
    await stub.offer(stub.add(n=1))
    await hands.next_started()
    program.stop()
    await stub.until(lambda: bool(stub.sent("miner.drain")))
    await stub.offer(stub.add(n=2))
    hands.finish.set()
    assert await miners.exit_code(program) == 0
    assert stub.states() == ["COMPLETED", "QUEUED"]
    assert [kind for kind, _ in stub.received][-2:] == ["job.complete", "miner.leave"]
    await stub.until_depth(1)


async def test_second_stop_hands_back(stub: Stub, miners: Miners) -> None:
    """A second stop kills what runs and releases it before the miner leaves."""
    hands = Hands()
    program = miners.start(hands, grace_seconds=PATIENCE_SECONDS * 2)
    await stub.until(lambda: bool(stub.sessions))
    await stub.offer(stub.add(n=1))
    await hands.next_started()
    program.stop()
    await stub.until(lambda: bool(stub.sent("miner.drain")))
    program.stop()
    assert await miners.exit_code(program) == 0
    assert [kind for kind, _ in stub.received][-2:] == ["job.release", "miner.leave"]
    assert [job["attempt"] for job in stub.jobs.values()] == [2]


async def test_grace_period_ends(stub: Stub, miners: Miners) -> None:
    """What runs longer than the grace period is released."""
    hands = Hands()
    program = miners.start(hands, grace_seconds=0.1)
    await stub.until(lambda: bool(stub.sessions))
    await stub.offer(stub.add(n=1))
    await hands.next_started()
    program.stop()
    assert await miners.exit_code(program) == 0
    assert len(stub.sent("job.release")) == 1


async def test_drain_hint_finishes_and_leaves(stub: Stub, miners: Miners) -> None:
    """A drained miner takes nothing more, finishes what runs however long it takes, and exits with 0."""
    hands = Hands()
    program = miners.start(hands, grace_seconds=0)
    await stub.until(lambda: bool(stub.sessions))
    await stub.offer(stub.add(n=1))
    await hands.next_started()
    stub.state = "DRAINING"
    await stub.hint("alice", hint="drain")
    await stub.until(lambda: bool(stub.sent("miner.drain")))
    hands.finish.set()
    assert await miners.exit_code(program) == 0
    assert stub.states() == ["COMPLETED"]


async def test_forged_offers_and_hints_are_dropped(stub: Stub, miners: Miners) -> None:
    """An offer or hint that the coordinator did not sign, for this recipient and lately, is never obeyed."""
    hands = Hands()
    program = miners.start(hands)
    await stub.until(lambda: bool(stub.beats))
    stub.state = "ONLINE"
    forged = MessageSigner(SigningKey.generate())
    late = MessageSigner(SigningKey.from_hex("5a" * 32), now=lambda: time.time_ns() // 1_000_000 - 600_000)
    for signer, profile in ((forged, "profile"), (late, "profile"), (stub.signer, "another")):
        await stub.send(stub.queue, offer_for(profile), [stub.add(n=1)], signer=signer)
    await stub.send(stub.queue, None, [stub.add(n=1)])
    for signer, miner in ((forged, "alice"), (late, "alice"), (stub.signer, "bob")):
        await stub.send("miner.alice", hint_for(miner), {"hint": "drain"}, signer=signer)
    await stub.send("miner.alice", None, {"hint": "drain"})
    genuine = stub.add(n=2)
    await stub.offer(genuine)
    assert (await hands.next_started()).job_id == genuine["job_id"]
    hands.finish.set()
    await stub.until(lambda: "COMPLETED" in stub.states())
    assert [run for run in hands.runs if run[0] != genuine["job_id"]] == []
    assert not stub.sent("miner.drain")
    assert program.session_id


async def test_a_hint_only_triggers_a_heartbeat(stub: Stub, miners: Miners) -> None:
    """A replayed hint to drain, or to cancel, changes nothing that the heartbeat's answer does not say."""
    stub.heartbeat_seconds = 60
    hands = Hands()
    miners.start(hands)
    await stub.until(lambda: len(stub.beats) == 1)
    offer = stub.add(n=1)
    await stub.offer(offer)
    await hands.next_started()
    await stub.hint("alice", hint="drain")
    await stub.until(lambda: len(stub.beats) >= 2)
    await stub.hint("alice", hint="cancel", job_id=offer["job_id"], attempt=1)
    # Its answer may be a moment behind the hint, so there is more than one.
    await stub.until(lambda: len(stub.beats) >= 4)
    hands.finish.set()
    await stub.until(lambda: stub.states() == ["COMPLETED"])
    assert not stub.sent("miner.drain")


async def test_forged_answers_are_dropped(stub: Stub) -> None:
    """Answers by another key, to another message or without a signature are ignored; the true one counts."""
    async with AmqpRpc(stub.url, KEY, coordinator_keys=[COORDINATOR]) as rpc:
        stub.forge = True
        answer = await rpc.call("miner.drain", {"miner_id": "alice", "session_id": "12345678"})
    assert answer["state"] == "DRAINING"
    assert stub.forged == 3


async def test_the_first_key_is_pinned(stub: Stub) -> None:
    """Without a configured key the first answer's is trusted, and no other key's answer from then on."""
    command = {"miner_id": "alice", "session_id": "12345678"}
    async with AmqpRpc(stub.url, KEY, answer_timeout_seconds=0.2, backoff=QUICK) as rpc:
        await rpc.call("miner.drain", command)
        stub.signer = MessageSigner(SigningKey.generate())
        again = asyncio.create_task(rpc.call("miner.drain", command))
        await stub.until(lambda: len(stub.messages) >= 3)  # its repeat: the answer was not taken
        assert not again.done()
        stub.signer = SIGNER
        assert (await again)["status"] == "accepted"


async def test_signals_stop_the_program(stub: Stub, tmp_path: Path) -> None:
    """SIGTERM is a stop: the program leaves and returns 0."""
    config = MinerConfig(key=KEY, hardware=Hardware(), key_file=tmp_path / "key")
    program = MinerProgram(config, AmqpTransport(stub.url, KEY, backoff=QUICK), {"work": Hands()})
    task = asyncio.create_task(program.run())
    await stub.until(lambda: bool(stub.beats))
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(task, PATIENCE_SECONDS) == 0
    assert len(stub.sent("miner.leave")) == 1


async def test_call_and_ask_share_a_connection(stub: Stub) -> None:
    """The helper that clients share answers a command, and an ask that nobody answers is None in time."""
    async with AmqpRpc(stub.url, KEY, backoff=QUICK) as rpc:
        answer = await rpc.call("miner.drain", {"miner_id": "alice", "session_id": "12345678"})
        assert answer["status"] == "accepted"
        nobody = await rpc.ask("miner.heartbeat", {}, exchange="no.such.exchange", timeout_seconds=5)
        assert nobody is None


async def test_connection_has_one_life_cycle(stub: Stub) -> None:
    """Closing works without a start, twice, and in the middle of connecting; waiting calls end then."""
    rpc = AmqpRpc(stub.url, KEY)
    await rpc.close()
    await rpc.start()
    await rpc.start()
    call = asyncio.create_task(rpc.call("miner.drain", {"miner_id": "alice", "session_id": "12345678"}))
    await asyncio.sleep(0)
    await rpc.close()
    await rpc.close()
    with pytest.raises(SenderClosed):
        await call
    transport = AmqpTransport(stub.url, KEY)
    await transport.close()
    await transport.close()


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_broker_restart_loses_no_result(
    how: str, breakable_rabbitmq: RabbitMQServer, tmp_path: Path
) -> None:
    """A result that is in hand while the broker is away arrives when it is back, and offers come again."""
    url = breakable_rabbitmq.new_vhost()
    stub = Stub(url)
    await stub.start()
    miners = Miners(url, tmp_path)
    hands = Hands()
    miners.start(hands, slots=2, answer_seconds=0.5)
    try:
        await stub.until(lambda: bool(stub.sessions))
        await stub.offer(stub.add(n=1))
        await hands.next_started()
        await stub.close()
        await asyncio.to_thread(
            breakable_rabbitmq.leave if how == "restart" else breakable_rabbitmq.cut_power
        )
        hands.finish.set()
        await asyncio.to_thread(breakable_rabbitmq.come_back)
        await stub.start()
        await stub.until(lambda: stub.states() == ["COMPLETED"])
        assert len(hands.runs) == 1
        await stub.offer(stub.add(n=2))
        await stub.until(lambda: stub.states() == ["COMPLETED"] * 2)
    finally:
        await miners.close()
        await stub.close()
        breakable_rabbitmq.drop_vhost(url)
