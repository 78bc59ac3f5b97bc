"""The rules of erasures."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from coordinator.application.commands.parsing import parse_command
from coordinator.domain.content import (
    CONTENT_KINDS,
    ContentErase,
    ContentErased,
    ErasableJob,
    content_stream,
    decide,
    sentence,
)
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import SYSTEM
from tests.harness.cases import every
from tests.harness.deciding import ADMIN, ALICE, BOB, JOB_ID, SECOND, T0, context_of, given

OTHER = UUID(int=1)
"""Sorts before JOB_ID."""
ERASE = ContentErase(job_ids=(JOB_ID,), reason="no longer needed")


def erased(**changes: Any) -> ContentErased:
    common: dict[str, Any] = {"at": T0, "by": "alice", "jobs": (JOB_ID,), "kinds": CONTENT_KINDS}
    return ContentErased(**{**common, "client": "alice", "reason": "no longer needed", **changes})


def jobs(**more: tuple[str, bool]) -> dict[UUID, ErasableJob]:
    """JOB_ID of alice, and others by name."""
    known = {"other": OTHER, "own": JOB_ID}
    return {known[name]: ErasableJob(client, final) for name, (client, final) in more.items()}


def test_an_erasure_happens_once() -> None:
    """Whoever repeats it, in another order and for another reason, gets the first answer."""
    both = jobs(own=("alice", True), other=("alice", True))
    command = ContentErase(job_ids=(JOB_ID, OTHER, JOB_ID), kinds=("result", "payload"), reason="first")
    decided = given().when(command, jobs=both).then(erased(jobs=(OTHER, JOB_ID), reason="first"))
    assert {"jobs": 2, "kinds": ["payload", "result"]} == decided.answer
    again = ContentErase(job_ids=(OTHER, JOB_ID), reason="second")
    for principal in (ALICE, ADMIN, SYSTEM):
        decided.again(again, jobs=both, by=principal).then()
    streams = [content_stream(c.job_ids, c.kinds) for c in (command, again)]
    assert streams[0] == streams[1]
    assert streams[0] != content_stream((OTHER, JOB_ID), ("result",))


def test_the_event_names_the_client_if_there_is_one() -> None:
    """An erasure by age may be of several clients' jobs; then it names none."""
    mixed = jobs(own=("alice", True), other=("bob", True))
    command = ContentErase(job_ids=(OTHER, JOB_ID), kinds=("payload",), reason="older than 24 hours")
    expected = {"jobs": (OTHER, JOB_ID), "kinds": ("payload",), "client": None, "reason": command.reason}
    given().when(command, by=SYSTEM, jobs=mixed).then(erased(**expected, by=SYSTEM.name))
    given().when(ERASE, by=ADMIN).then(erased(by=ADMIN.name))


def test_a_clients_erasure_is_of_its_own_jobs() -> None:
    """Another client's job and an unknown one are the same refusal, also for a repeat; nothing is erased."""
    mixed = jobs(own=("alice", True), other=("bob", True))
    command = ContentErase(job_ids=(JOB_ID, OTHER), reason="mine")
    foreign = given().when(command, jobs=mixed).then(Code.JOB_NOT_FOUND)
    unknown = given().when(command, jobs=jobs(own=("alice", True))).then(Code.JOB_NOT_FOUND)
    assert foreign.detail == unknown.detail
    given(erased()).when(ERASE, by=BOB).then(Code.JOB_NOT_FOUND)
    given().when(command, by=ADMIN, jobs=jobs(own=("alice", True))).then(Code.JOB_NOT_FOUND)


def test_only_final_jobs_are_erased() -> None:
    """One job that is not final keeps the content of all: cancel it first."""
    running = jobs(own=("alice", True), other=("alice", False))
    command = ContentErase(job_ids=(JOB_ID, OTHER), reason="mine")
    for principal in (ALICE, ADMIN, SYSTEM):
        refused = given().when(command, by=principal, jobs=running).then(Code.CONFLICT_STATE)
        assert f"job {OTHER} is not final; cancel it first" in refused.detail


def test_a_stream_has_one_erasure() -> None:
    """A log with a second one was not written by these rules."""
    with pytest.raises(ValueError, match="can't follow"):
        given(erased(), erased(at=T0 + SECOND))


def test_the_stream_is_the_one_that_the_command_names() -> None:
    """The decision appends where the handler looks."""
    [(stream, _)] = decide(None, ERASE, context_of(ERASE, T0, ALICE))
    assert content_stream(ERASE.job_ids, ERASE.kinds) == stream


def test_a_sentence_is_one_line() -> None:
    """It names who, what and why; a line end in the reason steers nothing."""
    assert "alice erased the payload and the result: no longer needed" == sentence(erased())
    told = sentence(erased(kinds=("result",), reason="two\nlines"))
    assert "alice erased the result: two lines" == told


@every(
    "fields",
    [
        {"job_ids": []},
        {"job_ids": ["not-a-job"]},
        {"job_ids": [str(UUID(int=n)) for n in range(201)]},
        {"kinds": []},
        {"kinds": ["receipt"]},
        {"reason": ""},
        {"reason": " \n"},
        {"reason": "x" * 2001},
        {"reason": None},
        {"more": 1},
    ],
)
def test_an_invalid_erasure_is_refused(fields: dict[str, Any]) -> None:
    """Each of them before anything is looked up."""
    valid = {"job_ids": [str(JOB_ID)], "reason": "why"}
    parse_command("content.erase", dict(valid))
    with pytest.raises(Refusal) as refused:
        parse_command("content.erase", {**valid, **fields})
    assert Code.INVALID_PAYLOAD == refused.value.code
