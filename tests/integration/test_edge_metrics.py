"""`/metrics` of a whole coordinator, before and after a job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.edge_bench import Bench, an_edge


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with an_edge(tmp_path) as bench:
        yield bench


async def test_a_job_shows_in_the_metrics(bench: Bench) -> None:
    """Waiting, running, done: each step moves the figures that an operator watches."""
    await bench.submit(bench.alice)
    waiting = await scrape(bench)
    assert waiting["coordinator_jobs_queued"] == 1
    assert waiting["coordinator_events_total{job.submitted.v1}"] == 1
    assert waiting["coordinator_miners{ONLINE}"] == 0

    await bench.register(concurrency=3)
    offer = await bench.poll()
    running = await scrape(bench)
    assert running["coordinator_miners{ONLINE}"] == 1
    assert (running["coordinator_slots"], running["coordinator_slots_busy"]) == (3, 1)
    assert running["coordinator_jobs_running"] == 1

    answer = await bench.complete(offer, {"algorithm": "sha256", "digests": []})
    assert answer.status_code == 200
    late = await bench.alice.post(f"/v1/jobs/{offer['job_id']}/cancel", json={})
    assert late.json()["code"] == "CONFLICT_STATE"
    done = await scrape(bench)
    assert done["coordinator_jobs_running"] == 0
    assert done["coordinator_refusals_total{CONFLICT_STATE}"] == 1
    assert done["coordinator_http_requests_total{complete_attempt,200}"] == 1
    assert done["coordinator_http_requests_total{cancel_job,409}"] == 1
    assert done["coordinator_commit_duration_seconds_sum"] > 0
    assert done["coordinator_job_queue_delay_seconds_count{checksum}"] == 1
    assert done["coordinator_job_run_seconds_count{completed,checksum}"] == 1
    assert done["coordinator_follower_status{dispatcher,leading}"] == 1
    assert done["coordinator_log_position"] >= answer.json()["position"]


async def scrape(bench: Bench) -> dict[str, float]:
    """Values by name and, in braces, label values. Taken once all followers have caught up."""
    for follower in ("projector", "dispatcher", "timers"):
        assert await bench.coordinator.watermarks.reached(follower, bench.coordinator.feed.head, 30)
    vars(bench.app.state.context).pop("backlog", None)  # that of the scrape before is old
    text = (await bench.admin.get("/metrics")).text
    return {
        sample.name + (f"{{{','.join(sample.labels.values())}}}" if sample.labels else ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
