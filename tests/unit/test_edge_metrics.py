"""`/metrics`: what the parts count, in Prometheus' words, to those who may see it, at next to no cost."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from coordinator.application.metrics import (
    COMMIT_SECONDS,
    WAIT_SECONDS,
    BrokerMetrics,
    BusMetrics,
    CoordinatorMetrics,
    DiskMetrics,
    FollowerMetrics,
    Histogram,
    JobMetrics,
    ProofMetrics,
    QueueMetrics,
    QuotaMetrics,
    SettlementMetrics,
    WebhookMetrics,
    WorkMetrics,
)
from coordinator.application.ports import LogUnavailable
from coordinator.domain.errors import Code
from coordinator.edge import create_app
from coordinator.edge.state.http_metrics import BUCKETS, HttpMetrics
from tests.unit.edge_fakes import ADMIN, ALICE, RIG, FakeDatabase, a_context, browsing

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring.md"
LABELS = {
    "check",
    "code",
    "follower",
    "generation",
    "implementation",
    "kind",
    "le",
    "limit",
    "major",
    "minor",
    "mode",
    "operation",
    "outcome",
    "part",
    "patchlevel",
    "queue",
    "service",
    "state",
    "status",
    "topic",
    "version",
    "volume",
}
"""Each has few values, which we choose ourselves; services are those of the registry."""


def observed(limits: Sequence[float], *values: float) -> Histogram:
    histogram = Histogram(limits)
    for value in values:
        histogram.observe(value)
    return histogram


METRICS = CoordinatorMetrics(
    mode="standard",
    position=120,
    broker_up=False,
    bus=BusMetrics(
        commands=10,
        refusals={Code.JOB_NOT_FOUND: 2},
        events={"job.submitted.v1": 7},
        batches=4,
        batch_sizes=(2, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0),
        conflicts=1,
        singled_out=3,
        commits=observed(COMMIT_SECONDS, 0.0004, 0.03, 0.03, 0.0646, 0.125),
        slowest_commit_seconds=0.125,
        waiting=6,
        cached=8,
    ),
    followers={
        "projector": FollowerMetrics("leading", 100, 2.5),
        "timers": FollowerMetrics("standby", 7),
    },
    work=WorkMetrics(
        offered=3,
        running=2,
        sessions={"ONLINE": 4, "DRAINING": 1},
        slots=9,
        busy_slots=2,
        profiles=2,
        classes=5,
    ),
    quotas=QuotaMetrics(
        names=12,
        own_limits=3,
        payload_bytes=1000,
        blob_bytes=2000,
        refusals={"queued_jobs": 7},
        expired={"uploads": 2},
    ),
    proof=ProofMetrics(size=90, position=111, signed_at=1_700_000_000_500, witnesses=3, witnessed=2),
    divergences={"checkpoint": 1, "log_went_back": 0},
    broker=BrokerMetrics(
        disconnections=2,
        publishes={"confirmed": 40, "unknown": 1},
        dead_letters={Code.UNAUTHORIZED_KEY: 3},
        queues={"coordinator.commands": QueueMetrics(messages=5, consumers=1)},
    ),
    jobs=JobMetrics(
        queue_delays={"checksum": observed(WAIT_SECONDS, 0.02, 7.0)},
        runs={("checksum", "completed"): observed(WAIT_SECONDS, 2.0)},
    ),
    settlement=SettlementMetrics(
        open=1, in_transit=2_500_000, oldest_seconds=90.5, parts={"confirmed": 3, "refused": 1, "reverted": 0}
    ),
    webhooks=WebhookMetrics(tries={"delivered": 30, "failed": 4}, given_up=1, under_way=2),
)


def an_app(**ports: Any) -> FastAPI:
    """An app of its own: its counts begin at nothing."""
    waiting = {"queued": 11, "oldest_at": int((time.time() - 60) * 1000)}
    ports.setdefault("disks", lambda: {"data": DiskMetrics(free_bytes=30, size_bytes=100)})
    given: dict[str, Any] = {"database": FakeDatabase(read_backlog=lambda **_: [waiting])}
    return create_app(a_context(**{"metrics": lambda: METRICS, **given, **ports}))


async def scrape(app: FastAPI, key: str | None = ADMIN) -> dict[tuple[str, tuple[str, ...]], float]:
    """Values by name and label values."""
    async with browsing(app, key) as http:
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_it_shows_what_the_parts_count() -> None:
    """Each figure is there under its name, and a lag only of followers that lead here."""
    told = await scrape(an_app())
    expected = {
        ("coordinator_info", ("standard", "0.1.0")): 1,
        ("coordinator_log_position", ()): 120,
        ("coordinator_broker_up", ()): 0,
        ("coordinator_tables_up", ()): 1,
        ("coordinator_follower_position", ("projector",)): 100,
        ("coordinator_follower_lag_positions", ("projector",)): 20,
        ("coordinator_follower_stalled_seconds", ("projector",)): 2.5,
        ("coordinator_follower_status", ("timers", "standby")): 1,
        ("coordinator_follower_status", ("timers", "leading")): 0,
        ("coordinator_follower_status", ("projector", "leading")): 1,
        ("coordinator_checkpoint_lag_positions", ()): 9,
        ("coordinator_audit_divergences", ("checkpoint",)): 1,
        ("coordinator_audit_divergences", ("log_went_back",)): 0,
        ("coordinator_broker_disconnections_total", ()): 2,
        ("coordinator_broker_publishes_total", ("confirmed",)): 40,
        ("coordinator_broker_publishes_total", ("unroutable",)): 0,
        ("coordinator_dead_letters_total", ("UNAUTHORIZED_KEY",)): 3,
        ("coordinator_dead_letters_total", ("INTERNAL",)): 0,
        ("coordinator_queue_messages", ("coordinator.commands",)): 5,
        ("coordinator_queue_consumers", ("coordinator.commands",)): 1,
        ("coordinator_job_queue_delay_seconds_bucket", ("0.05", "checksum")): 1,
        ("coordinator_job_queue_delay_seconds_bucket", ("10.0", "checksum")): 2,
        ("coordinator_job_queue_delay_seconds_sum", ("checksum",)): 7.02,
        ("coordinator_job_run_seconds_count", ("completed", "checksum")): 1,
        ("coordinator_disk_free_bytes", ("data",)): 30,
        ("coordinator_disk_size_bytes", ("data",)): 100,
        ("coordinator_checkpoint_events", ()): 90,
        ("coordinator_checkpoint_timestamp_seconds", ()): 1_700_000_000.5,
        ("coordinator_witnesses", ()): 3,
        ("coordinator_witnesses_signing", ()): 2,
        ("coordinator_settlement_batches_open", ()): 1,
        ("coordinator_settlement_in_transit", ()): 2.5,
        ("coordinator_settlement_oldest_seconds", ()): 90.5,
        ("coordinator_settlement_parts_total", ("confirmed",)): 3,
        ("coordinator_settlement_parts_total", ("reverted",)): 0,
        ("coordinator_webhook_tries_total", ("delivered",)): 30,
        ("coordinator_webhook_tries_total", ("failed",)): 4,
        ("coordinator_webhook_messages_given_up_total", ()): 1,
        ("coordinator_webhook_messages_under_way", ()): 2,
        ("coordinator_commands_total", ()): 10,
        ("coordinator_refusals_total", ("JOB_NOT_FOUND",)): 2,
        ("coordinator_refusals_total", ("INTERNAL",)): 0,
        ("coordinator_events_total", ("job.submitted.v1",)): 7,
        ("coordinator_batch_commands_bucket", ("1.0",)): 2,
        ("coordinator_batch_commands_bucket", ("8.0",)): 4,
        ("coordinator_batch_commands_bucket", ("+Inf",)): 4,
        ("coordinator_batch_commands_sum", ()): 10,
        ("coordinator_commit_duration_seconds_count", ()): 5,
        ("coordinator_commit_duration_seconds_sum", ()): 0.25,
        ("coordinator_commit_duration_seconds_bucket", ("0.05",)): 3,
        ("coordinator_slowest_commit_seconds", ()): 0.125,
        ("coordinator_append_conflicts_total", ()): 1,
        ("coordinator_commands_singled_out_total", ()): 3,
        ("coordinator_commands_waiting", ()): 6,
        ("coordinator_states_cached", ()): 8,
        ("coordinator_jobs_queued", ()): 11,
        ("coordinator_jobs_offered", ()): 3,
        ("coordinator_jobs_running", ()): 2,
        ("coordinator_miners", ("ONLINE",)): 4,
        ("coordinator_slots", ()): 9,
        ("coordinator_slots_busy", ()): 2,
        ("coordinator_profiles", ()): 2,
        ("coordinator_classes", ()): 5,
        ("coordinator_quota_names", ()): 12,
        ("coordinator_quota_own_limits", ()): 3,
        ("coordinator_stored_bytes", ("payloads",)): 1000,
        ("coordinator_stored_bytes", ("uploads",)): 2000,
        ("coordinator_quota_refusals_total", ("queued_jobs",)): 7,
        ("coordinator_quota_refusals_total", ("stored_bytes",)): 0,
        ("coordinator_expired_total", ("uploads",)): 2,
        ("coordinator_http_requests_under_way", ()): 1,
    }
    assert expected.items() <= told.items()
    assert ("coordinator_follower_lag_positions", ("timers",)) not in told
    assert time.time() - 1_700_000_100 < told["coordinator_checkpoint_age_seconds", ()] < time.time()
    assert 59 <= told["coordinator_oldest_queued_job_seconds", ()] < 70
    assert told["process_resident_memory_bytes", ()] > 1_000_000
    assert told["process_cpu_seconds_total", ()] > 0


async def test_no_label_names_a_client_a_miner_or_a_job() -> None:
    """Labels are few, and their values are ours: a client can make no new series."""
    async with browsing(an_app(), ADMIN) as http:
        text = (await http.get("/metrics")).text
    families = list(text_string_to_metric_families(text))
    labels = {name for family in families for sample in family.samples for name in sample.labels}
    assert set() == labels - LABELS
    named = [family.name for family in families if not family.documentation.endswith(".")]
    assert [] == [name for name in named if name.startswith("coordinator_")]


async def test_the_page_on_monitoring_names_every_metric() -> None:
    """What is scraped is in the table, and what is in the table is scraped."""
    async with browsing(an_app(), ADMIN) as http:
        text = (await http.get("/metrics")).text
    families = {name for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE) if name.startswith("coord")}
    section = MONITORING.read_text(encoding="utf-8").partition("\n## Metrics")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {name for cell in rows for name in re.findall(r"`(coordinator_\w+)`", cell)} == families


@pytest.mark.parametrize("key", [None, ALICE, RIG])
async def test_only_admins_see_it(key: str | None) -> None:
    """How busy one is, is not everybody's business."""
    async with browsing(an_app(), key) as http:
        assert (await http.get("/metrics")).status_code in (401, 403)


