"""The edge's statements mean the same to SQLite and Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.application.ports import Database
from coordinator.edge.state.tables.rows import ErasableRow
from coordinator.storage.migrate import migrate
from coordinator.storage.tables.postgres import PostgresDatabase
from coordinator.storage.tables.sqlite import SqliteDatabase
from coordinator.storage.tables.statements import load_statements
from tests.harness.cases import every

BETWEEN: dict[str, Any] = {"from_at": -1, "from_id": "", "to_at": 2**62, "to_id": ""}
FIRST: dict[str, Any] = {**BETWEEN, "service": "", "miner": "", "page_size": 10}


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        path = tmp_path / "coordinator.db"
        migrate(path)
        opened: Database = SqliteDatabase(path)
    else:
        url = request.getfixturevalue("database_url")
        migrate(url)
        opened = PostgresDatabase(url)
    with opened.transaction() as tables:
        tables.put("jobs", [a_job(n, **job) for n, job in enumerate(JOBS)])
        tables.put("miners", [a_miner(name, state) for name, state in MINERS.items()])
        tables.put("services", [a_service(*service) for service in SERVICES])
        tables.put("blob_owners", [an_owner(*owner) for owner in OWNERS])
    yield opened
    opened.close()


JOBS = [
    {"client": "alice", "state": "QUEUED", "requested_at": 100},
    {"client": "bob", "state": "RUNNING", "requested_at": 200},
    {"client": "alice", "state": "COMPLETED", "requested_at": 200, "finished_at": 250, "result_digest": "d"},
    {"client": "alice", "state": "QUEUED", "requested_at": 200, "service": "other"},
    {"client": "alice", "state": "FAILED", "requested_at": 300, "finished_at": 900},
]
MINERS = {"a": "ONLINE", "a_b": "OFFLINE", "b@a": "ONLINE", "z": "DRAINING"}
SERVICES = [("audio", 0, "media"), ("blender", 1, "media"), ("checksum", 0, "tools")]
OWNERS = [("d1", "alice"), ("d1", "bob"), ("d2", "alice")]


def a_job(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "job_id": f"job-{number}",
        "service": "checksum",
        "service_version": 1,
        "constraints_json": "{}",
        "priority": 0,
        "attempt": 1,
        "max_attempts": 3,
        "miner_id": None,
        "started_at": None,
        "finished_at": None,
        "expires_at": 1000,
        "error_code": None,
        "error_message": None,
        "payload_digest": "d",
        "hold": None,
        "result_digest": None,
        "units": None,
        "price": None,
        "position": number,
        **fields,
    }


def a_miner(miner_id: str, state: str) -> dict[str, Any]:
    return {
        "miner_id": miner_id,
        "session_id": "session-1",
        "state": state,
        "profile": "p",
        "capabilities_json": "{}",
        "concurrency": 1,
        "public_key": "k",
        "registered_at": 1,
        "changed_at": 1,
        "position": 1,
    }


def a_service(service: str, retired: int, category: str) -> dict[str, Any]:
    return {
        "service": service,
        "version": 1,
        "retired": retired,
        "category": category,
        "spec_json": "{}",
        "position": 1,
    }


def an_owner(digest: str, principal: str) -> dict[str, Any]:
    key = f"{digest}/{principal}"
    return {"key": key, "digest": digest, "principal": principal, "size": 5, "at": 1, "used_at": 1}


def rows(database: Database, statement: str, column: str, **params: Any) -> list[Any]:
    with database.transaction() as tables:
        return [row[column] for row in tables.query(statement, **params)]


def test_jobs_come_newest_first_and_pages_join(database: Database) -> None:
    """Equal times are ordered by id, and a page goes on exactly after the last row of the one before."""
    everything = rows(database, "read_jobs", "job_id", **FIRST)
    assert everything == ["job-4", "job-3", "job-2", "job-1", "job-0"]
    after = {**FIRST, "to_at": 200, "to_id": "job-2"}
    assert rows(database, "read_jobs", "job_id", **after) == ["job-1", "job-0"]
    assert rows(database, "read_jobs", "job_id", **{**FIRST, "page_size": 2}) == ["job-4", "job-3"]


def test_jobs_come_oldest_first_and_pages_join(database: Database) -> None:
    """The same the other way round; where a page begins belongs to it, where it ends does not."""
    everything = rows(database, "read_jobs_oldest", "job_id", **FIRST)
    assert everything == ["job-0", "job-1", "job-2", "job-3", "job-4"]
    between = {**FIRST, "from_at": 200, "from_id": "job-2", "to_at": 300, "to_id": "job-4"}
    assert rows(database, "read_jobs_oldest", "job_id", **between) == ["job-2", "job-3"]
    assert rows(database, "read_jobs_oldest", "job_id", **{**between, "page_size": 1}) == ["job-2"]


ALICES, QUEUED = {"client": "alice"}, {"state": "QUEUED"}


@every(
    ("statement", "asked", "expected"),
    [
        ("read_jobs", {}, ["job-4", "job-3", "job-2", "job-1", "job-0"]),
        ("read_jobs_in_state", QUEUED, ["job-3", "job-0"]),
        ("read_jobs_of_client", ALICES, ["job-4", "job-3", "job-2", "job-0"]),
        ("read_jobs_of_client_in_state", {**ALICES, **QUEUED}, ["job-3", "job-0"]),
        ("read_jobs_oldest", {}, ["job-0", "job-1", "job-2", "job-3", "job-4"]),
        ("read_jobs_in_state_oldest", QUEUED, ["job-0", "job-3"]),
        ("read_jobs_of_client_oldest", ALICES, ["job-0", "job-2", "job-3", "job-4"]),
        ("read_jobs_of_client_in_state_oldest", {**ALICES, **QUEUED}, ["job-0", "job-3"]),
    ],
)
def test_jobs_are_filtered(
    database: Database, statement: str, asked: dict[str, str], expected: list[str]
) -> None:
    """By client and state in the index, by service and miner beside it; its reach is counted in rows."""
    of_other = {**FIRST, **asked, "service": "other"}
    assert rows(database, statement, "job_id", **FIRST, **asked) == expected
    assert rows(database, statement, "job_id", **of_other) == ["job-3"]
    assert rows(database, statement, "job_id", **{**FIRST, **asked, "service": "nothing"}) == []
    assert rows(database, statement, "job_id", **{**FIRST, **asked, "miner": "nobody"}) == []
    for skip in (0, 1, len(expected)):
        reached = rows(database, f"{statement}_reach", "job_id", **BETWEEN, **asked, skip=skip)
        assert reached == expected[skip : skip + 1]


def test_one_job_and_final_ones(database: Database) -> None:
    """One job by id; of many, those that are final."""
    assert rows(database, "read_job", "client", job_id="job-1") == ["bob"]
    assert rows(database, "read_job", "client", job_id="job-9") == []
    asked = [f"job-{n}" for n in range(9)]
    assert sorted(rows(database, "read_final_jobs", "job_id", job_ids=asked)) == ["job-2", "job-4"]


def test_miners_in_pages_and_by_state(database: Database) -> None:
    """Every miner once, page by page; the order is the database's own."""
    seen: list[str] = []
    after = ""
    while page := rows(database, "read_miners", "miner_id", after=after, state="", page_size=1):
        seen += page
        after = page[-1]
    assert sorted(seen) == sorted(MINERS)
    online = rows(database, "read_miners", "miner_id", after="", state="ONLINE", page_size=9)
    assert sorted(online) == ["a", "b@a"]
    assert rows(database, "read_miner", "state", miner_id="z") == ["DRAINING"]
    assert rows(database, "read_gpu_memory", "gpu_memory_json", miner_id="z") == []


