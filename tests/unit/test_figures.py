"""Figures of the last hour, and what needs attention."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from coordinator.application.figures import window as figures
from coordinator.application.figures.attention import (
    LATE_BATCH_MILLIS,
    Attention,
    AttentionFacts,
    BlockedClass,
    Disk,
    DoubtedMiners,
    needs_attention,
)
from coordinator.application.figures.window import MINUTE, Quantiles, Window
from coordinator.application.metrics import PartHealth
from coordinator.application.ports import Recorded
from coordinator.domain.job import (
    JobCanceled,
    JobCompleted,
    JobExpired,
    JobFailed,
    JobRequeued,
    JobStarted,
    JobSubmitted,
)
from coordinator.domain.messages import Event

NOON = 1_700_000_040_000
"""The begin of a minute."""


def recorded(kind: Any, job: int, at: int) -> Recorded:
    """An event with the fields that figures look at."""
    event: Event = kind.model_construct(at=at, by="x", job_id=UUID(int=job), client="alice")
    return Recorded(job + 1, UUID(int=job), 1, event, b"", b"", str(UUID(int=job)))


def a_window(*events: Recorded, now: int = NOON) -> Window:
    window = Window(lambda: now)
    window.since = NOON - 60 * MINUTE
    window.count(events)
    return window


def test_jobs_are_counted_by_the_minute_of_their_events() -> None:
    """Each kind for itself; minutes without events are there, with zeros."""
    window = a_window(
        recorded(JobSubmitted, 1, NOON - 2 * MINUTE),
        recorded(JobSubmitted, 2, NOON - 2 * MINUTE + 5),
        recorded(JobStarted, 1, NOON - 2 * MINUTE + 500),
        recorded(JobCompleted, 1, NOON),
        recorded(JobRequeued, 3, NOON),
        recorded(JobFailed, 4, NOON + 10),
        recorded(JobCanceled, 5, NOON + 20),
        recorded(JobExpired, 6, NOON + 59_999),
    )
    minutes = window.figures().minutes
    assert [minute.begin for minute in minutes] == [NOON - n * MINUTE for n in range(59, -1, -1)]
    assert [(minute.submitted, minute.completed) for minute in minutes[-3:]] == [(2, 0), (0, 0), (0, 1)]
    last = minutes[-1]
    assert (last.failed, last.canceled, last.expired, last.retried) == (1, 1, 1, 1)
    assert minutes[-3].delay == Quantiles(0.5, 0.5, 0.5, 1)


def test_minutes_before_the_begin_of_the_count_are_absent() -> None:
    """A restart is not shown as an hour without jobs."""
    window = Window(lambda: NOON)
    window.since = NOON - 90_000
    assert [minute.begin for minute in window.figures().minutes] == [NOON - 2 * MINUTE, NOON - MINUTE, NOON]


def test_quantiles_are_of_the_claims_of_five_minutes() -> None:
    """By nearest rank; a job that is canceled before its claim is none of them."""
    events = [recorded(JobSubmitted, n, NOON - MINUTE) for n in range(1, 102)]
    events += [recorded(JobStarted, n, NOON - MINUTE + n * 100) for n in range(1, 101)]
    events += [recorded(JobCanceled, 101, NOON), recorded(JobStarted, 101, NOON)]
    assert a_window(*events).figures().delay == Quantiles(5.0, 9.0, 9.9, 100)
    later = a_window(*events, now=NOON + 5 * MINUTE)
    assert later.figures().delay is None


def test_a_job_that_is_queued_again_waits_anew() -> None:
    """The wait is from its last queueing to the claim."""
    window = a_window(
        recorded(JobSubmitted, 1, NOON - 50_000),
        recorded(JobStarted, 1, NOON - 49_000),
        recorded(JobRequeued, 1, NOON - 10_000),
        recorded(JobStarted, 1, NOON - 7000),
    )
    assert window.figures().delay == Quantiles(1.0, 3.0, 3.0, 2)


def test_a_flood_of_waiting_jobs_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is bounded, the figures say so, and the quantiles stay those of all."""
    monkeypatch.setattr(figures, "MAX_FOLLOWED", 100)
    window = Window(lambda: NOON)
    window.count(recorded(JobSubmitted, n, NOON) for n in range(1000))
    assert window.figures().sampled == 16
    window.count(recorded(JobStarted, n, NOON + n) for n in range(1000))
    told = window.figures().delay
    assert told is not None
    assert abs(told.p50 - 0.5) < 0.05
    assert told.p99 > 0.9


