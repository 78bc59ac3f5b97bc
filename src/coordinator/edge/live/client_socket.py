"""`/ws/client`: a client's jobs, live: states, results, progress and text.

One task receives and one sends. What a client asks for is done by the sender, in order, so that the past of a
job is told before its present; while it is busy nothing more is received, and TCP holds the client up.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from coordinator.application.live.revocation import Revocation
from coordinator.application.ports import LogError
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Role
from coordinator.edge.context import EdgeContext, context_of
from coordinator.edge.live.messages import (
    LiveMessage,
    Pong,
    RefusedMessage,
    Subscribed,
    Unsubscribed,
    Welcome,
)
from coordinator.edge.live.sockets import CLOSE_UNAVAILABLE, Socket, SocketClosed, check_over, spend
from coordinator.edge.live.subscriptions import MAX_JOBS, Subscriptions, watching
from coordinator.validation import describe_invalid

WAITING_REQUESTS: Final = 16
Position = Annotated[int, Field(ge=0, lt=2**63)]
Jobs = Annotated[tuple[UUID, ...], Field(min_length=1, max_length=MAX_JOBS)] | Literal["all"]


class ClientRequest(BaseModel):
    """What a client may say. `id` comes back in the answer."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True
    )


class Subscribe(ClientRequest):
    """Tell me of these jobs, or of all of mine.

    `from`: begin with what happened after this position. Without it, jobs begin with all that happened to
    them, and "all" begins now.
    """

    type: Literal["subscribe"]
    jobs: Jobs
    after: Annotated[Position | None, Field(alias="from")] = None
    progress: bool = True
    """Whether to tell of progress and tokens, too."""


class Unsubscribe(ClientRequest):
    """Tell me no more of these."""

    type: Literal["unsubscribe"]
    jobs: Jobs


class Ping(ClientRequest):
    """Are you there?"""

    type: Literal["ping"]


AnyRequest = Annotated[Subscribe | Unsubscribe | Ping, Field(discriminator="type")]


class AnyClientRequest(RootModel[AnyRequest]):
    """All that may be said on `/ws/client`."""


_Waiting = tuple[Subscribe | Unsubscribe | Ping | Refusal, str | None]


async def client_socket(websocket: WebSocket) -> None:
    """See docs/protocol.md."""
    context = await context_of(websocket)
    socket = Socket(websocket)
    try:
        grant = await socket.open(context, Role.CLIENT, Role.ADMIN)
        first = _from_query(websocket)
        async with watching(context.live, grant.principal) as subscriptions:
            with context.live.revocations.watch(grant, subscriptions.woken.set) as revocation:
                await _ClientConversation(context, socket, subscriptions, revocation).run(first)
    except SocketClosed as closed:
        await socket.close(closed.code, closed.reason)


# Starlette's own: FastAPI's has stacks and dependencies, which cost every idle socket some KiB.
route = WebSocketRoute("/ws/client", client_socket)


class _ClientConversation:
    def __init__(
        self, context: EdgeContext, socket: Socket, subscriptions: Subscriptions, revocation: Revocation
    ) -> None:
        self._context = context
        self._socket = socket
        self._principal = revocation.grant.principal
        self._revocation = revocation
        self._subscriptions = subscriptions
        # A list rather than a queue: a thousand idle sockets have a thousand of them.
        self._requests: list[_Waiting] = []
        self._room: asyncio.Event | None = None
        """What the receiver waits for while too many requests wait."""

    async def run(self, first: _Waiting | None) -> None:
        """Until either side closes. Raises SocketClosed."""
        await self._say(
            Welcome(
                name=self._principal.name,
                role=self._principal.role.value,
                position=self._context.live.events.position,
            )
        )
        if first is not None:
            self._requests.append(first)
        # The watch is woken by whatever there is to do, so that an idle socket costs one task more.
        receiving = asyncio.create_task(self._receive())
        receiving.add_done_callback(lambda _: self._subscriptions.woken.set())
        self._subscriptions.woken.set()
        try:
            await self._send(receiving)
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _receive(self) -> None:
        while True:
            message_id = None
            request: Subscribe | Unsubscribe | Ping | Refusal
            try:
                message, message_id = await self._socket.receive()
                request = _parse(message)
            except Refusal as refusal:
                request = refusal
            self._requests.append((request, message_id))
            self._subscriptions.woken.set()
            if len(self._requests) >= WAITING_REQUESTS:
                self._room = asyncio.Event()
                await self._room.wait()

    async def _send(self, receiving: asyncio.Task[None]) -> None:
        subscriptions = self._subscriptions
        while True:
            await subscriptions.woken.wait()
            subscriptions.woken.clear()
            check_over(self._revocation)
            if receiving.done():
                receiving.result()
            try:
                while self._requests:
                    await self._answer(*self._requests.pop(0))
                    if self._room is not None:
                        self._room.set()
                for message in await subscriptions.news():
                    await self._say(message)
            except LogError:
                raise SocketClosed(
                    CLOSE_UNAVAILABLE, "the log is out of reach; come back and resume"
                ) from None

    async def _answer(
        self, request: Subscribe | Unsubscribe | Ping | Refusal, message_id: str | None
    ) -> None:
        try:
            await self._do(request, message_id)
        except Refusal as refusal:
            await self._say(RefusedMessage(id=message_id, code=refusal.code, detail=refusal.detail))

    async def _do(self, request: Subscribe | Unsubscribe | Ping | Refusal, message_id: str | None) -> None:
        subscriptions = self._subscriptions
        match request:
            case Refusal():
                raise request
            case Ping():
                await self._say(Pong(id=message_id, position=subscriptions.position))
            case Subscribe() | Unsubscribe():
                await spend(self._context, self._principal)
        match request:
            case Subscribe(jobs="all"):
                await subscriptions.follow_all(request.after, progress=request.progress)
                while subscriptions.catching_up:
                    check_over(self._revocation)
                    for message in await subscriptions.news():
                        await self._say(message)
                await self._say(Subscribed(id=message_id, jobs="all", position=subscriptions.position))
            case Subscribe(jobs=jobs):
                assert jobs != "all"
                past = subscriptions.follow_jobs(jobs, request.after or 0, progress=request.progress)
                async with contextlib.aclosing(past):
                    async for message in past:
                        answer = isinstance(message, Subscribed)
                        await self._say(message.model_copy(update={"id": message_id}) if answer else message)
            case Unsubscribe(jobs="all"):
                await subscriptions.leave_all()
                await self._say(Unsubscribed(id=message_id, jobs="all"))
            case Unsubscribe(jobs=jobs):
                assert jobs != "all"
                await subscriptions.leave_jobs(jobs)
                await self._say(Unsubscribed(id=message_id, jobs=jobs))

    async def _say(self, message: LiveMessage) -> None:
        await self._socket.send(message.to_json())


def _parse(message: dict[str, Any]) -> Subscribe | Unsubscribe | Ping:
    try:
        return AnyClientRequest.model_validate(message).root
    except ValidationError as error:
        raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None


def _from_query(websocket: WebSocket) -> _Waiting | None:
    """`?from=N` is a subscription to all from there on, `?job=ID` (again for more) one to these jobs."""
    query = websocket.query_params
    jobs, after = query.getlist("job"), query.get("from")
    if not jobs and after is None:
        return None
    asked: dict[str, Any] = {"type": "subscribe", "jobs": jobs or "all"}
    if after is not None:
        asked["from"] = after
    try:
        return _parse(asked), None
    except Refusal as refusal:
        return refusal, None
