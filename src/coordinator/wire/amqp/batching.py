"""Sends commands until they are answered, many of them in one message.

While one message of a type is on its way to the broker, the next commands of that type gather; they are sent
together as soon as it is confirmed. So a single command never waits, and a thousand cost a few messages.

This module does not know AMQP: the caller gives `publish`, and hands in the answers.
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

RETRY_LATER = frozenset({"UNAVAILABLE", "INTERNAL", "RATE_LIMITED"})
"""Refusals that mean "send it again later"."""
_WHOLE_ARRAY = frozenset({"INVALID_PAYLOAD", "TOO_LARGE"})
"""Refusals that one element may bring upon its whole array."""

_to_text = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def encode(message: Mapping[str, Any]) -> bytes:
    """JSON without spaces. Raises ValueError or TypeError for a value that is not JSON, such as NaN."""
    body = to_json(message, inf_nan_mode="constants")
    if b"NaN" in body or b"Infinity" in body:
        # Four times slower, but it tells a number from the same word in a text.
        body = _to_text(message).encode("ascii")
    return body


class NotSent(Exception):
    """The broker did not confirm the message; it may have it or not."""


class SenderClosed(Exception):
    """This connection was closed by its owner before the answer came."""


class OutgoingMessage(NamedTuple):
    """One message. `id` is its `message_id` and its `correlation_id`; a repeat has the same id."""

    kind: str
    id: str
    body: bytes


@dataclass(slots=True, eq=False)
class _Command:
    body: bytes
    answer: asyncio.Future[AnswerJson]
    tries: int = 0
    alone: bool = False
    """Send it without others: it may be the reason why an array was refused."""


@dataclass(slots=True, eq=False)
class _Message:
    kind: str
    id: str
    commands: list[_Command]
    body: bytes
    due: float = float("inf")
    """When to repeat it; infinity while its first publish is under way."""
    tries: int = 0

    @property
    def abandoned(self) -> bool:
        """Whether no caller waits for an answer any more."""
        return all(command.answer.done() for command in self.commands)


@dataclass(slots=True, eq=False)
class _SendQueue:
    """The commands of one type that wait to be sent."""

    kind: str
    waiting: deque[_Command] = field(default_factory=deque)
    sender: asyncio.Task[None] | None = None


class CommandSender:
    """Sends commands through `publish`, and repeats each until it is answered.

    `publish` returns when the broker has confirmed, waits for a connection, and raises NotSent.
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
        self._queues: dict[str, _SendQueue] = {}
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
        """Hand in the reply to a message. A second reply to a repeated message is ignored."""
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
        refused_together = len(message.commands) > 1 and isinstance(answers, dict)
        each = [answers] * len(message.commands) if isinstance(answers, dict) else answers
        for command, answer in zip(message.commands, each, strict=True):
            code = answer.get("code") if answer.get("status") == "refused" else None
            if code in RETRY_LATER:
                self._later(message.kind, command)
            elif refused_together and code in _WHOLE_ARRAY:
                # One element that no store can keep spoils the array: send each alone to find it.
                command.alone = True
                self._put(message.kind, command)
            elif not command.answer.done():
                command.answer.set_result(answer)

    def waits_for(self, message_id: str) -> bool:
        """Whether this message has no answer yet and somebody waits for it."""
        message = self._unanswered.get(message_id)
        return message is not None and not message.abandoned

    def repeat_now(self) -> None:
        """Make all unanswered messages due: a new connection has a new reply queue."""
        now = self._clock.now()
        for message in self._unanswered.values():
            message.due = min(message.due, now) if message.due != float("inf") else message.due
        self._wake.set()

    async def close(self) -> None:
        """Give up: callers that still wait for an answer get SenderClosed."""
        self._closed = True
        tasks = [*self._tasks, *([self._repeater] if self._repeater else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        waiting = [c for queue in self._queues.values() for c in queue.waiting]
        waiting += [c for message in self._unanswered.values() for c in message.commands]
        for command in waiting:
            if not command.answer.done():
                command.answer.set_exception(SenderClosed())
        self._queues.clear()
        self._unanswered.clear()

    def _put(self, kind: str, command: _Command) -> None:
        queue = self._queues.get(kind)
        if queue is None:
            queue = self._queues[kind] = _SendQueue(kind)
        queue.waiting.append(command)
        if queue.sender is None:
            queue.sender = self._spawn(self._send(queue))

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

    async def _send(self, queue: _SendQueue) -> None:
        try:
            while (message := self._gather(queue)) is not None:
                # Before the publish: the reply may overtake the confirmation.
                self._unanswered[message.id] = message
                await self._post(message)
                message.due = self._clock.now() + self._answer_timeout
                self._watch()
        finally:
            queue.sender = None

    async def _post(self, message: _Message) -> None:
        tries = 0
        while message.id in self._unanswered and not message.abandoned:
            try:
                await self._publish(OutgoingMessage(message.kind, message.id, message.body))
            except NotSent as error:
                if tries == 0:
                    self._log.warning("message_not_sent", kind=message.kind, reason=str(error))
                await self._clock.sleep(self._backoff.delay(tries))
                tries += 1
            else:
                return

    def _gather(self, queue: _SendQueue) -> _Message | None:
        """The next message of this queue: as many waiting commands as fit."""
        commands: list[_Command] = []
        size = 1
        while queue.waiting and len(commands) < MAX_ARRAY_LENGTH:
            command = queue.waiting[0]
            if command.answer.done():  # its caller is gone
                queue.waiting.popleft()
                continue
            size += len(command.body) + 1
            if commands and (size > MAX_BODY_BYTES or command.alone):
                break
            commands.append(queue.waiting.popleft())
            if command.alone:
                break
        if not commands:
            return None
        if len(commands) == 1:
            body = commands[0].body
        else:
            body = b"[" + b",".join([command.body for command in commands]) + b"]"
        return _Message(queue.kind, secrets.token_hex(16), commands, body)

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
            # Never for ever: a message that is sent meanwhile has a time of its own.
            await self._sleep_or_wake(max(0.0, min(delay, self._answer_timeout)))

    async def _post_again(self, message: _Message) -> None:
        if message.abandoned:
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
    """One answer per command, or one for the whole message; None for an invalid reply."""
    try:
        reply = from_json(body)
    except ValueError:
        return None
    if isinstance(reply, list):
        answers = [answer for value in reply if (answer := read_answer(value)) is not None]
        return answers if len(answers) == len(reply) == count else None
    return read_answer(reply)
