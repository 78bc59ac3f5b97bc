"""Bulk cancel and submit-again: batches are planned, begun, looked at and canceled here, by any process.

`runner` carries them out. A batch acts as the principal that began it, with its role and its jobs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast
from uuid import UUID

from coordinator.application.ports import Clock, Database
from coordinator.application.search.found import Count, FoundJob
from coordinator.application.search.jobs import JobSearch
from coordinator.application.search.query import MAX_LENGTH, JobQuery
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobStateName
from coordinator.domain.messages import ACTS_ON_ALL, READS_ALL, Millis, Principal, Role

BatchKind = Literal["cancel", "retry"]
BatchState = Literal["RUNNING", "DONE", "CANCELED", "STOPPED"]
SAMPLE: Final = 10
RECENT: Final = 20
MOST: Final = 100_000
"""The jobs of a batch are counted up to here; it acts on all of them, however many there are."""
LOOKS: Final = 50
"""How often that count may look at further jobs."""
MAX_REASON: Final = 1000
USUAL_STATES: Final[dict[BatchKind, tuple[JobStateName, ...]]] = {
    "cancel": ("QUEUED", "RUNNING"),
    "retry": ("FAILED", "CANCELED", "EXPIRED"),
}
"""The states of a query that names none."""
POSSIBLE_STATES: Final[dict[BatchKind, tuple[JobStateName, ...]]] = {
    "cancel": ("QUEUED", "RUNNING"),
    "retry": ("FAILED", "CANCELED", "EXPIRED", "COMPLETED"),
}
_MAY: Final = {"cancel": "canceled", "retry": "submitted again"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What a batch would do: a dry run."""

    kind: BatchKind
    query: str
    """As it will be carried out: with the states that the kind can act on."""
    total: Count
    by_state: dict[JobStateName, int]
    """Of the jobs counted in `total`."""
    sample: tuple[FoundJob, ...]
    """The first jobs, in the order of the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobBatch:
    """A batch and its progress."""

    batch_id: UUID
    kind: BatchKind
    query: str
    principal: str
    role: Role
    reason: str
    state: BatchState
    """`STOPPED`: it could not go on; `why` says it."""
    why: str
    total: Count
    """The jobs that matched when it was begun."""
    done: int
    """Accepted commands."""
    refused: dict[str, int]
    """Refused commands by code."""
    place: str | None
    """Where it goes on."""
    position: int
    """The position of its last effect."""
    created_at: Millis
    ended_at: Millis | None

    @property
    def seen(self) -> int:
        """The jobs that it came to, accepted or refused."""
        return self.done + sum(self.refused.values())

    @property
    def sender(self) -> Principal:
        """The principal that it acts as."""
        return Principal(self.principal, self.role)


def batch_of(row: Mapping[str, Any]) -> JobBatch:
    """The batch in this row."""
    return JobBatch(
        batch_id=UUID(row["batch_id"]),
        kind=cast("BatchKind", row["kind"]),
        query=row["query"],
        principal=row["principal"],
        role=Role(row["role"]),
        reason=row["reason"],
        state=cast("BatchState", row["state"]),
        why=row["why"],
        total=Count(row["total"], bool(row["more"])),
        done=row["done"],
        refused=json.loads(row["refused_json"]),
        place=row["place"],
        position=row["position"],
        created_at=row["created_at"],
        ended_at=row["ended_at"],
    )


class JobBatches:
    """Used on the event loop; the tables are read and written in threads. All raise LogUnavailable."""

    def __init__(
        self,
        database: Database,
        search: JobSearch,
        clock: Clock,
        new_id: Callable[[], UUID],
        caught_up: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`caught_up` waits until the tables have what this process knows of the log."""
        self._database = database
        self._search = search
        self._clock = clock
        self._new_id = new_id
        self._caught_up = caught_up
        self.on_begun: Callable[[], None] = lambda: None
        """Wakes the runner of this process."""

    async def plan(self, principal: Principal, kind: BatchKind, query: str) -> BatchPlan:
        """What a batch would do. Raises Refusal."""
        parsed, client = _checked(principal, kind, query), client_of(principal)
        if self._caught_up is not None:  # the sender's own last jobs count, too
            await self._caught_up()
        counted = await self._search.count(client, parsed, most=MOST, looks=LOOKS)
        page = await self._search.page(client, parsed, limit=SAMPLE, oldest_first=True)
        return BatchPlan(
            kind=kind, query=parsed.text, total=counted.total, by_state=counted.by_state, sample=page.jobs
        )

    async def begin(self, principal: Principal, kind: BatchKind, query: str, reason: str = "") -> JobBatch:
        """Begin a batch. Raises Refusal, also while another one of the same name is under way."""
        if len(reason) > MAX_REASON:
            raise Refusal(Code.INVALID_PAYLOAD, f"reason: write {MAX_REASON} characters at most")
        if "\0" in reason:
            raise Refusal(Code.INVALID_PAYLOAD, "invalid reason: it has a NUL character; remove it")
        plan = await self.plan(principal, kind, query)
        batch_id, now = self._new_id(), self._clock.now()

        def write() -> bool:
            with self._database.transaction() as tables:
                begun = tables.execute(
                    "batches_begin",
                    batch_id=str(batch_id),
                    kind=kind,
                    query=plan.query,
                    principal=principal.name,
                    role=principal.role.value,
                    reason=reason,
                    total=plan.total.number,
                    more=int(plan.total.more),
                    created_at=now,
                )
            return bool(begun)

        if not await asyncio.to_thread(write):
            told = f"a batch of {principal.name} is under way; wait for its end, or cancel it"
            raise Refusal(Code.CONFLICT_STATE, told)
        self.on_begun()
        return await self.one(principal, batch_id)

    async def one(self, principal: Principal, batch_id: UUID) -> JobBatch:
        """A batch of this principal's, or anybody's for those who read everything. Raises Refusal."""
        rows = await self._query("batches_one", batch_id=str(batch_id))
        batch = batch_of(rows[0]) if rows else None
        if batch is None or not (principal.role in READS_ALL or batch.principal == principal.name):
            raise Refusal(Code.BATCH_NOT_FOUND, "no such batch")
        return batch

    async def recent(self, principal: Principal) -> list[JobBatch]:
        """The newest batches that this principal may see, RECENT at most."""
        name = "" if principal.role in READS_ALL else principal.name
        return [batch_of(row) for row in await self._query("batches_recent", principal=name, most=RECENT)]

    async def cancel(self, principal: Principal, batch_id: UUID) -> JobBatch:
        """End a batch: what is done stays done. A repeat changes nothing. Raises Refusal."""
        batch = await self.one(principal, batch_id)
        if batch.principal != principal.name and principal.role not in ACTS_ON_ALL:
            raise Refusal(Code.FORBIDDEN, "this batch is another principal's")
        now = self._clock.now()
        why = "" if batch.principal == principal.name else f"by {principal.name}"

        def write() -> None:
            with self._database.transaction() as tables:
                tables.execute("batches_end", batch_id=str(batch_id), state="CANCELED", why=why, ended_at=now)

        await asyncio.to_thread(write)
        return await self.one(principal, batch_id)

    async def _query(self, statement: str, **params: Any) -> list[dict[str, Any]]:
        def query() -> list[dict[str, Any]]:
            with self._database.transaction() as tables:
                return tables.query(statement, **params)

        return await asyncio.to_thread(query)


