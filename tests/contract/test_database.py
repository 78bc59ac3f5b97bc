"""What every `Database` keeps, on SQLite and Postgres alike; migrations and named statements."""

from __future__ import annotations

import random
import runpy
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from coordinator.application.ports import LogUnavailable, NewEvent, PositionMoved
from coordinator.dev.servers import PostgresServer
from coordinator.domain.job import JobCanceled
from coordinator.domain.messages import stream_id
from coordinator.storage.connections.postgres_pool import set_up
from coordinator.storage.log.sqlite import SqliteEventLog
from coordinator.storage.migrate import MigrationChanged, UnfitDatabase, migrate, read_migrations
from coordinator.storage.tables.postgres import PostgresDatabase
from coordinator.storage.tables.sqlite import SqliteDatabase
from coordinator.storage.tables.statements import BadStatement, load_statements
from coordinator.storage.tables.table_schemas import BadRow
from tests.harness.metadata import METADATA
from tests.harness.waiting import eventually_now

PATIENCE = 30.0  # seconds before a test gives up on something that should happen
GOLDEN = Path(__file__).parents[1] / "golden"

# Tables and statements of these tests, so that they stand still while the real ones grow.
MIGRATION = """
-- One table with every type; a comment; with a semicolon.
CREATE TABLE things (
    thing text PRIMARY KEY,
    size bigint NOT NULL,
    weight double precision,
    image bytea,
    note text
);
CREATE INDEX things_by_size ON things (size);
CREATE TABLE pairs (a text NOT NULL, b bigint NOT NULL, PRIMARY KEY (a, b));
CREATE TABLE positions (follower text PRIMARY KEY, position bigint NOT NULL)
"""
STATEMENTS = """
-- What these tests ask.

-- name: all_things
-- Every thing, by name.
SELECT thing, size, weight, image, note FROM things ORDER BY thing;

-- name: some_things
-- The names of these things; ':not_a_param', "it's", 100% -- :neither
SELECT thing FROM things
WHERE thing IN (:names) AND size NOT IN (:sizes) AND size >= :least AND note <> ':not_a_param 100%'
ORDER BY thing

-- name: things_noted
-- Things with a note, or of any note.
SELECT thing FROM things WHERE CAST(:note AS text) IS NULL OR note = :note ORDER BY thing

-- name: totals
-- How many things, and how large together.
SELECT count(*) AS count, sum(size) AS total, avg(size) AS average FROM things

-- name: grow
-- Make things larger.
UPDATE things SET size = size + :by WHERE thing IN (:names)

-- name: take
-- Remove things, and say which.
DELETE FROM things WHERE size < :below RETURNING thing

-- name: things_by_size[_large][_down]
-- The names of things in order of size.
SELECT thing FROM things
WHERE size >= 0
  AND size > 1 -- [_large]
ORDER BY size DESC -- [_down]
ORDER BY size -- [no _down]

-- name: all_pairs
-- Every pair.
SELECT a, b FROM pairs ORDER BY a, b
"""
MIGRATE = "import sys; from coordinator.storage.migrate import migrate; print(len(migrate(sys.argv[1])))"

AnyDatabase = SqliteDatabase | PostgresDatabase


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """As the operator has made it: without our tables."""
    return empty_database_url


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    directory = tmp_path / "sql"
    directory.mkdir()
    (directory / "things.sql").write_text(STATEMENTS, encoding="utf-8")
    return directory


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    directory = tmp_path / "migrations"
    directory.mkdir()
    (directory / "0001_things.sql").write_text(MIGRATION, encoding="utf-8")
    return directory


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "database.sqlite")
    url: str = request.getfixturevalue("database_url")
    return url


def open_database(target: str, sql: Path) -> AnyDatabase:
    return PostgresDatabase(target, sql) if target.startswith("postgres") else SqliteDatabase(target, sql)


