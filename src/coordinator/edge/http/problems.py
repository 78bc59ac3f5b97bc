"""RFC 9457 problem details: the one place that turns codes into HTTP.

The member `code` is for programs. `detail` is for people, and never shows a sent value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from coordinator.application.ports import LogUnavailable
from coordinator.blobs import BlobError, BlobNotFound, BlobStoreUnavailable, BlobTooLarge, DigestMismatch
from coordinator.domain.errors import Code, Refusal
from coordinator.edge.http.error_pages import error_page, path_of
from coordinator.edge.state.open_connections import TooManyOpen
from coordinator.validation import describe_invalid_fields

log = structlog.get_logger("edge")

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 1
RETRY_BUSY_SECONDS: Final = 5
Handler = Callable[[Request, Exception], Awaitable[Response]]

STATUS_OF: Final[Mapping[Code, int]] = {
    Code.UNAUTHORIZED_KEY: 401,
    Code.FORBIDDEN: 403,
    Code.RATE_LIMITED: 429,
    Code.QUEUE_FULL: 429,
    Code.INSUFFICIENT_FUNDS: 402,
    Code.QUOTA_EXCEEDED: 429,
    Code.INVALID_PAYLOAD: 422,
    Code.TOO_LARGE: 413,
    Code.UNKNOWN_COMMAND: 404,
    Code.SERVICE_NOT_FOUND: 404,
    Code.JOB_NOT_FOUND: 404,
    Code.JOB_NOT_READY: 425,
    Code.BATCH_NOT_FOUND: 404,
    Code.MINER_NOT_FOUND: 404,
    Code.KEY_NOT_FOUND: 404,
    Code.WEBHOOK_NOT_FOUND: 404,
    Code.SESSION_NOT_LIVE: 409,
    Code.MINER_DRAINING: 409,
    Code.NOT_CAPABLE: 409,
    Code.NOT_OFFERED: 403,
    Code.NO_ELIGIBLE_MINER: 409,
    Code.CONFLICT_STATE: 409,
    Code.STALE_ATTEMPT: 409,
    Code.IDEMPOTENCY_MISMATCH: 409,
    Code.INVALID_STATEMENT: 422,
    Code.INVALID_RESULT: 422,
    Code.DEAD_LETTER_NOT_FOUND: 404,
    Code.EVENT_NOT_FOUND: 404,
    Code.NOT_IN_CHECKPOINT: 404,
    Code.BLOB_NOT_FOUND: 404,
    Code.CONTENT_EXPIRED: 410,
    Code.BLOB_TOO_LARGE: 413,
    Code.DIGEST_MISMATCH: 422,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
}
_CODE_OF_STATUS: Final[Mapping[int, Code]] = {
    404: Code.UNKNOWN_COMMAND,
    405: Code.UNKNOWN_COMMAND,
    413: Code.TOO_LARGE,
    500: Code.INTERNAL,
    503: Code.UNAVAILABLE,
}
_DETAIL_OF_STATUS: Final[Mapping[int, str]] = {
    404: "no such endpoint; /docs lists all endpoints",
    405: "this endpoint takes other methods; the header Allow lists them",
}
ALWAYS: Final = (
    Code.INVALID_PAYLOAD,
    Code.UNAUTHORIZED_KEY,
    Code.RATE_LIMITED,
    Code.INTERNAL,
    Code.UNAVAILABLE,
)
"""The codes of any request with a key: `app` declares them for all endpoints."""
_INTERNAL_DETAIL: Final = (
    "internal error; send the request again later, or report it to the operator with its request id"
)


MISDIRECTED: Final = 421
"""Of an edge process alone, and seen by no client: the core must answer this request."""


class Problem(Exception):
    """A failure as an answer: a code, a text for people, and further members and headers."""

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        """`status` if it is not the code's own; `members` extend the problem document."""
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.status = status or STATUS_OF[code]
        self.headers = dict(headers or {})
        self.members = dict(members or {})

    def copy(self) -> Problem:
        """The same problem, to be raised without a reference from the first one to the raising frames."""
        return Problem(self.code, self.detail, status=self.status, headers=self.headers, members=self.members)

    def document(self) -> dict[str, Any]:
        """The problem document without the request's id."""
        return {
            "type": path_of(self.code),
            "title": error_page(self.code).title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code.value,
            **self.members,
        }

    def response(self) -> Response:
        """The HTTP answer."""
        headers = dict(self.headers)
        if self.code is Code.UNAUTHORIZED_KEY:
            headers.setdefault("WWW-Authenticate", 'ApiKey realm="coordinator"')
        if self.code in (Code.UNAVAILABLE, Code.JOB_NOT_READY):
            headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
        if self.code is Code.RATE_LIMITED:
            headers.setdefault("Retry-After", str(RETRY_BUSY_SECONDS))
        document = self.document()
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        if request_id:
            document["request_id"] = request_id
        return Response(json.dumps(document), self.status, headers, MEDIA_TYPE)


