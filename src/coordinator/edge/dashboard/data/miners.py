"""The pages Miners and Miner: the fleet, one miner, and why it has no work."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from coordinator.application.search.found import FoundJob
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Command, Millis, Role, principal_of
from coordinator.domain.miner import MinerDrain
from coordinator.domain.standing import StandingQuarantine, StandingRelease
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.classes import gpu_texts
from coordinator.edge.dashboard.data.job import ReasonLine, found_job
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.effects import take_effect
from coordinator.edge.dashboard.form_fields import command_of_form
from coordinator.edge.http.commands import checked_miner_id
from coordinator.edge.http.reads.listing import MINER_CURSOR
from coordinator.edge.http.reads.matching import match_of_miner
from coordinator.edge.http.reads.reading import cursor_after, read_cursor
from coordinator.edge.models.miners import MinerState, StandingView
from coordinator.edge.state.tables.rows import MinerRow, StandingRow

MAX_RUNNING: Final = 50
"""Jobs of one miner that its page shows."""
STATES: Final = ("", "ONLINE", "DRAINING", "OFFLINE")


@dataclass(frozen=True, slots=True, kw_only=True)
class MinerLine:
    """One row of the list."""

    miner_id: str
    principal: str
    state: MinerState
    profile: str
    gpus: tuple[str, ...]
    """`NVIDIA RTX 4090, 24 GB`, one for each card."""
    services: tuple[str, ...]
    models: tuple[str, ...]
    region: str | None
    price: str | None
    slots: int
    busy: int
    registered_at: Millis
    last_seen: Millis | None
    """The last heartbeat of its live session; None without one."""
    completed: int
    """Of the attempts of its principal that are remembered, with those below."""
    failed: int
    """Failed, lost or far too slow."""
    quarantined: str
    """Why its principal is in quarantine for one of its services; empty if it is not."""

    @property
    def success_rate(self) -> float | None:
        """From 0 to 1; None before the first outcome."""
        ended = self.completed + self.failed
        return self.completed / ended if ended else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MinerList:
    miners: tuple[MinerLine, ...]
    next_cursor: str | None
    by_state: dict[str, int]
    now: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class ImprovementLine:
    """The smallest change of one capability that would bring jobs."""

    constraint: str
    text: str
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MinerStory:
    """Everything that the page of one miner shows."""

    miner: MinerLine
    sentence: str
    """Why it has no work, or that it works."""
    reasons: tuple[ReasonLine, ...]
    improvements: tuple[ImprovementLine, ...]
    queued_fitting: int
    queued_of_its_services: int
    capabilities: dict[str, Any]
    gpu_memory: dict[str, Any] | None
    """What its heartbeat said last of the free memory of its GPUs, with `at`."""
    session_id: str
    public_key: str
    changed_at: Millis
    standings: tuple[StandingView, ...]
    running: tuple[FoundJob, ...]
    """The jobs that it holds now, 50 at most; empty for a miner's own key."""
    may_operate: bool
    """Whether this viewer may drain it, and quarantine or release its principal."""
    now: Millis


async def load(
    context: EdgeContext, viewer: Viewer, state: str = "", cursor: str | None = None, limit: int = 50
) -> MinerList:
    """A page of miners by id; an empty state for all. Raises Refusal."""
    viewer.require_all("see miners")
    if state not in STATES:
        raise Refusal(Code.INVALID_PAYLOAD, f"invalid state: write {', '.join(STATES[1:])}, or nothing")
    [after] = read_cursor(cursor, MINER_CURSOR) or [""]
    rows = await context.reads.miners(after, state, limit + 1)
    shown = rows[:limit]
    lines, by_state = await asyncio.gather(_lines(context, shown), context.reads.miners_by_state())
    return MinerList(
        miners=lines,
        next_cursor=cursor_after(shown[-1].miner_id) if len(rows) > len(shown) else None,
        by_state=by_state,
        now=_now(),
    )


