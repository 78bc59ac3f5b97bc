"""Claiming offers for miners that do not consume a queue themselves: HTTP polls and WebSockets.

Every offer taken from a queue is settled: done if it is claimed or useless, back if another miner may take
it. No cancellation loses an offer in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

from coordinator.application.ports import Gateway, Intent, LogError, TakenOffer, Waiter, WorkQueues
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import STATE_NAMES, JobRelease, JobStart, Queued
from coordinator.domain.messages import Principal
from coordinator.domain.miner import Draining, Offline, Online, miner_stream
from coordinator.wire.answers import Accepted, Answer, Refused
from coordinator.wire.offers import Offer

STILL_GOOD: Final = frozenset(
    {
        Code.SESSION_NOT_LIVE,
        Code.MINER_DRAINING,
        Code.RATE_LIMITED,
        # The coordinator's own faults.
        Code.UNAVAILABLE,
        Code.INTERNAL,
    }
)
"""Refusals of a claim that don't concern the offer: another miner may take it."""


async def miner_state(gateway: Gateway, miner_id: str) -> Online | Draining | Offline:
    """The state of a miner, fresh from the log. Raises Refusal for an unknown miner."""
    state = await gateway.state(miner_stream(miner_id))
    if not isinstance(state, Online | Draining | Offline):
        raise Refusal(Code.MINER_NOT_FOUND, f"no miner {miner_id}; register first")
    return state


Known = Callable[[UUID], tuple[Any, int] | None]
"""A stream's state in this process's memory, and its position. It may be of a moment ago, so it may only
say yes: each claim is decided on its own, and what would be refused is looked up in the log first."""


async def claiming_session(
    gateway: Gateway, miner_id: str, session_id: str | None, known: Known = lambda _: None
) -> Online:
    """The miner's live session; it must have this id (None for any) and accept work. Raises Refusal."""
    remembered = known(miner_stream(miner_id))
    if remembered is not None:
        state = remembered[0]
        if isinstance(state, Online) and session_id in (None, state.session_id):
            return state
    state = await miner_state(gateway, miner_id)
    if session_id in (None, state.session_id):
        if isinstance(state, Online):
            return state
        if isinstance(state, Draining):
            raise Refusal(
                Code.MINER_DRAINING, "this miner is draining: it finishes its jobs and gets no new ones"
            )
    raise Refusal(Code.SESSION_NOT_LIVE, "this session is over; register again with a new session id")


async def take_offer(queues: WorkQueues, profile: str, waiter: Waiter) -> TakenOffer | None:
    """One offer; None once somebody ends the wait (`Waiter`). If we are cancelled, an offer goes back."""
    if not waiter.done():
        queues.wait(profile, waiter)
    try:
        return await waiter
    except asyncio.CancelledError:
        if waiter.done() and not waiter.cancelled():
            taken = waiter.result()
            if taken is not None:
                await taken.back()
        raise
    finally:
        queues.leave(profile, waiter)


async def take_within(queues: WorkQueues, profile: str, wait: float) -> TakenOffer | None:
    """One offer; None if none came within `wait` seconds."""
    loop = asyncio.get_running_loop()
    waiter: Waiter = loop.create_future()
    timer = loop.call_later(max(wait, queues.shortest_wait), end_wait, waiter)
    try:
        return await take_offer(queues, profile, waiter)
    finally:
        timer.cancel()


def end_wait(waiter: Waiter) -> None:
    """End a wait without an offer, unless it is over."""
    if not waiter.done():
        waiter.set_result(None)


async def is_queued(gateway: Gateway, taken: TakenOffer, known: Known = lambda _: None) -> bool:
    """Whether the offer may still be claimed. If that can't be found out, the offer goes back.

    False for a copy of an offer that this very session has claimed, though its claim would be accepted as a
    repeat.
    """
    remembered = known(taken.offer.job_id)
    state = None if remembered is None else remembered[0]
    if isinstance(state, Queued) and state.attempt == taken.offer.attempt:
        return True
    try:
        state = await gateway.state(taken.offer.job_id)
    except BaseException:  # the log is out of reach, or we are cancelled
        await taken.back()
        raise
    if isinstance(state, Queued):
        return state.attempt == taken.offer.attempt
    return type(state) not in STATE_NAMES  # no job: its claim is refused with the reason


async def settle(taken: TakenOffer, answer: Answer | None) -> None:
    """Settle an offer by the answer to its claim.

    Without an answer the outcome of the claim is unknown: the offer goes back, and the next taker finds out.
    """
    if answer is None or (isinstance(answer, Refused) and answer.code in STILL_GOOD):
        await taken.back()
    else:
        await taken.done()


async def claim(
    gateway: Gateway, principal: Principal, session: Online, taken: TakenOffer
) -> Accepted | None:
    """Claim an offer, in the trace of its job, and settle it; None if the offer is useless.

    Raises Refusal if the miner's next claim would be refused for the same reason.
    """
    command = JobStart(
        job_id=taken.offer.job_id,
        attempt=taken.offer.attempt,
        miner_id=session.registered.miner_id,
        session_id=session.session_id,
        token=taken.offer.token,
        traceparent=taken.offer.traceparent,
    )
    answer: Answer | None = None
    try:
        [answer] = await gateway.handle([Intent(command, principal)])
        if taken.offer.private and _in_doubt(answer):
            # It may be in the log, and only its payload out of reach: a repeat finds out.
            [answer] = await gateway.handle([Intent(command, principal)])
            if _in_doubt(answer):
                await release(gateway, principal, session, taken.offer)
    finally:
        await settle(taken, answer)
    if isinstance(answer, Accepted):
        return answer
    if answer.code in STILL_GOOD:
        raise Refusal(answer.code, answer.detail, retry_after=answer.retry_after)
    return None


async def claim_more(
    gateway: Gateway, principal: Principal, session: Online, taken: Sequence[TakenOffer]
) -> list[tuple[Offer, Accepted]]:
    """Claim further offers together with what the first one has shown; the useless ones are left out."""

    async def claimed(one: TakenOffer) -> Accepted | None:
        if not await is_queued(gateway, one):
            await one.done()
            return None
        return await claim(gateway, principal, session, one)

    # At the same time, so that the bus decides their claims in one batch.
    try:
        outcomes = await asyncio.gather(*(claimed(one) for one in taken), return_exceptions=True)
    except asyncio.CancelledError:
        for one in taken:
            await one.back()  # does nothing to a settled one
        raise
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, Refusal | LogError):
            raise outcome
    return [
        (one.offer, outcome)
        for one, outcome in zip(taken, outcomes, strict=True)
        if isinstance(outcome, Accepted)
    ]


def _in_doubt(answer: Answer) -> bool:
    return isinstance(answer, Refused) and answer.code in (Code.UNAVAILABLE, Code.INTERNAL)


async def release(gateway: Gateway, principal: Principal, session: Online, offer: Offer) -> None:
    """Release a claimed offer whose miner is gone, without waiting for the end of the lease."""
    command = JobRelease(
        job_id=offer.job_id,
        attempt=offer.attempt,
        miner_id=session.registered.miner_id,
        session_id=session.session_id,
        traceparent=offer.traceparent,
    )
    await gateway.handle([Intent(command, principal)])
