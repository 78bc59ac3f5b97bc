"""The routes by the form of their paths: a request is compared with a few of them instead of with all."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from coordinator.edge.routing.arguments import Call, call_of
from coordinator.edge.routing.path_ids import OtherThan

_FIXED_SEGMENTS: Final = 2
"""Segments, such as `v1/jobs`, that tell most routes apart."""
Form = tuple[int, tuple[str, ...]]
"""The number of a path's segments, and the first ones."""


@dataclass(frozen=True, slots=True)
class Direct:
    """A route; `call` is None if FastAPI has to answer it."""

    route: BaseRoute
    methods: frozenset[str]
    matches: Any
    """Of the compiled path."""
    convertors: dict[str, Any]
    call: Call | None


class RoutesByPath:
    """The route of a method and a path: of several that fit, the first one."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        """`routes`: in the order in which they are tried."""
        numbered = [
            (_form_of_route(found), _direct(found))
            for found in iter_route_contexts(list(routes))
            if not isinstance(found.original_route, WebSocketRoute)
        ]
        forms = {form for form, _ in numbered if form is not None}
        self.by_form = {
            # A route whose form is open may fit any path, so it keeps its place among all others.
            form: tuple(direct for own, direct in numbered if own is None or own == form)
            for form in forms
        }

    def find(self, method: str, path: str) -> tuple[Direct, Call, dict[str, Any]] | None:
        """The route, its call and the parameters in the path; None if FastAPI has to look for itself."""
        for direct in self.by_form.get(_form_of_path(path), ()):
            if method not in direct.methods:
                continue
            if (match := direct.matches(path)) is not None:
                call, convertors = direct.call, direct.convertors
                if call is None:
                    return None
                texts = match.groupdict()
                return direct, call, {name: convertors[name].convert(text) for name, text in texts.items()}
        return None


def _form_of_path(path: str) -> Form:
    segments = path.split("/")
    return len(segments), tuple(segments[1 : 1 + _FIXED_SEGMENTS])


def _form_of_route(found: RouteContext) -> Form | None:
    """None if paths of several forms fit."""
    path, convertors = found.path or "", getattr(found, "param_convertors", None)
    if convertors is None or not all(_takes_one_segment(convertor) for convertor in convertors.values()):
        return None
    count, first = _form_of_path(path)
    return None if any("{" in segment for segment in first) else (count, first)


def _takes_one_segment(convertor: Any) -> bool:
    return convertor.regex == "[^/]+" or isinstance(convertor, OtherThan)


def _direct(found: RouteContext) -> Direct:
    route = found.original_route
    if not isinstance(route, Route):  # a mounted application: any method, any path
        raise TypeError(f"not a route: {route!r}")
    return Direct(
        route,
        frozenset(found.methods or ()),
        found.path_regex.match,
        found.param_convertors,
        _call_of_route(found),
    )


def _call_of_route(found: RouteContext) -> Call | None:
    if not isinstance(found.original_route, APIRoute) or found.body_field is not None:
        return None
    if found.max_body_size is not None or not _returns_response(found.endpoint):
        return None
    return call_of(found.dependant)


def _returns_response(endpoint: Any) -> bool:
    """Whether the endpoint makes its whole answer itself."""
    try:
        returned = typing.get_type_hints(endpoint).get("return")
    except NameError:  # an annotation that is known only where the endpoint was defined
        return False
    return isinstance(returned, type) and issubclass(returned, Response)
