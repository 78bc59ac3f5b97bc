"""Columns of values, as Postgres reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from coordinator.storage.connections.postgres_arrays import BadValue, Column
from coordinator.storage.connections.postgres_pool import set_up

COLUMNS: dict[str, list[Any]] = {
    "bigint": [0, None, -(2**63), 2**63 - 1],
    "bytea": [b"", None, b"\0\xff", bytes(300_000)],
    "double precision": [0.0, None, -1.5, 3.0, float("inf"), 5e-324],
    "text": ["", None, "NULL", "{}", '"\\,', "日本語🎛", "x" * 300_000],
    "uuid": [UUID(int=0), None, UUID(int=2**128 - 1)],
}


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url) as connection:
        set_up(connection)
        yield connection


def sent(connection: psycopg.Connection[Any], kind: str, values: list[Any]) -> list[Any]:
    """What the server makes of a column."""
    found = connection.execute(f"SELECT v FROM unnest(%b::{kind}[]) AS v", [Column(kind, values)])
    return [value for (value,) in found.fetchall()]


@pytest.mark.parametrize("kind", COLUMNS)
def test_every_value_arrives_as_it_was(connection: psycopg.Connection[Any], kind: str) -> None:
    """Extremes, what looks like syntax, and None: with others, without any, alone, and no value at all."""
    values = COLUMNS[kind]
    there = [value for value in values if value is not None]
    for column in (values, there, [None, None], there[:1], []):
        assert column == sent(connection, kind, column)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("bigint", 2**63),
        ("bigint", -(2**63) - 1),
        ("bigint", 1.5),
        ("bigint", "5"),
        ("bytea", 5),
        ("bytea", "x"),
        ("bytea", [1, 2]),
        ("double precision", 10**400),
        ("double precision", "x"),
        ("text", 5),
        ("text", b"x"),
        ("text", "\ud800"),
        ("uuid", "00000000-0000-0000-0000-000000000000"),
        ("uuid", 5),
    ],
)
@pytest.mark.parametrize("others", [[], [None]])
def test_a_value_of_another_type_is_not_sent(
    connection: psycopg.Connection[Any], kind: str, value: Any, others: list[Any]
) -> None:
    """The error names the type, and the connection is as good as before, in a transaction too."""
    for _ in range(2):
        with pytest.raises(BadValue, match=f"a column of {kind} can't hold this"):
            sent(connection, kind, [value, *others])
        assert connection.info.transaction_status is TransactionStatus.IDLE
    with connection.transaction():
        with pytest.raises(BadValue):
            sent(connection, kind, [*others, value])
        assert sent(connection, "bigint", [1]) == [1]


def test_a_nul_character_is_refused_by_the_server(connection: psycopg.Connection[Any]) -> None:
    """No text of Postgres has one; the connection goes on."""
    with pytest.raises(psycopg.DataError, match="0x00"):
        sent(connection, "text", ["a\0b"])
    assert sent(connection, "text", ["ab"]) == ["ab"]
