"""What can go wrong for a client: one tree of exceptions, each with a stable `code` and a next step."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from coordinator.client.models import JobError, JobView

NEXT_STEPS: Final = {
    "UNREACHABLE": "Check the url and the network; sending it again is safe.",
    "BAD_ANSWER": "Check that the url is a coordinator's, and that both sides have the same version.",
    "INVALID_ARGUMENT": "Correct the argument; nothing was sent.",
    "UNAUTHORIZED_KEY": "Give a valid API key, name:secret.",
    "FORBIDDEN": "Use a key with the right role.",
    "RATE_LIMITED": "Wait for `retry_after` seconds, or send less at a time.",
    "UNAVAILABLE": "Send the same again in a moment.",
    "INTERNAL": "Send the same again; if it stays, its operator finds it by the request id.",
    "JOB_NOT_READY": "Wait longer, or ask again later.",
    "JOB_NOT_FOUND": "Check the job's id, and that the key is that of the client who submitted it.",
    "JOB_FAILED": "`error` says why; submit it anew once that is put right.",
    "JOB_EXPIRED": "Submit it anew with a longer `ttl_seconds`, or with looser constraints.",
    "SERVICE_NOT_FOUND": "`services()` lists what there is.",
    "MINER_NOT_FOUND": "`miners()` lists who is there.",
    "INVALID_PAYLOAD": "Correct what the text names; `service()` has the schema of the payload.",
    "TOO_LARGE": "Upload large inputs, and name them in the payload.",
    "IDEMPOTENCY_MISMATCH": "Use another idempotency key for another request.",
    "NO_ELIGIBLE_MINER": "Loosen the constraints, or try again when such a miner is there.",
    "BLOB_NOT_FOUND": "Upload the file first, with the same key.",
    "DIGEST_MISMATCH": "Do it again: the file changed meanwhile, or the transfer was damaged.",
}
"""What to do about each code, where there is something to do."""


class CoordinatorError(Exception):
    """Something a client asked for was not done; `code` is for programs, `detail` for people."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        self.next_step = NEXT_STEPS.get(code, "")
        super().__init__(f"{code}: {detail}" + (f". {self.next_step}" if self.next_step else ""))


class Unreachable(CoordinatorError):
    """No answer came: whether a command took effect is unknown, and sending it again is safe."""

    def __init__(self, detail: str) -> None:
        super().__init__("UNREACHABLE", detail)


class BadAnswer(CoordinatorError):
    """The answer is not what the protocol promises: the url is something else's, or too old or new."""

    def __init__(self, detail: str) -> None:
        super().__init__("BAD_ANSWER", detail)


class DamagedBlob(CoordinatorError):
    """What arrived does not have the SHA-256 by which it was asked for; nothing of it was kept."""

    def __init__(self, detail: str) -> None:
        super().__init__("DIGEST_MISMATCH", detail)


class NoResult(CoordinatorError):
    """The job ended without a result: it failed, was cancelled or expired (`job.state`).

    `error` is what the miner said of a failure.
    """

    def __init__(self, job: JobView) -> None:
        super().__init__(f"JOB_{job.state}", f"job {job.job_id}: {job.problem or job.state}")
        self.job = job

    @property
    def error(self) -> JobError | None:
        """Why it failed; None for one that was cancelled or expired."""
        return self.job.error


class RequestRefused(CoordinatorError):
    """The coordinator said no, and why; its whole answer (RFC 9457) is `problem`, where it came over HTTP."""

    retry_after: float | None = None
    """Seconds to wait before the next try, where the answer says so."""

    def __init__(
        self, code: str, detail: str, status: int | None = None, problem: dict[str, Any] | None = None
    ) -> None:
        super().__init__(code, detail)
        self.status = status
        self.problem = problem or {}


class NotAuthorised(RequestRefused):
    """The API key is missing, wrong, or not for this."""


class NotFound(RequestRefused):
    """There is no such thing, or it is not yours."""


class NotReady(RequestRefused):
    """The job is not final yet: ask again later, or wait."""


class Conflict(RequestRefused):
    """The state of the job (or miner) does not allow this."""


class RateLimited(RequestRefused):
    """Too many requests; the SDK has waited and tried again already, or would have to wait for too long."""


class TryAgain(RequestRefused):
    """The coordinator can't answer now; sending the same again later is safe."""


_BY_CODE: dict[str, type[RequestRefused]] = {
    "UNAUTHORIZED_KEY": NotAuthorised,
    "FORBIDDEN": NotAuthorised,
    "JOB_NOT_READY": NotReady,
    "CONFLICT_STATE": Conflict,
    "IDEMPOTENCY_MISMATCH": Conflict,
    "STALE_ATTEMPT": Conflict,
    "RATE_LIMITED": RateLimited,
    "UNAVAILABLE": TryAgain,
    "INTERNAL": TryAgain,
}
_BY_STATUS: dict[int, tuple[str, str]] = {
    401: ("UNAUTHORIZED_KEY", "the API key was not accepted"),
    403: ("FORBIDDEN", "this API key may not do that"),
    404: ("NOT_FOUND", "there is no such thing"),
    409: ("CONFLICT_STATE", "the present state does not allow this"),
    413: ("TOO_LARGE", "the request is too large"),
    422: ("INVALID_PAYLOAD", "the request is not valid"),
    425: ("JOB_NOT_READY", "the job is not final yet"),
    429: ("RATE_LIMITED", "too many requests"),
}
"""What a status means where no problem document came with it: answers to HEAD, and from proxies."""


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
    return _kind(code, 0)(code, str(answer.get("detail") or "refused"))


def _kind(code: str, status: int) -> type[RequestRefused]:
    kind = _BY_CODE.get(code)
    if kind is None:
        kind = NotFound if code.endswith("NOT_FOUND") else TryAgain if status >= 500 else RequestRefused
    return kind


def _seconds(retry_after: str) -> float | None:
    """What a `Retry-After` says, as seconds from now: it is a number of seconds, or a moment (RFC 9110)."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time())
    except ValueError:
        return None