@pytest.fixture
def database(target: str, migrations: Path, sql: Path) -> Iterator[AnyDatabase]:
    migrate(target, migrations)
    opened = open_database(target, sql)
    yield opened
    opened.close()


def a_thing(thing: str, size: int = 1, **others: Any) -> dict[str, Any]:
    return {"thing": thing, "size": size, "weight": None, "image": None, "note": ""} | others


def all_things(database: AnyDatabase) -> list[dict[str, Any]]:
    with database.transaction() as tables:
        return tables.query("all_things")


# --- rows --------------------------------------------------------------------------------------------------
def test_rows_come_back_as_they_were(database: AnyDatabase) -> None:
    """Text, whole numbers, fractions, bytes and nothing keep their value and their type."""
    rows = [
        a_thing(
            "a", 2**62, weight=1.5, image=bytes(range(256)), note="'; DROP TABLE things; -- %s :x 日本語🎛\n"
        ),
        a_thing("b", -(2**62), weight=2, note=None),
    ]
    with database.transaction() as tables:
        tables.put("things", rows)
    assert rows == all_things(database)
    assert [str, int, float, bytes, str] == [type(value) for value in all_things(database)[0].values()]


def test_change_sets_some_columns_of_the_rows_that_are_there(database: AnyDatabase) -> None:
    """Other columns and other rows stay; a key that is not there stays away; nothing to change is nothing."""
    with database.transaction() as tables:
        tables.put("things", [a_thing("a", 1, note="old"), a_thing("b", 2), a_thing("c", 3)])
        tables.change("things", {"a": {"note": "new", "size": 7}, "gone": {"note": "x", "size": 8}})
        tables.change("things", {"b": {"note": None}})
        tables.change("things", {})
    expected = [a_thing("a", 7, note="new"), a_thing("b", 2, note=None), a_thing("c", 3)]
    assert expected == all_things(database)


def test_changes_must_fit_the_table(database: AnyDatabase) -> None:
    """Rows with different columns, unknown columns and tables with a longer key are refused."""
    with database.transaction() as tables:
        with pytest.raises(BadRow):
            tables.change("things", {"a": {"note": "x"}, "b": {"size": 1}})
        with pytest.raises(BadRow):
            tables.change("things", {"a": {"colour": "red"}})
        with pytest.raises(BadRow):
            tables.change("pairs", {"x": {"b": 2}})


def test_put_replaces_by_key(database: AnyDatabase) -> None:
    """A row with a key that is there replaces the old one whole; within one put the last one counts."""
    with database.transaction() as tables:
        tables.put("things", [a_thing("a", note="old", weight=1.0), a_thing("b")])
        tables.put("things", [a_thing("a", 1), a_thing("c"), a_thing("a", 2)])
        tables.put("things", [])
    assert [a_thing("a", 2), a_thing("b"), a_thing("c")] == all_things(database)


def test_keys_of_several_columns(database: AnyDatabase) -> None:
    """A table may consist of nothing but a key of several columns."""
    rows = [{"a": "x", "b": 1}, {"a": "x", "b": 2}, {"a": "x", "b": 1}]
    with database.transaction() as tables:
        tables.put("pairs", rows)
        tables.put("pairs", rows)
        assert rows[:2] == tables.query("all_pairs")
        with pytest.raises(BadRow, match="the key of pairs is not one column"):
            tables.remove("pairs", ["x"])


@pytest.mark.parametrize(
    ("table", "row", "complaint"),
    [
        ("things", {"thing": "a"}, r"missing: \['image', 'note', 'size', 'weight'\], unknown: \[\]"),
        ("things", a_thing("a", colour="red"), r"missing: \[\], unknown: \['colour'\]"),
        ("nothings", {"a": "b"}, "no table nothings"),
        ("things; DROP TABLE things", {"a": "b"}, "no table things;"),
    ],
)
def test_rows_must_fit(database: AnyDatabase, table: str, row: dict[str, Any], complaint: str) -> None:
    """A row with a column too few or too many, or of no table, is a mistake that says what is wrong."""
    with database.transaction() as tables, pytest.raises(BadRow, match=complaint):
        tables.put(table, [row])


