"""Polling for work: a miner behind a firewall gets what the broker would push to it.

One poll: take an offer from the profile's queue, claim it on the miner's behalf, answer it. A miner that goes
away while it waits claims nothing, and what was taken for it goes back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from coordinator.application.ports import Intent, TakenOffer
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import STATE_NAMES, JobRelease, JobStart, Queued
from coordinator.domain.messages import MinerId, Principal, SessionId
from coordinator.domain.miner import Draining, Online
from coordinator.edge.context import Context, EdgeContext, monotonic
from coordinator.edge.http.bodies import command_body, read_object
from coordinator.edge.http.commands import decide, miner_of, miner_state, trace_of
from coordinator.edge.http.problems import describe_problems
from coordinator.edge.http.reading import reply
from coordinator.edge.middleware.credentials import Miner
from coordinator.edge.models.miners import PolledOffer
from coordinator.validation import describe_invalid
from coordinator.wire.answers import Accepted, Answer, Refused
from coordinator.wire.offers import Offer

router = APIRouter(prefix="/miners", tags=["miners"])

DEFAULT_WAIT_SECONDS: Final = 15
LONGEST_WAIT_SECONDS: Final = 60
MAX_STALE_OFFERS: Final = 100
"""Taken in vain by one poll; then it answers 204, so that no poll works through a whole backlog."""

_THE_SESSION: Final = frozenset({Code.SESSION_NOT_LIVE, Code.MINER_DRAINING})
_UNKNOWN: Final = frozenset({Code.UNAVAILABLE, Code.INTERNAL})
"""Refused for a reason that lies with us: the offer is still good."""
STILL_GOOD: Final = _THE_SESSION | _UNKNOWN
"""A claim that is refused so says nothing of the offer: another miner may take it."""


class Poll(BaseModel):
    """How long to wait for work, and for whom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_wait_seconds: Annotated[float, Field(strict=True, ge=0, le=LONGEST_WAIT_SECONDS)] = (
        DEFAULT_WAIT_SECONDS
    )
    miner_id: MinerId | None = None
    session_id: SessionId | None = None


@router.post(
    "/poll",
    response_model=PolledOffer,
    summary="Wait for work",
    description="Answers as soon as there is a job, which is then claimed for the miner; 204 where none "
    "came. `payload_blob` stands for a payload that is too large: fetch it from the job's blobs.",
    responses={
        204: {"description": "No work came in time; poll again."},
        **describe_problems(
            Code.INVALID_PAYLOAD,
            Code.UNAUTHORIZED_KEY,
            Code.FORBIDDEN,
            Code.MINER_NOT_FOUND,
            Code.SESSION_NOT_LIVE,
            Code.MINER_DRAINING,
            Code.TOO_LARGE,
            Code.UNAVAILABLE,
            Code.INTERNAL,
        ),
    },
    openapi_extra=command_body(Poll, example={"max_wait_seconds": 15}),
)
async def poll(request: Request, context: Context, principal: Miner) -> Response:
    # 1. Who polls, and whether it may get work at all.
    asked = _parse(await read_object(request, context.limits))
    miner_id = miner_of(principal, asked.miner_id)
    session = await _live_session(context, miner_id, asked.session_id)
    # 2. Take and claim, until a claim is accepted or the time is up.
    until = monotonic() + asked.max_wait_seconds
    async with _watching(request) as gone, _until_stop(context) as stopping:
        for _ in range(MAX_STALE_OFFERS):
            wait = max(0.0, until - monotonic())
            taken = await take_offer(context, session.registered.profile, wait, gone, stopping)
            if taken is None:
                break
            if not await is_queued(context, taken):
                await taken.done()
                continue
            claimed = await _claim(context, principal, session, taken, trace_of(request))
            if claimed is None:
                continue
            if gone.done():
                await _release(context, principal, session, taken.offer)
                break
            offer = PolledOffer.model_validate({**taken.offer.model_dump(), "position": claimed.position})
            return reply(offer, claimed.position)
    return Response(status_code=204)