def test_services_with_and_without_the_retired(database: Database) -> None:
    """Retired entries are listed only where they are asked for."""
    asked = {"after": "", "category": "", "page_size": 9}
    assert rows(database, "read_services", "service", **asked, retired=0) == ["audio", "checksum"]
    assert rows(database, "read_services", "service", **asked, retired=1) == ["audio", "blender", "checksum"]
    tools = {**asked, "category": "tools"}
    assert rows(database, "read_services", "service", **tools, retired=1) == ["checksum"]
    assert rows(database, "read_service", "retired", service="blender") == [1]
    assert rows(database, "read_retired_services", "service") == ["blender"]


def test_what_there_is_is_counted(database: Database) -> None:
    """Services that take jobs by category, miners by state, and those online by what they can do."""
    with database.transaction() as tables:
        categories = {row["category"]: row["services"] for row in tables.query("read_categories")}
        miners = {row["state"]: row["miners"] for row in tables.query("read_miner_counts")}
        offerings = tables.query("read_offerings")
    assert offerings == [{"profile": "p", "capabilities_json": "{}", "since": 1}]
    assert categories == {"media": 1, "tools": 1}
    assert miners == {"ONLINE": 2, "OFFLINE": 1, "DRAINING": 1}


def test_owners_of_blobs(database: Database) -> None:
    """A key is digest and principal: another's upload of the same content is no key of mine."""
    keys = ["d1/bob", "d2/bob", "d2/alice"]
    assert sorted(rows(database, "read_blob_owners", "key", keys=keys)) == ["d1/bob", "d2/alice"]


