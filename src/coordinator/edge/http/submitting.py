"""Submitting a job, and waiting for its end if the client prefers that; for all submitting endpoints."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

from fastapi import Header
from pydantic.config import JsonDict
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobSubmit
from coordinator.domain.messages import Principal
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.bodies import fill, header_text
from coordinator.edge.http.commands import send
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.job_wait import final_job, wait_asked
from coordinator.edge.http.reads.reading import POSITION_HEADER
from coordinator.edge.http.reads.stored_payloads import Joined, Pieces, begun, result_blob, stored_payload
from coordinator.edge.models.jobs import JobSubmitAnswer

SUBMIT_PROBLEMS: Final = refusals(
    Code.FORBIDDEN,
    Code.SERVICE_NOT_FOUND,
    Code.BLOB_NOT_FOUND,
    Code.IDEMPOTENCY_MISMATCH,
    Code.NO_ELIGIBLE_MINER,
    Code.TOO_LARGE,
)
SUBMIT_TEXT: Final = (
    "With an `Idempotency-Key` a repeat returns the first job, and 201 again; without one it makes another "
    "job. The job is in the log once this answers. With `Prefer: wait=N` the answer waits up to N seconds "
    "(30 at most) for the job's end; if it comes in time, the answer has the `result` or the `error`."
)

IDEMPOTENCY_KEY_SCHEMA: Final[JsonDict] = {"minLength": 1, "maxLength": 200}
"""The commands check the key, so that a refusal has our own text."""
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 200 characters; the same key means the same job.",
        json_schema_extra=IDEMPOTENCY_KEY_SCHEMA,
    ),
]
Prefer = Annotated[
    str | None, Header(description="`wait=N`: wait up to N seconds for the job's end (RFC 7240).")
]


async def submit(
    request: Request,
    context: EdgeContext,
    principal: Principal,
    fields: dict[str, Any],
    idempotency_key: str | None,
    prefer: str | None,
) -> Response:
    """Submit a job with these fields of the command; 201, once it is in the log, or final. Raises Refusal."""
    seconds, applied = wait_asked(None, prefer, context.limits.wait_seconds)
    submitted = await accept(request, context, principal, fields, idempotency_key)
    headers = {**headers_of(submitted), **applied}
    if not seconds:
        return Response(submitted.model_dump_json(exclude_unset=True), 201, headers, "application/json")
    body = submitted.model_dump(mode="json", exclude_unset=True)
    row = await final_job(context, principal, submitted.job_id, seconds)
    headers[POSITION_HEADER] = str(max(submitted.position, row.position))
    body["state"] = row.state
    if row.error is not None:
        body["error"] = row.error.model_dump()
    said = json.dumps(body, separators=(",", ":")).encode()
    stored = await stored_payload(context, row.id, "result") if row.is_completed else None
    if stored is None:
        return Response(said, 201, headers, "application/json")
    # The stored result may be too large to be parsed again.
    before = said[:-1] + b',"result":'
    blob = result_blob(stored, row)
    if blob is None:
        return Response(before + stored.body + b"}", 201, headers, "application/json")
    pieces = await begun(context.blobs.get(blob))
    return Pieces(Joined(before, pieces, b"}"), 201, headers, "application/json")


async def accept(
    request: Request,
    context: EdgeContext,
    principal: Principal,
    fields: dict[str, Any],
    idempotency_key: str | None,
) -> JobSubmitAnswer:
    """Submit a job with these fields of the command; it is in the log once this returns. Raises Refusal."""
    if len(request.headers.getlist("Idempotency-Key")) > 1:
        raise Refusal(Code.INVALID_PAYLOAD, "Idempotency-Key: sent more than once")
    if idempotency_key is not None:
        fields = fill(fields, idempotency_key=header_text("Idempotency-Key", idempotency_key))
    fields.setdefault("ttl_seconds", context.settings.job_ttl_seconds)
    answer = await send(context, principal, JobSubmit.topic, fields, request)
    return JobSubmitAnswer.model_validate(answer.to_wire())


def headers_of(submitted: JobSubmitAnswer) -> dict[str, str]:
    """The job's URL, and the position of its submit."""
    return {"Location": f"/v1/jobs/{submitted.job_id}", POSITION_HEADER: str(submitted.position)}
