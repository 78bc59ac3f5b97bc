"""Procrastinate, all in Postgres. The application, and the client.

It keeps a job's status and no result: what is read is that the job with these arguments succeeded.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Sequence
from typing import Any

import procrastinate
import psycopg
import uvloop

DATABASE_URL = os.environ["BENCH_DATABASE_URL"]
BATCH = 500

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=DATABASE_URL))


@app.task(name="noop")
async def noop(number: int) -> int:
    return number


class Client:
    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(app.open_async())
        self._loop.run_until_complete(app.schema_manager.apply_schema_async())
        self._database = psycopg.connect(DATABASE_URL, autocommit=True)

    def submit_many(self, numbers: Sequence[int]) -> list[str]:
        async def batches() -> list[str]:
            ids: list[str] = []
            for start in range(0, len(numbers), BATCH):
                arguments = [{"number": number} for number in numbers[start : start + BATCH]]
                ids += map(str, await noop.batch_defer_async(*arguments))
            return ids

        return self._loop.run_until_complete(batches())

    def submit_one(self, number: int) -> str:
        return str(self._loop.run_until_complete(noop.defer_async(number=number)))

    def read(self, ids: Collection[str]) -> dict[str, Any]:
        select = (
            "SELECT id, args->'number' FROM procrastinate_jobs WHERE id = ANY(%s) AND status = 'succeeded'"
        )
        rows = self._database.execute(select, [[int(job_id) for job_id in ids]]).fetchall()
        return {str(job_id): number for job_id, number in rows}

    def expected(self, number: int) -> Any:
        return number

    def close(self) -> None:
        self._loop.run_until_complete(app.close_async())
