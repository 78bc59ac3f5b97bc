"""Reads of the registry: the services of jobs. Registering and revising are in `registry_changes`."""

from __future__ import annotations

import json
from itertools import islice
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import ServiceId
from coordinator.domain.service import (
    CATEGORIES,
    Category,
    RegisteredService,
    ServiceRegistered,
    ServiceRetired,
    ServiceRevised,
    service_stream,
)
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import read_object, request_body
from coordinator.edge.http.credentials import Anyone
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.conditional import NOT_MODIFIED, IfNoneMatch, answer_with_tag
from coordinator.edge.http.reads.reading import PageQuery, Position, cursor_after, read_cursor, reply
from coordinator.edge.models.services import (
    CategoryPage,
    CategoryView,
    FaultView,
    ServicePage,
    ServicePricing,
    ServiceRequirements,
    ServiceSchema,
    ServiceSummary,
    ServiceVersion,
    ServiceVersionPage,
    ServiceView,
    ValidateAnswer,
    ValidateRequest,
)
from coordinator.edge.openapi.service import service_document
from coordinator.edge.state.threads import in_thread

router = APIRouter(prefix="/registry", tags=["registry"])

MAX_FAULTS: Final = 100
READ_AT_A_TIME: Final = 200
_ENTRY: Final[dict[int | str, dict[str, Any]]] = {
    **NOT_MODIFIED,
    **refusals(Code.SERVICE_NOT_FOUND),
}
Name = Annotated[ServiceId, Path(description="A service's id, or an alias.")]
Version = Annotated[
    int | None, Query(ge=1, le=1_000_000, description="The entry's version; without it, the current one.")
]


class ServicesQuery(PageQuery):
    """The filters of a list of services."""

    category: Category | None = Field(None, description="Only services of this category.")
    tag: Annotated[str, Field(max_length=100)] | None = Field(
        None, description="Only services with this tag."
    )
    include_retired: bool = Field(False, description="Also services that take no new jobs.")


@router.get(
    "/services",
    response_model=ServicePage,
    summary="List services, by id",
)
async def list_services(
    context: Context, _: Anyone, position: Position, query: Annotated[ServicesQuery, Query()]
) -> Response:
    [after] = read_cursor(query.cursor, r"[a-z0-9_]{1,63}") or [""]
    entries = await _entries(context, query, after)
    shown = entries[: query.limit]
    cursor = cursor_after(shown[-1]["id"]) if len(entries) > len(shown) else None
    items = [ServiceSummary.model_validate(entry) for entry in shown]
    return reply(ServicePage(items=items, next_cursor=cursor), position)


@router.get(
    "/categories",
    response_model=CategoryPage,
    summary="List categories",
    description="Each with the number of its services that take jobs.",
    responses=NOT_MODIFIED,
)
async def list_categories(
    context: Context, _: Anyone, position: Position, if_none_match: IfNoneMatch = None
) -> Response:
    counts = await context.reads.services_by_category()
    items = [CategoryView(id=category, services=counts.get(category, 0)) for category in CATEGORIES]
    return answer_with_tag(CategoryPage(items=items, next_cursor=None), position, if_none_match)


