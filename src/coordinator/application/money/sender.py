"""The sender: closes settlement batches when they are due, and sends each one until it is settled.

One process does it at a time. Every step is a function of the batch's own events, read from the log anew, and
of the sink's answers, so that another process goes on anywhere:

1. nothing prepared: ask the sink for the bytes of the next part, and append them;
2. prepared: send the bytes that the log has, and no others; append that the sink took them;
3. submitted: ask what became of them. Final: append it, the money has left. Gone: append it, and go to 2.

Two processes at once do the same steps with the same bytes, and the batch's stream takes each event once. A
refusal returns the money, so it has to be repeated for a while, and by answers about all bytes of the part.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.health import Part
from coordinator.application.metrics import SettlementMetrics
from coordinator.application.money.plans import BatchPlans
from coordinator.application.payloads.service_versions import States
from coordinator.application.ports import (
    Clock,
    Final,
    Intent,
    Leadership,
    LogUnavailable,
    Pending,
    PollAnswer,
    PreparedPayment,
    SettlementSink,
    SinkBatch,
    SinkRefused,
    SinkUnavailable,
    SubmitAnswer,
    Submitted,
    Unknown,
)
from coordinator.domain.errors import Code
from coordinator.domain.messages import SYSTEM
from coordinator.domain.settlement import (
    MAX_PAYOUTS,
    Settlement,
    SettlementClose,
    SettlementCommand,
    SettlementConfirm,
    SettlementPrepare,
    SettlementPrepared,
    SettlementRefuse,
    SettlementRevert,
    SettlementState,
    SettlementSubmit,
    settlement_stream,
)
from coordinator.wire.answers import Answer, Refused

SINK_SECONDS = 60.0
"""The longest wait for a sink's answer."""

T = TypeVar("T")
log = structlog.get_logger("settlement")


class Pace(NamedTuple):
    """When a batch is closed, and how fast it is sent. Times in seconds."""

    every_seconds: float = 0.0
    """Between two closes; 0: never by time."""
    amount: int = 0
    """The payable sum that closes a batch, in 10⁻⁶ of the unit; 0: never by amount."""
    poll_seconds: float = 2.0
    retry_seconds: float = 60.0
    """The longest pause after an answer that said nothing; the first one is `poll_seconds`."""
    sure_seconds: float = 60.0
    """For so long a sink has to say that it refuses, or does not know, a payment before we believe it."""


class _Later(Exception):
    """Nothing more can be done now; the text says why, if that is a problem."""


