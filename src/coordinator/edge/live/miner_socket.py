"""`/ws/miner`: all of a miner's messages on one WebSocket, for networks that block AMQP.

The same commands as over AMQP and HTTP, through the same gateway, with the same refusals. Offers are pushed
to miners that sent `ready`; unclaimed offers go back to their queue when the socket closes. A session
outlives its socket: a miner that reconnects registers with the same session id and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from coordinator.application.background import Background
from coordinator.application.commands.parsing import check_sender, parse_command
from coordinator.application.dispatch.claims import is_queued, settle
from coordinator.application.live.events import EventReader
from coordinator.application.live.revocation import Revocation
from coordinator.application.ports import Intent, LogError, TakenOffer
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import (
    AttemptCommand,
    JobAttemptEnded,
    JobCanceled,
    JobEvent,
    JobExpired,
    JobStart,
    is_job_event,
)
from coordinator.domain.messages import Attempt, Command, Principal, Role
from coordinator.domain.miner import MinerDrain, MinerDrained, MinerLeave, MinerRegister
from coordinator.domain.registry import COMMANDS
from coordinator.edge.context import EdgeContext, context_of
from coordinator.edge.http.bodies import take_text
from coordinator.edge.http.commands import decide, miner_of, new_session_id, progress_report, session_of
from coordinator.edge.live.sockets import CLOSE_UNAVAILABLE, Socket, SocketClosed, check_over, spend
from coordinator.validation import describe_invalid
from coordinator.wire.answers import Accepted, Answer, Refused
from coordinator.wire.heartbeat import Heartbeat
from coordinator.wire.topology import HEARTBEAT_TYPE

COMMANDS_AT_A_TIME: Final = 32
"""Of one socket; then no further command is received until one is answered."""
WAITING_MESSAGES: Final = 64
MAX_READY: Final = 256

TAKE_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 1.0
_NOT_HELD: Final = frozenset(
    {Code.STALE_ATTEMPT, Code.CONFLICT_STATE, Code.JOB_NOT_FOUND, Code.INVALID_RESULT}
)
_LOG_UNAVAILABLE: Final = Refusal(Code.UNAVAILABLE, "the log is out of reach; send it again later")


class Ready(BaseModel):
    """The number of free slots: up to so many jobs may be assigned. It replaces the previous number."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    slots: Annotated[int, Field(ge=0, le=MAX_READY)]


