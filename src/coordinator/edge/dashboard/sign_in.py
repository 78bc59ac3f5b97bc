"""Who looks at a page: the session in a cookie, and what it may do.

The cookie counts for the pages alone; the API takes keys in headers, as before. So no page of another site
can use the API through a person's browser.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import Response

from coordinator.application.keys.keyring import Grant
from coordinator.application.keys.sessions import PersonSession, Sessions
from coordinator.domain.errors import Code
from coordinator.domain.messages import Principal
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import declared_length, incoming
from coordinator.edge.http.problems import Problem
from coordinator.edge.middleware.rate_limits import too_many

MAX_FORM_BYTES: Final = 64 * 1024
FORM_FIELD: Final = "form_token"
FORM_HEADER: Final = "X-Form-Token"
ROLES: Final = ("admin", "operator", "viewer", "client")
"""The roles that see pages, the one with most rights first."""
PAID_ROLE: Final = "miner"
"""Where accounts are kept, its keys see what they earned, and no other page."""
_COOKIE: Final = "coordinator_session"
_LOG_IN_COOKIE: Final = "coordinator_log_in"
_SAME: Final = ("same-origin", "none")


class NotSignedIn(Exception):
    """The request has no valid session."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person at a page."""

    session: PersonSession
    grant: Grant
    form_token: str
    read_only: bool
    """UI_READ_ONLY: pages show, and change nothing."""
    accounts: bool = False
    """Whether accounts are kept: there are pages about money."""

    @property
    def principal(self) -> Principal:
        return self.grant.principal

    @property
    def name(self) -> str:
        return self.principal.name

    @property
    def role(self) -> str:
        return self.principal.role.value

    @property
    def sees_all(self) -> bool:
        """Whether it sees other clients' jobs, too."""
        return self.role not in ("client", PAID_ROLE)

    @property
    def audience(self) -> str:
        """Visitors of one audience see the same: their role, and for clients also their name."""
        return self.role if self.sees_all else f"{self.role} {self.name}"

    @property
    def may_act(self) -> bool:
        """Whether it may cancel jobs and submit them again: a client its own."""
        return not self.read_only and self.role in ("admin", "operator", "client")

    @property
    def may_operate(self) -> bool:
        """Whether it may drain miners, hold and release them."""
        return not self.read_only and self.role in ("admin", "operator")

    @property
    def may_administer(self) -> bool:
        """Whether it may change keys, quotas, and what else admins change."""
        return not self.read_only and self.role == "admin"


def sessions_of(context: EdgeContext) -> Sessions:
    """The sessions of a context with a dashboard."""
    assert context.sessions is not None  # without them there are no pages
    return context.sessions


async def anybody_of(request: Request, context: Context) -> Visitor:
    """The visitor of this request, which counts against its key's budget. Raises NotSignedIn, Problem."""
    visitor = signed_in(request, context)
    if visitor is None:
        raise NotSignedIn
    if await context.ended_sessions.has(visitor.session.id):
        sessions_of(context).end(visitor.session)  # another process has ended it
        raise NotSignedIn
    request.state.principal = visitor.name  # for the access log
    if context.rates is not None:
        spent = await context.rates.spend(visitor.role, visitor.name)
        if spent is not None and not spent.allowed:
            raise too_many(spent, "this key has made too many requests; wait as long as Retry-After says")
    return visitor


async def visitor_of(request: Request, context: Context) -> Visitor:
    """As `anybody_of`, for the pages that a miner's key does not see."""
    visitor = await anybody_of(request, context)
    if visitor.role == PAID_ROLE:
        raise Problem(Code.FORBIDDEN, "a miner's key sees its earnings alone")
    return visitor


async def writer_of(request: Request, context: Context) -> Visitor:
    """The visitor of a request that changes something; it comes from a form of ours. Raises as above."""
    visitor = await visitor_of(request, context)
    check_origin(request)
    given = request.headers.get(FORM_HEADER)
    if given is None:
        given = (await form_of(request, context)).get(FORM_FIELD, "")
    if not sessions_of(context).is_form_token(visitor.session.id, given):
        raise Problem(Code.FORBIDDEN, "this form is of another session; load the page again")
    if visitor.read_only:
        raise Problem(Code.FORBIDDEN, "this dashboard is read-only (UI_READ_ONLY); use the command line")
    return visitor


Anybody = Annotated[Visitor, Depends(anybody_of)]
Visited = Annotated[Visitor, Depends(visitor_of)]
Writing = Annotated[Visitor, Depends(writer_of)]