class SettlementSender:
    """A component. It works while this process leads."""

    name = "settlement-sender"

    def __init__(
        self,
        sink: SettlementSink,
        plans: BatchPlans,
        states: States,
        send: Callable[[Sequence[Intent]], Awaitable[list[Answer]]],
        leadership: Leadership,
        clock: Clock,
        pace: Pace,
        part: Part,
    ) -> None:
        """`send`: the gateway. `part`: where health shows why a batch does not go on."""
        self._sink = sink
        self._plans = plans
        self._states = states
        self._send = send
        self._leadership = leadership
        self._clock = clock
        self._pace = pace
        self._part = part
        self._delay = pace.poll_seconds
        self._since: dict[str, float] = {}
        """By doubt: since when the sink has repeated it."""
        self._last: tuple[int, float] | None = None
        """The number of the last settled batch, and since when this process knows it."""
        self._batch: Settlement | None = None
        """The batch that is not settled; None: another process leads, or there is none."""
        self._counts = {"confirmed": 0, "refused": 0, "reverted": 0}
        self._checked = False
        self._task = BackgroundTask("settlement-sender")

    async def start(self) -> None:
        self._task.start(self._run)

    async def stop(self) -> None:
        await self._task.stop()
        await self._leadership.release(self.name)
        await self._sink.close()

    def metrics(self) -> SettlementMetrics:
        """The figures of this process; those of a batch are 0 where another one leads."""
        batch = self._batch
        age = 0.0 if batch is None else max(0.0, (self._clock.now() - batch.closed.at) / 1000)
        return SettlementMetrics(
            open=int(batch is not None),
            in_transit=0 if batch is None else batch.in_transit,
            oldest_seconds=age,
            parts=dict(self._counts),
        )

    # --- rounds ---------------------------------------------------------------------------------------------
    async def _run(self) -> None:
        while True:
            self._batch = None
            try:
                await self._leadership.acquire(self.name)
                while self._leadership.holds(self.name):
                    if not await self.round():
                        await asyncio.sleep(self._delay)
            except LogUnavailable as error:
                log.warning("interrupted", error=str(error))
                await asyncio.sleep(self._pace.poll_seconds)
            except Exception:
                log.exception("a round of settlement failed; the next one tries again")
                await asyncio.sleep(self._pace.poll_seconds)

    async def round(self) -> bool:
        """One step of the open batch, or of closing one; whether the next one may follow at once."""
        try:
            if not self._checked:
                if fault := await self._bounded(self._sink.check(), f"no answer in {SINK_SECONDS:g} s"):
                    raise _Later(fault)
                self._checked = True
            went_on = await self._step()
        except _Later as later:
            if reason := str(later):
                self._part.fails(reason)
                self._delay = min(2 * self._delay, self._pace.retry_seconds)
            return False
        if went_on or self._batch is None:
            self._part.works()
            self._delay = self._pace.poll_seconds
        return went_on

    async def _step(self) -> bool:
        number, state = await self._current()
        if state is None or state.status == "SETTLED":
            self._batch = None
            return await self._close_if_due(number, state)
        self._batch = state
        if state.closed.sink != self._sink.name:
            raise _Later(
                f"batch {number} was closed for the sink {state.closed.sink}: set SETTLEMENT_SINK to it until"
                " it is settled, or confirm or refuse its parts"
            )
        if not state.prepared:
            return await self._prepare(state)
        return await self._advance(state, [_payment(prepared) for prepared in state.prepared])

    async def _current(self) -> tuple[int, SettlementState]:
        """The last batch of the log; the tables may be behind it. Number 0 and None before the first one."""
        number = (await self._plans.last()).number
        state: SettlementState = await self._state(number) if number else None
        while (following := await self._state(number + 1)) is not None:
            number, state = number + 1, following
        return number, state

    async def _state(self, number: int) -> SettlementState:
        stream = settlement_stream(number)
        found: SettlementState = (await self._states((stream,), fresh=True))[stream]
        return found

    # --- close ----------------------------------------------------------------------------------------------
    async def _close_if_due(self, number: int, last: Settlement | None) -> bool:
        now, pace = self._clock.monotonic(), self._pace
        if self._last is None or self._last[0] != number:
            self._last = (number, now)
        if not pace.every_seconds and not pace.amount:
            return False
        # By the wall clock or by this process's own: a clock that was set back delays no batch for longer.
        closed_at = 0 if last is None else last.closed.at
        waited = max((self._clock.now() - closed_at) / 1000, now - self._last[1])
        # Where a batch could not pay all, the next one is due with it.
        is_rest = last is not None and len(last.closed.payouts) == MAX_PAYOUTS
        by_time = bool(pace.every_seconds) and (is_rest or waited >= pace.every_seconds)
        payable = await self._plans.payable()
        by_amount = bool(pace.amount) and payable.total >= pace.amount
        if not payable.parties or not (by_time or by_amount):
            return False
        await self._record(SettlementClose(number=number + 1))
        log.info("batch closed", number=number + 1, payable=payable.total)
        return True

    # --- send -----------------------------------------------------------------------------------------------
    async def _prepare(self, state: Settlement) -> bool:
        history = await self._plans.history(state)
        if history is None:
            raise _Later  # the tables come in a moment
        closed = state.closed
        batch = SinkBatch(closed.number, closed.digest, closed.at, closed.payouts, state.first)
        try:
            payment = await self._bounded(self._sink.prepare(batch, history), None)
        except SinkUnavailable as error:
            raise _Later(f"batch {closed.number} can't be prepared: {error}") from None
        if payment is None:
            raise _Later(f"batch {closed.number} can't be prepared: no answer in {SINK_SECONDS:g} s")
        await self._record(_prepare_command(state, payment))
        return True

    async def _advance(self, state: Settlement, payments: Sequence[PreparedPayment]) -> bool:
        number, part = state.closed.number, state.part
        refusal: str | None = None
        if state.submitted is None:
            answer: SubmitAnswer = await self._bounded(
                self._sink.submit(payments[-1]), Unknown(f"no answer in {SINK_SECONDS:g} s")
            )
            if isinstance(answer, Submitted):
                await self._record(SettlementSubmit(number=number, part=part, hash=payments[-1].hash))
                return True
            if isinstance(answer, SinkRefused):
                refusal = answer.reason
            else:
                self._part.fails(f"batch {number}: {answer.reason}")
        # Any of the bytes may have been taken, the older ones, too.
        answers: list[PollAnswer] = [
            await self._bounded(self._sink.poll(payment), Unknown(f"no answer in {SINK_SECONDS:g} s"))
            for payment in reversed(payments)
        ]
        told = list(zip(reversed(payments), answers, strict=True))
        for payment, found in told:
            if isinstance(found, Final):
                confirm = SettlementConfirm(
                    number=number, part=part, hash=payment.hash, confirmations=found.confirmations
                )
                await self._record(confirm)
                self._counts["confirmed"] += 1
                self._since.clear()
                log.info("part paid", number=number, part=part, confirmations=found.confirmations)
                return True
        for payment, found in told:
            if isinstance(found, Pending):
                return await self._wait(state, payment, payments)
        for _, found in told:
            if isinstance(found, Unknown):
                raise _Later(f"batch {number}: {found.reason}")
            if isinstance(found, SinkRefused):
                refusal = found.reason
        if refusal is not None:
            if not self._is_sure(f"refused {number}/{part}"):
                raise _Later(f"batch {number}: refused: {refusal}")
            await self._record(SettlementRefuse(number=number, part=part, reason=refusal[:2000]))
            self._counts["refused"] += 1
            self._since.clear()
            log.warning("part refused", number=number, part=part, reason=refusal)
            return True
        if state.submitted is not None:
            if not self._is_sure(f"gone {number}/{part}"):
                raise _Later
            await self._record(SettlementRevert(number=number, part=part))
            self._counts["reverted"] += 1
            log.warning("part gone; its bytes are sent again", number=number, part=part)
            return True
        raise _Later(f"batch {number}: the sink does not know it yet")

    async def _wait(
        self, state: Settlement, payment: PreparedPayment, payments: Sequence[PreparedPayment]
    ) -> bool:
        number, part = state.closed.number, state.part
        pending = f"pending {number}/{part}/{payments[-1].hash}"
        self._since = {doubt: at for doubt, at in self._since.items() if doubt == pending}
        if state.submitted is None:
            await self._record(SettlementSubmit(number=number, part=part, hash=payment.hash))
            return True
        seconds = self._clock.monotonic() - self._since.setdefault(pending, self._clock.monotonic())
        try:
            other = await self._bounded(self._sink.replacement(payments, seconds), None)
        except SinkUnavailable as error:
            raise _Later(f"batch {number}: {error}") from None
        if other is None:
            self._part.works()
            self._delay = self._pace.poll_seconds
            raise _Later
        await self._record(_prepare_command(state, other))
        log.info("part replaced", number=number, part=part, hash=other.hash)
        return True

    def _is_sure(self, doubt: str) -> bool:
        """Whether the sink has said this for long enough."""
        now = self._clock.monotonic()
        return now - self._since.setdefault(doubt, now) >= self._pace.sure_seconds

    # --- help -----------------------------------------------------------------------------------------------
    async def _record(self, command: SettlementCommand) -> None:
        """Append what has happened. Raises _Later if another process was faster, or the log is away."""
        [answer] = await self._send([Intent(command, SYSTEM)])
        if isinstance(answer, Refused):
            usual = answer.code in (Code.CONFLICT_STATE, Code.UNAVAILABLE)
            log.debug("not recorded", command=command.topic, code=answer.code, detail=answer.detail)
            raise _Later("" if usual else f"{command.topic}: {answer.detail}")

    async def _bounded(self, work: Awaitable[T], otherwise: T) -> T:
        try:
            async with asyncio.timeout(SINK_SECONDS):
                return await work
        except TimeoutError:
            return otherwise


def _payment(prepared: SettlementPrepared) -> PreparedPayment:
    return PreparedPayment(
        base64.b64decode(prepared.body),
        prepared.hash,
        prepared.nonce,
        prepared.count,
        prepared.payout_root,
    )


def _prepare_command(state: Settlement, payment: PreparedPayment) -> SettlementPrepare:
    values: dict[str, Any] = {
        "number": state.closed.number,
        "part": state.part,
        "count": payment.covers,
        "nonce": payment.nonce,
        "hash": payment.hash,
        "body": base64.b64encode(payment.body).decode(),
        "payout_root": payment.payout_root,
    }
    return SettlementPrepare(**values)
