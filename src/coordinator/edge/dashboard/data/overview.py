"""The page Overview: figures of now and of the last hour, and what needs attention.

Everything is computed once for all viewers of the same audience, at most twice a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from coordinator.application.figures.attention import (
    MAX_COUNTED,
    UNSETTLED_MILLIS,
    Attention,
    AttentionFacts,
    BlockedClass,
    DoubtedMiners,
    needs_attention,
    span,
)
from coordinator.application.figures.window import Minute, Quantiles
from coordinator.application.metrics import CoordinatorMetrics
from coordinator.application.search.query import JobQuery
from coordinator.domain.messages import Millis
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data import classes
from coordinator.edge.dashboard.data.jobs import StateCount, states
from coordinator.edge.dashboard.data.money import payouts
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.http.reads.matching import match_of_job
from coordinator.edge.state.tables.money import UnsettledRow
from coordinator.edge.state.threads import in_thread

__all__ = [
    "Attention",
    "CheckpointFigure",
    "FleetFigures",
    "FollowerFigures",
    "Minute",
    "Overview",
    "Quantiles",
    "SlotFigures",
    "attention",
    "load",
]

FRESH_SECONDS: Final = 0.5
SLOW_SECONDS: Final = 5.0
"""The age of facts that cost more: the disk, the broker's queue of dead letters, doubted miners."""
DOUBTED_STREAK: Final = 3
MAX_DOUBTED: Final = 50
OLD_OWN_MILLIS: Final = 60_000
"""A client's own job that waits for longer is worth a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowerFigures:
    """How far one reader of the log is behind."""

    name: str
    status: str
    """`leading`, `standby`, `failed` or `stopped`."""
    position: int
    behind: int
    """Positions behind the log; of a standby as of its last leadership."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFigures:
    """The slots of the miners online. Counted by the process that dispatches."""

    busy: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFigure:
    """The last signed checkpoint."""

    size: int
    """Events."""
    signed_at: Millis
    witnesses: int
    witnessed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFigures:
    """The figures that clients do not see."""

    miners: dict[str, int]
    """By state."""
    slots: SlotFigures | None
    """None in a process that does not dispatch."""
    followers: tuple[FollowerFigures, ...]
    checkpoint: CheckpointFigure | None
    """None if this process has signed none."""
    minutes: tuple[Minute, ...]
    """The last hour, oldest first; minutes before `since` are absent."""
    delay: Quantiles | None
    """From queued to claimed, in the last five minutes; None without a claim in them."""
    since: Millis
    """The moment from which this process counts; later than an hour ago after a restart."""
    sampled: int
    """One in so many jobs is in `delay`: 1, unless very many wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The page's figures. `fleet` None: of a client."""

    at: Millis
    position: int
    states: tuple[StateCount, ...]
    queued: int | None
    """All queued jobs; of a client, up to a bound. None if the tables are out of reach."""
    oldest_queued_at: Millis | None
    fleet: FleetFigures | None
    attention: tuple[Attention, ...]


async def load(context: EdgeContext, viewer: Viewer) -> Overview:
    """The overview for this viewer: a client's is of its own jobs. Raises Refusal."""
    client = viewer.client

    async def compute() -> Overview:
        return await (_of_all(context, viewer) if client is None else _of_client(context, viewer, client))

    return await context.shared.get(("overview", client), FRESH_SECONDS, compute)


async def attention(context: EdgeContext, viewer: Viewer) -> tuple[Attention, ...]:
    """What needs attention alone. Raises Refusal."""
    return (await load(context, viewer)).attention


async def _of_all(context: EdgeContext, viewer: Viewer) -> Overview:
    counts, backlog, miners, known = await asyncio.gather(
        states(context, viewer),
        context.backlog.get(),
        context.reads.miners_by_state(),
        # With a million queued jobs these take a second: the page does not wait for them.
        context.shared.recent(("attention",), SLOW_SECONDS, lambda: _slow_facts(context, viewer)),
    )
    metrics, now = context.metrics(), _now()
    slow = known or AttentionFacts(now=now, parts={})
    facts = AttentionFacts(
        now=now,
        parts=metrics.parts,
        blocked=slow.blocked,
        doubted=slow.doubted,
        dead_letters=slow.dead_letters,
        disk=slow.disk,
        disputes=slow.disputes,
        unsettled=slow.unsettled,
        unsettled_at=slow.unsettled_at,
        batch=slow.batch,
        batch_at=slow.batch_at,
        queued=0 if backlog is None else backlog.queued,
        oldest_at=None if backlog is None else backlog.oldest_at,
        checkpoint_at=None if metrics.proof is None else metrics.proof.signed_at,
        checkpoint_behind=_is_behind(metrics, "notary"),
    )
    return Overview(
        at=now,
        position=metrics.position,
        states=counts,
        queued=None if backlog is None else backlog.queued,
        oldest_queued_at=None if backlog is None else backlog.oldest_at,
        fleet=_fleet(context, metrics, miners, now),
        attention=needs_attention(facts),
    )


