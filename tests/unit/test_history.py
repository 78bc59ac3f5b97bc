"""What happened, for people: a job's events in sentences, and the jobs and miners of an earlier moment."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from coordinator.application.ports import NewEvent
from coordinator.cli.commands.log import read_moment
from coordinator.domain.job import JobEvent, is_job_event, sentence
from coordinator.projections.past import past_at
from coordinator.storage.log.mapping import decode
from tests.harness import deciding as made
from tests.harness.cases import every
from tests.harness.memory_log import MemoryEventLog
from tests.harness.metadata import METADATA

GOLDEN = Path(__file__).parents[1] / "golden" / "events-0.1.jsonl"
NOW = 1_780_000_000.0


def test_every_event_of_a_job_has_a_sentence() -> None:
    """Each event is one line that names who did it and which attempt it is about."""
    lines = [json.loads(line) for line in GOLDEN.read_text("utf-8").splitlines()]
    events = [decode(line["topic"], line["state"].encode()) for line in lines]
    told = {type(event): sentence(event) for event in events if is_job_event(event)}

    assert set(get_args(JobEvent)) == told.keys()
    for text in told.values():
        assert re.fullmatch(r"\S.*\S", text)


@every(
    "event, text",
    [
        (
            made.submitted(),
            "alice asked for whisper (version 1): priority 0, up to 3 attempts of 3600 s",
        ),
        (made.started(), "rig began attempt 1"),
        (
            made.attempt_ended("failed", error_message="line one\nline two", retryable=False),
            "attempt 1 failed on rig: OUT_OF_MEMORY: line one line two (by its word, another attempt fails",
        ),
        (made.requeued(), "queued again, as attempt 2"),
        (made.canceled(), "canceled by alice"),
    ],
)
def test_sentences(event: Any, text: str) -> None:
    """The sentence says what a person would ask for."""
    assert sentence(event).startswith(text)


@pytest.fixture
def log() -> Iterator[MemoryEventLog]:
    """A miner; a job that it ran; a job that was canceled; one that waits. One event a second."""
    log = MemoryEventLog()
    yield log
    log.close()


def test_time_travel(log: MemoryEventLog) -> None:
    """The jobs and miners at a position, and at a time, are a fold of the log up to there."""
    from coordinator.domain.miner import miner_stream

    first = made.submitted()
    versions: dict[Any, int] = {}
    for event in (made.registered(), first, made.started(), made.canceled(at=made.T0 + 9000)):
        stream = event.job_id if is_job_event(event) else miner_stream("rig")
        versions[stream] = versions.get(stream, 0) + 1
        log.append([NewEvent(stream, versions[stream], event, METADATA)])

    states = []
    for position in range(5):
        past = past_at(log, position, None, keep=10)
        assert (position, position) == (past.position, past.events)
        states.append((past.counts(), [row["state"] for row in past.miners.values()]))
    assert [
        ({}, []),
        ({}, ["ONLINE"]),
        ({"QUEUED": 1}, ["ONLINE"]),
        ({"RUNNING": 1}, ["ONLINE"]),
        ({"CANCELED": 1}, ["ONLINE"]),
    ] == states

    by_time = past_at(log, None, made.T0 + 8999, keep=10)
    assert (3, {"RUNNING": 1}) == (by_time.position, by_time.counts())
    assert 0 == past_at(log, None, 1, keep=10).position
    last = past_at(log, None, None, keep=0)
    assert (4, {}, {}) == (last.position, last.open_jobs, last.final_jobs)


@every(
    "text, expected",
    [
        ("0", (0, None)),
        ("1042", (1042, None)),
        ("2026-05-28T20:26:40Z", (None, 1_780_000_000_000)),
        ("2026-05-28T22:26:40.250+02:00", (None, 1_780_000_000_250)),
        ("10m", (None, 1_779_999_400_000)),
        ("3d", (None, 1_779_740_800_000)),
    ],
)
def test_moments_are_read(text: str, expected: tuple[int | None, int | None]) -> None:
    """A position, a time with a zone, or a time ago."""
    assert expected == read_moment(text, NOW)


@every(
    "text",
    [
        "",
        "-1",
        "1.5",
        "yesterday",
        "2026-05-28T20:26:40",
        "2026-13-01T00:00:00Z",
        "10y",
        "9" * 19,
        "1" * 5000,
        "10 m",
    ],
)
def test_invalid_moments_are_refused(text: str) -> None:
    """Everything else is a usage error that says which forms there are."""
    with pytest.raises(Exception) as raised:
        read_moment(text, NOW)
    assert "position" in str(raised.value) or "time zone" in str(raised.value)
    assert not isinstance(raised.value, typer.Abort | OverflowError)
