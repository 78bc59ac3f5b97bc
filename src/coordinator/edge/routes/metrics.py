"""`/metrics`, for Prometheus. Nothing is counted here: it shows the counters of the coordinator's parts.

Values of labels are codes, topics, states or endpoints, never names of clients, miners or jobs. Only two
values are read from the tables, every few seconds at most (`state.backlog`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.responses import Response

from coordinator import __version__
from coordinator.application.metrics import (
    BrokerMetrics,
    BusMetrics,
    CoordinatorMetrics,
    DiskMetrics,
    Histogram,
    JobMetrics,
    ProofMetrics,
    QuotaMetrics,
    SettlementMetrics,
    WebhookMetrics,
    WorkMetrics,
)
from coordinator.domain.errors import Code
from coordinator.domain.quota import KINDS
from coordinator.edge.context import Context
from coordinator.edge.state.http_metrics import BUCKETS, HttpMetrics
from coordinator.edge.state.tables.rows import BacklogRow
from coordinator.edge.state.threads import in_thread

STATUSES: Final = ("leading", "standby", "failed", "stopped")
_DEAD_LETTERS: Final = (Code.UNAUTHORIZED_KEY, Code.INVALID_PAYLOAD, Code.UNKNOWN_COMMAND, Code.INTERNAL)
"""The most frequent codes of dead letters, which are there before the first one."""
MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    response_class=Response,
    summary="Show metrics, for Prometheus",
    description="Commands, events, followers, open work, miners, requests and the process, in Prometheus' "
    "text format. For viewers, operators and admins, or with `METRICS_PUBLIC` for everybody who can reach "
    "the port.",
    responses={
        200: {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}},
    },
)
async def metrics(context: Context) -> Response:
    backlog = await context.backlog.get()
    # Collected on the event loop, where nothing changes meanwhile; formatted in a thread.
    families = [*_of_process(context.metrics(), backlog), *_of_requests(context.http_metrics)]
    disks = context.disks
    text = await in_thread(lambda: _text([*families, *_of_disks(disks())]))
    return Response(text, media_type=MEDIA_TYPE)


class _CollectedFamilies(Collector):
    """A collector of families that are made already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _text(families: Iterable[Metric]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_CollectedFamilies(families))
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return generate_latest(registry)


def _of_process(metrics: CoordinatorMetrics, backlog: BacklogRow | None) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "coordinator", "The running version.", value={"version": __version__, "mode": metrics.mode}
    )
    yield _gauge("coordinator_log_position", "The last position of the log.", metrics.position)
    yield _gauge(
        "coordinator_broker_up", "Whether the broker is connected (1 without a broker).", metrics.broker_up
    )
    yield _gauge("coordinator_tables_up", "Whether the tables can be read.", backlog is not None)
    position = GaugeMetricFamily(
        "coordinator_follower_position", "The position of a follower.", labels=["follower"]
    )
    lag = GaugeMetricFamily(
        "coordinator_follower_lag_positions",
        "Positions between a follower that leads here and the end of the log; positions have gaps.",
        labels=["follower"],
    )
    stalled = GaugeMetricFamily(
        "coordinator_follower_stalled_seconds",
        "How long a follower that leads here has stood still behind the log; 0 while it moves.",
        labels=["follower"],
    )
    status = GaugeMetricFamily(
        "coordinator_follower_status",
        "1 for a follower's status in this process, 0 for all others.",
        labels=["follower", "status"],
    )
    for name, follower in metrics.followers.items():
        position.add_metric([name], follower.position)
        for one in STATUSES:
            status.add_metric([name, one], follower.status == one)
        if follower.status == "leading":
            lag.add_metric([name], max(0, metrics.position - follower.position))
            stalled.add_metric([name], follower.stalled_seconds)
    yield from (position, lag, stalled, status)
    up = GaugeMetricFamily("coordinator_part_up", "Whether a part works, as in /health.", labels=["part"])
    failures = CounterMetricFamily(
        "coordinator_part_failures", "How often a part began to fail.", labels=["part"]
    )
    for name, part in metrics.parts.items():
        up.add_metric([name], part.ok)
        failures.add_metric([name], part.failures)
    yield from (up, failures)
    if metrics.bus is not None:
        yield from _of_bus(metrics.bus)
    if metrics.work is not None:
        yield from _of_work(metrics.work)
    if metrics.quotas is not None:
        yield from _of_quotas(metrics.quotas)
    if metrics.proof is not None:
        yield from _of_proof(metrics.proof, metrics.position)
    divergences = GaugeMetricFamily(
        "coordinator_audit_divergences",
        "1 while this process knows that the log is not the one that it should be.",
        labels=["check"],
    )
    for check, found in metrics.divergences.items():
        divergences.add_metric([check], found)
    yield divergences
    if metrics.broker is not None:
        yield from _of_broker(metrics.broker)
    if metrics.jobs is not None:
        yield from _of_jobs(metrics.jobs)
    if metrics.webhooks is not None:
        yield from _of_webhooks(metrics.webhooks)
    yield from _of_settlement(metrics.settlement)
    if backlog is not None:
        yield _gauge("coordinator_jobs_queued", "Jobs that wait for a miner.", backlog.queued)
        age = 0.0 if backlog.oldest_at is None else max(0.0, time.time() - backlog.oldest_at / 1000)
        yield _gauge("coordinator_oldest_queued_job_seconds", "How long the oldest of them has waited.", age)