@router.get(
    "/services/{service}",
    response_model=ServiceView,
    summary="Show a service",
    description="With the JSON Schemas of payload and result. A retired service is shown, too.",
    responses=_ENTRY,
)
async def show_service(
    context: Context,
    _: Anyone,
    position: Position,
    service: Name,
    version: Version = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    entry = await _entry(context, service, version)
    return answer_with_tag(ServiceView.model_validate(entry), position, if_none_match)


@router.get(
    "/services/{service}/schema",
    response_model=ServiceSchema,
    summary="Show a service's schemas",
    description="JSON Schema 2020-12 of a job's payload and of its result.",
    responses=_ENTRY,
)
async def show_schema(
    context: Context,
    _: Anyone,
    position: Position,
    service: Name,
    version: Version = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    entry = await _entry(context, service, version)
    return answer_with_tag(ServiceSchema.model_validate(_part(entry)), position, if_none_match)


@router.get(
    "/services/{service}/requirements",
    response_model=ServiceRequirements,
    summary="Show a service's requirements on miners",
    responses=_ENTRY,
)
async def show_requirements(
    context: Context,
    _: Anyone,
    position: Position,
    service: Name,
    version: Version = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    entry = await _entry(context, service, version)
    return answer_with_tag(ServiceRequirements.model_validate(_part(entry)), position, if_none_match)


@router.get(
    "/services/{service}/pricing",
    response_model=ServicePricing,
    summary="Show a service's price",
    responses=_ENTRY,
)
async def show_pricing(
    context: Context,
    _: Anyone,
    position: Position,
    service: Name,
    version: Version = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    entry = await _entry(context, service, version)
    return answer_with_tag(ServicePricing.model_validate(_part(entry)), position, if_none_match)


@router.get(
    "/services/{service}/openapi",
    response_class=Response,
    summary="Describe a service's jobs in OpenAPI",
    description="An OpenAPI 3.1 document of `POST /v1/jobs` with this service's schemas of payload and "
    "result; for generators of clients.",
    responses={
        200: {
            "description": "The document.",
            "content": {
                "application/json": {
                    "schema": {"type": "object", "properties": {"openapi": {"type": "string"}}}
                }
            },
        },
        **_ENTRY,
    },
)
async def show_service_openapi(
    context: Context,
    _: Anyone,
    position: Position,
    service: Name,
    version: Version = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    entry = await _entry(context, service, version)
    document = json.dumps(service_document(entry)).encode()
    return answer_with_tag(document, position, if_none_match)


@router.get(
    "/services/{service}/versions",
    response_model=ServiceVersionPage,
    summary="List a service's versions",
    description="Every change, oldest first. A job names the version that it was accepted under.",
    responses=_ENTRY,
)
async def list_versions(
    context: Context, _: Anyone, position: Position, service: Name, if_none_match: IfNoneMatch = None
) -> Response:
    versions: list[ServiceVersion] = []
    for recorded in await _history(context, await context.gateway.canonical(service)):
        event = recorded.event
        version = versions[-1].version if versions else 1
        change: Literal["registered", "revised", "retired"] = "registered"
        if isinstance(event, ServiceRevised):
            version, change = event.version, "revised"
        elif isinstance(event, ServiceRetired):
            change = "retired"
        versions.append(
            ServiceVersion(
                version=version, change=change, at=event.at, by=event.by, position=recorded.position
            )
        )
    return answer_with_tag(ServiceVersionPage(items=versions, next_cursor=None), position, if_none_match)


@router.post(
    "/services/validate",
    response_model=ValidateAnswer,
    summary="Check a payload without submitting it",
    description="Against the current schema: all faults (the first 100), by place; no values are shown.",
    responses=refusals(Code.SERVICE_NOT_FOUND, Code.TOO_LARGE),
    openapi_extra=request_body(
        ValidateRequest, example={"service": "whisper", "payload": {"audio_url": "https://example.com/a.mp3"}}
    ),
)
async def validate_payload(request: Request, context: Context, _: Anyone, position: Position) -> Response:
    ask = ValidateRequest.of(await read_object(request, context.limits))
    service = await context.gateway.canonical(ask.service)
    state = await context.gateway.state(service_stream(service))
    if not isinstance(state, RegisteredService) or state.retired:
        raise _not_found()
    # In a thread: a large payload may have many faults.
    found = await in_thread(
        lambda: list(islice(context.payload_schemas.problems(state, ask.payload), MAX_FAULTS))
    )
    faults = [FaultView(place=f.place, keyword=f.keyword, message=f.text) for f in found]
    answer = ValidateAnswer(valid=not faults, service=service, version=state.version, faults=faults)
    return reply(answer, position)


# --- reading -----------------------------------------------------------------------------------------------
async def _entries(context: EdgeContext, query: ServicesQuery, after: str) -> list[dict[str, Any]]:
    """A page of entries and one more, if there is one. Tags are looked for in all entries: they are few."""
    entries: list[dict[str, Any]] = []
    while True:
        rows = await context.reads.services(
            after,
            query.category or "",
            page_size=READ_AT_A_TIME if query.tag else query.limit + 1,
            retired=query.include_retired,
        )
        found = [row.entry for row in rows]
        entries += [entry for entry in found if query.tag is None or query.tag in entry["tags"]]
        if query.tag is None or len(entries) > query.limit or len(rows) < READ_AT_A_TIME:
            return entries
        after = rows[-1].service


async def _entry(context: EdgeContext, name: str, version: int | None) -> dict[str, Any]:
    """An entry by id or alias, as it is or was. Raises Refusal."""
    service = await context.gateway.canonical(name)
    if version is not None:
        for recorded in await _history(context, service):
            event = recorded.event
            number = event.version if isinstance(event, ServiceRevised) else 1
            if isinstance(event, ServiceRegistered | ServiceRevised) and number == version:
                return {**event.spec.model_dump(mode="json"), "version": version, "retired": False}
        raise Refusal(Code.SERVICE_NOT_FOUND, "no such version of this service; /versions lists them")
    row = await context.reads.service(service)
    if row is None:
        raise _not_found()
    return row.entry


async def _history(context: EdgeContext, service: str) -> list[Any]:
    """All events of an entry, from the log: they are few. Raises Refusal."""
    stream = service_stream(service)
    found = (await in_thread(lambda: context.log.load([stream]))).get(stream)
    if not found:
        raise _not_found()
    return list(found)


def _part(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry for views that call its id `service`."""
    return {**entry, "service": entry["id"]}


def _not_found() -> Refusal:
    return Refusal(Code.SERVICE_NOT_FOUND, "no such service; /v1/registry/services lists them")
