"""Routes of pages: failures are pages, too, and every answer has the policy of pages."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Coroutine
from typing import Any, Final
from urllib.parse import quote

import structlog
from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from coordinator.application.ports import LogUnavailable
from coordinator.blobs import BlobError
from coordinator.domain.errors import Code, Refusal
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.rendering import render
from coordinator.edge.dashboard.sign_in import NotSignedIn, signed_in
from coordinator.edge.http.problems import Problem, internal_problem, problem_of

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "media-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""Of every page: scripts, styles and data of this server only, and no frames."""
_URL_MARKS: Final = ":/%#?=@[]!$&'()*+,;"
FRAGMENT_HEADER: Final = "HX-Request"
LOG_IN_PATH: Final = "/login"
_NEXT_STEP: Final = {
    404: "The link may be old or mistyped, or its job another client's.",
    403: "Log in with another key for that.",
    429: "Wait a little, then load the page again.",
    503: "The page comes back by itself once the server does; /health says more.",
}

log = structlog.get_logger("dashboard")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """A route whose failures are pages."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
            except NotSignedIn:
                response = _to_log_in(request)
            except ClientDisconnect:
                raise
            except Exception as error:
                response = _failure(request, error)
            return _with_policy(request, response)

        return answer


def not_found_page(request: Request) -> Response | None:
    """The page of an address that is none of ours; None for programs, which do not ask for HTML."""
    if request.method not in ("GET", "HEAD") or "text/html" not in request.headers.get("accept", ""):
        return None
    problem = Problem(Code.UNKNOWN_COMMAND, "there is no page at this address")
    answer = _with_policy(request, _failure(request, problem))
    answer.headers["Vary"] = "Accept"
    return answer


def _with_policy(request: Request, response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", POLICY)
    if request.url.scheme == "https":  # elsewhere browsers complain about it
        response.headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    # Not "no-referrer": with that, browsers send forms with an origin of "null".
    response.headers["Referrer-Policy"] = "same-origin"
    return response


def page_router() -> APIRouter:
    """A router for pages: not part of the API's description."""
    return APIRouter(route_class=PageRoute, include_in_schema=False)


def redirect(request: Request, path: str, status: int = 303) -> Response:
    """To another page of ours; htmx follows it with the whole page."""
    url = base_of(request) + path
    if FRAGMENT_HEADER in request.headers:
        # As RedirectResponse does it: a header has no letters beyond Latin-1.
        return Response(status_code=204, headers={"HX-Redirect": quote(url, safe=_URL_MARKS)})
    return RedirectResponse(url, status)


def base_of(request: Request) -> str:
    """UI_BASE_PATH, with which the path of every link begins."""
    context: EdgeContext = request.app.state.context
    return context.settings.ui_base_path


def _to_log_in(request: Request) -> Response:
    if request.headers.get("accept", "").startswith("text/event-stream"):
        return Response(status_code=401)
    if request.method != "GET" or FRAGMENT_HEADER in request.headers:
        return redirect(request, LOG_IN_PATH)
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    wanted = "" if path == "/" else f"?next={quote(path, safe='')}"
    return redirect(request, LOG_IN_PATH + wanted)


def _failure(request: Request, error: Exception) -> Response:
    problem = _problem(error)
    context: EdgeContext = request.app.state.context
    visitor = signed_in(request, context)
    html = render(
        "failure.html",
        base=base_of(request),
        visitor=visitor,
        title=_title(problem),
        problem=problem,
        advice=_NEXT_STEP.get(problem.status, ""),
        fragment=FRAGMENT_HEADER in request.headers,
    )
    return Response(html, problem.status, problem.headers, "text/html")


def _title(problem: Problem) -> str:
    return {404: "Not found", 403: "Not allowed", 429: "Too many requests", 503: "Out of reach"}.get(
        problem.status, "That did not work"
    )


def _problem(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case Refusal():
            return problem_of(error)
        case RequestValidationError():
            return Problem(Code.INVALID_PAYLOAD, "this address has an invalid part; use the page's own links")
        case LogUnavailable() | ConnectionError() | BlobError():
            log.warning("a page is out of reach", error=type(error).__name__)
            return Problem(Code.UNAVAILABLE, "a server that this page needs is out of reach")
        case _:
            # As text: renderers that walk through local variables would show keys and payloads.
            log.error("a page failed", exception="".join(traceback.format_exception(error)))
            return internal_problem()
