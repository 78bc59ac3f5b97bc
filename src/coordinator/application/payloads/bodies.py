"""Stored bodies of payloads and results: small ones are in their rows, large ones in blobs."""

from __future__ import annotations

import hashlib
import re
from typing import Final

import structlog

from coordinator.application.ports import BlobSource, StoredPayload
from coordinator.crypto.canonical import canonical_json
from coordinator.crypto.refs import blob_ref, blob_refs_of_canonical, parse_blob_ref
from coordinator.domain.errors import Code, Refusal
from coordinator.wire.limits import MAX_BODY_BYTES

MAX_SEARCHED_BYTES: Final = 4 * MAX_BODY_BYTES
"""The largest body that is searched for references; a canonical form may be longer than the sent one."""
_BLOB_BODY: Final = re.compile(rb'\{"blob":"(blob:[0-9a-f]{64})"\}')

log = structlog.get_logger("payloads")


def store_failed(error: Exception) -> Refusal:
    """The refusal of a command after any error of the blob store."""
    log.warning("the blob store failed", error=type(error).__name__)
    return Refusal(Code.UNAVAILABLE, "the blob store is out of reach; send it again later")


def body_of_blob(sha256: str) -> bytes:
    """The body that refers to the blob `sha256`, which holds the payload or result."""
    return canonical_json({"blob": blob_ref(sha256)})


def blob_of_body(stored: StoredPayload, digest: str) -> str | None:
    """The SHA-256 of the blob that holds the payload or result; None if the body itself does.

    A small payload may look like a reference to a blob; the digest tells the two apart.
    """
    reference = _BLOB_BODY.fullmatch(stored.body)
    if reference is None or hashlib.sha256(stored.salt + stored.body).hexdigest() == digest:
        return None
    return parse_blob_ref(reference[1].decode())


async def refs_in(stored: StoredPayload, digest: str, blobs: BlobSource) -> set[str]:
    """The blobs that a payload or result refers to, and the one that holds it, if any.

    Raises the errors of the blob store.
    """
    refs = blob_refs_of_canonical(stored.body)
    blob = blob_of_body(stored, digest)
    if blob is None:
        return refs
    content = bytearray()
    async for piece in blobs.get(blob):
        content += piece
        if len(content) > MAX_SEARCHED_BYTES:
            return refs
    return refs | blob_refs_of_canonical(bytes(content))
