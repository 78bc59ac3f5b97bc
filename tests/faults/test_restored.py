"""A backup of the log takes the log's place while miners run on."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from coordinator.dev.servers import PostgresServer
from tests.harness.executor import SERVICE
from tests.harness.health_watch import HealthWatch
from tests.harness.stage import ALICE, Stage
from tests.harness.waiting import eventually

QUICK_SILENCE: dict[str, Any] = {"heartbeat_interval_seconds": 0.5, "heartbeat_timeout_seconds": 3.0}


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """As the operator has made it: without our tables."""
    return empty_database_url


class Backup:
    """Copies of one database beside it. Nobody may use it while one is made or restored."""

    def __init__(self, server: PostgresServer, url: str) -> None:
        self._server = server
        self._name, self._copy = urlsplit(url).path[1:], f"{urlsplit(url).path[1:]}_copy"

    def make(self) -> None:
        self._copy_database(self._name, self._copy)

    def restore(self) -> None:
        self._copy_database(self._copy, self._name)

    def drop(self) -> None:
        self._run(f"DROP DATABASE IF EXISTS {self._copy} WITH (FORCE)")

    def _copy_database(self, source: str, target: str) -> None:
        self._run(f"DROP DATABASE IF EXISTS {target} WITH (FORCE)")
        self._run(f"ALTER DATABASE {source} ALLOW_CONNECTIONS false")
        self._run(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{source}'")
        self._run(f"CREATE DATABASE {target} TEMPLATE {source}")
        self._run(f"ALTER DATABASE {source} ALLOW_CONNECTIONS true")

    def _run(self, statement: str) -> None:
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture
def backup(postgres: PostgresServer, database_url: str) -> Iterator[Backup]:
    made = Backup(postgres, database_url)
    yield made
    made.drop()


async def test_jobs_of_a_restored_log_are_done_again(
    tmp_path: Path, database_url: str, amqp_url: str, backup: Backup
) -> None:
    """Jobs that a miner finished after the backup are queued again: the same session does them once more."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url, **QUICK_SILENCE) as stage:
        coordinator = stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        miner = stage.miner("rig1")
        await stage.registered("rig1")
        async with stage.rpc() as rpc:
            first = await stage.submit(rpc, "first", payload={"until": "copied"})
            jobs = [first]
            for number in range(4):
                service = "checksum" if number % 2 else SERVICE  # claim and result are one message, or two
                jobs.append(
                    await stage.submit(rpc, f"queued-{number}", service=service, payload={"text": "x"})
                )
            await stage.noted(f"begun-{first}-1")
            coordinator.stop()
            await asyncio.to_thread(backup.make)
            stage.coordinator()
            await stage.ready()
            stage.release("copied")
            await stage.ended(jobs)
            [session] = stage.log.column("SELECT session_id FROM miners")
            stage.processes[-1].stop()
            assert 5 == stage.log.count("job.completed.v1")
            await asyncio.to_thread(backup.restore)
            assert 0 == stage.log.count("job.completed.v1")
            stage.continue_as("restored")
            restored_at = time.monotonic()
            stage.coordinator()
            await stage.ready()
            jobs += [await stage.submit(rpc, f"new-{number}") for number in range(3)]
            await stage.ended(jobs, timeout=30)
            assert time.monotonic() - restored_at < 30
        assert miner.ended is None
        assert [session] == stage.log.column("SELECT session_id FROM miners")
        checked = await stage.check()
        assert {"COMPLETED": 8} == checked.states()
        # The first one's lease was in the backup, and its miner no longer had it.
        assert {1: 7, 2: 1} == checked.starts()


async def test_jobs_of_a_restored_data_directory_are_done_again(tmp_path: Path) -> None:
    """The same without servers: a miner that polls is given finished jobs once more, and runs them."""
    data, copy = tmp_path / "data-main", tmp_path / "copy"
    with Stage(tmp_path, **QUICK_SILENCE) as stage:
        coordinator = stage.coordinator(dies=("never", 1))
        await stage.ready()
        miner = stage.miner("rig1")
        await stage.registered("rig1")
        jobs = [await submitted(stage, "first", SERVICE, {"until": "copied"})]
        await stage.noted(f"begun-{jobs[0]}-1")
        for number in range(4):
            service = "checksum" if number % 2 else SERVICE
            jobs.append(await submitted(stage, f"queued-{number}", service, {"text": "x"}))
        coordinator.stop()
        shutil.copytree(data, copy)
        coordinator = stage.coordinator(dies=("never", 1))
        await stage.ready()
        stage.release("copied")
        await stage.ended(jobs)
        [session] = stage.log.column("SELECT session_id FROM miners")
        coordinator.stop()
        shutil.rmtree(data)
        shutil.copytree(copy, data)
        assert {} == stage.log.ended()
        coordinator = stage.coordinator(dies=("never", 1))
        await stage.ready()
        jobs.append(await submitted(stage, "new", SERVICE, {}))
        await stage.ended(jobs, timeout=30)
        assert miner.ended is None
        assert [session] == stage.log.column("SELECT session_id FROM miners")
        coordinator.stop()
        checked = await stage.check()
        assert {"COMPLETED": 6} == checked.states()
        assert {1: 5, 2: 1} == checked.starts()


async def submitted(stage: Stage, key: str, service: str, payload: dict[str, str]) -> str:
    """The id of a job that was accepted over HTTP."""
    async with httpx.AsyncClient(base_url=stage.urls["main"], timeout=30) as http:
        answer = await http.post(
            "/v1/jobs",
            json={"service": service, "payload": payload},
            headers={"X-Api-Key": ALICE, "Idempotency-Key": key},
        )
    assert 201 == answer.status_code, answer.text
    job_id = str(answer.json()["job_id"])
    stage.accepted.add(job_id)
    return job_id


async def test_a_log_that_goes_back_beneath_a_coordinator(
    tmp_path: Path, database_url: str, amqp_url: str, backup: Backup
) -> None:
    """The backup is restored while the coordinator runs: it appends nothing more and ends."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        coordinator = stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        coordinator.stop()
        await asyncio.to_thread(backup.make)
        coordinator = stage.coordinator()
        await stage.ready()
        async with stage.rpc() as rpc:
            for number in range(5):
                await stage.submit(rpc, f"lost-{number}")
            with HealthWatch(stage.urls["main"]) as health:
                await asyncio.to_thread(backup.restore)
                head = stage.log.head()
                await eventually(lambda: not stage.health()["live"], "a restart asked for", 15)
                await eventually(lambda: "older copy" in str(health.changes[-1].reasons), "the reason told")
                async with httpx.AsyncClient(base_url=stage.urls["main"], timeout=30) as http:
                    job = {"service": "checksum", "payload": {"text": "x"}}
                    answer = await http.post("/v1/jobs", json=job, headers={"X-Api-Key": ALICE})
                assert (503, "UNAVAILABLE") == (answer.status_code, answer.json()["code"])
                assert head == stage.log.head()
            assert 0 != await eventually(lambda: coordinator.ended, "the process ends")
            stage.continue_as("restored")
            stage.coordinator()
            await stage.ready()
            again = await stage.submit(rpc, "lost-0")
            assert ["job.submitted"] == stage.log.topics(again)
