"""A whole embedded coordinator behind its HTTP edge, with clients, miners and an admin at hand."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from fastapi import FastAPI

from coordinator.crypto.canonical import salted_digest
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.statement import sign_statement
from coordinator.edge import create_app
from coordinator.runtime.bootstrap import connect, open_adapters
from coordinator.runtime.coordinator import CoordinatorProcess
from coordinator.runtime.edge import edge_of
from coordinator.runtime.settings import load_settings
from coordinator.services.catalog import load_catalog
from coordinator.storage.connections.data_directory import DATABASE_FILE
from coordinator.storage.migrate import migrate
from tests.harness.waiting import eventually

CLIENTS = ("alice", "bob")
MINERS = ("rig", "other-rig")
SERVICE = "checksum"
FEW = (SERVICE, "data_processing", "speech_recognition", "video_transcoding")
Catalogue = Callable[[], list[dict[str, Any]]]


class Bench:
    """`bench.alice` and the others are HTTP clients with that principal's key; `anyone` has none."""

    def __init__(self, coordinator: CoordinatorProcess, app: FastAPI) -> None:
        self.coordinator = coordinator
        self.app = app
        self.anyone = self._browse(None)
        self.alice, self.bob = (self._browse(name) for name in CLIENTS)
        self.rig, self.other_rig = (self._browse(name) for name in MINERS)
        self.admin = self._browse("root")
        self.keys = {name: SigningKey.generate() for name in MINERS}

    def _browse(self, name: str | None) -> httpx.AsyncClient:
        headers = {"X-Api-Key": key_of(name)} if name else {}
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://edge", headers=headers, timeout=None)

    async def submit(self, client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
        """Submit a job, and wait until it can be read."""
        body = {"service": SERVICE, "payload": {"text": "hello"}, **fields}
        answer = await client.post("/v1/jobs", json=body)
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = answer.json()
        await self.reached(job["position"])
        return job

    async def register(self, name: str = "rig", **fields: Any) -> dict[str, Any]:
        body = {"capabilities": {"services": [SERVICE]}, "public_key": self.keys[name].key_id, **fields}
        answer = await self.miner(name).post("/v1/miners/register", json=body)
        assert answer.status_code == 200, answer.text
        session: dict[str, Any] = answer.json()
        await self.reached(session["position"])
        return session

    async def poll(self, name: str = "rig", wait: float = 30) -> dict[str, Any]:
        answer = await self.miner(name).post("/v1/miners/poll", json={"max_wait_seconds": wait})
        assert answer.status_code == 200, answer.text
        offer: dict[str, Any] = answer.json()
        return offer

    async def _session_of(self, name: str) -> str | None:
        """The miner's session; None if the read models do not have it yet."""
        answer = await self.admin.get(f"/v1/miners/{name}")
        return str(answer.json()["session_id"]) if answer.status_code == 200 else None

    async def complete(
        self,
        offer: dict[str, Any],
        result: dict[str, Any],
        name: str = "rig",
        session_id: str | None = None,
        worked_ms: int = 5,
        units: Any = None,
    ) -> httpx.Response:
        """Hand in a signed result for a claimed offer; the answer, once it can be read."""
        if session_id is None:
            session_id = await eventually(lambda: self._session_of(name))
        body = self.signed_result(offer, result, name, session_id, worked_ms, units)
        answer = await self.miner(name).post(f"/v1/miners/{offer['job_id']}/result", json=body)
        if answer.status_code == 200:
            await self.reached(answer.json()["position"])
        return answer

    def signed_result(
        self,
        offer: dict[str, Any],
        result: dict[str, Any],
        name: str,
        session_id: str | None,
        worked_ms: int = 5,
        units: Any = None,
    ) -> dict[str, Any]:
        """The body of a result for a claimed offer; the statement has `units` unless they are None."""
        salt = os.urandom(16)
        now = time.time_ns() // 1_000_000
        statement = {
            "version": "1",
            "job_id": offer["job_id"],
            "attempt": offer["attempt"],
            "miner_id": name,
            "session_id": session_id,
            "service": offer["service"],
            "payload_digest": offer["payload_digest"],
            "result_digest": salted_digest(salt, result),
            "started_at_ms": now - worked_ms,
            "completed_at_ms": now,
        }
        if units is not None:
            statement["units"] = units
        return {
            "attempt": offer["attempt"],
            "result": result,
            "result_salt": salt.hex(),
            "statement": sign_statement(self.keys[name], statement),
        }

    async def finish(self, client: httpx.AsyncClient, result: dict[str, Any], **fields: Any) -> str:
        """Submit a job, and have it done by `rig`, which must be registered; the job's id."""
        job = await self.submit(client, **fields)
        offer = await self.poll()
        assert offer["job_id"] == job["job_id"]
        answer = await self.complete(offer, result)
        assert answer.status_code == 200, answer.text
        return str(job["job_id"])

    def miner(self, name: str) -> httpx.AsyncClient:
        return {"rig": self.rig, "other-rig": self.other_rig}[name]

    async def reached(self, position: int) -> None:
        """Wait until what happened up to `position` can be read."""
        assert await self.coordinator.watermarks.reached("projector", position, 30)

    def again(self, **changes: Any) -> Bench:
        """The same coordinator behind another edge, with these fields of its context changed."""
        bench = Bench(self.coordinator, create_app(replace(self.app.state.context, **changes)))
        bench.keys = self.keys
        return bench


def whole_catalogue() -> list[dict[str, Any]]:
    """The catalogue; SERVICE takes any object as a result, so that tests can say what they like in it."""
    entries = load_catalog()
    for entry in entries:
        if entry["id"] == SERVICE:
            entry["output_schema"] = {"type": "object"}
    return entries


def few_services() -> list[dict[str, Any]]:
    """Those entries that most tests do with: to register all takes two thirds of a start."""
    return [entry for entry in whole_catalogue() if entry["id"] in FEW]


def key_of(name: str) -> str:
    return f"{name}:secret-of-{name}"


@cache
def _file_with_tables() -> bytes:
    """What a first start makes of an empty data directory; a copy takes a tenth of that."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / DATABASE_FILE
        migrate(file)
        return file.read_bytes()


def _make_tables(file: Path) -> None:
    """As `_file_with_tables`, unless there is no folder yet or it was used before."""
    if file.parent.is_dir() and not file.exists():
        file.touch(0o600)
        file.write_bytes(_file_with_tables())


@asynccontextmanager
async def an_edge(directory: Path, **settings: Any) -> AsyncIterator[Bench]:
    """A coordinator that runs in `directory`; `catalogue` are the services that it registers, else few."""
    catalogue: Catalogue = settings.pop("catalogue", few_services)
    loaded = load_settings(
        **{
            "data_dir": directory,
            "database_url": None,
            "amqp_url": None,
            "client_api_keys": ",".join(key_of(name) for name in CLIENTS),
            "miner_api_keys": ",".join(key_of(name) for name in MINERS),
            "admin_api_keys": key_of("root"),
            **settings,
        }
    )
    if loaded.database_url is None:
        _make_tables(directory / DATABASE_FILE)
    coordinator = connect(loaded, open_adapters(loaded), catalogue=catalogue)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(coordinator.stop)
        await coordinator.start()
        bench = Bench(coordinator, edge_of(coordinator))
        stack.push_async_callback(bench.app.state.context.job_watch.stop)
        await bench.reached(coordinator.feed.head)  # the registry
        yield bench
