"""To log in with an API key, or with a link of `coordinator dev`; and to log out."""

from __future__ import annotations

import secrets
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from coordinator.domain.errors import Code
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.dashboard.rendering import render
from coordinator.edge.dashboard.routing import LOG_IN_PATH, base_of, page_router, redirect
from coordinator.edge.dashboard.sign_in import (
    FORM_FIELD,
    check_origin,
    form_of,
    give_log_in_id,
    give_session,
    log_in_id_of,
    roles_of,
    sessions_of,
    signed_in,
    take_session,
)
from coordinator.edge.http.credentials import MAX_KEY_BYTES, grants_alone
from coordinator.edge.http.problems import Problem
from coordinator.edge.middleware.rate_limits import TOO_MANY_FAILURES, too_many

router = page_router()

_ROLE_REFUSED: Final = (
    "a miner's key sees no pages; log in with a client's, viewer's, operator's or admin's key. "
    "`coordinator miner why` tells why a miner has no work"
)
LINK_USED: Final = (
    "This link was used before, or is of an earlier start. Log in with a key; "
    "`coordinator dev` prints a new link when it starts."
)


@router.get(LOG_IN_PATH)
async def show_log_in(request: Request, context: Context, next: str = "", used: str = "") -> Response:
    """The form."""
    if signed_in(request, context) is not None:
        return redirect(request, _safe_path(next))
    return _form(request, context, _safe_path(next), LINK_USED if used else "", 200)


@router.post(LOG_IN_PATH)
async def log_in(request: Request, context: Context) -> Response:
    """Open a session, with an id that is new."""
    check_origin(request)
    form = await form_of(request, context)
    path, address = _safe_path(form.get("next", "")), request.client.host if request.client else ""
    known = log_in_id_of(request, context)
    if known is None or not sessions_of(context).is_form_token(_log_in(known), form.get(FORM_FIELD, "")):
        return _form(request, context, path, "this form is too old, or cookies are off; try again", 403)
    key = form.get("key", "").strip()
    name = key.partition(":")[0]
    if context.rates is not None:
        failed = await context.rates.failures(address, name, count=False)
        if failed is not None and failed.count >= failed.limit:
            await context.rates.delay(address)
            raise too_many(failed, TOO_MANY_FAILURES)
    try:
        if len(key.encode(errors="replace")) > MAX_KEY_BYTES:
            raise Problem(Code.UNAUTHORIZED_KEY, "invalid API key; check its name and secret")
        grants = grants_alone(key, context.keyring)
    except Problem as problem:
        if context.rates is not None:
            await context.rates.failures(address, name, count=True)
        return _form(request, context, path, problem.detail, 401)
    roles = roles_of(context)
    grants = sorted(
        (g for g in grants if g.principal.role in roles), key=lambda g: roles.index(g.principal.role)
    )
    if not grants:
        return _form(request, context, path, _ROLE_REFUSED, 403)
    session = sessions_of(context).open(key, grants[0])
    request.state.principal = session.name
    answer = redirect(request, path)
    give_session(request, context, answer, session)
    return answer


async def follow_link(request: Request, context: EdgeContext, token: str) -> Response:
    """Open the session of a link that `coordinator dev` has printed. Each is good for once."""
    session = sessions_of(context).follow(token)
    if session is None:
        return redirect(request, "/" if signed_in(request, context) is not None else f"{LOG_IN_PATH}?used=1")
    answer = redirect(request, "/")
    give_session(request, context, answer, session)
    return answer


@router.post("/logout")
async def log_out(request: Request, context: Context) -> Response:
    """End the session."""
    check_origin(request)
    visitor = signed_in(request, context)
    answer = redirect(request, LOG_IN_PATH)
    if visitor is not None:
        token = (await form_of(request, context)).get(FORM_FIELD, "")
        if not sessions_of(context).is_form_token(visitor.session.id, token):
            raise Problem(Code.FORBIDDEN, "this form is of another session; load the page again")
        sessions_of(context).end(visitor.session)
        await context.ended_sessions.add(visitor.session.id, visitor.session.expires_at)
    take_session(request, context, answer)
    return answer


def _form(request: Request, context: EdgeContext, path: str, refusal: str, status: int) -> Response:
    log_in_id = log_in_id_of(request, context) or secrets.token_hex(16)
    html = render(
        "login.html",
        base=base_of(request),
        visitor=None,
        title="Log in",
        next=path,
        refusal=refusal[:1].upper() + refusal[1:],
        token=sessions_of(context).form_token(_log_in(log_in_id)),
        hours=context.settings.ui_session_hours,
    )
    answer = HTMLResponse(html, status)
    give_log_in_id(request, context, answer, log_in_id)
    return answer


def _log_in(log_in_id: str) -> str:
    """What a form to log in is tied to: never the id of a session."""
    return f"log in {log_in_id}"


def _safe_path(path: str) -> str:
    """A path of ours, so that no link leads elsewhere through us."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if plain and "\\" not in path else "/"
