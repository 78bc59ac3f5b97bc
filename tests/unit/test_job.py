"""The rules of a job, by example."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from coordinator.domain import miner
from coordinator.domain.decision import fold
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import MAX_FREE_RELEASES, JobAttemptEnded, JobCompleted, JobFailed, job_stream
from coordinator.domain.matching.needs import Constraints
from coordinator.domain.messages import COMMANDS, SYSTEM, Event, Principal, Role
from coordinator.domain.service import RegisteredService
from tests.harness.cases import every
from tests.harness.deciding import (
    ADMIN,
    ALICE,
    BOB,
    EXPIRES,
    JOB_ID,
    OTHER_RIG,
    RIG,
    SECOND,
    T0,
    Decided,
    a_spec,
    attempt_ended,
    cancel,
    canceled,
    complete,
    completed,
    expire,
    expired,
    fail,
    failed,
    given,
    job_class,
    lose,
    online,
    registered,
    release,
    requeued,
    start,
    started,
    submit,
    submitted,
)

COMPLETED = [submitted(), started(), completed()]
FAILED = [submitted(), started(), attempt_ended("failed"), failed()]
CANCELED = [submitted(), canceled()]
EXPIRED = [submitted(), expired()]
FINAL = pytest.mark.parametrize(
    "history", [COMPLETED, FAILED, CANCELED, EXPIRED], ids=["completed", "failed", "canceled", "expired"]
)


def paid_by(decided: Decided) -> JobCompleted:
    """The completion, which has what is paid."""
    [paid] = [event for event in decided.events if isinstance(event, JobCompleted)]
    return paid


REQUEUED = [submitted(), started(), attempt_ended("failed"), requeued()]
"""Attempt 1 failed, attempt 2 is for the taking."""


# --- submit ------------------------------------------------------------------------------------------------
def test_submit_is_accepted_with_what_it_left_open_filled_in() -> None:
    """A submit becomes a queued job of the sender's, with the defaults and the registry's terms."""
    decided = given().when(submit()).then(submitted())
    assert {"job_id": str(JOB_ID), "state": "QUEUED", "expires_at": EXPIRES} == decided.answer


def test_submit_normalises_the_constraints() -> None:
    """Equal needs in two spellings give the same event."""
    wanted = {
        "gpu": "RTX4090",
        "cuda": "12.0",
        "models": ["B", "a", "b"],
        "max_price": "0.50",
        "region": "EU",
    }
    normal = Constraints(gpu="rtx-4090", cuda="12", models=("a", "b"), max_price="0.5", region="eu")
    given().when(submit(constraints=wanted)).then(
        submitted(constraints=normal, job_class=job_class(**normal.model_dump()))
    )


def test_submit_records_the_terms_of_the_service_as_they_are_now() -> None:
    """A job carries its service's version, time limit and price: a later revision does not change them."""
    service = RegisteredService(
        a_spec(timeout_seconds=60, pricing={"unit": "hour", "amount": "3.6"}), version=7
    )
    given().when(submit(), service=service).then(
        submitted(service_version=7, timeout_seconds=60, list_price="0.001000000", max_units="60.000")
    )


def test_submit_repeated_gives_the_first_answer() -> None:
    """A repeat of a submit, at any later time and in any state, does nothing and is told the job as it is."""
    repeat = given(*COMPLETED).when(submit(), now=EXPIRES + 1).then()
    assert {"job_id": str(JOB_ID), "state": "COMPLETED", "expires_at": EXPIRES} == repeat.answer


def test_submit_repeated_is_accepted_after_its_service_was_retired() -> None:
    """What was accepted stays accepted: a repeat does not look at the registry again."""
    given(submitted()).when(submit(), service=None, fault=Refusal(Code.INVALID_PAYLOAD, "no")).then()


def test_submit_with_a_used_key_and_another_request_is_refused() -> None:
    """An idempotency key stands for one request."""
    given(submitted()).when(submit(priority=3), fingerprint="other").then(Code.IDEMPOTENCY_MISMATCH)


@pytest.mark.parametrize("service", [None, RegisteredService(a_spec(), version=1, retired=True)])
def test_submit_to_an_unknown_or_retired_service_is_refused(service: Any) -> None:
    """A job needs a service that takes jobs."""
    given().when(submit(), service=service).then(Code.SERVICE_NOT_FOUND)


def test_submit_with_a_faulty_payload_is_refused_as_the_check_said() -> None:
    """What the schema check found wrong is the refusal."""
    fault = Refusal(Code.INVALID_PAYLOAD, "audio: is missing")
    decided = given().when(submit(), fault=fault).then(Code.INVALID_PAYLOAD)
    assert "audio: is missing" == decided.detail


