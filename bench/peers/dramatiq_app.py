"""Dramatiq on RabbitMQ, results in Redis. The application, and the client.

As its guide has it: durable queues, persistent messages and late acknowledgement (always so), delivery
confirmed by the broker, the Results middleware with Redis, which it recommends.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

results = RedisBackend(url=os.environ["BENCH_REDIS_URL"])
broker = RabbitmqBroker(url=os.environ["BENCH_AMQP_URL"], confirm_delivery=True)
broker.add_middleware(Results(backend=results))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop(number: int) -> int:
    return number


class Client:
    def __init__(self) -> None:
        self._keys: dict[str, str] = {}
        """Where the result of a message is: the key is a hash that only the message's sender can make."""

    def submit_many(self, numbers: Sequence[int]) -> list[str]:
        return [self.submit_one(number) for number in numbers]

    def submit_one(self, number: int) -> str:
        message = noop.send(number)
        self._keys[message.message_id] = results.build_message_key(message)
        return str(message.message_id)

    def read(self, ids: Collection[str]) -> dict[str, Any]:
        asked = list(ids)
        with results.client.pipeline(transaction=False) as pipeline:
            for job_id in asked:
                pipeline.lindex(self._keys[job_id], 0)
            found = zip(asked, pipeline.execute(), strict=True)
        decode = results.encoder.decode
        return {job_id: results.unwrap_result(decode(data)) for job_id, data in found if data is not None}

    def expected(self, number: int) -> Any:
        return number

    def close(self) -> None:
        broker.close()
