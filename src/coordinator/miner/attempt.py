"""One attempt at one job: check the payload, run under the time limit, sign, and make the report."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from coordinator.crypto.canonical import CanonicalError, canonical_json, salted_digest
from coordinator.crypto.statement import PARTIAL_VERSION, STATEMENT_VERSION
from coordinator.miner.executors.base import (
    BlobAccess,
    Executor,
    Outcome,
    Work,
    Workspace,
)
from coordinator.miner.executors.errors import (
    EXECUTOR_FAILED,
    EXECUTOR_TIMEOUT,
    INVALID_PAYLOAD,
    ExecutorError,
)
from coordinator.miner.executors.limits import Share, whole_machine
from coordinator.miner.progress import AttemptProgress
from coordinator.miner.signing import StatementSigner
from coordinator.wire.amqp.batching import encode
from coordinator.wire.limits import MAX_BODY_BYTES
from coordinator.wire.offers import Offer
from coordinator.wire.spans import STOPPED, begin_execution, end_span

RESULT_TOO_LARGE = "RESULT_TOO_LARGE"
INVALID_RESULT = "INVALID_RESULT"
MAX_PAYLOAD_BLOB_BYTES = 8 << 20
"""A payload came in a message of 1 MiB; its stored form may need more bytes for a character."""
OVERHEAD_BYTES = 4096
"""An upper bound for the other fields of a `job.complete`, besides result and metrics."""
MAX_MESSAGE_CHARACTERS = 500
_ERROR_CODE = re.compile(r"[A-Z][A-Z0-9_]{1,63}")


class Stopped(StrEnum):
    """Why the program stopped an attempt."""

    CANCELED = "canceled"  # the attempt is no longer ours
    SESSION_LOST = "session_lost"  # no attempt is ours any more
    HANDED_BACK = "handed_back"  # the program ends


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Attempt:
    """An attempt in hand, from the offer to its report.

    `held`: the coordinator has confirmed that it is ours; heartbeats list held attempts.
    """

    __slots__ = (
        "_began_at",
        "_blobs",
        "_due",
        "_executor",
        "_expired",
        "_folder",
        "_inline_in",
        "_share",
        "_signer",
        "_stopped_at",
        "_task",
        "crash",
        "fault",
        "held",
        "job_id",
        "miner_id",
        "offer",
        "progress",
        "reporting",
        "session_id",
        "stopped",
        "traceparent",
    )

    def __init__(
        self,
        offer: Offer,
        executor: Executor,
        *,
        miner_id: str,
        session_id: str,
        signer: StatementSigner,
        blobs: BlobAccess,
        folder: Path | None = None,
        share: Share | None = None,
        progress: AttemptProgress | None = None,
    ) -> None:
        """`share` is this job's part of the machine; None is all of it.

        `progress` takes the executor's progress and text; without it they are dropped."""
        self.offer = offer
        self.job_id = offer.key[0]
        self.miner_id = miner_id
        self.session_id = session_id
        self.held = False
        self.reporting = False
        self.stopped: Stopped | None = None
        self.traceparent = offer.traceparent
        """The trace that its commands belong to: the offer's, or its own span where that is recorded."""
        self.progress = progress or AttemptProgress({}, lambda _: None)
        self.crash: Exception | None = None
        """The executor's exception, if it broke its contract."""
        self.fault: str | None = None
        """The code of what went wrong, if anything did."""
        self._executor = executor
        self._signer = signer
        self._blobs = blobs
        self._folder = folder
        self._share = share or whole_machine()
        self._task: asyncio.Task[Outcome] | None = None
        self._inline_in: asyncio.Task[Any] | None = None
        self._due = 0.0
        self._expired = False
        self._began_at = self._stopped_at = 0

    @property
    def key(self) -> tuple[str, int]:
        """The job and the attempt in the form of messages."""
        return self.job_id, self.offer.attempt

    @property
    def names(self) -> dict[str, Any]:
        """The fields that all commands about this attempt share."""
        names = {
            "job_id": self.job_id,
            "attempt": self.offer.attempt,
            "miner_id": self.miner_id,
            "session_id": self.session_id,
        }
        if self.offer.token is not None and not self.held:
            names["token"] = self.offer.token  # for the claim; then the lease is enough
        if self.traceparent is not None:
            names["traceparent"] = self.traceparent
        return names

    def stop(self, reason: Stopped) -> None:
        """Stop the executor, if it runs. A report under way continues: the result may still count."""
        if self.stopped is None and not self.reporting:
            self.stopped = reason
            self._stopped_at = now_ms()
            self.fault = reason.value
            if self._task is not None:
                self._task.cancel()

    async def run(self, *, inline: bool) -> tuple[str, dict[str, Any]] | None:
        """Do the work; returns the command that reports it, (type, fields), or None if it was stopped.

        Raises only if the caller is cancelled. `inline` runs the executor in the caller's own task: for very
        short work a task costs more than the work.
        """
        if self.stopped:
            return None
        workspace = Workspace(self._folder)
        started = self._began_at = now_ms()
        span = begin_execution(self.offer.service, self.traceparent)
        try:
            outcome = await self._execute(workspace, inline=inline)
            end_span(span)
            if self.stopped and self.stopped is not Stopped.HANDED_BACK:
                return None
            report = await self._completion(outcome, started)
        except ExecutorError as error:
            end_span(span, code_of(error.code))
            report = self.failure(error.code, error.detail, retryable=error.retryable)
        except _StoppedError:
            return None
        except Exception as error:
            # A broken executor costs only its own job. The error's text could show this machine's paths.
            self.crash = error
            end_span(span, EXECUTOR_FAILED)
            report = self.failure(
                EXECUTOR_FAILED, f"the executor failed ({type(error).__name__})", retryable=True
            )
        finally:
            end_span(span, STOPPED)  # unless it is over already
            if workspace.used:
                await asyncio.shield(asyncio.to_thread(workspace.remove))
        self.reporting = True
        return report

    def partial_statement(self) -> dict[str, Any] | None:
        """The content of a statement about the work until it was stopped; None if none was done."""
        if not self._began_at or not self._stopped_at:
            return None
        offer = self.offer
        return {
            "version": PARTIAL_VERSION,
            "job_id": self.job_id,
            "attempt": offer.attempt,
            "miner_id": self.miner_id,
            "session_id": self.session_id,
            "service": offer.service,
            "payload_digest": offer.payload_digest,
            "started_at_ms": self._began_at,
            "stopped_at_ms": max(self._began_at, self._stopped_at),
        }

    def failure(self, code: str, message: str, *, retryable: bool) -> tuple[str, dict[str, Any]]:
        """The command that reports a failure."""
        self.fault = code_of(code)
        fields = {
            **self.names,
            "error_code": self.fault,
            "error_message": _storable(message),
            "retryable": retryable,
        }
        return "job.fail", fields

    async def _execute(self, workspace: Workspace, *, inline: bool) -> Outcome:
        limit = self.offer.timeout_seconds
        if inline:
            return await self._execute_inline(workspace, limit)
        self._task = asyncio.ensure_future(self._work(workspace))
        try:
            async with asyncio.timeout(limit) as timer:
                return await self._task
        except TimeoutError:
            if not timer.expired():
                raise  # the executor's own
            raise _overdue(limit) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            if self.stopped:
                raise _StoppedError from None
            raise _canceled_itself() from None

    async def _execute_inline(self, workspace: Workspace, limit: float) -> Outcome:
        # A timer costs a tenth of such a job: `expire` stops the few that take too long.
        task = self._inline_in = asyncio.current_task()
        assert task is not None
        self._due = time.monotonic() + limit
        try:
            return await self._work(workspace)
        except asyncio.CancelledError:
            if task.cancelling() > self._expired:
                raise
            raise (_overdue(limit) if self._expired else _canceled_itself()) from None
        finally:
            self._inline_in = None
            if self._expired:
                task.uncancel()

    def expire(self, now: float) -> None:
        """Stop inline work that exceeds its time limit at `now` (monotonic seconds)."""
        if self._inline_in is not None and not self._expired and now >= self._due:
            self._expired = True
            self._inline_in.cancel()

    async def _work(self, workspace: Workspace) -> Outcome:
        payload = await self._payload(workspace)
        offer = self.offer
        return await self._executor.run(
            Work(
                self.job_id,
                offer.attempt,
                offer.service,
                payload,
                workspace,
                self._blobs,
                self.progress.progress,
                self.progress.emit,
                self._share,
            )
        )

    async def _payload(self, workspace: Workspace) -> dict[str, Any]:
        """The payload, checked against the client's digest. Raises ExecutorError."""
        offer = self.offer
        payload: Any = offer.payload
        if payload is None and offer.payload_blob is None:
            raise ExecutorError(INVALID_PAYLOAD, "the claim's answer brought no payload", retryable=True)
        if payload is None:
            path = workspace.path / "payload.json"
            await self._blobs.download(offer.payload_blob or "", path, max_bytes=MAX_PAYLOAD_BLOB_BYTES)
            try:
                payload = from_json(await asyncio.to_thread(path.read_bytes), allow_inf_nan=False)
            except ValueError:
                payload = None
            finally:
                path.unlink()
        try:
            matches = salted_digest(offer.salt, payload) == offer.payload_digest
        except CanonicalError:
            matches = False
        if not matches or not isinstance(payload, dict):
            raise ExecutorError(
                INVALID_PAYLOAD, "the received payload does not match its digest", retryable=True
            )
        return payload

    async def _completion(self, outcome: Outcome, started: int) -> tuple[str, dict[str, Any]]:
        salt = secrets.token_bytes(16)
        try:
            measured = canonical_json(outcome.result)
            size = len(measured) + len(encode(outcome.metrics)) + OVERHEAD_BYTES
        except (CanonicalError, TypeError, ValueError) as error:
            detail = str(error) if isinstance(error, CanonicalError) else "the metrics are not JSON"
            return self.failure(INVALID_RESULT, f"invalid result of the executor: {detail}", retryable=False)
        if size > MAX_BODY_BYTES:
            return self.failure(
                RESULT_TOO_LARGE,
                f"the result takes more than {MAX_BODY_BYTES} bytes; the executor must use a blob",
                retryable=False,
            )
        digest = sha256(salt + measured).hexdigest()
        offer = self.offer
        statement: dict[str, Any] = {
            "version": STATEMENT_VERSION,
            "job_id": self.job_id,
            "attempt": offer.attempt,
            "miner_id": self.miner_id,
            "session_id": self.session_id,
            "service": offer.service,
            "payload_digest": offer.payload_digest,
            "result_digest": digest,
            "started_at_ms": started,
            "completed_at_ms": max(started, now_ms()),
        }
        if outcome.units:
            statement["units"] = {unit: str(number) for unit, number in outcome.units.items()}
        fields = {
            **self.names,
            "result": outcome.result,
            "result_salt": salt.hex(),
            "statement": await self._signer.sign(statement),
            "metrics": outcome.metrics,
        }
        return "job.complete", fields


class _StoppedError(Exception):
    """The program stopped the executor."""


def code_of(code: str) -> str:
    """An executor's error code, if it is one."""
    return code if _ERROR_CODE.fullmatch(code) else EXECUTOR_FAILED


def _overdue(limit: float) -> ExecutorError:
    return ExecutorError(EXECUTOR_TIMEOUT, f"not done after {limit:g} s", retryable=True)


def _canceled_itself() -> ExecutorError:
    return ExecutorError(EXECUTOR_FAILED, "the executor cancelled itself", retryable=True)


def _storable(text: str) -> str:
    """The text without NUL and lone surrogates, which no store can keep."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:MAX_MESSAGE_CHARACTERS]
