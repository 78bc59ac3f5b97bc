"""Celery on RabbitMQ, results in Postgres or Redis (BENCH_RESULTS). The application, and the client.

As its user guide has it for tasks that must not be lost (late acknowledgement, publisher confirms, persistent
messages, which are the default) and for many short ones (a large prefetch, no gossip, mingle and events).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from typing import Any

import psycopg
import redis
from celery import Celery

IN_POSTGRES = os.environ["BENCH_RESULTS"] == "postgres"
DATABASE_URL = os.environ["BENCH_DATABASE_URL"]
REDIS_URL = os.environ["BENCH_REDIS_URL"]

app = Celery(
    "celery_app",
    broker=os.environ["BENCH_AMQP_URL"],
    backend=DATABASE_URL.replace("postgresql://", "db+postgresql+psycopg://") if IN_POSTGRES else REDIS_URL,
)
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=100,
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
)


@app.task
def noop(number: int) -> int:
    return number


class Client:
    def __init__(self) -> None:
        if IN_POSTGRES:
            self._database = psycopg.connect(DATABASE_URL, autocommit=True)
        else:
            self._redis = redis.Redis.from_url(REDIS_URL)

    def submit_many(self, numbers: Sequence[int]) -> list[str]:
        return [self.submit_one(number) for number in numbers]

    def submit_one(self, number: int) -> str:
        return str(noop.delay(number).id)

    def read(self, ids: Collection[str]) -> dict[str, Any]:
        return self._from_postgres(ids) if IN_POSTGRES else self._from_redis(ids)

    def expected(self, number: int) -> Any:
        return number

    def close(self) -> None:
        app.close()

    def _from_postgres(self, ids: Collection[str]) -> dict[str, Any]:
        select = "SELECT task_id, result FROM celery_taskmeta WHERE task_id = ANY(%s) AND status = 'SUCCESS'"
        try:
            rows = self._database.execute(select, [list(ids)]).fetchall()
        except psycopg.errors.UndefinedTable:  # the worker makes it with the first result
            return {}
        return {task_id: json.loads(result) for task_id, result in rows}

    def _from_redis(self, ids: Collection[str]) -> dict[str, Any]:
        values = self._redis.mget([f"celery-task-meta-{task_id}" for task_id in ids])
        documents = (json.loads(value) for value in values if value is not None)
        return {d["task_id"]: d["result"] for d in documents if d["status"] == "SUCCESS"}
