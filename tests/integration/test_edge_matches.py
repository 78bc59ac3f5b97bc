"""Why a job waits, and why a miner has no work, over HTTP, in both modes."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from coordinator.edge.models.matches import JobMatch, MinerMatch
from tests.harness.waiting import eventually
from tests.integration.edge_bench import SERVICE, Bench

CARD = "NVIDIA GeForce RTX 4090"


def with_memory(mib: int, **more: Any) -> dict[str, Any]:
    """The body of a register: a miner of SERVICE with one card of so many MiB."""
    gpus = [{"name": CARD, "memory_mb": mib}]
    return {"capabilities": {"services": [SERVICE], "gpus": gpus, **more}}


async def why(client: httpx.AsyncClient, job_id: str) -> JobMatch:
    answer = await client.get(f"/v1/jobs/{job_id}/match")
    assert answer.status_code == 200, answer.text
    return JobMatch.model_validate_json(answer.content)


async def why_miner(client: httpx.AsyncClient, name: str) -> MinerMatch:
    answer = await client.get(f"/v1/miners/{name}/match")
    assert answer.status_code == 200, answer.text
    return MinerMatch.model_validate_json(answer.content)


async def settled(edge: Bench) -> None:
    """Wait until everything so far can be read, and readings from before are too old to be used."""
    head = edge.coordinator.feed.head
    await edge.reached(head)
    assert await edge.coordinator.watermarks.reached("dispatcher", head, 30)
    context = edge.app.state.context
    await context.miners.get(stale_after=0)
    context.queued_jobs._read_at = float("-inf")


async def test_a_job_that_nobody_can_run_says_why_and_what_would_help(any_edge: Bench) -> None:
    """The sentence, the counts and the relaxation; with the relaxation applied the job is taken at once."""
    edge = any_edge
    for name, mib in (("rig", 15_360), ("other-rig", 8_192)):
        await edge.register(name, **with_memory(mib))
    job = await edge.submit(edge.alice, constraints={"min_vram_gb": 24})
    await settled(edge)
    match = await why(edge.alice, job["job_id"])
    assert "Waits: no miner has 24 GB for it; 1 would with 16 GB." == match.sentence
    assert ("QUEUED", 2, 2, 0) == (
        match.state,
        match.miners_online,
        match.miners_running_service,
        match.miners_found,
    )
    [relaxation] = match.relaxations
    assert ("min_vram_gb", 24, 16, 1) == (
        relaxation.constraint,
        relaxation.asked,
        relaxation.to,
        relaxation.miners,
    )
    assert ["CONSTRAINT_UNMET", "CONSTRAINT_UNMET", "EXPIRES"] == [r.code for r in match.reasons]
    assert {"miners": 2, "alone": 2, "running_service": 2} == match.reasons[1].counts
    # Nothing names a miner, unless an admin asks.
    assert (None, []) == (match.miner_id, match.profiles)
    told = await why(edge.admin, job["job_id"])
    assert {"rig", "other-rig"} == {profile.principal for profile in told.profiles}
    assert [["needs 24 GB on one GPU, has 15360 MiB"], ["needs 24 GB on one GPU, has 8192 MiB"]] == sorted(
        [[u.text for u in profile.unmet] for profile in told.profiles]
    )
    loosened = await edge.submit(edge.alice, constraints={"min_vram_gb": relaxation.to})
    assert loosened["job_id"] == (await edge.poll("rig"))["job_id"]


async def test_the_reasons_of_a_job_through_its_life(any_edge: Bench) -> None:
    """No miner, no such service, busy, running, completed: each says so."""
    edge = any_edge
    job = (await edge.submit(edge.alice))["job_id"]
    assert "Waits: no miner is online." == (await why(edge.alice, job)).sentence
    await edge.register("other-rig", capabilities={"services": ["data_processing"]})
    await settled(edge)
    match = await why(edge.alice, job)
    assert ("SERVICE_NOT_RUN", "service") == (match.reasons[0].code, match.reasons[0].constraint)
    assert "Waits: the only miner online does not run the service checksum." == match.sentence
    await edge.register("rig", concurrency=1)
    offer = await edge.poll()
    assert job == offer["job_id"]
    second = (await edge.submit(edge.alice))["job_id"]
    third = (await edge.submit(edge.alice))["job_id"]
    await settled(edge)
    busy = await why(edge.alice, third)
    assert "Waits: the only miner that can run it is busy (1 of 1 slots)." == busy.sentence
    assert {"own_jobs_before": 1} == next(r.counts for r in busy.reasons if r.code == "PLACE")
    assert not [r for r in (await why(edge.alice, second)).reasons if r.code == "PLACE"]
    running = await why(edge.alice, job)
    assert ("RUNNING", None, []) == (running.state, running.miner_id, running.reasons)
    assert running.sentence.startswith("Runs since ")
    assert "rig" not in running.sentence
    told = await why(edge.admin, job)
    assert ("rig", running.since) == (told.miner_id, told.since)
    assert told.sentence.startswith("Runs on rig since ")
    await edge.complete(offer, {"digest": "abc"})
    ended = await why(edge.alice, job)
    assert "COMPLETED" == ended.state
    assert ended.sentence.startswith("Ended COMPLETED at ")
    assert (await edge.alice.post(f"/v1/jobs/{third}/cancel", json={"reason": "no need"})).status_code == 200
    canceled = await why(edge.alice, third)
    assert canceled.error is not None
    assert "CANCELED" == canceled.error.code
    assert canceled.sentence.endswith(": no need")


async def test_set_apart_miners_and_erased_payloads_are_reasons(edge: Bench) -> None:
    """A quarantined or draining miner that would fit is counted as such; an erased payload comes first."""
    await edge.register("rig")
    await edge.register("other-rig")
    body = {"principal": "rig", "reason": "returns nonsense"}
    assert (await edge.admin.post("/v1/miners/quarantine", json=body)).status_code == 200
    assert (await edge.other_rig.post("/v1/miners/drain", json={})).status_code == 200
    job = (await edge.submit(edge.alice))["job_id"]
    await settled(edge)
    match = await why(edge.alice, job)
    assert "Waits: every miner that fits is set apart: 1 in quarantine, 1 draining." == match.sentence
    assert ["QUARANTINED", "DRAINING", "EXPIRES"] == [r.code for r in match.reasons]
    assert "QUARANTINED" == (await why_miner(edge.rig, "rig")).reasons[0].code
    assert "DRAINING" == (await why_miner(edge.admin, "other-rig")).reasons[0].code
    edge.coordinator.adapters.log.erase([UUID(job)])
    assert "PAYLOAD_ERASED" == (await why(edge.alice, job)).reasons[0].code


async def test_an_offer_that_lies_unclaimed_is_told(edge: Bench) -> None:
    """A job on a work queue says for how long; the profile is told to admins only."""
    session = await edge.register("rig")
    job = (await edge.submit(edge.alice))["job_id"]

    async def offered() -> bool:
        return (await why(edge.alice, job)).reasons[0].code == "OFFERED"

    await eventually(offered)
    assert (None, session["profile"]) == (
        (await why(edge.alice, job)).offered_to,
        (await why(edge.admin, job)).offered_to,
    )


async def test_a_client_sees_nothing_of_others(any_edge: Bench) -> None:
    """Another client's job is unknown, its jobs are not counted in the place, and miners may not ask."""
    edge = any_edge
    mine = await edge.submit(edge.alice)
    theirs = await edge.submit(edge.bob)
    await settled(edge)
    for job_id in (mine["job_id"], str(uuid4())):
        answer = await edge.bob.get(f"/v1/jobs/{job_id}/match")
        assert (404, "JOB_NOT_FOUND") == (answer.status_code, answer.json()["code"])
    assert not [r for r in (await why(edge.bob, theirs["job_id"])).reasons if r.code == "PLACE"]
    assert 403 == (await edge.rig.get(f"/v1/jobs/{mine['job_id']}/match")).status_code
    assert 401 == (await edge.anyone.get(f"/v1/jobs/{mine['job_id']}/match")).status_code


