"""The page Admin: keys, quotas, dead letters, and the settings without their secrets."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from coordinator.domain.errors import Code
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.dashboard.data import admin as data
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.rendering import render
from coordinator.edge.dashboard.routing import base_of, page_router, redirect
from coordinator.edge.dashboard.sign_in import Visited, Visitor, Writing, form_of
from coordinator.edge.http.problems import Problem

router = page_router()

DAY_SECONDS: Final = 86_400
GRACE_SECONDS: Final = 3600
ROLES: Final = ("client", "miner", "viewer", "operator", "admin")
TABS: Final = (
    ("Keys", "/admin"),
    ("Quotas", "/admin/quotas"),
    ("Dead letters", "/admin/dead"),
    ("Settings", "/admin/settings"),
)
"""Name and path of each part."""


@router.get("/admin")
async def show_keys(
    request: Request, context: Context, visitor: Visited, cursor: Annotated[str, Query(max_length=200)] = ""
) -> Response:
    """The API keys."""
    return await _keys(request, context, visitor, cursor)


@router.post("/admin/keys")
async def create_key(request: Request, context: Context, visitor: Writing) -> Response:
    """Make a key; its secret is shown this once."""
    form = await form_of(request, context)
    fields: dict[str, Any] = {
        "name": form.get("name", "").strip(),
        "role": form.get("role", ""),
        "label": form.get("label", "").strip(),
        "signed": form.get("signed") == "on",
        # The same form sent twice makes one key.
        "idempotency_key": form.get("once") or None,
    }
    if days := form.get("days", "").strip():
        if not (days.isascii() and days.isdigit() and len(days) < 6):
            raise Problem(Code.INVALID_PAYLOAD, "days: write a whole number of days, or nothing")
        fields["expires_in_seconds"] = int(days) * DAY_SECONDS
    made = await data.create_key(context, Viewer.of(visitor.principal), fields)
    return await _keys(request, context, visitor, made=made)


@router.post("/admin/keys/{key_id}/rotate")
async def rotate_key(request: Request, context: Context, visitor: Writing, key_id: UUID) -> Response:
    """Give a key a new secret, shown this once; the old one works for an hour more."""
    made = await data.rotate_key(context, Viewer.of(visitor.principal), key_id, GRACE_SECONDS)
    return await _keys(request, context, visitor, made=made)


@router.post("/admin/keys/{key_id}/revoke")
async def revoke_key(request: Request, context: Context, visitor: Writing, key_id: UUID) -> Response:
    """End a key for good."""
    form = await form_of(request, context)
    await data.revoke_key(context, Viewer.of(visitor.principal), key_id, form.get("reason", ""))
    return redirect(request, "/admin")


@router.get("/admin/quotas")
async def show_quotas(request: Request, context: Context, visitor: Visited) -> Response:
    """What each name uses, and its limits."""
    found = await data.quotas(context, Viewer.of(visitor.principal))
    return _page(request, visitor, "admin/quotas.html", "/admin/quotas", quotas=found)


@router.get("/admin/dead")
async def show_dead_letters(request: Request, context: Context, visitor: Visited) -> Response:
    """The messages that could not be handled."""
    found = await data.dead_letters(context, Viewer.of(visitor.principal))
    return _page(request, visitor, "admin/dead.html", "/admin/dead", dead=found, replayed=None)


@router.post("/admin/dead/replay")
async def replay_dead_letter(request: Request, context: Context, visitor: Writing) -> Response:
    """Send one again, as its first sender."""
    form = await form_of(request, context)
    viewer = Viewer.of(visitor.principal)
    replayed = await data.replay(context, viewer, form.get("letter", "")[:200])
    found = await data.dead_letters(context, viewer)
    return _page(request, visitor, "admin/dead.html", "/admin/dead", dead=found, replayed=replayed or "gone")


@router.get("/admin/settings")
async def show_settings(request: Request, context: Context, visitor: Visited) -> Response:
    """The settings of this process; secrets are `set` or `not set`."""
    found = await data.settings(context, Viewer.of(visitor.principal))
    return _page(request, visitor, "admin/settings.html", "/admin/settings", settings=found)


async def _keys(
    request: Request,
    context: EdgeContext,
    visitor: Visitor,
    cursor: str = "",
    made: data.ShownSecret | None = None,
) -> Response:
    found = await data.keys(context, Viewer.of(visitor.principal), cursor or None)
    older = "/admin?" + urlencode({"cursor": found.next_cursor}) if found.next_cursor else None
    return _page(
        request, visitor, "admin/keys.html", "/admin", keys=found.keys, older=older, made=made, roles=ROLES
    )


def _page(request: Request, visitor: Visitor, template: str, tab: str, **values: Any) -> Response:
    html = render(
        template,
        base=base_of(request),
        visitor=visitor,
        title="Admin",
        here="/admin",
        tabs=TABS,
        tab=tab,
        **values,
    )
    return HTMLResponse(html)
