"""Commands gather while one is on its way, and are repeated until answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from coordinator.wire.amqp.batching import CommandSender, NotSent, OutgoingMessage, SenderClosed
from coordinator.wire.backoff import Backoff, RetryClock
from coordinator.wire.limits import MAX_ARRAY_LENGTH, MAX_BODY_BYTES

ANSWER_TIMEOUT_SECONDS = 10.0


class Time:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.sleepers: list[tuple[float, asyncio.Future[None]]] = []

    @property
    def clock(self) -> RetryClock:
        return RetryClock(lambda: self.seconds, self.sleep)

    async def sleep(self, seconds: float) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sleepers.append((self.seconds + seconds, sleeper))
        await sleeper

    async def go_on(self, seconds: float) -> None:
        await settle()
        self.seconds += seconds
        for due, sleeper in self.sleepers:
            if due <= self.seconds and not sleeper.done():
                sleeper.set_result(None)
        await settle()


class Broker:
    """What was published; a publish returns when it is confirmed."""

    def __init__(self) -> None:
        self.published: list[OutgoingMessage] = []
        self.confirms: list[asyncio.Future[None]] = []
        self.confirm_at_once = True
        self.fail_next = 0

    async def publish(self, envelope: OutgoingMessage) -> None:
        self.published.append(envelope)
        if self.fail_next:
            self.fail_next -= 1
            raise NotSent("no")
        if not self.confirm_at_once:
            confirm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.confirms.append(confirm)
            await confirm

    def bodies(self) -> list[Any]:
        return [json.loads(envelope.body) for envelope in self.published]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def sender(time: Time, broker: Broker) -> AsyncIterator[CommandSender]:
    sender = CommandSender(
        broker.publish,
        answer_timeout_seconds=ANSWER_TIMEOUT_SECONDS,
        backoff=Backoff(first_seconds=1.0, longest_seconds=8.0, jitter=lambda: 1.0),
        clock=time.clock,
    )
    yield sender
    await sender.close()


def accepted(n: int = 0) -> dict[str, Any]:
    return {"status": "accepted", "n": n, "position": 1}


def refused(code: str) -> dict[str, Any]:
    return {"status": "refused", "code": code, "detail": ""}


def reply(sender: CommandSender, envelope: OutgoingMessage, answer: object) -> None:
    sender.answered(envelope.id, json.dumps(answer).encode())


def call(sender: CommandSender, n: int, kind: str = "job.start") -> asyncio.Task[dict[str, Any]]:
    return asyncio.create_task(sender.call(kind, {"n": n}))


async def test_one_command_travels_alone_and_at_once(sender: CommandSender, broker: Broker) -> None:
    """A single command is one object, not an array, and its answer comes back."""
    task = call(sender, 1)
    await settle()
    assert broker.bodies() == [{"n": 1}]
    reply(sender, broker.published[0], accepted())
    assert await task == accepted()


async def test_commands_gather_while_one_is_under_way(sender: CommandSender, broker: Broker) -> None:
    """What comes while a publish is unconfirmed leaves in arrays of at most 500, and is answered in order."""
    broker.confirm_at_once = False
    first = call(sender, 0)
    await settle()
    rest = [call(sender, n) for n in range(1, MAX_ARRAY_LENGTH + 11)]
    await settle()
    assert len(broker.published) == 1
    for confirmed in range(3):
        broker.confirms[confirmed].set_result(None)
        await settle()
    assert [len(body) if isinstance(body, list) else 0 for body in broker.bodies()] == [
        0,
        MAX_ARRAY_LENGTH,
        10,
    ]
    reply(sender, broker.published[0], accepted())
    for envelope in broker.published[1:]:
        reply(sender, envelope, [accepted(command["n"]) for command in json.loads(envelope.body)])
    assert (await first)["n"] == 0
    assert [answer["n"] for answer in await asyncio.gather(*rest)] == list(range(1, MAX_ARRAY_LENGTH + 11))


async def test_types_do_not_wait_for_each_other(sender: CommandSender, broker: Broker) -> None:
    """A publish under way holds up commands of its own type only."""
    broker.confirm_at_once = False
    tasks = [call(sender, 1), call(sender, 2, "job.fail")]
    await settle()
    assert [envelope.kind for envelope in broker.published] == ["job.start", "job.fail"]
    for task in tasks:
        task.cancel()


async def test_arrays_stay_within_the_size_limit(sender: CommandSender, broker: Broker) -> None:
    """Large commands are split over messages of at most 1 MiB; one that is larger is refused here."""
    text = "x" * (MAX_BODY_BYTES // 3)
    tasks = [asyncio.create_task(sender.call("job.complete", {"text": text})) for _ in range(5)]
    await settle()
    assert [len(json.loads(e.body)) for e in broker.published] == [2, 2, 1]
    assert max(len(envelope.body) for envelope in broker.published) <= MAX_BODY_BYTES
    too_large = await sender.call("job.complete", {"text": "x" * MAX_BODY_BYTES})
    assert too_large["code"] == "TOO_LARGE"
    for task in tasks:
        task.cancel()


async def test_silence_repeats_the_same_message(sender: CommandSender, broker: Broker, time: Time) -> None:
    """Without an answer in time the same message, with the same id, goes out again; one answer ends that."""
    task = call(sender, 1)
    await time.go_on(ANSWER_TIMEOUT_SECONDS)
    await time.go_on(ANSWER_TIMEOUT_SECONDS)
    assert len(broker.published) == 3
    assert len(set(broker.published)) == 1
    reply(sender, broker.published[0], accepted())
    reply(sender, broker.published[0], accepted(2))  # the reply to the repeat
    assert await task == accepted()
    await time.go_on(ANSWER_TIMEOUT_SECONDS)
    assert len(broker.published) == 3


async def test_new_connection_repeats_at_once(sender: CommandSender, broker: Broker) -> None:
    """After a reconnect everything unanswered is sent again without waiting for its time."""
    task = call(sender, 1)
    await settle()
    sender.repeat_now()
    await settle()
    assert len(broker.published) == 2
    task.cancel()


async def test_failed_publish_is_tried_again_with_growing_pauses(
    sender: CommandSender, broker: Broker, time: Time
) -> None:
    """An unconfirmed publish is repeated after 1, 2, 4 … seconds, and what comes meanwhile gathers."""
    broker.fail_next = 3
    tasks = [call(sender, 1)]
    await settle()
    tasks += [call(sender, 2), call(sender, 3)]
    for pause, published in ((1, 2), (2, 3), (4, 5)):
        await time.go_on(pause - 0.01)
        assert len(broker.published) < published
        await time.go_on(0.01)
        assert len(broker.published) == published
    assert broker.bodies()[-1] == [{"n": 2}, {"n": 3}]
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize("code", ["UNAVAILABLE", "INTERNAL", "RATE_LIMITED"])
async def test_again_later_is_sent_again(
    code: str, sender: CommandSender, broker: Broker, time: Time
) -> None:
    """An element that is refused with "later" is sent again later; the others have their answers."""
    tasks = [call(sender, n) for n in range(2)]
    await settle()
    reply(sender, broker.published[0], [accepted(), refused(code)])
    assert await tasks[0] == accepted()
    await settle()
    assert len(broker.published) == 1
    await time.go_on(1)
    assert broker.bodies()[1] == {"n": 1}
    reply(sender, broker.published[1], accepted(1))
    assert await tasks[1] == accepted(1)


async def test_spoilt_array_is_sent_one_by_one(sender: CommandSender, broker: Broker) -> None:
    """An array refused as a whole for its content goes out singly, so that one element costs only itself."""
    tasks = [call(sender, n) for n in range(3)]
    await settle()
    reply(sender, broker.published[0], refused("INVALID_PAYLOAD"))
    await settle()
    assert broker.bodies()[1:] == [{"n": 0}, {"n": 1}, {"n": 2}]
    for envelope, answer in zip(
        broker.published[1:], [accepted(0), refused("INVALID_PAYLOAD"), accepted(2)], strict=True
    ):
        reply(sender, envelope, answer)
    assert [answer["status"] for answer in await asyncio.gather(*tasks)] == [
        "accepted",
        "refused",
        "accepted",
    ]


async def test_refused_sender_is_told_at_once(sender: CommandSender, broker: Broker) -> None:
    """An array refused as a whole for its sender is not sent again: each command has that answer."""
    tasks = [call(sender, n) for n in range(2)]
    await settle()
    reply(sender, broker.published[0], refused("UNAUTHORIZED_KEY"))
    assert {answer["code"] for answer in await asyncio.gather(*tasks)} == {"UNAUTHORIZED_KEY"}
    assert len(broker.published) == 1


@pytest.mark.parametrize("body", [b"rubbish", b"[]", b'[{"status":"accepted"}]', b'{"n": 1}', b"7"])
async def test_unreadable_reply_is_no_answer(
    body: bytes, sender: CommandSender, broker: Broker, time: Time
) -> None:
    """A reply that is not one leaves the commands unanswered, and they are repeated."""
    tasks = [call(sender, n) for n in range(2)]
    await settle()
    sender.answered(broker.published[0].id, body)
    await time.go_on(ANSWER_TIMEOUT_SECONDS)
    assert broker.published[1] == broker.published[0]
    for task in tasks:
        task.cancel()


async def test_forsaken_commands_are_not_repeated(sender: CommandSender, broker: Broker, time: Time) -> None:
    """Nothing is sent, or sent again, for callers who have gone."""
    broker.confirm_at_once = False
    sent, waiting = call(sender, 1), None
    await settle()
    waiting = call(sender, 2)
    await settle()
    sent.cancel()
    waiting.cancel()
    await settle()
    broker.confirms[0].set_result(None)
    await time.go_on(ANSWER_TIMEOUT_SECONDS)
    assert broker.bodies() == [{"n": 1}]


async def test_close_ends_every_wait(sender: CommandSender, broker: Broker, time: Time) -> None:
    """Closing gives SenderClosed to what is sent, what waits to be sent and what waits to be sent again."""
    broker.confirm_at_once = False
    later = call(sender, 0, "job.fail")
    await settle()
    reply(sender, broker.published[0], refused("UNAVAILABLE"))
    sent = call(sender, 1)
    await settle()
    waiting = call(sender, 2)
    await settle()
    await sender.close()
    outcomes = await asyncio.gather(later, sent, waiting, call(sender, 3), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SenderClosed] * 4


def test_backoff_doubles_up_to_its_limit() -> None:
    """Delays double from the first to the longest, and jitter takes off up to half."""
    backoff = Backoff(first_seconds=0.5, longest_seconds=4, jitter=lambda: 1.0)
    assert [backoff.delay(tries) for tries in (0, 1, 2, 3, 4, 1000)] == [0.5, 1, 2, 4, 4, 4]
    assert Backoff(first_seconds=1, jitter=lambda: 0.0).delay(0) == 0.5
