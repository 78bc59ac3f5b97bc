"""Which blobs a command may refer to: what its sender uploaded, and in a result what the job was given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from coordinator.application.commands.payload_bodies import refs_in, store_failed
from coordinator.application.commands.preparing import Prepared
from coordinator.application.ports import BlobSource, EventLog
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobComplete

READ_SECONDS = 5.0
"""For a large payload: all that was sent at the same time waits for it."""

Pair = tuple[str, str]
"""A reference, and the name of a principal."""


class References:
    """Finds the references that commands may not have."""

    def __init__(
        self, event_log: EventLog, blobs: BlobSource, unowned: Callable[[Collection[Pair]], set[Pair]]
    ) -> None:
        """`unowned` (called in a thread): those of the pairs that are no upload that took place."""
        self._log = event_log
        self._blobs = blobs
        self._unowned = unowned

    async def faults(self, batch: Sequence[Prepared]) -> dict[int, Refusal]:
        """By the id of the command: why it is refused for what it refers to. Raises LogUnavailable."""
        pairs = {(ref, p.intent.principal.name) for p in batch for ref in p.blobs}
        if not pairs:
            return {}
        foreign = await asyncio.to_thread(self._unowned, pairs)
        lacking = {
            id(p): {ref for ref in p.blobs if (ref, p.intent.principal.name) in foreign} for p in batch
        }
        faults = await self._allow_inputs(batch, lacking)
        return {key: _no_such_blob(refs) for key, refs in lacking.items() if refs} | faults

    async def _allow_inputs(
        self, batch: Sequence[Prepared], lacking: dict[int, set[str]]
    ) -> dict[int, Refusal]:
        """Take from what results lack all that their jobs' payloads refer to."""
        faults: dict[int, Refusal] = {}
        results = {id(p): p.command for p in batch if isinstance(p.command, JobComplete) and lacking[id(p)]}
        jobs = {command.job_id for command in results.values()}
        payloads = await asyncio.to_thread(self._log.payloads, "payload", jobs) if jobs else {}

        async def allow(key: int, command: JobComplete) -> None:
            payload = payloads.get(command.job_id)
            if payload is None:
                return
            # As the statement has it: where that is not the job's digest, the result is refused for it.
            digest = str(command.statement.get("payload_digest"))
            try:
                async with asyncio.timeout(READ_SECONDS):
                    lacking[key] -= await refs_in(payload, digest, self._blobs)
            except Exception as error:  # whatever the store raises concerns this command alone
                faults[key] = store_failed(error)

        await asyncio.gather(*(allow(key, command) for key, command in results.items()))
        return faults


def _no_such_blob(refs: Collection[str]) -> Refusal:
    shown = ", ".join(sorted(refs)[:3])
    return Refusal(Code.BLOB_NOT_FOUND, f"no such blob of yours: {shown}; upload it first")
