"""The replay: every event in the order of the log, through the rules, into the rows of the read models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import orjson

from coordinator.audit.content import CONTENT_ERASED, check_erasure
from coordinator.audit.entries import Differing, Divergence, Entry, Found
from coordinator.audit.jobs import FINALS, RUNNING, Job, Statement, follow, submit
from coordinator.audit.money import TOPICS as MONEY
from coordinator.audit.money import Money
from coordinator.audit.parties import Parties
from coordinator.audit.rows import KEYS, RowChecks, move_job_row, move_other_row

_LOW: Final = 2**64 - 1
_JOB: Final = "job."
SIGNING_KEY: Final = "signing_key.introduced.v1"


class Replay:
    """The states of all streams after the events so far.

    A final job is remembered by 8 bytes of its id and the number of its client.
    """

    def __init__(self, rows: RowChecks | None, trusted: Sequence[str] | None) -> None:
        """`trusted`: ids of the coordinator's keys; None for any that the log introduces."""
        self.parties = Parties()
        self.position = 0
        self.events = 0
        self.jobs: dict[str, Job] = {}
        """The open ones."""
        self._finals: dict[int, int] = {}
        """The number of the client, by the low half of the job's id."""
        self._clients: list[str] = []
        self._numbers: dict[str, int] = {}
        """The place of each client in `_clients`."""
        self._versions: dict[str, int] = {}
        """Of streams that are not jobs'."""
        self.money = Money()
        self._rows = rows
        self._others: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in KEYS if name != "jobs"}
        self._trusted = trusted
        self._jobs_projected: int | None = None
        self._ended = False

    def take(self, entry: Entry) -> tuple[Statement | None, Divergence | None]:
        """Follow one event: a statement to verify, and the divergence if it does not fit."""
        if self._rows is not None and entry.position > self._rows.upto and (bad := self.compare_rows()):
            return None, bad
        try:
            statement = self._follow(entry)
        except Found as found:
            return None, found.at(entry.position)
        except Differing as differing:
            return None, differing.divergence
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
            # The check of its form names the fault; this names the event in any case.
            detail = f"{entry.topic} can't be read: {type(error).__name__}"
            return None, Divergence(entry.position, "event", detail)
        self.position = entry.position
        self.events += 1
        return statement, None

    def finish(self) -> Divergence | None:
        """At the end of the log: compare the rows that are not compared yet."""
        self._ended = True
        try:
            self.money.finish()
        except Found as found:
            return found.at(self.position)
        return self.compare_rows()

    def compare_rows(self) -> Divergence | None:
        """Compare the rows that are not compared yet; the read models have come so far."""
        if self._rows is None or self._jobs_projected is not None:
            return None
        self._jobs_projected = len(self.jobs) + len(self._finals)
        candidates = (
            self._ahead(),
            self._rows.flush(),
            self._rows.open_jobs(list(self.jobs.values())),
            self._rows.others(self._others),
            self._rows.counted(self._jobs_projected),
        )
        return min((c for c in candidates if c is not None), default=None, key=lambda c: c.position)

    def _ahead(self) -> Divergence | None:
        """Whether the read models follow from events that the log does not have any more."""
        assert self._rows is not None
        if self._ended and self._rows.upto > self.position:
            detail = "the read models have reached a position that the log does not have"
            return Divergence(self.position, "row", detail, self.position, self._rows.upto)
        return None

    def _follow(self, entry: Entry) -> Statement | None:
        position, stream, version, topic, _, state, _ = entry
        if position <= self.position:
            raise Found("order", "positions increase", f"more than {self.position}", position)
        if not topic.startswith(_JOB):
            return self._other(entry)
        event = orjson.loads(state)
        job = self.jobs.get(stream)
        if job is None:
            self._new_job(entry, event)
            return None
        if version != job.version + 1:
            raise Found("version", f"the next event of stream {stream}", job.version + 1, version)
        at_work = job.held if job.state == RUNNING else None
        statement = follow(job, topic, event, position, self.parties)
        job.version = version
        self._move_row(job, topic, event, position)
        if topic in FINALS:
            stopped = at_work if topic == "job.canceled.v1" else None
            completed = topic == "job.completed.v1"
            self.money.job_ended(job.submitted, event, position, completed=completed, stopped=stopped)
            del self.jobs[stream]
            self._finals[UUID(stream).int & _LOW] = self._number(job.submitted["client"])
            if self._rows is not None and self._jobs_projected is None and (bad := self._rows.final(job.row)):
                raise Differing(bad)
        return statement

    def _new_job(self, entry: Entry, event: dict[str, Any]) -> None:
        if UUID(entry.stream).int & _LOW in self._finals:
            raise Found("final", f"an event of job {entry.stream} after its end", None, entry.topic)
        if entry.version != 1:
            raise Found("version", f"the first event of stream {entry.stream}", 1, entry.version)
        if entry.topic != "job.submitted.v1":
            raise Found(
                "transition", f"a job does not begin with {entry.topic}", "job.submitted.v1", entry.topic
            )
        job = submit(entry.stream, event, self.parties)
        self.money.submitted(event)
        self.jobs[entry.stream] = job
        self._move_row(job, entry.topic, event, entry.position)

    def _other(self, entry: Entry) -> Statement | None:
        position, stream, version, topic = entry[:4]
        expected = self._versions.get(stream, 0) + 1
        if version != expected:
            raise Found("version", f"the next event of stream {stream}", expected, version)
        self._versions[stream] = version
        if not entry.state:
            self.parties.unread.append(topic)
            return None
        event, signed = orjson.loads(entry.state), None
        if topic == CONTENT_ERASED:
            self._erased(entry, event)
            return None
        if topic.startswith(MONEY):
            signed = self.money.follow(stream, topic, event, position)
        else:
            self.parties.follow(stream, topic, event, position)
        if topic == SIGNING_KEY and self._trusted is not None and event["key_id"] not in self._trusted:
            raise Found("key", "the log introduces a signing key that is not trusted", None, event["key_id"])
        if self._rows is not None and self._jobs_projected is None:
            move_other_row(self._others, topic, event, position)
        return None if signed is None else Statement(position, *signed)

    def _erased(self, entry: Entry, event: dict[str, Any]) -> None:
        if entry.version != 1:
            raise Found("transition", "an erasure happens once", 1, entry.version)
        owners: dict[str, str | None] = {}
        for job_id in event["jobs"]:
            number = self._finals.get(UUID(job_id).int & _LOW)
            if number is not None:
                owners[job_id] = self._clients[number]
            elif job_id in self.jobs:
                owners[job_id] = None
        check_erasure(entry.stream, event, owners)
        if self._rows is None or self._rows.content is None:
            return
        if self._jobs_projected is None and (bad := self._rows.flush()):
            raise Found(bad.kind, f"position {bad.position}: {bad.detail}", bad.expected, bad.found)
        self._rows.content.erased(event, entry.position)

    def missing_content(self) -> Divergence | None:
        """At the end of the log: the first payload or result that is missing, with nothing that says why."""
        if self._rows is None or self._rows.content is None:
            return None
        return self._rows.content.finish()

    def _number(self, client: str) -> int:
        number = self._numbers.get(client)
        if number is None:
            number = self._numbers[client] = len(self._clients)
            self._clients.append(client)
        return number

    def _move_row(self, job: Job, topic: str, event: dict[str, Any], position: int) -> None:
        if self._rows is not None:
            move_job_row(job, topic, event, position)

    # --- a file --------------------------------------------------------------------------------------------
    def dump(self) -> dict[str, Any]:
        """For a file; see `load`."""
        return {
            "position": self.position,
            "events": self.events,
            "parties": self.parties.dump(),
            "money": self.money.dump(),
            "jobs": {job_id: job.dump() for job_id, job in self.jobs.items()},
            "finals": sorted(self._finals.items()),
            "clients": self._clients,
            "versions": self._versions,
            "others": self._others,
        }

    def load(self, values: dict[str, Any]) -> None:
        """Go on from an earlier audit's end."""
        self.position, self.events = values["position"], values["events"]
        self.parties = Parties.load(values["parties"])
        self.money = Money.load(values["money"])
        self.jobs = {job_id: Job.load(job) for job_id, job in values["jobs"].items()}
        self._finals = dict(values["finals"])
        self._clients = values["clients"]
        self._numbers = {client: number for number, client in enumerate(self._clients)}
        self._versions, self._others = values["versions"], values["others"]
