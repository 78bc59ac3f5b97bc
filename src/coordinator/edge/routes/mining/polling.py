"""Polling for work: a miner behind a firewall gets the offers that the broker would push to it.

One poll: take an offer from the profile's queue, claim it on the miner's behalf, answer it. A miner that
disconnects while it waits claims nothing, and its offer goes back. A poll that waits is told at once when its
session ends or its miner is drained. A poll may hand in the results of earlier jobs: one request a job.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic.config import JsonDict
from starlette.requests import Request
from starlette.responses import Response

from coordinator.application.dispatch.claims import (
    claim,
    claim_more,
    claiming_session,
    is_queued,
    release,
)
from coordinator.application.keys.keyring import Grant
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import MinerId, Principal, Role, SessionId
from coordinator.domain.miner import Online
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.arrays import check_array
from coordinator.edge.http.bodies import read_object, request_body
from coordinator.edge.http.commands import miner_of
from coordinator.edge.http.credentials import Miner, grant_for, grants_of, unknown_key
from coordinator.edge.http.disconnects import RequestClient, client_of
from coordinator.edge.http.problems import Problem, refusals
from coordinator.edge.http.reads.reading import reply
from coordinator.edge.models.base import ArrayAnswer
from coordinator.edge.models.miners import PolledOffer, PolledOffers, PolledTurn
from coordinator.edge.routes.mining.results import decide_results
from coordinator.edge.state.parked_polls import ParkedSession
from coordinator.validation import describe_invalid
from coordinator.wire.answers import Accepted
from coordinator.wire.limits import MAX_ARRAY_LENGTH
from coordinator.wire.offers import Offer

router = APIRouter(prefix="/miners", tags=["miners"])

DEFAULT_WAIT_SECONDS: Final = 15
LONGEST_WAIT_SECONDS: Final = 60
MOST_OFFERS: Final = 64
"""In one answer."""
MAX_STALE_OFFERS: Final = 100
"""Taken by one poll; then it answers 204, so that no poll works through a whole backlog."""

_RESULTS_SCHEMA: Final[JsonDict] = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_ARRAY_LENGTH,
    "items": {"type": "object"},
}
"""The array is checked as that of `/v1/miners/results`."""


class Poll(BaseModel):
    """The time to wait for work, and the miner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_wait_seconds: Annotated[float, Field(strict=True, ge=0, le=LONGEST_WAIT_SECONDS)] = (
        DEFAULT_WAIT_SECONDS
    )
    max_offers: Annotated[int, Field(strict=True, ge=1, le=MOST_OFFERS)] | None = None
    """Answer with `offers`, an array of up to so many; null: with one offer alone."""
    results: Annotated[list[Any], WithJsonSchema(_RESULTS_SCHEMA)] | None = None
    """Hand these in first, as to `/v1/miners/results`, and answer with `answers` and `offers`."""
    miner_id: MinerId | None = None
    session_id: SessionId | None = None


@router.post(
    "/poll",
    response_model=PolledOffer | PolledOffers | PolledTurn,
    summary="Wait for work",
    description="Answers as soon as there is a job, which is then claimed for the miner; 204 if none came. "
    "`payload_blob` stands for a large payload: fetch it from the job's blobs. With `max_offers` the answer "
    "has `offers`, all that need no further wait. A poll is a heartbeat of its session. "
    "With `results`, as in `/v1/miners/results`, it hands these in first: the answer is 200 with `answers`, "
    "and with `offers`, which is empty if no job came in time, if a result was refused, or if this miner "
    "gets no work: a poll without results tells the reason. Repeat it until it is answered.",
    responses={
        204: {"description": "No work came in time; poll again."},
        **refusals(
            Code.FORBIDDEN,
            Code.MINER_NOT_FOUND,
            Code.SESSION_NOT_LIVE,
            Code.MINER_DRAINING,
            Code.TOO_LARGE,
        ),
    },
    openapi_extra=request_body(Poll, example={"max_wait_seconds": 15}),
)
async def poll(request: Request, context: Context, principal: Miner) -> Response:
    # 1. The results of earlier jobs, if the poll has some.
    asked = _parse(await read_object(request, context.limits))
    decided = await _decide(request, context, principal, asked)
    # 2. The next jobs.
    try:
        claimed = await _claim_next(request, context, principal, asked, decided)
    except (Refusal, Problem):
        if decided is None:
            raise
        claimed = []  # the miner's next poll is told why
    # 3. The answer.
    offers = [_polled(offer, accepted) for offer, accepted in claimed]
    position = max((offer.position for offer in offers), default=0)
    if decided is not None:
        position = max(position, decided.position)
        return reply(PolledTurn(answers=decided.answers, offers=offers, position=position), position)
    if not offers:
        return Response(status_code=204)
    if asked.max_offers is None:
        return reply(offers[0], position)
    return reply(PolledOffers(offers=offers, position=position), position)