def problem_of(refusal: Refusal) -> Problem:
    """A refusal over HTTP, with the seconds to wait if it has some.

    A client with too much open is to hold no connection for its refusal, too.
    """
    headers = {"Connection": "close"} if isinstance(refusal, TooManyOpen) else {}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after)))
    return Problem(refusal.code, refusal.detail, headers=headers)


def internal_problem() -> Problem:
    """The answer to an unexpected exception, which shows nothing of it."""
    return Problem(Code.INTERNAL, _INTERNAL_DETAIL)


def install_problem_handlers(
    app: FastAPI, not_found: Callable[[Request], Response | None] = lambda request: None
) -> None:
    """Let every failure of every endpoint be answered with a problem document.

    `not_found`: the page of an address that no endpoint has; None where a document fits better.
    """
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)

    async def page_or_problem(request: Request, error: Exception) -> Response:
        page = not_found(request) if getattr(error, "status_code", 0) == 404 else None
        return await _on_http_exception(request, error) if page is None else page

    app.add_exception_handler(HTTPException, page_or_problem)


def refusals(*codes: Code) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an endpoint that may be refused with these codes, for OpenAPI.

    Codes of ALWAYS need not be named.
    """
    by_status: dict[int, list[Code]] = {}
    for code in dict.fromkeys(codes):
        status = STATUS_OF[code]
        # An endpoint's entry for a status replaces the one for all endpoints, so it has their codes, too.
        known = by_status.setdefault(status, [always for always in ALWAYS if STATUS_OF[always] == status])
        known += [] if code in known else [code]
    return {status: _refused(status, codes) for status, codes in sorted(by_status.items())}


def _refused(status: int, codes: Sequence[Code]) -> dict[str, Any]:
    examples = {code.value: {"summary": error_page(code).title, "value": _example(code)} for code in codes}
    content = {"schema": {"$ref": "#/components/schemas/ProblemDetails"}, "examples": examples}
    listed = ", ".join(f"[{code}]({path_of(code)})" for code in codes)
    return {"description": f"{HTTPStatus(status).phrase}: {listed}", "content": {MEDIA_TYPE: content}}


def _example(code: Code) -> dict[str, Any]:
    page = error_page(code)
    return {
        "type": path_of(code),
        "title": page.title,
        "status": STATUS_OF[code],
        "detail": " ".join(page.meaning.split()),
        "code": code,
        "request_id": "0d4f5e6a7b8c9d0e1f2a3b4c5d6e7f80",
    }


async def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _on_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return problem_of(error).response()


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    default = Code.INVALID_PAYLOAD if status < 500 else Code.INTERNAL
    detail = _DETAIL_OF_STATUS.get(status, HTTPStatus(status).description or HTTPStatus(status).phrase)
    code = _CODE_OF_STATUS.get(status, default)
    headers = dict(error.headers or {})
    if status == 405:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    return Problem(code, detail, status=status, headers=headers).response()


def _allowed_methods(request: Request) -> list[str]:
    """The methods of all routes at this path: the framework reports those of the first route only."""
    methods = {
        method
        for route in iter_route_contexts(request.app.routes)
        if route.methods and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods
    }
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


async def _on_invalid_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return Problem(Code.INVALID_PAYLOAD, describe_invalid_fields(error.errors(), "request")).response()


async def _on_unavailable(_: Request, error: Exception) -> Response:
    log.warning("out of reach", error=type(error).__name__)
    return Problem(
        Code.UNAVAILABLE, "a server that this needs is out of reach; send it again later"
    ).response()


async def _on_blob_error(_: Request, error: Exception) -> Response:
    match error:
        case BlobTooLarge():
            return Problem(Code.BLOB_TOO_LARGE, "the blob is larger than this coordinator allows").response()
        case DigestMismatch():
            return Problem(
                Code.DIGEST_MISMATCH, "the content does not have the SHA-256 in the path; nothing was kept"
            ).response()
        case BlobNotFound():
            return Problem(Code.BLOB_NOT_FOUND, "no such blob").response()
        case BlobStoreUnavailable():
            log.warning("the blob store can't be used", error=str(error))
            return Problem(
                Code.UNAVAILABLE, "the blob store is out of reach or full; try again later"
            ).response()
    raise error


_HANDLERS: Final[Mapping[type[Exception], Handler]] = {
    Problem: _on_problem,
    Refusal: _on_refusal,
    HTTPException: _on_http_exception,
    RequestValidationError: _on_invalid_request,
    LogUnavailable: _on_unavailable,
    ConnectionError: _on_unavailable,  # the broker
    BlobError: _on_blob_error,
}
