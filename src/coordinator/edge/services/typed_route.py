"""Endpoints with a service's own body, in JSON or as a form with a file: each request becomes a job."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from starlette.requests import Request
from starlette.responses import Response

from coordinator.application.commands.parsing import parse_json
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import DEFAULT_MAX_ATTEMPTS
from coordinator.domain.matching.needs import Constraints, stronger
from coordinator.domain.messages import MaxAttempts, Principal, Priority, ReceiverUrl, TtlSeconds
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import SCHEMA_REF, read_object
from coordinator.edge.http.credentials import Client
from coordinator.edge.http.multipart import MEDIA_TYPE, is_form, read_form
from coordinator.edge.http.submitting import SUBMIT_PROBLEMS, SUBMIT_TEXT, IdempotencyKey, Prefer, submit
from coordinator.edge.models.jobs import JobSubmitAnswer
from coordinator.services.base import KnownService, Payload
from coordinator.services.json_schema import PlainSchema
from coordinator.validation import describe_meant

_INTEGER: Final = re.compile("-?[0-9]{1,18}")


class JobFields(BaseModel):
    """Members of every typed body that are the job's, not the service's."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    constraints: Constraints = Constraints()
    """Requirements on the miner, beyond the work's own."""
    ttl_seconds: TtlSeconds | None = None
    """Seconds until the job expires."""
    priority: Priority = 0
    max_attempts: MaxAttempts = DEFAULT_MAX_ATTEMPTS
    callback_url: ReceiverUrl | None = None
    """A public https URL that is told of the job's end, as a webhook is."""


def typed_route(
    router: APIRouter,
    path: str,
    body: type[Payload],
    service: KnownService[Any, Any],
    *,
    name: str,
    summary: str,
    example: Mapping[str, Any],
) -> None:
    """Add an endpoint that submits a job of the service for such a body. `name`: its operation id."""

    async def endpoint(
        request: Request,
        context: Context,
        principal: Client,
        idempotency_key: IdempotencyKey = None,
        prefer: Prefer = None,
    ) -> Response:
        fields = await read_job(request, context, principal, body, service)
        return await submit(request, context, principal, fields, idempotency_key, prefer)

    router.add_api_route(
        path,
        endpoint,
        methods=["POST"],
        name=name,
        status_code=201,
        response_model=_answer(service),
        summary=summary,
        description=SUBMIT_TEXT,
        responses=SUBMIT_PROBLEMS,
        openapi_extra=request_body(body, example),
    )


async def read_job(
    request: Request,
    context: EdgeContext,
    principal: Principal,
    body: type[Payload],
    service: KnownService[Any, Any],
) -> dict[str, Any]:
    """The fields of the `job.submit` that the request's body becomes. Raises Problem, Refusal."""
    file = _file_of(body)
    values: dict[str, Any] = {}
    try:
        if file is not None and is_form(request):
            values = _values(body_schema(body), await read_form(request, context, principal, file))
            mine, others = _split(values)
            return job_fields(service, body.model_validate(others, strict=False), JobFields(**mine))
        values = await read_object(request, context.limits)
        mine, others = _split(values)
        # As JSON, so that "5" is not a number, and a list may stand for a tuple.
        job = JobFields.model_validate_json(json.dumps(mine), strict=True)
        return job_fields(service, body.model_validate_json(json.dumps(others), strict=True), job)
    except ValidationError as error:
        raise Refusal(Code.INVALID_PAYLOAD, describe_meant(error, values)) from None


def job_fields(service: KnownService[Any, Any], asked: Payload, job: JobFields) -> dict[str, Any]:
    """The fields of the `job.submit`: the payload, and the stronger of both constraints. Raises Refusal."""
    if contradiction := asked.contradiction():
        raise Refusal(Code.INVALID_PAYLOAD, contradiction)
    try:
        constraints = stronger(asked.needs(), job.constraints)
    except ValueError as error:
        reason = "models: 32 at most" if isinstance(error, ValidationError) else str(error)
        raise Refusal(Code.INVALID_PAYLOAD, f"constraints.{reason}") from None
    fields: dict[str, Any] = {
        "service": service.id,
        "payload": asked.sent(),
        "constraints": constraints.model_dump(mode="json", exclude_defaults=True),
        "priority": job.priority,
        "max_attempts": job.max_attempts,
    }
    if job.ttl_seconds is not None:
        fields["ttl_seconds"] = job.ttl_seconds
    if job.callback_url is not None:
        fields["callback_url"] = job.callback_url
    return fields


