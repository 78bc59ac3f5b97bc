"""Polling for work: a miner behind a firewall gets the offers that the broker would push to it.

One poll: take an offer from the profile's queue, claim it on the miner's behalf, answer it. A miner that
disconnects while it waits claims nothing, and its offer goes back. A poll that waits is told at once when its
session ends or its miner is drained.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from coordinator.application.dispatch.claims import (
    claim,
    claim_more,
    claiming_session,
    is_queued,
    release,
)
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import MinerId, Role, SessionId
from coordinator.edge.context import Context
from coordinator.edge.http.bodies import read_object, request_body
from coordinator.edge.http.commands import miner_of
from coordinator.edge.http.credentials import Miner, grant_for, grants_of, unknown_key
from coordinator.edge.http.disconnects import client_of
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.reading import reply
from coordinator.edge.models.miners import PolledOffer, PolledOffers
from coordinator.edge.state.parked_polls import ParkedSession
from coordinator.validation import describe_invalid
from coordinator.wire.answers import Accepted
from coordinator.wire.offers import Offer

router = APIRouter(prefix="/miners", tags=["miners"])

DEFAULT_WAIT_SECONDS: Final = 15
LONGEST_WAIT_SECONDS: Final = 60
MOST_OFFERS: Final = 64
"""In one answer."""
MAX_STALE_OFFERS: Final = 100
"""Taken by one poll; then it answers 204, so that no poll works through a whole backlog."""


class Poll(BaseModel):
    """The time to wait for work, and the miner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_wait_seconds: Annotated[float, Field(strict=True, ge=0, le=LONGEST_WAIT_SECONDS)] = (
        DEFAULT_WAIT_SECONDS
    )
    max_offers: Annotated[int, Field(strict=True, ge=1, le=MOST_OFFERS)] | None = None
    """Answer with `offers`, an array of up to so many; null: with one offer alone."""
    miner_id: MinerId | None = None
    session_id: SessionId | None = None


@router.post(
    "/poll",
    response_model=PolledOffer | PolledOffers,
    summary="Wait for work",
    description="Answers as soon as there is a job, which is then claimed for the miner; 204 if none came. "
    "`payload_blob` stands for a large payload: fetch it from the job's blobs. With `max_offers` the answer "
    "has `offers`, all that need no further wait. A poll that waits is a heartbeat of its session.",
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
    # 1. The miner, and whether it may get work.
    asked = _parse(await read_object(request, context.limits))
    miner_id = miner_of(principal, asked.miner_id)
    session = await claiming_session(context.gateway, miner_id, asked.session_id, context.known)
    grant = grant_for(grants_of(request), Role.MINER)
    # 2. Take and claim, until a claim is accepted or the time is up.
    until = time.monotonic() + asked.max_wait_seconds
    waiting = ParkedSession(miner_id, session.session_id)
    polls, profile = context.parked_polls, session.registered.profile
    async with client_of(request) as client:
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
            if not context.keyring.holds(grant):  # it was revoked meanwhile
                await taken.back()
                raise unknown_key()
            if not await is_queued(context.gateway, taken, context.known):
                await taken.done()
                continue
            claimed = await claim(context.gateway, principal, session, taken)
            if claimed is None:
                continue
            all_claimed = [(taken.offer, claimed)]
            if asked.max_offers is not None and not client.gone:
                more = context.queues.at_hand(profile, asked.max_offers - 1)
                all_claimed += await claim_more(context.gateway, principal, session, more)
            if client.gone:
                for offer, _ in all_claimed:
                    await release(context.gateway, principal, session, offer)
                break
            offers = [_polled(offer, accepted) for offer, accepted in all_claimed]
            if asked.max_offers is None:
                return reply(offers[0], offers[0].position)
            position = max(offer.position for offer in offers)
            return reply(PolledOffers(offers=offers, position=position), position)
    return Response(status_code=204)


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
