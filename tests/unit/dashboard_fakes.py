"""A browser without a network at the dashboard of fakes, and data of strangers for its pages."""

from __future__ import annotations

import dataclasses
import enum
import re
import types
import typing
from datetime import UTC, datetime
from typing import Any, Union, cast
from uuid import UUID

import httpx
from fastapi import FastAPI
from pydantic import BaseModel

from coordinator.edge.dashboard.sign_in import FORM_FIELD
from tests.unit.edge_fakes import ADMIN

COOKIE = "coordinator_session"
SCRIPT = (
    """"'><script>alert(1)</script><img src=x onerror=alert(1)>{{7777*7777}}\r\ndata: x\u2028</textarea>"""
)
"""Text of a stranger that would do something wherever it is not escaped."""


def a_browser(app: FastAPI, url: str = "http://edge", **headers: str) -> httpx.AsyncClient:
    """A browser that keeps cookies and follows no redirect."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url=url,
        headers=headers,
        follow_redirects=False,
        timeout=None,
    )


def field(html: str, name: str) -> str:
    """The value of a hidden field of the page's first form that has it."""
    found = re.search(rf'name="{name}" value="([^"]*)"', html)
    assert found is not None, f"no field {name} in {html[:500]}"
    return found[1]


async def log_in(browser: httpx.AsyncClient, key: str = ADMIN, **fields: str) -> httpx.Response:
    """The answer to a filled form."""
    form = await browser.get("/login")
    sent = {FORM_FIELD: field(form.text, FORM_FIELD), "key": key, "next": "/", **fields}
    return await browser.post("/login", data=sent)


def hostile(kind: Any, depth: int = 0) -> Any:
    """A value of this type with SCRIPT in every text, for dataclasses, named tuples and what they hold."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return arguments[-1]
    if origin in (Union, types.UnionType):
        return hostile(next(a for a in arguments if a is not type(None)), depth)
    if origin is tuple:
        return tuple(
            hostile(a, depth + 1) for a in (arguments[:1] * 2 if arguments[-1] is ... else arguments)
        )
    if origin is dict:
        return {hostile(arguments[0], depth): hostile(arguments[1], depth + 1)}
    if origin is typing.Annotated:
        return hostile(arguments[0], depth)
    if kind is UUID:
        return UUID(int=1)
    if kind in (int, float):
        return kind(1_700_000_000_000)
    if kind is bool:
        return True
    if kind is str or kind is Any:
        return SCRIPT
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return next(iter(kind))
    if kind is datetime:
        return datetime.fromtimestamp(1_700_000_000, UTC)
    hints = typing.get_type_hints(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_construct(**{name: hostile(hints[name], depth + 1) for name in kind.model_fields})
    if dataclasses.is_dataclass(kind):
        names = [f.name for f in dataclasses.fields(cast("Any", kind))]
    else:
        names = list(kind._fields)
    return kind(**{name: hostile(hints[name], depth + 1) for name in names})
