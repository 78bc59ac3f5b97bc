"""The right to refer to blobs: to the sender's own uploads, and in a result also to the job's inputs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from coordinator.application.payloads.bodies import refs_in, store_failed
from coordinator.application.ports import BlobSource, Database, EventLog, Intent, PayloadKind
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobComplete

READ_SECONDS = 5.0
"""The time to read a large payload, which is searched for a result's references."""

Pair = tuple[str, str]
"""A reference, and the name of a principal."""


class Need(NamedTuple):
    """The blobs that a job's payload or result needs, by SHA-256."""

    job_id: UUID
    kind: PayloadKind
    digests: Collection[str]


def unowned_blobs(database: Database, pairs: Collection[Pair]) -> set[Pair]:
    """The pairs without a finished upload. Raises LogUnavailable.

    The others count as used now, so that they do not expire before `need_blobs` has noted the job.
    """
    keys = {f"{ref.removeprefix('blob:')}/{principal}": (ref, principal) for ref, principal in pairs}
    with database.transaction() as tables:
        # The update waits for an expiry that has begun, and the query then finds what that left.
        tables.execute("quotas_used_blobs", keys=list(keys), now=_now())
        owned = {row["key"] for row in tables.query("bus_owned_blobs", keys=list(keys))}
    return {pair for key, pair in keys.items() if key not in owned}


def blob_sizes(database: Database, pairs: Collection[Pair]) -> dict[Pair, int]:
    """The bytes of those of these blobs that their principals have uploaded. Raises LogUnavailable."""
    keys = {f"{ref.removeprefix('blob:')}/{principal}": (ref, principal) for ref, principal in pairs}
    with database.transaction() as tables:
        return {keys[row["key"]]: row["size"] for row in tables.query("read_blob_owners", keys=list(keys))}


def need_blobs(database: Database, needs: Collection[Need]) -> None:
    """Note that these jobs need these blobs, before the jobs are in the log. Raises LogUnavailable.

    A job that is refused after all needs nothing: the expiry finds that there is no such job.
    """
    rows = [
        {
            "key": f"{digest}/{need.job_id}/{need.kind}",
            "digest": digest,
            "job_id": str(need.job_id),
            "kind": need.kind,
            "at": _now(),
        }
        for need in needs
        for digest in need.digests
    ]
    with database.transaction() as tables:
        tables.put("blob_refs", rows)


def _now() -> int:
    return time.time_ns() // 1_000_000


class References:
    """Finds references that commands have no right to. Used on the event loop only."""

    def __init__(
        self,
        event_log: EventLog,
        blobs: BlobSource,
        unowned: Callable[[Collection[Pair]], set[Pair]],
        need: Callable[[Collection[Need]], None] = lambda _: None,
        sizes: Callable[[Collection[Pair]], dict[Pair, int]] = lambda _: {},
    ) -> None:
        """All are called in threads. `unowned`: the pairs without a finished upload; `need`: keeps blobs;
        `sizes`: the bytes of finished uploads."""
        self._sizes = sizes
        self._need = need
        self._log = event_log
        self._blobs = blobs
        self._unowned = unowned
        self._asked: set[Pair] = set()
        self._asking: asyncio.Task[set[Pair]] | None = None

    async def faults(self, asks: Sequence[tuple[Intent, Collection[str]]]) -> list[Refusal | None]:
        """The fault of each command's references, if any; in the same order. Raises LogUnavailable."""
        foreign = await self._foreign({(ref, i.principal.name) for i, refs in asks for ref in refs})
        return await asyncio.gather(
            *(
                self._fault(intent, {ref for ref in refs if (ref, intent.principal.name) in foreign})
                for intent, refs in asks
            )
        )

    async def need(self, needs: Collection[Need]) -> None:
        """Keep these blobs as long as these jobs need them. Raises LogUnavailable."""
        await asyncio.to_thread(self._need, needs)

    async def sizes(self, pairs: Collection[Pair]) -> dict[Pair, int]:
        """The bytes of those of these blobs that their principals have uploaded. Raises LogUnavailable."""
        return await asyncio.to_thread(self._sizes, pairs)

    async def _fault(self, intent: Intent, lacking: set[str]) -> Refusal | None:
        if lacking and isinstance(intent.command, JobComplete):
            try:
                lacking -= await self._inputs_of(intent.command)
            except _StoreFailed as failure:
                return failure.refusal
        if not lacking:
            return None
        shown = ", ".join(sorted(lacking)[:3])
        return Refusal(Code.BLOB_NOT_FOUND, f"you have no such blob: {shown}; upload it first")

    async def _foreign(self, pairs: set[Pair]) -> set[Pair]:
        """The pairs without a finished upload; one query for all callers that ask before it begins."""
        self._asked |= pairs
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> set[Pair]:
        await asyncio.sleep(0)  # let other waiting tasks add their pairs
        pairs, self._asked, self._asking = self._asked, set(), None
        return await asyncio.to_thread(self._unowned, pairs)

    async def _inputs_of(self, command: JobComplete) -> set[str]:
        """The references of the job's payload. Raises LogUnavailable, _StoreFailed."""
        found = await asyncio.to_thread(self._log.payloads, "payload", {command.job_id})
        payload = found.get(command.job_id)
        if payload is None:
            return set()
        # From the statement: a result whose statement has another digest than the job is refused anyway.
        digest = str(command.statement.get("payload_digest"))
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await refs_in(payload, digest, self._blobs)
        except Exception as error:  # any failure of the store concerns this command only
            raise _StoreFailed(store_failed(error)) from None


class _StoreFailed(Exception):
    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
