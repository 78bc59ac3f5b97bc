"""The blobs of payloads and results: references to them, and large bodies that become blobs."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

from coordinator.application.commands.handler import Prepared, log_unavailable
from coordinator.application.commands.handlers.jobs.details import Details, PreparedResult, PreparedSubmit
from coordinator.application.commands.handlers.jobs.shown import count
from coordinator.application.payloads.bodies import body_of_blob, possible_blob, store_failed
from coordinator.application.payloads.large_documents import LARGE_BYTES, LargeDocuments
from coordinator.application.payloads.references import Need, References
from coordinator.application.ports import BlobSink, LogUnavailable, StoredPayload
from coordinator.crypto.canonical import CanonicalError, canonical_json
from coordinator.crypto.refs import blob_refs_of_canonical
from coordinator.domain.errors import Code, Refusal
from coordinator.wire.answers import Refused

MAX_INLINE_BYTES = 64 * 1024
"""Payloads and results up to this size are rows in the payloads table; larger ones are blobs."""
MAX_BLOBS = 512  # references per payload or result, because the owner of each is looked up

AnyPrepared = list[Prepared[Details] | Refused]


class LargeBodies:
    """The last steps of preparing commands, so that a refusal before them leaves no blob."""

    def __init__(self, store: BlobSink, references: References) -> None:
        self._store = store
        self._references = references

    async def settle(self, prepared: AnyPrepared) -> AnyPrepared:
        """The same commands, with the faults of their references, and with large bodies in the blob store.

        The blobs that a job needs are noted before any is written: one that a crash leaves behind expires.
        """
        await self._find_faults(prepared)
        await count(self._references, prepared)
        await self._note_needs(prepared)
        await self._store_bodies(prepared)
        return prepared

    async def _find_faults(self, prepared: AnyPrepared) -> None:
        referring: list[tuple[int, Prepared[Details], PreparedSubmit | PreparedResult]] = [
            (place, p, p.details)
            for place, p in enumerate(prepared)
            if isinstance(p, Prepared) and p.details is not None and p.details.refs
        ]
        if not referring:
            return
        try:
            faults = await self._references.faults([(p.intent, details.refs) for _, p, details in referring])
        except LogUnavailable:
            faults = [log_unavailable()] * len(referring)
        for (place, p, details), fault in zip(referring, faults, strict=True):
            # It is refused, unless it is a repeat, which stores nothing.
            payload = None if fault else p.payload
            prepared[place] = p._replace(details=details._replace(reference_fault=fault), payload=payload)

    async def _note_needs(self, prepared: AnyPrepared) -> None:
        needs: list[Need] = []
        places: list[int] = []
        for place, p in enumerate(prepared):
            if isinstance(p, Refused) or p.payload is None or p.details is None:
                continue
            digests = {ref.removeprefix("blob:") for ref in p.details.refs} | _blobs_of(p.payload)
            if digests:
                needs.append(Need(p.stream, p.payload.kind, digests))
                places.append(place)
        if not needs:
            return
        try:
            await self._references.need(needs)
        except LogUnavailable:
            refusal = log_unavailable()
            for place in places:
                prepared[place] = Refused(refusal.code, refusal.detail)

    async def _store_bodies(self, prepared: AnyPrepared) -> None:
        for place, p in enumerate(prepared):
            if isinstance(p, Refused) or p.payload is None or len(p.payload.body) <= MAX_INLINE_BYTES:
                continue
            try:
                prepared[place] = p._replace(payload=await self._stored(p.payload))
            except Refusal as refusal:
                prepared[place] = Refused(refusal.code, refusal.detail)

    async def _stored(self, payload: StoredPayload) -> StoredPayload:
        """The payload as a row that names the blob with the body."""

        async def whole() -> AsyncIterator[bytes]:
            yield payload.body

        try:
            info = await self._store.put(whole(), expected_sha256=None, max_bytes=len(payload.body))
        except Exception as error:  # any failure of the store concerns this command only
            raise store_failed(error) from None
        return payload._replace(body=body_of_blob(info.sha256))


def _blobs_of(payload: StoredPayload) -> set[str]:
    """The digest of the blob that a large body becomes, or that the body of a row names."""
    if len(payload.body) > MAX_INLINE_BYTES:
        return {hashlib.sha256(payload.body).hexdigest()}
    named = possible_blob(payload.body)
    return set() if named is None else {named}


def references_of(body: bytes) -> frozenset[str]:
    """The blobs that a payload or result refers to; most bodies skip the search. Raises Refusal."""
    refs = frozenset(blob_refs_of_canonical(body)) if b'"blob:' in body else frozenset()
    if len(refs) > MAX_BLOBS:
        raise Refusal(Code.TOO_LARGE, f"too many references to blobs; the limit is {MAX_BLOBS}")
    return refs


async def canonical_body(large: LargeDocuments, document: dict[str, Any], rough: bytes) -> bytes:
    """The canonical JSON of a document; `rough` is its JSON by `rough_json`. Raises Refusal."""
    if len(rough) < LARGE_BYTES:
        return _canonical(document)
    return await large.run(_canonical, document)


def _canonical(value: dict[str, object]) -> bytes:
    try:
        return canonical_json(value)
    except CanonicalError as error:
        raise Refusal(Code.INVALID_PAYLOAD, str(error)) from None