def test_keys_by_name_and_the_revoked_where_they_are_asked_for(database: Database) -> None:
    """Pages of keys go on behind a name and an id; filters by name and role."""
    keys = [("k1", "bob", None), ("k2", "alice", None), ("k3", "alice", 5)]
    with database.transaction() as tables:
        tables.put("api_keys", [a_key(*key) for key in keys])
    asked = {"after_name": "", "after_id": "", "name": "", "role": "", "page_size": 9}
    assert rows(database, "read_keys", "key_id", **asked, revoked=0) == ["k2", "k1"]
    assert rows(database, "read_keys", "key_id", **asked, revoked=1) == ["k2", "k3", "k1"]
    behind = {**asked, "after_name": "alice", "after_id": "k2"}
    assert rows(database, "read_keys", "key_id", **behind, revoked=1) == ["k3", "k1"]
    assert rows(database, "read_keys", "key_id", **{**asked, "role": "miner"}, revoked=1) == []
    assert rows(database, "read_key", "name", key_id="k1") == ["bob"]


def a_key(key_id: str, name: str, revoked_at: int | None) -> dict[str, Any]:
    return {
        "key_id": key_id,
        "name": name,
        "role": "client",
        "label": "",
        "signed": 0,
        "generation": 1,
        "created_at": 1,
        "created_by": "root",
        "expires_at": None,
        "rotated_at": None,
        "old_until": None,
        "revoked_at": revoked_at,
        "revoked_by": None,
        "reason": None,
        "position": 1,
    }


def test_queued_work_is_counted_by_class_and_service(database: Database) -> None:
    """Jobs that a miner holds are not queued; the largest class is first, and its oldest job is found."""
    with database.transaction() as tables:
        tables.put("work_classes", [a_class("one", "checksum"), a_class("two", "other")])
        tables.put("open_work", [some_work(0, "one"), some_work(3, "two"), some_work(2, "one")])
        tables.put("open_work", [some_work(1, "one", miner_id="a")])
        classes = tables.query("read_queued_classes", most=9)
        services = {row["service"]: row["queued"] for row in tables.query("read_queued_by_service")}
    assert [(row["job_class"], row["queued"], row["oldest"]) for row in classes] == [
        ("one", 2, 0),
        ("two", 1, 3),
    ]
    assert services == {"checksum": 2, "other": 1}
    assert rows(database, "read_class_oldest", "job_id", job_class="one", position=0) == ["job-0"]
    assert rows(database, "read_class_oldest", "job_id", job_class="one", position=1) == []
    assert sorted(rows(database, "read_job_lines", "job_id", job_ids=["job-0", "job-2", "no-job"])) == [
        "job-0",
        "job-2",
    ]


def test_what_a_miner_holds(database: Database) -> None:
    """Its jobs, their number, a job's lease, and the miner's last sign of life."""
    lease = {"job_id": "job-1", "attempt": 2, "miner_id": "a", "session_id": "s", "lease_until": 7}
    with database.transaction() as tables:
        tables.put("open_work", [some_work(n, "one", miner_id="a") for n in (2, 1)])
        tables.put("open_work", [some_work(3, "one", miner_id="z")])
        tables.put("leases", [{**lease, "started_at": 1, "traceparent": ""}])
        seen = {"session_id": "s", "last_seen": 5, "gpu_memory_json": None}
        tables.put("live_sessions", [{"miner_id": "a", **seen}])
        running = tables.query("read_running_of", miner_ids=["a", "z", "b@a"])
    assert {row["miner_id"]: row["running"] for row in running} == {"a": 2, "z": 1}
    assert rows(database, "read_held_by", "job_id", miner_id="a", most=9) == ["job-1", "job-2"]
    assert rows(database, "read_lease", "lease_until", job_id="job-1") == [7]
    assert rows(database, "read_last_seen", "last_seen", miner_ids=["a", "z"]) == [5]


