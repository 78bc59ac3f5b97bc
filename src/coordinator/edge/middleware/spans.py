"""The spans of requests: one for each that names a trace, and one that begins a trace for most others.

A span has the endpoint's template, its method and its status, and nothing of what was sent.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from fastapi.routing import iter_route_contexts
from starlette.types import Scope

from coordinator.domain.messages import read_traceparent
from coordinator.edge.http.commands import SPAN
from coordinator.telemetry import names
from coordinator.telemetry.tracing import Attributes, Kind, Span, Tracer

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER_METHOD: Final = "_OTHER"
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FREQUENT: Final = frozenset({"/v1/miners/poll", "/v1/miners/heartbeat"})
"""These come all the time, whether anything happens or not; an offer of a poll is in its job's trace."""
_PROGRESS: Final = "/progress"


def begin_request(tracer: Tracer, scope: Scope) -> Span | None:
    """The request's span, if it is to be recorded; its commands are below it."""
    method, path = scope["method"], scope["path"]
    parent = _traceparent(scope)
    if parent is None and (method in _READS or path in _FREQUENT or path.endswith(_PROGRESS)):
        return None
    known = _method(scope)
    span = tracer.begin(known, Kind.SERVER, parent, _attributes(known, scope["scheme"]))
    if span is not None:
        scope.setdefault("state", {})[SPAN] = span.traceparent
    return span


def _method(scope: Scope) -> str:
    """The method; senders choose the names of others."""
    method: str = scope["method"]
    return method if method in _METHODS else _OTHER_METHOD


@cache
def _attributes(method: str, scheme: str) -> Attributes:
    return {names.HTTP_REQUEST_METHOD: method, names.URL_SCHEME: scheme}


def _traceparent(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"traceparent":
            return read_traceparent(value.decode("latin-1"))
    return None


def end_request(span: Span, scope: Scope, status: int) -> None:
    """The request is answered; its endpoint is known by now."""
    template = _template(scope)
    if template is not None:
        span.add({names.HTTP_ROUTE: template})
        span.rename(f"{_method(scope)} {template}")
    span.add({names.HTTP_RESPONSE_STATUS_CODE: status})
    span.end(str(status) if status >= 500 else None)


def _template(scope: Scope) -> str | None:
    """The whole path of the endpoint as a template; None for an unknown path."""
    route = scope.get("route")
    if route is None:
        return None
    state = scope["app"].state
    templates: dict[int, str] | None = getattr(state, "templates", None)
    if templates is None:  # a router knows only its own part of the path
        templates = state.templates = {
            id(found.original_route): found.path_format or ""
            for found in iter_route_contexts(scope["app"].routes)
        }
    return templates.get(id(route))
