"""Results in memory: there from the commit on, and gone with the event of their erasure."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from coordinator.application.followers.event_feed import EventFeed
from coordinator.application.payloads.recent_results import ENTRY_BYTES, RecentResults
from coordinator.application.ports import Appended, PayloadKind, Recorded, StoredPayload
from coordinator.domain.content import ContentErased, ContentKind
from coordinator.domain.messages import Event
from tests.harness.metadata import STORED_METADATA
from tests.unit.edge_fakes import FakeLog

JOB, OTHER = uuid4(), uuid4()


class Process:
    """The feed and the results of a process that commits."""

    def __init__(self, keep_bytes: int = 10_000) -> None:
        self.feed = EventFeed(FakeLog())  # type: ignore[arg-type]
        self.results = RecentResults(self.feed, keep_bytes)

    def commit(self, *stored: StoredPayload, events: Sequence[Event] = (), feed: bool = True) -> Appended:
        """A commit; with `feed` its events are passed on, as after each commit."""
        previous = self.feed.head
        recorded = [
            Recorded(previous + n + 1, uuid4(), 1, event, b"", STORED_METADATA, "")
            for n, event in enumerate(events or [erasure(uuid4())])
        ]
        appended = Appended(previous, recorded)
        self.results.note(appended, stored)
        if feed:
            self.feed.note_committed(previous, recorded)
        return appended


def erasure(*jobs: UUID, kinds: Sequence[ContentKind] = ("payload", "result")) -> ContentErased:
    return ContentErased(
        at=1, by="root", jobs=jobs, kinds=tuple(kinds), client=None, reason="no longer needed"
    )


def result(job: UUID, body: bytes = b"{}", kind: PayloadKind = "result") -> StoredPayload:
    return StoredPayload(job, kind, b"salt", body)


def test_a_result_is_there_at_its_commit_and_a_payload_is_not() -> None:
    process = Process()
    process.commit(result(JOB, b"[1]"), result(OTHER, kind="payload"))
    assert (result(JOB, b"[1]"), None) == (process.results.of(JOB), process.results.of(OTHER))


@pytest.mark.parametrize("kinds", [("payload",), ("result",), ("payload", "result")])
def test_an_erasure_takes_the_jobs_that_it_names(kinds: Sequence[ContentKind]) -> None:
    """Whatever was erased: memory does not say what is left of a job, the tables do."""
    process = Process()
    process.commit(result(JOB), result(OTHER))
    process.commit(events=[erasure(JOB, kinds=kinds)])
    assert (None, result(OTHER)) == (process.results.of(JOB), process.results.of(OTHER))


def test_events_that_the_feed_has_read_already_bring_no_result() -> None:
    """The feed may have read the commit from the log, and an erasure behind it, before it is noted."""
    process = Process()
    appended = process.commit(feed=False)
    process.feed.note_committed(appended.previous, [*appended.events])
    process.results.note(appended, [result(JOB)])
    assert process.results.of(JOB) is None


def test_memory_is_bounded_in_bytes_and_the_oldest_results_go() -> None:
    process = Process(keep_bytes=3 * (ENTRY_BYTES + 100))
    jobs = [uuid4() for _ in range(5)]
    for job in jobs:
        process.commit(result(job, b"x" * 100))
    assert [None, None, *[result(job, b"x" * 100) for job in jobs[2:]]] == list(map(process.results.of, jobs))
    process.commit(result(jobs[0], b"x" * 10_000))
    assert [None] * 5 == list(map(process.results.of, jobs))
