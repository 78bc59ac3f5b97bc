"""Commands that are repeated until they are answered, and travel in arrays when there are many.

While one message of a type is on its way to the broker, the next commands of that type gather; they leave
together as soon as it is confirmed. So one command alone never waits, and a thousand cost a few messages.

Nothing here knows AMQP: `publish` is given, and answers are handed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog
from pydantic_core import from_json, to_json

from coordinator.wire.answers import AnswerJson, read_answer, refused
from coordinator.wire.backoff import Backoff, RetryClock
from coordinator.wire.limits import MAX_ARRAY_LENGTH, MAX_BODY_BYTES

AGAIN_LATER = frozenset({"UNAVAILABLE", "INTERNAL", "RATE_LIMITED"})
"""Refusals that mean "send it again later"."""
_ABOUT_THE_MESSAGE = frozenset({"INVALID_PAYLOAD", "TOO_LARGE"})
"""What a whole array may be refused with because of a single element."""

_to_text = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def encode(message: Mapping[str, Any]) -> bytes:
    """JSON without spaces. Raises ValueError or TypeError for what is not JSON, NaN and infinity included."""
    body = to_json(message, inf_nan_mode="constants")
    if b"NaN" in body or b"Infinity" in body:
        # Four times slower, and the only one of both that tells a number from a word in a text.
        body = _to_text(message).encode("ascii")
    return body


class NotSent(Exception):
    """The broker did not confirm the message; whether it has it is unknown."""


class SenderClosed(Exception):
    """This connection was closed by its owner before the answer came."""


class OutgoingMessage(NamedTuple):
    """One message. `id` is its `message_id` and its `correlation_id`; a repeat has the same."""

    kind: str
    id: str
    body: bytes


@dataclass(slots=True, eq=False)
class _Command:
    body: bytes
    answer: asyncio.Future[AnswerJson]
    tries: int = 0
    alone: bool = False
    """Not in an array: it may be what an array was refused for."""


@dataclass(slots=True, eq=False)
class _Message:
    kind: str
    id: str
    commands: list[_Command]
    body: bytes
    due: float = float("inf")
    """When to repeat it; never while its first publish is under way."""
    tries: int = 0

    @property
    def forsaken(self) -> bool:
        """Whether nobody waits for an answer any more."""
        return all(command.answer.done() for command in self.commands)


@dataclass(slots=True, eq=False)
class _SenderLane:
    """What waits to be sent, of one type."""

    kind: str
    waiting: deque[_Command] = field(default_factory=deque)
    sender: asyncio.Task[None] | None = None


class CommandSender:
    """Sends commands through `publish`, and repeats each until it is answered.

    `publish` returns when the broker has confirmed, waits while there is no connection, and raises NotSent.
    """

    def __init__(
        self,
        publish: Callable[[OutgoingMessage], Awaitable[None]],
        *,
        answer_timeout_seconds: float = 10.0,
        backoff: Backoff | None = None,
        clock: RetryClock | None = None,
    ) -> None:
        self._publish = publish
        self._answer_timeout = answer_timeout_seconds
        self._backoff = backoff or Backoff()
        self._clock = clock or RetryClock()
        self._lanes: dict[str, _SenderLane] = {}
        self._unanswered: dict[str, _Message] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._repeater: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closed = False
        self._log = structlog.get_logger().bind()

    async def call(self, kind: str, command: Mapping[str, Any]) -> AnswerJson:
        """Send a command and return its answer, however long that takes; bound it with `asyncio.timeout`.

        Raises SenderClosed, and the errors of `encode`.
        """
        body = encode(command)
        if len(body) > MAX_BODY_BYTES:
            return refused("TOO_LARGE", f"the command has {len(body)} bytes; the limit is {MAX_BODY_BYTES}")
        if self._closed:
            raise SenderClosed
        waiting = _Command(body, asyncio.get_running_loop().create_future())
        self._put(kind, waiting)
        return await waiting.answer

    def answered(self, message_id: str | None, body: bytes) -> None:
        """Hand in the reply to a message. A second reply to a repeated one is nothing new."""
        message = self._unanswered.pop(message_id or "", None)
        if message is None:
            return
        answers = _answers(body, len(message.commands))
        if answers is None:
            self._log.warning("reply_unreadable", kind=message.kind)
            if message.due != float("inf"):
                message.due = self._clock.now() + self._backoff.delay(message.tries)
            self._unanswered[message.id] = message
            return
        crowd = len(message.commands) > 1 and isinstance(answers, dict)
        each = [answers] * len(message.commands) if isinstance(answers, dict) else answers
        for command, answer in zip(message.commands, each, strict=True):
            code = answer.get("code") if answer.get("status") == "refused" else None
            if code in AGAIN_LATER:
                self._later(message.kind, command)
            elif crowd and code in _ABOUT_THE_MESSAGE:
                # One element that no store can keep spoils the array: each by itself finds out which.
                command.alone = True
                self._put(message.kind, command)
            elif not command.answer.done():
                command.answer.set_result(answer)

    def repeat_now(self) -> None:
        """Everything unanswered is due again: the connection is a new one, and so is its reply queue."""
        now = self._clock.now()
        for message in self._unanswered.values():
            message.due = min(message.due, now) if message.due != float("inf") else message.due
        self._wake.set()

    async def close(self) -> None:
        """Give up: whoever still waits for an answer gets SenderClosed."""
        self._closed = True
        tasks = [*self._tasks, *([self._repeater] if self._repeater else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        waiting = [c for lane in self._lanes.values() for c in lane.waiting]
        waiting += [c for message in self._unanswered.values() for c in message.commands]
        for command in waiting:
            if not command.answer.done():
                command.answer.set_exception(SenderClosed())
        self._lanes.clear()
        self._unanswered.clear()

    def _put(self, kind: str, command: _Command) -> None:
        lane = self._lanes.get(kind)
        if lane is None:
            lane = self._lanes[kind] = _SenderLane(kind)
        lane.waiting.append(command)
        if lane.sender is None:
            lane.sender = self._spawn(self._send(lane))

    def _later(self, kind: str, command: _Command) -> None:
        delay = self._backoff.delay(command.tries)
        command.tries += 1

        async def put_later() -> None:
            await self._clock.sleep(delay)
            self._put(kind, command)

        self._spawn(put_later(), holding=command)

    def _spawn(self, work: Coroutine[Any, Any, None], holding: _Command | None = None) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            if holding is not None and done.cancelled() and not holding.answer.done():
                holding.answer.set_exception(SenderClosed())

        task.add_done_callback(ended)
        return task

    async def _send(self, lane: _SenderLane) -> None:
        try:
            while (message := self._gather(lane)) is not None:
                # Before the publish, since the reply may overtake the confirmation.
                self._unanswered[message.id] = message
                await self._post(message)
                message.due = self._clock.now() + self._answer_timeout
                self._watch()
        finally:
            lane.sender = None

    async def _post(self, message: _Message) -> None:
        tries = 0
        while message.id in self._unanswered and not message.forsaken:
            try:
                await self._publish(OutgoingMessage(message.kind, message.id, message.body))
            except NotSent as error:
                if tries == 0:
                    self._log.warning("message_not_sent", kind=message.kind, reason=str(error))
                await self._clock.sleep(self._backoff.delay(tries))
                tries += 1
            else:
                return

    def _gather(self, lane: _SenderLane) -> _Message | None:
        """The next message of this lane: as many commands as are there and fit."""
        commands: list[_Command] = []
        size = 1
        while lane.waiting and len(commands) < MAX_ARRAY_LENGTH:
            command = lane.waiting[0]
            if command.answer.done():  # its caller has gone
                lane.waiting.popleft()
                continue
            size += len(command.body) + 1
            if commands and (size > MAX_BODY_BYTES or command.alone):
                break
            commands.append(lane.waiting.popleft())
            if command.alone:
                break
        if not commands:
            return None
        if len(commands) == 1:
            body = commands[0].body
        else:
            body = b"[" + b",".join([command.body for command in commands]) + b"]"
        return _Message(lane.kind, secrets.token_hex(16), commands, body)

    def _watch(self) -> None:
        if self._repeater is None:
            self._repeater = asyncio.get_running_loop().create_task(self._repeat())

    async def _repeat(self) -> None:
        while True:
            self._wake.clear()
            now = self._clock.now()
            for message in [m for m in self._unanswered.values() if m.due <= now]:
                await self._post_again(message)
            delay = min((m.due for m in self._unanswered.values()), default=float("inf")) - self._clock.now()
            # Never for ever: a message may become due while this one looks away.
            await self._sleep_or_wake(max(0.0, min(delay, self._answer_timeout)))

    async def _post_again(self, message: _Message) -> None:
        if message.forsaken:
            self._unanswered.pop(message.id, None)
            return
        if message.id not in self._unanswered:
            return
        message.tries += 1
        try:
            await self._publish(OutgoingMessage(message.kind, message.id, message.body))
        except NotSent:
            message.due = self._clock.now() + self._backoff.delay(message.tries)
        else:
            message.due = self._clock.now() + self._answer_timeout

    async def _sleep_or_wake(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        pause = loop.create_task(_awaited(self._clock.sleep(seconds)))
        wake = loop.create_task(_awaited(self._wake.wait()))
        try:
            await asyncio.wait({pause, wake}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            wake.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(pause, wake, return_exceptions=True)


async def _awaited(awaitable: Awaitable[object]) -> None:
    await awaitable


def _answers(body: bytes, count: int) -> list[AnswerJson] | AnswerJson | None:
    """One answer per command, or one for the whole message; None for what is no reply."""
    try:
        reply = from_json(body)
    except ValueError:
        return None
    if isinstance(reply, list):
        answers = [answer for value in reply if (answer := read_answer(value)) is not None]
        return answers if len(answers) == len(reply) == count else None
    return read_answer(reply)
