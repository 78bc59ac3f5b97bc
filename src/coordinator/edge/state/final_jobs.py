"""Final jobs as the API shows them, for messages to receivers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordinator.application.ports import Database, Watermarks
from coordinator.application.webhooks.sending import JobData
from coordinator.edge.state.tables.read_models import PROJECTOR, ReadModels

READ_SECONDS = 5.0
"""The longest wait for the read models to have a job's end."""


def job_data(reads: Database, watermarks: Watermarks) -> JobData:
    """The API's view of final jobs, from the read models once they have the job's end."""
    models = ReadModels(reads)

    async def data(job_id: str, position: int) -> Mapping[str, Any] | None:
        if not await watermarks.reached(PROJECTOR, position, READ_SECONDS):
            return None
        row = await models.job(job_id)
        return row.view().model_dump(mode="json") if row is not None and row.is_final else None

    return data
