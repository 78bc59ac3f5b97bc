"""Quotas: an admin sees and changes the limits of names; each name sees its own."""

from __future__ import annotations

from bisect import bisect_right
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import NAME
from coordinator.domain.quota import OwnLimits, QuotaSet
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import fill, read_object
from coordinator.edge.http.command_route import command_route
from coordinator.edge.http.credentials import Admin, Anyone
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.reading import PageQuery, Position, cursor_after, read_cursor, reply
from coordinator.edge.models.parties.quotas import LimitsView, QuotaAnswer, QuotaPage, QuotaView, UsageView

router = APIRouter(tags=["quotas"])

_CURSOR = (NAME,)
Name = Annotated[str, Path(pattern=f"^{NAME}$", description="The name in the keys, before the colon.")]


async def _fields(request: Request, context: Context, name: Name) -> dict[str, Any]:
    return fill(await read_object(request, context.limits), name=name)


command_route(
    router,
    "PUT",
    "/admin/quotas/{name}",
    QuotaSet,
    QuotaAnswer,
    name="set_quota",
    summary="Change limits of a name",
    description="All keys of the name share its limits. Limits that the body leaves out stay as they are; "
    "null brings back the limit of the settings, `unlimited` removes it. A limit below what is in use takes "
    "nothing away: it refuses more.",
    fields=_fields,
    example={"limits": {"queued_jobs": 500, "stored_bytes": 10737418240, "max_priority": 5}},
)


@router.get(
    "/admin/quotas",
    response_model=QuotaPage,
    summary="List limits and usage, by name",
    description="Names that use anything, or have limits of their own.",
    responses=refusals(Code.FORBIDDEN),
)
async def list_quotas(
    context: Context, _: Admin, position: Position, query: Annotated[PageQuery, Query()]
) -> Response:
    [after] = read_cursor(query.cursor, *_CURSOR) or [""]
    names = [] if context.quotas is None else context.quotas.names()
    start = bisect_right(names, after)
    shown = names[start : start + query.limit]
    cursor = cursor_after(shown[-1]) if start + len(shown) < len(names) else None
    return reply(QuotaPage(items=[_view(context, name) for name in shown], next_cursor=cursor), position)


@router.get(
    "/admin/quotas/{name}",
    response_model=QuotaView,
    summary="Show the limits and the usage of a name",
    description="Of any name: one without limits of its own has those of the settings.",
    responses=refusals(Code.FORBIDDEN),
)
async def show_quota(context: Context, _: Admin, position: Position, name: Name) -> Response:
    return reply(_view(context, name), position)


@router.get(
    "/quota",
    response_model=QuotaView,
    summary="Show your own limits and usage",
    description="Of the key's name; all keys of a name share its limits.",
)
async def show_own_quota(context: Context, principal: Anyone, position: Position) -> Response:
    return reply(_view(context, principal.name), position)


def _view(context: EdgeContext, name: str) -> QuotaView:
    quotas = context.quotas
    if quotas is None:
        raise Refusal(Code.UNAVAILABLE, "this process keeps no quotas; ask another one")
    used = quotas.usage_of(name)
    return QuotaView(
        name=name,
        limits=LimitsView(**quotas.limits_of(name)._asdict()),
        own_limits=quotas.own_limits().get(name, OwnLimits()),
        used=UsageView(**used._asdict(), stored_bytes=used.stored_bytes),
    )
