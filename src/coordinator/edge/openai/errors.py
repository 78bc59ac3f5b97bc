"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

ASGI middleware rewrites the problems on these paths, from any source: the endpoint, authentication, the rate
limit, or an unexpected error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, Literal

from pydantic import BaseModel
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.domain.errors import Code
from coordinator.edge.http.problems import MEDIA_TYPE, Problem
from coordinator.edge.state.tables.rows import JobRow

TAG: Final = "openai"
PREFIXES: Final = (
    "/v1/chat/",
    "/v1/responses",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/audio/",
    "/v1/images/",
    "/v1/models",
    # Not served here: their 404 is read by OpenAI's clients, too.
    *("/v1/moderations", "/v1/batches", "/v1/files", "/v1/uploads", "/v1/fine_tuning", "/v1/assistants"),
    *("/v1/threads", "/v1/vector_stores", "/v1/conversations", "/v1/containers", "/v1/evals", "/v1/videos"),
    *("/v1/realtime", "/v1/organization"),
)
NO_RETRY: Final = {"X-Should-Retry": "false"}
"""OpenAI's own clients look at this header before they send a request again."""
_STATUS: Final = {409: 400, 422: 400, 425: 400}
"""OpenAI answers 400 to any invalid request."""
_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES: Final[Mapping[str, str]] = {
    Code.UNAUTHORIZED_KEY: "invalid_api_key",
    Code.RATE_LIMITED: "rate_limit_exceeded",
    Code.QUEUE_FULL: "rate_limit_exceeded",
    Code.INSUFFICIENT_FUNDS: "insufficient_quota",
    Code.QUOTA_EXCEEDED: "insufficient_quota",
    Code.INVALID_PAYLOAD: "invalid_value",
    Code.NO_ELIGIBLE_MINER: "model_not_found",
}

_OF_A_URL: Final = frozenset({"UNSAFE_URL", "DOWNLOAD_FAILED", "BLOB_NOT_FOUND"})
"""A miner's error codes for a file that it can't get from where the request says."""
_OF_THE_CLIENT: Final = _OF_A_URL | {"INVALID_PAYLOAD", "INPUT_TOO_LARGE", "RESOURCE_LIMIT", "UNSUPPORTED"}
"""A miner's error codes for faults of the request. RESOURCE_LIMIT: what was sent takes too much to read."""
_MEMBER: Final = re.compile(r"([a-z][a-z_]{0,40})(\.[a-z0-9_.]{1,100})?: ")


class OpenAIErrorDetail(BaseModel):
    """The fault; `param` names the member of the request at fault."""

    message: str
    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "rate_limit_error",
        "server_error",
    ]
    param: str | None = None
    code: str | None = None


class OpenAIError(BaseModel):
    """An error in the shape of the OpenAI API."""

    error: OpenAIErrorDetail


class OpenAIErrors:
    """ASGI middleware: answers problems on these paths in OpenAI's shape, with OpenAI's status."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIXES):
            await self._app(scope, receive, send)
            return
        held: Message | None = None
        body = bytearray()

        async def rewrite(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start":
                if MutableHeaders(scope=message).get("content-type") == MEDIA_TYPE:
                    held = message
                    return
            elif held is not None:
                body.extend(message.get("body", b""))
                if message.get("more_body", False):
                    return
                content = await _start(held, bytes(body), send)
                message = {"type": "http.response.body", "body": content}
            await send(message)

        await self._app(scope, receive, rewrite)


def bad_request(param: str | None, detail: str, code: str = "invalid_value") -> Problem:
    """A problem with an invalid or unsupported member of the request."""
    return Problem(Code.INVALID_PAYLOAD, detail, status=400, members={"param": param, "openai_code": code})


def job_failure(row: JobRow, known: frozenset[str], names: Mapping[str, str]) -> Problem:
    """Why a job has no result, and whether the client may retry.

    `known`: the members of the request; `names`: its names of the payload's members.
    """
    if row.error is None:
        # The wait ended before the job: this process stops.
        return Problem(Code.UNAVAILABLE, "the coordinator is restarting; send it again")
    if row.state == "EXPIRED":
        return timed_out()
    if row.state == "CANCELED":
        return Problem(
            Code.CONFLICT_STATE,
            "the job was cancelled",
            status=400,
            headers=NO_RETRY,
            members={"openai_code": "canceled"},
        )
    code, detail = row.error.code, row.error.message or "the job failed"
    members: dict[str, Any] = {"openai_code": code.lower()}
    found = _MEMBER.match(detail)
    if found is not None and (param := names.get(found[1], found[1])) in known:
        # A miner's reason begins with the member of the payload at fault.
        members["param"] = param
        detail = param + detail[found.end(1) :]
    elif code in _OF_A_URL and "messages" in known:
        members["param"] = "messages"  # the only member of a chat that names files
    if code == "UNSUPPORTED" and members.get("param") == "model":
        # Miners list the models of all their services together; this one is for another endpoint.
        return Problem(
            Code.NO_ELIGIBLE_MINER, detail, status=404, headers=NO_RETRY, members={"param": "model"}
        )
    if code in _OF_THE_CLIENT:
        return Problem(Code.INVALID_PAYLOAD, detail, status=400, headers=NO_RETRY, members=members)
    # All attempts of the job failed already: a client's automatic retries would multiply them.
    return Problem(Code.INTERNAL, detail, headers=NO_RETRY, members=members)


def timed_out() -> Problem:
    """No result came within the time limit."""
    return Problem(
        Code.UNAVAILABLE,
        "no miner finished this in time",
        status=504,
        headers=NO_RETRY,
        members={"openai_code": "timeout"},
    )


def as_openai(problem: Mapping[str, Any]) -> OpenAIError:
    """A problem document in OpenAI's shape."""
    status = status_of(int(problem["status"]))
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    code = str(problem.get("code", ""))
    return OpenAIError.model_validate(
        {
            "error": {
                "message": problem.get("detail", ""),
                "type": kind,
                "param": problem.get("param"),
                "code": problem.get("openai_code") or _code_of(status, code),
            }
        }
    )


def _code_of(status: int, code: str) -> str:
    if code == Code.UNKNOWN_COMMAND:
        return "method_not_allowed" if status == HTTPStatus.METHOD_NOT_ALLOWED else "unknown_url"
    return _CODES.get(code, code.lower())


def status_of(status: int) -> int:
    """OpenAI's status for this status of ours."""
    return _STATUS.get(status, status)


async def _start(held: Message, body: bytes, send: Send) -> bytes:
    error = as_openai(json.loads(body))
    content = error.model_dump_json().encode()
    headers = MutableHeaders(scope=held)
    headers["content-type"] = "application/json"
    headers["content-length"] = str(len(content))
    if held["status"] in _STATUS:
        headers.setdefault("X-Should-Retry", "false")
    held["status"] = status_of(held["status"])
    await send(held)
    return content
