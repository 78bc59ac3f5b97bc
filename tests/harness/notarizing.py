"""A log with a notary that a test drives by hand, batch by batch, on SQLite or Postgres."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg

from coordinator.application.ports import Clock, Database, EventLog, NewEvent, Recorded
from coordinator.application.proof.memory import CheckpointMemory
from coordinator.application.proof.notary import Notary, Signed
from coordinator.application.proof.proofs import Proofs
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.log.checkpoint import Checkpoint
from coordinator.crypto.log.leaf import hash_of
from coordinator.storage.checkpoint_file import CheckpointFile
from coordinator.storage.log.postgres import PostgresEventLog
from coordinator.storage.log.sqlite import SqliteEventLog
from coordinator.storage.migrate import is_postgres, migrate
from coordinator.storage.tables.postgres import PostgresDatabase
from coordinator.storage.tables.sqlite import SqliteDatabase
from tests.harness import deciding
from tests.harness.metadata import METADATA

KEY = SigningKey(bytes(range(32)))
ORIGIN = "example.com/log"


@dataclass
class NotarizedLog:
    """A log, its tables, and the file with its last checkpoint."""

    target: str
    """The path of a SQLite file, or a database's URL."""
    file: Path
    now: int = deciding.T0
    monotonic: float = 1000.0
    signed: list[Signed] = field(default_factory=list)
    """What the notaries announced."""

    def __post_init__(self) -> None:
        migrate(self.target)
        self.open()

    def open(self) -> None:
        self.log: EventLog
        self.database: Database
        if is_postgres(self.target):
            self.log, self.database = PostgresEventLog(self.target), PostgresDatabase(self.target)
        else:
            self.log, self.database = SqliteEventLog(self.target), SqliteDatabase(self.target)

    def close(self) -> None:
        self.log.close()
        self.database.close()

    # --- events --------------------------------------------------------------------------------------------
    def append(self, count: int = 1, streams: Sequence[UUID] | None = None) -> list[Recorded]:
        """Append events of one job each."""
        jobs = streams or [uuid4() for _ in range(count)]
        events = [NewEvent(job, 1, deciding.submitted(job_id=job), METADATA) for job in jobs]
        return list(self.log.append(events).events)

    def hashes(self) -> list[bytes]:
        """The leaf hashes of all stored rows, made here from the rows themselves."""
        return [
            hash_of(position, str(UUID(str(stream))), version, topic, bytes(metadata), bytes(state))
            for position, stream, version, topic, state, metadata in self.sql(_ALL_EVENTS)
        ]

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement behind everybody's back; {position} is the column of positions."""
        if is_postgres(self.target):
            with psycopg.connect(self.target, autocommit=True) as connection:
                cursor = connection.execute(statement.format(position="notification_id").encode())
                return cursor.fetchall() if cursor.description else []
        with closing(sqlite3.connect(self.target)) as file, file:
            return file.execute(statement.format(position="rowid")).fetchall()

    # --- the notary ----------------------------------------------------------------------------------------
    def notary(
        self,
        memory: CheckpointMemory | None = None,
        origin: str | None = ORIGIN,
        head: Callable[[], int] | None = None,
    ) -> Notary:
        clock = Clock(now=lambda: self.now, monotonic=lambda: self.monotonic)
        kept = CheckpointFile(self.file) if memory is None else memory
        made = Notary(KEY, self.log, self.database, kept, head or self.log.head, clock, origin)
        made.on_checkpoint = self.signed.append
        return made

    def start(self, notary: Notary) -> int:
        """What the runner does first; the notary's position."""
        with self.database.transaction() as tables:
            position = tables.position(notary.name)
            notary.take_over(tables)
        return position

    async def follow(self, notary: Notary, batch: int = 1000, until: int | None = None) -> None:
        """Start, apply all events in batches (up to a position), and tick."""
        position = self.start(notary)
        await notary.tick(position)
        while events := self.log.read(position, batch):
            events = [event for event in events if until is None or event.position <= until]
            if not events:
                break
            position = self.store(notary, position, events)
            await notary.tick(position)

    def store(self, notary: Notary, position: int, events: Sequence[Recorded], *, dies: bool = False) -> int:
        """One batch, as the runner does it; the new position. With `dies` nothing is committed."""
        with self.database.transaction() as tables:
            notary.apply(tables, events)
            tables.move(notary.name, position, events[-1].position)
            if dies:
                raise KeyboardInterrupt
        return events[-1].position

    @property
    def proofs(self) -> Proofs:
        return Proofs(self.database, self.log, KEY)

    def published(self) -> Checkpoint:
        return self.proofs.published().signed.checkpoint

    def tiles(self) -> list[tuple[Any, ...]]:
        """Every row of the tree."""
        rows = self.sql(
            "SELECT level, tile, hashes, positions, first_position FROM merkle_tiles ORDER BY 1, 2"
        )
        return [(level, tile, bytes(h), bytes(p), first) for level, tile, h, p, first in rows]


_ALL_EVENTS = (
    "SELECT {position}, originator_id, originator_version, topic, state, metadata FROM stored_events "
    "ORDER BY {position}"
)
