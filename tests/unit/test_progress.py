"""The hub of progress: what early, late and slow readers get of a job's text, and what it all may cost."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import ValidationError

from coordinator.application.live import progress_hub
from coordinator.application.live.progress import Progress, ProgressReport
from coordinator.application.live.progress_hub import ProgressHub
from coordinator.application.live.progress_stream import Topic
from coordinator.wire.limits import MAX_PROGRESS_TEXT
from tests.harness.cases import every

JOB, OTHER = uuid4(), uuid4()


def said(text: str, offset: int, *, seq: int = 0, attempt: int = 1, job: UUID = JOB) -> Progress:
    return Progress(job_id=job, attempt=attempt, seq=seq or offset + 1, text=text, offset=offset)


def done(fraction: float, seq: int, note: str | None = None) -> Progress:
    return Progress(job_id=JOB, attempt=1, seq=seq, fraction=fraction, note=note)


def texts(items: list[Progress]) -> list[tuple[int | None, str | None]]:
    return [(item.offset, item.text) for item in items]


class Wire:
    """A wire that notes what it is asked for; `answer` is called when a text is asked for."""

    def __init__(self) -> None:
        self.bound: list[Topic] = []
        self.unbound: list[Topic] = []
        self.asked: list[UUID] = []
        self.answer: Any = None

    async def start(self, hub: ProgressHub) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def bind(self, topic: Topic) -> None:
        self.bound.append(topic)

    async def unbind(self, topic: Topic) -> None:
        self.unbound.append(topic)

    async def ask(self, job_id: UUID) -> bool:
        self.asked.append(job_id)
        if self.answer is not None:
            self.answer()
        return True

    def relay(self, client: str, items: Any) -> None:
        raise AssertionError("the hub relays nothing by itself")


async def test_a_reader_gets_the_text_in_order_and_no_other_jobs() -> None:
    """What was emitted arrives once, in order; another job's progress does not."""
    hub = ProgressHub()
    async with hub.watch(JOB) as stream:
        hub.publish("alice", said("Once ", 0), said("x", 0, job=OTHER), said("upon", 5))
        assert [(0, "Once upon")] == texts(stream.take())
        hub.publish("alice", said(" a time", 9))
        assert (9, " a time") == texts([await anext(stream)])[0]
        assert [] == stream.take()


async def test_a_late_reader_begins_with_the_text_so_far() -> None:
    """Who begins to watch a running job gets its text from the start, and its present fraction."""
    hub = ProgressHub()
    hub.publish("alice", said("Once ", 0), done(0.5, 7, "writing"), said("upon", 5, seq=8))
    async with hub.watch(JOB) as stream:
        [item] = stream.take()
    assert (0, "Once upon", 0.5, "writing") == (item.offset, item.text, item.fraction, item.note)


async def test_a_slow_reader_has_a_gap_and_costs_nobody_anything() -> None:
    """Its oldest characters are missing beyond the limit, which `offset` shows; a quick reader has all."""
    hub = ProgressHub()
    async with hub.watch(JOB) as slow, hub.watch(JOB) as quick:
        read = 0
        for start in range(0, 3 * MAX_PROGRESS_TEXT, 1000):
            hub.publish("alice", said("x" * 1000, start))
            read += sum(len(item.text or "") for item in quick.take())
        [item] = slow.take()
    total = len(range(0, 3 * MAX_PROGRESS_TEXT, 1000)) * 1000
    assert total == read
    assert (total - MAX_PROGRESS_TEXT, MAX_PROGRESS_TEXT) == (item.offset, len(item.text or ""))


async def test_repeats_and_overlaps_are_told_once() -> None:
    """A chunk that comes twice, or overlaps with what is known, adds only what is new."""
    hub = ProgressHub()
    async with hub.watch(JOB) as stream:
        hub.publish("alice", said("abc", 0))
        assert [(0, "abc")] == texts(stream.take())
        hub.publish("alice", said("abc", 0), said("cde", 2))
        assert [(3, "de")] == texts(stream.take())
        hub.publish("alice", said("bcd", 1))
        assert [] == stream.take()


async def test_a_lost_chunk_is_a_gap() -> None:
    """Text that does not join on is told with its own offset."""
    hub = ProgressHub()
    async with hub.watch(JOB) as stream:
        hub.publish("alice", said("abc", 0))
        stream.take()
        hub.publish("alice", said("xyz", 10))
        assert [(10, "xyz")] == texts(stream.take())


async def test_a_new_attempt_begins_anew_and_an_old_one_is_not_heard() -> None:
    """Each attempt writes its own text from 0; what an earlier one still says is dropped."""
    hub = ProgressHub()
    async with hub.watch(JOB) as stream:
        hub.publish("alice", said("first", 0))
        assert [1] == [item.attempt for item in stream.take()]
        hub.publish("alice", said("second", 0, attempt=2), said(" more", 5))
        [item] = stream.take()
    assert (2, 0, "second") == (item.attempt, item.offset, item.text)


async def test_fractions_are_merged_to_the_latest() -> None:
    """Only the newest fraction and note are told; an older report changes nothing."""
    hub = ProgressHub()
    async with hub.watch(JOB) as stream:
        hub.publish("alice", done(0.1, 1, "loading"), done(0.4, 3), done(0.2, 2, "old"))
        [item] = stream.take()
        assert (0.4, "loading", 3) == (item.fraction, item.note, item.seq)
        hub.publish("alice", done(0.3, 3))
        assert [] == stream.take()