def _of_bus(bus: BusMetrics) -> Iterator[Metric]:
    yield CounterMetricFamily("coordinator_commands", "Commands answered.", value=bus.commands)
    yield _counter(
        "coordinator_refusals", "Commands refused.", "code", {**dict.fromkeys(Code, 0), **bus.refusals}
    )
    yield _counter("coordinator_events", "Events appended by this process.", "topic", bus.events)
    sizes = [(str(float(2**n)), count) for n, count in enumerate(accumulate(bus.batch_sizes[:-1]))]
    yield HistogramMetricFamily(
        "coordinator_batch_commands",
        "Commands decided together.",
        buckets=[*sizes, ("+Inf", bus.batches)],
        sum_value=bus.commands,
    )
    yield _histogram("coordinator_commit_duration_seconds", "How long appends took.", [], {(): bus.commits})
    yield _gauge(
        "coordinator_slowest_commit_seconds", "The longest append so far.", bus.slowest_commit_seconds
    )
    yield CounterMetricFamily("coordinator_append_conflicts", "Batches decided again.", value=bus.conflicts)
    yield CounterMetricFamily(
        "coordinator_commands_singled_out",
        "Commands decided one by one, after conflicts.",
        value=bus.singled_out,
    )
    yield _gauge("coordinator_commands_waiting", "Commands that are not in a batch yet.", bus.waiting)
    yield _gauge("coordinator_states_cached", "Aggregates in memory.", bus.cached)


def _of_work(work: WorkMetrics) -> Iterator[Metric]:
    yield _gauge("coordinator_jobs_offered", "Jobs that are on a work queue.", work.offered)
    yield _gauge("coordinator_jobs_running", "Jobs that miners hold.", work.running)
    miners = GaugeMetricFamily("coordinator_miners", "Miners with a session.", labels=["state"])
    for state, count in work.sessions.items():
        miners.add_metric([state], count)
    yield miners
    yield _gauge("coordinator_slots", "Jobs that miners taking work can run at once.", work.slots)
    yield _gauge("coordinator_slots_busy", "Slots in use.", work.busy_slots)
    yield _gauge(
        "coordinator_profiles", "Profiles: sets of miners with the same capabilities.", work.profiles
    )
    yield _gauge("coordinator_classes", "Classes in memory: sets of jobs with the same needs.", work.classes)


def _of_quotas(quotas: QuotaMetrics) -> Iterator[Metric]:
    yield _gauge("coordinator_quota_names", "Names that use anything.", quotas.names)
    yield _gauge("coordinator_quota_own_limits", "Names with limits of their own.", quotas.own_limits)
    stored = GaugeMetricFamily(
        "coordinator_stored_bytes", "Bytes that count towards the names' limits.", labels=["kind"]
    )
    stored.add_metric(["payloads"], quotas.payload_bytes)
    stored.add_metric(["uploads"], quotas.blob_bytes)
    yield stored
    yield _counter(
        "coordinator_quota_refusals",
        "Commands and uploads that a limit of a name refused.",
        "limit",
        {**dict.fromkeys(KINDS, 0), **quotas.refusals},
    )
    yield _counter("coordinator_expired", "Removed by the expiry of this process.", "kind", quotas.expired)


def _of_proof(proof: ProofMetrics, position: int) -> Iterator[Metric]:
    yield _gauge("coordinator_checkpoint_events", "Events in the last checkpoint signed here.", proof.size)
    yield _gauge(
        "coordinator_checkpoint_timestamp_seconds", "When it was signed (Unix time).", proof.signed_at / 1000
    )
    yield _gauge(
        "coordinator_checkpoint_age_seconds",
        "How long ago it was signed; it is not signed again while the log does not grow.",
        max(0.0, time.time() - proof.signed_at / 1000),
    )
    yield _gauge(
        "coordinator_checkpoint_lag_positions",
        "Positions between the last event in it and the end of the log; positions have gaps.",
        max(0, position - proof.position),
    )
    yield _gauge("coordinator_witnesses", "Witnesses in the settings.", proof.witnesses)
    yield _gauge("coordinator_witnesses_signing", "Those that sign checkpoints.", proof.witnessed)


