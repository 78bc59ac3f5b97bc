"""Polls: what is taken is claimed, or goes back; nothing is lost, whenever the miner leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from fastapi import FastAPI

from coordinator.application.ports import Intent, LogUnavailable
from coordinator.domain.errors import Code
from coordinator.domain.job import JobRelease, JobStart
from coordinator.domain.miner import Draining, Offline, Online, miner_stream
from coordinator.wire.answers import Accepted, Answer, Refused
from tests.harness.cases import every
from tests.unit.edge_fakes import (
    JOB,
    RIG,
    SESSION,
    Conversation,
    FakeGateway,
    FakeQueues,
    an_app,
    an_offer,
    browsing,
    registered,
)

CLAIMED = Accepted(12, {"job_id": str(JOB), "state": "RUNNING", "attempt": 1})

BODIES = [b"{}", b'{"results": [{}]}']
"""With results a poll claims first what is at hand, though these are refused."""


def in_turn(*answers: Answer) -> Callable[[Intent], Answer]:
    left = list(answers)
    return lambda _: left.pop(0)


def polling(gateway: FakeGateway, queues: FakeQueues) -> FastAPI:
    return an_app(gateway=gateway, queues=queues)


async def test_an_offer_is_claimed_and_answered() -> None:
    """A poll takes from the profile's queue, claims for the miner's session, and answers the offer."""
    gateway, queues = FakeGateway(), FakeQueues(an_offer())
    gateway.answer = in_turn(CLAIMED)
    async with browsing(polling(gateway, queues), RIG) as http:
        answer = await http.post("/v1/miners/poll", json={})
    assert answer.status_code == 200
    assert answer.json() == {**an_offer().model_dump(mode="json"), "position": 12}
    assert answer.headers["x-position"] == "12"
    assert [i.command for i in gateway.intents] == [
        JobStart(job_id=JOB, attempt=1, miner_id="rig", session_id=SESSION)
    ]
    assert queues.profiles == ["a-profile"]
    assert queues.settled == ["done"]


@pytest.mark.parametrize(
    "code", [Code.CONFLICT_STATE, Code.STALE_ATTEMPT, Code.JOB_NOT_FOUND, Code.NOT_CAPABLE]
)
async def test_a_stale_offer_is_dropped_and_the_next_one_taken(code: Code) -> None:
    """What someone else holds, or what is final, is taken off the queue, and the poll goes on."""
    gateway, queues = FakeGateway(), FakeQueues(an_offer(1), an_offer(2))
    gateway.answer = in_turn(Refused(code, "stale"), CLAIMED)
    async with browsing(polling(gateway, queues), RIG) as http:
        answer = await http.post("/v1/miners/poll", json={"max_wait_seconds": 0})
    assert answer.json()["attempt"] == 2
    assert queues.settled == ["done", "done"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.SESSION_NOT_LIVE, 409),
        (Code.MINER_DRAINING, 409),
        (Code.RATE_LIMITED, 429),
        (Code.UNAVAILABLE, 503),
        (Code.INTERNAL, 500),
    ],
)
async def test_an_offer_that_is_still_good_goes_back(code: Code, status: int) -> None:
    """Where the session or we are the reason, the offer is for another miner, and the reason is told.

    A poll with results has their answers alone.
    """
    gateway, queues = FakeGateway(), FakeQueues(an_offer(1), an_offer(2))
    gateway.answer = lambda _: Refused(code, "not now")
    async with browsing(polling(gateway, queues), RIG) as http:
        answer = await http.post("/v1/miners/poll", json={})
        with_results = await http.post("/v1/miners/poll", json={"results": [{}]})
    assert (answer.status_code, answer.json()["code"]) == (status, code.value)
    assert (with_results.status_code, with_results.json()["offers"]) == (200, [])
    assert queues.settled == ["back", "back"]


async def test_a_private_claim_in_doubt_is_repeated_and_otherwise_released() -> None:
    """The claim may be in the log and its payload out of reach: a repeat finds out, else it is released."""
    private = an_offer().model_copy(update={"private": True})
    doubt = Refused(Code.UNAVAILABLE, "the payload is out of reach")
    cases: list[tuple[list[Accepted | Refused], str, int]] = [
        ([doubt, CLAIMED], "done", 200),
        ([doubt, doubt, CLAIMED], "back", 503),
    ]
    for answers, settled, status in cases:
        gateway, queues = FakeGateway(), FakeQueues(private)
        gateway.answer = in_turn(*answers)
        async with browsing(polling(gateway, queues), RIG) as http:
            answer = await http.post("/v1/miners/poll", json={"max_wait_seconds": 0})
        assert (status, [settled]) == (answer.status_code, queues.settled)
        sent = [type(intent.command).__name__ for intent in gateway.intents]
        assert ["JobStart", "JobStart", "JobRelease"][: len(answers)] == sent


@pytest.mark.parametrize("wait", [0, 0.02])
async def test_no_work_is_no_content(wait: float) -> None:
    """Where nothing comes in time the answer is 204, without a body."""
    async with browsing(polling(FakeGateway(), FakeQueues()), RIG) as http:
        answer = await http.post("/v1/miners/poll", json={"max_wait_seconds": wait})
    assert (answer.status_code, answer.content) == (204, b"")


async def test_one_poll_does_not_work_through_a_whole_backlog() -> None:
    """After 100 stale offers a poll answers 204: others get their turn."""
    gateway, queues = FakeGateway(), FakeQueues(*[an_offer()] * 150)
    gateway.answer = lambda _: Refused(Code.CONFLICT_STATE, "stale")
    async with browsing(polling(gateway, queues), RIG) as http:
        assert (await http.post("/v1/miners/poll", json={})).status_code == 204
    assert queues.settled == ["done"] * 100


async def test_a_miner_that_leaves_while_it_waits_claims_nothing() -> None:
    """A disconnect ends the wait at once, and nothing is sent in the miner's name."""
    gateway, queues = FakeGateway(), FakeQueues()
    talk = Conversation(polling(gateway, queues), "POST", "/v1/miners/poll", RIG)
    talk.say(b'{"max_wait_seconds": 60}')
    poll = talk.begin()
    await queues.waiting.wait()
    talk.hang_up()
    await asyncio.wait_for(poll, 30)
    assert gateway.intents == []
    assert queues.settled == []