async def story(context: EdgeContext, viewer: Viewer, miner_id: str) -> MinerStory:
    """One miner; a miner's key sees its own ones. Raises Refusal."""
    if not (viewer.sees_all or viewer.role is Role.MINER):
        viewer.require_all("see miners")
    miner_id = checked_miner_id(miner_id)
    seen = viewer.sees_all or viewer.principal.owns_miner(miner_id)
    row = await context.reads.miner(miner_id) if seen else None
    if row is None:
        raise Refusal(Code.MINER_NOT_FOUND, "no such miner")
    [line], match, standings, memory, held = await asyncio.gather(
        _lines(context, [row]),
        match_of_miner(context, row, names=viewer.sees_all),
        context.reads.standings([miner_id]),
        context.reads.gpu_memory(miner_id),
        _held(context, viewer, row),
    )
    return MinerStory(
        miner=line,
        sentence=match.sentence,
        reasons=tuple(ReasonLine(code=r.code.value, text=r.text) for r in match.reasons),
        improvements=tuple(
            ImprovementLine(constraint=i.constraint, text=i.text, jobs=i.jobs) for i in match.improvements
        ),
        queued_fitting=match.queued_jobs_fitting,
        queued_of_its_services=match.queued_jobs_of_its_services,
        capabilities=json.loads(row.capabilities_json),
        gpu_memory=None if memory is None else json.loads(memory),
        session_id=row.session_id,
        public_key=row.public_key,
        changed_at=row.changed_at,
        standings=tuple(standing.view() for standing in standings),
        running=held,
        may_operate=viewer.may_operate,
        now=_now(),
    )


async def drain(context: EdgeContext, viewer: Viewer, miner_id: str) -> int:
    """Drain the miner as this viewer; the position of the effect. Raises Refusal."""
    viewer.require_operator("drain miners")
    return await _send(context, viewer, MinerDrain(miner_id=checked_miner_id(miner_id)))


async def quarantine(
    context: EdgeContext, viewer: Viewer, principal: str, service: str | None, reason: str
) -> int:
    """Give a principal's miners no more jobs of a service (None: of any). Raises Refusal."""
    viewer.require_operator("quarantine miners")
    return await _send(context, viewer, _standing(StandingQuarantine, principal, service, reason))


async def release(
    context: EdgeContext, viewer: Viewer, principal: str, service: str | None, reason: str
) -> int:
    """End a quarantine. Raises Refusal."""
    viewer.require_operator("release miners")
    return await _send(context, viewer, _standing(StandingRelease, principal, service, reason))


def _standing(
    kind: type[StandingQuarantine | StandingRelease], principal: str, service: str | None, reason: str
) -> Command:
    return command_of_form(kind.topic, {"principal": principal, "service": service or None, "reason": reason})


async def _send(context: EdgeContext, viewer: Viewer, command: Command) -> int:
    return (await take_effect(context, viewer, command)).position


async def _held(context: EdgeContext, viewer: Viewer, row: MinerRow) -> tuple[FoundJob, ...]:
    if not viewer.sees_all:
        return ()
    found = await asyncio.gather(
        *(context.reads.job(job_id) for job_id in await context.reads.held_by(row.miner_id, MAX_RUNNING))
    )
    return tuple(found_job(job) for job in found if job is not None)


async def _lines(context: EdgeContext, rows: Sequence[MinerRow]) -> tuple[MinerLine, ...]:
    ids = [row.miner_id for row in rows]
    standings, seen, running = await asyncio.gather(
        context.reads.standings(ids), context.reads.last_seen(ids), context.reads.running_of(ids)
    )
    return tuple(
        _line(
            row,
            [s for s in standings if s.principal == principal_of(row.miner_id)],
            seen.get(row.miner_id) if row.state != "OFFLINE" else None,
            running.get(row.miner_id, 0),
        )
        for row in rows
    )


def _line(row: MinerRow, standings: Sequence[StandingRow], seen: Millis | None, busy: int) -> MinerLine:
    has = row.offered
    held = [s for s in standings if s.quarantine and (not s.service or s.service in has.services)]
    return MinerLine(
        miner_id=row.miner_id,
        principal=principal_of(row.miner_id),
        state=row.state,
        profile=row.profile,
        gpus=gpu_texts(has.gpus),
        services=has.services,
        models=has.models,
        region=has.region,
        price=has.price,
        slots=row.concurrency,
        busy=busy,
        registered_at=row.registered_at,
        last_seen=seen,
        completed=sum(s.completed for s in standings),
        failed=sum(s.failed + s.lost + s.too_slow for s in standings),
        quarantined=(held[0].reason or held[0].quarantine) if held else "",
    )


def _now() -> Millis:
    return time.time_ns() // 1_000_000