@pytest.mark.parametrize(
    "job_id", ["x", "%00", "../jobs", "0" * 400, "'--", "𝟘190163d-8694-739b-aea5-966c26f8ad91"]
)
async def test_ids_that_are_none_are_refused(edge: Bench, job_id: str) -> None:
    """An id that is none is refused with a code, and is not looked up."""
    answer = await edge.alice.get(f"/v1/jobs/{job_id}/match")
    assert answer.status_code in (404, 422), answer.text
    assert answer.json()["code"] in ("INVALID_PAYLOAD", "JOB_NOT_FOUND", "UNKNOWN_COMMAND")
    miner = await edge.admin.get(f"/v1/miners/{job_id}/match")
    assert miner.status_code in (404, 422)
    assert miner.json()["code"] in ("INVALID_PAYLOAD", "MINER_NOT_FOUND", "UNKNOWN_COMMAND")


async def test_a_miner_learns_what_would_bring_it_jobs(any_edge: Bench) -> None:
    """Its reasons count jobs; models of other people's jobs are named to admins only."""
    edge = any_edge
    await edge.register("rig", **with_memory(8_192))
    for needs in ({"min_vram_gb": 24}, {"min_vram_gb": 48}, {"models": ["a-secret-model"]}):
        await edge.submit(edge.alice, constraints=needs)
    await settled(edge)
    own = await why_miner(edge.rig, "rig")
    assert (3, 3, 0) == (own.queued_jobs, own.queued_jobs_of_its_services, own.queued_jobs_fitting)
    assert "Gets no jobs: none of the 3 queued jobs of its services fits it; " in own.sentence
    assert {("min_vram_gb", 24, 1), ("models", None, 1)} == {
        (i.constraint, i.to, i.jobs) for i in own.improvements if not isinstance(i.to, list)
    }
    assert "a-secret-model" not in own.model_dump_json()
    told = await why_miner(edge.admin, "rig")
    assert [["a-secret-model"]] == [i.to for i in told.improvements if i.constraint == "models"]
    for client, name, status in (
        (edge.other_rig, "rig", 404),
        (edge.admin, "nobody", 404),
        (edge.alice, "rig", 403),
    ):
        assert status == (await client.get(f"/v1/miners/{name}/match")).status_code


