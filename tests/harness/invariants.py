"""The invariants of the design, checked from outside: own SQL, own fold of the raw JSON, public keys alone.

`check` waits until the followers are where the log is, and then names every violation that it finds. Only the
comparison of the read models with a fold of the log (invariant 7) is the product's own; everything that it
rests on is checked here without it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import aio_pika

from coordinator.crypto.log.leaf import hash_of
from coordinator.crypto.merkle import root_of
from coordinator.crypto.signature import VerificationFailed
from coordinator.crypto.statement import verify_statement
from coordinator.projections import projector
from coordinator.projections.derived import rebuilding
from coordinator.storage.log.postgres import PostgresEventLog
from coordinator.storage.log.sqlite import SqliteEventLog
from coordinator.storage.tables.postgres import PostgresDatabase
from coordinator.storage.tables.sqlite import SqliteDatabase
from tests.harness.logbook import FINAL_TOPICS, Entry, Logbook
from tests.harness.waiting import eventually

FOLLOWERS = {"projector", "dispatcher", "publisher", "timers", "notary", "usage", "eraser", "webhooks"}
OF_MONEY = {"settler"}
"""Runs where accounts are kept."""
MAX_TOLD = 12
SETTLED_QUEUES = ("coordinator.commands", "coordinator.dead")
SETTLED_SECONDS = 60.0


@dataclass
class JobSeen:
    """A job as its events tell it."""

    job_id: str
    submitted: dict[str, Any]
    state: str = "QUEUED"
    attempt: int = 1
    lease: dict[str, Any] | None = None
    ending: bool = False
    """An attempt has ended, and the next event must say what follows."""
    starts: int = 0
    receipts: list[dict[str, Any]] = field(default_factory=list)
    """The facts of its receipt, without a signature: the coordinator signs it when somebody asks."""
    result_digest: str | None = None


@dataclass(frozen=True)
class Checked:
    """What was found in a log that is in order."""

    jobs: Mapping[str, JobSeen]

    def states(self, job_ids: Collection[str] | None = None) -> Counter[str]:
        return Counter(self.jobs[j].state for j in (self.jobs if job_ids is None else job_ids))

    def starts(self, job_ids: Collection[str] | None = None) -> Counter[int]:
        """How many jobs were started how often."""
        return Counter(self.jobs[j].starts for j in (self.jobs if job_ids is None else job_ids))


async def check(
    source: str | Path,
    *,
    coordinator_key: str,
    accepted: Collection[str] = (),
    all_final: bool = True,
    amqp_url: str | None = None,
) -> Checked:
    """Check the log and everything that is derived from it. Raises AssertionError, which names violations.

    `source`: a Postgres url or the SQLite file (of a coordinator that has stopped); `coordinator_key`: the
    key that must be in force for every receipt; `accepted`: jobs that clients were told are accepted;
    `all_final`: nothing may be left open; `amqp_url`: a broker on which no command may be left or dead.
    """
    book = Logbook(source)
    if not book.is_sqlite:
        # A follower without any event yet has no row.
        followers = FOLLOWERS | (OF_MONEY if book.count("account.held.v1") else set())

        def caught_up() -> bool:
            return set(book.positions().values()) == {book.head()} and book.positions().keys() == followers

        await eventually(caught_up, "every follower at the log's end")
    entries = book.entries()
    seen = _Fold(coordinator_key)
    violations = [*_streams(entries), *seen.fold(entries)]
    violations += [f"{j}: accepted, and not in the log" for j in set(accepted) - seen.jobs.keys()]
    violations += _payloads(book, seen.jobs)
    if all_final:
        violations += [
            f"{j.job_id}: left {j.state}" for j in seen.jobs.values() if j.state in ("QUEUED", "RUNNING")
        ]
    violations += _tables(book, seen.jobs, all_final)
    violations += _checkpoints(book)
    violations += await asyncio.to_thread(_differences, source)
    if amqp_url is not None:
        violations += await _queues(amqp_url)
    told = "\n".join(violations[:MAX_TOLD])
    assert not violations, f"{len(violations)} violations:\n{told}"
    return Checked(seen.jobs)


def _streams(entries: Collection[Entry]) -> Iterator[str]:
    """Versions are 1, 2, 3 … in every stream, in the order of positions; no position twice."""
    versions: Counter[Any] = Counter()
    for entry in entries:
        versions[entry.stream] += 1
        if entry.version != versions[entry.stream]:
            yield f"stream {entry.stream}: version {entry.version} where {versions[entry.stream]} was due"
    for before, after in pairwise(e.position for e in entries):
        if after <= before:
            yield f"position {after} follows {before}"


class _Fold:
    """What may follow what in a job's stream, and what a receipt will say."""

    def __init__(self, coordinator_key: str) -> None:
        self.jobs: dict[str, JobSeen] = {}
        self._key = coordinator_key
        self._sessions: dict[tuple[str, str], str] = {}
        """Each session's public key, from its registration."""
        self._live: dict[str, str] = {}
        self._in_force: str | None = None
        """The coordinator's key."""

    def fold(self, entries: Collection[Entry]) -> Iterator[str]:
        for entry in entries:
            data = entry.data
            if entry.topic == "miner.registered.v1":
                known = self._sessions.setdefault((data["miner_id"], data["session_id"]), data["public_key"])
                if known != data["public_key"] or self._live.get(data["miner_id"]) == data["session_id"]:
                    yield f"session {data['session_id']} registered twice"
                self._live[data["miner_id"]] = data["session_id"]
            elif entry.topic in ("miner.left.v1", "miner.lost.v1", "miner.drained.v1"):
                if self._live.get(data["miner_id"]) != data["session_id"]:
                    yield f"{entry.topic} at {entry.position} of a session that is not the live one"
                if entry.topic != "miner.drained.v1":
                    self._live.pop(data["miner_id"], None)
            elif entry.topic == "signing_key.introduced.v1":
                if data["retires"] != self._in_force:
                    yield f"a key at {entry.position} retires {data['retires']}, and {self._in_force} signs"
                self._in_force = data["key_id"]
            elif entry.topic.startswith("job."):
                for problem in self._job(entry):
                    yield f"{data['job_id']} at {entry.position} ({entry.topic}): {problem}"

    def _job(self, entry: Entry) -> Iterator[str]:
        data = entry.data
        job = self.jobs.get(data["job_id"])
        if entry.topic == "job.submitted.v1":
            if job is not None:
                yield "submitted twice"
            if str(entry.stream) != data["job_id"]:
                yield "in another stream than its own"
            self.jobs[data["job_id"]] = JobSeen(data["job_id"], data)
            return
        if job is None:
            yield "before it was submitted"
            return
        if data["client"] != job.submitted["client"]:
            yield "of another client"
        if job.state in FINAL_TOPICS.values():
            yield f"after it was {job.state}"
            return
        if job.ending and entry.topic not in ("job.requeued.v1", "job.failed.v1"):
            yield "in between an attempt's end and what follows"
        match entry.topic:
            case "job.started.v1":
                yield from self._start(job, data)
            case "job.attempt_ended.v1":
                yield from _same_lease(job, data)
                job.lease, job.ending = None, True
            case "job.requeued.v1":
                if not job.ending or data["attempt"] != job.attempt + 1:
                    yield f"attempt {data['attempt']} follows {job.attempt}"
                job.attempt, job.state, job.ending = data["attempt"], "QUEUED", False
            case "job.completed.v1":
                yield from _same_lease(job, data)
                yield from self._receipt(job, data)
                job.state, job.lease, job.result_digest = "COMPLETED", None, data["result_digest"]
            case "job.failed.v1" | "job.canceled.v1" | "job.expired.v1":
                if data["attempt"] != job.attempt:
                    yield f"attempt {data['attempt']}, and the job is at {job.attempt}"
                job.state, job.lease, job.ending = FINAL_TOPICS[entry.topic], None, False
            case _:
                yield "of an unknown kind"

    def _start(self, job: JobSeen, data: Mapping[str, Any]) -> Iterator[str]:
        if job.lease is not None:
            yield f"a second lease beside that of {job.lease['session_id']}"
        if data["attempt"] != job.attempt:
            yield f"attempt {data['attempt']} was started where {job.attempt} was due"
        if data["miner_key"] != self._sessions.get((data["miner_id"], data["session_id"])):
            yield "by a session that never registered this key"
        job.lease, job.state = dict(data), "RUNNING"
        job.starts += 1

    def _receipt(self, job: JobSeen, data: Mapping[str, Any]) -> Iterator[str]:
        """The receipt's content follows from the events alone; the signed statement proves it."""
        said = {name: data[name] for name in ("attempt", "miner_id", "session_id", "result_digest")}
        said |= {name: job.submitted[name] for name in ("job_id", "service", "payload_digest")}
        statement = {"version": "1", **said, **data["statement"]}
        job.receipts.append(
            {**data, "provider": data["miner_id"], "metadata": {**said, "statement": statement}}
        )
        try:
            verify_statement(statement, self._sessions.get((data["miner_id"], data["session_id"]), ""))
        except VerificationFailed as failure:
            yield f"its statement does not verify: {failure}"
            return
        if self._in_force != self._key:
            yield f"its receipt's key is {self._in_force}, which is not among the trusted keys"
        paid_ms = data["completed_at"] - data["started_at"]
        unit, shown = job.submitted.get("unit"), data.get("shown_units")
        done = Decimal(paid_ms) / 1000 if unit is None else Decimal(statement["units"][unit])
        units = min([done, Decimal(job.submitted["max_units"]), *([Decimal(shown)] if shown else [])])
        expected = {
            "units": (Decimal(data["units"]), units),
            "price": (data["price"], _price(data["units"], job.lease)),
        }
        if data["started_at"] < statement["started_at_ms"] and data["started_at"] < job.submitted["at"]:
            yield f"it is paid from {data['started_at']}, before it was there"
        if paid_ms > max(0, statement["completed_at_ms"] - statement["started_at_ms"]):
            yield f"{paid_ms} ms are paid, more than the statement says"
        yield from (f"its receipt's {name} is {a}, not {b}" for name, (a, b) in expected.items() if a != b)


