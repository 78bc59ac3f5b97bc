"""The arguments of an endpoint: its dependencies and parameters, analysed once for each route.

FastAPI works out for each request again how a parameter is named, whether it is a list, and of which kind
each dependency is. Here that is done once. Order, values and errors are FastAPI's: dependencies first, in
order, each called once; then parameters, validated by FastAPI's own fields.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Union, get_args, get_origin
from uuid import UUID

from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from starlette.requests import Request

_PLAIN: Final = frozenset({str, int, float, bool, UUID, type(None)})
_RECEIVED: Final[Mapping[str, Callable[[Request], Mapping[str, Any]]]] = {
    "path_params": lambda request: request.path_params,
    "query_params": lambda request: request.query_params,
    "header_params": lambda request: request.headers,
}
"""By the name of a kind of parameters in FastAPI's description: what a request has of the kind."""


class _Plain(NamedTuple):
    """A parameter that is one text, number or id, and optional unless it is in the path."""

    name: str
    alias: str
    default: Any
    field: ModelField
    location: tuple[str, str]


class Parameters:
    """All parameters of one kind."""

    def __init__(self, kind: str, fields: Sequence[ModelField]) -> None:
        self._received = _RECEIVED[kind]
        self._fields = fields
        plain = [_plain(field) for field in fields]
        self._plain = [parameter for parameter in plain if parameter is not None]
        self._all_plain = len(self._plain) == len(plain)
        # Requests without a query are the most frequent ones.
        self._in_query = kind == "query_params"
        self._in_header = kind == "header_params"
        self._wanted = frozenset(parameter.alias.lower().encode("latin-1") for parameter in self._plain)

    def read(self, request: Request, values: dict[str, Any]) -> list[Any]:
        """Add the values of this request; the errors of the others, in FastAPI's form."""
        if not self._all_plain:
            found, errors = request_params_to_args(self._fields, self._received(request))
            values.update(found)
            return errors
        if self._in_query and not request.scope["query_string"]:
            received: Mapping[str, Any] = {}
        elif self._in_header and not any(name in self._wanted for name, _ in request.scope["headers"]):
            received = {}
        else:
            received = self._received(request)
        errors = []
        for name, alias, default, field, location in self._plain:
            text = received.get(alias)
            if text is None:
                values[name] = default
                continue
            value, failed = field.validate(text, values, loc=location)
            if failed:
                errors += failed
            else:
                values[name] = value
        return errors


def _plain(field: ModelField) -> _Plain | None:
    info, annotation = field.field_info, field.field_info.annotation
    kinds = set(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else {annotation}
    location: str = info.in_.value  # type: ignore[attr-defined]
    if not kinds <= _PLAIN or info.validation_alias not in (None, field.alias):
        return None
    if info.is_required():
        # A path that fits has all its parameters. Any other missing parameter is an error: FastAPI says it.
        in_path = location == "path"
        return _Plain(field.name, field.alias, None, field, (location, field.alias)) if in_path else None
    if info.validate_default or type(field.default) not in _PLAIN:
        return None
    return _Plain(field.name, field.alias, field.default, field, (location, field.alias))


@dataclass(frozen=True, slots=True)
class Step:
    """A dependency, or at last the endpoint itself, and where its arguments come from."""

    function: Callable[..., Awaitable[Any]]
    needs: tuple[int, ...]
    """The steps of its dependencies. It is not called if one of them has failed."""
    values: tuple[tuple[str, int], ...]
    """The names of those arguments that are values of steps."""
    parameters: tuple[Parameters, ...]
    requests: tuple[str, ...]
    """The names of the arguments that are the request itself."""
    nothing: tuple[str, ...]
    """The names of the arguments that are None, because they only describe the endpoint (`describes`)."""


@dataclass(frozen=True, slots=True)
class Call:
    """An endpoint and its dependencies, in the order in which they are called."""

    steps: tuple[Step, ...]

    @property
    def function(self) -> Callable[..., Awaitable[Any]]:
        """The endpoint."""
        return self.steps[-1].function

    async def arguments(self, request: Request) -> tuple[dict[str, Any], list[Any]]:
        """The endpoint's arguments for this request, and the errors in it, in FastAPI's form.

        Raises whatever a dependency raises.
        """
        found: list[Any] = []
        failed: set[int] = set()
        errors: list[Any] = []
        values: dict[str, Any] = {}
        last = len(self.steps) - 1
        for number, step in enumerate(self.steps):
            values = {name: found[place] for name, place in step.values if place not in failed}
            own: list[Any] = []
            for parameters in step.parameters:
                own += parameters.read(request, values)
            for name in step.requests:
                values[name] = request
            for name in step.nothing:
                values[name] = None
            errors += own
            if own or (failed and not failed.isdisjoint(step.needs)):
                failed.add(number)
                found.append(None)
            elif number < last:
                found.append(await step.function(**values))
        return values, errors


def call_of(described: Dependant) -> Call | None:
    """The analysed form of FastAPI's description; None if it needs more of FastAPI than this module has."""
    steps: list[Step] = []
    places: dict[Callable[..., Any], int] = {}
    return Call(tuple(steps)) if _add(described, steps, places) is not None else None


def describes(function: Callable[..., Any]) -> bool:
    """Whether a dependency only describes the endpoint in the document: its value is None."""
    return getattr(function, "only_describes", False)


def _add(described: Dependant, steps: list[Step], places: dict[Callable[..., Any], int]) -> int | None:
    """Add the steps of this call; returns the place of its own, or None if it can't be analysed."""
    function = described.call
    unknown = (
        described.cookie_params,
        described.body_params,
        described.websocket_param_name,
        described.response_param_name,
        described.background_tasks_param_name,
        described.security_scopes_param_name,
        described.own_oauth_scopes,
        described.concurrency,
        not described.use_cache,
    )
    if function is None or any(unknown) or not _is_coroutine(function):
        return None
    if function in places:  # each is called once
        return places[function]
    needs, values, nothing = [], [], []
    for dependency in described.dependencies:
        if dependency.call is not None and describes(dependency.call):
            nothing.append(dependency.name)
            continue
        place = _add(dependency, steps, places)
        if place is None:
            return None
        needs.append(place)
        if dependency.name is not None:
            values.append((dependency.name, place))
    kinds = [(kind, getattr(described, kind)) for kind in _RECEIVED]
    names = (described.request_param_name, described.http_connection_param_name)
    steps.append(
        Step(
            function,
            tuple(needs),
            tuple(values),
            tuple(Parameters(kind, fields) for kind, fields in kinds if fields),
            tuple(name for name in names if name is not None),
            tuple(name for name in nothing if name is not None),
        )
    )
    places[function] = len(steps) - 1
    return places[function]


def _is_coroutine(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - a security scheme is an object that is called
    )
