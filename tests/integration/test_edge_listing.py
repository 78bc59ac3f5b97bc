"""Lists of jobs and miners, for clients and for admins; conditional reads; figures."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from coordinator.edge.http.reads import listing
from coordinator.edge.models.health import StatsView
from tests.harness.cases import every
from tests.integration.edge_bench import FEW, Bench


async def ids(reader: httpx.AsyncClient, path: str, **params: str) -> list[str]:
    """The ids on all pages; each page has the next one's cursor, and none comes twice."""
    found: list[str] = []
    params = {"limit": "2", **params}
    for _ in range(50):
        page = await reader.get(path, params=params)
        assert page.status_code == 200, page.text
        found += [item["job_id"] for item in page.json()["items"]]
        if page.json()["next_cursor"] is None:
            assert len(found) == len(set(found))
            return found
        params["cursor"] = page.json()["next_cursor"]
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("reach", [listing.MAX_LOOKED_AT, 3, 1])
async def test_jobs_are_filtered_and_ordered(
    any_edge: Bench, monkeypatch: pytest.MonkeyPatch, reach: int
) -> None:
    """By state, service, time, client and miner, from both ends, whatever one page may look at."""
    edge = any_edge
    monkeypatch.setattr(listing, "MAX_LOOKED_AT", reach)
    await edge.register()
    done = await edge.finish(edge.alice, {"digests": []})
    spoken = {"service": "speech_recognition", "payload": {"audio_url": "https://example.com/a"}}
    mine = [done]
    for n in range(5):
        job = await edge.submit(edge.alice, **(spoken if n % 2 else {}))
        mine.append(job["job_id"])
    theirs = [(await edge.submit(edge.bob))["job_id"] for _ in range(3)]
    jobs = {job: (await edge.admin.get(f"/v1/jobs/{job}")).json() for job in (*mine, *theirs)}
    whisper = [job for job in mine if jobs[job]["service"] == "speech_recognition"]

    assert await ids(edge.alice, "/v1/jobs", order="oldest") == mine
    assert await ids(edge.alice, "/v1/jobs") == mine[::-1]
    assert await ids(edge.alice, "/v1/jobs", service="whisper") == whisper[::-1]
    assert await ids(edge.alice, "/v1/jobs", service="whisper", order="oldest") == whisper
    assert await ids(edge.alice, "/v1/jobs", state="COMPLETED") == [done]
    assert await ids(edge.alice, "/v1/jobs", state="QUEUED", service="whisper") == whisper[::-1]
    middle = jobs[mine[3]]["requested_at"]
    since = [job for job in mine if jobs[job]["requested_at"] >= middle]
    until = [job for job in mine if jobs[job]["requested_at"] < middle]
    assert await ids(edge.alice, "/v1/jobs", since=middle, order="oldest") == since
    assert await ids(edge.alice, "/v1/jobs", until=middle) == until[::-1]
    assert await ids(edge.alice, "/v1/jobs", since=middle, until=middle) == []

    everything = "/v1/admin/jobs"
    assert await ids(edge.admin, everything, order="oldest") == [*mine, *theirs]
    assert await ids(edge.admin, everything, client="bob") == theirs[::-1]
    assert await ids(edge.admin, everything, client="nobody") == []
    assert await ids(edge.admin, everything, miner="rig") == [done]
    assert await ids(edge.admin, everything, miner="rig", state="QUEUED") == []
    assert await ids(edge.admin, everything, service="whisper", client="alice") == whisper[::-1]


@every(
    "query",
    [
        "state=DONE",
        "order=random",
        "since=yesterday",
        "since=2026-01-01T00:00:00",
        "until=99999-01-01T00:00:00Z",
        "service=../x",
        "cursor=x",
        "cursor=%00",
        "limit=0",
        "limit=201",
        "unknown=1",
        "client=bob",
        "miner=rig",
    ],
)
async def test_wrong_filters_are_refused(edge: Bench, query: str) -> None:
    """Unknown and malformed ones, and those that only admins have."""
    answer = await edge.alice.get(f"/v1/jobs?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_PAYLOAD")


@pytest.mark.parametrize(
    "since", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z", "1969-12-31T00:00:00Z"]
)
async def test_far_moments_are_only_moments(edge: Bench, since: str) -> None:
    """Before the epoch, and at the end of what a date can say."""
    for name in ("since", "until"):
        answer = await edge.alice.get("/v1/jobs", params={name: since})
        assert answer.status_code == 200