def _same_lease(job: JobSeen, data: Mapping[str, Any]) -> Iterator[str]:
    if job.lease is None:
        yield "without a lease"
        return
    for name in ("attempt", "miner_id", "session_id"):
        if job.lease[name] != data[name]:
            yield f"{name} {data[name]}, and the lease is {job.lease[name]}'s"


def _price(units: str, lease: Mapping[str, Any] | None) -> str:
    if lease is None:
        return "nothing"
    price = (Decimal(units) * Decimal(lease["unit_price"])).quantize(Decimal("0.000001"), ROUND_HALF_UP)
    return format(price, "f")


def _payloads(book: Logbook, jobs: Mapping[str, JobSeen]) -> Iterator[str]:
    """Beside the log is what its digests say, for every job, and nothing else: nothing that is erased."""
    stored = {(job_id, kind): (salt, body) for job_id, kind, salt, body in book.payloads()}
    wanted = {(j.job_id, "payload"): j.submitted["payload_digest"] for j in jobs.values()}
    wanted |= {(j.job_id, "result"): j.result_digest for j in jobs.values() if j.result_digest}
    for erasure in book.entries("content.erased.v1"):
        for job_id in erasure.data["jobs"]:
            for kind in erasure.data["kinds"]:
                wanted.pop((job_id, kind), None)
    for key, digest in wanted.items():
        salt, body = stored.pop(key, (b"", b""))
        if body.startswith(b'{"blob":'):
            continue  # the document is in the blob store
        if hashlib.sha256(salt + body).hexdigest() != digest:
            yield f"{key[0]}: the stored {key[1]} is not what the log says"
    yield from (f"{job_id}: a {kind} that no event tells of" for job_id, kind in stored)