def request_body(body: type[Payload], example: Mapping[str, Any]) -> dict[str, Any]:
    """The `openapi_extra` of an endpoint that takes this body."""
    content: dict[str, Any] = {"application/json": {"schema": body_schema(body), "example": dict(example)}}
    if (file := _file_of(body)) is not None:
        content[MEDIA_TYPE] = {"schema": _form_schema(body_schema(body), file)}
    return {"requestBody": {"required": True, "content": content}}


def body_schema(body: type[Payload]) -> dict[str, Any]:
    """The schema of a typed body: the service's members, and the job's."""
    made, job = (
        model.model_json_schema(ref_template=SCHEMA_REF, schema_generator=PlainSchema)
        for model in (body, JobFields)
    )
    made["properties"] |= job["properties"]
    made["$defs"] = made.get("$defs", {}) | job["$defs"]
    return made


@functools.cache
def _answer(service: KnownService[Any, Any]) -> type[JobSubmitAnswer]:
    """The model of the answer to a submit; one for all endpoints of the service."""
    result: Any = service.result | None
    return create_model(
        f"{service.result.__name__}Job",
        __base__=JobSubmitAnswer,
        __doc__=f"A job of the service {service.id}.",
        result=(result, None),
    )


@functools.cache
def _file_of(body: type[Payload]) -> str | None:
    """The member that refers to a file, which a form may contain itself."""
    schema = body_schema(body)
    files = [name for name, field in schema["properties"].items() if _resolved(schema, field).get("format")]
    return files[0] if files else None


def _form_schema(schema: dict[str, Any], file: str) -> dict[str, Any]:
    """The schema of the same body as a form: its parts are texts, never null, and one may be a file."""
    properties = dict(schema["properties"])
    for name, field in properties.items():
        kinds = field.get("type")
        if isinstance(kinds, list):
            rest = [kind for kind in kinds if kind != "null"]
            properties[name] = {**field, "type": rest[0] if len(rest) == 1 else rest}
        if None in field.get("enum", ()):
            properties[name] = {**field, "enum": [choice for choice in field["enum"] if choice is not None]}
    description = properties[file]["description"]
    properties[file] = {
        "description": f"{description} The file itself, or a reference to it: an http(s) URL, or blob: and "
        "the SHA-256 of an uploaded file.",
        "anyOf": [{"type": "string", "format": "binary"}, {"type": "string", "format": "uri"}],
    }
    return {**schema, "properties": properties}


def _split(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A body's members: the job's, and the others."""
    ours = JobFields.model_fields
    mine = {name: value for name, value in values.items() if name in ours}
    return mine, {name: value for name, value in values.items() if name not in ours}


def _values(schema: Mapping[str, Any], form: Mapping[str, list[str]]) -> dict[str, Any]:
    """A form's texts as values: lists and objects from JSON, lists also from repeated parts."""
    values: dict[str, Any] = {}
    for name, texts in form.items():
        known = _kinds(_resolved(schema, schema["properties"].get(name, {})))
        if "array" in known and (len(texts) > 1 or "integer" not in known):
            values[name] = _json(texts[0]) if texts[0].startswith("[") and len(texts) == 1 else texts
        elif len(texts) > 1:
            raise Refusal(Code.INVALID_PAYLOAD, f"{_shown(name)}: sent more than once")
        elif known & {"object", "array"}:
            values[name] = _json(texts[0])
        elif "integer" in known and _INTEGER.fullmatch(texts[0]):
            values[name] = int(texts[0])
        else:
            values[name] = texts[0]
    return values


def _resolved(schema: Mapping[str, Any], field: Mapping[str, Any]) -> Mapping[str, Any]:
    """A member's schema, with its reference resolved."""
    if "$ref" not in field:
        return field
    found: dict[str, Any] = schema["$defs"][field["$ref"].rpartition("/")[2]]
    return {**found, **field}


def _kinds(field: Mapping[str, Any]) -> set[str]:
    """The JSON types that a member may have."""
    kinds = field.get("type", [])
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    return kinds.union(*(_kinds(part) for part in field.get("anyOf", ())))


def _json(text: str) -> Any:
    return parse_json(text.encode())


def _shown(name: str) -> str:
    return name if name.isprintable() and len(name) <= 64 else "?"