async def test_it_can_be_public() -> None:
    """METRICS_PUBLIC is for those whose port is their own."""
    told = await scrape(an_app(settings={"metrics_public": True}), key=None)
    assert told["coordinator_log_position", ()] == 120


async def test_requests_are_counted_by_operation_and_status() -> None:
    """Whatever paths strangers think up share one label; names in paths are in none."""
    app = an_app()
    async with browsing(app, ALICE) as http:
        for path in (
            "/health",
            "/health",
            "/v1/jobs/not-a-uuid",
            "/wp-admin.php",
            "/v1/nothing/alice",
            "/nothing",
        ):
            await http.get(path)
        await http.request("BREW", "/health")
    told = await scrape(app)
    requests = {labels: n for (name, labels), n in told.items() if name == "coordinator_http_requests_total"}
    assert requests == {
        ("health", "200"): 2,
        ("show_job", "422"): 1,
        ("none", "404"): 3,
        ("health", "405"): 1,
    }
    assert told["coordinator_http_request_duration_seconds_bucket", ("+Inf", "none")] == 3
    assert told["coordinator_http_request_duration_seconds_count", ("health",)] == 3
    labels = {label for _, found in told for label in found}
    assert not {label for label in labels if "alice" in label or "wp-admin" in label or "BREW" in label}