def test_quarantined_principals_come_first(database: Database) -> None:
    """Then those with the longest streak of failures; who does well is not listed."""
    counts = ("completed", "failed", "lost", "too_slow", "released", "unclaimed", "slots", "quarantines")
    common = {**dict.fromkeys((*counts, "since_bad", "usual_ms"), 0), "reason": "", "recent_json": "[]"}
    standings = [("a", "", 3), ("b", "probe", 1), ("c", "", 4), ("d", "", 0)]
    with database.transaction() as tables:
        tables.put(
            "standings",
            [
                {**common, "principal": name, "service": "checksum", "quarantine": kind, "streak": streak}
                for name, kind, streak in standings
            ],
        )
    assert rows(database, "read_quarantines", "principal", streak=3, most=9) == ["b", "c", "a"]


def a_class(job_class: str, service: str) -> dict[str, Any]:
    return {"job_class": job_class, "service": service, "constraints_json": "{}"}


def some_work(number: int, job_class: str, miner_id: str | None = None) -> dict[str, Any]:
    return {
        "job_id": f"job-{number}",
        "attempt": 1,
        "job_class": job_class,
        "client": "alice",
        "priority": 0,
        "position": number,
        "service": "checksum" if job_class == "one" else "other",
        "payload_digest": "d",
        "timeout_seconds": 60,
        "expires_at": 1000,
        "miner_id": miner_id,
        "session_id": None if miner_id is None else "s",
        "tried": "",
        "traceparent": "",
    }


def test_every_statement_is_tested_here() -> None:
    """A new statement of the edge is added to these tests, so that it has met Postgres."""
    ours = [name for name in load_statements() if name.startswith("read_")]
    text = Path(__file__).read_text()
    assert ours
    # The reach of a page is asked for in the test of the page.
    assert [name for name in sorted(ours) if f'"{name.removesuffix("_reach")}"' not in text] == []


@pytest.mark.parametrize(
    ("statement", "more"), [("read_erasable", {}), ("read_erasable_of_client", {"client": "alice"})]
)
def test_what_can_be_erased(database: Database, statement: str, more: dict[str, Any]) -> None:
    """Jobs that were final by then, oldest first, page by page, each with what is erased of it."""
    with database.transaction() as tables:
        tables.put("erased_content", [{"key": "job-2/result", "position": 77}])
    asked = {"after_at": -1, "after_id": "", "until": 900, "page_size": 10, **more}
    with database.transaction() as tables:
        found = tables.query(statement, **asked)
        early = tables.query(statement, **{**asked, "until": 899})
        first = tables.query(statement, **{**asked, "page_size": 1})
        second = tables.query(statement, **{**asked, "after_at": 200, "after_id": "job-2"})
    both = [ErasableRow(**row) for row in found]
    assert [("job-2", ["payload"]), ("job-4", ["payload"])] == [
        (row.job_id, row.left(("payload", "result"))) for row in both
    ]
    assert [None, 77] == [both[0].payload_erased, both[0].result_erased]
    assert (found[:1], found[:1], found[1:]) == (early, first, second)
    if more:
        with database.transaction() as tables:
            assert [] == tables.query(statement, **{**asked, "client": "bob"})


def test_standings_of_some_principals(database: Database) -> None:
    """The standings of the principals that are asked for, by service; those of others are left out."""

    def row(principal: str, service: str, slots: int) -> dict[str, Any]:
        counts = ("completed", "failed", "lost", "too_slow", "released", "unclaimed", "streak")
        more = ("quarantines", "since_bad", "usual_ms")
        texts = {"quarantine": "", "reason": "because", "recent_json": "[]"}
        numbers = dict.fromkeys((*counts, *more), 1)
        return {"principal": principal, "service": service, "slots": slots, **numbers, **texts}

    with database.transaction() as tables:
        tables.put("standings", [row("a", "s2", 2), row("a", "s1", 1), row("b", "s1", 3), row("c", "s1", 4)])
        found = tables.query("read_standings", principals=["a", "c"])
    assert [("a", "s1", 1), ("a", "s2", 2), ("c", "s1", 4)] == [
        (r["principal"], r["service"], r["slots"]) for r in found
    ]
    assert ("because", 1) == (found[0]["reason"], found[0]["completed"])


def test_the_backlog_is_what_waits(database: Database) -> None:
    """How many jobs are queued, and the age of the oldest; none at all is nothing and null."""
    with database.transaction() as tables:
        assert tables.query("read_backlog") == [{"queued": 2, "oldest_at": 100}]
        queued = [f"job-{n}" for n, job in enumerate(JOBS) if job["state"] == "QUEUED"]
        tables.change("jobs", {job: {"state": "RUNNING"} for job in queued})
        assert tables.query("read_backlog") == [{"queued": 0, "oldest_at": None}]
