"""The data of the dashboard's pages, over a whole coordinator, in both modes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

import pytest

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Role
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data import (
    admin,
    audit,
    batches,
    classes,
    job,
    jobs,
    miners,
    overview,
    services,
)
from coordinator.edge.dashboard.data.jobs import JobQuery
from coordinator.edge.dashboard.data.viewer import Viewer
from tests.harness.waiting import eventually
from tests.integration.edge_bench import Bench

ALICE, BOB = Viewer("alice", Role.CLIENT), Viewer("bob", Role.CLIENT)
EVE, OPS, ROOT = Viewer("eve", Role.VIEWER), Viewer("ops", Role.OPERATOR), Viewer("root", Role.ADMIN)
RIG = Viewer("rig", Role.MINER)
T = TypeVar("T")
NEEDY: dict[str, Any] = {"constraints": {"min_vram_gb": 24}}


def context_of(bench: Bench) -> EdgeContext:
    context: EdgeContext = bench.app.state.context
    return context


async def until(look: Callable[[], Awaitable[T | None]]) -> T:
    """The first answer that is not None."""
    found = await eventually(look, timeout=30)
    assert found is not None
    return found


async def fail(bench: Bench, job_id: str, code: str = "OUT_OF_MEMORY") -> None:
    """Have the job's attempt fail on `rig`, for good."""
    offer = await bench.poll()
    assert offer["job_id"] == job_id
    body = {"attempt": offer["attempt"], "error_code": code, "error_message": "18.2 GB", "retryable": False}
    answer = await bench.rig.post(f"/v1/miners/{job_id}/fail", json=body)
    assert answer.status_code == 200, answer.text
    await bench.reached(answer.json()["position"])


async def test_one_job_tells_its_story(any_edge: Bench) -> None:
    """A failed and a completed job: sentence, lanes, attempts, events, result; and what one may do next."""
    edge, context = any_edge, context_of(any_edge)
    await edge.register()
    failed = (await edge.submit(edge.alice, max_attempts=1))["job_id"]
    await fail(edge, failed)
    told = await job.story(context, ALICE, UUID(failed))
    assert told.sentence.startswith("Ended FAILED (OUT_OF_MEMORY) at ")
    [attempt] = told.attempts
    assert (attempt.miner_id, attempt.outcome, attempt.error_code) == ("rig", "failed", "OUT_OF_MEMORY")
    assert [lane.label for lane in told.lanes] == ["queued", "attempt 1"]
    assert told.lanes[1].spans[0].text == "rig · OUT_OF_MEMORY"
    assert [line.topic for line in told.events] == [
        "job.submitted.v1",
        "job.started.v1",
        "job.attempt_ended.v1",
        "job.failed.v1",
    ]
    assert (told.may_cancel, told.may_submit_again, told.result.kind) == (False, True, "none")
    assert told.request is not None
    assert told.request["payload"] == {"text": "hello"}

    done = await edge.finish(edge.alice, {"rows": [{"a": 1, "b": "x"}, {"a": 2}]})
    told = await job.story(context, EVE, UUID(done))
    assert [lane.label for lane in told.lanes] == ["queued", "attempt 1", "result"]
    assert (told.result.kind, told.result.columns, told.result.rows) == (
        "table",
        ("a", "b"),
        ((1, "x"), (2, None)),
    )
    assert told.attempts[0].cost is not None
    assert (told.has_receipt, told.may_submit_again) == (True, False)

    again = await job.submit_again(context, OPS, UUID(failed), form="one")
    assert await job.submit_again(context, OPS, UUID(failed), form="one") == again
    told = await job.story(context, ALICE, again)
    assert (told.job.client, told.events[0].by, told.job.state) == ("alice", "ops", "QUEUED")
    assert told.attempts[-1].outcome == "waits"
    await job.cancel(context, ALICE, again, "enough")
    told = await job.story(context, ALICE, again)
    assert told.sentence.endswith("enough")


