"""The deliverer sends the messages that are due, in the process that leads the follower `webhooks`.

A message is under way until its outcome is in the table. A crash before that sends it again, under the same
id. A replay while a try is under way wins over the try's outcome.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from uuid import UUID

import structlog

from coordinator.application.background import Background, BackgroundTask
from coordinator.application.metrics import WebhookMetrics
from coordinator.application.ports import Clock, Database, Intent, LogUnavailable
from coordinator.application.webhooks.outcomes import DeliveryOutcome, Try, record, retire
from coordinator.application.webhooks.post import Answered, Post
from coordinator.application.webhooks.queues import Due, Queues, Receiver
from coordinator.application.webhooks.schedule import NOT_READY_SECONDS, Bounds
from coordinator.application.webhooks.sending import DataNotReady, Dropped, Sending
from coordinator.domain.messages import SYSTEM
from coordinator.domain.webhook import WebhookDisable
from coordinator.wire.answers import Answer, Refused

IDLE_SECONDS: Final = 1.0
"""The longest pause between looks at the queue: the wall clock may be set."""
STOP_SECONDS: Final = 5.0
"""For messages under way at the end of this process."""
FORGET_SECONDS: Final = 60.0
"""Between removals of old messages."""
RETRY_SECONDS: Final = 1.0
_HOUR_MILLIS: Final = 3_600_000

log = structlog.get_logger("webhooks")


class Deliverer:
    """A component: start it after the followers, so that it stops before they give up the lead."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        sending: Sending,
        post: Post,
        handle: Callable[[Sequence[Intent]], Awaitable[list[Answer]]],
        *,
        bounds: Bounds | None = None,
        log_hours: int = 168,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`log_hours`: how long past messages are kept; 0 for ever. `chance`: 0 to 1, for the jitter."""
        self._database = database
        self._clock = clock
        self._sending = sending
        self._post = post
        self._handle = handle
        self._bounds = bounds or Bounds()
        self._log_hours = log_hours
        self._chance = chance
        self._queues: Queues | None = None
        """None: another process leads."""
        self._under_way: set[str] = set()
        self._tries = Background("webhook-try")
        self._outcomes: list[DeliveryOutcome] = []
        self._woken = asyncio.Event()
        self._task = BackgroundTask("webhooks-deliverer")
        self._stopped = True
        self._forgot_at = -FORGET_SECONDS
        self._counts = {"delivered": 0, "failed": 0}
        self._given_up = 0

    # --- life -----------------------------------------------------------------------------------------------
    async def start(self) -> None:
        self._stopped = False
        self._task.start(self._run)

    async def stop(self) -> None:
        """Wait for what is under way, and store its outcome. May be called twice."""
        if self._stopped:
            return
        self._stopped = True
        await self._task.stop()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._tries.join()
        except TimeoutError:
            await self._tries.stop()
        try:
            await self._record()
        except LogUnavailable:
            log.warning("outcomes were not stored; their messages are sent again", count=len(self._outcomes))

    def metrics(self) -> WebhookMetrics:
        """The figures since the start of this process."""
        return WebhookMetrics(dict(self._counts), self._given_up, len(self._under_way))

    # --- told by the follower -------------------------------------------------------------------------------
    def lead(self, queues: Queues) -> None:
        """This process leads from now on, with these messages waiting."""
        self._queues = queues
        self._woken.set()

    def stand_by(self) -> None:
        """Another process leads: send nothing more. What is under way ends."""
        self._queues = None
        self._woken.set()

    def note(self, due: Sequence[Due]) -> None:
        """These messages are stored."""
        if self._queues is not None:
            for one in due:
                self._queues.note(one)
            self._woken.set()

    # --- rounds ---------------------------------------------------------------------------------------------
    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self.round()
            except LogUnavailable as error:
                log.warning("interrupted", error=str(error), again_in=RETRY_SECONDS)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except Exception:  # whatever it was, other messages have to be sent
                log.exception("sending failed", again_in=RETRY_SECONDS)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await self._pause()

    async def _pause(self) -> None:
        seconds = IDLE_SECONDS
        if self._queues is not None and (due := self._queues.next_at()) is not None:
            wait = max(0.0, (due - self._clock.now()) / 1000)
            # One that is due and waits for a place is woken by the end of another.
            seconds = min(seconds, wait or IDLE_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def round(self) -> None:
        """Store outcomes, and begin what is due and has a place. Raises LogUnavailable."""
        await self._record()
        queues = self._queues
        if queues is None:
            return
        await self._begin_due(queues)
        if self._log_hours and self._clock.monotonic() - self._forgot_at > FORGET_SECONDS:
            self._forgot_at = self._clock.monotonic()
            before = self._clock.now() - self._log_hours * _HOUR_MILLIS
            await asyncio.to_thread(retire, self._database, before)
            queues.forget_idle()

    async def settle(self) -> None:
        """Wait until nothing is under way, and store the outcomes. Raises LogUnavailable."""
        while self._tries or self._outcomes:
            await self._tries.join()
            await self._record()

    async def _begin_due(self, queues: Queues) -> None:
        picks = list(queues.picks(self._clock.now(), self._bounds))
        if not picks:
            return
        versions = [pick.receiver.version for pick in picks]
        # Those under way are still due in the table.
        counts = [pick.room + pick.receiver.under_way + 1 for pick in picks]
        asked = [(pick.receiver.webhook_id, count) for pick, count in zip(picks, counts, strict=True)]
        found = await asyncio.to_thread(self._read_due, asked)
        if self._queues is not queues:
            return  # no longer leading
        now = self._clock.now()
        for pick, version, rows in zip(picks, versions, found, strict=True):
            receiver, room = pick
            next_due: int | None = None
            for row in rows:
                if row["delivery_id"] in self._under_way:
                    continue
                if room and row["due_at"] <= now:
                    room -= 1
                    self._begin(queues, receiver, Try(**row))
                elif next_due is None:
                    next_due = row["due_at"]
            if receiver.version == version:  # else a message was stored meanwhile: look again
                receiver.due_at = next_due

    def _read_due(self, asked: Sequence[tuple[str, int]]) -> list[list[dict[str, Any]]]:
        with self._database.transaction() as tables:
            return [tables.query("webhooks_due", webhook_id=key, count=count) for key, count in asked]

    def _begin(self, queues: Queues, receiver: Receiver, message: Try) -> None:
        queues.begin(receiver)
        self._under_way.add(message.delivery_id)
        self._tries.spawn(self._try(queues, receiver, message))

    async def _try(self, queues: Queues, receiver: Receiver, message: Try) -> None:
        at = self._clock.now()
        try:
            outcome = await self._outcome_of(message, at)
        except LogUnavailable:  # no fault of the receiver
            outcome = message.postponed(at + int(RETRY_SECONDS * 1000))
        except Exception:
            log.exception("a message could not be sent", delivery=message.delivery_id)
            outcome = message.failed(
                Answered(None, "internal error", 0), at, self._clock.now(), self._chance()
            )
        except asyncio.CancelledError:
            self._under_way.discard(message.delivery_id)
            queues.end(receiver)
            raise
        self._outcomes.append(outcome._replace(queues=queues, receiver=receiver))
        self._woken.set()

    async def _outcome_of(self, message: Try, at: int) -> DeliveryOutcome:
        try:
            url, headers, body = await self._sending.prepare(message, at)
        except DataNotReady:
            return message.postponed(at + int(NOT_READY_SECONDS * 1000))
        except Dropped as dropped:
            return message.dropped(str(dropped), at)
        answered = await self._post(url, headers, body)
        now = self._clock.now()
        if answered.succeeded:
            return message.delivered(answered, at, now)
        return message.failed(answered, at, now, self._chance())

    # --- outcomes -------------------------------------------------------------------------------------------
    async def _record(self) -> None:
        """Store the outcomes so far, and free their places. Raises LogUnavailable, and keeps them then."""
        if not self._outcomes:
            return
        outcomes = list(self._outcomes)
        await asyncio.to_thread(record, self._database, outcomes)
        del self._outcomes[: len(outcomes)]
        disabled: dict[str, str] = {}
        for outcome in outcomes:
            receiver, queues = outcome.receiver, outcome.queues
            assert receiver is not None
            assert queues is not None
            self._under_way.discard(outcome.message.delivery_id)
            queues.end(receiver)
            if outcome.due_at is not None:
                queues.note(Due(receiver.webhook_id, receiver.owner, outcome.due_at))
            else:
                # The table may have more: a place is free now.
                queues.note(Due(receiver.webhook_id, receiver.owner, self._clock.now()))
            reason = self._note(receiver, outcome)
            if reason is not None:
                disabled[receiver.webhook_id] = reason
        self._woken.set()
        if disabled and self._queues is not None:
            await self._disable(disabled)

    def _note(self, receiver: Receiver, outcome: DeliveryOutcome) -> str | None:
        """Count an outcome. Returns why its webhook is to be disabled, if it is."""
        answered, message = outcome.answered, outcome.message
        if answered is None:
            return None
        facts = {"delivery": message.delivery_id, "webhook": message.webhook_id, "type": message.type}
        if outcome.state == "DELIVERED":
            self._counts["delivered"] += 1
            receiver.failures, receiver.succeeded_at = 0, outcome.done_at or 0
            log.debug("delivered", **facts, status=answered.status, ms=answered.ms)
            return None
        self._counts["failed"] += 1
        receiver.failures += 1
        if outcome.state == "PENDING":
            log.debug("not delivered", **facts, why=answered.says, tries=outcome.tries)
            return None
        self._given_up += 1
        log.info("given up", **facts, why=answered.says, tries=outcome.tries)
        if message.is_callback or message.is_test:
            return None
        if answered.status == 410:
            return "the receiver answered 410 Gone"
        if receiver.succeeded_at < (outcome.tried_at or 0):
            return f"{outcome.tries} tries of a message failed, and no other one succeeded; {answered.says}"
        return None

    async def _disable(self, reasons: dict[str, str]) -> None:
        commands = [
            WebhookDisable(webhook_id=UUID(webhook_id), reason=reason)
            for webhook_id, reason in reasons.items()
        ]
        answers = await self._handle([Intent(command, SYSTEM) for command in commands])
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, Refused):
                log.warning("could not be disabled", webhook=str(command.webhook_id), detail=answer.detail)
            else:
                log.warning("disabled", webhook=str(command.webhook_id), reason=command.reason)
