"""Events to what the log stores and back, old shapes, and the golden logs of every version."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from coordinator.application.ports import NewEvent
from coordinator.application.proof.leaves import leaf_of
from coordinator.crypto.log.leaf import leaf
from coordinator.domain.decision import fold
from coordinator.domain.job import JobCanceled
from coordinator.domain.messages import Event, Metadata
from coordinator.domain.registry import EVENTS
from coordinator.storage.log.mapping import UnreadableEvent, decode, encode, to_columns, to_recorded
from coordinator.storage.log.upcasters import UPCASTERS, Json, upcast, upcaster
from tests.harness.cases import every
from tests.harness.metadata import METADATA, STORED_METADATA

GOLDEN = Path(__file__).parents[1] / "golden"
LOGS = sorted(GOLDEN.glob("events-*.jsonl"))
JOB = UUID("11111111-2222-3333-4444-555555555555")


def canceled(reason: str = "why not") -> JobCanceled:
    return JobCanceled(at=1, by="alice", job_id=JOB, client="alice", attempt=1, reason=reason)


def golden_lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.stem)
def test_golden_logs_replay_for_ever(log: Path) -> None:
    """Every event that a version ever wrote can still be read, and its stream folds to the same states."""
    streams: dict[str, list[Event]] = defaultdict(list)
    for line in golden_lines(log):
        events = streams[line["stream"]]
        events.append(decode(line["topic"], line["state"].encode()))
        assert line["version"] == len(events)
        assert line["then"] == type(fold(events)).__name__


def test_golden_logs_have_every_topic() -> None:
    """No event can be added without a golden one: run tests/golden/write_events.py for this version."""
    assert {line["topic"] for line in golden_lines(LOGS[-1])} == set(EVENTS)


def test_the_newest_golden_log_is_what_this_version_writes() -> None:
    """An event's stored form does not change without a new topic: its bytes are what the auditor hashes."""
    for line in golden_lines(LOGS[-1]):
        stored = line["topic"], line["state"].encode()
        assert stored == encode(decode(*stored))


@every("text", ['"; DROP TABLE jobs; --', "'", "\\", "\x00", "\n\r\t", "日本語🎛", "\u2028", "%s", ""])
def test_any_text_survives(text: str) -> None:
    """What stands in an event's text comes back as it was."""
    assert canceled(text) == decode(*encode(canceled(text)))


def test_unregistered_events_are_not_written() -> None:
    """An event without a topic could never be read again, so it is not written."""

    class Untold(Event):
        pass

    with pytest.raises(ValueError, match="Untold has no registered topic"):
        encode(Untold(at=1, by="alice"))


def test_unknown_topics_say_where() -> None:
    """An event of an unknown topic is reported with its place in the log, and not passed over."""
    with pytest.raises(UnreadableEvent) as raised:
        to_recorded([(7, JOB, 3, "job.teleported.v1", b"{}", b"{}")])
    expected = (
        f"position 7, stream {JOB}, version 3: unknown topic 'job.teleported.v1'; "
        "a newer version of the program may have written it"
    )
    assert expected == str(raised.value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"attempt": "1"}, "attempt: Input should be a valid integer"),
        ({"attempt": 0}, "attempt: Input should be greater than or equal to 1"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
        ({"client": "not a name"}, "client: String should match pattern"),
    ],
)
def test_reading_is_strict(change: Json, complaint: str) -> None:
    """A stored event that the domain would not have written is reported, never made to fit."""
    topic, state = encode(canceled())
    with pytest.raises(UnreadableEvent, match=complaint):
        decode(topic, json.dumps(json.loads(state) | change).encode())


def test_what_is_reported_shows_no_content() -> None:
    """The error about an unreadable event names the field and not the value, which may be private."""
    topic, state = encode(canceled())
    with pytest.raises(UnreadableEvent) as raised:
        decode(topic, state.replace(b'"why not"', b'{"secret": 1}'))
    assert "secret" not in str(raised.value)


