"""Pages of jobs: on SQLite, against a plain list of the same jobs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.application.search import jobs as search_jobs
from coordinator.application.search.found import Count
from coordinator.application.search.jobs import JobSearch
from coordinator.application.search.query import MAX_WORDS, STATES, JobQuery
from coordinator.domain.errors import Refusal
from coordinator.storage.migrate import migrate
from coordinator.storage.tables.sqlite import SqliteDatabase

NOW = 1_700_000_000_000
CLIENTS, SERVICES = ("alice", "bob", "carol"), ("checksum", "whisper")
MINERS = (None, "rig", "node@rig", "atlas")
CODES = {"FAILED": ("OUT_OF_MEMORY", "BROKEN"), "CANCELED": ("CANCELED",), "EXPIRED": ("EXPIRED",)}


def a_job(number: int, at: int, randomly: random.Random) -> dict[str, Any]:
    state = randomly.choice(STATES)
    code = randomly.choice(CODES.get(state, (None,)))
    return {
        "job_id": str(UUID(int=randomly.getrandbits(128))),
        "client": randomly.choice(CLIENTS),
        "service": randomly.choice(SERVICES),
        "service_version": 1,
        "state": state,
        "constraints_json": randomly.choice(["{}", '{"region":"eu"}']),
        "priority": 0,
        "attempt": randomly.choice([1, 1, 1, 2, 3]),
        "max_attempts": 3,
        "miner_id": randomly.choice(MINERS),
        "requested_at": at,
        "started_at": None,
        "finished_at": None,
        "expires_at": at + 900_000,
        "error_code": code,
        "error_message": "the encoder asked for 100% of 18_2 GB!" if code == "OUT_OF_MEMORY" else None,
        "payload_digest": "a" * 64,
        "hold": None,
        "result_digest": None,
        "units": None,
        "price": None,
        "position": number,
    }


def some_jobs(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Several jobs have the same time."""
    randomly = random.Random(seed)
    return [a_job(n, NOW - (count - n) // 3 * 1000, randomly) for n in range(count)]


async def canonical(service: str) -> str:
    return {"speech": "whisper"}.get(service, service)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteDatabase]:
    path: Path = tmp_path_factory.mktemp("search") / "coordinator.db"
    migrate(path)
    opened = SqliteDatabase(path)
    with opened.transaction() as tables:
        tables.put("jobs", JOBS)
        needs = '{"region":"eu","list_price":"0.1"}'
        row = {"job_class": CLASS, "service": "whisper", "constraints_json": needs}
        tables.put("work_classes", [row])
    yield opened
    opened.close()


JOBS = some_jobs(120)
CLASS = "0123456789abcdef0123"
SHORT = JOBS[17]["job_id"][:13]


def fits(job: dict[str, Any], term: str) -> bool:
    """Whether the job has what this term asks for: a plain reading of it."""
    name, colon, value = term.partition(":")
    values = value.split(",")
    match name if colon else "":
        case "state":
            return job["state"].lower() in values
        case "service":
            return job["service"] in ["whisper" if service == "speech" else service for service in values]
        case "client" | "miner":
            return job["client" if name == "client" else "miner_id"] in values
        case "code":
            return job["error_code"] in values
        case "attempt":
            attempt: int = job["attempt"]
            return attempt > int(value[1:]) if value[0] == ">" else attempt == int(value)
        case "age":
            age, limit = NOW - int(job["requested_at"]), int(value[1:-1]) * 1000
            return age >= limit if value[0] == ">" else age < limit
        case "id":
            return str(job["job_id"]).startswith(value)
        case "class":
            return [job["service"], job["constraints_json"]] == ["whisper", '{"region":"eu"}']
    texts = (job["client"], job["service"], job["miner_id"], job["error_code"], job["error_message"])
    return term.lower() in " ".join(text or "" for text in texts).lower()


def matching(text: str, client: str | None = None) -> list[str]:
    """The ids that the query should find, newest first."""
    own = [job for job in JOBS if client is None or job["client"] == client]
    found = [job for job in own if all(fits(job, term) for term in text.split())]
    found.sort(key=lambda job: (job["requested_at"], job["job_id"]), reverse=True)
    return [job["job_id"] for job in found]


async def walk(
    search: JobSearch, text: str, client: str | None = None, limit: int = 7, *, oldest_first: bool = False
) -> list[str]:
    """The ids on all pages."""
    found: list[str] = []
    cursor = None
    for _ in range(1000):
        page = await search.page(client, JobQuery.parse(text), cursor, limit, oldest_first=oldest_first)
        found += [job.job_id for job in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise AssertionError("the pages do not end")


TERMS = [
    "state:failed",
    "state:queued,running",
    "service:whisper",
    "service:speech",
    "client:alice",
    "client:alice,bob",
    "miner:rig",
    "miner:node@rig,atlas",
    "code:OUT_OF_MEMORY",
    "code:BROKEN,EXPIRED",
    "attempt:>1",
    "attempt:1",
    "age:>20s",
    "age:<20s",
    f"id:{SHORT}",
    f"class:{CLASS}",
    "encoder",
    "100%",
    "18_2",
    "GB!",
]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    terms=st.lists(st.sampled_from(TERMS), max_size=4, unique_by=lambda term: term.partition(":")[0]).filter(
        lambda terms: sum(":" not in term for term in terms) <= MAX_WORDS
    ),
    client=st.sampled_from([None, None, "alice"]),
    look=st.sampled_from([3, 20, 10_000]),
    oldest=st.booleans(),
)
async def test_pages_have_each_matching_job_once(
    database: SqliteDatabase,
    monkeypatch: pytest.MonkeyPatch,
    terms: list[str],
    client: str | None,
    look: int,
    oldest: bool,
) -> None:
    """By every mixture of terms, from both ends, however few jobs one page may look at."""
    monkeypatch.setattr(search_jobs, "LOOK", look)
    text = " ".join(terms)
    search = JobSearch(database, canonical, lambda: NOW)
    if client == "alice" and any(t.startswith("client:") and t != "client:alice" for t in terms):
        with pytest.raises(Refusal, match="you see your own jobs only"):
            await walk(search, text, client)
        return
    expected = matching(text, client)
    assert await walk(search, text, client, oldest_first=oldest) == (expected[::-1] if oldest else expected)


@pytest.mark.parametrize("text", ["", "state:failed", "client:alice,bob state:queued,failed", "encoder"])
async def test_new_jobs_shift_no_page(tmp_path: Path, text: str) -> None:
    """Jobs that come while somebody reads are on no later page; `newer` counts them."""
    path = tmp_path / "coordinator.db"
    migrate(path)
    database = SqliteDatabase(path)
    jobs, fresh = some_jobs(90, seed=2), random.Random(3)
    with database.transaction() as tables:
        tables.put("jobs", jobs)
    search = JobSearch(database, canonical, lambda: NOW)
    query = JobQuery.parse(text)
    before = await walk(search, text)
    found: list[str] = []
    cursor, anchor, added = None, "", 0
    while True:
        page = await search.page(None, query, cursor, 5)
        anchor = anchor or page.anchor
        found += [job.job_id for job in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            break
        row = a_job(1000 + added, NOW + 1000 + added, fresh)
        with database.transaction() as tables:
            tables.put("jobs", [row])
        added += 1
    assert found == before
    now = await walk(search, text)
    assert now[-len(before) :] == before
    assert await search.newer(None, query, anchor) == Count(len(now) - len(before))
    assert 0 < added
    database.close()


async def test_counts_end_at_their_bound(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count says that there are more, and the counted states add up to it."""
    search = JobSearch(database, canonical, lambda: NOW)
    counted = await search.count(None, JobQuery.parse("state:failed,queued"))
    failed, queued = len(matching("state:failed")), len(matching("state:queued"))
    assert counted == (Count(failed + queued), {"FAILED": failed, "QUEUED": queued})
    counted = await search.count(None, JobQuery.parse(""), most=100)
    assert (counted.total, sum(counted.by_state.values())) == (Count(100, more=True), 100)
    assert str(counted.total) == "more than 100"
    monkeypatch.setattr(search_jobs, "LOOK", 20)
    whole = len(matching("encoder"))
    assert (await search.count(None, JobQuery.parse("encoder"))).total.more
    assert (await search.count(None, JobQuery.parse("encoder"), looks=10)).total == Count(whole)


@pytest.mark.parametrize(
    ("text", "cursor", "told"),
    [
        ("state:done", None, "invalid state:done"),
        ("a\0b", None, "NUL character"),
        ("", "7", "cursor: invalid"),
        ("", "1.2.x", "cursor: invalid"),
        ("class:00000000000000000000", None, "no job of this class waits or runs"),
    ],
)
async def test_an_invalid_search_is_refused(
    database: SqliteDatabase, text: str, cursor: str | None, told: str
) -> None:
    """It never finds everything instead."""
    search = JobSearch(database, canonical, lambda: NOW)
    with pytest.raises(Refusal, match=told):
        await search.page(None, JobQuery.parse(text), cursor)


async def test_states_are_counted_together(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, of everybody or of one client, each up to the bound."""
    search = JobSearch(database, canonical, lambda: NOW)
    for client in (None, "alice"):
        counts = await search.states(client)
        assert counts == {s: Count(len(matching(f"state:{s.lower()}", client))) for s in STATES}
    monkeypatch.setattr(search_jobs, "MOST", 3)
    assert (await search.states(None))["FAILED"] == Count(3, more=True)
