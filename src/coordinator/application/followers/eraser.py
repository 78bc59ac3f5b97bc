"""The eraser: carries out the erasures of the log. Nothing else deletes a payload or a result.

It acts on `content.erased` by deleting the rows, which may be repeated. What must happen once is stored in
the transaction that moves its position: the table `erased_content` has a row for each payload and result that
was erased, and only a new row gives the client's bytes back. So neither a second erasure of a job nor a crash
in between gives them back twice.

Files follow: a file that only erased content referred to loses its rows here, and its content in a later
round of the expiry (`application/quotas/expiry.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

from coordinator.application.followers.follower import FollowerBase
from coordinator.application.ports import Clock, EventLog, Recorded, Row, Tables
from coordinator.domain.content import ContentErased, ContentKind, is_by_age
from coordinator.domain.job import JobCompleted, JobSubmitted
from coordinator.domain.messages import principal_of

ERASER = "eraser"
BATCH = 10_000
LINGER_SECONDS = 2.0
"""Nearly all events concern others: a batch of them only moves the position."""


class Content(NamedTuple):
    """A payload or result that there was."""

    job_id: str
    kind: ContentKind
    client: str
    size: int
    """Bytes of the client's quota."""
    uploader: str
    """The name that uploaded the files that it refers to: the client, or the miner's owner."""

    @property
    def key(self) -> str:
        """Its key in `erased_content`."""
        return content_key(self.job_id, self.kind)


def content_key(job_id: str, kind: str) -> str:
    """The key of a payload or result in `erased_content`."""
    return f"{job_id}/{kind}"


class Eraser(FollowerBase):
    """See the module."""

    name = ERASER
    batch = BATCH
    linger_seconds = LINGER_SECONDS
    acts_on = frozenset((ContentErased,))

    def __init__(
        self,
        event_log: EventLog,
        clock: Clock,
        forget: Callable[[Collection[UUID]], None] = lambda _: None,
        remember: Callable[[Recorded], None] = lambda _: None,
    ) -> None:
        """`forget`: drop what this process keeps of these jobs' payloads in memory. On the event loop.

        `remember`: keep the erasure outside of the database, which a backup may replace. In a thread.
        """
        self._remember = remember
        self._log = event_log
        self._clock = clock
        self._forget = forget
        self._content: dict[int, list[Content]] = {}
        """By the position of an erasure that was acted on and is not stored yet: what it erased."""
        self._remains = True
        """Whether the database's files may still hold something that was erased; after a crash they may."""

    def take_over(self, tables: Tables) -> None:
        self._content, self.hurried, self._remains = {}, False, True

    async def act(self, events: Sequence[Recorded]) -> None:
        for recorded in events:
            if isinstance(recorded.event, ContentErased):
                self._content[recorded.position] = await asyncio.to_thread(
                    self._erase, recorded, recorded.event
                )
                self._forget(recorded.event.jobs)
                self.hurried = self._remains = True  # its sender waits for it

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        for recorded in events:
            event = recorded.event
            if isinstance(event, ContentErased):
                # It stays until the transaction is committed: a failed one is applied again.
                self._store(tables, recorded.position, event, self._content[recorded.position])

    async def tick(self, stored_to: int) -> None:
        for position in [position for position in self._content if position <= stored_to]:
            del self._content[position]
        self.hurried = bool(self._content)
        if self._remains and not self.hurried:
            self._remains = not await asyncio.to_thread(self._log.scrub)

    # --- in a thread ----------------------------------------------------------------------------------------
    def _erase(self, recorded: Recorded, event: ContentErased) -> list[Content]:
        self._remember(recorded)
        found = list(self._content_of(event))
        for kind in event.kinds:
            self._log.erase(event.jobs, kind)
        return found

    def _content_of(self, event: ContentErased) -> Iterator[Content]:
        for history in self._log.load(event.jobs).values():
            for recorded in history:
                match recorded.event:
                    case JobSubmitted() as submitted if "payload" in event.kinds:
                        client = submitted.client
                        yield Content(recorded.key, "payload", client, submitted.payload_bytes, client)
                    case JobCompleted() as completed if "result" in event.kinds:
                        uploader = principal_of(completed.miner_id)
                        size = completed.result_bytes
                        yield Content(recorded.key, "result", completed.client, size, uploader)

    def _store(self, tables: Tables, position: int, event: ContentErased, content: Sequence[Content]) -> None:
        known = {
            row["key"] for row in tables.query("erased_content_of", keys=[found.key for found in content])
        }
        new = [found for found in content if found.key not in known]
        freed: dict[str, int] = {}
        for found in new:
            freed[found.client] = freed.get(found.client, 0) + found.size
        # The rows of the names first, as an upload does: two transactions must not wait for each other.
        for name in sorted(freed):
            tables.execute("quotas_add_bytes", name=name, payload_bytes=-freed[name], blob_bytes=0)
        tables.put("erased_content", [{"key": found.key, "position": position} for found in new])
        for kind in event.kinds:
            self._drop_references(tables, [found for found in content if found.kind == kind], event)

    def _drop_references(self, tables: Tables, content: Sequence[Content], event: ContentErased) -> None:
        by_job = {found.job_id: found for found in content}
        if not by_job:
            return
        kind = content[0].kind
        refs = tables.query("expiry_refs_of_jobs", job_ids=list(by_job), kind=kind)
        if not refs:
            return
        now = self._clock.now()
        tables.remove("blob_refs", sorted(row["key"] for row in refs))
        note_removals(tables, {row["digest"] for row in refs}, now)
        if not is_by_age(event):
            # Somebody asked for it. By age alone an upload stays as long as its own setting says.
            keys = {f"{row['digest']}/{by_job[row['job_id']].uploader}" for row in refs}
            keys |= {f"{row['digest']}/{by_job[row['job_id']].client}" for row in refs}
            rows: list[Row] = [{"key": key, "at": now} for key in sorted(keys)]
            tables.put("erased_uploads", rows)


def note_removals(tables: Tables, digests: Collection[str], now: int) -> None:
    """Note that the content of these blobs may go; whether it does is decided later."""
    # In one order, so that two transactions never wait for each other.
    tables.put("blob_removals", [{"digest": digest, "at": now} for digest in sorted(digests)])
