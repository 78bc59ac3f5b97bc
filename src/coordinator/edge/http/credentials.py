"""API keys (`X-Api-Key: name:secret`, or a bearer token), their principals, and the roles of an endpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Annotated, Final

from fastapi import Depends, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from coordinator.application.keys.keyring import Grant, Keyring
from coordinator.domain.errors import Code
from coordinator.domain.messages import READS_ALL, Principal, Role
from coordinator.edge.http.problems import Problem

HEADER: Final = "X-Api-Key"
BEARER: Final = "bearer "
MAX_KEY_BYTES: Final = 1024
KEY_SCHEME: Final = "ApiKey"


class _DescribedKey(APIKeyHeader):
    """In the OpenAPI document only: the middleware has read the key."""

    only_describes = True

    async def __call__(self, request: HTTPConnection) -> None:
        return None


class _DescribedBearer(HTTPBearer):
    """In the OpenAPI document only, as well."""

    only_describes = True

    async def __call__(self, request: HTTPConnection) -> None:
        return None


_SCHEME = _DescribedKey(
    name=HEADER,
    scheme_name=KEY_SCHEME,
    description="An API key, `name:secret`. The name identifies you in events, receipts and logs.",
    auto_error=False,
)
_BEARER_SCHEME = _DescribedBearer(
    scheme_name="Bearer",
    description="The same key as a bearer token, for clients that can't send other headers.",
    auto_error=False,
)


def key_in(headers: Headers) -> str | None:
    """A request's key; None without one. Raises Problem."""
    keys, bearers = [], []
    for name, value in headers.raw:
        if name == b"x-api-key":
            keys.append(value)
        elif name == b"authorization" and value[: len(BEARER)].lower() == BEARER.encode():
            bearers.append(value[len(BEARER) :].strip())
    twice = len(keys) > 1
    keys += bearers
    if not keys:
        return None
    # A proxy before us could read another one of two keys.
    if twice or len(keys[0]) > MAX_KEY_BYTES or any(key != keys[0] for key in bearers):
        raise unknown_key()
    try:
        return keys[0].decode()
    except UnicodeDecodeError:
        raise unknown_key() from None


def grants_alone(key: str, keyring: Keyring) -> Sequence[Grant]:
    """A key's grants that need no signature. Raises Problem if there are none."""
    grants = keyring.grants(key)
    if not grants:
        raise unknown_key()
    free = [grant for grant in grants if not grant.hmac_secret and not grant.locked]
    if not free:
        raise Problem(Code.UNAUTHORIZED_KEY, "requests with this key must be signed; see the protocol page")
    return free


def principal_of(grants: Sequence[Grant], *roles: Role) -> Principal:
    """The principal of these grants, in one of `roles`. Raises Problem (FORBIDDEN)."""
    return grant_for(grants, *roles).principal


def grant_for(grants: Sequence[Grant], *roles: Role) -> Grant:
    """The first of these grants in one of `roles`. Raises Problem (FORBIDDEN)."""
    for grant in grants:
        if not roles or grant.principal.role in roles:
            return grant
    raise Problem(Code.FORBIDDEN, f"a {grants[0].principal.role.value} key can't do this")


def grants_of(connection: HTTPConnection) -> Sequence[Grant]:
    """The grants of this connection's key, which `middleware.authentication` found. Raises Problem."""
    identity: Sequence[Grant] | Problem = connection.scope["state"]["identity"]
    if isinstance(identity, Problem):
        raise identity.copy()
    return identity


def allow(*roles: Role) -> Callable[..., Awaitable[Principal]]:
    """A dependency: the request's principal, which must have one of these roles.

    The same roles give the same dependency, so that a request is checked once.
    """
    return _allow(frozenset(roles))


@cache
def _allow(roles: frozenset[Role]) -> Callable[..., Awaitable[Principal]]:
    async def principal(
        connection: HTTPConnection,
        _: Annotated[None, Security(_SCHEME)],
        __: Annotated[None, Security(_BEARER_SCHEME)],
    ) -> Principal:
        return principal_of(grants_of(connection), *roles)

    return principal


def missing_key() -> Problem:
    return Problem(Code.UNAUTHORIZED_KEY, f"send an API key, {HEADER}: name:secret")


def unknown_key() -> Problem:
    return Problem(Code.UNAUTHORIZED_KEY, "invalid API key; check its name and secret")


Anyone = Annotated[Principal, Depends(allow(Role.CLIENT, Role.MINER, *READS_ALL))]
Client = Annotated[Principal, Depends(allow(Role.CLIENT, Role.ADMIN))]
"""The roles that submit jobs."""
Uploader = Annotated[Principal, Depends(allow(Role.CLIENT, Role.MINER, Role.ADMIN))]
Reader = Annotated[Principal, Depends(allow(Role.CLIENT, *READS_ALL))]
"""Clients for their own data, the others for all data (`reading.may_read`)."""
ReaderOfAll = Annotated[Principal, Depends(allow(*READS_ALL))]
Miner = Annotated[Principal, Depends(allow(Role.MINER))]
MinerOrOperator = Annotated[Principal, Depends(allow(Role.MINER, Role.OPERATOR, Role.ADMIN))]
MinerOrReader = Annotated[Principal, Depends(allow(Role.MINER, *READS_ALL))]
"""Miners for themselves, the others for all miners."""
Admin = Annotated[Principal, Depends(allow(Role.ADMIN))]