def _parse(body: dict[str, Any]) -> Poll:
    try:
        return Poll.model_validate(body)
    except ValidationError as error:
        raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None


async def _live_session(context: EdgeContext, miner_id: str, named: str | None) -> Online:
    state = await miner_state(context, miner_id)
    if named not in (None, state.session_id):
        raise Refusal(Code.SESSION_NOT_LIVE, "this session is over; register again with a new session id")
    if isinstance(state, Online):
        return state
    if isinstance(state, Draining):
        raise Refusal(
            Code.MINER_DRAINING, "this miner drains: it finishes what it holds and gets nothing new"
        )
    raise Refusal(Code.SESSION_NOT_LIVE, "this session is over; register again with a new session id")


@contextlib.asynccontextmanager
async def _watching(request: Request) -> AsyncIterator[asyncio.Future[None]]:
    """A future that is done once the client is gone. The body must have been read."""

    async def listen() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    listening = asyncio.ensure_future(listen())
    try:
        yield listening
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


@contextlib.asynccontextmanager
async def _until_stop(context: EdgeContext) -> AsyncIterator[asyncio.Future[Any]]:
    """A future that is done once the server begins to stop."""
    stopping = asyncio.ensure_future(context.stopping.wait())
    try:
        yield stopping
    finally:
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)


async def take_offer(
    context: EdgeContext, profile: str, wait: float, *ends: asyncio.Future[Any]
) -> TakenOffer | None:
    """One offer; None where none came in time or one of `ends` is done. Never loses one in between."""
    taking = asyncio.ensure_future(context.queues.take(profile, wait))
    watched: set[asyncio.Future[Any]] = {taking, *ends}
    try:
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        await _give_back(taking)
        raise
    if any(end.done() for end in ends):
        await _give_back(taking)
        return None
    return taking.result()


async def _give_back(taking: asyncio.Future[TakenOffer | None]) -> None:
    """Stop taking; what was taken at the last moment goes back."""
    taking.cancel()
    [outcome] = await asyncio.gather(taking, return_exceptions=True)
    if outcome is not None and not isinstance(outcome, BaseException):
        await outcome.back()


async def is_queued(context: EdgeContext, taken: TakenOffer) -> bool:
    """Whether the offer is still for the taking. A copy of one that this very session has claimed is not,
    though its claim would be accepted, as a repeat. Where that can't be found out, the offer goes back."""
    try:
        state = await context.gateway.state(taken.offer.job_id)
    except BaseException:  # the log is out of reach, or we are cancelled
        await taken.back()
        raise
    if isinstance(state, Queued):
        return state.attempt == taken.offer.attempt
    return type(state) not in STATE_NAMES  # then the claim finds out what is wrong


async def _claim(
    context: EdgeContext, principal: Principal, session: Online, taken: TakenOffer, trace: str | None
) -> Accepted | None:
    """Claim an offer and settle it; None where it was of no use. Raises Refusal where the next is neither."""
    command = JobStart(
        job_id=taken.offer.job_id,
        attempt=taken.offer.attempt,
        miner_id=session.registered.miner_id,
        session_id=session.session_id,
    )
    answer: Answer | None = None
    try:
        answer = await decide(context, Intent(command, principal, traceparent=trace))
    finally:
        # Also where we are cancelled: whether it was claimed is unknown then, and another taker finds out.
        if answer is None or (isinstance(answer, Refused) and answer.code in STILL_GOOD):
            await taken.back()
        else:
            await taken.done()
    if isinstance(answer, Accepted):
        return answer
    if answer.code in STILL_GOOD:
        raise Refusal(answer.code, answer.detail)
    return None


async def _release(context: EdgeContext, principal: Principal, session: Online, offer: Offer) -> None:
    """Hand back what was claimed for a client that is gone by now, without waiting for its lease to end."""
    command = JobRelease(
        job_id=offer.job_id,
        attempt=offer.attempt,
        miner_id=session.registered.miner_id,
        session_id=session.session_id,
    )
    await decide(context, Intent(command, principal))