async def test_a_waiting_job_says_why(any_edge: Bench) -> None:
    """The sentence, the reasons and the smallest change; and the overview asks for attention."""
    edge, context = any_edge, context_of(any_edge)
    await edge.register(
        capabilities={"services": ["checksum"], "gpus": [{"name": "RTX", "memory_mb": 16376}]}
    )
    waiting = (await edge.submit(edge.alice, **NEEDY))["job_id"]
    await edge.reached(edge.coordinator.feed.head)

    async def blocked() -> job.JobStory | None:
        told = await job.story(context, ALICE, UUID(waiting))
        return told if "24 GB" in told.sentence else None

    told = await until(blocked)
    assert told.sentence == "Waits: no miner has 24 GB for it; 1 would with 17 GB."
    assert (told.relaxations[0].text, told.relaxations[0].miners) == ("1 miner would run it with 17 GB.", 1)

    async def listed() -> classes.ClassLine | None:
        found = [
            c for c in (await classes.load(context, EVE)).classes if c.constraints == {"min_vram_gb": 24}
        ]
        return found[0] if found and found[0].blocked else None

    line = await until(listed)
    assert (line.service, line.queued, line.eligible) == ("checksum", 1, 0)
    assert line.constraints == {"min_vram_gb": 24}
    page = await jobs.search(context, EVE, JobQuery.parse(f"state:queued class:{line.job_class}"))
    assert [found.job_id for found in page.jobs] == [waiting]

    async def attended() -> list[str] | None:
        shown = await overview.load(context, EVE)
        return [a.query for a in shown.attention if a.subject == "class"] or None

    assert await until(attended) == [f"state:queued class:{line.job_class}"]
    [profile] = (await classes.load(context, EVE)).profiles
    assert (profile.principal, profile.online, profile.gpus) == ("rig", 1, ("RTX, 16 GB",))


async def test_the_overview_counts_what_happened(any_edge: Bench) -> None:
    """States, miners, the last minute and the wait; a client sees its own figures only."""
    edge, context = any_edge, context_of(any_edge)
    await edge.register()
    await edge.finish(edge.alice, {"ok": 1})
    failed = (await edge.submit(edge.bob, max_attempts=1))["job_id"]
    await fail(edge, failed)

    async def counted() -> overview.Overview | None:
        shown = await overview.load(context, EVE)
        assert shown.fleet is not None
        recent = shown.fleet.minutes
        ended = (sum(m.completed for m in recent), sum(m.failed for m in recent))
        return shown if ended == (1, 1) else None

    shown = await until(counted)
    assert shown.fleet is not None
    numbers = {line.state: line.count.number for line in shown.states}
    assert {s: n for s, n in numbers.items() if n} == {"COMPLETED": 1, "FAILED": 1}
    assert shown.fleet.miners == {"ONLINE": 1}
    assert shown.fleet.delay is not None
    assert shown.fleet.delay.values == 2
    assert shown.fleet.slots == overview.SlotFigures(busy=0, total=1)
    assert {f.name for f in shown.fleet.followers} >= {"projector", "dispatcher", "timers", "notary"}
    own = await overview.load(context, ALICE)
    assert own.fleet is None
    assert {line.state for line in own.states if line.count.number} == {"COMPLETED"}
    assert await overview.load(context, EVE) is await overview.load(context, OPS)  # once for all of them


async def test_the_other_pages_show_what_is_there(any_edge: Bench) -> None:
    """Miners, one miner, services, the audit and the admin's page."""
    edge, context = any_edge, context_of(any_edge)
    await edge.register()
    await edge.finish(edge.alice, {"ok": 1})
    [line] = (await miners.load(context, EVE)).miners
    assert (line.miner_id, line.state, line.slots, line.services) == ("rig", "ONLINE", 1, ("checksum",))

    async def judged() -> miners.MinerStory | None:
        told = await miners.story(context, RIG, "rig")
        return told if told.miner.completed and "no job is queued" in told.sentence else None

    told = await until(judged)
    assert (told.miner.success_rate, told.may_operate) == (1.0, False)
    assert told.sentence == "Gets no jobs: no job is queued."
    listed = {s.service: s for s in (await services.load(context, ALICE, limit=200)).services}
    assert (listed["checksum"].miners, listed["checksum"].queued) == (1, None)
    assert (await services.entry(context, ALICE, "whisper"))["id"] == "speech_recognition"

    async def checked() -> audit.AuditView | None:
        view = await audit.load(context, EVE)
        return view if view.checked_to >= edge.coordinator.feed.head and view.checkpoint_size else None

    view = await until(checked)
    assert (view.divergence, view.invariants[0].verdict) == (None, "holds")
    shown = {s.name: s.value for s in await admin.settings(context, ROOT)}
    assert shown["CLIENT_API_KEYS"] == "2 set"
    assert not any("secret-of" in value for value in shown.values())
    made = await admin.create_key(context, ROOT, {"name": "vera", "role": "viewer"})
    assert made.key is not None
    await edge.reached(edge.coordinator.feed.head)
    assert [key.name for key in (await admin.keys(context, ROOT)).keys] == ["vera"]
    await admin.revoke_key(context, ROOT, made.key_id)
    assert (await admin.keys(context, ROOT)).keys == ()
    names = [line.name for line in await admin.quotas(context, ROOT)]
    assert "alice" in names


