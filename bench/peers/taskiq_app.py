"""Taskiq on RabbitMQ, results in Postgres. The application, and the client.

Its defaults are the durable ones: quorum queues, persistent messages, confirms, acknowledgement after the
result is saved. `qos` lets the worker have as many tasks in hand as it runs side by side.
"""

from __future__ import annotations

import asyncio
import os
import pickle
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import psycopg
import uvloop
from taskiq_aio_pika import AioPikaBroker
from taskiq_pg.asyncpg import AsyncpgResultBackend

DATABASE_URL = os.environ["BENCH_DATABASE_URL"]
SIDE_BY_SIDE = 100  # submits under way at once

broker = AioPikaBroker(os.environ["BENCH_AMQP_URL"], qos=200).with_result_backend(
    AsyncpgResultBackend(dsn=DATABASE_URL)
)


@broker.task(task_name="noop")
async def noop(number: int) -> int:
    return number


class Client:
    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(broker.startup())
        self._database = psycopg.connect(DATABASE_URL, autocommit=True)

    def submit_many(self, numbers: Sequence[int]) -> list[str]:
        ids = [""] * len(numbers)
        waiting = iter(enumerate(numbers))

        async def lane(waiting: Iterator[tuple[int, int]]) -> None:
            for place, number in waiting:
                ids[place] = (await noop.kiq(number)).task_id

        async def lanes() -> None:
            await asyncio.gather(*(lane(waiting) for _ in range(SIDE_BY_SIDE)))

        self._loop.run_until_complete(lanes())
        return ids

    def submit_one(self, number: int) -> str:
        return str(self._loop.run_until_complete(noop.kiq(number)).task_id)

    def read(self, ids: Collection[str]) -> dict[str, Any]:
        select = "SELECT task_id, result FROM taskiq_results WHERE task_id = ANY(%s) AND result IS NOT NULL"
        rows = self._database.execute(select, [list(ids)]).fetchall()
        return {task_id: pickle.loads(result)["return_value"] for task_id, result in rows}

    def expected(self, number: int) -> Any:
        return number

    def close(self) -> None:
        self._loop.run_until_complete(broker.shutdown())
