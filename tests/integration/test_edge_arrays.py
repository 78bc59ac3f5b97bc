"""Arrays over HTTP: many jobs, offers and results in one request; and polls that wait as heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest

from coordinator.edge.context import EdgeLimits
from coordinator.edge.state.parked_polls import ParkedSession
from tests.harness.waiting import eventually
from tests.integration.edge_bench import SERVICE, Bench, an_edge

JOBS = 4


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Bench]:
    async with an_edge(tmp_path) as bench:
        yield bench


def jobs_of(count: int) -> list[dict[str, Any]]:
    return [
        {"service": SERVICE, "payload": {"text": str(n)}, "idempotency_key": f"key-{n}"} for n in range(count)
    ]


async def test_jobs_of_an_array_are_accepted_or_refused_alone(edge: Bench) -> None:
    """Answers are in the order of the jobs; a wrong one spoils no other, and a repeat gives the same jobs."""
    jobs = jobs_of(2)
    wrong: list[Any] = [{"service": "nothing_like_it", "payload": {}}, {"payload": {}}, 5]
    body = {"jobs": [jobs[0], *wrong, jobs[1]]}
    answer = await edge.alice.post("/v1/jobs/batch", json=body)
    assert answer.status_code == 200, answer.text
    said = answer.json()["answers"]
    assert [a["status"] for a in said] == ["accepted", "refused", "refused", "refused", "accepted"]
    assert [a["code"] for a in said[1:4]] == ["SERVICE_NOT_FOUND", "INVALID_PAYLOAD", "INVALID_PAYLOAD"]
    assert answer.json()["position"] == max(said[0]["position"], said[4]["position"])
    again = (await edge.alice.post("/v1/jobs/batch", json=body)).json()["answers"]
    assert [again[0]["job_id"], again[4]["job_id"]] == [said[0]["job_id"], said[4]["job_id"]]
    shown = await edge.alice.get(f"/v1/jobs/{said[4]['job_id']}")
    assert (shown.status_code, shown.json()["state"]) == (200, "QUEUED")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "INVALID_PAYLOAD"),
        ({"jobs": []}, 422, "INVALID_PAYLOAD"),
        ({"jobs": {"service": SERVICE}}, 422, "INVALID_PAYLOAD"),
        ({"jobs": [{}], "more": 1}, 422, "INVALID_PAYLOAD"),
        ({"jobs": [{}] * 501}, 413, "TOO_LARGE"),
    ],
)
async def test_what_is_no_array_of_jobs_is_refused(
    edge: Bench, body: dict[str, Any], status: int, code: str
) -> None:
    """A wrong body is refused as a whole, with a code."""
    answer = await edge.alice.post("/v1/jobs/batch", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_poll_takes_many_offers_and_results_go_back_together(edge: Bench) -> None:
    """A newcomer's offers come in one answer; all results in one request, each answered with its promise."""
    session = await edge.register(concurrency=JOBS)
    submitted = (await edge.alice.post("/v1/jobs/batch", json={"jobs": jobs_of(JOBS)})).json()["answers"]
    offers: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        while len(results) < JOBS:
            polled = await edge.rig.post("/v1/miners/poll", json={"max_wait_seconds": 30, "max_offers": JOBS})
            assert polled.status_code == 200, polled.text
            taken = polled.json()["offers"]
            assert polled.json()["position"] == max(offer["position"] for offer in taken)
            offers += taken
            signed = [
                {
                    "job_id": offer["job_id"],
                    **edge.signed_result(offer, {"n": 1}, "rig", session["session_id"]),
                }
                for offer in taken
            ]
            answer = await edge.rig.post("/v1/miners/results", json={"results": signed})
            assert answer.status_code == 200, answer.text
            results += answer.json()["answers"]
    assert sorted(o["job_id"] for o in offers) == sorted(a["job_id"] for a in submitted)
    assert [r["status"] for r in results] == ["accepted"] * JOBS
    assert [r["promise"]["job_id"] for r in results] == [offer["job_id"] for offer in offers]
    shown = await edge.alice.get(f"/v1/jobs/{offers[0]['job_id']}/result")
    assert (shown.status_code, shown.json()["result"]) == (200, {"n": 1})


async def test_a_wrong_result_of_an_array_spoils_no_other(edge: Bench) -> None:
    """A result without a valid statement is refused in its place; another miner's is not touched."""
    session = await edge.register()
    job = (await edge.submit(edge.alice))["job_id"]
    offer = await edge.poll()
    good = {"job_id": job, **edge.signed_result(offer, {"n": 2}, "rig", session["session_id"])}
    forged = {**good, "result": {"n": 3}}
    answer = await edge.rig.post("/v1/miners/results", json={"results": [forged, {"job_id": job}, good]})
    said = answer.json()["answers"]
    assert [a.get("code") for a in said] == ["INVALID_STATEMENT", "INVALID_PAYLOAD", None]
    await edge.register("other-rig")
    other = await edge.other_rig.post("/v1/miners/results", json={"results": [good]})
    assert (other.status_code, other.json()["answers"][0]["status"]) == (200, "refused")