def test_two_clients_may_use_the_same_key() -> None:
    """A job's id is made of the client and its key, so that keys of two clients never meet."""
    assert job_stream("alice", "k") == job_stream("alice", "k")
    assert 4 == len({job_stream(c, k) for c in ("alice", "bob") for k in ("k", "l")})


OF_A_JOB = sorted(t for t in COMMANDS if t.startswith("job.") and not t.startswith("job.submit"))
"""A submit makes a job, and the handler makes a submit of `job.submit_again`."""


@every("topic", OF_A_JOB)
def test_every_command_but_submit_needs_a_job(topic: str) -> None:
    """A job that was never submitted is not found, whatever is asked of it."""
    commands = [start(), complete(), fail(), release(), lose(), cancel(), expire()]
    command = next(c for c in commands if c.topic == topic)
    given().when(command).then(Code.JOB_NOT_FOUND)


# --- start -------------------------------------------------------------------------------------------------
def test_start_claims_the_offered_attempt() -> None:
    """An accepted start gives this session the lease, under the key that it registered."""
    decided = given(submitted()).when(start()).then(started())
    assert {"job_id": str(JOB_ID), "state": "RUNNING", "attempt": 1} == decided.answer


def test_start_repeated_gives_the_first_answer() -> None:
    """A repeated claim of the holder is accepted again, even once its session is over."""
    decided = given(submitted()).when(start()).then(started())
    repeat = decided.again(miner=None).then()
    assert decided.answer == repeat.answer


def test_start_repeated_after_the_result_is_accepted() -> None:
    """A claim that overtook nothing but its answer: the job is done, and it was this session that did it."""
    assert "COMPLETED" == given(*COMPLETED).when(start()).then().answer["state"]


def test_a_held_attempt_is_not_given_to_another() -> None:
    """One attempt has one holder: another miner, and another session of the same miner, are told so."""
    running = given(submitted(), started())
    running.when(start(miner_id="other-rig"), by=OTHER_RIG, miner=online(miner_id="other-rig")).then(
        Code.CONFLICT_STATE
    )
    running.when(start(session="session-2"), miner=online("session-2")).then(Code.CONFLICT_STATE)


@pytest.mark.parametrize("attempt", [1, 3])
def test_start_of_an_attempt_that_is_not_offered_is_stale(attempt: int) -> None:
    """Only the current attempt can be claimed: not one before, and not one that was never offered."""
    given(*REQUEUED).when(start(attempt)).then(Code.STALE_ATTEMPT)


def test_start_of_the_next_attempt_after_a_failure() -> None:
    """The attempt that is now for the taking goes to whoever claims it, the one that failed included."""
    given(*REQUEUED).when(start(2)).then(started(2, at=T0 + 3 * SECOND))


def test_start_after_the_time_to_live_is_refused() -> None:
    """A job whose time is over is not begun, even where the timers have not got to it yet."""
    given(submitted()).when(start(), now=EXPIRES).then(Code.CONFLICT_STATE)
    given(submitted()).when(start(), now=EXPIRES - 1).then(started(at=EXPIRES - 1))


@every(
    ("known", "code"),
    [
        (None, Code.SESSION_NOT_LIVE),
        (online("session-2"), Code.SESSION_NOT_LIVE),
        (miner.Offline(registered()), Code.SESSION_NOT_LIVE),
        (miner.Draining(registered()), Code.MINER_DRAINING),
        (miner.Draining(registered("session-2")), Code.SESSION_NOT_LIVE),
    ],
)
@every("command", [start(), complete(), fail()])
def test_only_a_live_session_gets_new_work(command: Any, known: miner.MinerState, code: Code) -> None:
    """A claim, also one inside a result or a failure, needs a live session that does not drain."""
    given(submitted()).when(command, miner=known).then(code)


def test_start_by_a_miner_that_cannot_do_it_is_refused_with_the_reason() -> None:
    """A claim is checked against the needs again: whoever took the offer from the wrong queue is told why."""
    wants = submitted(constraints=Constraints(cuda="12.10"), job_class=job_class(cuda="12.10"))
    decided = given(wants).when(start()).then(Code.NOT_CAPABLE)
    assert "this miner needs CUDA 12.10 or newer, has 12.4" == decided.detail


@every(
    ("own_price", "limit", "unit_price"),
    [
        (None, None, "0.002"),  # the list price
        (None, "0.002", "0.002"),
        (None, "0.003", "0.002"),
        ("0.0015", "0.003", "0.0015"),  # its own
        ("0.002", None, "0.002"),
        ("0.01", "0.01", "0.01"),
        ("0", None, "0"),
        ("0", "0", "0"),
    ],
)
def test_the_price_is_the_miners_own_or_the_list_price_within_the_limit(
    own_price: str | None, limit: str | None, unit_price: str
) -> None:
    """The price of a unit is fixed when the attempt starts, and never over what the client allows."""
    job = submitted(constraints=Constraints(max_price=limit), job_class=job_class(max_price=limit))
    given(job).when(start(), miner=online(price=own_price)).then(started(unit_price=unit_price))


