"""The client's errors: one tree of exceptions, each with a stable `code` and a next step."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from coordinator.client.models import JobError, JobView

NEXT_STEPS: Final = {
    "UNREACHABLE": "Check the URL and the network; sending it again is safe.",
    "BAD_ANSWER": "Check that the URL is a coordinator's, and that both sides have the same version.",
    "INVALID_ARGUMENT": "Correct the argument; nothing was sent.",
    "UNAUTHORIZED_KEY": "Give a valid API key, name:secret.",
    "FORBIDDEN": "Use a key with the right role.",
    "RATE_LIMITED": "Wait for `retry_after` seconds, or send fewer requests.",
    "INSUFFICIENT_FUNDS": "Wait until jobs end and their holds return, state a budget, or ask for a deposit.",
    "QUEUE_FULL": "Wait until miners have taken some of your queued jobs, or cancel some.",
    "QUOTA_EXCEEDED": "`coordinator quota` shows what is used and allowed; ask the operator for more.",
    "UNAVAILABLE": "Send the same again in a moment.",
    "INTERNAL": "Send the same again; if the error stays, give the operator the request id.",
    "JOB_NOT_READY": "Wait longer, or ask again later.",
    "NOT_IN_CHECKPOINT": "Wait longer, or ask again later: checkpoints follow within seconds.",
    "JOB_NOT_FOUND": "Check the job's id, and use the key of the client that submitted it.",
    "JOB_FAILED": "`error` says why; correct the cause and submit the job again.",
    "JOB_EXPIRED": "Submit the job again with a longer `ttl_seconds`, or with looser constraints.",
    "SERVICE_NOT_FOUND": "`services()` lists the services.",
    "WEBHOOK_NOT_FOUND": "`webhooks.list()` lists your webhooks.",
    "MINER_NOT_FOUND": "`miners()` lists the miners.",
    "INVALID_PAYLOAD": "Correct the named field; `service()` has the schema of the payload.",
    "TOO_LARGE": "Upload large inputs, and name them in the payload.",
    "IDEMPOTENCY_MISMATCH": "Use another idempotency key for another request.",
    "NO_ELIGIBLE_MINER": "Loosen the constraints; without `when_unmatched` the job waits.",
    "BLOB_NOT_FOUND": "Upload the file first, with the same key.",
    "DIGEST_MISMATCH": "Transfer the file again: it changed meanwhile, or was damaged on the way.",
}
"""The next step for each code that has one."""


class CoordinatorError(Exception):
    """A client's request failed; `code` is for programs, `detail` for people."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        self.next_step = NEXT_STEPS.get(code, "")
        super().__init__(f"{code}: {detail}" + (f". {self.next_step}" if self.next_step else ""))


class Unreachable(CoordinatorError):
    """No answer came. A command may have taken effect or not; sending it again is safe."""

    def __init__(self, detail: str) -> None:
        super().__init__("UNREACHABLE", detail)


class BadAnswer(CoordinatorError):
    """The answer breaks the protocol: the URL is not a coordinator's, or its version is too old or new."""

    def __init__(self, detail: str) -> None:
        super().__init__("BAD_ANSWER", detail)


class DamagedBlob(CoordinatorError):
    """The received file does not have the requested SHA-256; nothing of it was kept."""

    def __init__(self, detail: str) -> None:
        super().__init__("DIGEST_MISMATCH", detail)


class NoResult(CoordinatorError):
    """The job ended without a result: it failed, was cancelled or expired (`job.state`).

    `error` is the miner's report of a failure.
    """

    def __init__(self, job: JobView) -> None:
        super().__init__(f"JOB_{job.state}", f"job {job.job_id}: {job.problem or job.state}")
        self.job = job

    @property
    def error(self) -> JobError | None:
        """Why the job failed; None if it was cancelled or expired."""
        return self.job.error