def test_garbage_is_reported() -> None:
    """Bytes that are no JSON are an unreadable event like any other."""
    with pytest.raises(UnreadableEvent, match="Invalid JSON"):
        decode("job.canceled.v1", b"\xff{")


def test_columns_and_rows() -> None:
    """What `to_columns` takes apart, `to_recorded` puts together."""
    events = [NewEvent(JOB, version, canceled(str(version)), METADATA) for version in (1, 2, 3)]
    columns = to_columns(events)
    rows = zip((10, 11, 12), *columns, strict=True)
    assert events == [NewEvent(r.stream, r.version, r.event, r.metadata) for r in to_recorded(rows)]


def test_the_metadata_of_a_command_with_quotation_marks_in_its_id() -> None:
    """They are read back whole, and so is the trace after them."""
    metadata = Metadata('"a\\","traceparent":"b', METADATA.traceparent)
    [recorded] = to_recorded(zip([1], *to_columns([NewEvent(JOB, 1, canceled(), metadata)]), strict=True))
    assert metadata == recorded.metadata
    assert METADATA.traceparent == recorded.traceparent


# --- upcasters ---------------------------------------------------------------------------------------------
@pytest.fixture
def upcasters() -> Iterator[dict[str, Any]]:
    before = dict(UPCASTERS)
    yield UPCASTERS
    UPCASTERS.clear()
    UPCASTERS.update(before)


@pytest.mark.usefixtures("upcasters")
def test_old_shapes_are_read_in_todays() -> None:
    """Upcasters chain, oldest first, before the event is validated."""

    @upcaster("job.dropped.v1")
    def _dropped_names_the_attempt(old: Json) -> tuple[str, Json]:
        return "job.dropped.v2", {**old, "attempt": 1}

    @upcaster("job.dropped.v2")
    def _dropped_is_called_canceled(old: Json) -> tuple[str, Json]:
        reason = old.pop("why")
        return "job.canceled.v1", {**old, "reason": reason}

    old = {"at": 1, "by": "alice", "job_id": str(JOB), "client": "alice", "why": "why not"}
    assert canceled() == decode("job.dropped.v1", json.dumps(old).encode())


@pytest.mark.usefixtures("upcasters")
def test_the_leaf_of_an_upcast_event_is_what_is_stored() -> None:
    """An event that is read in a newer form is hashed as it stands in the log, topic and state."""

    @upcaster("job.dropped.v1")
    def _canceled(old: Json) -> tuple[str, Json]:
        return "job.canceled.v1", {**old, "reason": "dropped"}

    old = {"at": 1, "by": "alice", "job_id": str(JOB), "client": "alice", "attempt": 1}
    state = json.dumps(old).encode()
    [recorded] = to_recorded([(7, JOB, 3, "job.dropped.v1", state, STORED_METADATA)])

    assert "job.canceled.v1" == recorded.event.topic
    assert ("job.dropped.v1", state) == recorded.original
    assert leaf(7, str(JOB), 3, "job.dropped.v1", STORED_METADATA, state) == leaf_of(recorded)


@pytest.mark.usefixtures("upcasters")
def test_one_upcaster_per_topic() -> None:
    """A second upcaster for a topic is a mistake, and says so."""
    upcaster("job.dropped.v1")(lambda old: ("job.dropped.v2", old))
    with pytest.raises(ValueError, match=r"job\.dropped\.v1 has an upcaster already"):
        upcaster("job.dropped.v1")


@pytest.mark.usefixtures("upcasters")
def test_upcasters_do_not_go_round() -> None:
    """Two upcasters that lead to each other are found out rather than followed for ever."""
    upcaster("job.dropped.v1")(lambda old: ("job.dropped.v2", old))
    upcaster("job.dropped.v2")(lambda old: ("job.dropped.v1", old))
    with pytest.raises(ValueError, match="circle"):
        upcast("job.dropped.v1", {})


def test_upcasters_lead_to_known_topics() -> None:
    """Every topic that was ever upcast is out of use, and ends at one that is in use."""
    for topic in UPCASTERS:
        assert topic not in EVENTS
