"""Events to stored rows and back: a stable topic, and the event as pydantic's JSON.

Reading validates strictly: an event that the domain would not write is an error, never guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from coordinator.application.ports import (
    Appended,
    LogError,
    NewEvent,
    Page,
    PayloadKind,
    Recorded,
    StoredPayload,
)
from coordinator.domain.account import CARRIED_EVERY, AccountCarried
from coordinator.domain.job import is_job_event
from coordinator.domain.messages import Event
from coordinator.domain.registry import EVENTS
from coordinator.storage.log.upcasters import UPCASTERS, upcast
from coordinator.validation import describe_invalid

StoredRow = tuple[int, UUID, int, str, bytes, bytes]
"""Position, stream, version, topic, state, metadata."""


NO_METADATA = b"{}"
"""For the library's own append; its test cases do not use our events."""


_METADATA = re.compile(rb'\{"command_id":"[^"\\]*(?:\\.[^"\\]*)*","traceparent":"[^"\\]*"\}')


class UnreadableEvent(LogError):
    """The log holds an event that this version of the program can't read; run the version that wrote it."""


class Columns(NamedTuple):
    """Events to append, by column."""

    streams: Sequence[UUID]
    versions: Sequence[int]
    topics: Sequence[str]
    states: Sequence[bytes]
    metadata: Sequence[bytes]


def encode(event: Event) -> tuple[str, bytes]:
    """The topic, and the state as JSON."""
    topic = event.topic
    if topic not in EVENTS:
        raise ValueError(f"{type(event).__name__} has no registered topic, so it could not be read again")
    # The serializer itself instead of model_dump_json: half the time, and bytes without encoding.
    return topic, event.__pydantic_serializer__.to_json(event)


def check_metadata(stored: bytes) -> bytes:
    """The same bytes. Raises UnreadableEvent unless they are metadata."""
    if not _METADATA.fullmatch(stored):
        raise UnreadableEvent("invalid metadata")
    return stored


def decode(topic: str, state: bytes) -> Event:
    """The event in its newest version. Raises UnreadableEvent."""
    if topic in UPCASTERS:
        topic, data = upcast(topic, from_json(state))
        state = to_json(data)
    event_class = EVENTS.get(topic)
    if event_class is None:
        raise UnreadableEvent(f"unknown topic {topic!r}; a newer version of the program may have written it")
    try:
        event: Event = event_class.__pydantic_validator__.validate_json(state, strict=True)
    except ValidationError as error:
        raise UnreadableEvent(f"invalid {topic}: {describe_invalid(error)}") from None
    return event


def to_columns(events: Iterable[NewEvent]) -> Columns:
    """These events as columns to store."""
    streams, versions, topics, states, stored = [], [], [], [], []
    last, encoded = None, b""
    for stream, version, event, metadata in events:
        topic, state = encode(event)
        streams.append(stream)
        versions.append(version)
        topics.append(topic)
        states.append(state)
        if metadata is not last:  # all events of one command share one object
            last, encoded = metadata, metadata.to_json()
        stored.append(encoded)
    return Columns(streams, versions, topics, states, stored)


def to_appended(
    previous: int, positions: Sequence[int], events: Sequence[NewEvent], columns: Columns
) -> Appended:
    """The outcome of an append of these events."""
    keys = {stream: str(stream) for stream in columns.streams}
    recorded = [
        Recorded(position, stream, version, event, data, metadata, keys[stream])
        for position, (stream, version, event, _), data, metadata in zip(
            positions, events, columns.states, columns.metadata, strict=True
        )
    ]
    return Appended(previous, recorded)


def to_recorded(rows: Iterable[StoredRow]) -> list[Recorded]:
    """The stored events. Raises UnreadableEvent, which names the position, stream and version."""
    recorded: list[Recorded] = []
    for position, stream, version, topic, state, metadata in rows:
        try:
            event = decode(topic, state)
            original = None if topic == event.topic else (topic, state)
            data = state if original is None else encode(event)[1]
            check_metadata(metadata)
            recorded.append(Recorded(position, stream, version, event, data, metadata, str(stream), original))
        except UnreadableEvent as error:
            where = f"position {position}, stream {stream}, version {version}"
            raise UnreadableEvent(f"{where}: {error}") from None
    return recorded


def by_stream(rows: Iterable[StoredRow]) -> dict[UUID, list[Recorded]]:
    """The stored events by stream; `rows` are in version order within a stream."""
    streams: dict[UUID, list[Recorded]] = {}
    for recorded in to_recorded(rows):
        streams.setdefault(recorded.stream, []).append(recorded)
    return streams


def whole_from(
    first: list[Recorded], version: int, later: Callable[[UUID, int], list[Recorded]]
) -> list[Recorded]:
    """The events of a long stream that its state needs: from the newest one on that carries all of it.

    `first`: those before version CARRIED_EVERY; `version`: the last one; `later(stream, version)` reads the
    events from a version on. Streams without such events are read as a whole.
    """
    stream, newest = first[0].stream, version - version % CARRIED_EVERY
    if not newest:
        return first
    events = later(stream, newest)
    if isinstance(events[0].event, AccountCarried):
        return events
    return first + (events if newest == CARRIED_EVERY else later(stream, CARRIED_EVERY))


def client_mark(client: str) -> bytes:
    """Bytes that the state of every event of this client's jobs contains, and hardly any other state.

    A quotation mark inside a text is escaped, so no text can contain them; a name needs no escaping.
    """
    return f'"client":"{client}"'.encode()


def page_of(client: str, recorded: Sequence[Recorded], until: int, limit: int) -> Page:
    """The events of this client's jobs; `recorded` are the first `limit` candidates up to `until`."""
    # A miner chooses the names of its metrics, so a candidate may belong to another client.
    events = [r for r in recorded if is_job_event(r.event) and r.event.client == client]
    return Page(events, until if len(recorded) < limit else recorded[-1].position)


def last_of_each(payloads: Iterable[StoredPayload]) -> Sequence[StoredPayload]:
    """The last payload of each job and kind: one statement can't write a row twice."""
    latest: dict[tuple[UUID, PayloadKind], StoredPayload] = {(p.job_id, p.kind): p for p in payloads}
    return list(latest.values())


def by_job(kind: PayloadKind, rows: Iterable[Sequence[Any]]) -> dict[UUID, StoredPayload]:
    """Rows of (job, salt, body) as payloads."""
    return {job: StoredPayload(job, kind, bytes(salt), bytes(body)) for job, salt, body in rows}
