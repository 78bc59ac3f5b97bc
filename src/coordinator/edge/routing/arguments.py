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
class Call:
    """An endpoint or a dependency, and where its arguments come from."""

    function: Callable[..., Awaitable[Any]]
    name: str | None
    """The name of its value among the arguments of the call that depends on it; None: not one of them."""
    dependencies: tuple[Call, ...]
    parameters: tuple[Parameters, ...]
    requests: tuple[str, ...]
    """The names of the arguments that are the request itself."""

    async def arguments(
        self, request: Request, results: dict[Callable[..., Any], Any]
    ) -> tuple[dict[str, Any], list[Any]]:
        """The arguments for this request, and the errors in it, in FastAPI's form.

        `results`: of the dependencies that were called already for this request.
        Raises whatever a dependency raises.
        """
        values: dict[str, Any] = {}
        errors: list[Any] = []
        for needed in self.dependencies:
            if needed.function in results:
                found = results[needed.function]
            else:
                arguments, failed = await needed.arguments(request, results)
                if failed:
                    errors += failed
                    continue
                found = results[needed.function] = await needed.function(**arguments)
            if needed.name is not None:
                values[needed.name] = found
        for parameters in self.parameters:
            errors += parameters.read(request, values)
        for name in self.requests:
            values[name] = request
        return values, errors


def call_of(described: Dependant) -> Call | None:
    """The analysed form of FastAPI's description; None if it needs more of FastAPI than this module has."""
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
    dependencies = [call_of(dependency) for dependency in described.dependencies]
    if None in dependencies:
        return None
    kinds = [(kind, getattr(described, kind)) for kind in _RECEIVED]
    names = (described.request_param_name, described.http_connection_param_name)
    return Call(
        function,
        described.name,
        tuple(call for call in dependencies if call is not None),
        tuple(Parameters(kind, fields) for kind, fields in kinds if fields),
        tuple(name for name in names if name is not None),
    )


def _is_coroutine(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - a security scheme is an object that is called
    )
