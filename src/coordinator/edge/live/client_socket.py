"""`/ws/client`: a client's jobs, live: states, results, progress and text.

One task receives and one sends. The sender handles requests in order, so that a job's past is sent before its
present. While too many requests wait no more are received, and TCP slows the client down.
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
from coordinator.domain.messages import READS_ALL, Role
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
    """A client's request. Its `id` comes back in the answer."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True
    )


class Subscribe(ClientRequest):
    """Follow these jobs, or all own jobs.

    `from`: begin with the events after this position. Without it, jobs begin with their first event, and
    "all" begins now.
    """

    type: Literal["subscribe"]
    jobs: Jobs
    after: Annotated[Position | None, Field(alias="from")] = None
    progress: bool = True
    """Whether to send progress and tokens, too."""


class Unsubscribe(ClientRequest):
    """No longer follow these jobs."""

    type: Literal["unsubscribe"]
    jobs: Jobs


class Ping(ClientRequest):
    """Asks for a `pong`."""

    type: Literal["ping"]


AnyRequest = Annotated[Subscribe | Unsubscribe | Ping, Field(discriminator="type")]


class AnyClientRequest(RootModel[AnyRequest]):
    """Any request on `/ws/client`."""


_Waiting = tuple[Subscribe | Unsubscribe | Ping | Refusal, str | None]


async def client_socket(websocket: WebSocket) -> None:
    """See docs/protocol.md."""
    context = await context_of(websocket)
    socket = Socket(websocket)
    try:
        grant = await socket.open(context, Role.CLIENT, *READS_ALL)
        first = _from_query(websocket)
        async with watching(context.live, grant.principal) as subscriptions:
            with context.live.revocations.watch(grant, subscriptions.woken.set) as revocation:
                await _ClientConversation(context, socket, subscriptions, revocation).run(first)
    except SocketClosed as closed:
        closed.__traceback__ = None  # its frames refer to the tasks that keep it: a cycle for each socket
        await socket.close(closed.code, closed.reason)
    finally:
        socket.release()


# Starlette's own: the stacks and dependencies of FastAPI's would cost every idle socket some KiB.
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
        # A list is smaller than a queue, and each idle socket has one.
        self._requests: list[_Waiting] = []
        self._may_receive: asyncio.Event | None = None
        """The receiver waits for it while too many requests wait."""

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
        # Any work sets `woken`, so that an idle socket costs only one more task.
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
                self._may_receive = asyncio.Event()
                await self._may_receive.wait()

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
                    if self._may_receive is not None:
                        self._may_receive.set()
                for message in await subscriptions.news():
                    await self._say(message)
            except LogError:
                raise SocketClosed(
                    CLOSE_UNAVAILABLE, "the log is out of reach; reconnect and resume"
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
    """The URL's subscription: `?from=N` to all jobs after N, `?job=ID` (repeatable) to these jobs."""
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