async def test_a_poll_that_waits_is_told_that_its_miner_is_drained() -> None:
    """An event of its miner wakes it: it goes on, or is refused at once if its session is no longer good."""
    gateway, queues = FakeGateway(), FakeQueues()
    app = polling(gateway, queues)
    polls = app.state.context.parked_polls
    talk = Conversation(app, "POST", "/v1/miners/poll", RIG)
    talk.say(b'{"max_wait_seconds": 60}')
    poll = talk.begin()
    await queues.waiting.wait()
    queues.waiting.clear()
    polls.end_polls_of("another")
    polls.end_polls_of("rig")
    await asyncio.wait_for(queues.waiting.wait(), 30)  # this was no end
    gateway.states = {miner_stream("rig"): Draining(registered())}
    polls.end_polls_of("rig")
    await asyncio.wait_for(poll, 30)
    assert (409, "MINER_DRAINING") == (talk.status, json.loads(talk.body)["code"])
    assert queues.profiles == ["a-profile"] * 2


async def test_polls_that_wait_are_answered_as_the_server_stops() -> None:
    """With 204, however long they would wait; later ones are answered at once."""
    queues = FakeQueues()
    app = polling(FakeGateway(), queues)
    talk = Conversation(app, "POST", "/v1/miners/poll", RIG)
    talk.say(b'{"max_wait_seconds": 60}')
    poll = talk.begin()
    await queues.waiting.wait()
    app.state.context.parked_polls.stop()
    await asyncio.wait_for(poll, 30)
    async with browsing(app, RIG) as http:
        late = await http.post("/v1/miners/poll", json={"max_wait_seconds": 60})
    assert (204, 204) == (talk.status, late.status_code)


async def test_an_offer_that_comes_as_the_miner_leaves_goes_back() -> None:
    """An offer that is taken at the moment of the disconnect is not lost."""
    gateway, queues = FakeGateway(), FakeQueues()
    talk = Conversation(polling(gateway, queues), "POST", "/v1/miners/poll", RIG)
    talk.say(b"{}")
    poll = talk.begin()
    await queues.waiting.wait()
    talk.hang_up()
    queues.arrive()
    await asyncio.wait_for(poll, 30)
    assert gateway.intents == []
    assert queues.settled == ["back"]