@FINAL
def test_no_attempt_of_a_final_job_starts(history: Any) -> None:
    """A final job gives nothing to do."""
    given(*history).when(start(2)).then(Code.CONFLICT_STATE)


# --- complete ----------------------------------------------------------------------------------------------
def test_complete_ends_the_job_with_the_facts_of_its_receipt() -> None:
    """The holder's result completes the job: the stated time, the agreed price, the signed statement."""
    decided = (
        given(submitted(), started())
        .when(complete(metrics={"tokens": 7, "model": "base"}))
        .then(completed(metrics={"tokens": 7, "model": "base"}))
    )
    assert {"job_id": str(JOB_ID), "state": "COMPLETED", "attempt": 1} == decided.answer


def test_complete_repeated_gives_the_first_answer() -> None:
    """A repeated result changes nothing, and its answer is the first one's."""
    decided = given(submitted(), started()).when(complete()).then(completed())
    repeat = decided.again(complete(result={"text": "another"}, begun=T0)).then()
    assert decided.answer == repeat.answer


def test_complete_without_a_claim_claims_and_completes_in_one_decision() -> None:
    """For work that finishes at once the claim may be left out: one decision, both events."""
    now = T0 + 2 * SECOND
    given(submitted()).when(complete(), now=now).then(started(at=now), completed(at=now))


def test_work_without_a_claim_is_paid_from_when_the_attempt_was_queued() -> None:
    """Nobody saw the work begin: the miner's word counts back to the queueing, and no further."""
    queued_again = requeued(at=T0 + 5 * SECOND)
    history = [submitted(), started(), attempt_ended("failed", at=T0 + 5 * SECOND), queued_again]
    paid = paid_by(given(*history).when(complete(2, begun=T0), now=T0 + 8 * SECOND))
    assert (T0 + 5 * SECOND, "0.000") == (paid.started_at, paid.units)
    paid = paid_by(given(*history).when(complete(2, begun=T0, ended=T0 + 7 * SECOND), now=T0 + 8 * SECOND))
    assert (T0 + 5 * SECOND, "2.000") == (paid.started_at, paid.units)


def test_complete_without_a_claim_needs_what_a_claim_needs() -> None:
    """A result is no way around the checks of a claim."""
    wants = submitted(constraints=Constraints(gpu="amd"), job_class=job_class(gpu="amd"))
    given(wants).when(complete()).then(Code.NOT_CAPABLE)
    given(submitted()).when(complete(), now=EXPIRES).then(Code.CONFLICT_STATE)


def test_complete_by_the_holder_is_accepted_after_its_session_was_lost() -> None:
    """The lease counts, not the session: an outage costs no running attempt its result."""
    given(submitted(), started()).when(complete(), miner=None).then(completed())


def test_complete_by_the_holder_is_accepted_while_nothing_has_ended_the_lease() -> None:
    """Past the time to live the job expires when the timers say so; a result that is there first counts."""
    given(submitted(), started()).when(complete(), now=EXPIRES + SECOND).then(completed(at=EXPIRES + SECOND))


@pytest.mark.parametrize("history", [[submitted()], [submitted(), started()]], ids=["queued", "running"])
def test_complete_without_proof_changes_nothing(history: Any) -> None:
    """A statement that does not prove the result refuses the result, and the claim inside it."""
    fault = Refusal(Code.INVALID_STATEMENT, "the signature is not the miner's")
    given(*history).when(complete(), fault=fault).then(Code.INVALID_STATEMENT)


@every(
    "command",
    [
        complete(1),
        complete(3),
        complete(2, session="session-2"),
        complete(2, miner_id="rig@rig"),
    ],
)
@every("kind", ["complete", "fail", "release"])
def test_what_is_not_the_holders_changes_nothing(command: Any, kind: str) -> None:
    """A result, failure or release of another attempt or session than the lease's is stale."""
    makers: dict[str, Callable[..., Any]] = {"complete": complete, "fail": fail, "release": release}
    make = makers[kind]
    stale = make(command.attempt, command.session_id, command.miner_id)
    # Attempt 1 was another session's, so that no report of it is a repeat.
    history = [submitted(), started(session="session-0"), attempt_ended("lost", session="session-0")]
    given(*history, requeued(by=SYSTEM), started(2)).when(stale).then(Code.STALE_ATTEMPT)


