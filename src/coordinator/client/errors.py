"""What can go wrong for a client: one tree of exceptions, each with a stable `code`."""

from __future__ import annotations

from typing import Any


class CoordinatorError(Exception):
    """Something a client asked for was not done; `code` is for programs, `detail` for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


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


class Refused(CoordinatorError):
    """The coordinator said no, and why; its whole answer (RFC 9457) is `problem`."""

    retry_after: str = ""
    """The header of this name: seconds to wait before the next try, where the answer says so."""

    def __init__(self, code: str, detail: str, status: int, problem: dict[str, Any] | None = None) -> None:
        super().__init__(code, detail)
        self.status = status
        self.problem = problem or {}


class NotAuthorised(Refused):
    """The API key is missing, wrong, or not for this."""


class NotFound(Refused):
    """There is no such thing, or it is not yours."""


class NotReady(Refused):
    """The job is not final yet: ask again later, or wait."""


class Conflict(Refused):
    """The state of the job (or miner) does not allow this."""


class RateLimited(Refused):
    """Too many requests; the SDK has waited and tried again already."""


class TryAgain(Refused):
    """The coordinator can't answer now; sending the same again later is safe."""


_BY_CODE: dict[str, type[Refused]] = {
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


def refusal(status: int, problem: dict[str, Any]) -> Refused:
    """The exception for an answer that is not a success."""
    code, detail = _BY_STATUS.get(
        status, ("UNAVAILABLE" if status >= 500 else "INVALID_PAYLOAD", f"HTTP status {status}")
    )
    code = str(problem.get("code") or code)
    detail = str(problem.get("detail") or problem.get("title") or detail)
    kind = _BY_CODE.get(code)
    if kind is None:
        kind = NotFound if code.endswith("NOT_FOUND") else TryAgain if status >= 500 else Refused
    return kind(code, detail, status, problem)