def test_truth_is_one(database: AnyDatabase) -> None:
    """True and False in a column of whole numbers are 1 and 0."""
    with database.transaction() as tables:
        tables.put("things", [a_thing("a", True), a_thing("b", 5), a_thing("c", False)])
    assert [row["size"] for row in all_things(database)] == [1, 5, 0]


def test_many_rows(database: AnyDatabase) -> None:
    """One put and one remove take more rows than a database takes parameters."""
    rows = [a_thing(f"{number:06}", number) for number in range(40_000)]
    with database.transaction() as tables:
        tables.put("things", rows)
        assert tables.query("totals")[0] == {"count": 40_000, "total": 799_980_000, "average": 19_999.5}
        tables.remove("things", [row["thing"] for row in rows[1:]])
        tables.remove("things", [])
    assert rows[:1] == all_things(database)


# --- named statements --------------------------------------------------------------------------------------
def test_parameters_and_lists(database: AnyDatabase) -> None:
    """Values and lists go where the statement names them; a list may be empty, text is never a parameter."""
    with database.transaction() as tables:
        tables.put("things", [a_thing("a", 1), a_thing("b", 2), a_thing("it's", 3), a_thing("d", 4)])
        ask = tables.query
        names = ["a", "b", "it's", "nobody"]
        assert ask("some_things", names=names, sizes=[1], least=0) == [{"thing": "b"}, {"thing": "it's"}]
        assert ask("some_things", names=set(names), sizes=[], least=3) == [{"thing": "it's"}]
        assert ask("some_things", names=[], sizes=[1, 2], least=0) == []


def test_one_text_with_options_is_several_statements(database: AnyDatabase) -> None:
    """Each option in a statement's name stands for it with the marked lines and without them."""
    with database.transaction() as tables:
        tables.put("things", [a_thing("a", 1), a_thing("b", 3), a_thing("c", 2)])

        def names(statement: str) -> str:
            return "".join(row["thing"] for row in tables.query(statement))

        expected = ["acb", "bca", "cb", "bc"]
        named = ["things_by_size", "things_by_size_down", "things_by_size_large", "things_by_size_large_down"]
        assert expected == [names(statement) for statement in named]


def test_a_parameter_may_be_nothing(database: AnyDatabase) -> None:
    """`CAST(:x AS text) IS NULL` works for a value and for none."""
    with database.transaction() as tables:
        tables.put("things", [a_thing("a", note="n"), a_thing("b", note="m")])
        assert tables.query("things_noted", note="n") == [{"thing": "a"}]
        assert tables.query("things_noted", note=None) == [{"thing": "a"}, {"thing": "b"}]


def test_execute_counts(database: AnyDatabase) -> None:
    """`execute` says how many rows it changed; a query may change rows too, within the transaction."""
    with database.transaction() as tables:
        tables.put("things", [a_thing("a", 1), a_thing("b", 2), a_thing("c", 3)])
    with database.transaction() as tables:
        assert tables.execute("grow", by=10, names=["a", "c", "nobody"]) == 2
        assert tables.execute("grow", by=10, names=[]) == 0
    with suppress(ZeroDivisionError), database.transaction() as tables:
        assert tables.query("take", below=10) == [{"thing": "b"}]
        raise ZeroDivisionError
    assert {row["thing"]: row["size"] for row in all_things(database)} == {"a": 11, "b": 2, "c": 13}


