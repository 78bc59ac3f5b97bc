"""Presence: heartbeats update rows instead of adding events; one transaction writes many of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any
from uuid import UUID

from coordinator.application.ports import Clock, Database, LogUnavailable
from coordinator.domain.errors import Code
from coordinator.domain.job import Running
from coordinator.domain.messages import Principal
from coordinator.domain.miner import STATE_NAMES, Offline, miner_stream
from coordinator.wire.answers import Accepted, Answer, Refused
from coordinator.wire.heartbeat import Heartbeat, HeldAttempt


class Presence:
    """Notes heartbeats, and answers with the wanted state of the miner."""

    def __init__(
        self,
        database: Database,
        state_of: Callable[[UUID], Awaitable[Any]],
        head: Callable[[], int],
        clock: Clock,
        heartbeat_timeout: float,
    ) -> None:
        """`head`: the last known position; `heartbeat_timeout`: the extension of leases in seconds."""
        self._database = database
        self._state_of = state_of
        self._head = head
        self._clock = clock
        self._timeout_ms = int(heartbeat_timeout * 1000)

    async def note(self, principal: Principal, beats: Sequence[Heartbeat]) -> list[Answer]:
        """The answers, in order: see the protocol page."""
        try:
            held = await asyncio.to_thread(self._write, principal, beats)
            return [await self._answer(principal, beat, held) for beat in beats]
        except LogUnavailable:
            detail = "the database is out of reach; silence does not count meanwhile"
            return [Refused(Code.UNAVAILABLE, detail)] * len(beats)

    async def seen(self, sessions: Collection[tuple[str, str]]) -> None:
        """Note a sign of life of these sessions, (miner, session), which their principals have proven.

        Raises LogUnavailable.
        """
        await asyncio.to_thread(self._note_seen, set(sessions))

    def _note_seen(self, sessions: Collection[tuple[str, str]]) -> None:
        # A miner may have several: polls of a session that is over still wait while its next one polls.
        with self._database.transaction() as tables:
            tables.execute(
                "presence_parked",
                now=self._clock.now(),
                miner_ids=sorted({miner_id for miner_id, _ in sessions}),
                sessions=sorted(" ".join(session) for session in sessions),
            )

    def _write(self, principal: Principal, beats: Sequence[Heartbeat]) -> set[tuple[str, str, int]]:
        """(session, job, attempt) of every lease that these sessions hold, after the update."""
        now = self._clock.now()
        held: set[tuple[str, str, int]] = set()
        with self._database.transaction() as tables:
            for beat in beats:
                if not principal.owns_miner(beat.miner_id):
                    continue
                # Both ids: session ids are not secret, and one miner must not speak for another.
                who = {"miner_id": beat.miner_id, "session_id": beat.session_id}
                tables.execute("presence_seen", now=now, gpu_memory_json=_gpu_memory(beat, now), **who)
                if beat.inflight:
                    jobs = [str(i.job_id) for i in beat.inflight]
                    until = now + self._timeout_ms
                    tables.execute("presence_extend", lease_until=until, job_ids=jobs, **who)
                    for row in tables.query("presence_leases", **who):
                        held.add((beat.session_id, row["job_id"], row["attempt"]))
        return held

    async def _answer(self, principal: Principal, beat: Heartbeat, held: set[tuple[str, str, int]]) -> Answer:
        if not principal.owns_miner(beat.miner_id):
            return Refused(Code.FORBIDDEN, f"{principal.name} can't speak for miner {beat.miner_id}")
        miner = await self._state_of(miner_stream(beat.miner_id))
        if miner is None or miner.session_id != beat.session_id or isinstance(miner, Offline):
            return Refused(
                Code.SESSION_NOT_LIVE, "this session is not live; register again with a new session id"
            )
        cancel = [
            {"job_id": str(i.job_id), "attempt": i.attempt}
            for i in beat.inflight
            if (beat.session_id, str(i.job_id), i.attempt) not in held and not await self._holds(beat, i)
        ]
        body = {
            "miner_id": beat.miner_id,
            "session_id": beat.session_id,
            "state": STATE_NAMES[type(miner)],
            "cancel": cancel,
        }
        return Accepted(self._head(), body)

    async def _holds(self, beat: Heartbeat, item: HeldAttempt) -> bool:
        """Whether this session holds the attempt by the log, as the lease table may be behind."""
        state = await self._state_of(item.job_id)
        return (
            isinstance(state, Running)
            and state.attempt == item.attempt
            and state.started.session_id == beat.session_id
            and state.started.miner_id == beat.miner_id
        )


def _gpu_memory(beat: Heartbeat, now: int) -> str | None:
    """The column of the free memory; None if the heartbeat does not say it."""
    return json.dumps({"at": now, "gpus": [gpu.model_dump() for gpu in beat.gpus]}) if beat.gpus else None
