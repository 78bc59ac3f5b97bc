"""Columns as Postgres arrays, in binary form.

psycopg's own dumper takes one item at a time, which cost more than the rest of a write of a thousand rows.
Here a column is packed in a few calls.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from typing import Any, NamedTuple, Self

from psycopg import Connection, pq
from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper, PyFormat

_OIDS = {
    # element, array: the same in every Postgres
    "bigint": (20, 1016),
    "bytea": (17, 1001),
    "double precision": (701, 1022),
    "text": (25, 1009),
    "uuid": (2950, 2951),
}
_HEAD = struct.Struct(">iiIii")  # dimensions, whether there are nulls, element type, length, lower bound
_EMPTY = struct.Struct(">iiI")
_length = struct.Struct(">i").pack
_bigint = struct.Struct(">iq").pack
_double = struct.Struct(">id").pack
_NULL = _length(-1)


class BadValue(ValueError):
    """A value does not fit the type of its column; nothing was sent."""


class Column(NamedTuple):
    """Values of one type (`bigint`, `bytea`, `double precision`, `text` or `uuid`), or None."""

    kind: str
    values: Sequence[Any]


def to_binary(column: Column) -> bytes:
    """The array as Postgres receives it. Raises BadValue; NUL characters in a text are left to the server."""
    kind, values = column
    element, _ = _OIDS[kind]
    if not values:
        return _EMPTY.pack(0, 0, element)
    present = values
    nulls = None in values
    if nulls:
        present = [value for value in values if value is not None]
    try:
        packed = _packed(kind, present, joined=nulls)
    except (struct.error, TypeError, AttributeError, UnicodeEncodeError) as error:
        raise BadValue(f"a column of {kind} can't hold this: {error}") from None
    if nulls:
        remaining = iter(packed)
        packed = [_NULL if value is None else next(remaining) for value in values]
    return _HEAD.pack(1, int(nulls), element, len(values), 1) + b"".join(packed)


def _packed(kind: str, values: Sequence[Any], *, joined: bool) -> list[bytes]:
    """Each value after its length. `joined`: one item per value; else a length may be an item of its own."""
    match kind:
        case "bigint":
            return list(map(_bigint, repeat(8), values))
        case "double precision":
            return list(map(_double, repeat(8), values))
    items = list(map(_BYTES[kind], values))
    lengths = map(_length, map(len, items))
    if joined:
        return [length + item for length, item in zip(lengths, items, strict=True)]
    return list(chain.from_iterable(zip(lengths, items, strict=True)))


_BYTES: dict[str, Callable[[Any], bytes]] = {
    "bytea": b"".__add__,  # `bytes` would make five zeros of a 5
    "text": str.encode,
    "uuid": lambda value: value.bytes,
}


class _ColumnDumper(Dumper):
    format = pq.Format.BINARY

    def get_key(self, obj: Column, format: PyFormat) -> tuple[type, str]:  # type: ignore[override]
        return (self.cls, obj.kind)

    def upgrade(self, obj: Column, format: PyFormat) -> Self:
        dumper = type(self)(self.cls)
        dumper.oid = _OIDS[obj.kind][1]
        return dumper

    def dump(self, obj: Column) -> bytes:
        return to_binary(obj)


def register_columns(connection: Connection[Any] | AdaptContext) -> None:
    """Let this connection take `Column` as a parameter (`%b`)."""
    assert connection.adapters is not None
    connection.adapters.register_dumper(Column, _ColumnDumper)
