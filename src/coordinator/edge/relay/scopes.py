"""Scopes of ASGI as JSON: the parts of a request that the application reads."""

from __future__ import annotations

from typing import Any, Final

from starlette.types import Scope

from coordinator.edge.context import Spent
from coordinator.edge.middleware.authentication import SPENT
from coordinator.edge.relay.frames import BadFrame

_TEXTS: Final = ("type", "http_version", "scheme", "path", "root_path")
_CAN_REFUSE: Final = "websocket.http.response"


def scope_to_json(scope: Scope) -> dict[str, Any]:
    """What the core needs of a scope."""
    told: dict[str, Any] = {name: scope.get(name, "") for name in _TEXTS}
    told["method"] = scope.get("method")
    told["raw_path"] = scope["raw_path"].decode("latin-1")
    told["query"] = scope["query_string"].decode("latin-1")
    told["headers"] = [text.decode("latin-1") for header in scope["headers"] for text in header]
    told["client"], told["server"] = scope.get("client"), scope.get("server")
    if (spent := scope.get("state", {}).get(SPENT)) is not None:
        told["spent"] = [spent.limit, spent.count, spent.window, spent.reset]
    if scope["type"] == "websocket":
        told["subprotocols"] = list(scope.get("subprotocols", ()))
        told["refusable"] = _CAN_REFUSE in scope.get("extensions", {})
    return told


def scope_from_json(told: Any) -> Scope:
    """The scope for the application. Raises BadFrame."""
    try:
        headers = [text.encode("latin-1") for text in told["headers"]]
        scope: dict[str, Any] = {name: str(told[name]) for name in _TEXTS}
        scope |= {
            "asgi": {"version": "3.0", "spec_version": "2.3"},  # as uvicorn
            "raw_path": told["raw_path"].encode("latin-1"),
            "query_string": told["query"].encode("latin-1"),
            "headers": list(zip(headers[::2], headers[1::2], strict=True)),
            "client": _address(told["client"]),
            "server": _address(told["server"]),
            "state": {},
            "extensions": {},
        }
        if "spent" in told:
            scope["state"][SPENT] = Spent(*told["spent"])
        if scope["type"] == "http":
            scope["method"] = str(told["method"])
        elif scope["type"] == "websocket":
            scope["subprotocols"] = [str(name) for name in told["subprotocols"]]
            scope["extensions"] = {_CAN_REFUSE: {}} if told["refusable"] else {}
        else:
            raise BadFrame("an exchange is HTTP or a WebSocket")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadFrame("invalid scope in a frame") from None
    return scope


def headers_to_json(headers: Any) -> list[str]:
    """Headers of an answer, name after value after name."""
    return [bytes(text).decode("latin-1") for header in headers for text in header]


def headers_from_json(told: list[str]) -> list[tuple[bytes, bytes]]:
    """The reverse."""
    texts = [text.encode("latin-1") for text in told]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _address(told: Any) -> tuple[str, int] | None:
    return None if told is None else (str(told[0]), int(told[1] or 0))
