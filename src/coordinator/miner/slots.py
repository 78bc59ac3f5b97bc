"""The slots of a miner: each takes an offer, claims it, runs it, reports it, and takes the next.

So the slots bound the number of jobs in hand, even if other systems are down.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import structlog
from pydantic_core import from_json

from coordinator.crypto.keys import SigningKey
from coordinator.crypto.refs import blob_refs
from coordinator.crypto.sealing import attempt_context, unseal
from coordinator.crypto.statement import sign_statement
from coordinator.miner.attempt import RESULT_TOO_LARGE, Attempt, Stopped
from coordinator.miner.blobs import HttpBlobs
from coordinator.miner.executors.base import Executor
from coordinator.miner.executors.errors import ENGINE_UNAVAILABLE
from coordinator.miner.executors.limits import Share
from coordinator.miner.progress import Report, Reporter
from coordinator.miner.signing import StatementSigner
from coordinator.miner.transport import NOT_LIVE, HeldOffer, Transport
from coordinator.wire.answers import AnswerJson
from coordinator.wire.offers import Offer, with_payload
from coordinator.wire.spans import begin_attempt, end_span

BILL_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Pauses between the tries of a bill, until the job is settled."""
REMEMBERED_OFFERS = 10_000
"""Number of finished attempts that are remembered, to ask before such an attempt is run again."""
WATCH_SECONDS = 1.0
NOT_OURS = frozenset({"STALE_ATTEMPT", "CONFLICT_STATE", "JOB_NOT_FOUND", "NOT_OFFERED"})
"""Refusals of a report that mean: the attempt is no longer this miner's, so drop the work."""


