"""The requests of clients and of miner loops, which verify and sign as our miner does."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import secrets
import statistics
import time
from collections.abc import Mapping
from typing import Any, Final

from bench.http_client import HttpClient
from bench.meter import cpu_seconds
from coordinator.crypto.canonical import salted_digest
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.statement import sign_statement

LOOPS: Final = 16
POLL_RATE: Final = 50
TIMEOUT_SECONDS: Final = 90.0
US: Final = 1e6
WAITING: Final = b"Prefer: wait=30\r\n"


class Work:
    """The requests of clients and miners."""

    def __init__(self, client: HttpClient, miner: HttpClient) -> None:
        self._client = client
        self._miner = miner
        self._key = SigningKey.generate()
        self._numbers = itertools.count()
        self.last_completed = ""
        """The id of a completed job."""

    async def whole(self, jobs: int, *, fewest: bool = False) -> list[float]:
        """Milliseconds of each job, from its submit until its result was read.

        Four requests are submit, poll, result, and read. With the `fewest` the submit waits and is answered
        with the result, and the poll for the next job hands in the result of the last one.
        """
        numbers = iter(range(jobs))
        took: list[float] = []

        async def ask() -> None:
            for _ in numbers:
                begun = time.perf_counter()
                text = str(next(self._numbers))
                if fewest:
                    read = json.loads(await self._client.post("/v1/jobs", _job(text), WAITING))
                    job_id = read["job_id"]
                else:
                    job_id = await self._submit(text)
                    read = json.loads(await self._client.get(f"/v1/jobs/{job_id}/result?wait=30"))
                expected = hashlib.sha256(text.encode()).hexdigest()
                assert read["result"]["digests"][0]["digest"] == expected
                took.append((time.perf_counter() - begun) * 1000)
                self.last_completed = job_id

        # A miner whose request is refused ends the measurement.
        async with asyncio.TaskGroup() as mining:
            mine = self._mine_in_turns if fewest else self._mine
            loops = [mining.create_task(mine(f"loop-{n}@bench-miner")) for n in range(LOOPS)]
            try:
                async with asyncio.TaskGroup() as asking:
                    for _ in range(LOOPS):
                        asking.create_task(ask())
            finally:
                for loop in loops:
                    loop.cancel()
        return took

    async def submits(self, count: int, connections: int, pid: int) -> dict[str, float]:
        """Submits alone: no miner can run the jobs, which stay queued."""
        left = iter(range(count))

        async def ask() -> None:
            for _ in left:
                await self._submit(str(next(self._numbers)), constraints={"region": "nowhere"})

        before, begun = cpu_seconds(pid), time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(connections)))
        seconds = time.perf_counter() - begun
        return {
            "per_second": round(count / seconds, 1),
            "coordinator_cpu_us": round((cpu_seconds(pid) - before) / count * US, 1),
        }

    async def polls(self, miners: int, poll_seconds: float, seconds: float, pid: int) -> dict[str, float]:
        """Many miners that poll: the coordinator's cores while nothing happens, and the time to a claim."""
        submitted: dict[str, float] = {}
        claimed: dict[str, float] = {}
        expected: list[int] = []
        all_claimed = asyncio.Event()

        def note_claim() -> None:
            if expected == [len(claimed)]:
                all_claimed.set()

        async def miner(number: int) -> None:
            name = f"parked-{number}@bench-miner"
            session = await self._register(name)
            while True:
                polled = await self._poll(name, session, poll_seconds)
                if polled is not None:
                    assert polled["job_id"] not in claimed, "its first claim was lost"
                    claimed[polled["job_id"]] = time.perf_counter()
                    note_claim()
                    await self._complete(name, session, polled)

        async with asyncio.TaskGroup() as mining:
            tasks: list[asyncio.Task[None]] = []
            try:
                for number in range(miners):
                    tasks.append(mining.create_task(miner(number)))
                    if number % 50 == 49:
                        await asyncio.sleep(0.2)
                await asyncio.sleep(3.0)
                before = cpu_seconds(pid)
                await asyncio.sleep(poll_seconds)
                idle = (cpu_seconds(pid) - before) / poll_seconds
                for _ in range(int(POLL_RATE * seconds)):
                    begun = time.perf_counter()
                    submitted[await self._submit(str(next(self._numbers)))] = begun
                    await asyncio.sleep(max(0.0, 1 / POLL_RATE - (time.perf_counter() - begun)))
                expected.append(len(submitted))
                note_claim()
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await all_claimed.wait()
            finally:
                for task in tasks:
                    task.cancel()
        waits = [(claimed[job] - begun) * 1000 for job, begun in submitted.items()]
        return {
            "miners": miners,
            "idle_cores": round(idle, 3),
            "claim_p50_ms": percentile(waits, 50),
            "claim_p99_ms": percentile(waits, 99),
        }

    # --- single requests ------------------------------------------------------------------------------------
    async def _submit(self, text: str, **fields: Any) -> str:
        return str(json.loads(await self._client.post("/v1/jobs", _job(text, **fields)))["job_id"])

    async def _mine(self, name: str) -> None:
        session = await self._register(name)
        while True:
            polled = await self._poll(name, session)
            if polled is not None:
                await self._complete(name, session, polled)

    async def _mine_in_turns(self, name: str) -> None:
        session = await self._register(name)
        sender = {"miner_id": name, "session_id": session}
        while True:
            polled = await self._poll(name, session)
            while polled is not None:
                result = {"job_id": polled["job_id"], **self._result(name, session, polled)}
                turn = json.loads(await self._miner.post("/v1/miners/poll", {**sender, "results": [result]}))
                [answer] = turn["answers"]
                assert answer["status"] == "accepted", answer
                polled = turn["offers"][0] if turn["offers"] else None

    async def _register(self, name: str) -> str:
        body = {
            "miner_id": name,
            "capabilities": {"services": ["checksum"]},
            "concurrency": 4,
            "public_key": self._key.key_id,
        }
        return str(json.loads(await self._miner.post("/v1/miners/register", body))["session_id"])

    async def _poll(self, name: str, session: str, seconds: float = 30) -> dict[str, Any] | None:
        body = {"miner_id": name, "session_id": session, "max_wait_seconds": seconds}
        answer = await self._miner.post("/v1/miners/poll", body)
        return dict(json.loads(answer)) if answer else None

    async def _complete(self, name: str, session: str, offer: Mapping[str, Any]) -> None:
        body = {"miner_id": name, "session_id": session, **self._result(name, session, offer)}
        await self._miner.post(f"/v1/miners/{offer['job_id']}/result", body)

    def _result(self, name: str, session: str, offer: Mapping[str, Any]) -> dict[str, Any]:
        content = offer["payload"]["text"].encode()
        digest = hashlib.sha256(content).hexdigest()
        result = {
            "algorithm": "sha256",
            "digests": [{"input": "text", "digest": digest, "size": len(content)}],
        }
        salt, now = secrets.token_bytes(16), time.time_ns() // 1_000_000
        statement = {
            "version": "1",
            "job_id": offer["job_id"],
            "attempt": offer["attempt"],
            "miner_id": name,
            "session_id": session,
            "service": offer["service"],
            "payload_digest": offer["payload_digest"],
            "result_digest": salted_digest(salt, result),
            "started_at_ms": now,
            "completed_at_ms": now,
        }
        return {
            "attempt": offer["attempt"],
            "result": result,
            "result_salt": salt.hex(),
            "statement": sign_statement(self._key, statement),
        }


def _job(text: str, **fields: Any) -> dict[str, Any]:
    return {"service": "checksum", "payload": {"text": text}, **fields}


def percentile(values: list[float], percent: int) -> float:
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 2)
