"""The library's Postgres recorder, with a faster append and a lock of its own.

An append is one call of one function: five binary arrays of events, four of payloads, one round trip. The
function keeps the promises of the library's own append (order of positions = order of commits, a
notification, conflicts as errors), and adds the payloads and the previous position.

The lock: the library takes an EXCLUSIVE lock on the table, so that a reader never misses a late commit.
VACUUM, ANALYZE and CREATE INDEX CONCURRENTLY take that lock too, and stall every writer while they run. An
advisory lock, taken first by every writer, serialises appends alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString
from uuid import UUID

from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg.rows import dict_row, tuple_row
from psycopg.sql import SQL, Identifier, Literal

from coordinator.application.ports import StoredPayload
from coordinator.storage.connections.postgres_arrays import Column
from coordinator.storage.connections.postgres_pool import APPEND_LOCK, LOCK_CLASS, new_pool
from coordinator.storage.log.mapping import NO_METADATA, Columns, last_of_each

POOL_SIZE = 8
LOG_APPLICATION = "coordinator-log"

# The library's table with one more column, and settings for a table that only grows.
_CREATE_EVENTS: LiteralString = """
CREATE TABLE IF NOT EXISTS {schema}.{table} (
    originator_id uuid NOT NULL,
    originator_version bigint NOT NULL,
    topic text NOT NULL,
    state bytea NOT NULL,
    metadata bytea NOT NULL,
    notification_id bigserial,
    PRIMARY KEY (originator_id, originator_version)
) WITH (
    autovacuum_enabled = true,
    autovacuum_vacuum_threshold = 100000000,
    autovacuum_vacuum_scale_factor = 0.5,
    autovacuum_analyze_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.01
)"""

_CREATE_PAYLOADS: LiteralString = """
CREATE TABLE IF NOT EXISTS {schema}.payloads (
    job_id uuid NOT NULL,
    kind text NOT NULL,
    salt bytea NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (job_id, kind)
)"""

# A new version of the function gets a new name: during an upgrade old programs still call the old one.
_CREATE_APPEND: LiteralString = """
CREATE OR REPLACE FUNCTION {schema}.coordinator_append_v1(
    streams uuid[], versions bigint[], topics text[], states bytea[], metadata bytea[],
    jobs uuid[], kinds text[], salts bytea[], bodies bytea[],
    OUT previous bigint, OUT positions bigint[]
) LANGUAGE plpgsql VOLATILE AS $body$
BEGIN
    PERFORM pg_advisory_xact_lock({lock_class}, {lock});
    -- In a volatile function every statement sees what was committed before it, so this is exact.
    SELECT coalesce(max(notification_id), 0) INTO previous FROM {schema}.{table};
    WITH inserted AS (
        INSERT INTO {schema}.{table} (originator_id, originator_version, topic, state, metadata)
        SELECT * FROM unnest(streams, versions, topics, states, metadata)
        RETURNING notification_id
    )
    SELECT array_agg(notification_id) INTO positions FROM inserted;
    IF cardinality(jobs) > 0 THEN
        INSERT INTO {schema}.payloads (job_id, kind, salt, body)
        SELECT * FROM unnest(jobs, kinds, salts, bodies)
        ON CONFLICT (job_id, kind) DO UPDATE SET salt = excluded.salt, body = excluded.body;
    END IF;
    PERFORM pg_notify({channel}, positions[cardinality(positions)]::text);
END $body$"""

_APPEND: LiteralString = (
    "SELECT previous, positions FROM {schema}.coordinator_append_v1("
    "%b::uuid[], %b::bigint[], %b::text[], %b::bytea[], %b::bytea[], "
    "%b::uuid[], %b::text[], %b::bytea[], %b::bytea[])"
)


class PostgresLogDatastore(PostgresDatastore):
    """The library's datastore on our pool."""

    def __init__(self, url: str) -> None:
        super().__init__("", "", "", "", "")
        self.pool = new_pool(url, LOG_APPLICATION, max_size=POOL_SIZE, row_factory=dict_row)  # type: ignore[assignment]


class PostgresRecorder(PostgresApplicationRecorder):
    """Appends and reads for `PostgresEventLog`; the rest is the library's."""

    def __init__(self, datastore: PostgresLogDatastore) -> None:
        super().__init__(datastore)
        names: dict[str, Any] = {
            "schema": Identifier(datastore.schema),
            "table": Identifier(self.events_table_name),
            "channel": Literal(self.channel_name),
            "lock_class": Literal(LOCK_CLASS),
            "lock": Literal(APPEND_LOCK),
        }
        self.sql_create_statements[self.create_table_statement_index] = SQL(_CREATE_EVENTS).format(**names)
        # The library's own function appends without a lock: keep it out of the database.
        del self.sql_create_statements[self.create_insert_function_statement_index]
        self.sql_create_statements += [
            SQL(_CREATE_PAYLOADS).format(**names),
            SQL(_CREATE_APPEND).format(**names),
        ]
        self.append_statement = SQL(_APPEND).format(**names)

    def append(self, columns: Columns, payloads: Sequence[StoredPayload] = ()) -> tuple[int, Sequence[int]]:
        """Append events and store payloads in one transaction and one round trip.

        Returns the log's last position before these events, and their positions. Raises the library's
        IntegrityError, OperationalError and InterfaceError.
        """
        rows = last_of_each(payloads) if payloads else ()
        values = (
            Column("uuid", columns.streams),
            Column("bigint", columns.versions),
            Column("text", columns.topics),
            Column("bytea", columns.states),
            Column("bytea", columns.metadata),
            Column("uuid", [p.job_id for p in rows]),
            Column("text", [p.kind for p in rows]),
            Column("bytea", [p.salt for p in rows]),
            Column("bytea", [p.body for p in rows]),
        )
        with (
            self.datastore.get_connection() as connection,
            connection.cursor(binary=True, row_factory=tuple_row) as cursor,
        ):
            cursor.execute(self.append_statement, values, prepare=True)
            row = cursor.fetchone()
            assert row is not None
            previous, positions = row
            return previous, positions

    def select(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """The rows of one prepared statement, binary and as tuples."""
        with (
            self.datastore.get_connection() as connection,
            connection.cursor(binary=True, row_factory=tuple_row) as cursor,
        ):
            cursor.execute(statement, values, prepare=True)
            return cursor.fetchall()

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        if not stored_events:
            return []
        rows = ((_uuid(e), e.originator_version, e.topic, e.state, NO_METADATA) for e in stored_events)
        return self.append(Columns(*zip(*rows, strict=True)))[1]


def _uuid(event: StoredEvent) -> UUID:
    assert isinstance(event.originator_id, UUID)
    return event.originator_id
