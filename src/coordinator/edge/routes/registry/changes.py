"""Changes of the registry by admins, at run time: a registered service takes jobs at once."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path
from starlette.requests import Request

from coordinator.domain.errors import Code
from coordinator.domain.messages import ServiceId
from coordinator.domain.service import ServiceRegister, ServiceRetire, ServiceRevise, ServiceSpec
from coordinator.edge.context import Context
from coordinator.edge.http.bodies import fill, read_object
from coordinator.edge.http.command_route import command_route
from coordinator.edge.models.services import ServiceAnswer

router = APIRouter(prefix="/registry/services", tags=["registry"])

Id = Annotated[ServiceId, Path(description="A service's id.")]
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


async def _entry_fields(request: Request, context: Context) -> dict[str, Any]:
    return {"spec": await read_object(request, context.limits)}


async def _revision_fields(request: Request, context: Context, service: Id) -> dict[str, Any]:
    return {"spec": fill(await read_object(request, context.limits), id=service)}


async def _service_fields(request: Request, context: Context, service: Id) -> dict[str, Any]:
    return fill(await read_object(request, context.limits), service=service)


command_route(
    router,
    "POST",
    "",
    ServiceRegister,
    ServiceAnswer,
    name="register_service",
    summary="Register a service",
    description="Its schemas are checked; no other entry may have its id or one of its aliases. A repeat "
    "gets the first answer.",
    fields=_entry_fields,
    body=ServiceSpec,
    example=_EXAMPLE,
    refused=(Code.CONFLICT_STATE,),
    status=201,
    location="/v1/registry/services/{service}",
)
command_route(
    router,
    "PUT",
    "/{service}",
    ServiceRevise,
    ServiceAnswer,
    name="revise_service",
    summary="Revise a service",
    description="With the whole entry, which becomes the next version; submitted jobs keep their version. A "
    "retired service takes jobs again.",
    fields=_revision_fields,
    body=ServiceSpec,
    example=_EXAMPLE,
    refused=(Code.CONFLICT_STATE, Code.SERVICE_NOT_FOUND),
)
command_route(
    router,
    "POST",
    "/{service}/retire",
    ServiceRetire,
    ServiceAnswer,
    name="retire_service",
    summary="Retire a service",
    description="It takes no new jobs; its accepted jobs go on. It keeps its id and aliases.",
    fields=_service_fields,
    example={},
    refused=(Code.SERVICE_NOT_FOUND,),
)