@pytest.mark.parametrize("body", BODIES)
async def test_a_claim_for_a_miner_that_left_meanwhile_is_released(body: bytes) -> None:
    """A miner that is gone when its claim commits has the attempt handed back, not left to run out."""
    gateway, queues = FakeGateway(), FakeQueues(an_offer())
    gateway.answer = in_turn(CLAIMED, Accepted(13, {}))
    gateway.hold = asyncio.Event()
    talk = Conversation(polling(gateway, queues), "POST", "/v1/miners/poll", RIG)
    talk.say(body)
    poll = talk.begin()
    await gateway.asked.wait()
    talk.hang_up()
    gateway.hold.set()
    await asyncio.wait_for(poll, 30)
    assert [i.command for i in gateway.intents] == [
        JobStart(job_id=JOB, attempt=1, miner_id="rig", session_id=SESSION),
        JobRelease(job_id=JOB, attempt=1, miner_id="rig", session_id=SESSION),
    ]
    assert queues.settled == ["done"]


@pytest.mark.parametrize("body", BODIES)
async def test_a_poll_that_is_cancelled_gives_back_what_it_took(body: bytes) -> None:
    """A server that stops in the middle of a claim puts the offer back: another taker finds out."""
    gateway, queues = FakeGateway(), FakeQueues(an_offer())
    gateway.hold = asyncio.Event()
    talk = Conversation(polling(gateway, queues), "POST", "/v1/miners/poll", RIG)
    talk.say(body)
    poll = talk.begin()
    await gateway.asked.wait()
    poll.cancel()
    with pytest.raises(asyncio.CancelledError):
        await poll
    assert set(queues.settled) == {"back"}  # again is no more


async def test_an_offer_goes_back_where_the_log_can_not_be_asked_about_it() -> None:
    """An outage between taking an offer and claiming it does not keep the offer from other miners."""
    gateway, queues = FakeGateway(), FakeQueues(an_offer())
    gateway.unreadable = {JOB: LogUnavailable("the database can't be reached")}
    async with browsing(polling(gateway, queues), RIG) as http:
        answer = await http.post("/v1/miners/poll", json={})
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert queues.settled == ["back"]


async def test_a_poll_that_is_cancelled_while_it_waits_gives_back_what_comes() -> None:
    """The same while it waits."""
    queues = FakeQueues()
    talk = Conversation(polling(FakeGateway(), queues), "POST", "/v1/miners/poll", RIG)
    talk.say(b"{}")
    poll = talk.begin()
    await queues.waiting.wait()
    queues.arrive()
    poll.cancel()
    with pytest.raises(asyncio.CancelledError):
        await poll
    assert queues.settled == ["back"]


@every(
    ("state", "body", "status", "code"),
    [
        (None, {}, 404, "MINER_NOT_FOUND"),
        (Offline(registered()), {}, 409, "SESSION_NOT_LIVE"),
        (Draining(registered()), {}, 409, "MINER_DRAINING"),
        (Online(registered()), {"session_id": "another-session"}, 409, "SESSION_NOT_LIVE"),
        (Draining(registered()), {"session_id": "another-session"}, 409, "SESSION_NOT_LIVE"),
        (Online(registered()), {"miner_id": "another"}, 403, "FORBIDDEN"),
        (Online(registered()), {"miner_id": "rig@another"}, 403, "FORBIDDEN"),
        (Online(registered()), {"miner_id": "node@rig"}, 404, "MINER_NOT_FOUND"),
        (Online(registered()), {"miner_id": "x\n@rig"}, 422, "INVALID_PAYLOAD"),
        (Online(registered()), {"miner_id": ["rig"]}, 422, "INVALID_PAYLOAD"),
        (Online(registered()), {"max_wait_seconds": 61}, 422, "INVALID_PAYLOAD"),
        (Online(registered()), {"max_wait_seconds": -1}, 422, "INVALID_PAYLOAD"),
        (Online(registered()), {"max_wait_seconds": "soon"}, 422, "INVALID_PAYLOAD"),
        (Online(registered()), {"wait": 1}, 422, "INVALID_PAYLOAD"),
    ],
)
async def test_who_may_not_poll_gets_no_offer(
    state: object, body: dict[str, object], status: int, code: str
) -> None:
    """Only a live session of the principal's own miner is given work; the others are told why not."""
    gateway, queues = FakeGateway(), FakeQueues(an_offer())
    gateway.states = {miner_stream("rig"): state}
    async with browsing(polling(gateway, queues), RIG) as http:
        answer = await http.post("/v1/miners/poll", content=json.dumps(body))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert queues.profiles == []
