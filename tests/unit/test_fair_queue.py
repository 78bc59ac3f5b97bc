"""The order of queued work."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.application.dispatch.fair_queue import LANE_HEAD, FairQueue, QueuedWork


def work(number: int, *, client: str = "alice", priority: int = 0, job_class: str = "c") -> QueuedWork:
    return QueuedWork(
        f"job-{number}", 1, job_class, client, priority, number, "checksum", "d", 60, 10**15, ""
    )


def numbers(works: list[QueuedWork]) -> list[int]:
    return [w.position for w in works]


def test_a_higher_priority_goes_first_whatever_its_age() -> None:
    """Priority is strict: age counts only within one priority."""
    fair_queue = FairQueue()
    for item in (work(1), work(2, priority=5), work(3, priority=9)):
        fair_queue.add(item)
    assert numbers(fair_queue.take({"c"}, 3)) == [3, 2, 1]


def test_clients_take_turns_however_much_one_of_them_has_queued() -> None:
    """Of two clients with equal priority, each gets every other place."""
    fair_queue = FairQueue()
    for number in range(100):
        fair_queue.add(work(number, client="greedy"))
    for number in range(100, 103):
        fair_queue.add(work(number, client="modest"))
    first = fair_queue.take({"c"}, 6)
    assert Counter(w.client for w in first) == {"greedy": 3, "modest": 3}


def test_a_job_that_nobody_claims_waits_behind_those_queued_by_then() -> None:
    """Put back behind a position, it comes after older jobs of other lanes, before younger ones."""
    fair_queue = FairQueue()
    for item in (work(1), work(2), work(3, job_class="d"), work(4, job_class="d")):
        fair_queue.add(item)
    unclaimed = fair_queue.take({"c", "d"}, 2)
    assert numbers(unclaimed) == [1, 2]
    for item in unclaimed:
        fair_queue.put_back(item, 4)
    fair_queue.add(work(5, job_class="d"))
    assert numbers(fair_queue.take({"c", "d"}, 9)) == [3, 4, 1, 2, 5]


def test_a_client_that_comes_back_has_no_claim_on_the_past() -> None:
    """Fair shares are of the present: having been away gives no advance."""
    fair_queue = FairQueue()
    for number in range(50):
        fair_queue.add(work(number, client="steady"))
    fair_queue.take({"c"}, 40)
    for number in range(100, 150):
        fair_queue.add(work(number, client="late"))
    following = fair_queue.take({"c"}, 10)
    assert Counter(w.client for w in following) == {"steady": 5, "late": 5}


def test_what_is_offered_is_not_loaded_again() -> None:
    """A lane that was emptied, got everything back and spilled anew reads past what is away, once."""
    fair_queue = FairQueue()
    for number in range(LANE_HEAD):
        fair_queue.add(work(number))
    first = fair_queue.take({"c"}, LANE_HEAD)
    fair_queue.take({"c"}, 1)  # the lane is empty, and forgotten
    for item in reversed(first):
        fair_queue.put_back(item)
    fair_queue.add(work(LANE_HEAD))
    taken = {w.job_id for w in fair_queue.take({"c"}, LANE_HEAD)}
    [lane] = fair_queue.low_lanes({"c"}, 1)
    table = [work(number) for number in range(LANE_HEAD + 1)]

    def away(work: QueuedWork) -> bool:
        return work.job_id in taken

    fair_queue.load(lane, table[lane.cursor :][:LANE_HEAD], 1, complete=True, is_outdated=away)
    fair_queue.load(lane, table[lane.cursor + 1 :], 1, complete=True, is_outdated=away)
    assert numbers(fair_queue.take({"c"}, 10)) == [LANE_HEAD]


def test_fair_shares_span_the_classes_of_a_client() -> None:
    """A client does not get more by spreading its jobs over classes."""
    fair_queue = FairQueue()
    for number in range(60):
        fair_queue.add(work(number, client="spread", job_class=f"c{number % 6}"))
        fair_queue.add(work(1000 + number, client="plain", job_class="c0"))
    classes = {f"c{n}" for n in range(6)}
    assert Counter(w.client for w in fair_queue.take(classes, 20)) == {"spread": 10, "plain": 10}


def test_a_turn_moves_one_queue_however_many_classes_a_clients_jobs_are_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What taking a job costs does not grow with the lanes: at the most three moves in a heap for each."""
    moves = Counter[str]()

    def counted(name: str) -> Callable[..., Any]:
        function = getattr(heapq, name)

        def call(*arguments: Any) -> Any:
            moves[name] += 1
            return function(*arguments)

        return call

    fair_queue = FairQueue()
    classes = {f"class-{number}" for number in range(300)}
    for number, job_class in enumerate([*classes, *classes]):
        fair_queue.add(work(number, job_class=job_class))
    names = ("heappush", "heappop", "heapreplace", "heapify")
    stand_in = SimpleNamespace(**{name: counted(name) for name in names})
    monkeypatch.setattr("coordinator.application.dispatch.fair_queue.heapq", stand_in)
    assert numbers(fair_queue.take(classes, 200)) == list(range(200))
    assert moves.total() <= 3 * 200 + 2


