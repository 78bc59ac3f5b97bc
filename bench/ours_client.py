"""Our client: the SDK over AMQP; results are read from the same tables that the HTTP edge reads."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Collection, Sequence
from typing import Any

import psycopg
import uvloop
from pydantic_core import from_json

from coordinator.client import AsyncCoordinator
from coordinator.runtime.process.logs import configure_logs

# In a burst a job is done once the read tables call it completed, so that all its work is within the burst.
# A lone job is done once its result is committed, which happens with its event: only an accepted result is
# stored. Two statements use the keys whatever the statistics say; a join scanned one of the tables, a
# condition on the state took another index.
STATES = "SELECT job_id, state FROM jobs WHERE job_id = ANY(%s::text[])"
RESULTS = "SELECT job_id::text, body FROM payloads WHERE kind = 'result' AND job_id = ANY(%s::uuid[])"
SETTLED = "SELECT job_id FROM payments WHERE job_id = ANY(%s::text[])"


class Client:
    def __init__(self) -> None:
        configure_logs(level="warning")
        self._loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._coordinator = AsyncCoordinator(
            os.environ["BENCH_URL"], os.environ["BENCH_API_KEY"], amqp_url=os.environ["BENCH_AMQP_URL"]
        )
        self._database = psycopg.connect(os.environ["BENCH_DATABASE_URL"], autocommit=True)
        self._until_paid = bool(os.environ["BENCH_UNTIL_PAID"])
        max_price = os.environ["BENCH_MAX_PRICE"]
        self._options: dict[str, Any] = {"constraints": {"max_price": max_price}} if max_price else {}
        # Tables that were empty a second ago have no statistics yet: use their keys, not scans.
        self._database.execute("SET enable_seqscan = off")

    def submit_many(self, numbers: Sequence[int]) -> list[str]:
        payloads = ({"text": str(number)} for number in numbers)
        jobs = self._loop.run_until_complete(
            self._coordinator.submit_many("checksum", payloads, **self._options)
        )
        return [job.job_id for job in jobs]

    def submit_one(self, number: int) -> str:
        submit = self._coordinator.submit("checksum", {"text": str(number)}, **self._options)
        return self._loop.run_until_complete(submit).job_id

    def read(self, ids: Collection[str]) -> dict[str, Any]:
        states = self._database.execute(STATES, [list(ids)])
        completed = [job_id for job_id, state in states if state == "COMPLETED"]
        if self._until_paid and completed:
            completed = [row[0] for row in self._database.execute(SETTLED, [completed])]
        return self._results(completed) if completed else {}

    def read_committed(self, ids: Collection[str]) -> dict[str, Any]:
        """The results that are committed, whatever the read tables say by now; paid ones as `read` does."""
        if self._until_paid:
            return self.read(ids)
        return self._results(ids)

    def _results(self, ids: Collection[str]) -> dict[str, Any]:
        rows = self._database.execute(RESULTS, [list(ids)])
        return {job_id: from_json(body)["digests"][0]["digest"] for job_id, body in rows}

    def expected(self, number: int) -> Any:
        return hashlib.sha256(str(number).encode()).hexdigest()

    def close(self) -> None:
        self._loop.run_until_complete(self._coordinator.close())
