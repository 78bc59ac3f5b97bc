"""The timeline of a job, and the view of its result."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from coordinator.application.ports import LogUnavailable
from coordinator.domain.job import (
    JobAttemptEnded,
    JobCanceled,
    JobEvent,
    JobExpired,
    JobFailed,
    JobRequeued,
    JobStarted,
    JobSubmitted,
)
from coordinator.domain.matching.reasons import Offered
from coordinator.edge.dashboard.data.result import kind_of, view_of
from coordinator.edge.dashboard.data.timeline import Lease, attempts_of, lanes_of
from coordinator.edge.state.shared import Shared
from tests.harness.cases import every

JOB = UUID(int=1)
BLOB = "blob:" + "a" * 64


def event(kind: type[Any], at: int, **fields: Any) -> Any:
    """An event with the fields that the timeline looks at."""
    return kind.model_construct(at=at, by="x", job_id=JOB, client="alice", **fields)


def lost_then(*last: JobEvent) -> list[JobEvent]:
    return [
        event(JobSubmitted, 0),
        event(JobStarted, 1000, attempt=1, miner_id="rig"),
        event(
            JobAttemptEnded,
            4000,
            attempt=1,
            miner_id="rig",
            outcome="lost",
            error_code="LEASE_LOST",
            error_message="silent",
            metrics={},
        ),
        *last,
    ]


REQUEUED: JobEvent = event(JobRequeued, 4000, attempt=2)
STARTED: JobEvent = event(JobStarted, 6000, attempt=2, miner_id="atlas")


@every(
    ("events", "outcomes", "waits"),
    [
        ([event(JobSubmitted, 0)], ["waits"], [(0, None, "waits")]),
        ([event(JobSubmitted, 0), event(JobCanceled, 9)], [], [(0, 9, "canceled")]),
        ([event(JobSubmitted, 0), event(JobExpired, 9)], [], [(0, 9, "expired")]),
        (lost_then(REQUEUED), ["lost", "waits"], [(0, 1000, "completed"), (4000, None, "waits")]),
        (lost_then(REQUEUED, STARTED), ["lost", "runs"], [(0, 1000, "completed"), (4000, 6000, "completed")]),
        (
            lost_then(REQUEUED, STARTED, event(JobCanceled, 7000)),
            ["lost", "canceled"],
            [(0, 1000, "completed"), (4000, 6000, "completed")],
        ),
        (lost_then(event(JobFailed, 4000, attempt=1)), ["lost"], [(0, 1000, "completed")]),
    ],
)
def test_attempts_and_waits_follow_from_the_events(
    events: list[JobEvent], outcomes: list[str], waits: list[tuple[int, int | None, str]]
) -> None:
    """Each claim is an attempt with its end; a wait ends with the claim, or with the job."""
    assert [attempt.outcome for attempt in attempts_of(events, 10_000)] == outcomes
    queued = lanes_of(events, 10_000)[0]
    assert [(span.begin, span.end, span.outcome) for span in queued.spans] == waits


def test_the_offer_and_the_lease_of_now_are_lanes() -> None:
    """An offer began so many seconds ago; a lease ends in the future."""
    waiting = lanes_of(lost_then(REQUEUED), 10_000, Offered(profile="ab", seconds=2))
    assert [lane.label for lane in waiting] == ["queued", "offered", "attempt 1"]
    assert waiting[1].spans[0].begin == 8000
    running = lanes_of(lost_then(REQUEUED, STARTED), 10_000, lease=Lease(2, 36_000))
    assert [lane.label for lane in running] == ["queued", "attempt 1", "attempt 2", "lease"]
    assert (running[-1].spans[0].begin, running[-1].spans[0].end) == (6000, 36_000)
    assert attempts_of(lost_then(REQUEUED, STARTED), 10_000)[-1].seconds == 4.0


@every(
    ("document", "kind"),
    [
        ({"images": [{"name": "a.PNG", "blob": BLOB}]}, "image"),
        ({"output": {"name": "clip.mp4", "blob": BLOB}, "text": "x"}, "video"),
        ({"speech": {"name": "said.opus", "blob": BLOB}}, "audio"),
        ({"file": BLOB}, "file"),
        ({"text": "hello", "language": "en"}, "text"),
        ({"rows": [{"a": 1}, {"b": 2}]}, "table"),
        ({"rows": [{"a": [1]}]}, "json"),
        ({"rows": [], "n": 1}, "json"),
        ({"digests": {"sha256": "ab"}}, "json"),
        ([1, 2], "json"),
        ({}, "json"),
    ],
)
def test_a_result_is_shown_as_people_would_look_at_it(document: Any, kind: str) -> None:
    """Files first, by their names; then tables and texts; the JSON is always there."""
    view = view_of(document)
    assert (view.kind, view.document) == (kind, document)


def test_a_table_has_all_columns_of_its_first_rows() -> None:
    """A cell that a row lacks is None."""
    view = view_of({"rows": [{"a": 1, "b": "x"}, {"c": None, "a": 2}]})
    assert (view.columns, view.rows) == (("a", "b", "c"), ((1, "x", None), (2, None, None)))


@every(
    ("name", "kind"),
    [("x.jpeg", "image"), ("X.WAV", "audio"), ("a.b.webm", "video"), ("t.csv", "table"), ("png", "file")],
)
def test_the_name_of_a_file_tells_its_kind(name: str, kind: str) -> None:
    """By its last suffix."""
    assert kind_of(name) == kind


async def test_many_viewers_share_one_answer() -> None:
    """It is computed once in its time, also for those who come meanwhile; errors are not kept."""
    now, calls = [0.0], 0
    shared = Shared(lambda: now[0])

    async def compute() -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        if calls == 2:
            raise LogUnavailable("gone")
        return calls

    assert await asyncio.gather(*(shared.get("a", 1.0, compute) for _ in range(200))) == [1] * 200
    now[0] = 2.0
    answers = await asyncio.gather(*(shared.get("a", 1.0, compute) for _ in range(3)), return_exceptions=True)
    assert [type(answer).__name__ for answer in answers] == ["LogUnavailable", "int", "int"]
    assert calls == 3


async def test_a_slow_answer_is_not_waited_for() -> None:
    """The last one is given meanwhile; it lasts ten times as long as it took; errors leave it as it was."""
    now, ready, calls = [0.0], asyncio.Event(), 0
    shared = Shared(lambda: now[0])

    async def compute() -> int:
        nonlocal calls
        calls += 1
        await ready.wait()
        now[0] += 2.0
        if calls == 2:
            raise LogUnavailable("gone")
        return calls

    assert await shared.recent("a", 1.0, compute) is None
    ready.set()
    assert await shared.recent("a", 1.0, compute) == 1
    now[0] = 19.0  # it took two seconds
    assert await shared.recent("a", 1.0, compute) == 1
    assert calls == 1
    now[0] = 21.0
    assert await shared.recent("a", 1.0, compute) == 1
    await asyncio.sleep(0)
    assert (await shared.recent("a", 1.0, compute), calls) == (1, 2)
    now[0] = 60.0
    assert await shared.recent("a", 1.0, compute) == 1
    await asyncio.sleep(0)
    assert await shared.recent("a", 1.0, compute) == 3