def signed_in(request: Request, context: EdgeContext) -> Visitor | None:
    """The visitor by the request's cookie; None without a valid session."""
    text = request.cookies.get(_cookie_name(request, context, _COOKIE))
    found = None if text is None else sessions_of(context).read(text)
    if found is None or found[1].principal.role.value not in roles_of(context):
        return None
    session, grant = found
    token = sessions_of(context).form_token(session.id)
    return Visitor(session, grant, token, context.settings.ui_read_only, keeps_accounts(context))


def keeps_accounts(context: EdgeContext) -> bool:
    """Whether there are pages about money."""
    return context.settings.settlement != "off"


def roles_of(context: EdgeContext) -> tuple[str, ...]:
    """The roles whose keys log in here."""
    return (*ROLES, PAID_ROLE) if keeps_accounts(context) else ROLES


def check_origin(request: Request) -> None:
    """Raises Problem for a request that a page of another site has made.

    Browsers say so in `Sec-Fetch-Site`, and on plain HTTP, where they leave that out, in `Origin`.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    foreign = site is not None and site not in _SAME
    if not foreign and site is None and origin is not None:
        foreign = _host_of(origin) != request.headers.get("host", "").lower()
    if foreign:
        raise Problem(Code.FORBIDDEN, "another site sent this request; use the form of the page itself")


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # no URL at all, such as `http://[`
        return None


async def form_of(request: Request, context: EdgeContext) -> dict[str, str]:
    """The fields of a posted form, read once. Raises Problem."""
    known: dict[str, str] | None = getattr(request.state, "form", None)
    if known is not None:
        return known
    if declared_length(request) > MAX_FORM_BYTES:
        raise Problem(Code.TOO_LARGE, "the form is too large")
    body = bytearray()
    try:
        async with asyncio.timeout(context.limits.body_seconds):
            async for chunk in incoming(request, context.limits):
                body += chunk
                if len(body) > MAX_FORM_BYTES:
                    raise Problem(Code.TOO_LARGE, "the form is too large")
    except TimeoutError:
        raise Problem(Code.INVALID_PAYLOAD, "the form arrived too slowly; send it again") from None
    try:
        fields = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=100))
    except ValueError:
        raise Problem(Code.INVALID_PAYLOAD, "not a form; use the page's own") from None
    if any("\0" in value for value in fields.values()):
        # PostgreSQL stores no such text, so an event with one would stop every reader of the log.
        raise Problem(Code.INVALID_PAYLOAD, "the form has a NUL character; remove it")
    request.state.form = fields
    return fields


# --- cookies -----------------------------------------------------------------------------------------------
def give_session(request: Request, context: EdgeContext, response: Response, session: PersonSession) -> None:
    """Let the browser keep this session, until it expires or the browser ends."""
    _set_cookie(request, context, response, _COOKIE, sessions_of(context).text_of(session))
    _drop_cookie(request, context, response, _LOG_IN_COOKIE)


def take_session(request: Request, context: EdgeContext, response: Response) -> None:
    """Let the browser forget its session."""
    _drop_cookie(request, context, response, _COOKIE)


def give_log_in_id(request: Request, context: EdgeContext, response: Response, log_in_id: str) -> None:
    """Tie a form to log in to this browser."""
    _set_cookie(request, context, response, _LOG_IN_COOKIE, log_in_id)


def log_in_id_of(request: Request, context: EdgeContext) -> str | None:
    """The id that `give_log_in_id` gave."""
    return request.cookies.get(_cookie_name(request, context, _LOG_IN_COOKIE))


def _cookie_name(request: Request, context: EdgeContext, name: str) -> str:
    # Browsers take a cookie with this prefix from this host alone, and over HTTPS alone: no other host of the
    # domain, and nobody on the line, can plant one.
    if not _is_secure(request):
        return name
    return f"__Secure-{name}" if context.settings.ui_base_path else f"__Host-{name}"


def _set_cookie(request: Request, context: EdgeContext, response: Response, name: str, value: str) -> None:
    response.set_cookie(
        _cookie_name(request, context, name),
        value,
        path=context.settings.ui_base_path or "/",
        secure=_is_secure(request),
        httponly=True,
        # Lax, so that a link to a page from a chat finds its reader signed in. No GET changes anything.
        samesite="lax",
    )


def _drop_cookie(request: Request, context: EdgeContext, response: Response, name: str) -> None:
    response.delete_cookie(
        _cookie_name(request, context, name),
        path=context.settings.ui_base_path or "/",
        secure=_is_secure(request),
        httponly=True,
        samesite="lax",
    )


def _is_secure(request: Request) -> bool:
    return request.url.scheme == "https"