def client_of(principal: Principal) -> str | None:
    """The only client whose jobs this principal's batches act on; None for all. Raises Refusal."""
    if principal.role in ACTS_ON_ALL:
        return None
    if principal.role is not Role.CLIENT:
        raise Refusal(Code.FORBIDDEN, f"a {principal.role.value} key can't change jobs")
    return principal.name


def _checked(principal: Principal, kind: BatchKind, text: str) -> JobQuery:
    """The query with the states that this kind acts on. Raises Refusal."""
    client_of(principal)
    usual = ",".join(USUAL_STATES[kind]).lower()
    if not text.strip():
        raise Refusal(Code.INVALID_PAYLOAD, f"invalid query: it is empty; write state:{usual} to mean all")
    query = JobQuery.parse(text)
    if query.errors:
        raise Refusal(Code.INVALID_PAYLOAD, "; ".join(error.message for error in query.errors))
    wrong = [state for state in query.filter.states if state not in POSSIBLE_STATES[kind]]
    if wrong:
        possible = ", ".join(POSSIBLE_STATES[kind]).lower()
        told = f"invalid state:{wrong[0].lower()}: only jobs that are {possible} can be {_MAY[kind]}"
        raise Refusal(Code.INVALID_PAYLOAD, told)
    if query.filter.states:
        return query
    states = f" state:{usual}"
    most = MAX_LENGTH - len(states)
    if len(text.strip()) > most:
        told = f"invalid query: without a state it may have {most} characters; shorten it, or write a state"
        raise Refusal(Code.INVALID_PAYLOAD, told)
    return JobQuery.parse(text.strip() + states)
