"""The benchmark counts what it says: only right results, ratios to the best peers, shared memory once."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import client
from bench.meter import Meter, peak_mib
from bench.publish import put
from bench.report import ratios


class Queue:
    """A system whose results can be read at the second look."""

    def __init__(self, *, wrong: int | None = None, lost: int | None = None) -> None:
        self._wrong = wrong
        self._lost = lost
        self._looks: dict[str, int] = {}

    def submit_many(self, numbers: Sequence[int]) -> list[str]:
        return [self.submit_one(number) for number in numbers]

    def submit_one(self, number: int) -> str:
        return str(number)

    def read(self, ids: Collection[str]) -> dict[str, Any]:
        found = {}
        for job_id in ids:
            self._looks[job_id] = self._looks.get(job_id, 0) + 1
            if self._looks[job_id] > 1 and job_id != str(self._lost):
                found[job_id] = -1 if job_id == str(self._wrong) else int(job_id)
        return found

    def expected(self, number: int) -> int:
        return number

    def close(self) -> None:
        pass


def test_a_burst_ends_when_every_result_was_read() -> None:
    """Several pages of them, none of which is whole at the first look."""
    jobs = 2 * client.PAGE + 1
    assert jobs == client.burst(Queue(), jobs)["jobs"]


def test_a_wrong_result_fails_the_burst() -> None:
    """Fast and wrong does not count."""
    with pytest.raises(client.NotDone, match="1 of them wrong"):
        client.burst(Queue(wrong=3), 10)


def test_a_lost_result_fails_the_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for ever, and does not leave the job out."""
    monkeypatch.setattr(client, "SILENCE_SECONDS", 0.05)
    with pytest.raises(client.NotDone, match="no more results"):
        client.burst(Queue(lost=3), 10)


def test_a_wrong_result_fails_the_steady_rate() -> None:
    """There, too, each is compared."""
    with pytest.raises(client.NotDone, match="job 3 gave -1"):
        client.steady(Queue(wrong=3), 10, 1000)


def test_ratios_are_to_the_best_peer_of_each_measure() -> None:
    """The durable ones have a ratio of their own; each measure has its own best."""
    ours = {"jobs_per_second": 3000.0, "cpu_us_per_job": 300.0, "p50_ms": 6.0, "p99_ms": 12.0}
    durable = {"jobs_per_second": 1000.0, "cpu_us_per_job": 1200.0, "p50_ms": 4.0, "p99_ms": 8.0}
    fast = {"jobs_per_second": 1500.0, "cpu_us_per_job": 1500.0, "p50_ms": 2.0, "p99_ms": 4.0}
    found = ratios(ours, {"a": {**durable, "durable": True}, "b": {**fast, "durable": False}})
    expected = {
        "throughput_vs_best": 2.0,
        "throughput_vs_best_durable": 3.0,
        "cpu_vs_best": 0.25,
        "p50_vs_best_durable": 1.5,
        "p99_vs_best_durable": 1.5,
    }
    assert expected == found


def test_a_meter_sees_the_work_of_a_process() -> None:
    """From its own begin on, and with the memory that the process has."""
    meter = Meter({"me": os.getpid()})
    while meter.cpu_seconds()["me"] < 0.03:
        sum(range(10_000))
    assert 1 < peak_mib(os.getpid()) < 100_000


def test_a_page_without_the_place_is_not_written_to() -> None:
    """A table never lands where no one looks for it."""
    assert "<!-- a -->\nnew\n<!-- /a -->" == put("<!-- a -->\nold\n<!-- /a -->", "a", "new")
    with pytest.raises(SystemExit, match="no block 'b'"):
        put("<!-- a -->\n<!-- /a -->", "b", "new")


def test_no_module_hides_one_of_python() -> None:
    """Programs of the benchmark run from its folder, whose modules come before Python's own."""
    folder = Path(__file__).parents[2] / "bench"
    assert set() == {file.stem for file in folder.glob("*.py")} & sys.stdlib_module_names
