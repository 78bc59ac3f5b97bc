"""Payloads for offers, from memory where they were just stored and from beside the log where not."""

from collections.abc import Collection
from uuid import UUID, uuid4

from coordinator.application.dispatch.payloads import Payloads
from coordinator.application.ports import NewEvent, PayloadKind, StoredPayload
from coordinator.domain.job import JobCanceled
from tests.harness.memory_log import MemoryEventLog
from tests.harness.metadata import METADATA


class CountedLog(MemoryEventLog):
    """Says which payloads were read."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_for: list[UUID] = []

    def payloads(self, kind: PayloadKind, job_ids: Collection[UUID]) -> dict[UUID, StoredPayload]:
        self.asked_for += job_ids
        return super().payloads(kind, job_ids)


def stored(log: MemoryEventLog, size: int = 2) -> StoredPayload:
    job = uuid4()
    payload = StoredPayload(job, "payload", b"salt", b"x" * size)
    event = JobCanceled(at=1, by="alice", job_id=job, client="alice", attempt=1, reason="")
    log.append([NewEvent(job, 1, event, METADATA)], [payload])
    return payload


async def test_what_was_just_stored_is_not_read() -> None:
    """The first offer costs no query; a later one of the same job does."""
    log = CountedLog()
    payloads, payload = Payloads(log), stored(log)
    payloads.note([payload])
    assert {payload.job_id: payload} == await payloads.of([payload.job_id])
    assert log.asked_for == []
    assert {payload.job_id: payload} == await payloads.of([payload.job_id])
    assert log.asked_for == [payload.job_id]


async def test_memory_and_log_together_give_all_that_there_is() -> None:
    """Jobs of another process and of the past are read, in one query; what was erased is absent."""
    log = CountedLog()
    here, there, erased = stored(log), stored(log), stored(log)
    log.erase([erased.job_id])
    payloads = Payloads(log)
    payloads.note([here])
    asked = [erased.job_id, here.job_id, there.job_id]
    assert {p.job_id: p for p in (here, there)} == await payloads.of(asked)
    assert log.asked_for == [erased.job_id, there.job_id]


async def test_what_is_kept_is_bounded_in_bytes() -> None:
    """The oldest go when others need the room; results are not kept at all."""
    log = CountedLog()
    old, new = stored(log, 60), stored(log, 60)
    payloads = Payloads(log, keep_bytes=100)
    payloads.note([old, new, new._replace(job_id=uuid4(), kind="result")])
    assert {p.job_id: p for p in (old, new)} == await payloads.of([old.job_id, new.job_id])
    assert log.asked_for == [old.job_id]
