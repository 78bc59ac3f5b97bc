"""The requests that an edge process answers itself: it checks commands, and hands them to the core in arrays.

All others go to the core as whole exchanges, and so does one of these that turns out to need more (a key that
must sign, or is no longer valid; a report without its session).
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.edge.http.credentials import key_in
from coordinator.edge.http.disconnects import CLIENT
from coordinator.edge.http.problems import MISDIRECTED, Problem
from coordinator.edge.middleware.authentication import SPENT
from coordinator.edge.relay.asking import Asking
from coordinator.edge.relay.calling import CoreGone
from coordinator.edge.relay.ports import LearnedKeys

_COMMANDS: Final = re.compile(
    r"/v1/(jobs|jobs/batch|miners/results|miners/[^/]+/(start|result|fail|release))"
)


class LocalCommands:
    """Chooses between the application of this process and the core."""

    def __init__(self, app: ASGIApp, relay: ASGIApp, asking: Asking, keys: LearnedKeys) -> None:
        """`app` answers commands, over the ports of `edge.relay.ports`."""
        self._app = app
        self._relay = relay
        self._asking = asking
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_command(scope):
            await self._relay(scope, receive, send)
            return
        try:
            key = key_in(Headers(scope=scope))
            own = None if key is None else await self._keys.begin(key)
        except (Problem, CoreGone):
            own = None
        if own is None:
            await self._relay(scope, receive, send)
            return
        replay, answer = _Replay(receive), _Intercepted(send)
        client = scope.get("state", {}).get(CLIENT)
        state = {} if client is None else {CLIENT: client}
        await self._app({**scope, "state": state}, replay.receive, answer.send)
        if answer.misdirected:
            scope.setdefault("state", {})[SPENT] = own.spent
            await self._relay(scope, replay.again, send)

    def _is_command(self, scope: Scope) -> bool:
        return bool(
            scope["type"] == "http"
            and scope["method"] == "POST"
            and self._asking.connected
            and _COMMANDS.fullmatch(scope["path"])
            and not scope.get("root_path")
            and not any(name == b"prefer" for name, _ in scope["headers"])  # it may wait for the job's end
        )


class _Replay:
    """The request's body: as it comes, and once more."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._taken: deque[Message] = deque()

    async def receive(self) -> Message:
        message = await self._receive()
        self._taken.append(message)
        return message

    async def again(self) -> Message:
        return self._taken.popleft() if self._taken else await self._receive()


class _Intercepted:
    """The answer, unless the core must give it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.misdirected = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == MISDIRECTED:
            self.misdirected = True
        if not self.misdirected:
            await self._send(message)
