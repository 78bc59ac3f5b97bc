"""The life of a job by the rules of the protocol: which event may follow which, and what it may say."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final, NamedTuple

from coordinator.audit.entries import Found
from coordinator.audit.parties import Parties
from coordinator.audit.units import Terms, check_terms, owed

QUEUED: Final = "QUEUED"
RUNNING: Final = "RUNNING"
ENDED: Final = "between attempts"
FINALS: Final = {
    "job.completed.v1": "COMPLETED",
    "job.failed.v1": "FAILED",
    "job.canceled.v1": "CANCELED",
    "job.expired.v1": "EXPIRED",
}
FREE_RELEASES: Final = 10
"""Attempts that a miner handed back and that cost none of the job's attempts."""
REMEMBERED: Final = 16
"""Ended attempts that count, besides the newest one."""
CLAIMLESS_MILLIS: Final = 10_000
"""The most paid time of a result without a claim."""
_SIGNED: Final = frozenset({"started_at_ms", "completed_at_ms", "signature", "units"})
"""The members of a statement that the log has nowhere else."""

Event = dict[str, Any]


class Statement(NamedTuple):
    """A miner's statement to verify."""

    position: int
    document: dict[str, Any]
    key_id: str


class Job:
    """The facts of a job that is not final."""

    __slots__ = (
        "attempt",
        "charged",
        "ended",
        "held",
        "queued_at",
        "row",
        "state",
        "submitted",
        "version",
    )

    def __init__(self, submitted: Event) -> None:
        self.submitted = submitted
        self.version = 1
        self.state = QUEUED
        self.attempt = 1
        self.queued_at: int = submitted["at"]
        self.held: Event | None = None
        """The event of the claim, while the job runs; that of the attempt's end, between attempts."""
        self.charged = 0
        self.ended: list[tuple[str, str, bool]] = []
        """Miner, outcome, and whether it said that no other attempt could succeed."""
        self.row: dict[str, Any] = {}
        """The row of the read model."""

    def dump(self) -> list[Any]:
        """For a file; see `load`."""
        return [getattr(self, name) for name in self.__slots__]

    @classmethod
    def load(cls, values: list[Any]) -> Job:
        """The job of `dump`."""
        job = cls.__new__(cls)
        for name, value in zip(cls.__slots__, values, strict=True):
            setattr(job, name, value)
        job.ended = [(miner, outcome, final) for miner, outcome, final in job.ended]
        return job


def submit(stream: str, event: Event, parties: Parties) -> Job:
    """A new job. Raises Found."""
    if event["job_id"] != stream:
        raise Found("stream", "a job's events are in the stream of its id", stream, event["job_id"])
    if event["by"] != event["client"]:
        raise Found("client", "a job is submitted by its owner", event["client"], event["by"])
    terms = parties.terms(event["service"], event["service_version"])
    if terms is None and not parties.unread:
        raise Found(
            "service", f"no version {event['service_version']} of {event['service']} was registered before"
        )
    check_terms(event, terms)
    return Job(event)


def follow(job: Job, topic: str, event: Event, position: int, parties: Parties) -> Statement | None:
    """Change the job by its next event; the statement to verify if it completes the job. Raises Found."""
    submitted = job.submitted
    if event["job_id"] != submitted["job_id"]:
        raise Found(
            "stream", "a job's events are in the stream of its id", submitted["job_id"], event["job_id"]
        )
    if event["client"] != submitted["client"]:
        raise Found("client", "a job has one owner", submitted["client"], event["client"])
    match topic:
        case "job.started.v1":
            _start(job, event, parties)
        case "job.completed.v1":
            terms = parties.terms(submitted["service"], submitted["service_version"])
            return _complete(job, event, position, terms)
        case "job.attempt_ended.v1":
            _end(job, event)
        case "job.requeued.v1":
            _requeue(job, event)
        case "job.failed.v1":
            _fail(job, event)
        case "job.canceled.v1":
            _check_state(job, topic, QUEUED, RUNNING)
            _check_attempt(job, event)
            job.state = "CANCELED"
        case "job.expired.v1":
            _check_state(job, topic, QUEUED, RUNNING)
            _check_attempt(job, event)
            if event["at"] < submitted["expires_at"]:
                raise Found(
                    "transition", "the job expired before its time", submitted["expires_at"], event["at"]
                )
            job.state = "EXPIRED"
        case _:
            raise Found("transition", f"{topic} can't follow {job.state}")
    return None


def _start(job: Job, event: Event, parties: Parties) -> None:
    if job.state == RUNNING:
        raise Found("lease", "two miners hold one job", _holder(job.held), _holder(event))
    _check_state(job, "job.started.v1", QUEUED)
    _check_attempt(job, event)
    if event["at"] >= job.submitted["expires_at"]:
        raise Found("transition", "a job was claimed after its end", job.submitted["expires_at"], event["at"])
    if event["miner_id"].rpartition("@")[2] != event["by"]:
        raise Found("lease", "a miner claims for itself", event["miner_id"].rpartition("@")[2], event["by"])
    session = parties.session(event["miner_id"], event["session_id"])
    if session is None:
        raise Found(
            "session", f"the session {event['session_id']} of {event['miner_id']} was never registered"
        )
    if session.key != event["miner_key"]:
        raise Found("session", "another key than the session's", session.key, event["miner_key"])
    asked = session.asked(job.submitted.get("unit"))
    price = job.submitted["list_price"] if asked is None else asked
    if event["unit_price"] != price:
        raise Found("price", "the unit's price is the miner's, or the list price", price, event["unit_price"])
    limit = job.submitted["constraints"].get("max_price")
    limit = job.submitted["list_price"] if limit is None else limit
    if Decimal(price) > Decimal(limit):
        raise Found("price", "the unit's price exceeds the client's limit", limit, price)
    job.state, job.held = RUNNING, event
    job.charged += 1