@pytest.mark.parametrize("kind", [complete, fail, release])
def test_a_lost_attempt_that_reports_is_told_that_it_is_stale(kind: Any) -> None:
    """A miner that was silent too long learns that its attempt is over, also while nobody has the next."""
    history = [submitted(), started(), attempt_ended("lost"), requeued(by=SYSTEM)]
    given(*history).when(kind()).then(Code.STALE_ATTEMPT)


@pytest.mark.parametrize(
    ("begun", "ended", "paid"),
    [
        (T0 + 1500, T0 + 1750, (T0 + 1500, T0 + 1750, "0.250", "0.000500")),
        (T0 - SECOND, T0 + 9 * SECOND, (T0 + SECOND, T0 + 3 * SECOND, "2.000", "0.004000")),
        (T0 + 2 * SECOND, T0 + SECOND, (T0 + 2 * SECOND, T0 + 2 * SECOND, "0.000", "0.000000")),
        (0, 0, (T0 + SECOND, T0 + SECOND, "0.000", "0.000000")),
        (2**53, 2**53, (T0 + 3 * SECOND, T0 + 3 * SECOND, "0.000", "0.000000")),
    ],
    ids=["within", "wider than seen", "backwards", "in 1970", "far in the future"],
)
def test_paid_is_the_time_that_the_miner_states_within_the_time_that_was_seen(
    begun: int, ended: int, paid: tuple[int, int, str, str]
) -> None:
    """Units lie between the claim and the result, whatever the miner's clock says, and are never negative."""
    now = T0 + 3 * SECOND
    started_at, completed_at, units, price = paid
    work: dict[str, Any] = {
        "started_at": started_at,
        "completed_at": completed_at,
        "units": units,
        "price": price,
    }
    given(submitted(), started()).when(complete(begun=begun, ended=ended), now=now).then(
        completed(at=now, stated=(begun, ended), **work)
    )


@every(
    ("max_units", "payload", "expected"),
    [
        (None, {}, "3600.000"),
        ("2", {}, "2.000"),
        ("0", {}, "0.000"),
        ("99999", {}, "3600.000"),  # never more than the time limit
        ({"fixed": "30", "each": [{"member": "max_tokens", "default": 256, "units": "0.1"}]}, {}, "55.600"),
        ({"each": [{"member": "max_tokens", "units": "0.1"}]}, {"max_tokens": 100}, "10.000"),
        ({"each": [{"member": "max_tokens", "units": "0.1"}]}, {}, "3600.000"),  # the payload does not say
        ({"each": [{"member": "max_tokens", "units": "0.1"}]}, {"max_tokens": True}, "3600.000"),
        ({"each": [{"member": "max_tokens", "units": "0.1"}]}, {"max_tokens": -5}, "0.000"),
        ({"each": [{"member": "max_tokens", "units": "0.1"}]}, {"max_tokens": 1e300}, "3600.000"),
        ({"each": [{"member": "clip", "units": "1"}]}, {"clip": 1.25}, "1.250"),
        ({"each": [{"member": "max", "times": "n", "units": "0.1"}]}, {"max": 100, "n": 8}, "80.000"),
        ({"each": [{"member": "max", "times": "n", "units": "0.1"}]}, {"max": 100}, "10.000"),
        ({"each": [{"member": "max", "times": "n", "units": "0.1"}]}, {"max": 100, "n": -1}, "10.000"),
        ({"each": [{"member": "max", "times": "n", "units": "0.1"}]}, {"n": 2}, "3600.000"),
        ({"each": [{"member": "max", "default": 9, "times": "n", "units": "1"}]}, {"n": 2}, "18.000"),
        ({"each": [{"member": "max", "times": "n", "units": "0"}]}, {"max": 1e300, "n": 1e300}, "0.000"),
        ({"each": [{"member": "inputs", "units": "10"}]}, {"inputs": ["a", "b"]}, "20.000"),
        (
            {"each": [{"member": "end", "minus": "start", "units": "2"}]},
            {"start": 10, "end": 14},
            "10.000",
        ),
        ({"each": [{"member": "end", "minus": "start", "units": "2"}]}, {"start": 14, "end": 1}, "0.000"),
        ({"each": [{"member": "end", "minus": "start", "units": "2"}]}, {"end": 1}, "3600.000"),
    ],
)
def test_the_limit_of_units_follows_from_entry_and_payload(
    max_units: Any, payload: dict[str, Any], expected: str
) -> None:
    """It is recorded with the job, so that a later revision does not change it."""
    service = RegisteredService(a_spec(max_units=max_units), version=1)
    decided = given().when(submit(payload=payload), service=service)
    decided.then(submitted(max_units=expected))


