"""Authentication before any endpoint: the request's key, its signature, and its rate limit.

The result is left in the connection's state, where endpoints check it (`credentials.allow`): a public
endpoint answers whatever the key. Steps of one request:

1. Read the key. Failures are counted by address and name. Beyond their budget they are answered late, and
   with 429. A valid key is accepted all the same: nobody locks others at the same address out.
2. Look up the key's grants, and check the request's signature if the key needs one.
3. Count the request. Beyond the budget of its role and name it ends here, with 429; also beyond the number
   of requests that its name may have under way.
4. Pass it on; every answer says how much of the budget is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.application.keys.keyring import Grant
from coordinator.domain.errors import Code
from coordinator.edge.context import EdgeContext, Spent
from coordinator.edge.http.credentials import key_in, missing_key, unknown_key
from coordinator.edge.http.problems import Problem, problem_of
from coordinator.edge.http.response_headers import set_headers
from coordinator.edge.middleware.rate_limits import TOO_MANY_FAILURES, rate_headers, too_many
from coordinator.edge.middleware.signatures import check_signature

_STARTS: Final = ("http.response.start", "websocket.http.response.start")
_CAN_REFUSE: Final = "websocket.http.response"
_POLICY_VIOLATION: Final = 1008

SPENT: Final = "spent"
"""The name under which the state of a request has its `Spent`, if an edge process has counted it."""
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
        state = scope.setdefault("state", {})
        state["identity"] = identity
        if not isinstance(identity, Problem):
            state["principal"] = identity[
                0
            ].principal.name  # for the access log, also of a request that is refused
        refusal = await request.spend(identity)
        if refusal is not None:
            await _refuse(refusal, scope, receive, request.send)
        elif isinstance(identity, Problem):
            await self._app(scope, receive, request.send)
        else:
            principal, opened = identity[0].principal, context.open_connections
            if (busy := opened.begin_request(principal)) is not None:
                await _refuse(problem_of(busy), scope, receive, request.send)
                return
            try:
                await self._app(scope, receive, request.send)
            finally:
                opened.end_request(principal)


class _Request:
    """One request, and the budget that it uses."""

    def __init__(self, scope: Scope, context: EdgeContext, send: Send) -> None:
        self._scope = scope
        self._context = context
        self._send = send
        self._claimed = ""
        """The name in the key, not proved."""
        self._spent: Spent | None = None
        self._late = False
        """Whether an answer 429 is for failures, and so is sent late and ends the connection."""

    @property
    def _address(self) -> str:
        client = self._scope.get("client")
        return client[0] if client else ""

    async def identify(self, receive: Receive) -> tuple[Identity, Receive]:
        """The grants of the request's key, or why there are none; and where to read the body from."""
        headers = Headers(scope=self._scope)
        try:
            key = key_in(headers)
            if key is None:
                raise missing_key()
            self._claimed = key.partition(":")[0]
            grants = self._context.keyring.grants(key)
            if not grants:
                raise unknown_key()
            return await check_signature(self._scope, receive, self._context, grants)
        except Problem as problem:
            problem.__traceback__ = None  # it is kept with the request, to which its frames refer: a cycle
            return await self._throttled(problem), receive

    async def spend(self, identity: Identity) -> Problem | None:
        """Count the request; the refusal if it is over the limit."""
        rates = self._context.rates
        if rates is None or isinstance(identity, Problem):
            return None
        principal = identity[0].principal
        self._spent = self._scope["state"].get(SPENT)
        if self._spent is None:  # no edge process has counted it before it came here
            self._spent = await rates.spend(principal.role.value, principal.name)
        if self._spent is None or self._spent.allowed:
            return None
        return too_many(self._spent, "this key has made too many requests; wait as long as Retry-After says")

    async def send(self, message: Message) -> None:
        if message["type"] in _STARTS:
            if message["status"] == 401:
                self._spent = await self._failed(count=True)
            if self._spent is not None:
                set_headers(message, rate_headers(self._spent))
            if self._late and message["status"] == 429 and self._context.rates is not None:
                await self._context.rates.delay(self._address)
                set_headers(message, [(b"connection", b"close")])
        await self._send(message)

    async def _throttled(self, failure: Problem) -> Problem:
        """The failure itself, or 429 if there were too many of its kind."""
        spent = await self._failed(count=False) if failure.code is Code.UNAUTHORIZED_KEY else None
        if spent is None or spent.count < spent.limit:
            return failure
        self._spent, self._late = spent, True
        return too_many(spent, TOO_MANY_FAILURES)

    async def _failed(self, *, count: bool) -> Spent | None:
        rates = self._context.rates
        return None if rates is None else await rates.failures(self._address, self._claimed, count=count)


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket" and _CAN_REFUSE not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": Code.RATE_LIMITED.value})
        return
    await problem.response()(scope, receive, send)
