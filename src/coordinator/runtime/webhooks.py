"""The sender of webhooks, over this process's adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from coordinator.application.ports import Clock, Database, Intent, Watermarks
from coordinator.application.webhooks.deliverer import Deliverer
from coordinator.application.webhooks.post import HttpPost
from coordinator.application.webhooks.schedule import Bounds
from coordinator.application.webhooks.sending import JobData, Sending
from coordinator.crypto.webhooks import WebhookKeys
from coordinator.edge.state.read_models import PROJECTOR
from coordinator.edge.state.rows import JobRow
from coordinator.runtime.modes.adapters import Adapters
from coordinator.runtime.settings import Settings
from coordinator.wire.answers import Answer

READ_SECONDS = 5.0
"""The longest wait for the read models to have a job's end."""


def webhook_deliverer(
    settings: Settings,
    adapters: Adapters,
    keys: WebhookKeys,
    state_of: Callable[[UUID], Awaitable[Any]],
    watermarks: Watermarks,
    handle: Callable[[Sequence[Intent]], Awaitable[list[Answer]]],
    clock: Clock,
) -> Deliverer:
    """The deliverer with the settings' bounds."""
    total = settings.webhook_concurrency
    bounds = Bounds(total=total, of_owner=max(1, total // 4), of_receiver=max(1, total // 8))
    return Deliverer(
        adapters.database,
        clock,
        Sending(keys, state_of, job_data(adapters.reads, watermarks)),
        HttpPost(settings.webhook_timeout_seconds, allow_private=settings.webhook_allow_private),
        handle,
        bounds=bounds,
        log_hours=settings.webhook_log_hours,
    )


def job_data(reads: Database, watermarks: Watermarks) -> JobData:
    """The API's view of final jobs, from the read models once they have the job's end."""

    def read(job_id: str) -> list[dict[str, Any]]:
        with reads.transaction() as tables:
            return tables.query("read_job", job_id=job_id)

    async def data(job_id: str, position: int) -> Mapping[str, Any] | None:
        if not await watermarks.reached(PROJECTOR, position, READ_SECONDS):
            return None
        rows = await asyncio.to_thread(read, job_id)
        if not rows:
            return None
        row = JobRow(**rows[0])
        return row.view().model_dump(mode="json") if row.is_final else None

    return data