Call = Callable[[EdgeContext, Viewer], Awaitable[Any]]
JOB = UUID(int=1)
ALL_READERS, CLIENTS_TOO = {"viewer", "operator", "admin"}, {"client", "viewer", "operator", "admin"}
ACTORS, ADMINS = {"operator", "admin"}, {"admin"}
CALLS: dict[str, tuple[Call, set[str]]] = {
    "overview.load": (overview.load, CLIENTS_TOO),
    "overview.attention": (overview.attention, CLIENTS_TOO),
    "jobs.search": (lambda c, v: jobs.search(c, v, JobQuery.parse("")), CLIENTS_TOO),
    "jobs.count": (lambda c, v: jobs.count(c, v, JobQuery.parse("")), CLIENTS_TOO),
    "jobs.newer": (lambda c, v: jobs.newer(c, v, JobQuery.parse(""), "1."), CLIENTS_TOO),
    "jobs.states": (jobs.states, CLIENTS_TOO),
    "job.story": (lambda c, v: job.story(c, v, JOB), CLIENTS_TOO),
    "job.cancel": (lambda c, v: job.cancel(c, v, JOB), {"client", *ACTORS}),
    "job.submit_again": (lambda c, v: job.submit_again(c, v, JOB), {"client", *ACTORS}),
    "batches.plan": (lambda c, v: batches.plan(c, v, "cancel", "state:queued"), {"client", *ACTORS}),
    "batches.start": (lambda c, v: batches.start(c, v, "cancel", "state:queued"), {"client", *ACTORS}),
    "miners.load": (miners.load, ALL_READERS),
    "miners.story": (lambda c, v: miners.story(c, v, "nobody"), {"miner", *ALL_READERS}),
    "miners.drain": (lambda c, v: miners.drain(c, v, "nobody"), ACTORS),
    "miners.quarantine": (lambda c, v: miners.quarantine(c, v, "nobody", None, ""), ACTORS),
    "miners.release": (lambda c, v: miners.release(c, v, "nobody", None, ""), ACTORS),
    "classes.load": (classes.load, ALL_READERS),
    "audit.load": (audit.load, ALL_READERS),
    "admin.keys": (admin.keys, ADMINS),
    "admin.create_key": (lambda c, v: admin.create_key(c, v, {"name": "x", "role": "client"}), ADMINS),
    "admin.rotate_key": (lambda c, v: admin.rotate_key(c, v, JOB), ADMINS),
    "admin.revoke_key": (lambda c, v: admin.revoke_key(c, v, JOB), ADMINS),
    "admin.quotas": (admin.quotas, ADMINS),
    "admin.dead_letters": (admin.dead_letters, ADMINS),
    "admin.replay": (lambda c, v: admin.replay(c, v, "x"), ADMINS),
    "admin.settings": (admin.settings, ADMINS),
}
"""Every function that not all roles may call, and the roles that may."""


async def test_each_role_may_do_its_own(edge: Bench) -> None:
    """All others are FORBIDDEN; whatever else may be wrong is found later."""
    context = context_of(edge)
    wrong = []
    for name, (call, allowed) in CALLS.items():
        for role in ("client", "miner", "viewer", "operator", "admin"):
            viewer = Viewer(f"a-{role}", Role(role))
            try:
                await call(context, viewer)
                forbidden = False
            except Refusal as refusal:
                forbidden = refusal.code is Code.FORBIDDEN
            if forbidden == (role in allowed):
                wrong.append((name, role, "forbidden" if forbidden else "allowed"))
    assert wrong == []