@pytest.mark.parametrize(
    ("statement", "params", "complaint"),
    [
        ("forget", {}, "no statement is named forget"),
        ("grow", {"by": 1}, "grow takes the parameters by, names; got by"),
        ("totals", {"by": 1}, "totals takes the parameters none; got by"),
        ("grow", {"by": 1, "names": "abc"}, "grow takes a list as names"),
    ],
)
def test_wrong_calls(database: AnyDatabase, statement: str, params: dict[str, Any], complaint: str) -> None:
    """An unknown statement, a parameter too few or too many, a text for a list: mistakes that say so."""
    with database.transaction() as tables, pytest.raises(BadStatement, match=complaint):
        tables.query(statement, **params)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("-- name: a\n-- One.\nSELECT 1\n-- name: a\n-- Two.\nSELECT 2", "statement a is defined twice"),
        ("SELECT 1", "SQL before the first"),
        ("-- name: a\nSELECT 1", "a has no description"),
        ("-- name: a\n-- One.\n", "a has no SQL"),
        ("-- name: a[_b]\n-- One.\nSELECT 1 -- [no _c]", r"a\[_b\] has no option _c"),
        ("-- name: a\n-- One.\nSELECT :x WHERE 1 IN (:x)", "a uses x as a value and as a list"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, complaint: str) -> None:
    """A file of statements with a mistake in it is refused, and says which."""
    (tmp_path / "wrong.sql").write_text(text, encoding="utf-8")
    with pytest.raises(BadStatement, match=complaint):
        load_statements(tmp_path)


def test_every_statement_fits_the_schema(target: str) -> None:
    """Both engines can plan each of our statements against the migrated schema."""
    migrate(target)
    for statement in load_statements().values():
        params: dict[str, Any] = dict.fromkeys(statement.values) | {key: [] for key in statement.lists}
        if target.startswith("postgres"):
            with psycopg.connect(target) as connection:
                connection.execute(f"EXPLAIN {statement.postgres}", statement.postgres_parameters(params))
        else:
            sqlite = sqlite3.connect(target)
            sqlite.execute(f"EXPLAIN {statement.sqlite}", statement.sqlite_parameters(params)).fetchall()
            sqlite.close()


@pytest.mark.parametrize("fails", [False, True])
def test_a_refilled_table_has_its_new_rows_alone(target: str, database: AnyDatabase, *, fails: bool) -> None:
    """Readers meanwhile have the old rows, and keep them if it fails; the table's schema stays as it was."""
    old, new = [a_thing("a"), a_thing("b")], [a_thing("b", 2), a_thing("c", 3)]
    with database.transaction() as tables:
        tables.put("things", old)
        tables.put("pairs", [{"a": "x", "b": 1}])
    schema = schema_of(target)

    def refill() -> None:
        with database.transaction() as tables, tables.refill(["things"]):
            assert tables.query("all_things") == []
            tables.put("things", new)
            tables.put("things", new)
            assert old == all_things(database)
            if fails:
                raise ZeroDivisionError

    with suppress(ZeroDivisionError):
        refill()
    assert (old if fails else new) == all_things(database)
    with database.transaction() as tables:
        assert [{"a": "x", "b": 1}] == tables.query("all_pairs")
    assert "things_by_size" in schema
    assert schema == schema_of(target)


def schema_of(target: str) -> str:
    """Every table and index."""
    written = runpy.run_path(str(GOLDEN / "write_schemas.py"))
    if target.startswith("postgres"):
        return str(written["dump_postgres"](target))
    return str(written["dump_sqlite"](Path(target)))


# --- transactions ------------------------------------------------------------------------------------------
def test_an_exception_rolls_back(database: AnyDatabase) -> None:
    """What a transaction wrote before an exception is not there afterwards, and the exception goes on."""

    def write_and_fail() -> None:
        with database.transaction() as tables:
            tables.put("things", [a_thing("a")])
            tables.move("projector", 0, 5)
            assert [a_thing("a")] == tables.query("all_things")  # it sees its own writes
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    with database.transaction() as tables:
        assert (tables.query("all_things"), tables.position("projector")) == ([], 0)


