"""The schemas of the tables: columns, types and keys, read from the database once after its migrations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from coordinator.application.ports import Row


class BadRow(Exception):
    """A row does not fit its table, or the table does not exist; the text says why."""


@dataclass(frozen=True, slots=True)
class TableSchema:
    """One table."""

    name: str
    types: Mapping[str, str]
    """By column, in order."""
    key: tuple[str, ...]

    def one_key(self) -> str:
        """The key column. Raises BadRow if the key has several."""
        if len(self.key) != 1:
            raise BadRow(f"the key of {self.name} is not one column")
        return self.key[0]

    def by_column(self, rows: Sequence[Row]) -> list[list[Any]]:
        """One list of values per column. If a key comes twice, the last row counts."""
        keys = self.keys_of(self._checked(rows))
        if len(set(keys)) < len(keys):
            rows = list(dict(zip(keys, rows, strict=True)).values())
        return [[row[column] for row in rows] for column in self.types]

    def keys_of(self, rows: Sequence[Row]) -> list[Any]:
        """The keys of these rows: values if the key is one column, else tuples."""
        if len(self.key) == 1:
            key = self.key[0]
            return [row[key] for row in rows]
        return [tuple(row[k] for k in self.key) for row in rows]

    def changes_by_column(self, rows: Mapping[str, Row]) -> dict[str, list[Any]]:
        """The key's column and then the others, as lists of values. Raises BadRow."""
        columns = next(iter(rows.values())).keys()
        if any(row.keys() != columns for row in rows.values()) or not columns <= self.types.keys():
            raise BadRow(f"changes of {self.name} must all have the same columns, and only the table's")
        return {self.one_key(): list(rows), **{c: [row[c] for row in rows.values()] for c in columns}}

    def upsert(self, values: str) -> str:
        """INSERT these values (`VALUES (…)` or `SELECT …`), or replace the row with the same key."""
        columns = ", ".join(self.types)
        updates = ", ".join(f"{c} = excluded.{c}" for c in self.types if c not in self.key)
        action = f"UPDATE SET {updates}" if updates else "NOTHING"
        # Names come from the database's own catalogue; values are bound.
        return f"INSERT INTO {self.name} ({columns}) {values} ON CONFLICT ({', '.join(self.key)}) DO {action}"

    def _checked(self, rows: Sequence[Row]) -> Sequence[Row]:
        for row in rows:
            if row.keys() != self.types.keys():
                missing, unknown = self.types.keys() - row.keys(), row.keys() - self.types.keys()
                raise BadRow(
                    f"a row of {self.name} must have all columns and no others; "
                    f"missing: {sorted(missing)}, unknown: {sorted(unknown)}"
                )
        return rows


class TableSchemas:
    """The schemas of all tables, read at the first use. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[str, TableSchema] = {}
        self._lock = Lock()

    def of(self, table: str, read: Callable[[], Mapping[str, TableSchema]]) -> TableSchema:
        """The schema of a table; `read` reads all of them. Raises BadRow if the table does not exist."""
        if table not in self._known:
            with self._lock:
                if table not in self._known:
                    self._known = dict(read())
        try:
            return self._known[table]
        except KeyError:
            raise BadRow(f"no table {table} with a key; is every migration applied?") from None