@pytest.mark.parametrize(
    ("limit", "bill"),
    [
        ("1.000", ("1.000", "0.002000", "12.000")),
        ("11.999", ("11.999", "0.023998", "12.000")),
        ("12.000", ("12.000", "0.024000", None)),
        ("0.000", ("0.000", "0.000000", "12.000")),
    ],
)
def test_work_beyond_the_limit_of_units_is_not_billed(limit: str, bill: tuple[str, str, str | None]) -> None:
    """The receipt has the limit as its units, and the measured ones beside it."""
    history = [submitted(max_units=limit), started()]
    decided = given(*history).when(complete(ended=T0 + 13 * SECOND), now=T0 + 60 * SECOND)
    paid = paid_by(decided)
    assert bill == (paid.units, paid.price, paid.measured_units)


BREACH = Refusal(Code.INVALID_RESULT, "whisper: text does not fit the schema's type")


def test_a_result_against_the_schema_ends_the_attempt_as_failed() -> None:
    """The event has the code and the places; the next attempt is offered, until none is left."""
    ended = attempt_ended("failed", error_code="INVALID_RESULT", error_message=BREACH.detail)
    decided = given(submitted(), started()).when(complete(), breach=BREACH).then(ended, requeued(2))
    decided.again(breach=BREACH).then()
    last = given(submitted(max_attempts=1), started()).when(complete(), breach=BREACH)
    last.then(ended, failed(code="INVALID_RESULT", message=BREACH.detail))
    last.again(breach=BREACH).then()
    last.again(complete(session="session-2"), breach=BREACH).then(Code.CONFLICT_STATE)


def test_a_result_against_the_schema_without_a_claim_claims_and_fails() -> None:
    """Work that leaves the claim out costs an attempt, too."""
    decided = given(submitted()).when(complete(), breach=BREACH, now=T0 + 2 * SECOND)
    ended = attempt_ended("failed", error_code="INVALID_RESULT", error_message=BREACH.detail)
    decided.then(started(at=T0 + 2 * SECOND), ended, requeued(2))


def test_a_result_against_the_schema_by_another_session_costs_nothing() -> None:
    """Only the holder of the lease can lose it."""
    other = complete(session="session-2")
    given(submitted(), started()).when(other, breach=BREACH).then(Code.STALE_ATTEMPT)


def test_nothing_is_paid_for_time_that_ran_backwards() -> None:
    """A clock that stepped back between claim and result gives zero units, never less."""
    decided = given(submitted(), started()).when(complete(), now=T0)
    assert ("0.000", "0.000000") == (paid_by(decided).units, paid_by(decided).price)


def test_the_price_is_rounded_half_up_to_six_places() -> None:
    """0.001 s at 0.0015 a second is 0.0000015, and so 0.000002."""
    history = [submitted(), started(unit_price="0.0015")]
    command = complete(begun=T0 + 1500, ended=T0 + 1501)
    assert "0.000002" == paid_by(given(*history).when(command)).price


def test_the_price_is_exact_for_the_largest_numbers() -> None:
    """A week at the highest price that can be written is multiplied without rounding the integer part."""
    week = 604_800 * SECOND
    history = [
        submitted(expires_at=T0 + week, max_units="604800.000"),
        started(unit_price="999999999999.999999999"),
    ]
    decided = given(*history).when(complete(ended=T0 + week), now=T0 + week)
    assert "604798999999999999.999395" == paid_by(decided).price


# --- fail --------------------------------------------------------------------------------------------------
def test_fail_queues_the_next_attempt() -> None:
    """A retryable failure ends the attempt and offers the next."""
    decided = given(submitted(), started()).when(fail()).then(attempt_ended("failed"), requeued(2))
    assert {"job_id": str(JOB_ID), "state": "QUEUED", "attempt": 1} == decided.answer


def test_fail_keeps_what_the_miner_said() -> None:
    """Code, message and metrics of a failure are on record."""
    said: dict[str, Any] = {
        "error_code": "BAD_AUDIO",
        "error_message": "no such codec",
        "metrics": {"seconds": 3},
    }
    given(submitted(max_attempts=1), started()).when(fail(**said, retryable=False)).then(
        attempt_ended("failed", **said, retryable=False), failed(code="BAD_AUDIO", message="no such codec")
    )


HOPELESS = attempt_ended("failed", retryable=False)


def test_one_miners_word_costs_one_attempt() -> None:
    """A failure that no other attempt could mend, as the miner says, is tried once more."""
    decided = given(submitted(), started()).when(fail(retryable=False))
    decided.then(HOPELESS, requeued(2))
    assert "QUEUED" == decided.answer["state"]
    once = given(submitted(), started(), HOPELESS, requeued(2), started(2)).when(fail(2, retryable=False))
    once.then(attempt_ended("failed", 2, retryable=False), requeued(3))  # the same miner: no second opinion