class Slots:
    """The attempts in hand, and the tasks that work on them."""

    def __init__(
        self,
        transport: Transport,
        executors: Mapping[str, Executor],
        *,
        miner_id: str,
        session_id: Callable[[], str],
        signer: StatementSigner,
        key: SigningKey,
        blobs: HttpBlobs,
        folder: Path | None,
        share: Share,
        on_session_lost: Callable[[str], None],
        on_drain: Callable[[], None],
        still_offers: Callable[[str], Awaitable[bool]],
    ) -> None:
        """`key` opens sealed payloads.

        `still_offers(service)` checks whether the miner can still run a job whose engine failed.
        """
        self._transport = transport
        self._executors = executors
        self._miner_id = miner_id
        self._session_id = session_id
        self._signer = signer
        self._key = key
        self._blobs = blobs
        self._folder = folder
        self._share = share
        self._on_session_lost = on_session_lost
        self._on_drain = on_drain
        self._still_offers = still_offers
        self._reporter = Reporter(self._report_progress)
        self._sending: set[asyncio.Task[None]] = set()
        self._over: OrderedDict[tuple[str, int], str] = OrderedDict()
        """Finished attempts, with the session that finished them."""
        self._log = structlog.get_logger().bind(miner=miner_id)
        self.inflight: dict[tuple[str, int], Attempt] = {}
        """The attempts in hand, by job id and attempt."""
        self.idle = asyncio.Event()
        """Set while there is none."""
        self.idle.set()
        self.ending = False
        """Begin nothing new any more."""
        self.paused = False
        """Begin nothing new until there is a new session."""

    def cancel(self, job_id: str, attempt: int) -> None:
        """Stop this attempt: it is no longer ours."""
        found = self.inflight.get((job_id, attempt))
        if found is not None:
            found.stop(Stopped.CANCELED)

    def send_progress(self, job_id: str, attempt: int) -> None:
        """A watcher of this attempt has come: send its text so far."""
        found = self.inflight.get((job_id, attempt))
        if found is not None and found.held:
            task = asyncio.ensure_future(self._reporter.send_whole(found.progress))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def report(self) -> None:
        """Send the attempts' progress; runs beside the slots."""
        await self._reporter.run()

    async def _report_progress(self, report: Report) -> bool:
        attempt = self.inflight.get((report["job_id"], report["attempt"]))
        return attempt is None or await self._transport.report(attempt.offer, report)

    def stop_all(self, reason: Stopped) -> None:
        """Stop all running attempts; reports under way continue."""
        for attempt in list(self.inflight.values()):
            attempt.stop(reason)

    async def watch(self) -> None:
        """Hold instant work to its time limit; other work has timers of its own."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = time.monotonic()
            for attempt in list(self.inflight.values()):
                attempt.expire(now)

    async def serve(self) -> None:
        """Run one slot until the transport has no more offers."""
        while (held := await self._transport.take()) is not None:
            try:
                await self._serve(held)
            except Exception:
                # An error of one offer must not cost the slot.
                self._log.exception("slot_failed", job=str(held.offer.job_id))
                held.done()

    async def _serve(self, held: HeldOffer) -> None:
        offer = held.offer
        key = job_id, _ = offer.key
        executor = self._executors.get(offer.service)
        if executor is None or key in self.inflight:
            held.done()
            return
        if (self.ending or self.paused) and not held.claimed:
            held.back()
            return
        session_id = self._session_id()
        # A copy of a finished attempt's offer is not dropped: the coordinator says whether it is over. Its
        # log may have been restored from a backup, and wait for this attempt again.
        instant = _is_instant(executor, offer) and self._over.get(key) != session_id
        names = {
            "job_id": job_id,
            "attempt": offer.attempt,
            "miner_id": self._miner_id,
            "session_id": session_id,
        }
        # The coordinator drops progress of an attempt before its claim.
        reports_progress = held.claimed or not instant
        attempt = Attempt(
            offer,
            executor,
            miner_id=self._miner_id,
            session_id=session_id,
            signer=self._signer,
            blobs=self._blobs.of_job(job_id),
            folder=self._folder,
            share=self._share,
            progress=self._reporter.attempt(names) if reports_progress else None,
        )
        self.inflight[key] = attempt
        self.idle.clear()
        span = begin_attempt(offer, self._miner_id, over_http=held.claimed)
        if span is not None:
            attempt.traceparent = span.traceparent
        try:
            await self._serve_attempt(attempt, held, instant=instant)
        finally:
            end_span(span, attempt.fault)
            del self.inflight[key]
            if not self.inflight:
                self.idle.set()

    async def _serve_attempt(self, attempt: Attempt, held: HeldOffer, *, instant: bool) -> None:
        # 1. Claim it, unless the poll has claimed it or the result will.
        claim_with_result = instant and not held.claimed
        if not held.claimed and not instant and not await self._claim(attempt, held):
            return
        attempt.held = not claim_with_result
        if self.ending and not claim_with_result:
            attempt.stop(Stopped.HANDED_BACK)
        # 2. Do the work.
        report = await attempt.run(inline=instant)
        await self._reporter.finish(attempt.progress)
        # 3. Report the outcome.
        if report is None:
            held.done()
            await self._stopped(attempt)
            return
        if attempt.crash is not None:
            self._log.warning("executor_crashed", job=attempt.job_id, error=_error_place(attempt.crash))
        engine_unavailable = attempt.held and report[1].get("error_code") == ENGINE_UNAVAILABLE
        if engine_unavailable and not await self._still_offers(attempt.offer.service):
            held.done()
            await self._release(attempt)
            return
        await self._report(attempt, held, *report)

    async def _claim(self, attempt: Attempt, held: HeldOffer) -> bool:
        private = bool(attempt.offer.private)
        names = {**attempt.names, "sealed": True} if private else attempt.names
        answer = await self._transport.call("job.start", names)
        if answer["status"] == "accepted":
            held.done()
            if private and answer.get("state", "RUNNING") == "RUNNING":
                self._take_payload(attempt, answer)
            if answer.get("state", "RUNNING") != "RUNNING":
                self._remember(attempt)  # a copy of an offer that this session has served
                return False
            self._log.info("claimed", **_names(attempt))
            return True
        self._not_claimed(attempt, held, answer)
        return False

    def _take_payload(self, attempt: Attempt, answer: AnswerJson) -> None:
        """Complete a private offer from its claim's answer; the attempt fails later if that is impossible."""
        try:
            if "sealed" in answer:
                context = attempt_context(attempt.job_id, attempt.offer.attempt)
                answer = from_json(unseal(self._key, context, answer["sealed"]))
            attempt.offer = with_payload(attempt.offer, answer)
        except ValueError as error:
            self._log.error("payload_unreadable", reason=str(error), **_names(attempt))

    def _not_claimed(self, attempt: Attempt, held: HeldOffer, answer: AnswerJson) -> None:
        code = answer.get("code")
        if code in NOT_LIVE:
            held.back()
            self._on_session_lost(attempt.session_id)
        elif code == "MINER_DRAINING":
            held.back()
            self._on_drain()
        else:
            held.done()
            self._remember(attempt)
            self._log.debug("not_claimed", code=code, **_names(attempt))

    async def _stopped(self, attempt: Attempt) -> None:
        self._remember(attempt)
        if attempt.stopped is Stopped.HANDED_BACK:
            await self._release(attempt)
        elif attempt.stopped is Stopped.CANCELED:
            self._log.info("canceled", **_names(attempt))
            if attempt.held:
                task = asyncio.ensure_future(self._bill(attempt))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
        else:
            self._log.warning("lost", **_names(attempt))

    async def _bill(self, attempt: Attempt) -> None:
        """Ask for the pay of the work on a cancelled job; most coordinators pay none, and refuse it."""
        statement = attempt.partial_statement()
        if statement is None:
            return
        bill = {**attempt.names, "statement": sign_statement(self._key, statement)}
        for pause in BILL_SECONDS:
            answer = await self._transport.call("account.bill", bill)
            if answer.get("code") != "JOB_NOT_FOUND":
                break
            await asyncio.sleep(pause)  # the job is settled a moment after its end
        if answer["status"] == "accepted":
            self._log.info("billed", payment=answer.get("payment"), **_names(attempt))

    async def _release(self, attempt: Attempt) -> None:
        self._remember(attempt)
        await self._transport.call("job.release", attempt.names)
        self._log.info("released", **_names(attempt))

    async def _report(self, attempt: Attempt, held: HeldOffer, kind: str, fields: dict[str, Any]) -> None:
        answer = await self._transport.call(kind, fields)
        code = answer.get("code")
        if not attempt.held and (code in NOT_LIVE or code == "MINER_DRAINING"):
            self._not_claimed(attempt, held, answer)
            return
        held.done()
        self._remember(attempt)
        if answer["status"] == "accepted":
            self._log_outcome(attempt, kind, fields)
        elif code == "INVALID_RESULT":
            # The result broke the service's output schema, which has ended the attempt.
            self._log.error("result_refused", code=code, detail=answer.get("detail"), **_names(attempt))
        elif kind == "job.complete" and code not in NOT_OURS:
            # The attempt is still ours, but this result will never be accepted.
            self._log.error("result_refused", code=code, detail=answer.get("detail"), **_names(attempt))
            too_large = code == "TOO_LARGE"
            kind, fields = attempt.failure(
                RESULT_TOO_LARGE if too_large else "RESULT_REFUSED",
                f"the coordinator refused the result: {code}",
                retryable=not too_large,
            )
            await self._transport.call(kind, fields)
        else:
            self._log.warning("lost", code=code, **_names(attempt))

    def _log_outcome(self, attempt: Attempt, kind: str, fields: Mapping[str, Any]) -> None:
        if kind == "job.fail":
            self._log.warning("failed", code=fields["error_code"], **_names(attempt))
        elif attempt.held:
            self._log.info("completed", **_names(attempt))
        else:
            # Thousands a second: a log line for each would cost more than the work.
            self._log.debug("completed", **_names(attempt))

    def _remember(self, attempt: Attempt) -> None:
        self._over[attempt.key] = attempt.session_id
        if len(self._over) > REMEMBERED_OFFERS:
            self._over.popitem(last=False)


def _is_instant(executor: Executor, offer: Offer) -> bool:
    """Whether claim and result can be one message.

    Only for an executor with the class attribute `instant = True`, and without blobs: a miner gets these only
    after its claim.
    """
    if offer.payload is None or not getattr(executor, "instant", False):
        return False
    return not blob_refs(offer.payload)


def _names(attempt: Attempt) -> dict[str, Any]:
    offer = attempt.offer
    names = {"job": attempt.job_id, "attempt": offer.attempt, "service": offer.service}
    return names if offer.traceparent is None else {**names, "traceparent": offer.traceparent}


def _error_place(error: BaseException) -> str:
    """The type and the place of an error, without its text, which may hold a client's data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    return f"{type(error).__name__} at {trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"
