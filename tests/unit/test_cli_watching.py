"""What `job watch` writes: text as it comes, changes as lines, and nothing that steers a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coordinator.cli import output
from coordinator.cli.watching import Watching
from coordinator.client.live import LiveEvent


def event(kind: str, job_id: str = "a", **members: Any) -> LiveEvent:
    return LiveEvent.of({"type": kind, "job_id": job_id, **members})


RUNNING: dict[str, Any] = {"state": "RUNNING", "attempt": 1, "miner_id": "rig", "position": 4}


def shown(capsys: pytest.CaptureFixture[str], *events: LiveEvent, jobs: str = "a", **options: Any) -> str:
    with output.progress(quiet=True) as bars:
        watching = Watching(bars, list(jobs), **{"as_json": False, **options})
        for one in events:
            watching.tell(one)
    return capsys.readouterr().out


def test_one_jobs_text_is_written_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    """Text without a line's end stays open, and a change ends it first; control characters do nothing."""
    told = shown(
        capsys,
        event("state.changed", **RUNNING),
        event("progress", fraction=0.5, note="half\x1b[2J"),
        event("tokens", text="Once ", offset=0),
        event("tokens", text="upon\x1b[31m", offset=5),
        event("attempt.ended", outcome="failed", attempt=1, error={"code": "OOM", "message": "12 GB"}),
        event("result.ready", state="COMPLETED", attempt=2, miner_id="rig"),
    )
    assert [
        "a  RUNNING  attempt 1  on rig",
        "Once upon\ufffd[31m",
        "a  attempt failed  attempt 1  OOM: 12 GB",
        "a  COMPLETED  attempt 2  on rig",
    ] == told.splitlines()


def test_several_jobs_text_is_written_in_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line says whose it is, however the texts come mixed; the rest comes with the job's end."""
    told = shown(
        capsys,
        event("tokens", "a", text="one\ntw", offset=0),
        event("tokens", "b", text="eins\n", offset=0),
        event("tokens", "a", text="o", offset=6),
        event("result.ready", "a", state="COMPLETED"),
        event("tokens", "b", text="x" * 5000, offset=5),
        jobs="ab",
    )
    assert ["a  one", "b  eins", "a  two", "a  COMPLETED", f"b  {'x' * 5000}"] == told.splitlines()


def test_as_json_each_message_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Every message as it came, and text as far as it is new."""
    first = event("state.changed", **RUNNING)
    cut = event("tokens", text="Once upon", offset=0, seq=2).model_copy(update={"text": "upon", "offset": 5})
    told = [json.loads(line) for line in shown(capsys, first, cut, as_json=True).splitlines()]
    assert [
        {"type": "state.changed", "job_id": "a", **RUNNING},
        {"type": "tokens", "job_id": "a", "text": "upon", "offset": 5, "seq": 2},
    ] == told
