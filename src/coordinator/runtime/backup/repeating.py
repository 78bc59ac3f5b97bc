"""Repeats the erasures that a restored log does not have, with events that say so."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.ports import Database, Gateway, Intent, LogUnavailable, Row
from coordinator.domain.content import CONTENT_KINDS, MAX_JOBS, ContentErase
from coordinator.domain.errors import Code
from coordinator.domain.job import JobCancel
from coordinator.domain.messages import Command, Principal, Role
from coordinator.wire.answers import Refused

RETRY_SECONDS = 2.0
AGAIN = "repeated after a restore: "

log = structlog.get_logger("restored")


class RestoredErasures:
    """A component: its work begins at the start, and ends with the last erasure of the table.

    A restored job that was not final yet has no payload any more: it is canceled.
    """

    def __init__(self, database: Database, gateway: Gateway) -> None:
        self._database = database
        self._gateway = gateway
        self._task = BackgroundTask("restored-erasures")

    async def start(self) -> None:
        if not self._task.running:
            self._task.start(self._run)

    async def stop(self) -> None:
        await self._task.stop()

    async def _run(self) -> None:
        while True:
            try:
                rows = await asyncio.to_thread(self._read)
                if not rows:
                    return
                log.warning("erasures are repeated: this log was restored", contents=len(rows))
                if await self._repeat(rows):
                    return
            except LogUnavailable as error:
                log.warning("erasures are not repeated yet", reason=str(error))
            except Exception:
                log.exception("an erasure was not repeated")
            await asyncio.sleep(RETRY_SECONDS)

    async def _repeat(self, rows: Sequence[Row]) -> bool:
        """Whether all of them are done."""
        jobs: dict[tuple[str, str, str], set[str]] = {}
        for row in rows:
            job_id, _, kind = row["key"].partition("/")
            jobs.setdefault((row["by_name"], row["reason"], job_id), set()).add(kind)
        alike: dict[tuple[str, str, tuple[str, ...]], list[UUID]] = {}
        for (name, reason, job_id), found in jobs.items():
            ordered = tuple(kind for kind in CONTENT_KINDS if kind in found)
            alike.setdefault((name, reason, ordered), []).append(UUID(job_id))
        whole = True
        for (name, reason, kinds), ids in alike.items():
            by = Principal(name=name, role=Role.ADMIN)
            text = f"{AGAIN}{reason}"[:2000]
            for start in range(0, len(ids), MAX_JOBS):
                some = ids[start : start + MAX_JOBS]
                await self._send([JobCancel(job_id=job, reason=text) for job in some], by)
                if await self._erase(some, kinds, text, by) is None:
                    await self._done(some, kinds)
                    continue
                for job in some:  # one of them stood in the way of the others
                    code = await self._erase([job], kinds, text, by)
                    if code is None or code is Code.JOB_NOT_FOUND:  # this log never had the job
                        await self._done([job], kinds)
                    else:
                        whole = False
        return whole

    async def _erase(
        self, jobs: Sequence[UUID], kinds: Sequence[str], reason: str, by: Principal
    ) -> Code | None:
        """The code of the refusal; None if it is accepted, or was before."""
        erase = ContentErase.model_validate({"job_ids": jobs, "kinds": kinds, "reason": reason})
        [code] = await self._send([erase], by)
        return code

    async def _done(self, jobs: Sequence[UUID], kinds: Sequence[str]) -> None:
        await asyncio.to_thread(self._remove, [f"{job}/{kind}" for job in jobs for kind in kinds])

    async def _send(self, commands: Sequence[Command], by: Principal) -> list[Code | None]:
        """The code of each refusal."""
        codes: list[Code | None] = []
        for answer in await self._gateway.handle([Intent(command, by) for command in commands]):
            codes.append(answer.code if isinstance(answer, Refused) else None)
            if codes[-1] not in (None, Code.CONFLICT_STATE, Code.JOB_NOT_FOUND):
                log.warning("a repeated erasure was refused", code=codes[-1])
        return codes

    # --- in a thread ----------------------------------------------------------------------------------------
    def _read(self) -> Sequence[Row]:
        with self._database.transaction() as tables:
            return tables.query("restored_erasures", count=10_000)

    def _remove(self, keys: Sequence[str]) -> None:
        with self._database.transaction() as tables:
            tables.remove("restored_erasures", keys)
