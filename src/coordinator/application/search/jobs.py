"""Pages and counts of the jobs that match a query, at a bounded cost however many jobs there are.

A page goes on from a key (the submit's time and the job's id), so that new jobs never shift it. Client,
state, error code and further attempts are found by indexes. Anything else is compared among the next LOOK
jobs, so a page may have few jobs, or none, and still go on.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from coordinator.application.ports import Database, Tables
from coordinator.application.search.found import Count, Counted, FoundJob, FoundPage
from coordinator.application.search.places import (
    FIRST,
    LAST,
    Cursor,
    JobKey,
    Path,
    anchor_at,
    paths_of,
    read_anchor,
    rest_params,
)
from coordinator.application.search.query import STATES, JobQuery, QueryFilter
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobStateName
from coordinator.domain.matching.needs import Constraints, Needs
from coordinator.domain.messages import Millis

LOOK: Final = 10_000
"""The most rows that one page compares."""
MOST: Final = 10_000
"""Counts end here."""
MOST_IDS: Final = 2_000
"""The most jobs whose ids begin alike."""


class _Range(NamedTuple):
    """The keys that a search may find: from `low`, and below `high`."""

    low: JobKey
    high: JobKey

    @property
    def params(self) -> dict[str, Any]:
        low, high = self.low, self.high
        return {"from_at": low[0], "from_id": low[1], "to_at": high[0], "to_id": high[1]}


class _Search(NamedTuple):
    """A filter, ready for the tables."""

    paths: Sequence[Path]
    params: dict[str, Any]
    compares: bool
    """Whether rows are compared, beyond the indexes."""
    within: _Range
    oldest: bool

    @property
    def suffix(self) -> str:
        return "_oldest" if self.oldest else ""


def _now() -> Millis:
    return time.time_ns() // 1_000_000


class JobSearch:
    """Searches for jobs. Used on the event loop; the tables are read in threads."""

    def __init__(
        self,
        database: Database,
        canonical: Callable[[str], Awaitable[str]],
        now: Callable[[], Millis] = _now,
    ) -> None:
        """`canonical`: the id of the service with this id or alias."""
        self._database = database
        self._canonical = canonical
        self._now = now

    async def page(
        self,
        client: str | None,
        query: JobQuery,
        cursor: str | None = None,
        limit: int = 50,
        *,
        oldest_first: bool = False,
        until: Millis | None = None,
        now: Millis | None = None,
    ) -> FoundPage:
        """A page of the jobs that match; of this client only, unless it is None.

        `until`: no jobs that were asked for after this moment. `now`: the moment from which ages count.
        Raises Refusal, LogUnavailable.
        """
        asked = await self._filter(client, query)
        place = None if cursor is None else Cursor.read(cursor)
        if now is None:
            now = self._now() if place is None else place.now
        within = _range(asked, now, place, until, oldest=oldest_first)
        return await asyncio.to_thread(self._page, asked, within, now, limit, oldest_first, place)

    async def count(
        self, client: str | None, query: JobQuery, *, most: int = MOST, looks: int = 1
    ) -> Counted:
        """How many jobs match: exactly up to `most`, if `looks` times LOOK compared jobs are enough for it.

        Raises Refusal, LogUnavailable.
        """
        asked = await self._filter(client, query)
        within = _range(asked, self._now(), None, None)
        return await asyncio.to_thread(self._count, asked, within, most, looks)

    async def newer(self, client: str | None, query: JobQuery, anchor: str) -> Count:
        """How many matching jobs were asked for after this anchor. Raises Refusal, LogUnavailable."""
        asked = await self._filter(client, query)
        within = _range(asked, self._now(), None, None)
        within = within._replace(low=max(within.low, read_anchor(anchor)))
        return (await asyncio.to_thread(self._count, asked, within, MOST, 1)).total

    async def states(self, client: str | None) -> dict[JobStateName, Count]:
        """The number of jobs in each state, counted up to MOST. Raises LogUnavailable."""
        name, owner = ("_of_client", {"client": client}) if client is not None else ("", {})

        def count() -> dict[JobStateName, Count]:
            counts: dict[JobStateName, Count] = {}
            with self._database.transaction() as tables:
                for state in STATES:
                    [row] = tables.query(f"search_state_count{name}", state=state, most=MOST + 1, **owner)
                    counts[state] = Count(min(row["jobs"], MOST), row["jobs"] > MOST)
            return counts

        return await asyncio.to_thread(count)

    async def _filter(self, client: str | None, query: JobQuery) -> QueryFilter:
        if query.errors:
            raise Refusal(Code.INVALID_PAYLOAD, "; ".join(error.message for error in query.errors))
        asked = query.filter
        if client is not None:
            if asked.clients not in ((), (client,)):
                others = ",".join(name for name in asked.clients if name != client)
                raise Refusal(Code.INVALID_PAYLOAD, f"invalid client:{others}: you see your own jobs only")
            asked = replace(asked, clients=(client,))
        if asked.services:
            services = [await self._canonical(service) for service in asked.services]
            asked = replace(asked, services=tuple(dict.fromkeys(services)))
        return asked

    # --- in threads ----------------------------------------------------------------------------------------
    def _page(
        self,
        asked: QueryFilter,
        within: _Range,
        now: Millis,
        limit: int,
        oldest: bool,
        place: Cursor | None,
    ) -> FoundPage:
        with self._database.transaction() as tables:
            if asked.ids:
                jobs = _within(_by_id(tables, asked), within)
                found, reach = (jobs[::-1] if oldest else jobs), None
            else:
                search = _prepared(tables, asked, within, oldest=oldest)
                reach = _reach(tables, search)
                if reach is not None:
                    bounded = _bounded(within, reach, oldest=oldest)
                    search = search._replace(within=bounded)
                found = _rows(tables, search, limit + 1)
        shown = tuple(found[:limit])
        end = reach
        if len(found) > limit:
            end = shown[-1].key
        start = shown[0].key if shown else (place.key if place else JobKey(now, ""))
        return FoundPage(
            jobs=shown,
            next_cursor=str(Cursor(now, end)) if end is not None else None,
            anchor=anchor_at(start),
            looked_to=reach.requested_at if reach is not None and len(found) <= limit else None,
        )

    def _count(self, asked: QueryFilter, within: _Range, most: int, looks: int) -> Counted:
        states: Counter[JobStateName] = Counter()
        with self._database.transaction() as tables:
            if asked.ids:
                states.update(job.state for job in _within(_by_id(tables, asked), within))
                return Counted(Count(states.total()), dict(states))
            search = _prepared(tables, asked, within, oldest=False)
            reach: JobKey | None = None
            for _ in range(looks):
                reach = _reach(tables, search)
                looked = search if reach is None else search._replace(within=within._replace(low=reach))
                states.update(_states(tables, looked, most + 1 - states.total()))
                if reach is None or states.total() > most:
                    break
                within = within._replace(high=reach)
                search = search._replace(within=within)
        total = states.total()
        if total > most:
            states[max(states, key=lambda state: states[state])] -= total - most
        return Counted(Count(min(total, most), total > most or reach is not None), dict(states))


def _range(
    asked: QueryFilter, now: Millis, place: Cursor | None, until: Millis | None, *, oldest: bool = False
) -> _Range:
    low, high = FIRST, LAST
    if asked.younger_than is not None:
        low = JobKey(now - asked.younger_than + 1, "")
    if asked.older_than is not None:
        high = JobKey(now - asked.older_than + 1, "")
    if until is not None:
        high = min(high, JobKey(until + 1, ""))
    if place is not None:
        low, high = (max(low, place.key.next()), high) if oldest else (low, min(high, place.key))
    return _Range(low, high)


def _bounded(within: _Range, reach: JobKey, *, oldest: bool) -> _Range:
    return within._replace(high=reach.next()) if oldest else within._replace(low=reach)


def _prepared(tables: Tables, asked: QueryFilter, within: _Range, *, oldest: bool) -> _Search:
    paths, rest = paths_of(asked)
    params = rest_params(rest, _needs(tables, rest.classes))
    compares = rest.compares_rows and rest != QueryFilter(
        least_attempt=2, older_than=rest.older_than, younger_than=rest.younger_than
    )
    return _Search(paths, params, compares, within, oldest)


def _reach(tables: Tables, search: _Search) -> JobKey | None:
    """The key at which a page stops, if it compares rows; None if it may go to the end."""
    if not search.compares:
        return None
    skip = max(1, LOOK // len(search.paths)) - 1
    stops = []
    for path in search.paths:
        name = f"search_jobs{path.options}{search.suffix}_reach"
        stops += tables.query(name, **path.params, **search.within.params, skip=skip)
    if not stops:
        return None
    keys = [JobKey(**row) for row in stops]
    return min(keys) if search.oldest else max(keys)


def _rows(tables: Tables, search: _Search, page_size: int) -> list[FoundJob]:
    """The first rows of all paths together, in order."""
    found: list[FoundJob] = []
    for path in search.paths:
        rows = tables.query(
            f"search_jobs{path.options}{search.suffix}",
            **path.params,
            **search.params,
            **search.within.params,
            page_size=page_size,
        )
        found += [FoundJob(**row) for row in rows]
    if len(search.paths) > 1:
        found.sort(key=lambda job: job.key, reverse=not search.oldest)
    return found[:page_size]


def _states(tables: Tables, search: _Search, most: int) -> list[JobStateName]:
    """The states of the jobs that match, so many at most."""
    states: list[JobStateName] = []
    for path in search.paths:
        rows = tables.query(
            f"search_jobs{path.options}_states",
            **path.params,
            **search.params,
            **search.within.params,
            page_size=most - len(states),
        )
        states += [row["state"] for row in rows]
    return states


def _needs(tables: Tables, classes: Sequence[str]) -> tuple[str, ...]:
    """The service and the constraints of these classes, as rows of jobs have them. Raises Refusal."""
    if not classes:
        return ()
    rows = {row["job_class"]: row for row in tables.query("search_classes", classes=list(classes))}
    for job_class in classes:
        if job_class not in rows:
            told = f"invalid class:{job_class}: no job of this class waits or runs"
            raise Refusal(Code.INVALID_PAYLOAD, told)
    return tuple(f"{row['service']} {constraints_text(row['constraints_json'])}" for row in rows.values())


def constraints_text(needs_json: str) -> str:
    """The constraints in the needs of a class, as rows of jobs have them."""
    needs = Needs.model_validate_json(needs_json).model_dump(exclude={"list_price", "unit"})
    return Constraints(**needs).model_dump_json(exclude_defaults=True)


def _by_id(tables: Tables, asked: QueryFilter) -> list[FoundJob]:
    """The jobs with these ids that match the rest of the filter, newest first. Raises Refusal."""
    ids: set[str] = set()
    for text in asked.ids:
        rows = tables.query("search_ids", low=text, high=f"{text}g", most=MOST_IDS + 1)
        ids |= {row["job_id"] for row in rows}
        if len(ids) > MOST_IDS:
            told = f"invalid id:{text}: more than {MOST_IDS:,} jobs begin like that; write more of the id"
            raise Refusal(Code.INVALID_PAYLOAD, told)
    needs = _needs(tables, asked.classes)
    rows = tables.query("search_jobs_by_id", job_ids=sorted(ids)) if ids else []
    found = []
    for row in rows:
        constraints = row.pop("constraints_json")
        job = FoundJob(**row)
        if _fits(job, asked) and (not asked.classes or f"{job.service} {constraints}" in needs):
            found.append(job)
    return found


def _fits(job: FoundJob, asked: QueryFilter) -> bool:
    """Whether a job has all that is asked for, but for its id, its class and its age."""
    lists: tuple[tuple[Sequence[str], str | None], ...] = (
        (asked.states, job.state),
        (asked.services, job.service),
        (asked.clients, job.client),
        (asked.miners, job.miner_id),
        (asked.codes, job.error_code),
    )
    most = job.attempt if asked.most_attempt is None else asked.most_attempt
    names = (job.client, job.service, job.miner_id, job.error_code, job.error_message)
    text = " ".join(name or "" for name in names).lower()
    return (
        all(value in wanted for wanted, value in lists if wanted)
        and (asked.least_attempt or 1) <= job.attempt <= most
        and all(word in text for word in asked.words)
    )


def _within(jobs: Sequence[FoundJob], within: _Range) -> list[FoundJob]:
    return [job for job in jobs if within.low <= job.key < within.high]