async def test_clients_see_their_own_jobs_alone(edge: Bench) -> None:
    """In lists, counts, stories and batches; another's job is no job."""
    context = context_of(edge)
    own = (await edge.submit(edge.alice))["job_id"]
    other = (await edge.submit(edge.bob))["job_id"]
    page = await jobs.search(context, ALICE, JobQuery.parse(""))
    assert [found.job_id for found in page.jobs] == [own]
    assert str(await jobs.count(context, ALICE, JobQuery.parse("state:queued"))) == "1"
    assert str(await jobs.count(context, EVE, JobQuery.parse("state:queued"))) == "2"
    for attempt in (job.story(context, ALICE, UUID(other)), job.cancel(context, ALICE, UUID(other))):
        with pytest.raises(Refusal) as refused:
            await attempt
        assert refused.value.code is Code.JOB_NOT_FOUND
    with pytest.raises(Refusal, match="you see your own jobs only"):
        await jobs.search(context, ALICE, JobQuery.parse("client:bob"))
    assert (await batches.plan(context, ALICE, "cancel", "age:<1h")).total.number == 1
    begun = await batches.start(context, BOB, "cancel", "age:<1h")
    with pytest.raises(Refusal) as refused:
        await batches.load(context, ALICE, begun.batch_id)
    assert refused.value.code is Code.BATCH_NOT_FOUND


async def test_batches_act_on_all_that_match(any_edge: Bench) -> None:
    """A dry run, a bulk cancel, and a bulk submit-again of what was canceled; each once."""
    edge, context = any_edge, context_of(any_edge)
    mine = [(await edge.submit(edge.alice))["job_id"] for _ in range(60)]
    other = (await edge.submit(edge.bob))["job_id"]
    plan = await batches.plan(context, ALICE, "cancel", "service:checksum")
    assert (plan.query, plan.total.number, plan.by_state) == (
        "service:checksum state:queued,running",
        60,
        {"QUEUED": 60},
    )
    assert [found.job_id for found in plan.sample] == mine[:10]

    async def ended(batch: batches.JobBatch) -> batches.JobBatch:
        async def look() -> batches.JobBatch | None:
            now = await batches.load(context, ROOT, batch.batch_id)
            return now if now.ended_at else None

        return await until(look)

    begun = await batches.start(context, ALICE, "cancel", "service:checksum", "too many")
    with pytest.raises(Refusal, match="under way"):
        await batches.start(context, ALICE, "cancel", "service:checksum")
    done = await ended(begun)
    assert (done.state, done.done, done.refused, done.seen) == ("DONE", 60, {}, 60)
    await edge.reached(done.position)
    told = await job.story(context, ALICE, UUID(mine[0]))
    assert (told.job.state, told.events[-1].by) == ("CANCELED", "alice")
    assert told.sentence.endswith("too many")
    assert (await job.story(context, BOB, UUID(other))).job.state == "QUEUED"

    done = await ended(await batches.start(context, ROOT, "retry", "client:alice"))
    assert (done.state, done.done) == ("DONE", 60)
    await edge.reached(done.position)
    page = await jobs.search(context, ROOT, JobQuery.parse("client:alice state:queued"), limit=200)
    assert len(page.jobs) == 60
    assert {batch.state for batch in await batches.recent(context, EVE)} == {"DONE"}


async def test_a_canceled_batch_stops(edge: Bench) -> None:
    """What is done stays done, and the rest stays as it was; an operator may stop anybody's."""
    context = context_of(edge)
    for _ in range(4):
        await asyncio.gather(*(edge.submit(edge.alice) for _ in range(50)))
    begun = await batches.start(context, ALICE, "cancel", "state:queued")

    async def moved() -> bool | None:
        return (await batches.load(context, ALICE, begun.batch_id)).done > 0 or None

    await until(moved)
    stopped = await batches.cancel(context, OPS, begun.batch_id)
    assert (stopped.state, stopped.why) == ("CANCELED", "by ops")
    assert await batches.cancel(context, ALICE, begun.batch_id) == stopped
    # Batches go on one at a time: once a later one has ended, no piece of this one is under way.
    later = await batches.start(context, ALICE, "retry", "state:failed")

    async def ended() -> bool | None:
        return (await batches.load(context, ALICE, later.batch_id)).state == "DONE" or None

    await until(ended)
    last = await batches.load(context, ALICE, begun.batch_id)
    await edge.reached(max(last.position, edge.coordinator.feed.head))
    canceled = (await jobs.search(context, ALICE, JobQuery.parse("state:canceled"), limit=200)).jobs
    assert last.done == len(canceled) < 200
