"""Reads: at least as fresh as requested, each with its position; lists in pages with cursors."""

from __future__ import annotations

import re
from typing import Annotated, Final
from uuid import UUID

from fastapi import Depends, Header, Query
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict
from starlette.responses import Response

from coordinator.crypto.keys import EncodingError, decode_base64url, encode_base64url
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import is_final
from coordinator.domain.messages import READS_ALL, Principal, Role
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.problems import Problem
from coordinator.edge.state.job_states import row_of_state
from coordinator.edge.state.tables.read_models import PROJECTOR
from coordinator.edge.state.tables.rows import JobRow
from coordinator.edge.state.threads import in_thread

POSITION_HEADER: Final = "X-Position"
AT_LEAST_HEADER: Final = "X-At-Least"
MAX_CURSOR_LENGTH: Final = 400
_POSITION: Final = re.compile(r"[0-9]{1,18}")
# Any text is accepted and checked here, so that a refusal has our own text.
_POSITION_SCHEMA: Final[JsonDict] = {"pattern": f"^{_POSITION.pattern}$"}


async def reach(
    context: Context,
    x_at_least: Annotated[
        str | None,
        Header(
            alias=AT_LEAST_HEADER,
            description="Wait until the answer is as fresh as this position of the log; 503 if it can't be.",
            json_schema_extra=_POSITION_SCHEMA,
        ),
    ] = None,
    at_least: Annotated[
        str | None, Query(description=f"The same as {AT_LEAST_HEADER}.", json_schema_extra=_POSITION_SCHEMA)
    ] = None,
) -> int:
    """Wait until the read models reach the requested position; the position that they are at.

    Raises Problem (UNAVAILABLE) if that takes too long.
    """
    asked = max(_position(AT_LEAST_HEADER, x_at_least), _position("at_least", at_least))
    if asked > context.watermarks.of(PROJECTOR):
        # Don't wait for a position beyond the head of the log.
        head = await in_thread(context.log.head)
        if asked > head:
            raise Problem(Code.UNAVAILABLE, f"the log is at position {head}, not yet at {asked}")
        await _catch_up(context, asked)
    # Read before the tables, so that the answer is at least as fresh as it says.
    return context.watermarks.of(PROJECTOR)


Position = Annotated[int, Depends(reach)]


def reply(model: BaseModel, position: int | None = None, status: int = 200, **headers: str) -> Response:
    """An answer in one of the shapes of `models`. Underscores in the names of `headers` become hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if position is not None:
        named[POSITION_HEADER] = str(position)
    return Response(model.model_dump_json(), status, named, "application/json")


async def find_job(context: EdgeContext, principal: Principal, job_id: UUID) -> JobRow:
    """The job, if this principal may read it. Raises Refusal, the same one as for an unknown job.

    From memory where this process knows its state, which is the log's; otherwise from the read models.
    """
    row = await _known_job(context, job_id) or await context.reads.job(str(job_id))
    if row is None:
        # It may be in the log and not yet in the read models: an accepted job is never "not found".
        head = await in_thread(context.log.head)
        if context.watermarks.of(PROJECTOR) < head:
            await _catch_up(context, head)
        row = await context.reads.job(str(job_id))
    if row is None or not may_read(principal, row.client):
        raise Refusal(Code.JOB_NOT_FOUND, "no such job")
    return row


async def _known_job(context: EdgeContext, job_id: UUID) -> JobRow | None:
    """The job by its state in memory; None if the read models have to tell, which are then as fresh."""
    projected = context.watermarks.of(PROJECTOR)
    if projected > context.live.events.position:
        return None  # another process projects, and its events may be newer than our memory
    known = context.known(job_id)
    if known is None:
        return None
    state, position = known
    if is_final(state) and position <= projected and context.recent_result(job_id) is None:
        return None  # its content may have been erased since, which the tables tell
    row = row_of_state(state, position)
    if row is None and is_final(state):
        await _catch_up(context, position)
    return row


def may_read(principal: Principal, client: str) -> bool:
    """Whether this principal may read the data of `client`."""
    return principal.role in READS_ALL or (principal.role is Role.CLIENT and principal.name == client)


# --- pages -------------------------------------------------------------------------------------------------
AtLeast = Annotated[
    str | None, Field(description=f"The same as {AT_LEAST_HEADER}.", json_schema_extra=_POSITION_SCHEMA)
]
"""Read by `reach`; a model of parameters names it, because it refuses unknown ones."""


class PageQuery(BaseModel):
    """The parameters of every list. An unknown parameter is refused, as an unknown member of a body is."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=200, description="Items in one page.")] = 50
    cursor: Annotated[
        str | None,
        Field(max_length=MAX_CURSOR_LENGTH, description="`next_cursor` of the previous page."),
    ] = None
    at_least: AtLeast = None


def cursor_after(*parts: str) -> str:
    """A cursor that goes on after the row with these keys. Opaque to callers, and not a secret."""
    return encode_base64url("\n".join(parts).encode())


def read_cursor(cursor: str | None, *patterns: str) -> list[str] | None:
    """The keys in a cursor, each of which must match its pattern. Raises Refusal."""
    if cursor is None:
        return None
    try:
        parts = decode_base64url(cursor).decode("ascii").split("\n")
    except (EncodingError, UnicodeDecodeError):
        raise _bad_cursor() from None
    if len(parts) != len(patterns):
        raise _bad_cursor()
    if not all(re.fullmatch(pattern, part) for pattern, part in zip(patterns, parts, strict=True)):
        raise _bad_cursor()
    return parts


def _bad_cursor() -> Refusal:
    return Refusal(Code.INVALID_PAYLOAD, "cursor: invalid; send next_cursor of the previous page")


def _position(name: str, text: str | None) -> int:
    if text is None:
        return 0
    if not _POSITION.fullmatch(text):
        raise Refusal(Code.INVALID_PAYLOAD, f"{name}: should be a position, a number without a sign")
    return int(text)


async def _catch_up(context: EdgeContext, position: int) -> None:
    context.watermarks.hurry(PROJECTOR, position)
    if not await context.watermarks.reached(PROJECTOR, position, context.limits.at_least_seconds):
        known = context.watermarks.of(PROJECTOR)
        raise Problem(Code.UNAVAILABLE, f"the read models are at position {known}, not yet at {position}")
