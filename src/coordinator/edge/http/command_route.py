"""Endpoints of commands: handled and described from one declaration.

`command_route` adds the endpoint of one command. Senders, body, answer and refusals are declared once, and
FastAPI describes them. A dependency reads the command's fields from the request: its body, path and headers.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code
from coordinator.domain.messages import Command, Principal
from coordinator.edge.context import Context
from coordinator.edge.http.bodies import Member, request_body
from coordinator.edge.http.commands import send
from coordinator.edge.http.credentials import allow
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.reading import reply
from coordinator.edge.models.base import CommandAnswer

_IN_PATH = re.compile(r"\{(\w+)\}")


def command_route(
    router: APIRouter,
    method: str,
    path: str,
    command: type[Command],
    answer: type[CommandAnswer],
    *,
    name: str,
    summary: str,
    description: str | None = None,
    fields: Callable[..., Awaitable[dict[str, Any]]],
    body: type[BaseModel] | None = None,
    example: Mapping[str, Any],
    omit: Collection[str] = (),
    optional: Collection[str] = (),
    members: Mapping[str, Member] | None = None,
    refused: Collection[Code] = (),
    status: int = 200,
    location: str | None = None,
) -> None:
    """Add the endpoint of a command, for the roles that may send it.

    - `name`: the operation's id.
    - `fields`: a dependency that returns the command's fields; it raises Refusal.
    - `body`, `example`, `omit`, `optional`, `members`: the body, as in `request_body`. Its model is the
      command unless another is given; members in the path are left out.
    - `refused`: the command's codes, besides those of any command.
    - `location`: the URL of the created resource, with members of the answer in braces.
    """

    sender: Any = Depends(allow(*command.senders))
    taken: Any = Depends(fields)

    async def endpoint(
        request: Request, context: Context, principal: Principal = sender, values: dict[str, Any] = taken
    ) -> Response:
        accepted = await send(context, principal, command.topic, values, request)
        content = answer.model_validate(accepted.to_wire())
        headers = {} if location is None else {"Location": location.format_map(dict(content))}
        return reply(content, accepted.position, status, **headers)

    in_path = _IN_PATH.findall(router.prefix + path)
    router.add_api_route(
        path,
        endpoint,
        methods=[method],
        name=name,
        summary=summary,
        description=description,
        status_code=status,
        response_model=answer,
        response_description=HTTPStatus(status).phrase,
        responses=refusals(Code.FORBIDDEN, Code.TOO_LARGE, *refused),
        openapi_extra=None
        if method == "DELETE"  # it has no body
        else request_body(
            body or command, example=example, omit={*omit, *in_path}, optional=optional, members=members
        ),
    )