async def test_an_outage_of_the_tables_is_a_figure_and_no_failure() -> None:
    """A scrape while the database is away has all that is in memory, and says what is missing."""

    def fail(**_: Any) -> list[dict[str, Any]]:
        raise LogUnavailable("away")

    told = await scrape(an_app(database=FakeDatabase(read_backlog=fail)))
    assert told["coordinator_tables_up", ()] == 0
    assert ("coordinator_jobs_queued", ()) not in told
    assert told["coordinator_commands_total", ()] == 10


async def test_many_scrapes_read_the_tables_once() -> None:
    """However often it is asked, the tables are read at most every few seconds."""
    reads = []

    def read(**_: Any) -> list[dict[str, Any]]:
        reads.append(1)
        return [{"queued": 0, "oldest_at": None}]

    app = an_app(database=FakeDatabase(read_backlog=read))
    for _ in range(3):
        told = await scrape(app)
    assert told["coordinator_oldest_queued_job_seconds", ()] == 0
    assert len(reads) == 1


def test_counting_a_request_costs_microseconds() -> None:
    """The one thing that is done for every request is a dictionary and a bisection, with labels kept."""

    class Route:
        name = "show_job"

    metrics, scope = HttpMetrics(), {"route": Route()}
    best = min(_timed(metrics, scope) for _ in range(5))
    assert best < 20e-6  # about 1 µs; generous, for busy machines
    durations = metrics.durations["show_job"]
    assert sum(durations.counts) == 5000
    assert durations.counts[BUCKETS.index(0.005)] == 5000


def _timed(metrics: HttpMetrics, scope: dict[str, Any]) -> float:
    begun = time.perf_counter()
    for _ in range(1000):
        metrics.count(scope, 200, 0.004)
    return (time.perf_counter() - begun) / 1000
