"""The event log in Postgres."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from threading import Lock
from time import monotonic, sleep
from typing import Any, LiteralString, TypeVar, get_args
from uuid import UUID

import psycopg
from eventsourcing.persistence import IntegrityError, InterfaceError, OperationalError, PersistenceError

from coordinator.application.ports import (
    Appended,
    LogError,
    LogUnavailable,
    NewEvent,
    Page,
    PayloadKind,
    Recorded,
    StoredPayload,
    VersionConflict,
)
from coordinator.domain.account import CARRIED_EVERY, PAYMENTS_STREAM
from coordinator.storage.connections.postgres_pool import CHECKOUT_SECONDS
from coordinator.storage.log.head_position import HeadPosition
from coordinator.storage.log.listener import Listener
from coordinator.storage.log.mapping import (
    by_job,
    by_stream,
    client_mark,
    page_of,
    to_appended,
    to_columns,
    to_recorded,
    whole_from,
)
from coordinator.storage.log.postgres_recorder import PostgresLogDatastore, PostgresRecorder

RETRY_SECONDS = 2.0  # in total, with the wait for a connection: the bus repeats commands itself
RETRY_PAUSE_SECONDS = 0.05

_HEAD: LiteralString = "SELECT coalesce(max(notification_id), 0) FROM stored_events"
_READ: LiteralString = (
    "SELECT notification_id, originator_id, originator_version, topic, state, metadata FROM stored_events "
    "WHERE notification_id > %s ORDER BY notification_id LIMIT %s"
)
_READ_OF: LiteralString = (
    "SELECT notification_id, originator_id, originator_version, topic, state, metadata FROM stored_events "
    "WHERE notification_id > %s AND notification_id <= %s AND position(%s::bytea IN state) > 0 "
    "ORDER BY notification_id LIMIT %s"
)
_READ_TOPICS: LiteralString = (
    "SELECT notification_id, originator_id, originator_version, topic, state, metadata FROM stored_events "
    "WHERE notification_id > %s AND notification_id <= %s AND topic = ANY(%s) "
    "ORDER BY notification_id LIMIT %s"
)
_LOAD: LiteralString = (
    "SELECT notification_id, originator_id, originator_version, topic, state, metadata FROM stored_events "
    "WHERE originator_id = ANY(%s::uuid[]) AND originator_version < %s "
    "ORDER BY originator_id, originator_version"
)
_LOAD_LATER: LiteralString = (
    "SELECT notification_id, originator_id, originator_version, topic, state, metadata FROM stored_events "
    "WHERE originator_id = %s AND originator_version >= %s ORDER BY originator_version"
)
# Reads the end of the index once per stream instead of all its events.
_VERSIONS: LiteralString = (
    "SELECT stream, version FROM unnest(%s::uuid[]) AS stream, LATERAL (SELECT originator_version AS version "
    "FROM stored_events WHERE originator_id = stream ORDER BY originator_version DESC LIMIT 1) AS newest"
)
_PAYLOADS: LiteralString = (
    "SELECT job_id, salt, body FROM payloads WHERE kind = %s AND job_id = ANY(%s::uuid[])"
)
_ERASE: LiteralString = (
    "DELETE FROM payloads WHERE job_id = ANY(%s::uuid[]) AND kind = ANY(%s::text[]) RETURNING job_id"
)

T = TypeVar("T")


class PostgresEventLog:
    """An `EventLog` in the database at `url`; `migrate` has made its tables."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._head = HeadPosition()
        self._listener: Listener | None = None
        self._listener_lock = Lock()
        self._datastore = PostgresLogDatastore(url)
        self.recorder = self._trying(lambda: PostgresRecorder(self._datastore))

    def append(self, events: Sequence[NewEvent], payloads: Sequence[StoredPayload] = ()) -> Appended:
        columns = to_columns(events)
        # If the acknowledgement of a commit was lost, the second try conflicts with the first: the caller
        # folds again and finds its own events.
        previous, positions = self._trying(lambda: self.recorder.append(columns, payloads))
        self._head.moved(positions[-1])
        return to_appended(previous, positions, events, columns)

    def load(self, streams: Collection[UUID]) -> dict[UUID, list[Recorded]]:
        others = [stream for stream in streams if stream != PAYMENTS_STREAM]
        found = by_stream(self._select(_LOAD, others, CARRIED_EVERY)) if others else {}
        for stream, events in found.items():
            if len(events) == CARRIED_EVERY - 1:
                found[stream] = whole_from(events, self.versions([stream])[stream], self._later)
        if len(others) < len(streams):  # each of its events has the whole state
            last = self.versions([PAYMENTS_STREAM]).get(PAYMENTS_STREAM)
            if last is not None:
                found[PAYMENTS_STREAM] = self._later(PAYMENTS_STREAM, last)
        return found

    def _later(self, stream: UUID, version: int) -> list[Recorded]:
        return to_recorded(self._select(_LOAD_LATER, stream, version))

    def versions(self, streams: Collection[UUID]) -> dict[UUID, int]:
        return dict(self._select(_VERSIONS, list(streams)))

    def read(self, after: int, limit: int) -> list[Recorded]:
        return to_recorded(self._select(_READ, after, limit))

    def read_of(self, client: str, after: int, until: int, limit: int) -> Page:
        rows = self._select(_READ_OF, after, until, client_mark(client), limit)
        return page_of(client, to_recorded(rows), until, limit)

    def read_topics(self, topics: Collection[str], after: int, until: int, limit: int) -> list[Recorded]:
        """Up to `limit` events of these topics after `after` and not after `until`, in position order."""
        return to_recorded(self._select(_READ_TOPICS, after, until, list(topics), limit))

    def head(self) -> int:
        head: int = self._select(_HEAD)[0][0]
        self._head.moved(head)
        return head

    def wait(self, after: int, timeout: float) -> bool:
        self._listen()
        return self._head.wait(after, timeout)

    def payloads(self, kind: PayloadKind, job_ids: Collection[UUID]) -> dict[UUID, StoredPayload]:
        return by_job(kind, self._select(_PAYLOADS, kind, list(job_ids)))

    def erase(self, job_ids: Collection[UUID], kind: PayloadKind | None = None) -> None:
        self._select(_ERASE, list(job_ids), list(get_args(PayloadKind)) if kind is None else [kind])

    def scrub(self) -> bool:
        return True  # the server's VACUUM does what can be done (docs/privacy.md)

    def close(self) -> None:
        self._head.close()
        with self._listener_lock:
            if self._listener is not None:
                self._listener.stop()
        self._datastore.close()

    def _listen(self) -> None:
        """Start the listener at the first wait: a program that only appends needs none."""
        if self._listener is not None:
            return
        with self._listener_lock:
            if self._listener is None and not self._head.closed:
                self._listener = Listener(self._url, self.recorder.channel_name, _HEAD, self._head)
                self._listener.start()

    def _select(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        return self._trying(lambda: self.recorder.select(statement, *values))

    def _trying(self, operation: Callable[[], T]) -> T:
        """Run `operation`; repeat it for RETRY_SECONDS while the database can't be reached."""
        deadline = monotonic() + RETRY_SECONDS
        while True:
            try:
                return operation()
            except (InterfaceError, OperationalError) as error:
                if self._head.closed or monotonic() + CHECKOUT_SECONDS > deadline:
                    raise LogUnavailable(f"the database can't be reached: {error}") from error
                sleep(RETRY_PAUSE_SECONDS)
            except IntegrityError as error:
                raise VersionConflict("another append took one of these stream versions") from error
            except PersistenceError as error:
                cause = error.__cause__
                if isinstance(cause, psycopg.Error) and (cause.sqlstate or "").startswith("25"):
                    # Read-only (a full disk, a demoted server) or idle for too long: it passes.
                    raise LogUnavailable(f"the database accepts no writes now: {error}") from error
                raise LogError(f"the database refused: {error}") from error