def _fleet(
    context: EdgeContext, metrics: CoordinatorMetrics, miners: dict[str, int], now: Millis
) -> FleetFigures:
    work, proof, window = metrics.work, metrics.proof, context.window()
    return FleetFigures(
        miners=miners,
        slots=None if work is None else SlotFigures(busy=work.busy_slots, total=work.slots),
        followers=tuple(
            FollowerFigures(
                name=name,
                status=follower.status,
                position=follower.position,
                behind=max(0, metrics.position - follower.position),
            )
            for name, follower in metrics.followers.items()
        ),
        checkpoint=None
        if proof is None
        else CheckpointFigure(
            size=proof.size,
            signed_at=proof.signed_at,
            witnesses=proof.witnesses,
            witnessed=proof.witnessed,
        ),
        minutes=() if window is None else window.minutes,
        delay=None if window is None else window.delay,
        since=now if window is None else window.since,
        sampled=1 if window is None else window.sampled,
    )


def _is_behind(metrics: CoordinatorMetrics, follower: str) -> bool:
    known = metrics.followers.get(follower)
    return known is not None and known.status == "leading" and known.position < metrics.position


async def _slow_facts(context: EdgeContext, viewer: Viewer) -> AttentionFacts:
    lines, doubted, disk, dead = await asyncio.gather(
        classes.load(context, viewer),
        context.reads.doubted(DOUBTED_STREAK, MAX_DOUBTED),
        in_thread(context.disk),
        _dead_letters(context),
    )
    blocked = [
        BlockedClass(line.job_class, line.service, line.queued, line.oldest_at, _clause(line.sentence))
        for line in lines.classes
        if line.blocked
    ]
    disputes, unsettled, (batch, batch_at) = await _money(context)
    return AttentionFacts(
        now=_now(),
        parts={},
        blocked=blocked,
        disputes=disputes,
        unsettled=unsettled.jobs,
        unsettled_at=unsettled.ended_at,
        batch=batch,
        batch_at=batch_at,
        doubted=[DoubtedMiners(*row) for row in doubted],
        disk=disk,
        dead_letters=dead,
    )


async def _money(context: EdgeContext) -> tuple[int, UnsettledRow, tuple[int, Millis]]:
    """Open disputes, jobs that are not settled, and the open batch; nothing is asked without accounts."""
    if context.settings.settlement == "off":
        return 0, UnsettledRow(0, None), (0, 0)
    disputes, unsettled, batch = await asyncio.gather(
        context.money_reads.disputes(MAX_COUNTED),
        context.money_reads.unsettled(_now() - UNSETTLED_MILLIS, MAX_COUNTED),
        payouts.open_batch(context),
    )
    return len(disputes), unsettled, batch


async def _dead_letters(context: EdgeContext) -> int | None:
    if context.dead_letters is None:
        return None
    try:
        return await context.dead_letters.count()
    except ConnectionError:
        return None  # the health says that the broker is out of reach


async def _of_client(context: EdgeContext, viewer: Viewer, client: str) -> Overview:
    counts = await states(context, viewer)
    query = JobQuery.parse("state:queued")
    oldest = (await context.search.page(client, query, limit=1, oldest_first=True)).jobs
    now = _now()
    lines: tuple[Attention, ...] = ()
    if oldest and now - oldest[0].requested_at > OLD_OWN_MILLIS:
        lines = await _own_attention(context, viewer, oldest[0].job_id, now - oldest[0].requested_at)
    return Overview(
        at=now,
        position=context.metrics().position,
        states=counts,
        queued=next(c.count.number for c in counts if c.state == "QUEUED"),
        oldest_queued_at=oldest[0].requested_at if oldest else None,
        fleet=None,
        attention=lines,
    )


async def _own_attention(
    context: EdgeContext, viewer: Viewer, job_id: str, waited: int
) -> tuple[Attention, ...]:
    match = await match_of_job(context, viewer.principal, UUID(job_id))
    if match.state != "QUEUED":
        return ()
    told = f"Your oldest job waits for {span(waited)}: {_clause(match.sentence)}."
    helps: Sequence[str] = [relaxation.text for relaxation in match.relaxations[:1]]
    advice = helps[0] if helps else "It runs as soon as a miner is free; or cancel it."
    return (Attention("warning", "job", told, advice, "state:queued", f"jobs/{job_id}"),)


def _clause(sentence: str) -> str:
    """The part of a sentence of the match report after "Waits: ", without its full stop."""
    return sentence.removeprefix("Waits: ").rstrip(".")


def _now() -> Millis:
    return time.time_ns() // 1_000_000