def test_unseen_until_committed(database: AnyDatabase) -> None:
    """Others see a transaction's writes when it is committed, and are not held up until then."""
    with database.transaction() as writing:
        writing.put("things", [a_thing("a")])
        assert all_things(database) == []
    assert [a_thing("a")] == all_things(database)


def test_writers_take_turns(database: AnyDatabase) -> None:
    """Threads that change the same row wait for each other; no change is lost."""
    with database.transaction() as tables:
        tables.put("things", [a_thing("a", 0)])

    def grow() -> None:
        for _ in range(25):
            with database.transaction() as tables:
                tables.execute("grow", by=1, names=["a"])

    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(grow) for _ in range(8)]:
            future.result(PATIENCE)
    assert [a_thing("a", 200)] == all_things(database)


def test_close_twice(database: AnyDatabase) -> None:
    """A database may be closed twice, and is out of reach afterwards."""
    database.close()
    database.close()
    with pytest.raises(LogUnavailable), database.transaction() as tables:
        tables.query("all_things")


def test_log_and_tables_share_the_write_lock(tmp_path: Path, sql: Path, migrations: Path) -> None:
    """Appends to the SQLite log wait for a transaction on tables, and the other way round; none fails."""
    path = tmp_path / "both.sqlite"
    migrate(path, migrations)
    log, database = SqliteEventLog(path), SqliteDatabase(path, sql)
    start = threading.Barrier(2)

    def append() -> None:
        start.wait()
        for number in range(100):
            job = stream_id("job", str(number))
            event = JobCanceled(at=1, by="alice", job_id=job, client="alice", attempt=1, reason="")
            log.append([NewEvent(job, 1, event, METADATA)])

    def follow() -> None:
        start.wait()
        for number in range(100):
            with database.transaction() as tables:
                tables.put("things", [a_thing(str(number))])
                tables.move("projector", number, number + 1)

    with ThreadPoolExecutor(2) as threads:
        for future in (threads.submit(append), threads.submit(follow)):
            future.result(PATIENCE)
    assert (len(log.read(0, 1000)), len(all_things(database))) == (100, 100)
    log.close()
    database.close()


def test_surviving_a_restart_of_the_server(
    breakable_postgres: PostgresServer, migrations: Path, sql: Path
) -> None:
    """While the server is away a transaction says so soon; afterwards the same object works by itself."""
    url = breakable_postgres.new_database()
    migrate(url, migrations)
    database = PostgresDatabase(url, sql)
    try:
        with database.transaction() as tables:
            tables.put("things", [a_thing("a")])

        def write_while_it_dies() -> None:
            with database.transaction() as tables:
                tables.put("things", [a_thing("lost")])
                breakable_postgres.kill()

        for use in (write_while_it_dies, lambda: all_things(database)):
            with pytest.raises(LogUnavailable):
                use()
        breakable_postgres.start()
        assert [a_thing("a")] == eventually_now(lambda: all_things(database))
    finally:
        database.close()


def test_terminated_connections_are_not_noticed(database_url: str, migrations: Path, sql: Path) -> None:
    """Connections that the server closed while they were idle are replaced before anybody gets one."""
    migrate(database_url, migrations)
    database = PostgresDatabase(database_url, sql)
    try:
        with database.transaction() as first, database.transaction() as second:  # two connections
            assert (first.query("all_things"), second.query("all_things")) == ([], [])
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert all_things(database) == []
    finally:
        database.close()


