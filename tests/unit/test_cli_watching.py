"""What `job watch` writes: text as it comes, changes as lines, and nothing that steers a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coordinator.cli.watching import Watching
from coordinator.client.models import UPDATES, Update
from coordinator.runtime import terminal

AT = "2026-11-28T13:30:28.422Z"


def event(kind: str, job_id: str = "a", **members: Any) -> Update:
    moment = {"position": 4, "at": AT} if kind not in ("progress", "tokens") else {}
    return UPDATES[kind].of({"type": kind, "job_id": job_id, "attempt": 1, **moment, **members})


RUNNING: dict[str, Any] = {"state": "RUNNING", "miner_id": "rig"}


def shown(capsys: pytest.CaptureFixture[str], *events: Update, jobs: str = "a", **options: Any) -> str:
    with terminal.progress(quiet=True) as bars:
        watching = Watching(bars, list(jobs), **{"as_json": False, **options})
        for one in events:
            watching.show(one)
    return capsys.readouterr().out


def test_one_jobs_text_is_written_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    """Text without a line's end stays open, and a change ends it first; control characters do nothing."""
    told = shown(
        capsys,
        event("state.changed", **RUNNING),
        event("progress", fraction=0.5, note="half\x1b[2J"),
        event("tokens", text="Once ", offset=0),
        event("tokens", text="upon\x1b[31m", offset=5),
        event("attempt.ended", outcome="failed", miner_id="rig", error={"code": "OOM", "message": "12 GB"}),
        event("result.ready", state="COMPLETED", attempt=2, miner_id="rig"),
    )
    assert [
        "a  RUNNING  attempt 1  on rig",
        r"| Once upon\x1b[31m",
        "a  attempt failed  attempt 1  on rig  OOM: 12 GB",
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
    expected = ["a | one", "b | eins", "a | two", "a  COMPLETED  attempt 1", f"b | {'x' * 5000}"]
    assert expected == told.splitlines()


@pytest.mark.parametrize("jobs", ["a", "ab"])
def test_text_never_looks_like_a_change(capsys: pytest.CaptureFixture[str], jobs: str) -> None:
    """However a text is cut, each of its lines is behind the margin, and so is none of ours."""
    forged = "x\na  COMPLETED  attempt 1\r\n\n\ra  FAILED\u2028a  FAILED\x85a  FAILED\n"
    for size in (1, 2, 7, 100):
        pieces = [forged[start : start + size] for start in range(0, len(forged), size)]
        told = shown(capsys, *(event("tokens", text=one, offset=0) for one in pieces), jobs=jobs)
        margin = "|" if jobs == "a" else "a |"
        assert [True] * len(told.splitlines()) == [one.startswith(margin) for one in told.splitlines()]
        assert "COMPLETED" in told


def test_as_json_each_message_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Every message as it came."""
    told = [event("state.changed", **RUNNING), event("tokens", text="Once upon", offset=0, seq=2)]
    lines = shown(capsys, *told, as_json=True).splitlines()
    assert [one.document() for one in told] == [json.loads(line) for line in lines]
