"""Checks of one event by itself, which need no state: they run in processes of their own, in pieces."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from pydantic import ValidationError
from pydantic_core import to_json

from coordinator.audit.entries import Divergence, Entry, StoredPayload
from coordinator.audit.jobs import Statement
from coordinator.crypto.canonical import salted_digest
from coordinator.crypto.log.leaf import BadLeaf, leaf
from coordinator.crypto.signature import VerificationFailed
from coordinator.crypto.statement import PARTIAL_VERSION, StatementVerifier, verify_partial_statement
from coordinator.domain.registry import EVENTS

_METADATA: Final = re.compile(
    rb'\{"command_id":"(?:[^"\\]|\\.)*",'
    rb'"traceparent":"(?:(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})?"\}'
)
_IN_BLOB: Final = re.compile(rb'\{"blob":"blob:[0-9a-f]{64}"\}')
_SHOWN: Final = 300
"""Characters of a value in a report."""


class Checked(NamedTuple):
    """The outcome of a piece: the leaf hashes of all events, and the first divergence, if any."""

    hashes: bytes
    divergence: Divergence | None


def check_events(entries: Sequence[Entry]) -> Checked:
    """Check the stored form of events, and hash their leaves."""
    hashes: list[bytes] = []
    divergence = None
    for entry in entries:
        try:
            content = entry.leaf or leaf(
                entry.position, entry.stream, entry.version, entry.topic, entry.metadata, entry.state
            )
            hashes.append(hashlib.sha256(b"\x00" + content).digest())
        except BadLeaf as error:
            return Checked(b"".join(hashes), divergence or Divergence(entry.position, "event", str(error)))
        if divergence is None:
            divergence = _stored_form(entry)
    return Checked(b"".join(hashes), divergence)


def _stored_form(entry: Entry) -> Divergence | None:
    position, topic, state = entry.position, entry.topic, entry.state
    if not _METADATA.fullmatch(entry.metadata):
        return Divergence(position, "metadata", "invalid metadata", None, _shown(entry.metadata))
    kind = EVENTS.get(topic)
    if kind is None:
        return Divergence(position, "event", f"unknown topic {topic}; a newer version may have written it")
    if not state:
        return None  # only its digest is known here
    try:
        event = kind.__pydantic_validator__.validate_json(state, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return Divergence(position, "event", f"invalid {topic}: {where}: {first['msg']}")
    written = to_json(event) if state != kind.__pydantic_serializer__.to_json(event) else state
    if written != state:
        return Divergence(
            position, "event", f"{topic} is not as it is written", _shown(written), _shown(state)
        )
    return None


def check_statements(statements: Sequence[Statement]) -> Divergence | None:
    """Check the signatures of miners' statements; one that several share is checked once."""
    verifier = StatementVerifier()
    for statement in statements:
        try:
            if statement.document.get("version") == PARTIAL_VERSION:
                verify_partial_statement(statement.document, statement.key_id)
            else:
                verifier.verify(statement.document, statement.key_id)
        except VerificationFailed as failure:
            return Divergence(statement.position, "statement", f"{failure.code}: {failure.detail}")
    return None


def check_payload(payload: StoredPayload, digest: str) -> str | None:
    """The digest of a payload or result if it is another one; None if it is right, or a large file's."""
    try:
        document = json.loads(payload.body)
        found = salted_digest(payload.salt, document)
        if found != digest and _IN_BLOB.fullmatch(payload.body):
            return None  # the content is in the blob store
    except (ValueError, RecursionError):
        return "unreadable"
    return None if found == digest else found


def _shown(value: bytes) -> str:
    text = value[: _SHOWN + 1].decode(errors="replace")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
