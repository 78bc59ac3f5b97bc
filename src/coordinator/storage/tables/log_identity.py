"""The log's id: it tells this log from all others, on a virtual host for example."""

from __future__ import annotations

from uuid import uuid4

from coordinator.application.ports import Database


def log_id_of(database: Database) -> str:
    """The id of the log in this database, made at the first call. Raises LogUnavailable."""
    with database.transaction() as tables:
        rows = tables.query("log_identity")
        if not rows:
            tables.execute("log_identity_make", log_id=str(uuid4()))
            rows = tables.query("log_identity")  # another process may have been first
        return str(rows[0]["log_id"])