def _complete(job: Job, event: Event, position: int, terms: Terms | None) -> Statement:
    _check_state(job, "job.completed.v1", RUNNING)
    _check_holder(job, event)
    held = job.held
    assert held is not None
    signed, at = event["statement"], event["at"]
    said = [signed.get("started_at_ms"), signed.get("completed_at_ms")]
    # Another member would replace a fact of the log: an old statement then seems to fit a new result.
    if set(signed) - _SIGNED:
        raise Found("statement", "the statement has other members", sorted(_SIGNED), sorted(signed))
    if not (isinstance(signed.get("signature"), dict) and all(type(moment) is int for moment in said)):
        raise Found("statement", "the result has no signed statement of its times")
    paid = [event["started_at"], event["completed_at"]]
    leases = [held["at"]]
    if held["at"] == at:  # perhaps claimed and completed in one decision
        leases.append(max(job.queued_at, at - CLAIMLESS_MILLIS))
    times = [_paid_time(said, since, at) for since in leases]
    if paid not in times:
        raise Found("price", "the paid time is the stated time within the lease", times[0], paid)
    due = owed(job.submitted, event, held["unit_price"], terms)
    told = event["units"], event["price"], event.get("measured_units"), event.get("shown_units")
    if due != told:
        raise Found("price", "the bill is units by price, within the limit", list(due), list(told))
    job.state = "COMPLETED"
    document = {
        "version": "1",
        "job_id": job.submitted["job_id"],
        "attempt": event["attempt"],
        "miner_id": event["miner_id"],
        "session_id": event["session_id"],
        "service": job.submitted["service"],
        "payload_digest": job.submitted["payload_digest"],
        "result_digest": event["result_digest"],
        **signed,
    }
    return Statement(position, document, held["miner_key"])


def _end(job: Job, event: Event) -> None:
    _check_state(job, "job.attempt_ended.v1", RUNNING)
    _check_holder(job, event)
    outcome = event["outcome"]
    released = sum(1 for _, how, _ in job.ended[-REMEMBERED:] if how == "released")
    if outcome == "released" and released < FREE_RELEASES:
        job.charged -= 1
    job.ended = [*job.ended, (event["miner_id"], outcome, not event["retryable"])][-REMEMBERED - 1 :]
    job.state, job.held = ENDED, event


def _is_over(job: Job) -> bool:
    """Whether the attempt that has just ended was the job's last one."""
    miner, _, final = job.ended[-1]
    confirmed = final and any(said and other != miner for other, _, said in job.ended[:-1])
    return bool(job.charged >= job.submitted["max_attempts"] or confirmed)


def _requeue(job: Job, event: Event) -> None:
    _check_state(job, "job.requeued.v1", ENDED)
    if event["attempt"] != job.attempt + 1:
        raise Found("attempt", "the next attempt is one more", job.attempt + 1, event["attempt"])
    if _is_over(job):
        raise Found("transition", "a job without attempts left is not queued again")
    job.state, job.attempt, job.queued_at, job.held = QUEUED, event["attempt"], event["at"], None


def _fail(job: Job, event: Event) -> None:
    _check_state(job, "job.failed.v1", ENDED)
    _check_attempt(job, event)
    held = job.held
    assert held is not None
    if (held["error_code"], held["error_message"]) != (event["error_code"], event["error_message"]):
        raise Found(
            "transition",
            "a job fails for the reason of its last attempt",
            held["error_code"],
            event["error_code"],
        )
    if not _is_over(job):
        raise Found("transition", "a job with attempts left does not fail")
    job.state = "FAILED"


def _check_state(job: Job, topic: str, *states: str) -> None:
    if job.state not in states:
        raise Found("transition", f"{topic} can't follow {job.state}", list(states), job.state)


def _check_attempt(job: Job, event: Event) -> None:
    if event["attempt"] != job.attempt:
        raise Found("attempt", "the event is of another attempt", job.attempt, event["attempt"])


def _check_holder(job: Job, event: Event) -> None:
    _check_attempt(job, event)
    if _holder(job.held) != _holder(event):
        raise Found("lease", "another miner or session holds the job", _holder(job.held), _holder(event))


def _holder(event: Event | None) -> list[str]:
    return [] if event is None else [event["miner_id"], event["session_id"]]


def _paid_time(said: list[int], since: int, now: int) -> list[int]:
    """The stated time, clipped to the time from `since` to `now`."""
    begun = max(since, min(said[0], now))
    return [begun, max(begun, min(said[1], now))]