class Decline(BaseModel):
    """An assigned job that the miner declines: it goes back to its queue."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    job_id: UUID
    attempt: Attempt


_HEARTBEAT: Final[TypeAdapter[Heartbeat]] = TypeAdapter(Heartbeat)
_Key = tuple[UUID, int]


async def miner_socket(websocket: WebSocket) -> None:
    """See docs/protocol.md."""
    context = await context_of(websocket)
    socket = Socket(websocket)
    try:
        grant = await socket.open(context, Role.MINER)
        over = asyncio.Event()
        with context.live.revocations.watch(grant, over.set) as revocation:
            await _MinerConversation(context, socket, grant.principal).run(revocation, over)
    except SocketClosed as closed:
        closed.__traceback__ = None  # its frames refer to the tasks that keep it: a cycle for each socket
        await socket.close(closed.code, closed.reason)
    finally:
        socket.release()


route = WebSocketRoute("/ws/miner", miner_socket)


class _MinerConversation:
    def __init__(self, context: EdgeContext, socket: Socket, principal: Principal) -> None:
        self._context = context
        self._socket = socket
        self._principal = principal
        self._out: asyncio.Queue[bytes] = asyncio.Queue(WAITING_MESSAGES)
        self._commands = Background("miner-socket")
        self._free = asyncio.Semaphore(COMMANDS_AT_A_TIME)
        self._woken = asyncio.Event()
        """Set when there may be events of this miner or of its jobs."""
        self._reader: EventReader = context.live.events.reader(self._woken.set)
        self._names: dict[str, str] = {}
        """The ids of the miner and the session that were registered on this socket."""
        self._profile = ""
        self._ready = 0
        self._may_take = asyncio.Event()
        self._assigned: dict[_Key, TakenOffer] = {}
        self._held: dict[UUID, int] = {}
        """Jobs that this miner runs, with their attempts."""

    async def run(self, revocation: Revocation, over: asyncio.Event) -> None:
        """Until either side closes. Raises SocketClosed."""
        await self._say(
            "welcome",
            name=self._principal.name,
            role=self._principal.role.value,
            position=self._context.live.events.position,
        )
        parts = (self._receive(), self._send(), self._assign(), self._hint(), over.wait())
        tasks = [asyncio.ensure_future(part) for part in parts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            check_over(revocation)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._commands.stop()
            self._reader.close()
            for taken in self._assigned.values():
                await taken.back()

    async def _send(self) -> None:
        while True:
            await self._socket.send((await self._out.get()).decode())

    async def _say(self, kind: str, **members: Any) -> None:
        await self._out.put(to_json({"type": kind, **members}))

    # --- receiving -----------------------------------------------------------------------------------------
    async def _receive(self) -> None:
        while True:
            message_id = None
            try:
                message, message_id = await self._socket.receive()
                await self._take_in(message.pop("type"), message, message_id)
            except Refusal as refusal:
                await self._answer(message_id, Refused(refusal.code, refusal.detail))
            except LogError:
                await self._answer(message_id, Refused(_LOG_UNAVAILABLE.code, _LOG_UNAVAILABLE.detail))

    async def _take_in(self, kind: str, fields: dict[str, Any], message_id: str | None) -> None:
        match kind:
            case "ping":
                await self._say("pong", id=message_id, position=self._context.live.events.position)
            case "ready":
                self._ready = _parse(Ready, fields).slots
                self._may_take.set()
            case "decline":
                declined = _parse(Decline, fields)
                await self._settle((declined.job_id, declined.attempt), None)
            case "job.progress":
                # Handled in order, without an answer.
                report = await progress_report(self._context, self._principal, fields)
                if await self._context.live.report(self._principal, report):
                    job_id = str(report.job_id)
                    await self._say("hint", hint="progress", job_id=job_id, attempt=report.attempt)
            case "miner.heartbeat":
                await self._begin(message_id, await self._heartbeat(fields))
            case _:
                await self._begin(message_id, await self._command(kind, fields))

    async def _begin(self, message_id: str | None, work: Callable[[], Awaitable[Answer]]) -> None:
        """Do the work beside further messages, so that many commands can be committed together."""
        await spend(self._context, self._principal)
        await self._free.acquire()

        async def answer() -> None:
            try:
                result = await work()
            except Refusal as refusal:
                result = Refused(refusal.code, refusal.detail)
            except LogError:
                result = Refused(_LOG_UNAVAILABLE.code, _LOG_UNAVAILABLE.detail)
            finally:
                self._free.release()
            await self._answer(message_id, result)

        self._commands.spawn(answer())

    async def _answer(self, message_id: str | None, answer: Answer) -> None:
        await self._say("answer", **({"id": message_id} if message_id else {}), **answer.to_wire())

    # --- commands ------------------------------------------------------------------------------------------
    async def _command(self, kind: str, fields: dict[str, Any]) -> Callable[[], Awaitable[Answer]]:
        known = COMMANDS.get(kind)
        if known is not None and self._principal.role not in known.senders:
            raise Refusal(Code.FORBIDDEN, f"a {self._principal.role.value} key can't send {kind}")
        command = parse_command(kind, fields if known is None else await self._named(kind, fields))
        check_sender(command, self._principal)

        async def work() -> Answer:
            answer: Answer | None = None
            try:
                answer = await decide(self._context, Intent(command, self._principal))
            finally:
                if isinstance(command, AttemptCommand):
                    await self._settle((command.job_id, command.attempt), answer)
            self._note(command, answer)
            return answer

        return work

    async def _named(self, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields; the miner and the session default to those of this socket."""
        miner_id = miner_of(self._principal, take_text(fields, "miner_id") or self._names.get("miner_id"))
        session_id = take_text(fields, "session_id")
        if kind == MinerDrain.topic and session_id is None:
            return {**fields, "miner_id": miner_id}
        if session_id is None and miner_id == self._names.get("miner_id"):
            session_id = self._names.get("session_id")
        if kind == MinerRegister.topic:
            session_id = session_id or new_session_id()
            return {**fields, "miner_id": miner_id, "session_id": session_id}
        return {
            **fields,
            "miner_id": miner_id,
            "session_id": await session_of(self._context, miner_id, session_id),
        }

    async def _heartbeat(self, fields: dict[str, Any]) -> Callable[[], Awaitable[Answer]]:
        beat = _validated(_HEARTBEAT, await self._named(HEARTBEAT_TYPE, fields))

        async def work() -> Answer:
            [answer] = await self._context.gateway.heartbeat(self._principal, [beat])
            if isinstance(answer, Accepted):
                gone = {item["job_id"] for item in answer.body.get("cancel", ())}
                for item in beat.inflight:
                    if str(item.job_id) not in gone:
                        self._hold(item.job_id, item.attempt)
                if answer.body.get("state") != "ONLINE":
                    self._stop_assigning()
            return answer

        return work

    def _note(self, command: Command, answer: Answer) -> None:
        """Note the effects of an answer on this socket."""
        if not isinstance(answer, Accepted):
            if isinstance(command, AttemptCommand) and answer.code in _NOT_HELD:
                self._drop(command.job_id)
            return
        match command:
            case MinerRegister():
                self._names = {"miner_id": command.miner_id, "session_id": command.session_id}
                self._profile = str(answer.body["profile"])
                self._reader.follow(("miner", command.miner_id))
                self._may_take.set()
            case MinerDrain() | MinerLeave():
                self._stop_assigning()
            case JobStart() if answer.body.get("state") == "RUNNING":
                self._hold(command.job_id, command.attempt)
            case AttemptCommand():
                self._drop(command.job_id)

    # --- offers --------------------------------------------------------------------------------------------
    async def _assign(self) -> None:
        """Take offers as long as the miner has free slots, one after the other."""
        while True:
            self._may_take.clear()
            profile = self._profile
            if not (profile and self._ready):
                await self._may_take.wait()
                continue
            taken = await self._context.queues.take(profile, TAKE_SECONDS)
            if taken is None:
                continue
            try:
                wanted = await is_queued(self._context.gateway, taken)
            except LogError:
                raise SocketClosed(
                    CLOSE_UNAVAILABLE, "the log is out of reach; reconnect and go on"
                ) from None
            key = (taken.offer.job_id, taken.offer.attempt)
            if not wanted or key in self._assigned:
                await taken.done()
                continue
            if not self._ready or self._profile != profile:  # changed meanwhile
                await taken.back()
                continue
            self._ready -= 1
            self._assigned[key] = taken
            asyncio.get_running_loop().call_later(
                self._context.settings.offer_timeout_seconds, self._unclaimed, key, taken
            )
            await self._say("job.assigned", **taken.offer.model_dump(mode="json", exclude_none=True))

    def _unclaimed(self, key: _Key, taken: TakenOffer) -> None:
        """An assigned job that is not claimed in time goes to another miner."""
        if self._assigned.get(key) is taken:
            self._commands.spawn(self._settle(key, None))

    async def _settle(self, key: _Key, answer: Answer | None) -> None:
        """Settle an assigned job by the answer to its claim; without one it goes to another miner."""
        taken = self._assigned.pop(key, None)
        if taken is not None:
            await settle(taken, answer)

    def _stop_assigning(self) -> None:
        """Assign no further jobs to this miner, until it registers again."""
        self._profile = ""

    # --- hints ---------------------------------------------------------------------------------------------
    def _hold(self, job_id: UUID, attempt: int) -> None:
        self._held[job_id] = attempt
        self._reader.follow(job_id)

    def _drop(self, job_id: UUID) -> None:
        if self._held.pop(job_id, None) is not None:
            self._reader.leave(job_id)

    async def _hint(self) -> None:
        """Send at once the hints of the next heartbeat's answer: cancel, drain."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                events = await self._reader.take()
            except LogError:
                # A reader that is behind is not woken again. Meanwhile answers to heartbeats have the hints.
                await asyncio.sleep(RETRY_SECONDS)
                self._woken.set()
                continue
            for recorded in events:
                event = recorded.event
                if isinstance(event, MinerDrained) and event.session_id == self._names.get("session_id"):
                    self._stop_assigning()
                    await self._say("hint", hint="drain", session_id=event.session_id)
                elif is_job_event(event):
                    await self._hint_about(event)

    async def _hint_about(self, event: JobEvent) -> None:
        attempt = self._held.get(event.job_id)
        if attempt is None:
            return
        over = isinstance(event, JobCanceled | JobExpired)
        lost = isinstance(event, JobAttemptEnded) and event.attempt == attempt and event.outcome == "lost"
        if over or lost:
            self._drop(event.job_id)
            await self._say("hint", hint="cancel", job_id=str(event.job_id), attempt=attempt)


def _parse(model: type[Any], fields: Mapping[str, Any]) -> Any:
    return _validated(TypeAdapter(model), fields)


def _validated(adapter: TypeAdapter[Any], fields: Mapping[str, Any]) -> Any:
    try:
        return adapter.validate_python(fields)
    except ValidationError as error:
        raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None
