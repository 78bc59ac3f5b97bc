"""Which blobs a command may refer to: what its sender uploaded, and in a result what the job was given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from coordinator.application.payloads.bodies import refs_in, store_failed
from coordinator.application.ports import BlobSource, Database, EventLog, Intent
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobComplete

READ_SECONDS = 5.0
"""For a large payload that a result's references are looked for in."""

Pair = tuple[str, str]
"""A reference, and the name of a principal."""


def unowned_blobs(database: Database, pairs: Collection[Pair]) -> set[Pair]:
    """Those of the pairs that are no upload that took place. Raises LogUnavailable."""
    keys = {f"{ref.removeprefix('blob:')}/{principal}": (ref, principal) for ref, principal in pairs}
    with database.transaction() as tables:
        owned = {row["key"] for row in tables.query("bus_owned_blobs", keys=list(keys))}
    return {pair for key, pair in keys.items() if key not in owned}


class References:
    """Finds the references that commands may not have. Used on the event loop only."""

    def __init__(
        self, event_log: EventLog, blobs: BlobSource, unowned: Callable[[Collection[Pair]], set[Pair]]
    ) -> None:
        """`unowned` (called in a thread): those of the pairs that are no upload that took place."""
        self._log = event_log
        self._blobs = blobs
        self._unowned = unowned
        self._asked: set[Pair] = set()
        self._asking: asyncio.Task[set[Pair]] | None = None

    async def faults(self, asks: Sequence[tuple[Intent, Collection[str]]]) -> list[Refusal | None]:
        """Why each command with these references is refused; in the same order. Raises LogUnavailable."""
        foreign = await self._foreign({(ref, i.principal.name) for i, refs in asks for ref in refs})
        return await asyncio.gather(
            *(
                self._fault(intent, {ref for ref in refs if (ref, intent.principal.name) in foreign})
                for intent, refs in asks
            )
        )

    async def _fault(self, intent: Intent, lacking: set[str]) -> Refusal | None:
        if lacking and isinstance(intent.command, JobComplete):
            try:
                lacking -= await self._inputs_of(intent.command)
            except _StoreFailed as failure:
                return failure.refusal
        if not lacking:
            return None
        shown = ", ".join(sorted(lacking)[:3])
        return Refusal(Code.BLOB_NOT_FOUND, f"no such blob of yours: {shown}; upload it first")

    async def _foreign(self, pairs: set[Pair]) -> set[Pair]:
        """Those of the pairs that are no upload: one query for all that ask before it begins."""
        self._asked |= pairs
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> set[Pair]:
        await asyncio.sleep(0)  # others that wait at this moment ask too
        pairs, self._asked, self._asking = self._asked, set(), None
        return await asyncio.to_thread(self._unowned, pairs)

    async def _inputs_of(self, command: JobComplete) -> set[str]:
        """What the job's payload refers to. Raises LogUnavailable, _StoreFailed."""
        found = await asyncio.to_thread(self._log.payloads, "payload", {command.job_id})
        payload = found.get(command.job_id)
        if payload is None:
            return set()
        # As the statement has it: where that is not the job's digest, the result is refused for it.
        digest = str(command.statement.get("payload_digest"))
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await refs_in(payload, digest, self._blobs)
        except Exception as error:  # whatever the store raises concerns this command alone
            raise _StoreFailed(store_failed(error)) from None


class _StoreFailed(Exception):
    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
