"""The events of a passport through the rules of the auditor, in the order of the log."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from coordinator.audit.entries import Entry, Found
from coordinator.audit.jobs import FINALS, Event, Job, Statement, follow, submit
from coordinator.audit.parties import Parties
from coordinator.audit.units import Terms
from coordinator.crypto.log.passport import Passport, ProvenEvent

SIGNING_KEY: Final = "signing_key.introduced.v1"
REGISTERED: Final = "miner.registered.v1"
COMPLETED: Final = "job.completed.v1"
STATED: Final = {"started_at_ms", "completed_at_ms", "signature"}
"""The members of a statement that the log has nowhere else."""
SERVICES: Final = ("service.registered.v1", "service.revised.v1")

MAX_VERSION: Final = 1_000_000


class Hold(NamedTuple):
    """A miner held an attempt."""

    attempt: int
    miner_id: str
    miner_key: str
    since: int
    """Unix milliseconds."""
    until: int
    outcome: str


class History(NamedTuple):
    """The life of the job, by its events."""

    submitted: Event
    ended: Event
    """The last event."""
    state: str
    """The final state."""
    holds: list[Hold]
    statement: Statement | None
    """Of a completed job, to verify."""
    coordinator_key: str | None
    """The coordinator's key in force at the job's end; None if none is in the passport before it."""


UNKNOWN: Final = Terms(0, "", None, False)
"""Of a version that is not in the passport."""


class Relied(Parties):
    """What a job relies on. Of services only single versions are known."""

    def __init__(self) -> None:
        super().__init__()
        self._terms: dict[tuple[str, int], Terms] = {}
        self._signing_keys = 0

    def terms(self, service: str, version: int) -> Terms | None:
        return self._terms.get((service, version))

    def take(self, entry: Entry) -> None:
        """Take one event. Raises Found."""
        event = json.loads(entry.state)
        if entry.topic in SERVICES:
            # The auditor asks for the versions one by one. Here the others are missing.
            spec, version = event["spec"], event.get("version", 1)
            if not 1 <= version <= MAX_VERSION:
                raise Found("service", "no entry has so many versions", MAX_VERSION, version)
            self.versions[spec["id"]] = [UNKNOWN] * (version - 1)
            self.follow(entry.stream, entry.topic, event, entry.position)
            self._terms[spec["id"], version] = self.versions[spec["id"]][version - 1]
            return
        if entry.topic == SIGNING_KEY:
            self._signing_keys += 1
            if entry.version != self._signing_keys:
                raise Found("version", "the signing keys have a gap", self._signing_keys, entry.version)
        elif entry.topic != REGISTERED:
            raise Found("event", f"no job relies on {entry.topic}")
        self.follow(entry.stream, entry.topic, event, entry.position)

    def key_at(self, position: int) -> str | None:
        """The coordinator's key in force for the event at this position."""
        known = [key for after, key in self.signing if after < position]
        return known[-1] if known else None


def entry_of(event: ProvenEvent) -> Entry:
    """The event as the auditor reads events."""
    return Entry(
        event.position,
        event.stream,
        event.version,
        event.topic,
        event.metadata.encode(),
        event.state.encode(),
    )


def replay(passport: Passport) -> History:
    """The job's life. Raises Found at the first event against the rules, and for a life without an end."""
    relied, job, statement = Relied(), None, None
    holds: list[Hold] = []
    own = {event.position for event in passport.events}
    last: Event = {}
    state = ""
    for entry in map(entry_of, sorted([*passport.events, *passport.relied_on], key=lambda e: e.position)):
        if entry.position not in own:
            relied.take(entry)
            continue
        last = json.loads(entry.state)
        if job is None:
            job = _begin(entry, last, relied)
            continue
        if state:
            raise Found("final", "an event after the job's end", None, entry.topic)
        if entry.topic == COMPLETED and set(last["statement"]) - {"units"} != STATED:
            # Another member would replace a fact of the log: another job's statement would seem to fit.
            raise Found(
                "statement", "the statement has other members", sorted(STATED), sorted(last["statement"])
            )
        statement = follow(job, entry.topic, last, entry.position, relied)
        _note_hold(holds, job, entry.topic, last)
        state = FINALS.get(entry.topic, "")
    if job is None or not state:
        raise Found("truncated", "the last event does not end the job: later events are missing")
    return History(job.submitted, last, state, holds, statement, relied.key_at(passport.events[-1].position))


def _begin(entry: Entry, event: dict[str, Any], relied: Relied) -> Job:
    if entry.topic != "job.submitted.v1":
        raise Found("transition", f"a job does not begin with {entry.topic}", "job.submitted.v1", entry.topic)
    return submit(entry.stream, event, relied)


def _note_hold(holds: list[Hold], job: Job, topic: str, event: Event) -> None:
    if topic == "job.started.v1":
        hold = Hold(event["attempt"], event["miner_id"], event["miner_key"], event["at"], event["at"], "")
        holds.append(hold)
    elif holds and not holds[-1].outcome and topic != "job.requeued.v1":
        outcome = event.get("outcome") or FINALS[topic].lower()
        holds[-1] = holds[-1]._replace(until=event["at"], outcome=outcome)