async def test_admins_see_all_miners(any_edge: Bench) -> None:
    """By state and by the service that they serve, page by page."""
    edge = any_edge
    await edge.register("rig")
    able = {"services": ["speech_recognition"]}
    other = await edge.register("other-rig", capabilities=able)
    drained = await edge.other_rig.post("/v1/miners/drain", json={"session_id": other["session_id"]})
    await edge.reached(drained.json()["position"])

    async def miners(**params: str) -> list[str]:
        page = (await edge.admin.get("/v1/admin/miners", params={"limit": "1", **params})).json()
        found = [item["miner_id"] for item in page["items"]]
        return found + (
            await miners(**{**params, "cursor": page["next_cursor"]}) if page["next_cursor"] else []
        )

    assert await miners() == ["other-rig", "rig"]
    assert await miners(service="whisper") == ["other-rig"]
    assert await miners(service="checksum", state="ONLINE") == ["rig"]
    assert await miners(service="checksum", state="OFFLINE") == []


async def test_figures_at_a_glance(any_edge: Bench) -> None:
    """What waits and runs, who is there, and how far everything has come."""
    edge = any_edge
    await edge.register()
    await edge.finish(edge.alice, {"digests": []})
    job = await edge.submit(edge.alice)
    answer = await edge.admin.get("/v1/admin/stats", headers={"X-At-Least": str(job["position"])})
    stats = StatsView.model_validate_json(answer.text)

    assert stats.jobs_queued == 1
    assert stats.oldest_queued_at is not None
    assert abs((datetime.now(UTC) - stats.oldest_queued_at).total_seconds()) < 120
    assert sum(stats.miners.values()) == 1
    assert stats.events["job.completed.v1"] == 1
    assert stats.services == len(FEW)
    assert {"projector", "dispatcher"} <= stats.followers.keys()


async def test_admin_pages_are_for_admins(edge: Bench) -> None:
    """A client and a miner are told so."""
    for path in ("stats", "jobs", "miners"):
        for stranger in (edge.alice, edge.rig):
            answer = await stranger.get(f"/v1/admin/{path}")
            assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")


async def test_what_one_has_is_not_sent_again(any_edge: Bench) -> None:
    """An ETag that is still right gets 304 and no body; once the thing has changed, it gets the thing."""
    edge = any_edge
    await edge.register()
    job = await edge.submit(edge.alice)
    path = f"/v1/jobs/{job['job_id']}"
    first = await edge.alice.get(path)
    tag = first.headers["etag"]
    for given in (tag, f'"other", W/{tag}', "*"):
        again = await edge.alice.get(path, headers={"If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert int(again.headers["x-position"]) >= job["position"]
    for given in ('"other"', "nonsense", tag.strip('"'), "x" * 5000):
        assert (await edge.alice.get(path, headers={"If-None-Match": given})).status_code == 200
    assert (await edge.bob.get(path, headers={"If-None-Match": tag})).status_code == 404

    await edge.complete(await edge.poll(), {"digests": []})
    changed = await edge.alice.get(path, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["state"]) == (200, "COMPLETED")
    assert changed.headers["etag"] != tag
    for still in (
        f"{path}/receipt",
        "/v1/registry/services/whisper",
        "/v1/registry/services/whisper/schema",
        "/v1/registry/services/whisper/requirements",
        "/v1/registry/services/whisper/pricing",
        "/v1/registry/services/whisper/openapi",
        "/v1/registry/services/whisper/versions",
        "/v1/registry/categories",
    ):
        got = await edge.alice.get(still)
        headers = {"If-None-Match": got.headers["etag"], "X-At-Least": "1"}
        assert (await edge.alice.get(still, headers=headers)).status_code == 304
        assert got.headers["cache-control"] == "private, no-cache"


async def test_every_read_can_ask_for_a_position(edge: Bench) -> None:
    """One that the log has not reached is answered 503 at once, everywhere alike."""
    beyond: dict[str, Any] = {"headers": {"X-At-Least": "999999999"}}
    for path in (
        "/v1/jobs",
        "/v1/registry/services",
        "/v1/registry/categories",
        "/v1/registry/services/whisper/schema",
        "/v1/registry/services/whisper/versions",
    ):
        answer = await edge.alice.get(path, **beyond)
        assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    for path in ("stats", "jobs", "miners"):
        assert (await edge.admin.get(f"/v1/admin/{path}", **beyond)).status_code == 503