class RequestRefused(CoordinatorError):
    """The coordinator refused the request. Over HTTP, `problem` is its whole answer (RFC 9457)."""

    retry_after: float | None = None
    """Seconds to wait before the next try, if the answer names them."""

    def __init__(
        self, code: str, detail: str, status: int | None = None, problem: dict[str, Any] | None = None
    ) -> None:
        super().__init__(code, detail)
        self.status = status
        self.problem = problem or {}


class NotAuthorised(RequestRefused):
    """The API key is missing or invalid, or does not allow this."""


class NotFound(RequestRefused):
    """It does not exist, or belongs to another client."""


class NotReady(RequestRefused):
    """The job is not final yet, or no checkpoint has its end: ask again later, or wait."""


class Conflict(RequestRefused):
    """The state of the job (or miner) does not allow this."""


class Erased(RequestRefused):
    """The payload or result was erased; `problem` names the event that says so, and its reason."""


class RateLimited(RequestRefused):
    """Too many requests. The SDK has already waited and tried again, or would have to wait for too long."""


class OverQuota(RequestRefused):
    """The name of the key has used all that it may: queued jobs, stored bytes, miners or profiles."""


class TryAgain(RequestRefused):
    """The coordinator can't answer now; sending the same again later is safe."""


_BY_CODE: dict[str, type[RequestRefused]] = {
    "UNAUTHORIZED_KEY": NotAuthorised,
    "FORBIDDEN": NotAuthorised,
    "JOB_NOT_READY": NotReady,
    "NOT_IN_CHECKPOINT": NotReady,
    "CONFLICT_STATE": Conflict,
    "IDEMPOTENCY_MISMATCH": Conflict,
    "STALE_ATTEMPT": Conflict,
    "CONTENT_EXPIRED": Erased,
    "RATE_LIMITED": RateLimited,
    "QUEUE_FULL": OverQuota,
    "QUOTA_EXCEEDED": OverQuota,
    "UNAVAILABLE": TryAgain,
    "INTERNAL": TryAgain,
}
_BY_STATUS: dict[int, tuple[str, str]] = {
    401: ("UNAUTHORIZED_KEY", "the API key was not accepted"),
    403: ("FORBIDDEN", "this API key may not do that"),
    404: ("NOT_FOUND", "not found"),
    409: ("CONFLICT_STATE", "the present state does not allow this"),
    410: ("CONTENT_EXPIRED", "it was erased"),
    413: ("TOO_LARGE", "the request is too large"),
    422: ("INVALID_PAYLOAD", "invalid request"),
    425: ("JOB_NOT_READY", "the job is not final yet"),
    429: ("RATE_LIMITED", "too many requests"),
}
"""Code and detail by status, for answers without a problem document: to HEAD requests, and from proxies."""


def refusal(status: int, problem: dict[str, Any], retry_after: str = "") -> RequestRefused:
    """The exception for an answer over HTTP that is not a success."""
    code, detail = _BY_STATUS.get(
        status, ("UNAVAILABLE" if status >= 500 else "INVALID_PAYLOAD", f"HTTP status {status}")
    )
    code = str(problem.get("code") or code)
    detail = str(problem.get("detail") or problem.get("title") or detail)
    refused = _kind(code, status)(code, detail, status, problem)
    refused.retry_after = _seconds(retry_after)
    return refused


def refused_answer(answer: dict[str, Any]) -> RequestRefused:
    """The exception for a refusal over AMQP."""
    code = str(answer.get("code") or "INVALID_PAYLOAD")
    refused = _kind(code, 0)(code, str(answer.get("detail") or "refused"))
    refused.retry_after = _seconds(str(answer.get("retry_after") or ""))
    return refused


def _kind(code: str, status: int) -> type[RequestRefused]:
    kind = _BY_CODE.get(code)
    if kind is None:
        kind = NotFound if code.endswith("NOT_FOUND") else TryAgain if status >= 500 else RequestRefused
    return kind


def _seconds(retry_after: str) -> float | None:
    """A `Retry-After` as seconds from now: the header is a number of seconds, or a time (RFC 9110)."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time())
    except ValueError:
        return None
