"""The registry changed by admins, at run time: a service that is registered takes jobs at once."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code
from coordinator.domain.messages import ServiceId
from coordinator.domain.service import ServiceRegister, ServiceRetire, ServiceRevise, ServiceSpec
from coordinator.edge.context import Context
from coordinator.edge.http.bodies import fill, model_body, read_object
from coordinator.edge.http.commands import send
from coordinator.edge.http.problems import describe_problems
from coordinator.edge.http.reading import reply
from coordinator.edge.middleware.credentials import Admin
from coordinator.edge.models.services import ServiceAnswer

router = APIRouter(prefix="/registry/services", tags=["registry"])

Id = Annotated[ServiceId, Path(description="A service's id.")]
_PROBLEMS: Final = (
    Code.INVALID_PAYLOAD,
    Code.UNAUTHORIZED_KEY,
    Code.FORBIDDEN,
    Code.TOO_LARGE,
    Code.UNAVAILABLE,
    Code.INTERNAL,
)
_EXAMPLE: Final[dict[str, Any]] = {
    "id": "word_count",
    "name": "Word count",
    "category": "development_tools",
    "description": "Counts the words of a text.",
    "input_schema": {
        "type": "object",
        "additionalProperties": False,
        "required": ["text"],
        "properties": {"text": {"type": "string", "maxLength": 10000}},
    },
    "output_schema": {"type": "object", "properties": {"words": {"type": "integer", "minimum": 0}}},
    "pricing": {"unit": "second", "amount": "0.0001"},
    "tags": ["text"],
    "aliases": ["wc"],
    "timeout_seconds": 60,
}


@router.post(
    "",
    status_code=201,
    response_model=ServiceAnswer,
    summary="Register a service",
    description="Its schemas are checked; no other entry may have its id or one of its aliases. A repeat "
    "gets the first answer.",
    responses=describe_problems(*_PROBLEMS, Code.CONFLICT_STATE),
    openapi_extra=model_body(ServiceSpec, example=_EXAMPLE),
)
async def register_service(request: Request, context: Context, principal: Admin) -> Response:
    spec = await read_object(request, context.limits)
    answer = await send(context, principal, ServiceRegister.topic, {"spec": spec}, request)
    told = ServiceAnswer.model_validate(answer.to_wire())
    return reply(told, answer.position, 201, Location=f"/v1/registry/services/{told.service}")


@router.put(
    "/{service}",
    response_model=ServiceAnswer,
    summary="Revise a service",
    description="The whole entry, which becomes its next version; jobs that were submitted keep theirs. A "
    "retired one takes jobs again.",
    responses=describe_problems(*_PROBLEMS, Code.CONFLICT_STATE, Code.SERVICE_NOT_FOUND),
    openapi_extra=model_body(ServiceSpec, example=_EXAMPLE),
)
async def revise_service(request: Request, context: Context, principal: Admin, service: Id) -> Response:
    spec = fill(await read_object(request, context.limits), id=service)
    answer = await send(context, principal, ServiceRevise.topic, {"spec": spec}, request)
    return reply(ServiceAnswer.model_validate(answer.to_wire()), answer.position)


@router.post(
    "/{service}/retire",
    response_model=ServiceAnswer,
    summary="Retire a service",
    description="It takes no new jobs; those that it has go on. It keeps its names.",
    responses=describe_problems(*_PROBLEMS, Code.SERVICE_NOT_FOUND),
    openapi_extra={
        "requestBody": {
            "required": False,
            "content": {
                "application/json": {
                    "schema": {"type": "object", "properties": {}, "additionalProperties": False},
                    "example": {},
                }
            },
        }
    },
)
async def retire_service(request: Request, context: Context, principal: Admin, service: Id) -> Response:
    fields = fill(await read_object(request, context.limits), service=service)
    answer = await send(context, principal, ServiceRetire.topic, fields, request)
    return reply(ServiceAnswer.model_validate(answer.to_wire()), answer.position)