# --- a transaction's writes are gathered --------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(8))
def test_writes_of_the_same_rows_take_effect_in_their_order(database: AnyDatabase, seed: int) -> None:
    """Whatever is put, changed, removed and looked at in one transaction: as if one came after the other."""
    chance, expected = random.Random(seed), dict[str, dict[str, Any]]()
    for number in range(12):
        with database.transaction() as tables:
            for _ in range(chance.randint(1, 12)):
                names = chance.sample("abcd", chance.randint(1, 3))
                size = chance.randint(0, 99)
                match chance.choice(("put", "put", "change", "remove", "grow", "look", "pairs")):
                    case "put":
                        tables.put("things", [a_thing(name, size) for name in names])
                        expected |= {name: a_thing(name, size) for name in names}
                    case "change":
                        tables.change("things", {name: {"size": size} for name in names})
                        expected |= {n: {**expected[n], "size": size} for n in names if n in expected}
                    case "remove":
                        tables.remove("things", names)
                        expected = {n: row for n, row in expected.items() if n not in names}
                    case "grow":
                        there = [n for n in names if n in expected]
                        assert len(there) == tables.execute("grow", by=1, names=names)
                        expected |= {n: {**expected[n], "size": expected[n]["size"] + 1} for n in there}
                    case "pairs":
                        tables.put("pairs", [{"a": name, "b": size} for name in names])
                    case "look":
                        assert sorted(expected) == [row["thing"] for row in tables.query("all_things")]
            tables.move("projector", number, number + 1)
        assert [expected[name] for name in sorted(expected)] == all_things(database)