def _tables(book: Logbook, jobs: Mapping[str, JobSeen], all_final: bool) -> Iterator[str]:
    """The read models have every job and receipt; the followers' own tables have nothing that is over."""
    rows = {r[0]: r[1:] for r in book.rows("SELECT job_id, state, attempt FROM jobs")}
    expected = {j.job_id: (j.state, j.attempt) for j in jobs.values()}
    for job_id in sorted(rows.keys() | expected.keys()):
        if rows.get(job_id) != expected.get(job_id):
            yield f"{job_id}: the table says {rows.get(job_id)}, the log {expected.get(job_id)}"
    prices = dict(book.rows("SELECT job_id, price FROM jobs WHERE price IS NOT NULL"))
    paid = {j.job_id: [receipt["price"] for receipt in j.receipts] for j in jobs.values() if j.receipts}
    for job_id in sorted(prices.keys() | paid.keys()):
        if [prices.get(job_id)] != paid.get(job_id):
            yield f"{job_id}: the table's price is not the log's one"
    still_open = {j.job_id for j in jobs.values() if j.state in ("QUEUED", "RUNNING")}
    leased = {j.job_id for j in jobs.values() if j.state == "RUNNING"}
    positions, head = book.positions(), book.head()
    for table, follower, wanted in (
        ("open_work", "dispatcher", still_open),
        ("leases", "timers", leased),
    ):
        if positions.get(follower) != head:
            continue  # a stop does not wait for it; `_differences` compares the table at its position
        found = set(book.column(f"SELECT job_id FROM {table}"))
        if found != wanted:
            yield f"{table}: {len(found - wanted)} too many, {len(wanted - found)} missing"
    if all_final and still_open:
        yield f"{len(still_open)} jobs are open"