def test_a_second_miner_that_says_the_same_fails_the_job() -> None:
    """Two miners find that no other attempt could succeed: the job is final with attempts left."""
    who: dict[str, Any] = {"session": "session-of-other", "miner_id": "other"}
    other = online(who["session"], who["miner_id"])
    history = [submitted(max_attempts=10), started(), HOPELESS, requeued(2), started(2, **who)]
    second: dict[str, Any] = {"by": Principal("other", Role.MINER), "miner": other}
    said = given(*history).when(fail(2, **who, retryable=False), **second)
    assert ["job.attempt_ended.v1", "job.failed.v1"] == [event.topic for event in said.events]
    hopeful = given(*history).when(fail(2, **who), **second)
    assert ["job.attempt_ended.v1", "job.requeued.v1"] == [event.topic for event in hopeful.events]


@pytest.mark.parametrize("code", ["LEASE_LOST", "TOO_SLOW", "RELEASED", "CANCELED", "EXPIRED"])
def test_a_miner_cannot_fail_with_a_code_of_ours(code: str) -> None:
    """Readers of a job must be able to tell the coordinator's reasons from a miner's."""
    given(submitted(), started()).when(fail(error_code=code)).then(Code.INVALID_PAYLOAD)


@pytest.mark.parametrize(
    "command", [start(), complete(), fail(), fail(retryable=False)], ids=lambda c: c.topic
)
def test_an_attempt_that_was_not_offered_cannot_be_claimed(command: Any) -> None:
    """Ids of jobs can be guessed: without the token of its offer no command claims an attempt."""
    given(submitted()).when(command, offered=False).then(Code.NOT_OFFERED)
    if command.topic != "job.start":  # after the claim the lease is enough
        assert given(submitted(), started()).when(command, offered=False).events


def test_the_last_attempt_that_fails_fails_the_job() -> None:
    """After `max_attempts` failures there is no other attempt."""
    given(submitted(max_attempts=1), started()).when(fail()).then(attempt_ended("failed"), failed())
    last = started(3, at=T0 + 5 * SECOND)
    second = [started(2), attempt_ended("failed", 2), requeued(3)]
    now = T0 + 6 * SECOND
    given(*REQUEUED, *second, last).when(fail(3)).then(attempt_ended("failed", 3, at=now), failed(3, at=now))


def test_fail_without_a_claim_claims_and_ends_in_one_decision() -> None:
    """Work that fails at once may leave out the claim, as a result may; it counts as an attempt."""
    decided = given(submitted(max_attempts=1)).when(fail(), now=T0 + 2 * SECOND)
    decided.then(started(at=T0 + 2 * SECOND), attempt_ended("failed"), failed())
    decided = given(submitted()).when(fail(), now=T0 + 2 * SECOND)
    decided.then(started(at=T0 + 2 * SECOND), attempt_ended("failed"), requeued(2))


@pytest.mark.parametrize("history", [[submitted()], [submitted(), started()]], ids=["no claim", "claimed"])
@pytest.mark.parametrize("retryable", [True, False])
def test_fail_repeated_gives_the_first_answer(history: Any, retryable: bool) -> None:
    """A repeated failure does nothing, whatever came of the first."""
    decided = given(*history).when(fail(retryable=retryable))
    assert decided.answer == decided.again().then().answer


def test_fail_repeated_after_the_next_attempt_was_done_is_accepted() -> None:
    """However late the repeat comes, it is the same report."""
    history = [*REQUEUED, started(2, "session-2", "other-rig"), completed(2, "session-2", "other-rig")]
    given(*history).when(fail(1)).then()


def test_a_second_word_of_another_kind_is_stale() -> None:
    """An attempt that failed can't also be released, completed or claimed again."""
    given(*REQUEUED).when(release(1)).then(Code.STALE_ATTEMPT)
    given(*REQUEUED).when(complete(1)).then(Code.STALE_ATTEMPT)
    given(*REQUEUED).when(start(1)).then(Code.STALE_ATTEMPT)


def test_another_miner_with_the_same_session_id_repeats_nothing() -> None:
    """Sessions are chosen by miners and may collide: a report of another's attempt is no repeat."""
    for command in (fail(1, miner_id="other-rig"), start(1, miner_id="other-rig")):
        given(*REQUEUED).when(command, by=OTHER_RIG).then(Code.STALE_ATTEMPT)


@FINAL
@every("kind", [complete, fail, release])
def test_what_a_miner_says_of_a_final_job_changes_nothing(history: Any, kind: Any) -> None:
    """A final state is never left; its miner is told to drop the work."""
    given(*history).when(kind(1, session="session-9")).then(Code.CONFLICT_STATE)


