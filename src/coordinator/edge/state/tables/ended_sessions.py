"""The sessions of people that a log-out has ended: every process of a coordinator knows them."""

from __future__ import annotations

import time

from coordinator.application.ports import Database
from coordinator.domain.messages import Millis
from coordinator.edge.state.threads import in_thread


class EndedSessions:
    """The table `ended_sessions`. Raises LogUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, session_id: str, expires_at: Millis) -> None:
        """Note the end of a session; it is forgotten once its time would have ended it."""
        now = time.time_ns() // 1_000_000

        def note() -> None:
            with self._database.transaction() as tables:
                tables.execute("sessions_forget", now=now)
                tables.execute("sessions_end", session_id=session_id, expires_at=expires_at)

        await in_thread(note)

    async def has(self, session_id: str) -> bool:
        """Whether a log-out has ended this session, here or at another process."""

        def query() -> bool:
            with self._database.transaction() as tables:
                return bool(tables.query("sessions_is_ended", session_id=session_id))

        return await in_thread(query)
