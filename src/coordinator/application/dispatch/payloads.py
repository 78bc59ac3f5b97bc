"""Payloads for offers: recently stored ones from memory, the others from the payloads table."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable
from uuid import UUID

from coordinator.application.ports import EventLog, StoredPayload

KEEP_BYTES = 16 * 2**20


class Payloads:
    """A payload is kept until its first use, or until newer ones need the memory. Used on the event loop."""

    def __init__(self, event_log: EventLog, keep_bytes: int = KEEP_BYTES) -> None:
        self._log = event_log
        self._keep_bytes = keep_bytes
        self._kept: OrderedDict[UUID, StoredPayload] = OrderedDict()
        self._bytes = 0

    def note(self, stored: Iterable[StoredPayload]) -> None:
        """Keep these just committed payloads; most are about to be offered."""
        for payload in stored:
            if payload.kind == "payload":
                self._forget(payload.job_id)
                self._kept[payload.job_id] = payload
                self._bytes += len(payload.body)
        while self._bytes > self._keep_bytes:
            self._forget(next(iter(self._kept)))

    async def of(self, job_ids: Collection[UUID]) -> dict[UUID, StoredPayload]:
        """These jobs' payloads; erased ones are absent. Raises LogUnavailable."""
        found = {job: self._kept[job] for job in job_ids if job in self._kept}
        for job in found:
            self._forget(job)
        missing = [job for job in job_ids if job not in found]
        if missing:
            found |= await asyncio.to_thread(self._log.payloads, "payload", missing)
        return found

    def forget(self, job_ids: Iterable[UUID]) -> None:
        """Keep nothing of these jobs: it was erased."""
        for job_id in job_ids:
            self._forget(job_id)

    def _forget(self, job: UUID) -> None:
        dropped = self._kept.pop(job, None)
        if dropped is not None:
            self._bytes -= len(dropped.body)