def _checkpoints(book: Logbook) -> Iterator[str]:
    """Each checkpoint of the log has the root over its first events, as they are stored now."""
    place = "rowid" if book.is_sqlite else "notification_id"
    columns = f"{place}, originator_id, originator_version, topic, metadata, state"
    hashes = [
        hash_of(position, str(UUID(str(stream))), version, topic, bytes(metadata), bytes(state))
        for position, stream, version, topic, metadata, state in book.rows(
            f"SELECT {columns} FROM stored_events ORDER BY {place}"
        )
    ]
    [*_, origin] = book.column("SELECT origin FROM log_origins ORDER BY number")
    signed = [row for row in book.rows("SELECT origin, size, root FROM checkpoints") if row[0] == origin]
    if not signed:
        yield f"the log {origin} has no checkpoint"
    for _, size, root in signed:
        if size > len(hashes) or root_of(hashes[:size]) != bytes(root):
            yield f"the checkpoint of {size} events is not of this log"


def _differences(source: str | Path) -> list[str]:
    if isinstance(source, Path):
        sqlite_log, sqlite = SqliteEventLog(source), SqliteDatabase(source)
        try:
            return [*projector.differences(sqlite_log, sqlite), *rebuilding.differences(sqlite_log, sqlite)]
        finally:
            sqlite_log.close()
            sqlite.close()
    log, database = PostgresEventLog(source), PostgresDatabase(source)
    try:
        return [*projector.differences(log, database), *rebuilding.differences(log, database)]
    finally:
        log.close()
        database.close()


async def _queues(amqp_url: str) -> list[str]:
    """No command waits, none is dead, and no work queue holds anything for long once all is done."""
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        left = []
        for name in SETTLED_QUEUES:

            async def empty(name: str = name) -> bool:
                queue = await channel.declare_queue(name, passive=True)
                return queue.declaration_result.message_count == 0

            try:
                await eventually(empty, f"nothing left in {name}", SETTLED_SECONDS)
            except AssertionError as error:
                left.append(str(error))
        return left
