"""Miners over HTTP: a session's life, its work, and whose it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from coordinator.domain.job import job_stream
from coordinator.edge.models.miners import MinerView, PolledOffer
from tests.harness.dispatching import TOKENS
from tests.harness.waiting import eventually
from tests.integration.edge_bench import SERVICE, Bench, an_edge

WRONG_REGISTERS: list[dict[str, Any]] = [
    {"capabilities": {"services": []}},
    {"capabilities": {"services": ["../etc"]}},
    {"capabilities": []},
    {"capabilities": None},
    {"concurrency": 0},
    {"concurrency": 10**6},
    {"public_key": "short"},
    {"public_key": "k" * 42 + "\n"},
    {"public_key": "A" * 43},  # of small order: one signature would fit many messages
    {"public_key": "x" * 43},  # in a spelling of its own
    {"session_id": "short"},
    {"session_id": "a/../../../b"},
    {"session_id": "session-1\u0000"},
    {"session_id": 12345678},
    {"miner_id": 5},
    {"miner_id": "a@b@rig"},
    {"miner_id": "\u202erig"},
    {"region": 1},
    {"region": "eu west"},
    {"region": "eu", "capabilities": {"services": [SERVICE], "region": "us"}},
    {"unknown": 1},
]

WRONG_HEARTBEATS: list[dict[str, Any]] = [
    {"inflight": 3},
    {"inflight": [{"job_id": "x", "attempt": 1}]},
    {"inflight": [{"job_id": str(uuid4()), "attempt": 0}]},
    {"inflight": [{"job_id": str(uuid4()), "attempt": 1}] * 1025},
    {"status": "x" * 41},
    {"gpus": [{"name": "NVIDIA L4"}]},
    {"gpus": [{"name": "NVIDIA L4", "free_mb": -1}]},
    {"gpus": [{"name": "NVIDIA L4", "free_mb": 1}] * 65},
    {"metadata": {str(n): n for n in range(33)}},
    {"metadata": []},
    {"unknown": True},
]

NO_MINERS: list[str] = ["%2e%2e", "a%00b", "x" * 200, "rig%0a", "ｒig", "a@b@c", "'--"]

WRONG_ATTEMPTS: list[dict[str, Any]] = [
    {},
    {"attempt": 0},
    {"attempt": "one"},
    {"attempt": 1, "x": 1},
    {"attempt": 2**70},
    {"attempt": None},
]


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Bench]:
    async with an_edge(tmp_path, heartbeat_interval_seconds=5, heartbeat_timeout_seconds=15) as bench:
        yield bench


async def test_a_registered_miner_is_told_what_it_needs(edge: Bench) -> None:
    """Its session, its profile and queues, and how often to give signs of life."""
    told = await edge.register(concurrency=2, region="eu-west")
    assert told["status"] == "accepted"
    assert told["miner_id"] == "rig"
    assert told["session_token"] == told["session_id"]
    assert told["queue"] == f"work.{told['profile']}"
    assert told["control_queue"] == "miner.rig"
    assert (told["heartbeat_interval_seconds"], told["heartbeat_timeout_seconds"]) == (5, 15)

    await edge.reached(told["position"])
    shown = (await edge.admin.get("/v1/miners/rig")).json()
    assert MinerView.model_validate(shown).state == "ONLINE"
    assert shown["capabilities"]["region"] == "eu-west"
    assert shown["concurrency"] == 2


async def test_a_repeat_with_the_same_session_is_the_first_answer(edge: Bench) -> None:
    """A register may be repeated; without a session id each one is a new session."""
    first = await edge.register(session_id="session-one")
    assert await edge.register(session_id="session-one") == first
    assert (await edge.register())["session_id"] != (await edge.register())["session_id"]
    body = {"capabilities": {"services": [SERVICE]}, "public_key": edge.keys["rig"].key_id}
    old = await edge.rig.post("/v1/miners/register", json={**body, "session_id": "session-one"})
    assert (old.status_code, old.json()["code"]) == (409, "SESSION_NOT_LIVE")


async def test_several_nodes_of_one_key_are_several_miners(edge: Bench) -> None:
    """`node@name` is the key's own; another's name is not."""
    told = await edge.register(miner_id="node-1@rig")
    assert told["miner_id"] == "node-1@rig"
    await edge.reached(told["position"])
    assert (await edge.rig.get("/v1/miners/node-1@rig")).status_code == 200
    body = {"capabilities": {"services": [SERVICE]}, "public_key": edge.keys["rig"].key_id}
    for miner_id in ("other-rig", "rig@other-rig", "xrig", "rig2"):
        answer = await edge.rig.post("/v1/miners/register", json={**body, "miner_id": miner_id})
        assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")


async def test_a_register_that_is_wrong_is_refused(edge: Bench) -> None:
    """Each field is checked, unknown ones are refused, and nothing is registered."""
    for change in WRONG_REGISTERS:
        body = {"capabilities": {"services": [SERVICE]}, "public_key": edge.keys["rig"].key_id, **change}
        answer = await edge.rig.post("/v1/miners/register", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_PAYLOAD")
        assert (await edge.admin.get("/v1/miners")).json()["items"] == []


async def test_a_heartbeat_is_answered_with_what_we_want(edge: Bench) -> None:
    """It defaults to the current session, tells the state, and which attempts to stop."""
    nobody = await edge.rig.post("/v1/miners/heartbeat", json={})
    assert (nobody.status_code, nobody.json()["code"]) == (404, "MINER_NOT_FOUND")
    await edge.register()
    stray = {"job_id": str(uuid4()), "attempt": 1}
    answer = await edge.rig.post("/v1/miners/heartbeat", json={"inflight": [stray], "status": "busy"})
    assert answer.status_code == 200
    assert answer.json()["state"] == "ONLINE"
    assert answer.json()["cancel"] == [stray]
    old = await edge.rig.post("/v1/miners/heartbeat", json={"session_id": "an-old-session"})
    assert (old.status_code, old.json()["code"]) == (409, "SESSION_NOT_LIVE")
    other = await edge.other_rig.post("/v1/miners/heartbeat", json={"miner_id": "rig"})
    assert (other.status_code, other.json()["code"]) == (403, "FORBIDDEN")


async def test_free_gpu_memory_is_shown_with_its_time(edge: Bench) -> None:
    """The last heartbeat that says it counts, until the session is over; another miner's changes nothing."""

    async def beat(gpus: list[dict[str, Any]]) -> Any:
        assert 200 == (await edge.rig.post("/v1/miners/heartbeat", json={"gpus": gpus})).status_code
        return (await edge.rig.get("/v1/miners/rig")).json()["gpu_memory"]

    async def forgotten() -> bool:
        return await beat([]) is None

    first = await edge.register()
    await edge.reached(first["position"])
    assert (await edge.rig.get("/v1/miners/rig")).json()["gpu_memory"] is None
    # A heartbeat right after the registration may come before its row.
    await eventually(lambda: beat([{"name": "NVIDIA L4", "free_mb": 20_000}]), "the free memory")
    gpus = [{"name": "NVIDIA L4", "free_mb": 1_024}, {"name": "Tesla T4", "free_mb": 0}]
    said = await beat(gpus)
    assert gpus == said["gpus"]
    assert said["at"].endswith("Z")
    stranger = {"miner_id": "rig", "session_id": first["session_id"], "gpus": [{"name": "X", "free_mb": 1}]}
    assert 403 == (await edge.other_rig.post("/v1/miners/heartbeat", json=stranger)).status_code
    assert said == await beat([]) == (await edge.admin.get("/v1/miners/rig")).json()["gpu_memory"]
    await edge.register()
    await eventually(forgotten, "a new session, of which nothing is known")