# --- release -----------------------------------------------------------------------------------------------
def test_release_does_not_count_as_an_attempt() -> None:
    """A miner that stops hands its work back, and the job has as many attempts left as before."""
    decided = given(submitted(max_attempts=1), started()).when(release())
    decided.then(attempt_ended("released"), requeued(2))
    assert 0 == decided.state.charged
    again = given(*decided.given.history, *decided.events, started(2)).when(fail(2), now=T0 + 2 * SECOND)
    again.then(attempt_ended("failed", 2), failed(2))


def test_releases_count_once_there_were_too_many() -> None:
    """A miner that claims and hands back for ever ends the job instead of keeping it."""
    history: list[Event] = [submitted(max_attempts=2)]
    for attempt in range(1, MAX_FREE_RELEASES + 1):
        history += [started(attempt), attempt_ended("released", attempt), requeued(attempt + 1)]
    attempt = MAX_FREE_RELEASES + 1
    decided = given(*history, started(attempt)).when(release(attempt))
    decided.then(attempt_ended("released", attempt), requeued(attempt + 1))
    history += [started(attempt), attempt_ended("released", attempt), requeued(attempt + 1)]
    attempt += 1
    ended = given(*history, started(attempt)).when(release(attempt)).events
    assert [type(e) for e in ended] == [JobAttemptEnded, JobFailed]


def test_release_still_takes_a_new_attempt_number() -> None:
    """The fence moves with every hand-over: what was released can't be completed later."""
    history = [submitted(), started(), attempt_ended("released"), requeued(2)]
    given(*history).when(complete(1)).then(Code.STALE_ATTEMPT)


def test_release_repeated_gives_the_first_answer() -> None:
    """A repeated release does nothing."""
    decided = given(submitted(), started()).when(release())
    assert decided.answer == decided.again().then().answer


def test_release_of_what_was_never_claimed_changes_nothing() -> None:
    """There is no lease to give back: the offer itself is simply not taken."""
    given(submitted()).when(release()).then(Code.STALE_ATTEMPT)


# --- lose --------------------------------------------------------------------------------------------------
def test_a_lost_lease_queues_the_next_attempt() -> None:
    """Silence ends an attempt and counts against the limit."""
    decided = given(submitted(), started()).when(lose())
    decided.then(attempt_ended("lost"), requeued(2, by=SYSTEM))
    assert 1 == decided.state.charged


def test_the_last_lost_attempt_fails_the_job() -> None:
    """A job that takes its miners down does not go on for ever."""
    given(submitted(max_attempts=1), started()).when(lose()).then(
        attempt_ended("lost"), failed(code="LEASE_LOST", message="no heartbeat", by=SYSTEM)
    )


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_lose_repeated_gives_nothing_new(max_attempts: int) -> None:
    """Two timers that see the same silence are one loss."""
    given(submitted(max_attempts=max_attempts), started()).when(lose()).again().then()


def test_lose_of_another_attempt_than_the_running_one_changes_nothing() -> None:
    """A timer that comes late takes no lease from the attempt after."""
    given(submitted()).when(lose()).then(Code.STALE_ATTEMPT)
    given(*REQUEUED, started(2)).when(lose(1)).then(Code.STALE_ATTEMPT)
    given(*COMPLETED).when(lose(1)).then(Code.CONFLICT_STATE)


# --- cancel ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("history", "attempt"),
    [([submitted()], 1), ([submitted(), started()], 1), (REQUEUED, 2), ([*REQUEUED, started(2)], 2)],
    ids=["queued", "running", "queued again", "running again"],
)
def test_cancel_stops_a_job_that_is_not_final(history: Any, attempt: int) -> None:
    """The client may cancel until the job is final; the event says which attempt to stop."""
    decided = given(*history).when(cancel("changed my mind"), now=T0 + 9 * SECOND)
    decided.then(canceled(attempt, "changed my mind", at=T0 + 9 * SECOND))
    assert {"job_id": str(JOB_ID), "state": "CANCELED"} == decided.answer


def test_cancel_repeated_gives_the_first_answer() -> None:
    """A repeated cancel does nothing, also with another reason."""
    decided = given(submitted()).when(cancel("a"))
    assert decided.answer == decided.again(cancel("b")).then().answer


def test_cancel_by_another_client_looks_like_a_job_that_is_not_there() -> None:
    """Nobody learns from a cancel that another client's job exists: code and text are the same."""
    missing = given().when(cancel(), by=BOB).then(Code.JOB_NOT_FOUND)
    for history in ([submitted()], [submitted(), started()], COMPLETED, CANCELED):
        anothers = given(*history).when(cancel(), by=BOB).then(Code.JOB_NOT_FOUND)
        assert missing.detail == anothers.detail