def test_only_the_classes_asked_for_are_taken() -> None:
    """A profile gets what it can serve and nothing else."""
    fair_queue = FairQueue()
    fair_queue.add(work(1, job_class="gpu"))
    fair_queue.add(work(2, job_class="cpu"))
    assert numbers(fair_queue.take({"cpu", "unknown"}, 5)) == [2]
    assert "job-1" in fair_queue


def test_what_was_removed_is_not_taken_and_what_came_back_is_first() -> None:
    """A cancelled job leaves the queue; an offer in vain returns to the head of its lane."""
    fair_queue = FairQueue()
    for number in (1, 2, 3):
        fair_queue.add(work(number))
    fair_queue.remove("job-2")
    [first] = fair_queue.take({"c"}, 1)
    fair_queue.put_back(first)
    fair_queue.put_back(first)
    assert numbers(fair_queue.take({"c"}, 5)) == [1, 3]


def test_a_requeued_job_takes_its_new_place() -> None:
    """The next attempt of a job joins the end of its lane, once."""
    fair_queue = FairQueue()
    for number in (1, 2):
        fair_queue.add(work(number))
    fair_queue.remove("job-1")
    fair_queue.add(work(1)._replace(attempt=2, position=9))
    assert [(w.job_id, w.attempt) for w in fair_queue.take({"c"}, 5)] == [("job-2", 1), ("job-1", 2)]


def test_a_long_lane_leaves_its_tail_in_the_table_and_skips_nothing() -> None:
    """Beyond its head a lane keeps nothing in memory, and goes on from the table where it stopped."""
    fair_queue, table = FairQueue(), [work(n) for n in range(3 * LANE_HEAD + 7)]
    for item in table:
        fair_queue.add(item)
    assert len(fair_queue) == LANE_HEAD
    taken: list[int] = []
    while batch := fair_queue.take({"c"}, 100) or _reload(fair_queue, table):
        taken += numbers(batch)
    assert taken == list(range(len(table)))


@pytest.mark.parametrize("kind", ["clients", "classes"])
def test_many_lanes_share_what_is_kept_in_memory(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of clients or classes shares the jobs kept in memory, and none is skipped."""
    monkeypatch.setattr("coordinator.application.dispatch.fair_queue.QUEUE_JOBS", 400)
    fair_queue = FairQueue()
    table = []
    for n in range(2000):
        name = f"name-{n % 40}"
        table.append(work(n, client=name) if kind == "clients" else work(n, job_class=name))
    for item in table:
        fair_queue.add(item)
    assert len(fair_queue) == 400
    classes = {item.job_class for item in table}
    taken = numbers(fair_queue.take(classes, 100))
    while True:
        for lane in list(fair_queue.low_lanes(classes, len(table))):
            more = [w for w in table if (w.job_class, w.priority, w.client) == lane.key]
            more = [w for w in more if w.position > lane.cursor][: fair_queue.head_length]
            fair_queue.load(lane, more, len(table), complete=True)
        if not (batch := fair_queue.take(classes, 100)):
            break
        taken += numbers(batch)
    assert sorted(taken) == list(range(len(table)))


def test_a_lane_is_not_over_before_what_happened_is_in_the_table() -> None:
    """What the table has is taken at once; the rest when it is there, and not asked for before."""
    fair_queue, jobs = FairQueue(), [work(n) for n in range(LANE_HEAD + 10)]
    for item in jobs:
        fair_queue.add(item)
    fair_queue.take({"c"}, LANE_HEAD)
    [lane] = fair_queue.low_lanes({"c"}, LANE_HEAD + 4)
    fair_queue.load(lane, jobs[LANE_HEAD : LANE_HEAD + 4], LANE_HEAD + 4, complete=False)
    assert len(fair_queue.take({"c"}, 100)) == 4
    assert list(fair_queue.low_lanes({"c"}, LANE_HEAD + 4)) == []
    assert list(fair_queue.low_lanes({"c"}, LANE_HEAD + 9)) == [lane]
    fair_queue.load(lane, jobs[LANE_HEAD + 4 :], LANE_HEAD + 9, complete=True)
    assert len(fair_queue.take({"c"}, 100)) == 6


def _reload(fair_queue: FairQueue, table: list[QueuedWork]) -> list[QueuedWork]:
    for lane in list(fair_queue.low_lanes({"c"}, len(table))):
        more = [w for w in table if w.position > lane.cursor][:LANE_HEAD]
        fair_queue.load(lane, more, len(table), complete=True)
    return fair_queue.take({"c"}, 100)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.sampled_from(["x", "y"])), max_size=60),
    st.integers(1, 7),
)
def test_everything_is_taken_once_and_priorities_never_rise(
    jobs: list[tuple[str, int, str]], at_once: int
) -> None:
    """Whatever is queued: each job is taken exactly once, the higher priorities first."""
    fair_queue = FairQueue()
    for number, (client, priority, job_class) in enumerate(jobs):
        fair_queue.add(work(number, client=client, priority=priority, job_class=job_class))
    taken: list[QueuedWork] = []
    while batch := fair_queue.take({"x", "y"}, at_once):
        taken += batch
    assert sorted(numbers(taken)) == list(range(len(jobs)))
    priorities = [w.priority for w in taken]
    assert priorities == sorted(priorities, reverse=True)