async def test_a_heartbeat_that_is_wrong_is_refused(edge: Bench) -> None:
    """Bounds and types of every field."""
    await edge.register()
    for body in WRONG_HEARTBEATS:
        answer = await edge.rig.post("/v1/miners/heartbeat", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_PAYLOAD")


async def test_a_poll_waits_for_work_and_claims_it(edge: Bench) -> None:
    """A poll that began before the job answers with it, and the job is running then."""
    await edge.register()
    poll = asyncio.create_task(edge.poll())
    job = await edge.submit(edge.alice, constraints={})
    offer = await asyncio.wait_for(poll, 60)
    assert PolledOffer.model_validate(offer).payload == {"text": "hello"}
    assert (offer["job_id"], offer["attempt"]) == (job["job_id"], 1)
    shown = await edge.alice.get(f"/v1/jobs/{job['job_id']}", headers={"X-At-Least": str(offer["position"])})
    assert (shown.json()["state"], shown.json()["assigned_miner_id"]) == ("RUNNING", "rig")


async def test_each_job_goes_to_one_of_those_who_poll(edge: Bench) -> None:
    """As many polls as the newcomers have slots, and as many jobs: each job is claimed once."""
    await edge.register("rig", concurrency=10)
    await edge.register("other-rig", concurrency=10)
    polls = [asyncio.create_task(edge.poll(name)) for name in ("rig", "other-rig") for _ in range(2)]
    jobs = [(await edge.submit(edge.alice))["job_id"] for _ in range(4)]
    offers = await asyncio.wait_for(asyncio.gather(*polls), 60)
    assert sorted(offer["job_id"] for offer in offers) == sorted(jobs)


async def test_an_attempt_goes_its_whole_way(edge: Bench) -> None:
    """Poll, start again (a repeat), result, and the result again: the first answers."""
    await edge.register()
    job = (await edge.submit(edge.alice))["job_id"]
    offer = await edge.poll()
    repeat = await edge.rig.post(f"/v1/miners/{job}/start", json={"attempt": 1})
    assert repeat.status_code == 200
    assert (repeat.json()["state"], repeat.json()["attempt"]) == ("RUNNING", 1)
    done = await edge.complete(offer, {"ok": True})
    assert done.status_code == 200
    assert done.json()["status"] == "accepted"
    assert done.json()["promise"]["provider"] == "rig"
    assert (await edge.complete(offer, {"ok": True})).json() == done.json()


async def test_an_attempt_is_released_for_another_miner(edge: Bench) -> None:
    """What is handed back is the next attempt, for whoever polls."""
    await edge.register("rig")
    job = (await edge.submit(edge.alice))["job_id"]
    await edge.poll("rig")
    answer = await edge.rig.post(f"/v1/miners/{job}/release", json={"attempt": 1})
    assert (answer.status_code, answer.json()["state"]) == (200, "QUEUED")
    await edge.register("other-rig")
    offer = await edge.poll("other-rig")
    assert (offer["job_id"], offer["attempt"]) == (job, 2)
    stale = await edge.rig.post(f"/v1/miners/{job}/fail", json={"attempt": 1, "error_code": "LATE"})
    assert (stale.status_code, stale.json()["code"]) == (409, "STALE_ATTEMPT")


@pytest.mark.parametrize("verb", ["start", "result", "fail", "release"])
async def test_nobody_speaks_for_anothers_lease(edge: Bench, verb: str) -> None:
    """Another miner's attempt can't be touched, neither in its name nor in one's own."""
    session = await edge.register("rig")
    await edge.register("other-rig")
    job = (await edge.submit(edge.alice))["job_id"]
    await edge.reached((await edge.poll("rig"))["position"])
    body: dict[str, Any] = {"attempt": 1}
    if verb == "fail":
        body["error_code"] = "SABOTAGE"
    if verb == "result":
        body |= {"result": {}, "result_salt": "ab" * 16, "statement": {}}
    in_its_name = {**body, "miner_id": "rig", "session_id": session["session_id"]}
    answer = await edge.other_rig.post(f"/v1/miners/{job}/{verb}", json=in_its_name)
    assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
    with_its_session = {**body, "session_id": session["session_id"]}
    for own in (body, with_its_session):
        answer = await edge.other_rig.post(f"/v1/miners/{job}/{verb}", json=own)
        assert answer.status_code in (409, 422)
    assert (await edge.alice.get(f"/v1/jobs/{job}")).json()["assigned_miner_id"] == "rig"


@pytest.mark.parametrize("verb", ["start", "result", "fail", "release"])
async def test_what_is_said_of_an_attempt_is_checked(edge: Bench, verb: str) -> None:
    """A missing or odd attempt and unknown fields are refused for each verb."""
    await edge.register()
    for body in WRONG_ATTEMPTS:
        answer = await edge.rig.post(f"/v1/miners/{uuid4()}/{verb}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_PAYLOAD")


async def test_an_attempt_that_was_offered_to_another_can_be_neither_claimed_nor_ended(edge: Bench) -> None:
    """A job's id follows from its client and key: guessing it gives no token of its offer."""
    await edge.register("rig")
    job = (await edge.submit(edge.alice, idempotency_key="guessed"))["job_id"]
    assert str(job_stream("alice", "guessed")) == job
    mine = await edge.register("other-rig")  # with the same capabilities
    for token in (None, "0" * 24, TOKENS.token(job, 1, mine["profile"])):  # the last one by another key
        for verb, more in (
            ("start", {}),
            ("fail", {"error_code": "BROKEN"}),
            ("fail", {"error_code": "BROKEN", "retryable": False}),
        ):
            body = {"attempt": 1, "token": token, **more}
            refused = await edge.other_rig.post(f"/v1/miners/{job}/{verb}", json=body)
            assert (refused.status_code, refused.json()["code"]) == (403, "NOT_OFFERED")
    digest = (await edge.alice.get(f"/v1/jobs/{job}")).json()["payload_digest"]
    offer = {"job_id": job, "attempt": 1, "service": SERVICE, "payload_digest": digest}
    done = await edge.complete(offer, {"ok": True}, "other-rig")
    assert (done.status_code, done.json()["code"]) == (403, "NOT_OFFERED")
    assert "QUEUED" == (await edge.alice.get(f"/v1/jobs/{job}")).json()["state"]
    assert job == (await edge.poll("rig"))["job_id"]


async def test_a_miner_shows_where_it_stands_and_an_admin_may_overrule_it(edge: Bench) -> None:
    """Counts, slots, reason and the next step up; a quarantine by hand holds until the release."""
    await edge.reached((await edge.register())["position"])
    assert [] == (await edge.admin.get("/v1/miners/rig")).json()["standing"]
    await edge.submit(edge.alice)
    await edge.complete(await edge.poll(), {"ok": True})

    async def standing(state: str) -> dict[str, Any] | None:
        [shown] = (await edge.rig.get("/v1/miners/rig")).json()["standing"]
        return shown if shown["state"] == state else None

    shown = await eventually(lambda: standing("TRUSTED"), "the completed job counted")
    assert (SERVICE, 1, 0) == (shown["service"], shown["completed"], shown["failed"])
    what = {"principal": "rig", "service": SERVICE, "reason": "returns nonsense"}
    assert 403 == (await edge.rig.post("/v1/miners/release", json=what)).status_code
    answer = (await edge.admin.post("/v1/miners/quarantine", json=what)).json()
    assert ("rig", SERVICE, True) == (answer["principal"], answer["service"], answer["quarantined"])
    shown = await eventually(lambda: standing("QUARANTINED"), "the quarantine")
    assert ("returns nonsense", "an admin has to release it") == (shown["reason"], shown["advice"])
    job = (await edge.submit(edge.alice))["job_id"]
    assert 204 == (await edge.rig.post("/v1/miners/poll", json={"max_wait_seconds": 1})).status_code
    await edge.admin.post("/v1/miners/release", json=what)
    assert job == (await edge.poll())["job_id"]
    [listed] = (await edge.admin.get("/v1/miners")).json()["items"]
    assert [SERVICE] == [item["service"] for item in listed["standing"]]


async def test_a_result_without_proof_is_refused(edge: Bench) -> None:
    """A statement that is missing parts or signed by another key is INVALID_STATEMENT, and pays nothing."""
    await edge.register()
    job = (await edge.submit(edge.alice))["job_id"]
    offer = await edge.poll()
    body = {"attempt": 1, "result": {}, "result_salt": "ab" * 16, "statement": {}}
    answer = await edge.rig.post(f"/v1/miners/{job}/result", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_STATEMENT")
    edge.keys["rig"], real = edge.keys["other-rig"], edge.keys["rig"]
    forged = await edge.complete(offer, {"ok": True})
    assert (forged.status_code, forged.json()["code"]) == (422, "INVALID_STATEMENT")
    edge.keys["rig"] = real
    assert (await edge.complete(offer, {"ok": True})).status_code == 200


async def test_a_draining_miner_gets_nothing_new(edge: Bench) -> None:
    """Polls are refused, what is held may be finished, and leaving ends the session."""
    await edge.register()
    await edge.submit(edge.alice)
    offer = await edge.poll()
    drained = await edge.rig.post("/v1/miners/drain")
    assert (drained.status_code, drained.json()["state"]) == (200, "DRAINING")
    again = await edge.admin.post("/v1/miners/drain", json={"miner_id": "rig"})
    assert again.json()["state"] == "DRAINING"
    refused = await edge.rig.post("/v1/miners/poll", json={"max_wait_seconds": 0})
    assert (refused.status_code, refused.json()["code"]) == (409, "MINER_DRAINING")
    await edge.reached(drained.json()["position"])
    assert (await edge.complete(offer, {"ok": True})).status_code == 200
    left = await edge.rig.post("/v1/miners/leave")
    assert (left.status_code, left.json()["state"]) == (200, "OFFLINE")
    gone = await edge.rig.post("/v1/miners/poll", json={"max_wait_seconds": 0})
    assert (gone.status_code, gone.json()["code"]) == (409, "SESSION_NOT_LIVE")


async def test_an_admin_drains_by_name_and_a_miner_only_itself(edge: Bench) -> None:
    """An admin must say whom; another miner may not."""
    await edge.register("rig")
    await edge.register("other-rig")
    nobody = await edge.admin.post("/v1/miners/drain", json={})
    assert (nobody.status_code, nobody.json()["code"]) == (422, "INVALID_PAYLOAD")
    other = await edge.other_rig.post("/v1/miners/drain", json={"miner_id": "rig"})
    assert (other.status_code, other.json()["code"]) == (403, "FORBIDDEN")
    unknown = await edge.admin.post("/v1/miners/drain", json={"miner_id": "nobody"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "MINER_NOT_FOUND")


async def test_a_miner_sees_itself_and_an_admin_sees_all(edge: Bench) -> None:
    """Another miner is 404 to a miner; lists are for admins, in pages, by state."""
    await edge.register("rig")
    told = await edge.register("other-rig")
    await edge.reached(told["position"])
    assert (await edge.rig.get("/v1/miners/rig")).json()["miner_id"] == "rig"
    hidden = await edge.rig.get("/v1/miners/other-rig")
    assert (hidden.status_code, hidden.json()["code"]) == (404, "MINER_NOT_FOUND")
    first = (await edge.admin.get("/v1/miners?limit=1")).json()
    assert [m["miner_id"] for m in first["items"]] == ["other-rig"]
    second = (await edge.admin.get("/v1/miners", params={"limit": 1, "cursor": first["next_cursor"]})).json()
    assert [m["miner_id"] for m in second["items"]] == ["rig"]
    assert second["next_cursor"] is None
    assert (await edge.admin.get("/v1/miners?state=OFFLINE")).json()["items"] == []


async def test_a_path_that_names_no_miner_is_refused(edge: Bench) -> None:
    """Odd names are refused as such: none reaches a query."""
    for miner_id in NO_MINERS:
        answer = await edge.admin.get(f"/v1/miners/{miner_id}")
        assert answer.status_code in (404, 422)
        assert answer.headers["content-type"] == "application/problem+json"