def test_an_admin_may_cancel_any_job() -> None:
    """Operators stop what has to be stopped, and the event names them."""
    given(submitted()).when(cancel(), by=ADMIN).then(canceled(by=ADMIN))


@pytest.mark.parametrize("history", [COMPLETED, FAILED, EXPIRED], ids=["completed", "failed", "expired"])
def test_cancel_of_a_final_job_is_refused(history: Any) -> None:
    """It is too late: the refusal says which state the job ended in."""
    decided = given(*history).when(cancel()).then(Code.CONFLICT_STATE)
    assert "which is final" in decided.detail


@pytest.mark.parametrize("kind", [complete, fail, release, start])
def test_the_miner_of_a_canceled_job_is_told_to_drop_it(kind: Any) -> None:
    """A cancel wins over whatever the holder says afterwards."""
    given(submitted(), started(), canceled()).when(kind()).then(Code.CONFLICT_STATE)


# --- expire ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("history", [[submitted()], [submitted(), started()]], ids=["queued", "running"])
def test_expire_ends_a_job_whose_time_is_over(history: Any) -> None:
    """The time to live covers waiting and running."""
    given(*history).when(expire(), now=EXPIRES).then(expired())


def test_expire_before_the_time_is_refused() -> None:
    """A timer's clock that runs ahead ends nothing early."""
    given(submitted()).when(expire(), now=EXPIRES - 1).then(Code.CONFLICT_STATE)


def test_expire_repeated_gives_nothing_new() -> None:
    """Two timers are one expiry."""
    given(submitted()).when(expire(), now=EXPIRES).then(expired()).again().then()


@pytest.mark.parametrize("history", [COMPLETED, FAILED, CANCELED], ids=["completed", "failed", "canceled"])
def test_expire_of_a_final_job_is_refused(history: Any) -> None:
    """A job that ended otherwise does not expire."""
    given(*history).when(expire(), now=EXPIRES).then(Code.CONFLICT_STATE)


# --- who speaks --------------------------------------------------------------------------------------------
@every(
    "speaker",
    [OTHER_RIG, ALICE, ADMIN, SYSTEM, Principal("ig", Role.MINER), Principal("rig", Role.CLIENT)],
)
@every("kind", [start, complete, fail, release])
def test_nobody_speaks_for_another_miner(kind: Any, speaker: Principal) -> None:
    """What a message says it comes from must be what the sender proved to be."""
    for history in ([submitted()], [submitted(), started()], REQUEUED, COMPLETED):
        given(*history).when(kind(), by=speaker).then(Code.FORBIDDEN)


@pytest.mark.parametrize("kind", [start, complete, fail])
def test_a_principal_speaks_for_its_nodes(kind: Any) -> None:
    """`node@principal` is the principal's, and nobody else's."""
    command = kind(miner_id="node-1@rig")
    known = online(miner_id="node-1@rig")
    assert given(submitted()).when(command, by=RIG, miner=known).events
    given(submitted()).when(command, by=OTHER_RIG, miner=known).then(Code.FORBIDDEN)
    given(submitted()).when(command, by=Principal("node-1", Role.MINER), miner=known).then(Code.FORBIDDEN)


# --- shapes ------------------------------------------------------------------------------------------------
@every(
    "changes",
    [
        {"ttl_seconds": 0},
        {"ttl_seconds": 604_801},
        {"priority": -1},
        {"priority": 10},
        {"max_attempts": 0},
        {"max_attempts": 11},
        {"idempotency_key": ""},
        {"idempotency_key": "a\nb"},
        {"idempotency_key": "k" * 201},
        {"payload": [1]},
        {"service": "Whisper"},
        {"service": "whisper\n"},
        {"surprise": 1},
        {"constraints": {"gpu": "显卡"}},
        {"constraints": {"max_price": "-1"}},
        {"constraints": {"cuda": "12.x"}},
    ],
)
def test_a_submit_outside_the_bounds_is_no_submit(changes: Any) -> None:
    """What the protocol does not allow can't even be said."""
    with pytest.raises(ValidationError):
        submit(**changes)


def test_a_finished_job_does_not_remember_for_ever() -> None:
    """The attempts that a state keeps are bounded, however often a job is handed back."""
    history: list[Any] = [submitted()]
    for attempt in range(1, 40):
        history += [started(attempt), attempt_ended("released", attempt), requeued(attempt + 1)]
    state = given(*history).state
    assert (16, 39) == (len(state.ended), state.ended[-1].attempt)


def test_an_event_that_does_not_fit_the_state_names_both() -> None:
    """A log that no decision could have written is an error, not a state."""
    with pytest.raises(ValueError, match=r"job\.completed\.v1 can't follow Queued"):
        fold([submitted(), completed()])
