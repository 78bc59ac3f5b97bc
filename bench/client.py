"""The one client process of a system: submits jobs and reads their results, by orders line by line.

    python bench/client.py bench/peers/taskiq_app.py

The module's `Client` knows its system. This file knows no system, so that the same code times all of them. It
imports only the standard library: peers have an environment of their own.

Each line of standard input is an order in JSON; each gets an answer, a line on standard output.
`{"do": "burst", "jobs": 500}` submits 500 jobs at once, and reads until every result is there.
`{"do": "steady", "jobs": 400, "rate": 50}` submits one at a time, 50 a second.
"""

from __future__ import annotations

import importlib
import json
import queue
import sys
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

PAGE = 500  # results per read
BURST_PAUSE_SECONDS = 0.05  # between reads of an incomplete page
STEADY_PAUSE_SECONDS = 0.001
SILENCE_SECONDS = 60.0  # without a new result for so long, something is broken


class Client(Protocol):
    """The interface of a system's module."""

    def submit_many(self, numbers: Sequence[int]) -> list[str]:
        """Submit one job per number, in the system's fastest documented way; returns their ids in order."""

    def submit_one(self, number: int) -> str:
        """Submit one job and return its id when the system has acknowledged it."""

    def read(self, ids: Collection[str]) -> dict[str, Any]:
        """The results that can be read from the system's storage now, by id."""

    def expected(self, number: int) -> Any:
        """The correct result of the job for this number."""

    def close(self) -> None: ...


class NotDone(Exception):
    """Results are missing or wrong."""


def burst(client: Client, jobs: int) -> dict[str, Any]:
    """Measure the seconds from the first submit until every result was read by its id."""
    begun = time.perf_counter()
    ids = client.submit_many(range(jobs))
    submitted = time.perf_counter()
    results = read_all(client, ids)
    ended = time.perf_counter()
    wrong = sum(results[job_id] != client.expected(number) for number, job_id in enumerate(ids))
    if wrong or len(results) != jobs:
        raise NotDone(f"{len(results)} results for {jobs} jobs, {wrong} of them wrong")
    return {"jobs": jobs, "seconds": ended - begun, "submit_seconds": submitted - begun}


def read_all(client: Client, ids: Sequence[str]) -> dict[str, Any]:
    """All results, page by page; a page is read again until it is complete."""
    results: dict[str, Any] = {}
    for start in range(0, len(ids), PAGE):
        missing = set(ids[start : start + PAGE])
        last = time.monotonic()
        while True:
            found = client.read(missing)
            results |= found
            missing -= found.keys()
            if not missing:
                break
            if found:
                last = time.monotonic()
            elif time.monotonic() - last > SILENCE_SECONDS:
                raise NotDone(f"no more results; {len(results)} of {len(ids)} were read")
            time.sleep(BURST_PAUSE_SECONDS)
    return results


def steady(client: Client, jobs: int, rate: int) -> dict[str, Any]:
    """Measure the milliseconds from the start of each submit until the job's result was read by its id."""
    submitted: queue.SimpleQueue[tuple[str, int, float]] = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as threads:
        # Concurrently with the submits, so that a slow submit does not delay the read of the previous job.
        reading = threads.submit(read_each, client, submitted, jobs)
        next_at = time.perf_counter()
        for number in range(jobs):
            time.sleep(max(0.0, next_at - time.perf_counter()))
            next_at += 1 / rate
            begun = time.perf_counter()
            submitted.put((client.submit_one(number), number, begun))
        took = sorted(reading.result())
    return {"p50_ms": took[len(took) // 2], "p99_ms": took[int(len(took) * 0.99)], "jobs": jobs}


def read_each(client: Client, submitted: queue.SimpleQueue[tuple[str, int, float]], jobs: int) -> list[float]:
    """Read all unfinished jobs again and again; returns the milliseconds of each.

    A system whose results are durable before its other tables are written says so with `read_committed`.
    """
    read: Callable[[Collection[str]], dict[str, Any]] = getattr(client, "read_committed", client.read)
    waiting: dict[str, tuple[int, float]] = {}
    took: list[float] = []
    while len(took) < jobs:
        while not waiting or not submitted.empty():
            job_id, number, begun = submitted.get(timeout=SILENCE_SECONDS)
            waiting[job_id] = (number, begun)
        found = read(list(waiting))
        now = time.perf_counter()
        for job_id, result in found.items():
            number, begun = waiting.pop(job_id)
            took.append((now - begun) * 1000)
            if result != client.expected(number):
                raise NotDone(f"job {number} gave {result!r}")
        if waiting and now - min(begun for _, begun in waiting.values()) > SILENCE_SECONDS:
            raise NotDone(f"no more results; {len(took)} of {jobs} were read")
        time.sleep(STEADY_PAUSE_SECONDS)
    return took


def main() -> None:
    module = Path(sys.argv[1])
    sys.path.insert(0, str(module.parent))
    client: Client = importlib.import_module(module.stem).Client()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if order["do"] == "burst":
                answer = burst(client, order["jobs"])
            else:
                answer = steady(client, order["jobs"], order["rate"])
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    client.close()


if __name__ == "__main__":
    main()