def _of_webhooks(webhooks: WebhookMetrics) -> Iterator[Metric]:
    yield _counter("coordinator_webhook_tries", "Messages sent to receivers.", "outcome", webhooks.tries)
    yield CounterMetricFamily(
        "coordinator_webhook_messages_given_up", "Messages that are not tried again.", value=webhooks.given_up
    )
    yield _gauge("coordinator_webhook_messages_under_way", "Messages being sent.", webhooks.under_way)


def _of_settlement(settlement: SettlementMetrics) -> Iterator[Metric]:
    yield _gauge("coordinator_settlement_batches_open", "Batches that are not settled.", settlement.open)
    yield _gauge(
        "coordinator_settlement_in_transit",
        "Money of open batches that is neither paid nor back, in units.",
        settlement.in_transit / 1_000_000,
    )
    yield _gauge(
        "coordinator_settlement_oldest_seconds",
        "Since the close of the oldest batch that is not settled.",
        settlement.oldest_seconds,
    )
    yield _counter(
        "coordinator_settlement_parts",
        "Parts of batches that ended, or that the sink lost and got again.",
        "outcome",
        {"confirmed": 0, "refused": 0, "reverted": 0, **settlement.parts},
    )


def _of_broker(broker: BrokerMetrics) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "coordinator_broker_disconnections",
        "How often this process lost its connection to the broker.",
        value=broker.disconnections,
    )
    yield _counter(
        "coordinator_broker_publishes",
        "Messages published with a confirm, by what the broker said.",
        "outcome",
        {"confirmed": 0, "unroutable": 0, "unknown": 0, **broker.publishes},
    )
    yield _counter(
        "coordinator_dead_letters",
        "Messages that could not be handled and went to the dead letters.",
        "code",
        {**dict.fromkeys(_DEAD_LETTERS, 0), **broker.dead_letters},
    )
    messages = GaugeMetricFamily(
        "coordinator_queue_messages", "Messages that wait on a permanent queue.", labels=["queue"]
    )
    consumers = GaugeMetricFamily(
        "coordinator_queue_consumers", "Consumers of a permanent queue, of all processes.", labels=["queue"]
    )
    for name, queue in broker.queues.items():
        messages.add_metric([name], queue.messages)
        consumers.add_metric([name], queue.consumers)
    yield from (messages, consumers)


def _of_jobs(jobs: JobMetrics) -> Iterator[Metric]:
    yield _histogram(
        "coordinator_job_queue_delay_seconds",
        "How long attempts waited until a miner claimed them.",
        ["service"],
        {(service,): histogram for service, histogram in jobs.queue_delays.items()},
    )
    yield _histogram(
        "coordinator_job_run_seconds",
        "How long attempts took from their claim to their end.",
        ["service", "outcome"],
        jobs.runs,
    )


def _of_disks(disks: Mapping[str, DiskMetrics]) -> Iterator[Metric]:
    free = GaugeMetricFamily(
        "coordinator_disk_free_bytes", "Free space of a disk that this process writes to.", labels=["volume"]
    )
    size = GaugeMetricFamily("coordinator_disk_size_bytes", "The size of that disk.", labels=["volume"])
    for volume, disk in disks.items():
        free.add_metric([volume], disk.free_bytes)
        size.add_metric([volume], disk.size_bytes)
    yield from (free, size)


def _of_requests(http: HttpMetrics) -> Iterator[Metric]:
    yield _gauge("coordinator_http_requests_under_way", "Requests that are not answered yet.", http.under_way)
    ended = CounterMetricFamily(
        "coordinator_http_requests",
        "Requests answered; 499: the client had disconnected.",
        labels=["operation", "status"],
    )
    for (operation, status), count in http.statuses.items():
        ended.add_metric([operation, str(status)], count)
    yield ended
    took = HistogramMetricFamily(
        "coordinator_http_request_duration_seconds",
        "How long requests took, waits included.",
        labels=["operation"],
    )
    for operation, durations in http.durations.items():
        *within, total = accumulate(durations.counts)
        buckets = [(str(limit), count) for limit, count in zip(BUCKETS, within, strict=True)]
        took.add_metric([operation], [*buckets, ("+Inf", total)], sum_value=durations.seconds)
    yield took


def _histogram(name: str, text: str, labels: Sequence[str], values: Mapping[Any, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, histogram in values.items():
        *within, total = histogram.cumulated()
        buckets = [(str(limit), count) for limit, count in zip(histogram.limits, within, strict=True)]
        family.add_metric(key, [*buckets, ("+Inf", total)], sum_value=histogram.total)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
