"""DBOS, durable workflows in Postgres. The application, the worker (`python -m dbos_app`), and the client.

Its queue polls: fifty times as often here as by default, for the sake of its latency.
"""

from __future__ import annotations

import base64
import logging
import os
import pickle
import threading
from collections.abc import Collection, Sequence
from typing import Any

import psycopg
import sqlalchemy
from dbos import DBOS, DBOSClient, EnqueueOptions, run_dbos_database_migrations

DATABASE_URL = os.environ["BENCH_DATABASE_URL"]
QUEUE = "bench"
POLL_SECONDS = 0.02
SIDE_BY_SIDE = 200
BATCH = 500


@DBOS.workflow(name="noop")
async def noop(number: int) -> int:
    return number


def work() -> None:
    """Run workflows until this process is stopped."""
    logging.disable(logging.WARNING)
    DBOS(config={"name": "bench", "system_database_url": DATABASE_URL, "run_admin_server": False})
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=SIDE_BY_SIDE, polling_interval_sec=POLL_SECONDS)
    threading.Event().wait()


class Client:
    def __init__(self) -> None:
        run_dbos_database_migrations(system_database_url=DATABASE_URL)
        self._engine = sqlalchemy.create_engine(
            DATABASE_URL.replace("postgresql://", "postgresql+psycopg://")
        )
        self._client = DBOSClient(system_database_engine=self._engine)
        self._database = psycopg.connect(DATABASE_URL, autocommit=True)
        self._options: EnqueueOptions = {"workflow_name": "noop", "queue_name": QUEUE}

    def submit_many(self, numbers: Sequence[int]) -> list[str]:
        ids: list[str] = []
        for start in range(0, len(numbers), BATCH):
            with self._engine.begin() as connection:
                ids += [
                    self._client.enqueue_in_transaction(connection, self._options, number).workflow_id
                    for number in numbers[start : start + BATCH]
                ]
        return ids

    def submit_one(self, number: int) -> str:
        return str(self._client.enqueue(self._options, number).workflow_id)

    def read(self, ids: Collection[str]) -> dict[str, Any]:
        select = (
            "SELECT workflow_uuid, o.output FROM dbos.workflow_status JOIN dbos.workflow_output o "
            "USING (workflow_uuid) WHERE workflow_uuid = ANY(%s) AND status = 'SUCCESS'"
        )
        rows = self._database.execute(select, [list(ids)]).fetchall()
        return {job_id: pickle.loads(base64.b64decode(output)) for job_id, output in rows}

    def expected(self, number: int) -> Any:
        return number

    def close(self) -> None:
        self._client.destroy()


if __name__ == "__main__":
    work()
