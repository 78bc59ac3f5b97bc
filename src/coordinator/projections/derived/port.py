"""A fold: what one follower's tables must hold, by its events alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

from coordinator.application.ports import Recorded, Tables
from coordinator.domain.messages import Event

StoredRows = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By table and key, as they were read in one moment."""


class DerivedTables(Protocol):
    """The tables of one follower. It shares no code with the follower but the models of their rows."""

    follower: ClassVar[str]
    """Its position, up to which the tables follow from the log."""
    events: ClassVar[tuple[type[Event], ...]]
    """The events that change the tables."""
    statements: ClassVar[Mapping[str, str]]
    """By table: the statement that reads all its rows."""

    def take(self, recorded: Recorded) -> None:
        """Fold one event more, which is one of `events`."""

    def key_of(self, table: str, row: Mapping[str, Any]) -> str:
        """The key of a stored row."""

    def differences(self, stored: StoredRows) -> Iterator[str]:
        """One sentence for each row that the log does not account for, or that is missing."""

    def write(self, tables: Tables) -> None:
        """Replace all rows."""


def compare(
    table: str, wanted: Mapping[str, Mapping[str, Any]], stored: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """The differences in the columns of `wanted`; further columns of `stored` do not follow from the log."""
    for key in sorted(wanted.keys() | stored.keys()):
        if key not in wanted:
            yield f"{table} {key}: the table has it, the log does not"
        elif key not in stored:
            yield f"{table} {key}: the log has it, the table does not"
        else:
            columns = sorted(c for c, value in wanted[key].items() if stored[key][c] != value)
            if columns:
                yield f"{table} {key}: differs in {', '.join(columns)}"
