"""Every read that the edge makes of the tables: a named statement each, answered in typed rows.

Each read is a transaction of its own in a thread, and raises LogUnavailable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from coordinator.application.followers.eraser import content_key
from coordinator.application.ports import Database
from coordinator.application.search.places import JobKey
from coordinator.domain.content import CONTENT_KINDS
from coordinator.domain.messages import principal_of
from coordinator.edge.state.tables.rows import (
    BacklogRow,
    DoubtedRow,
    ErasableRow,
    JobRow,
    KeyRow,
    MinerRow,
    OfferingRow,
    QueuedClassRow,
    ServiceRow,
    StandingRow,
)
from coordinator.edge.state.threads import in_thread

PROJECTOR = "projector"
"""The follower that fills the read models."""


class JobFilter(NamedTuple):
    """The filter and order of a list of jobs. An empty text stands for all."""

    low: JobKey
    """The first key that may be listed."""
    high: JobKey
    """All listed keys are lower than this one."""
    client: str = ""
    state: str = ""
    oldest_first: bool = False

    @property
    def statement(self) -> str:
        """The named statement, one for each index."""
        name = "read_jobs" + ("_of_client" if self.client else "") + ("_in_state" if self.state else "")
        return name + ("_oldest" if self.oldest_first else "")

    @property
    def params(self) -> dict[str, Any]:
        """Its parameters."""
        asked: dict[str, Any] = {"client": self.client} if self.client else {}
        asked |= {"state": self.state} if self.state else {}
        low, high = self.low, self.high
        return {**asked, "from_at": low[0], "from_id": low[1], "to_at": high[0], "to_id": high[1]}


class ReadModels:
    """Reads the tables for the edge."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- jobs ----------------------------------------------------------------------------------------------
    async def job(self, job_id: str) -> JobRow | None:
        rows = await self._read("read_job", job_id=job_id)
        return JobRow(**rows[0]) if rows else None

    async def erasures(self, job_id: str) -> dict[str, int]:
        """By kind: the position of the event that says that this job's payload or result was erased."""
        keys = {content_key(job_id, kind): kind for kind in CONTENT_KINDS}
        rows = await self._read("erased_content_of", keys=list(keys))
        return {keys[row["key"]]: row["position"] for row in rows}

    async def erasable_jobs(
        self, after: JobKey, until: int, client: str, page_size: int
    ) -> list[ErasableRow]:
        """The next jobs after `after` that were final at `until` (Unix milliseconds); "" for all clients."""
        name, asked = ("read_erasable_of_client", {"client": client}) if client else ("read_erasable", {})
        rows = await self._read(
            name, after_at=after[0], after_id=after[1], until=until, page_size=page_size, **asked
        )
        return [ErasableRow(**row) for row in rows]

    async def jobs(self, which: JobFilter, service: str, miner: str, page_size: int) -> list[JobRow]:
        """A page of jobs, in order; empty texts for all services and miners."""
        rows = await self._read(
            which.statement, **which.params, service=service, miner=miner, page_size=page_size
        )
        return [JobRow(**row) for row in rows]

    async def job_key_after(self, which: JobFilter, skip: int) -> JobKey | None:
        """The key `skip` jobs further; None if there are fewer jobs."""
        rows = await self._read(f"{which.statement}_reach", **which.params, skip=skip)
        return JobKey(**rows[0]) if rows else None

    async def final_jobs(self, job_ids: Sequence[str]) -> list[str]:
        """Which of these jobs are final."""
        return [row["job_id"] for row in await self._read("read_final_jobs", job_ids=list(job_ids))]

    async def lease(self, job_id: str) -> dict[str, Any] | None:
        """The lease of a running job: `attempt`, `miner_id` and `lease_until` (Unix milliseconds)."""
        rows = await self._read("read_lease", job_id=job_id)
        return rows[0] if rows else None

    async def queued_by_service(self) -> dict[str, int]:
        """The number of queued jobs, by service."""
        return {row["service"]: row["queued"] for row in await self._read("read_queued_by_service")}

    async def queued_classes(self, most: int) -> list[QueuedClassRow]:
        """The classes with queued jobs, those with the most jobs first."""
        return [QueuedClassRow(**row) for row in await self._read("read_queued_classes", most=most)]

    async def class_oldest(self, job_class: str, position: int) -> int | None:
        """When the queued job of this class at this place was asked for, in Unix milliseconds."""
        rows = await self._read("read_class_oldest", job_class=job_class, position=position)
        return rows[0]["requested_at"] if rows else None

    async def job_lines(self, job_ids: Sequence[str]) -> list[dict[str, Any]]:
        """What a list shows of these jobs; unknown ones are absent."""
        return await self._read("read_job_lines", job_ids=list(job_ids)) if job_ids else []

    async def backlog(self) -> BacklogRow:
        [row] = await self._read("read_backlog")
        return BacklogRow(**row)

    # --- miners --------------------------------------------------------------------------------------------
    async def miner(self, miner_id: str) -> MinerRow | None:
        rows = await self._read("read_miner", miner_id=miner_id)
        return MinerRow(**rows[0]) if rows else None

    async def gpu_memory(self, miner_id: str) -> str | None:
        """What the miner's live session said last of the free memory of its GPUs, as JSON."""
        rows = await self._read("read_gpu_memory", miner_id=miner_id)
        return rows[0]["gpu_memory_json"] if rows else None

    async def miners(self, after: str, state: str, page_size: int) -> list[MinerRow]:
        """A page of miners by id, after the id `after`; an empty state for all."""
        rows = await self._read("read_miners", after=after, state=state, page_size=page_size)
        return [MinerRow(**row) for row in rows]

    async def standings(self, miner_ids: Iterable[str]) -> list[StandingRow]:
        """The standings of these miners' principals, by service; as of the dispatcher's position."""
        principals = sorted({principal_of(miner_id) for miner_id in miner_ids})
        rows = await self._read("read_standings", principals=principals) if principals else []
        return [StandingRow(**row) for row in rows]

    async def last_seen(self, miner_ids: Sequence[str]) -> dict[str, int]:
        """The last heartbeats of these miners' live sessions, in Unix milliseconds."""
        rows = await self._read("read_last_seen", miner_ids=list(miner_ids))
        return {row["miner_id"]: row["last_seen"] for row in rows}

    async def running_of(self, miner_ids: Sequence[str]) -> dict[str, int]:
        """The number of attempts that these miners hold."""
        rows = await self._read("read_running_of", miner_ids=list(miner_ids))
        return {row["miner_id"]: row["running"] for row in rows}

    async def held_by(self, miner_id: str, most: int) -> list[str]:
        """The ids of the jobs that a miner holds."""
        return [row["job_id"] for row in await self._read("read_held_by", miner_id=miner_id, most=most)]

    async def doubted(self, streak: int, most: int) -> list[DoubtedRow]:
        """The principals in quarantine, or with so many failures in a row, worst first."""
        return [DoubtedRow(**row) for row in await self._read("read_quarantines", streak=streak, most=most)]

    async def miners_by_state(self) -> dict[str, int]:
        """How many miners there are in each state."""
        return {row["state"]: row["miners"] for row in await self._read("read_miner_counts")}

    async def offerings(self) -> list[OfferingRow]:
        """The capabilities of online miners, by profile."""
        return [OfferingRow(**row) for row in await self._read("read_offerings")]

    # --- the registry --------------------------------------------------------------------------------------
    async def service(self, service: str) -> ServiceRow | None:
        rows = await self._read("read_service", service=service)
        return ServiceRow(**rows[0]) if rows else None

    async def services(self, after: str, category: str, page_size: int, *, retired: bool) -> list[ServiceRow]:
        """A page of entries by id, after the id `after`; an empty category for all."""
        rows = await self._read(
            "read_services", after=after, category=category, retired=int(retired), page_size=page_size
        )
        return [ServiceRow(**row) for row in rows]

    async def retired_services(self) -> frozenset[str]:
        """The ids of the entries that take no jobs any more."""
        return frozenset(row["service"] for row in await self._read("read_retired_services"))

    async def services_by_category(self) -> dict[str, int]:
        """The number of services that take jobs, by category; empty categories are absent."""
        return {row["category"]: row["services"] for row in await self._read("read_categories")}

    # --- API keys ------------------------------------------------------------------------------------------
    async def key(self, key_id: str) -> KeyRow | None:
        rows = await self._read("read_key", key_id=key_id)
        return KeyRow(**rows[0]) if rows else None

    async def keys(
        self, after: tuple[str, str], name: str, role: str, page_size: int, *, revoked: bool
    ) -> list[KeyRow]:
        """A page of keys by name and id, after `after`; empty texts for all names and roles."""
        rows = await self._read(
            "read_keys",
            after_name=after[0],
            after_id=after[1],
            name=name,
            role=role,
            revoked=int(revoked),
            page_size=page_size,
        )
        return [KeyRow(**row) for row in rows]

    # --- money ---------------------------------------------------------------------------------------------
    async def account(self, party: str, now: int) -> dict[str, Any] | None:
        """An account, with `pending` at this moment (Unix milliseconds); None if there is none."""
        rows = await self._read("accounts_one", party=party, now=now)
        return rows[0] if rows else None

    async def accounts(self, after: str, now: int, page_size: int) -> list[dict[str, Any]]:
        """A page of accounts by party, after the party `after`."""
        return await self._read("accounts_list", after=after, now=now, page_size=page_size)

    async def lines(self, party: str, before: tuple[int, int], page_size: int) -> list[dict[str, Any]]:
        """A page of an account's lines before a position and a place there, the newest first.

        Each with its `service`, and with what became of a payment, `contested`.
        """
        position, place = before
        return await self._read(
            "accounts_entries", party=party, before=position, place=place, page_size=page_size
        )

    async def statement(
        self, party: str, since: int, until: int, most: int
    ) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
        """The sum of the entries before a period, the lines in it, and the open holds; `most` of each."""
        period = {"party": party, "since": since}

        def query() -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
            with self._database.transaction() as tables:
                [before] = tables.query("accounts_opening", **period)
                lines = tables.query("accounts_lines", **period, until=until, most=most)
                return before["opening"], lines, tables.query("accounts_holds", party=party, most=most)

        return await in_thread(query)

    async def _read(self, statement: str, **params: Any) -> list[dict[str, Any]]:
        def query() -> list[dict[str, Any]]:
            with self._database.transaction() as tables:
                return tables.query(statement, **params)

        return await in_thread(query)