async def _decide(
    request: Request, context: EdgeContext, principal: Principal, asked: Poll
) -> ArrayAnswer | None:
    """The answers to the poll's results; None if it has none. Raises Refusal."""
    if asked.results is None:
        return None
    own = {name: named for name in ("miner_id", "session_id") if (named := getattr(asked, name)) is not None}
    results = check_array(asked.results, "results")
    decided = await decide_results(request, context, principal, results, own)
    results.clear()  # a poll that waits need not hold them
    return decided


async def _claim_next(
    request: Request, context: EdgeContext, principal: Principal, asked: Poll, decided: ArrayAnswer | None
) -> list[tuple[Offer, Accepted]]:
    """Claim the next jobs, within the time that the poll may wait. Raises Refusal.

    With results: first those that are at hand, and without a wait if a result was refused.
    """
    miner_id = miner_of(principal, asked.miner_id)
    session = await claiming_session(context.gateway, miner_id, asked.session_id, context.known)
    most = asked.max_offers or 1
    seconds = asked.max_wait_seconds
    if decided is not None and any(answer["status"] != "accepted" for answer in decided.answers):
        seconds = 0
    context.parked_polls.note(ParkedSession(miner_id, session.session_id))
    claimed: list[tuple[Offer, Accepted]] = []
    async with client_of(request) as client:
        if decided is not None and context.keyring.holds(_grant(request)) and not client.gone:
            claimed = await _claim_at_hand(context, principal, session, most)
        if not claimed and (decided is None or seconds):
            claimed = await _claim_one(request, context, principal, session, seconds, client)
            if claimed and most > 1 and not client.gone:
                claimed += await _claim_at_hand(context, principal, session, most - 1)
        if client.gone:  # nobody reads the answer: others may have the jobs at once
            for offer, _ in claimed:
                await release(context.gateway, principal, session, offer)
            return []
    return claimed


async def _claim_one(
    request: Request,
    context: EdgeContext,
    principal: Principal,
    session: Online,
    seconds: float,
    client: RequestClient,
) -> list[tuple[Offer, Accepted]]:
    """Take and claim, until a claim is accepted or the time is up. Raises Refusal."""
    until = time.monotonic() + seconds
    miner_id, profile = session.registered.miner_id, session.registered.profile
    waiting = ParkedSession(miner_id, session.session_id)
    polls = context.parked_polls
    for _ in range(MAX_STALE_OFFERS):
        wait = max(0.0, until - time.monotonic())
        taken = await polls.take(context.queues, profile, waiting, wait, client.on_gone)
        if taken is None:
            if client.gone or polls.stopped or time.monotonic() >= until:
                break
            # Its miner was drained, lost or registered again; any other event of it is no end.
            await claiming_session(context.gateway, miner_id, session.session_id, context.known)
            continue
        if client.gone:
            await taken.back()
            break
        if not context.keyring.holds(_grant(request)):  # it was revoked meanwhile
            await taken.back()
            raise unknown_key()
        if not await is_queued(context.gateway, taken, context.known):
            await taken.done()
            continue
        accepted = await claim(context.gateway, principal, session, taken)
        if accepted is not None:
            return [(taken.offer, accepted)]
    return []


async def _claim_at_hand(
    context: EdgeContext, principal: Principal, session: Online, most: int
) -> list[tuple[Offer, Accepted]]:
    at_hand = context.queues.at_hand(session.registered.profile, most)
    return await claim_more(context.gateway, principal, session, at_hand) if at_hand else []


def _grant(request: Request) -> Grant:
    return grant_for(grants_of(request), Role.MINER)


def _polled(offer: Offer, claimed: Accepted) -> PolledOffer:
    return PolledOffer.model_validate({**_with_payload(offer, claimed), "position": claimed.position})


def _with_payload(offer: Offer, claimed: Accepted) -> dict[str, Any]:
    """The offer; a private one has the payload of its claim's answer."""
    members = {"payload", "payload_blob", "payload_salt"} & claimed.body.keys() if offer.private else ()
    return {**offer.model_dump(), **{name: claimed.body[name] for name in members}}


def _parse(body: dict[str, Any]) -> Poll:
    try:
        return Poll.model_validate(body)
    except ValidationError as error:
        raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None
