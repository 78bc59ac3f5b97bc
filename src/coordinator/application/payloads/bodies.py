"""Payloads and results as they are stored: a small document in its row, a large one in a blob."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Final

import structlog

from coordinator.application.ports import BlobSource, StoredPayload
from coordinator.crypto.canonical import canonical_json
from coordinator.crypto.refs import blob_ref, blob_refs, parse_blob_ref
from coordinator.domain.errors import Code, Refusal
from coordinator.wire.limits import MAX_BODY_BYTES

MAX_DOCUMENT_BYTES: Final = 4 * MAX_BODY_BYTES
"""What is searched for references: a canonical form may be longer than what was sent."""
_STAND_IN: Final = re.compile(rb'\{"blob":"(blob:[0-9a-f]{64})"\}')

log = structlog.get_logger("payloads")


def store_failed(error: Exception) -> Refusal:
    """What one command is told for whatever the blob store raised."""
    log.warning("the blob store failed", error=type(error).__name__)
    return Refusal(Code.UNAVAILABLE, "the blob store is out of reach; send it again later")


def stand_in(sha256: str) -> bytes:
    """What is in the row of a document that the blob `sha256` holds."""
    return canonical_json({"blob": blob_ref(sha256)})


def blob_behind(stored: StoredPayload, digest: str) -> str | None:
    """The SHA-256 of the blob that holds the document; None where the body is the document itself.

    A document may look like the reference that stands for a large one. What it really is, its digest says.
    """
    reference = _STAND_IN.fullmatch(stored.body)
    if reference is None or hashlib.sha256(stored.salt + stored.body).hexdigest() == digest:
        return None
    return parse_blob_ref(reference[1].decode())


async def refs_in(stored: StoredPayload, digest: str, blobs: BlobSource) -> set[str]:
    """The blobs that a document refers to, and the one that holds it, if one does.

    Raises what the blob store does.
    """
    refs = blob_refs(json.loads(stored.body))
    holder = blob_behind(stored, digest)
    if holder is None:
        return refs
    document = bytearray()
    async for piece in blobs.get(holder):
        document += piece
        if len(document) > MAX_DOCUMENT_BYTES:
            return refs
    return refs | blob_refs(json.loads(document))
