"""The derived tables and their database, who leads a follower, and how far each is.

The database is synchronous and is called in threads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from coordinator.domain.messages import Millis

Row = Mapping[str, Any]


class PositionMoved(Exception):
    """Another process moved this follower's position: this one no longer leads. Nothing was written."""


class Tables(Protocol):
    """The derived tables, inside one transaction. Columns hold str, int, float, bytes or None.

    A write may be delayed until a read needs it, or until the end of the transaction; so may its errors.
    """

    def put(self, table: str, rows: Sequence[Row]) -> None:
        """Insert these whole rows, or replace the rows with the same keys; one statement for all."""

    def change(self, table: str, rows: Mapping[str, Row]) -> None:
        """Set these columns (the same in all rows) of the rows with these keys; one statement for all.

        For tables whose key is one text column, which the rows leave out. Missing keys are ignored.
        """

    def remove(self, table: str, keys: Collection[str]) -> None:
        """Delete the rows with these keys (tables whose key is one text column); one statement for all."""

    def refill(self, tables: Collection[str]) -> AbstractContextManager[None]:
        """Delete all rows of these tables; within the block they get new ones, at less cost than later."""

    def query(self, statement: str, **params: Any) -> list[dict[str, Any]]:
        """The rows of a named statement (see the `.sql` files). A list parameter fits `IN (:list)`."""

    def execute(self, statement: str, **params: Any) -> int:
        """Run a named statement; returns the number of changed rows."""

    def position(self, follower: str) -> int:
        """The position of this follower; 0 at first."""

    def move(self, follower: str, before: int, after: int) -> None:
        """Move a follower's position. Raises PositionMoved if it is not at `before`."""


class Database(Protocol):
    """The database of the tables, which is also the log's. Thread-safe."""

    def transaction(self) -> AbstractContextManager[Tables]:
        """One transaction: committed at the end, rolled back by an exception. Raises LogUnavailable."""

    def close(self) -> None: ...


class Leadership(Protocol):
    """At most one process at a time holds a name."""

    async def acquire(self, name: str) -> None:
        """Wait until this process holds `name`."""

    def holds(self, name: str) -> bool:
        """Whether this process still holds `name`, as far as it knows."""

    def led_elsewhere(self, name: str) -> bool:
        """Whether another process held `name` when this one last asked, a moment ago."""

    async def release(self, name: str) -> None: ...

    async def close(self) -> None: ...


class Watermarks(Protocol):
    """The positions of the followers, for reads that ask for at least a position."""

    def hurry(self, follower: str, position: int) -> None:
        """Somebody waits for this position: have the follower store it without a rest, if it is led here."""

    async def reached(self, follower: str, position: int, timeout: float) -> bool:
        """Wait until `follower` has reached `position`; False if `timeout` seconds pass first."""

    def of(self, follower: str) -> int:
        """The follower's last position known to this process."""


class TableCheck(NamedTuple):
    """How far the read models were compared with the log."""

    begun_at: int
    """The position after which the comparison began."""
    checked_to: int
    rows: int
    """Compared rows."""
    differences: Sequence[str]
    """The first ones found, one sentence each."""
    at: Millis
    """The time of the last comparison."""


class TableChecks(Protocol):
    """Compares the read models with the log, piece by piece. Blocks: call it in a thread."""

    def advance(self) -> TableCheck:
        """Compare the next piece. Raises LogError."""
