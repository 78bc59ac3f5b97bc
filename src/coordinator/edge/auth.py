"""Who is speaking: `X-Api-Key: name:secret`, and which roles an endpoint is for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import APIKeyHeader
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from coordinator.application.keyring import Keyring
from coordinator.domain.errors import Code
from coordinator.domain.messages import Principal, Role
from coordinator.edge.context import Context
from coordinator.edge.problems import Problem

HEADER = "X-Api-Key"
MAX_KEY_BYTES = 1024
_SCHEME = APIKeyHeader(
    name=HEADER,
    scheme_name="ApiKey",
    description="An API key, `name:secret`. The name is who you are in events, receipts and logs.",
    auto_error=False,
)


def authenticate(headers: Headers, keyring: Keyring, *roles: Role) -> Principal:
    """The principal that these headers prove, in one of `roles`. Raises Problem."""
    keys = [value for name, value in headers.raw if name == HEADER.lower().encode()]
    if not keys:
        raise Problem(Code.UNAUTHORIZED_KEY, f"send an API key: {HEADER}: name:secret")
    # Two keys could be read differently by whatever stands before us.
    if len(keys) > 1 or len(keys[0]) > MAX_KEY_BYTES:
        raise _unknown_key()
    try:
        key = keys[0].decode()
    except UnicodeDecodeError:
        raise _unknown_key() from None
    principal = keyring.by_key(key, *roles)
    if principal is not None:
        return principal
    known = keyring.by_key(key)
    if known is None:
        raise _unknown_key()
    raise Problem(Code.FORBIDDEN, f"a {known.role.value} key can't do this")


def allow(*roles: Role) -> Callable[..., Awaitable[Principal]]:
    """A dependency: the request's principal, which must have one of these roles."""

    async def principal_of(
        connection: HTTPConnection, context: Context, _: Annotated[str | None, Security(_SCHEME)]
    ) -> Principal:
        principal = authenticate(connection.headers, context.keyring, *roles)
        connection.state.principal = principal.name  # for the access log
        return principal

    return principal_of


def _unknown_key() -> Problem:
    return Problem(Code.UNAUTHORIZED_KEY, "this API key is not valid")


Anyone = Annotated[Principal, Depends(allow(Role.CLIENT, Role.MINER, Role.ADMIN))]
Client = Annotated[Principal, Depends(allow(Role.CLIENT, Role.ADMIN))]
"""Clients for what is theirs, admins for everything."""
Miner = Annotated[Principal, Depends(allow(Role.MINER))]
MinerOrAdmin = Annotated[Principal, Depends(allow(Role.MINER, Role.ADMIN))]
Admin = Annotated[Principal, Depends(allow(Role.ADMIN))]