def test_a_transaction_that_only_writes_is_one_statement(
    database_url: str, migrations: Path, sql: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower's batch is one round trip, however many tables it writes; another write of a row is two."""
    migrate(database_url, migrations)
    sent: list[str] = []
    here = threading.get_ident()
    execute = psycopg.Connection.execute

    def counted(self: Any, query: Any, *arguments: Any, **named: Any) -> Any:
        if threading.get_ident() == here:  # the pool makes its connections ready in threads of its own
            sent.append(str(query).split()[0])
        return execute(self, query, *arguments, **named)

    with closing(PostgresDatabase(database_url, sql)) as database:
        all_things(database)
        with database.transaction() as tables:
            tables.put("things", [a_thing("shapes are read")])
        monkeypatch.setattr(psycopg.Connection, "execute", counted)
        with database.transaction() as tables:
            tables.put("things", [a_thing("a"), a_thing("b")])
            tables.put("pairs", [{"a": "a", "b": 1}])
            tables.change("things", {"shapes are read": {"size": 2}})
            tables.remove("things", ["c"])
            tables.move("projector", 0, 1)
        assert ["WITH"] == sent
        sent.clear()
        with database.transaction() as tables:
            tables.put("things", [a_thing("a")])
            tables.remove("things", ["a"])
        assert ["WITH", "WITH"] == sent


# --- positions ---------------------------------------------------------------------------------------------
def test_positions_move(database: AnyDatabase) -> None:
    """A follower begins at 0 and moves from where it is."""
    with database.transaction() as tables:
        before = tables.position("projector")
        tables.move("projector", before, 7)
        tables.move("projector", 7, 9)
    with database.transaction() as tables:
        assert (before, tables.position("projector"), tables.position("publisher")) == (0, 9, 0)


@pytest.mark.parametrize("before", [0, 6, 8])
def test_a_moved_position_stops_the_other(database: AnyDatabase, before: int) -> None:
    """Whoever moves a position from where it is not any more is told, and nothing of theirs is written."""
    with database.transaction() as tables:
        tables.move("projector", 0, 7)

    def follow() -> None:
        with database.transaction() as tables:
            tables.put("things", [a_thing("zombie")])
            tables.move("projector", before, 10)

    with pytest.raises(PositionMoved, match=f"projector is no longer at {before}"):
        follow()
    with database.transaction() as tables:
        assert (tables.position("projector"), tables.query("all_things")) == (7, [])


@pytest.mark.parametrize("before", [0, 5])
def test_one_of_two_followers_moves(database: AnyDatabase, before: int) -> None:
    """Of two that move the same position at the same time, one does and the other is told."""
    if before:
        with database.transaction() as tables:
            tables.move("projector", 0, before)
    start = threading.Barrier(4)

    def move() -> bool:
        start.wait()
        try:
            with database.transaction() as tables:
                tables.move("projector", before, before + 1)
        except PositionMoved:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        moved = [f.result(PATIENCE) for f in [threads.submit(move) for _ in range(4)]]
    assert sum(moved) == 1


# --- migrations --------------------------------------------------------------------------------------------
def test_migrations_apply_once_and_in_order(target: str, migrations: Path) -> None:
    """Each migration is applied once, in the order of the names, and later ones are added."""
    (migrations / "0002_more.sql").write_text("ALTER TABLE things ADD COLUMN colour text;", encoding="utf-8")
    assert migrate(target, migrations) == ["0001_things", "0002_more"]
    assert migrate(target, migrations) == []
    (migrations / "0003_most.sql").write_text("DROP INDEX things_by_size;\n-- the end", encoding="utf-8")
    assert migrate(target, migrations) == ["0003_most"]


def test_a_changed_migration_is_refused(target: str, migrations: Path) -> None:
    """A migration that was applied and then edited stops the program, before anything else is applied."""
    migrate(target, migrations)
    (migrations / "0001_things.sql").write_text(MIGRATION + "-- better", encoding="utf-8")
    (migrations / "0002_more.sql").write_text("DROP TABLE things;", encoding="utf-8")
    with pytest.raises(MigrationChanged, match="0001_things"):
        migrate(target, migrations)


def test_a_failed_migration_leaves_nothing(target: str, migrations: Path) -> None:
    """A migration applies whole or not at all, and again when it was put right."""
    (migrations / "0002_more.sql").write_text("CREATE TABLE more (a text); SELECT wrong;", encoding="utf-8")
    with pytest.raises((sqlite3.Error, psycopg.Error)):
        migrate(target, migrations)
    (migrations / "0002_more.sql").write_text("CREATE TABLE more (a text);", encoding="utf-8")
    assert "0002_more" in migrate(target, migrations)


def test_four_processes_migrate(target: str) -> None:
    """Of four processes that migrate at the same time one does the work, and none fails."""
    processes = [
        subprocess.Popen([sys.executable, "-c", MIGRATE, target], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    applied = [int(process.communicate(timeout=4 * PATIENCE)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert [0, 0, 0, len(read_migrations())] == sorted(applied)


def test_the_schema_is_the_one_written_down(target: str) -> None:
    """All migrations applied give the schema in tests/golden; write_schemas.py there writes it anew."""
    written = runpy.run_path(str(GOLDEN / "write_schemas.py"))
    migrate(target)
    expected = written["POSTGRES" if target.startswith("postgres") else "SQLITE"]
    assert expected.read_text(encoding="utf-8") == schema_of(target)


def test_no_statement_is_compiled(database_url: str) -> None:
    """A scan where scans are switched off seems to cost any amount, and still takes microseconds."""
    with psycopg.connect(database_url) as connection:
        set_up(connection)
        connection.execute("CREATE TABLE few AS SELECT 1 AS a")
        connection.execute("SET enable_seqscan = off")
        select = "SELECT a + 1 FROM few WHERE a > 0"
        row = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {select}").fetchone()
    assert row is not None
    [plan] = row[0]
    assert plan["Plan"]["Total Cost"] > 1e9
    assert "JIT" not in plan


def test_a_database_of_another_encoding_is_refused(database_url: str) -> None:
    """One that can't hold every text gets no tables: the refusal says how to make one that can."""
    name = "ascii_only"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        other = urlsplit(database_url)._replace(path=f"/{name}").geturl()
        try:
            with pytest.raises(UnfitDatabase, match=r"SQL_ASCII.* ENCODING 'UTF8'"):
                migrate(other)
            with psycopg.connect(other) as created:
                assert [] == created.execute("SELECT 1 FROM pg_tables WHERE schemaname = 'public'").fetchall()
        finally:
            connection.execute(f"DROP DATABASE {name}")
