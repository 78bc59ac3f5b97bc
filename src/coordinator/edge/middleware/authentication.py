"""Authentication before any endpoint: the request's key, its signature, and its rate limit.

The result is left in the connection's state, where endpoints check it (`credentials.allow`): a public
endpoint answers whatever the key. Steps of one request:

1. Read the key. Failures are counted by address and name. Beyond their budget no key of that name is
   checked from that address.
2. Look up the key's grants, and check the request's signature if the key needs one.
3. Count the request. Beyond the budget of its role and name it ends here, with 429.
4. Pass it on; every answer says how much of the budget is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.application.keys.keyring import Grant
from coordinator.domain.errors import Code
from coordinator.edge.context import EdgeContext, Spent
from coordinator.edge.http.credentials import key_in, missing_key, unknown_key
from coordinator.edge.http.problems import Problem
from coordinator.edge.middleware.rate_limits import rate_headers, too_many
from coordinator.edge.middleware.signatures import check_signature

_STARTS: Final = ("http.response.start", "websocket.http.response.start")
_CAN_REFUSE: Final = "websocket.http.response"
_POLICY_VIOLATION: Final = 1008

Identity = Sequence[Grant] | Problem


class Authentication:
    """ASGI middleware, innermost. Plain ASGI, so that disconnects reach the endpoints behind it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        context: EdgeContext = scope["app"].state.context
        request = _Request(scope, context, send)
        identity, receive = await request.identify(receive)
        scope.setdefault("state", {})["identity"] = identity
        refusal = await request.spend(identity)
        if refusal is None:
            await self._app(scope, receive, request.send)
        else:
            await _refuse(refusal, scope, receive, request.send)


class _Request:
    """One request, and the budget that it uses."""

    def __init__(self, scope: Scope, context: EdgeContext, send: Send) -> None:
        self._scope = scope
        self._context = context
        self._send = send
        self._claimed = ""
        """The name in the key, not proved."""
        self._spent: Spent | None = None

    async def identify(self, receive: Receive) -> tuple[Identity, Receive]:
        """The grants of the request's key, or why there are none; and where to read the body from."""
        headers = Headers(scope=self._scope)
        try:
            key = key_in(headers)
            if key is None:
                return await self._too_often() or missing_key(), receive
            self._claimed = key.partition(":")[0]
            if (refusal := await self._too_often()) is not None:
                return refusal, receive
            grants = self._context.keyring.grants(key)
            if not grants:
                return unknown_key(), receive
            return await check_signature(self._scope, receive, self._context, grants)
        except Problem as problem:
            return problem, receive

    async def spend(self, identity: Identity) -> Problem | None:
        """Count the request; the refusal if it is over the limit."""
        rates = self._context.rates
        if rates is None or isinstance(identity, Problem):
            return None
        principal = identity[0].principal
        self._spent = await rates.spend(principal.role.value, principal.name)
        if self._spent is None or self._spent.allowed:
            return None
        self._scope["state"]["principal"] = principal.name  # for the access log
        return too_many(self._spent, "this key has made too many requests; wait as long as Retry-After says")

    async def send(self, message: Message) -> None:
        if message["type"] in _STARTS:
            if message["status"] == 401:
                self._spent = await self._failed(count=True)
            if self._spent is not None:
                headers = MutableHeaders(scope=message)
                for name, value in rate_headers(self._spent).items():
                    headers[name] = value
        await self._send(message)

    async def _too_often(self) -> Problem | None:
        spent = await self._failed(count=False)
        if spent is None or spent.count < spent.limit:
            return None
        self._spent = spent
        return too_many(spent, "too many requests without a valid key came from this address")

    async def _failed(self, *, count: bool) -> Spent | None:
        rates = self._context.rates
        if rates is None:
            return None
        client = self._scope.get("client")
        return await rates.failures(client[0] if client else "", self._claimed, count=count)


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket" and _CAN_REFUSE not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": Code.RATE_LIMITED.value})
        return
    await problem.response()(scope, receive, send)