async def test_a_client_is_told_of_its_own_jobs_and_an_admin_of_all() -> None:
    """A watch by client sees that client's jobs alone."""
    hub = ProgressHub()
    async with hub.watch(client="alice") as alice, hub.watch(client="bob") as bob:
        async with hub.watch(everybody=True) as root:
            hub.publish("alice", said("a", 0))
            hub.publish("bob", said("b", 0, job=OTHER))
            assert [(0, "a"), (0, "b")] == texts(root.take())
        assert [(0, "a")] == texts(alice.take())
        assert [(0, "b")] == texts(bob.take())


async def test_text_that_another_process_has_comes_before_what_is_new() -> None:
    """A late reader waits for the text so far, where it has to be asked for, and then has no gap."""
    wire = Wire()
    hub = ProgressHub(wire)

    def answer() -> None:
        hub.publish("alice", said("cd", 2))  # a live chunk overtakes the answer
        who = {"miner_id": "rig", "session_id": "session-1"}
        whole = {"job_id": JOB, "attempt": 1, "seq": 9, "text": "abcd", "offset": 0}
        hub.publish("alice", ProgressReport(**whole, **who, whole=True))

    wire.answer = answer
    async with hub.watch(JOB) as stream:
        assert [(0, "abcd")] == texts(stream.take())
    assert [JOB] == wire.asked
    assert wire.bound == wire.unbound == [(None, JOB)]


async def test_a_text_that_nobody_sends_is_not_waited_for_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an answer a late reader begins with what comes."""
    monkeypatch.setattr(progress_hub, "ANSWER_SECONDS", 0.01)
    wire = Wire()
    hub = ProgressHub(wire)
    async with asyncio.timeout(5), hub.watch(JOB) as stream:
        hub.publish("alice", said("z", 500))
        assert [(500, "z")] == texts([await anext(stream)])


async def test_a_job_that_is_heard_of_in_the_middle() -> None:
    """Who watches all of a client's jobs has each text from its beginning, which is asked for first."""
    wire = Wire()
    hub = ProgressHub(wire)
    asked = asyncio.Event()
    wire.answer = asked.set
    async with asyncio.timeout(20), hub.watch(client="alice") as stream:
        hub.publish("alice", said("cd", 2))
        await asked.wait()
        hub.publish("alice", said("ef", 4))
        assert [] == stream.take()
        hub.publish("alice", said("abcdef", 0, seq=9), whole=True)
        item = await anext(stream)
        assert (0, "abcdef") == (item.offset, item.text)
        hub.publish("alice", said("g", 6, seq=10))
        assert (6, "g") == texts([await anext(stream)])[0]
    assert [JOB] == wire.asked


async def test_a_topic_is_bound_as_long_as_anyone_watches() -> None:
    """The last reader that leaves unbinds."""
    wire = Wire()
    hub = ProgressHub(wire)
    async with hub.watch(client="alice"):
        async with hub.watch(client="alice"):
            pass
        assert [] == wire.unbound
    assert [("alice", None)] == wire.unbound


async def test_ended_jobs_are_forgotten_after_a_while() -> None:
    """A slow reader still gets the end of the text just after the job ended, and later nothing is kept."""
    now = [0.0]
    hub = ProgressHub(monotonic=lambda: now[0])
    async with hub.watch(JOB) as stream:
        hub.publish("alice", said("the end", 0))
        hub.end(JOB)
        assert [(0, "the end")] == texts(stream.take())
        now[0] += progress_hub.KEEP_FINAL_SECONDS + 1
        hub.publish("bob", said("b", 0, job=OTHER))
        assert hub.whole(JOB) is None
        assert hub.whole(OTHER) is not None


async def test_memory_is_bounded_by_characters_and_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job that said nothing for longest is dropped first, whether somebody watches it or not."""
    monkeypatch.setattr(progress_hub, "MAX_ALL_TEXT", 100)
    monkeypatch.setattr(progress_hub, "MAX_JOBS", 3)
    hub = ProgressHub()
    jobs = [uuid4() for _ in range(6)]
    async with hub.watch(everybody=True) as stream:
        for job in jobs[:2]:
            hub.publish("alice", said("x" * 60, 0, job=job))
        assert [jobs[1]] == [item.job_id for item in stream.take()]
        for job in jobs[2:]:
            hub.publish("alice", said("x", 0, job=job))
        assert jobs[3:] == [item.job_id for item in stream.take()]


@every(
    "bad",
    [
        {"fraction": 1.5},
        {"fraction": float("nan")},
        {"text": "x"},
        {"text": "x" * (MAX_PROGRESS_TEXT + 1), "offset": 0},
        {"seq": -1},
        {"offset": -1},
        {"note": "n" * 201},
        {"attempt": 0},
        {"more": 1},
    ],
)
def test_hostile_progress_is_refused(bad: dict[str, Any]) -> None:
    """What does not fit the model is no progress."""
    with pytest.raises(ValidationError):
        Progress.model_validate({"job_id": str(JOB), "attempt": 1, "seq": 1} | bad)