def test_clocks_that_are_set_back_lose_no_event() -> None:
    """Events of a clock that is behind count for a minute that is there already."""
    window = a_window(recorded(JobSubmitted, 1, NOON), recorded(JobSubmitted, 2, NOON - 90_000))
    assert sum(minute.submitted for minute in window.figures().minutes) == 2


# --- attention ---------------------------------------------------------------------------------------------
def told(**facts: Any) -> tuple[Attention, ...]:
    return needs_attention(AttentionFacts(now=NOON, **{"parts": {}, **facts}))


def test_nothing_is_told_of_what_is_well() -> None:
    """An empty list is the usual one."""
    parts = {"log": PartHealth(True, None, 3)}
    disk = Disk(free=500 * 10**9, total=10**12)
    assert told(parts=parts, disk=disk, oldest_at=NOON - 1000, queued=5, dead_letters=0) == ()


def test_each_line_says_what_to_do() -> None:
    """One sentence, an advice, and the jobs or the page that it is about; broken things first."""
    lines = told(
        parts={"notary": PartHealth(False, "notary stopped: BadTile", 1)},
        blocked=[BlockedClass("ab" * 10, "whisper", 14, NOON - 250_000, "no miner has 24 GB for it")],
        doubted=[DoubtedMiners("rig7", "checksum", "", 5, "OUT_OF_MEMORY four times")],
        queued=20,
        oldest_at=NOON - 700_000,
        dead_letters=1,
        disk=Disk(free=10**9 // 2, total=10**12),
        checkpoint_at=NOON - 90_000,
        checkpoint_behind=True,
    )
    assert [(line.severity, line.subject) for line in lines] == [
        ("broken", "part"),
        ("broken", "checkpoint"),
        ("warning", "disk"),
        ("warning", "class"),
        ("warning", "queue"),
        ("warning", "miner"),
        ("warning", "dead letters"),
    ]
    assert all(line.sentence.endswith(".") and line.advice.endswith(".") for line in lines)
    by = {line.subject: line for line in lines}
    assert by["class"].sentence == "14 jobs of whisper wait, the oldest for 4 min: no miner has 24 GB for it."
    assert by["class"].query == f"state:queued class:{'ab' * 10}"
    assert by["part"].sentence == "Notary stopped: BadTile."
    assert by["checkpoint"].sentence == "The last checkpoint is 1 min old, and events wait for one."
    assert by["disk"].sentence == "The disk with the data directory has 0.5 of 1000 GB left."
    assert by["queue"].sentence == "20 jobs wait for a miner, the oldest for 11 min."
    assert by["miner"].sentence == (
        "The miners of rig7 failed 5 times in a row for checksum: OUT_OF_MEMORY four times."
    )
    assert by["dead letters"].sentence == "1 message could not be handled and is kept aside."


def test_a_settlement_batch_is_late_after_an_hour() -> None:
    """One that was closed a while ago is the usual case; the line leads to its own page."""
    assert () == told(batch=3, batch_at=NOON - LATE_BATCH_MILLIS + 1)
    assert () == told(batch=0, batch_at=0)
    [line] = told(batch=3, batch_at=NOON - 2 * LATE_BATCH_MILLIS)
    assert "Settlement batch 3 was closed 2 h ago and is not settled." == line.sentence
    assert ("warning", "money/batches/3") == (line.severity, line.link)


def test_a_full_disk_says_so_wherever_it_shows() -> None:
    """The advice is to free space, also if the database tells of it."""
    [line] = told(parts={"log": PartHealth(False, "log: no space left on its disk", 1)})
    assert line.advice == "Free space on that disk; work goes on by itself then."


def test_many_classes_and_miners_are_summed_up() -> None:
    """Five of a kind, and the number of the others."""
    blocked = [BlockedClass(f"{n:020x}", "whisper", 1, None, "no miner is online") for n in range(7)]
    doubted = [DoubtedMiners(f"rig{n}", "", "by hand", 0, "") for n in range(6)]
    lines = told(blocked=blocked, doubted=doubted)
    assert lines[5].sentence == "No miner can be found for the jobs of 2 further classes."
    assert lines[0].sentence == "1 job of whisper waits: no miner is online."
    assert lines[6].sentence == "The miners of rig0 are in quarantine."
    assert lines[-1].sentence == (
        "The miners of 1 further key are in quarantine or failed several times in a row."
    )
