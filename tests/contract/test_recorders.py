"""The library's shipped test cases, run against our recorders."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from eventsourcing.persistence import AggregateRecorder, ApplicationRecorder, StoredEvent
from eventsourcing.popo import POPOApplicationRecorder

from coordinator.storage.log.postgres import PostgresEventLog
from coordinator.storage.log.postgres_recorder import PostgresRecorder
from coordinator.storage.log.sqlite import SqliteEventLog, SqliteRecorder
from coordinator.storage.migrate import migrate
from tests.harness.memory_log import MemoryEventLog

# The module imports the library's cipher, which needs a package of its own, for tests that are not these.
sys.modules.setdefault("eventsourcing.cipher", types.SimpleNamespace(AESCipher=None))  # type: ignore[arg-type]
from eventsourcing.tests import persistence as cases  # noqa: E402


class _Memory:
    """Every `create_recorder` of a test gives the same log's recorder."""

    recorder: ApplicationRecorder

    @pytest.fixture(autouse=True)
    def _log(self) -> None:
        self.recorder = MemoryEventLog().recorder

    def create_recorder(self) -> Any:
        return self.recorder


class _Sqlite(_Memory):
    @pytest.fixture(autouse=True)
    def _log(self, tmp_path: Path) -> Any:
        migrate(tmp_path / "log.sqlite")
        log = SqliteEventLog(tmp_path / "log.sqlite")
        self.recorder = log.recorder
        yield
        log.close()


class _Postgres(_Memory):
    @pytest.fixture(autouse=True)
    def _log(self, database_url: str) -> Any:
        migrate(database_url)
        log = PostgresEventLog(database_url)
        self.recorder = log.recorder
        yield
        log.close()


class TestMemoryApplicationRecorder(_Memory, cases.ApplicationRecorderTestCase[POPOApplicationRecorder]):
    """The memory log's recorder is an application recorder of the library."""

    def test_insert_subscribe(self) -> None:
        """The library's subscriptions work on it."""
        self.optional_test_insert_subscribe()


class TestSqliteApplicationRecorder(_Sqlite, cases.ApplicationRecorderTestCase[SqliteRecorder]):
    """The SQLite log's recorder is an application recorder of the library."""


class TestPostgresApplicationRecorder(_Postgres, cases.ApplicationRecorderTestCase[PostgresRecorder]):
    """The Postgres log's recorder is an application recorder of the library."""

    EXPECT_CONTIGUOUS_NOTIFICATION_IDS = False  # a conflict burns numbers

    def test_insert_subscribe(self) -> None:
        """The library's subscriptions work on it: they listen to the same channel."""
        self.optional_test_insert_subscribe()


class TestMemoryPositionsDoNotInterleave(_Memory, cases.NonInterleavingNotificationIDsBaseCase):
    """Positions of two appends at the same time do not mix."""


class TestSqlitePositionsDoNotInterleave(_Sqlite, cases.NonInterleavingNotificationIDsBaseCase):
    """Positions of two appends at the same time do not mix."""


class TestPostgresPositionsDoNotInterleave(_Postgres, cases.NonInterleavingNotificationIDsBaseCase):
    """Positions of two appends at the same time do not mix."""


class _WithoutPositions(AggregateRecorder):
    """An aggregate recorder of the library gives no positions, and is otherwise the same."""

    def __init__(self, recorder: ApplicationRecorder) -> None:
        self.recorder = recorder

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> None:
        self.recorder.insert_events(stored_events, **kwargs)

    def select_events(self, *args: Any, **kwargs: Any) -> Sequence[StoredEvent]:
        return self.recorder.select_events(*args, **kwargs)


class TestMemoryAggregateRecorder(_Memory, cases.AggregateRecorderTestCase):
    """The memory log's recorder keeps streams as the library's aggregate recorders do."""

    def create_recorder(self) -> AggregateRecorder:
        return _WithoutPositions(self.recorder)


class TestSqliteAggregateRecorder(_Sqlite, cases.AggregateRecorderTestCase):
    """The SQLite log's recorder keeps streams as the library's aggregate recorders do."""

    def create_recorder(self) -> AggregateRecorder:
        return _WithoutPositions(self.recorder)


class TestPostgresAggregateRecorder(_Postgres, cases.AggregateRecorderTestCase):
    """The Postgres log's recorder keeps streams as the library's aggregate recorders do."""

    def create_recorder(self) -> AggregateRecorder:
        return _WithoutPositions(self.recorder)