@pytest.mark.parametrize("member", [{"more": 1}, {"job_id": "x"}, {"miner_id": ""}, {"session_id": 5}])
async def test_what_is_beside_an_array_of_results_is_checked(edge: Bench, member: dict[str, Any]) -> None:
    """A member that is unknown there, or invalid, refuses the request; it is no part of each result."""
    await edge.register()
    answer = await edge.rig.post("/v1/miners/results", json={"results": [{}], **member})
    assert (422, "INVALID_PAYLOAD") == (answer.status_code, answer.json()["code"])


async def test_a_poll_with_results_has_their_answers_and_the_next_job(edge: Bench) -> None:
    """It waits for the next job as any poll does; a repeat has the same answers."""
    session = await edge.register()
    await edge.submit(edge.alice)
    first = await edge.poll()
    body = {
        "max_wait_seconds": 60,
        "results": [
            {"job_id": first["job_id"], **edge.signed_result(first, {"n": 1}, "rig", session["session_id"])}
        ],
    }
    polling = asyncio.create_task(edge.rig.post("/v1/miners/poll", json=body, timeout=60))
    polls = edge.app.state.context.parked_polls
    await eventually(lambda: len(polls) == 1, "the result is in, and the poll waits")
    shown = await edge.alice.get(f"/v1/jobs/{first['job_id']}/result")
    assert (shown.status_code, shown.json()["result"]) == (200, {"n": 1})
    second = (await edge.submit(edge.alice))["job_id"]
    turn = (await polling).json()
    [answer], [offer] = turn["answers"], turn["offers"]
    assert (answer["status"], answer["promise"]["job_id"]) == ("accepted", first["job_id"])
    assert offer["job_id"] == second
    assert turn["position"] == offer["position"] > answer["position"]
    again = await edge.rig.post("/v1/miners/poll", json={**body, "max_wait_seconds": 0})
    assert (again.status_code, again.json()["offers"]) == (200, [])
    assert again.json()["answers"][0]["promise"] == answer["promise"]


async def test_a_poll_with_a_refused_result_does_not_wait(edge: Bench) -> None:
    """Its other results count, and jobs that are at hand come with it."""
    session = await edge.register()
    await edge.submit(edge.alice)
    offer = await edge.poll()
    good = {"job_id": offer["job_id"], **edge.signed_result(offer, {"n": 1}, "rig", session["session_id"])}
    async with asyncio.timeout(30):
        body = {"max_wait_seconds": 60, "results": [{**good, "result": {"n": 2}}, good]}
        turn = (await edge.rig.post("/v1/miners/poll", json=body, timeout=60)).json()
    assert [a.get("code") for a in turn["answers"]] == ["INVALID_STATEMENT", None]
    assert turn["offers"] == []


async def test_results_of_a_miner_that_gets_no_work_still_count(edge: Bench) -> None:
    """A draining miner hands in its last result with a poll; one without results is told that it drains."""
    session = await edge.register()
    await edge.submit(edge.alice)
    offer = await edge.poll()
    assert (await edge.rig.post("/v1/miners/drain", json={})).status_code == 200
    good = {"job_id": offer["job_id"], **edge.signed_result(offer, {"n": 1}, "rig", session["session_id"])}
    turn = await edge.rig.post("/v1/miners/poll", json={"max_wait_seconds": 60, "results": [good]})
    assert [a["status"] for a in turn.json()["answers"]] == ["accepted"]
    assert turn.json()["offers"] == []
    alone = await edge.rig.post("/v1/miners/poll", json={"max_wait_seconds": 60})
    assert (alone.status_code, alone.json()["code"]) == (409, "MINER_DRAINING")


@pytest.mark.parametrize(
    ("results", "status", "code"),
    [([], 422, "INVALID_PAYLOAD"), ({}, 422, "INVALID_PAYLOAD"), ([{}] * 501, 413, "TOO_LARGE")],
)
async def test_a_poll_with_what_is_no_array_of_results_is_refused(
    edge: Bench, results: Any, status: int, code: str
) -> None:
    """It takes no job either."""
    await edge.register()
    await edge.submit(edge.alice)
    answer = await edge.rig.post("/v1/miners/poll", json={"results": results})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await edge.poll())["attempt"] == 1


