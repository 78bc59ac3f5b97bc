"""Writes down what the database looks like after all migrations, for `test_database.py` to compare with.

    python tests/golden/write_schemas.py

Run it when a migration is added, and read the difference before committing it.
"""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

import psycopg

from coordinator.dev.servers import private_postgres
from coordinator.storage.migrate import migrate

GOLDEN = Path(__file__).parent
SQLITE = GOLDEN / "schema-sqlite.txt"
POSTGRES = GOLDEN / "schema-postgres.txt"

_POSTGRES_PARTS = (
    """
    SELECT table_name || '.' || column_name || ' ' || data_type
        || CASE is_nullable WHEN 'NO' THEN ' not null' ELSE '' END
        || coalesce(' default ' || column_default, '')
    FROM information_schema.columns WHERE table_schema = 'public' ORDER BY table_name, ordinal_position
    """,
    "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname",
    """
    SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY proname
    """,
)


def dump_sqlite(path: Path) -> str:
    """The text of every table and index."""
    connection = sqlite3.connect(path)
    try:
        select = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type DESC, name"
        return "".join(f"{sql}\n\n" for (sql,) in connection.execute(select))
    finally:
        connection.close()


def dump_postgres(url: str) -> str:
    """Every column, index and function."""
    with psycopg.connect(url) as connection:
        parts = [connection.execute(part).fetchall() for part in _POSTGRES_PARTS]
    return "\n".join("".join(f"{line}\n" for (line,) in part) for part in parts)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "schema.sqlite"
        migrate(path)
        SQLITE.write_text(dump_sqlite(path), encoding="utf-8")
    with private_postgres() as server:
        url = server.new_database()
        migrate(url)
        POSTGRES.write_text(dump_postgres(url), encoding="utf-8")


if __name__ == "__main__":
    main()
