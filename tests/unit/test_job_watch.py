"""Waiting for jobs to end: woken by the read models, with one query for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from coordinator.application.ports import LogUnavailable
from coordinator.domain.errors import Refusal
from coordinator.domain.job import Completed
from coordinator.edge.http.reads.job_wait import wait_asked
from coordinator.edge.state.job_watch import JobWatch
from tests.harness.cases import every
from tests.unit.edge_fakes import FakeDatabase, FakeWatermarks, a_context

A, B = uuid4(), uuid4()
RUNNING, FINAL = object(), object.__new__(Completed)
"""Only the class of a state counts here."""


class FinalJobs:
    """The statement `read_final_jobs` over a set of jobs."""

    def __init__(self) -> None:
        self.final: set[str] = set()
        self.queries: list[list[str]] = []
        self.queried = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self, job_ids: list[str]) -> list[dict[str, Any]]:
        self.queries.append(job_ids)
        self._loop.call_soon_threadsafe(self.queried.set)  # asked for in a thread
        return [{"job_id": job} for job in job_ids if job in self.final]


def a_watch(final: Callable[..., list[dict[str, Any]]], watermarks: FakeWatermarks | None = None) -> JobWatch:
    """A watch over the jobs that are `final`."""
    database = FakeDatabase(read_final_jobs=final)
    return a_context(database=database, watermarks=watermarks or FakeWatermarks()).job_watch


async def test_an_end_wakes_who_waits_for_it_and_nobody_else() -> None:
    """When the projector moves, those whose job is final go on; the others wait."""
    final, watermarks = FinalJobs(), FakeWatermarks(1)
    watch = a_watch(final, watermarks)
    with watch.ended(A) as a, watch.ended(B) as b, watch.ended(A) as a_too:
        await final.queried.wait()
        final.final = {str(A)}
        watermarks.move(2)
        await asyncio.gather(a.wait(), a_too.wait())
        assert not b.is_set()
    await watch.stop()


async def test_all_who_wait_share_one_query() -> None:
    """A thousand waiting clients cost one query per move, in pieces of 500 jobs."""
    final, watermarks = FinalJobs(), FakeWatermarks(1)
    watch = a_watch(final, watermarks)
    jobs = [uuid4() for _ in range(1000)]

    async def wait(job: UUID) -> None:
        with watch.ended(job) as ended:
            await ended.wait()

    waiting = [asyncio.create_task(wait(job)) for job in jobs]
    await final.queried.wait()
    final.final = set(map(str, jobs))
    watermarks.move(2)
    await asyncio.gather(*waiting)
    assert max(len(query) for query in final.queries) <= 500
    assert len(final.queries) <= 6
    await watch.stop()


async def test_nothing_is_asked_while_nothing_moves() -> None:
    """There is no polling: between moves the watcher waits for the position after the one it saw."""
    final, watermarks = FinalJobs(), FakeWatermarks(5)
    watch = a_watch(final, watermarks)
    with watch.ended(A):
        await watermarks.waiting.wait()
        assert watermarks.asked == [("projector", 6, 5)]
        assert len(final.queries) == 1
    await watch.stop()


async def test_a_job_in_memory_is_not_asked_for() -> None:
    """Its end is told by memory, as soon as it is committed; the others still wait for the read models."""
    final, watermarks = FinalJobs(), FakeWatermarks(1)
    database = FakeDatabase(read_final_jobs=final)
    watch = a_context(
        database=database, watermarks=watermarks, known=lambda job_id: (RUNNING, 1) if job_id == A else None
    ).job_watch
    with watch.ended(A) as a, watch.ended(B) as b:
        await final.queried.wait()
        watch.note_end(A)
        await a.wait()
        final.final = {str(A), str(B)}
        watermarks.move(2)
        await b.wait()
    assert all(str(A) not in query for query in final.queries)
    await watch.stop()


async def test_a_job_that_was_over_before_anybody_waited_wakes_at_once() -> None:
    """Its end was told when nobody listened: a second request for the same job must not wait for another."""
    watch = a_context(known=lambda job_id: (FINAL, 1)).job_watch
    with watch.ended(A) as a:
        await a.wait()
    await watch.stop()


async def test_an_outage_wakes_everybody() -> None:
    """Where it can't be found out, whoever waits looks for itself, and answers what is wrong."""

    def fail(**_: Any) -> list[dict[str, Any]]:
        raise LogUnavailable("away")

    watch = a_watch(fail)
    with watch.ended(A) as a, watch.ended(B) as b:
        await asyncio.gather(a.wait(), b.wait())
    await watch.stop()


async def test_stop_wakes_everybody_and_may_be_called_twice() -> None:
    """A server that stops leaves nobody waiting; stopping what never started is fine."""
    watch = a_watch(lambda **_: [])
    await watch.stop()
    with watch.ended(A) as a:
        await watch.stop()
        assert a.is_set()
    await watch.stop()


@every(
    ("wait", "prefer", "expected"),
    [
        (None, None, (0, {})),
        ("5", None, (5, {})),
        ("0.5", None, (0.5, {})),
        ("900", None, (30, {})),
        (None, "wait=10", (10, {"Preference-Applied": "wait=10"})),
        (None, "respond-async, wait=10", (10, {"Preference-Applied": "wait=10"})),
        (None, 'Wait="10"; x', (10, {"Preference-Applied": "wait=10"})),
        (None, "wait=100", (30, {"Preference-Applied": "wait=30"})),
        (None, "wait=-1", (0, {})),
        (None, "await=10", (0, {})),
        (None, "wait=ten", (0, {})),
        ("5", "wait=10", (5, {})),
    ],
)
def test_how_long_to_wait(
    wait: str | None, prefer: str | None, expected: tuple[float, dict[str, str]]
) -> None:
    """A preference that is not understood is ignored (RFC 7240); the longest wait is 30 s."""
    assert wait_asked(wait, prefer, 30) == expected


@every("wait", ["", "-1", "nan", "inf", "1e3", "x", "9" * 400, "1.", "٣"])
def test_a_wait_that_is_no_number_is_refused(wait: str) -> None:
    """The query parameter is ours, so it is checked."""
    with pytest.raises(Refusal):
        wait_asked(wait, None, 30)