async def test_a_submit_that_does_not_wait_is_refused_with_the_reason(any_edge: Bench) -> None:
    """`when_unmatched: refuse` refuses with the sentence and records nothing; with a miner it is accepted."""
    edge = any_edge
    body = {
        "service": SERVICE,
        "payload": {"text": "x"},
        "constraints": {"min_vram_gb": 24},
        "when_unmatched": "refuse",
    }
    key = {"Idempotency-Key": "one"}
    await edge.register("rig", **with_memory(15_360))
    await settled(edge)
    refused = await edge.alice.post("/v1/jobs", json=body, headers=key)
    assert (409, "NO_ELIGIBLE_MINER", "no miner has 24 GB for it; 1 would with 16 GB") == (
        refused.status_code,
        refused.json()["code"],
        refused.json()["detail"],
    )
    assert [] == (await edge.alice.get("/v1/jobs")).json()["items"]
    # A miner comes, and the same request under the same key becomes a job, though the miner is busy.
    await edge.register("other-rig", **with_memory(24_564))
    await settled(edge)
    accepted = await edge.alice.post("/v1/jobs", json=body, headers=key)
    assert 201 == accepted.status_code, accepted.text
    # A repeat is answered with the first job whatever miners there are, and whether it would wait or not.
    assert (await edge.other_rig.post("/v1/miners/leave", json={})).status_code == 200
    await settled(edge)
    for option in ("refuse", "wait"):
        again = await edge.alice.post("/v1/jobs", json={**body, "when_unmatched": option}, headers=key)
        assert (201, accepted.json()["job_id"]) == (again.status_code, again.json()["job_id"])
    other = await edge.alice.post("/v1/jobs", json={**body, "priority": 1}, headers=key)
    assert "IDEMPOTENCY_MISMATCH" == other.json()["code"]
    for wrong in ("REFUSE", "", None, True, ["refuse"], "refuse\u0000"):
        answer = await edge.alice.post("/v1/jobs", json={**body, "when_unmatched": wrong})
        assert (422, "INVALID_PAYLOAD") == (answer.status_code, answer.json()["code"]), wrong
