"""Commands: from fields to an accepted answer, through the same gateway as commands over AMQP."""

from __future__ import annotations

import secrets
from typing import Any, Final
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from coordinator.application.commands.parsing import check_sender, parse_command
from coordinator.application.dispatch.claims import miner_state
from coordinator.application.live.progress import ProgressReport
from coordinator.application.ports import Intent
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import (
    MinerId,
    Principal,
    Role,
    SessionId,
    Traceparent,
    read_traceparent,
)
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.bodies import take_text
from coordinator.validation import describe_invalid
from coordinator.wire.answers import Accepted, Answer, Refused

_MINER_ID: TypeAdapter[str] = TypeAdapter(MinerId)
_SESSION_ID: TypeAdapter[str] = TypeAdapter(SessionId)
_SESSION_BYTES: Final = 16
_NO_SESSION: Final = "unnamed-"
"""The session id of a report that names none: it is valid, and holds no lease."""
SPAN: Final = "span"
"""The name under which a request's state has its span, as a trace context (`middleware/spans.py`)."""


async def send(
    context: EdgeContext, principal: Principal, topic: str, fields: dict[str, Any], request: Request
) -> Accepted:
    """Send a command to the gateway. Raises Refusal, from the parser or from the decision."""
    command = parse_command(topic, _without_copy(fields, request))
    check_sender(command, principal)
    intent = Intent(command, principal, traceparent=trace_of(request))
    return accepted(await decide(context, intent))


async def decide(context: EdgeContext, intent: Intent) -> Answer:
    """The answer to one command."""
    [answer] = await context.gateway.handle([intent])
    return answer


def accepted(answer: Answer) -> Accepted:
    """The answer, if the command was accepted. Raises Refusal."""
    if isinstance(answer, Refused):
        raise Refusal(answer.code, answer.detail, retry_after=answer.retry_after)
    return answer


def trace_of(request: Request) -> str | None:
    """The trace that a request's commands belong to: its span, if that is recorded, or else its header."""
    span: Traceparent | None = request.scope.get("state", {}).get(SPAN)
    return span or read_traceparent(request.headers.get("traceparent"))


def _without_copy(fields: dict[str, Any], request: Request) -> dict[str, Any]:
    """The fields without a trace context that only repeats the header: the request's span is below that."""
    given = fields.get("traceparent")
    if given is None or given != request.headers.get("traceparent"):
        return fields
    return {name: value for name, value in fields.items() if name != "traceparent"}


def miner_of(principal: Principal, named: str | None) -> str:
    """The miner that a request speaks for: the one it names, or the principal's own name. Raises Refusal."""
    miner_id = checked_miner_id(principal.name if named is None else named)
    if principal.role is Role.MINER and not principal.owns_miner(miner_id):
        raise Refusal(Code.FORBIDDEN, f"{principal.name} can't speak for another miner")
    return miner_id


def checked_miner_id(text: str) -> str:
    """The text, if it is a valid miner id. Raises Refusal."""
    try:
        return _MINER_ID.validate_python(text)
    except ValidationError:
        raise Refusal(Code.INVALID_PAYLOAD, "miner_id: should be a name, or node@name") from None


def checked_session_id(text: str) -> str:
    """The text, if it is a valid session id. Raises Refusal."""
    try:
        return _SESSION_ID.validate_python(text)
    except ValidationError:
        raise Refusal(Code.INVALID_PAYLOAD, "session_id: should be 8 to 64 of A-Z a-z 0-9 - _") from None


def new_session_id() -> str:
    """A session id for a miner that registers without one."""
    return secrets.token_urlsafe(_SESSION_BYTES)


async def session_of(context: EdgeContext, miner_id: str, named: str | None) -> str:
    """The session that a request speaks for: the one it names, or the miner's current one. Raises Refusal."""
    if named is not None:
        return checked_session_id(named)
    return (await miner_state(context.gateway, miner_id)).session_id


async def with_session(context: EdgeContext, principal: Principal, body: dict[str, Any]) -> dict[str, Any]:
    """The body with the miner and the session that it speaks for. Raises Refusal."""
    miner_id = miner_of(principal, take_text(body, "miner_id"))
    session_id = await session_of(context, miner_id, take_text(body, "session_id"))
    return {**body, "miner_id": miner_id, "session_id": session_id}


def same_job(body: dict[str, Any], job_id: UUID) -> dict[str, Any]:
    """The body as the fields of a command about the job in the path."""
    if body.get("job_id") not in (None, str(job_id)):
        raise Refusal(Code.INVALID_PAYLOAD, "job_id: differs from the one in the path")
    return {**body, "job_id": str(job_id)}


async def progress_report(
    context: EdgeContext, principal: Principal, fields: dict[str, Any]
) -> ProgressReport:
    """The report with these fields; its session defaults to the lease holder's. Raises Refusal."""
    miner_id = miner_of(principal, take_text(fields, "miner_id"))
    session_id = take_text(fields, "session_id")
    try:
        report = ProgressReport.model_validate(
            {**fields, "miner_id": miner_id, "session_id": session_id or _NO_SESSION}
        )
    except ValidationError as error:
        raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None
    if session_id is None:
        holder = await context.live.lease_holders.holder(report.job_id)
        if holder is not None and holder.miner_id == miner_id:
            return report.model_copy(update={"session_id": holder.session_id})
    return report