async def test_a_poll_that_waits_is_a_heartbeat(edge: Bench) -> None:
    """All polls that wait are noted together, again and again, and no longer once they are answered."""
    seen: list[set[ParkedSession]] = []
    twice = asyncio.Event()

    async def note(sessions: Collection[ParkedSession]) -> None:
        seen.append(set(sessions))
        if len(seen) == 2:
            twice.set()

    session = await edge.register()
    bench = edge.again(seen=note, limits=EdgeLimits(parked_seconds=0.01))
    polls = bench.app.state.context.parked_polls
    polling = asyncio.create_task(bench.poll())
    async with asyncio.timeout(60):
        await twice.wait()
        await bench.submit(bench.alice)
        await polling
    assert seen[0] == seen[1] == {ParkedSession("rig", session["session_id"])}
    assert len(polls) == 0


async def test_a_poll_that_need_not_wait_is_a_heartbeat_as_well(edge: Bench) -> None:
    """A busy miner's polls are answered at once, and their sessions are noted all the same, once."""
    seen: list[set[ParkedSession]] = []

    async def note(sessions: Collection[ParkedSession]) -> None:
        seen.append(set(sessions))

    session = await edge.register()
    bench = edge.again(seen=note, limits=EdgeLimits(parked_seconds=0.01))
    await bench.submit(bench.alice)
    offer = await bench.poll()
    result = {"job_id": offer["job_id"], **bench.signed_result(offer, {"n": 1}, "rig", session["session_id"])}
    await eventually(lambda: len(seen) == 1, "the poll was noted")
    turn = await bench.rig.post("/v1/miners/poll", json={"max_wait_seconds": 0, "results": [result]})
    assert turn.json()["answers"][0]["status"] == "accepted"
    await eventually(lambda: len(seen) == 2, "the poll with a result was noted")
    assert seen == 2 * [{ParkedSession("rig", session["session_id"])}]


async def test_polls_that_wait_are_answered_when_their_miner_changes(edge: Bench) -> None:
    """A new session ends the polls of the old one, and a drain those of the present one."""
    polls = edge.app.state.context.parked_polls
    body = {"max_wait_seconds": 60}
    old = await edge.register()
    early = asyncio.create_task(
        edge.rig.post("/v1/miners/poll", json={**body, "session_id": old["session_id"]}, timeout=60)
    )
    await eventually(lambda: len(polls) == 1, "the old session's poll waits")
    await edge.register()
    refused = await early
    late = asyncio.create_task(edge.rig.post("/v1/miners/poll", json=body, timeout=60))
    await eventually(lambda: len(polls) == 1, "the new session's poll waits")
    drained = await edge.rig.post("/v1/miners/drain", json={})
    assert drained.status_code == 200, drained.text
    codes = [(answer.status_code, answer.json()["code"]) for answer in (refused, await late)]
    assert codes == [(409, "SESSION_NOT_LIVE"), (409, "MINER_DRAINING")]


@pytest.mark.parametrize("with_results", [False, True])
async def test_a_poll_of_a_revoked_key_gets_no_job(edge: Bench, with_results: bool) -> None:
    """The job goes to a miner whose key is valid. The poll that waited is refused, unless it has answers."""
    made = (await edge.admin.post("/v1/admin/keys", json={"name": "late-rig", "role": "miner"})).json()
    late = {"X-Api-Key": made["key"]}
    body = {"capabilities": {"services": [SERVICE]}, "public_key": edge.keys["rig"].key_id}
    registered = await edge.anyone.post("/v1/miners/register", json=body, headers=late)
    assert registered.status_code == 200, registered.text
    poll: dict[str, Any] = {"max_wait_seconds": 30}
    if with_results:
        await edge.submit(edge.alice)
        offer = (await edge.anyone.post("/v1/miners/poll", json=poll, headers=late)).json()
        edge.keys["late-rig"] = edge.keys["rig"]
        done = edge.signed_result(offer, {"n": 1}, "late-rig", registered.json()["session_id"])
        poll["results"] = [{"job_id": offer["job_id"], **done}]
    polling = asyncio.create_task(edge.anyone.post("/v1/miners/poll", json=poll, headers=late))
    await eventually(lambda: bool(edge.app.state.context.parked_polls), "it waits")
    revoked = await edge.admin.post(f"/v1/admin/keys/{made['key_id']}/revoke", json={})
    assert revoked.status_code == 200, revoked.text
    job = await edge.submit(edge.alice)
    answer = await polling
    if with_results:
        assert (answer.status_code, answer.json()["offers"]) == (200, [])
        assert ["accepted"] == [said["status"] for said in answer.json()["answers"]]
    else:
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED_KEY")
    await edge.register()
    assert (await edge.poll())["job_id"] == job["job_id"]
