"""Final jobs that are submitted again: for their clients, and once for a key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from coordinator.domain.job import JobCancel, JobSubmitAgain, JobSubmitted, job_stream
from coordinator.domain.matching.needs import Constraints
from coordinator.domain.messages import SYSTEM, Principal, Role
from coordinator.domain.quota import Limits
from coordinator.domain.service import ServiceRegister
from coordinator.wire.answers import Accepted, Answer
from tests.harness.bus import ALICE, BOB, Bench, WatchedLog, codes, submit
from tests.harness.deciding import a_spec

OPERATOR = Principal("ops", Role.OPERATOR)
VIEWER = Principal("eve", Role.VIEWER)
FIRST = job_stream("alice", "first")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(WatchedLog(), limits=Limits(queued_jobs=2))
    await bench.bus.start()
    await bench.send(ServiceRegister(spec=a_spec()), by=SYSTEM)
    asked = submit("first", priority=3, ttl_seconds=60, max_attempts=2, constraints=Constraints(region="eu"))
    assert codes(await bench.send(asked)) == ["accepted"]
    yield bench
    await bench.bus.stop()


async def end(bench: Bench, job_id: UUID = FIRST) -> None:
    assert codes(await bench.send(JobCancel(job_id=job_id))) == ["accepted"]


def submitted(bench: Bench) -> list[JobSubmitted]:
    return [r.event for a in bench.committed for r in a.events if isinstance(r.event, JobSubmitted)]


def job_of(answers: list[Answer]) -> UUID:
    [answer] = answers
    assert isinstance(answer, Accepted)
    return UUID(answer.body["job_id"])


def request_of(event: JobSubmitted) -> dict[str, Any]:
    return {name: getattr(event, name) for name in REQUEST}


REQUEST = ("client", "service", "constraints", "job_class", "priority", "max_attempts", "payload_bytes")


async def test_the_new_job_is_the_same_request_of_the_same_client(bench: Bench) -> None:
    """An operator's name is in the event, and the job, its limits and its result are the client's."""
    await end(bench)
    new = job_of(await bench.send(JobSubmitAgain(job_id=FIRST), by=OPERATOR))
    first, second = submitted(bench)
    assert request_of(first) == request_of(second)
    assert (second.job_id, second.by, second.expires_at - second.at) == (new, "ops", 60_000)
    payloads = bench.log.payloads("payload", [FIRST, new])
    assert payloads[FIRST].body == payloads[new].body
    assert payloads[FIRST].salt != payloads[new].salt


async def test_a_repeat_with_the_same_key_makes_no_second_job(bench: Bench) -> None:
    """The key counts for one job and one sender: another key, or another sender, is another job."""
    await end(bench)
    again = JobSubmitAgain(job_id=FIRST, idempotency_key="form-1")
    one = job_of(await bench.send(again, by=OPERATOR))
    assert job_of(await bench.send(again, by=OPERATOR)) == one
    assert job_of(await bench.send(again)) != one
    assert len(submitted(bench)) == 3


async def test_an_open_job_is_not_submitted_again(bench: Bench) -> None:
    """It may still be done."""
    assert codes(await bench.send(JobSubmitAgain(job_id=FIRST))) == ["CONFLICT_STATE"]


@pytest.mark.parametrize(("by", "code"), [(BOB, "JOB_NOT_FOUND"), (VIEWER, "FORBIDDEN"), (ALICE, "accepted")])
async def test_clients_repeat_their_own_jobs_and_viewers_none(bench: Bench, by: Principal, code: str) -> None:
    """Another client's job is no job."""
    await end(bench)
    assert codes(await bench.send(JobSubmitAgain(job_id=FIRST), by=by)) == [code]


async def test_an_unknown_job_is_not_found(bench: Bench) -> None:
    """Neither is the stream of another noun."""
    unknown = JobSubmitAgain(job_id=UUID(int=7))
    assert codes(await bench.send(unknown, by=OPERATOR)) == ["JOB_NOT_FOUND"]


async def test_an_erased_payload_can_not_be_submitted_again(bench: Bench) -> None:
    """The refusal says so, as the digest alone brings nothing back."""
    await end(bench)
    bench.log.erase([FIRST])
    assert codes(await bench.send(JobSubmitAgain(job_id=FIRST))) == ["CONTENT_EXPIRED"]


async def test_the_clients_quota_counts_the_new_job(bench: Bench) -> None:
    """An operator is exempt from limits, and the client that it acts for is not."""
    await end(bench)
    assert codes(await bench.send(submit("a"), submit("b"))) == ["accepted", "accepted"]
    assert codes(await bench.send(JobSubmitAgain(job_id=FIRST), by=OPERATOR)) == ["QUEUE_FULL"]
