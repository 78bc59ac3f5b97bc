"""Connections to Postgres: their settings, and a pool that survives a restart of the server."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

from coordinator.storage.connections.postgres_arrays import register_columns

CHECKOUT_SECONDS = 1.5
RECONNECT_SECONDS = 1.0  # the pool tries by itself for so long; after that the next checkout tries again
# The two halves of the keys of our advisory locks.
LOCK_CLASS = 0x636F6F72  # "coor"
APPEND_LOCK = 1
MIGRATE_LOCK = 2
LEADER_LOCK_CLASS = LOCK_CLASS + 1  # with the hash of a name

# Compiling takes a quarter of a second, our statements take milliseconds. The server would compile each one
# whose only way is a scan: where scans are switched off, they seem to cost any amount.
_SETUP = """
SET jit = off;
SET default_transaction_isolation = 'read committed';
SET lock_timeout = '2s';
SET statement_timeout = '30s';
SET idle_in_transaction_session_timeout = '10s'
"""

_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 2,
    # A host that vanished silently is noticed in about ten seconds.
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    # After a failover the old primary refuses writes: connect to the new one instead.
    "target_session_attrs": "read-write",
}


def connection_arguments(url: str, application_name: str) -> dict[str, Any]:
    """The connection settings: the URL's, and our defaults for the rest."""
    return {**_DEFAULTS, "application_name": application_name, **conninfo_to_dict(url)}


def set_up(connection: Connection[Any]) -> None:
    """Autocommit, timeouts, isolation; columns of values as parameters."""
    register_columns(connection)
    connection.autocommit = True
    connection.execute(_SETUP)


def check_alive(connection: Connection[Any]) -> None:
    """Raise if the server closed this idle connection. Costs a round trip only if unexpected data came."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):  # data without a request: most likely the server's farewell
        connection.execute("")


def new_pool(
    url: str,
    application_name: str,
    *,
    max_size: int,
    configure: Callable[[Connection[Any]], None] = set_up,
    **arguments: Any,
) -> ConnectionPool[Connection[Any]]:
    """A pool that is not open yet; its connections are in autocommit mode."""

    def check(connection: Connection[Any]) -> None:
        try:
            check_alive(connection)
        except psycopg.Error:
            pool.check()  # if one is dead, all may be: replace them now, not one by one
            raise

    pool: ConnectionPool[Connection[Any]] = ConnectionPool(
        kwargs={**connection_arguments(url, application_name), **arguments},
        configure=configure,
        check=check,
        min_size=1,
        max_size=max_size,
        open=False,
        timeout=CHECKOUT_SECONDS,
        reconnect_timeout=RECONNECT_SECONDS,
        num_workers=2,
        name=application_name,
    )
    return pool
