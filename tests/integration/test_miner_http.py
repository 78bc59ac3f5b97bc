"""The miner program over HTTP, on a real socket, against a small coordinator that speaks the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from coordinator.crypto.canonical import salted_digest
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.statement import verify_partial_statement, verify_statement
from coordinator.dev.servers.processes import free_port
from coordinator.miner.blobs import HttpBlobs
from coordinator.miner.config import Hardware, MinerConfig
from coordinator.miner.executors.base import Outcome, Work
from coordinator.miner.executors.errors import ExecutorError
from coordinator.miner.gpus import nvidia
from coordinator.miner.http import HttpTransport
from coordinator.miner.program import MinerProgram
from coordinator.wire.backoff import Backoff
from tests.harness.gpu_tools import command

KEY = "alice:a-secret-of-alice"
SALT = bytes(range(16))
QUICK = Backoff(first_seconds=0.01, longest_seconds=0.1)
PATIENCE_SECONDS = 60.0


class Stub:
    """Jobs, sessions and blobs behind the miner's endpoints. `broken` are statuses to answer with first."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.jobs: dict[str, dict[str, Any]] = {}
        self.session = ""
        self.public_key = ""
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.beats: list[dict[str, Any]] = []
        self.cancel: list[dict[str, Any]] = []
        self.broken: dict[str, list[Response]] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.damage = 0
        self.state = "ONLINE"
        self.takes_turns = True
        self.turn_answered = asyncio.Event()
        """Until it is set, polls with results claim a job and are not answered."""
        self.turn_answered.set()
        self.changed = asyncio.Condition()
        self.app.middleware("http")(self._middleware)
        self.app.post("/v1/miners/{name}")(self._miner)
        self.app.post("/v1/miners/{job_id}/{name}")(self._attempt)
        self.app.api_route("/v1/blobs/{sha256}", methods=["HEAD", "PUT"])(self._blob)
        self.app.get("/v1/jobs/{job_id}/blobs/{sha256}")(self._download)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(self.app, log_level="critical", timeout_graceful_shutdown=1))
        task = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), self.changed:
            await self.changed.wait_for(condition)

    async def add(self, **payload: Any) -> str:
        job_id = str(uuid.uuid4())
        async with self.changed:
            self.jobs[job_id] = {"state": "QUEUED", "payload": payload, "attempt": 1}
            self.changed.notify_all()
        return job_id

    def sent(self, kind: str) -> list[dict[str, Any]]:
        return [fields for received, fields in self.received if received == kind]

    def states(self) -> list[str]:
        return [job["state"] for job in self.jobs.values()]

    async def _middleware(self, request: Request, call_next: Any) -> Any:
        name = request.url.path.rsplit("/", 1)[-1]
        self.requests.append(f"{request.method} {name}")
        if request.headers.get("X-Api-Key") != KEY:
            return _problem(401, "UNAUTHORIZED_KEY")
        if self.broken.get(name):
            return self.broken[name].pop(0)
        response = await call_next(request)
        async with self.changed:
            self.changed.notify_all()
        return response

    async def _miner(self, name: str, request: Request) -> Response:
        fields = await request.json()
        self.received.append((name, fields))
        if name == "register":
            self.session, self.public_key = fields["session_id"], fields["public_key"]
            return JSONResponse(
                {"profile": "p", "state": "ONLINE", "heartbeat_interval_seconds": 0.1, "position": 5}
            )
        if fields["session_id"] != self.session:
            return _problem(409, "SESSION_NOT_LIVE")
        if name == "heartbeat":
            self.beats.append(fields)
            return JSONResponse({"state": self.state, "cancel": self.cancel, "position": 6})
        if name == "poll" and "results" in fields:
            return await self._turn(fields)
        if name == "poll":
            return await self._poll(fields)
        return JSONResponse({"state": "DRAINING", "position": 7})

    async def _turn(self, fields: dict[str, Any]) -> Response:
        """A poll with results: their answers, and jobs that are at hand."""
        if not self.takes_turns:
            return _problem(422, "INVALID_PAYLOAD")
        if self.broken.get("result"):
            return self.broken["result"].pop(0)
        answers: list[dict[str, Any]] = []
        for result in fields["results"]:
            job_id = result.pop("job_id")
            self.received.append(("result", result))
            answer = json.loads(bytes(self._outcome(job_id, "result", result).body))
            answers.append({"status": "refused" if "code" in answer else "accepted", **answer})
        polled = await self._poll(fields)
        offers = [json.loads(bytes(polled.body))] if polled.body else []
        await self.turn_answered.wait()
        return JSONResponse({"answers": answers, "offers": offers, "position": 10})

    async def _poll(self, fields: dict[str, Any]) -> Response:
        def queued() -> str | None:
            return next((job_id for job_id, job in self.jobs.items() if job["state"] == "QUEUED"), None)

        try:
            async with asyncio.timeout(fields["max_wait_seconds"]), self.changed:
                await self.changed.wait_for(lambda: queued() is not None)
                job_id = queued()
                assert job_id
                job = self.jobs[job_id]
                job["state"] = "RUNNING"
        except TimeoutError:
            return Response(status_code=204)
        return JSONResponse(
            {
                "job_id": job_id,
                "attempt": job["attempt"],
                "service": "work",
                "payload": job["payload"],
                "payload_salt": SALT.hex(),
                "payload_digest": salted_digest(SALT, job["payload"]),
                "timeout_seconds": 60,
                "expires_at": 2**41,
                "position": 8,
            }
        )

    async def _attempt(self, job_id: str, name: str, request: Request) -> Response:
        fields = await request.json()
        self.received.append((name, fields))
        assert "job_id" not in fields
        return self._outcome(job_id, name, fields)

    def _outcome(self, job_id: str, name: str, fields: dict[str, Any]) -> Response:
        job = self.jobs[job_id]
        if fields["attempt"] != job["attempt"]:
            return _problem(409, "STALE_ATTEMPT")
        if name == "result":
            verify_statement(fields["statement"], self.public_key)
            job.update(state="COMPLETED", result=fields["result"])
        elif name == "fail":
            job.update(state="FAILED", code=fields["error_code"])
        elif name == "bill":
            verify_partial_statement(fields["statement"], self.public_key)
            return _problem(409, "CONFLICT_STATE")
        else:
            job.update(state="RELEASED")
        return JSONResponse({"job_id": job_id, "state": job["state"], "attempt": 1, "position": 9})

    async def _blob(self, sha256: str, request: Request) -> Response:
        if request.method == "HEAD":
            return Response(status_code=200 if sha256 in self.blobs else 404)
        body = await request.body()
        assert hashlib.sha256(body).hexdigest() == sha256
        self.blobs[sha256] = body
        return JSONResponse({"sha256": sha256}, 201)

    async def _download(self, job_id: str, sha256: str) -> Response:
        if sha256 not in self.blobs:
            return _problem(404, "BLOB_NOT_FOUND")
        if self.damage:
            self.damage -= 1
            return Response(b"damaged" + self.blobs[sha256])
        return Response(self.blobs[sha256])


def _problem(status: int, code: str) -> JSONResponse:
    return JSONResponse({"code": code, "title": "no", "detail": "so"}, status)


class Hands:
    """An executor that works until it is told to finish."""

    services = ("work",)

    def __init__(self) -> None:
        self.started: asyncio.Queue[Work] = asyncio.Queue()
        self.killed = asyncio.Event()
        self.finish = asyncio.Event()

    async def check(self) -> str | None:
        return None

    async def run(self, work: Work) -> Outcome:
        self.started.put_nowait(work)
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            self.killed.set()
            raise
        return Outcome({"echo": dict(work.payload)})


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
async def url(stub: Stub) -> AsyncIterator[str]:
    async with stub.serving() as url:
        yield url


@contextlib.asynccontextmanager
async def running(url: str, executor: Any, folder: Path, **options: Any) -> AsyncIterator[MinerProgram]:
    options = {"hardware": Hardware(), **options}
    config = MinerConfig(KEY, coordinator_url=url, key_file=folder / "key", **options)
    program = MinerProgram(
        config,
        HttpTransport(url, KEY, poll_wait_seconds=1, backoff=QUICK),
        executor if isinstance(executor, dict) else {"work": executor},
        signing_key=SigningKey.generate(),
        blobs=HttpBlobs(url, KEY, backoff=QUICK),
    )
    task = asyncio.create_task(program.run(handle_signals=False))
    try:
        yield program
    finally:
        program.stop()
        program.stop()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await task == 0


async def test_jobs_are_polled_run_and_completed(stub: Stub, url: str, tmp_path: Path) -> None:
    """What a poll claims is run and completed without another claim; the miner leaves at the end."""
    hands = Hands()
    hands.finish.set()
    async with running(url, hands, tmp_path, concurrency=2, node="one"):
        await stub.until(lambda: bool(stub.session))
        ids = [await stub.add(n=n) for n in range(5)]
        await stub.until(lambda: stub.states() == ["COMPLETED"] * 5)
    assert [stub.jobs[job_id]["result"] for job_id in ids] == [{"echo": {"n": n}} for n in range(5)]
    assert stub.sent("register")[0]["miner_id"] == "one@alice"
    assert stub.sent("start") == []
    assert len(stub.sent("leave")) == 1


async def test_an_older_coordinator_gets_results_without_polls(stub: Stub, url: str, tmp_path: Path) -> None:
    """Where polls may not have results, the miner finds out once in a session."""
    stub.takes_turns = False
    hands = Hands()
    hands.finish.set()
    async with running(url, hands, tmp_path):
        await stub.until(lambda: bool(stub.session))
        for n in range(3):
            await stub.add(n=n)
        await stub.until(lambda: stub.states() == ["COMPLETED"] * 3)
    assert 1 == len([fields for fields in stub.sent("poll") if "results" in fields])


async def test_a_job_that_comes_with_results_goes_back_at_a_stop(
    stub: Stub, url: str, tmp_path: Path
) -> None:
    """A miner that stops while its result is handed in releases the job that was claimed with it."""
    hands = Hands()
    hands.finish.set()
    stub.turn_answered.clear()
    async with running(url, hands, tmp_path) as program:
        await stub.until(lambda: bool(stub.session))
        await stub.add(n=1)
        await stub.add(n=2)
        await stub.until(lambda: stub.states() == ["COMPLETED", "RUNNING"])
        program.stop()
        await stub.until(lambda: len(stub.sent("drain")) == 1)
        stub.turn_answered.set()
        await stub.until(lambda: len(stub.sent("leave")) == 1)
    assert ["COMPLETED", "RELEASED"] == stub.states()
    assert 1 == hands.started.qsize()


async def test_gpus_are_registered_and_their_free_memory_is_told(
    stub: Stub, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registration has names, vendors and memory; heartbeats have the free memory as read last."""
    monkeypatch.setattr(nvidia, "COMMAND", command("two"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    async with running(url, Hands(), tmp_path, hardware=None, recheck_seconds=0.1):
        await stub.until(lambda: bool(stub.beats))
        told = [{"name": "NVIDIA L4", "free_mb": 22491}, {"name": "Tesla T4", "free_mb": 15100}]
        assert told == stub.beats[0]["gpus"]
        monkeypatch.setattr(nvidia, "COMMAND", command("divided"))
        await stub.until(lambda: len(stub.beats[-1].get("gpus", [])) == 3)
    [request] = stub.sent("register")
    assert {
        "gpus": [
            {"name": "NVIDIA L4", "vendor": "nvidia", "memory_mb": 23034},
            {"name": "Tesla T4", "vendor": "nvidia", "memory_mb": 15360},
        ],
        "cuda": "12.4",
    } == {name: request["capabilities"][name] for name in ("gpus", "cuda")}


async def test_polls_only_while_a_slot_is_free(stub: Stub, url: str, tmp_path: Path) -> None:
    """A miner with its one slot busy claims nothing more."""
    hands = Hands()
    async with running(url, hands, tmp_path):
        await stub.until(lambda: bool(stub.session))
        await stub.add(n=1)
        await hands.started.get()
        await stub.add(n=2)
        polls = len(stub.sent("poll"))
        beats = len(stub.beats)
        await stub.until(lambda: len(stub.beats) >= beats + 3)
        assert len(stub.sent("poll")) == polls
        assert stub.states() == ["RUNNING", "QUEUED"]
        hands.finish.set()
        await stub.until(lambda: stub.states() == ["COMPLETED"] * 2)


@pytest.mark.parametrize("name", ["register", "poll", "result", "heartbeat"])
async def test_failing_server_is_asked_again(name: str, stub: Stub, url: str, tmp_path: Path) -> None:
    """5xx, 429 and answers that say "later" are repeated until there is an answer."""
    stub.broken[name] = [
        _problem(500, "INTERNAL"),
        _problem(503, "UNAVAILABLE"),
        Response(status_code=502),
        JSONResponse({"code": "RATE_LIMITED"}, 429, {"Retry-After": "0"}),
        JSONResponse({"code": "RATE_LIMITED"}, 429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
    ]
    hands = Hands()
    hands.finish.set()
    async with running(url, hands, tmp_path):
        await stub.until(lambda: bool(stub.session))
        await stub.add(n=1)
        await stub.until(lambda: stub.states() == ["COMPLETED"] and not stub.broken[name])
    assert hands.started.qsize() == 1


async def test_server_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    """A miner that starts before its coordinator registers once that is there."""
    stub = Stub()
    port = free_port()
    hands = Hands()
    async with running(f"http://127.0.0.1:{port}", hands, tmp_path):
        server = uvicorn.Server(uvicorn.Config(stub.app, port=port, log_level="critical"))
        task = asyncio.create_task(server.serve())
        await stub.until(lambda: bool(stub.session))
    server.should_exit = True
    await task


async def test_heartbeat_cancels_and_drains(stub: Stub, url: str, tmp_path: Path) -> None:
    """An attempt in `cancel` is killed and billed; the state DRAINING makes the miner finish and leave."""
    hands = Hands()
    async with running(url, hands, tmp_path):
        await stub.until(lambda: bool(stub.session))
        job_id = await stub.add(n=1)
        await hands.started.get()
        names = {"job_id": job_id, "attempt": 1}
        await stub.until(lambda: [names] in [beat["inflight"] for beat in stub.beats])
        stub.cancel = [names]
        await asyncio.wait_for(hands.killed.wait(), PATIENCE_SECONDS)
        stub.state = "DRAINING"
        await stub.until(lambda: bool(stub.sent("leave")))
    assert stub.states() == ["RUNNING"]
    assert len(stub.sent("bill")) == 1


async def test_polls_that_wait_stand_for_heartbeats(stub: Stub, url: str, tmp_path: Path) -> None:
    """While polls wait one after the other, no heartbeat is sent; with a job in hand they are."""
    hands = Hands()
    async with running(url, hands, tmp_path):
        await stub.until(lambda: len(stub.sent("poll")) == 3)  # two have waited for a second each
        assert len(stub.beats) <= 3
        job_id = await stub.add(n=1)
        await hands.started.get()
        names = {"job_id": job_id, "attempt": 1}
        await stub.until(lambda: [[names]] * 2 == [b["inflight"] for b in stub.beats if b["inflight"]][:2])
        hands.finish.set()


async def test_lost_session_registers_anew(stub: Stub, url: str, tmp_path: Path) -> None:
    """A session that is not known any more ends what runs, and a new one serves on."""
    hands = Hands()
    async with running(url, hands, tmp_path) as program:
        await stub.until(lambda: bool(stub.session))
        await stub.add(n=1)
        await hands.started.get()
        before, stub.session = stub.session, "someone-elses"
        await asyncio.wait_for(hands.killed.wait(), PATIENCE_SECONDS)
        await stub.until(lambda: stub.session == program.session_id)
        assert stub.session != before
        hands.finish.set()
        await stub.add(n=2)
        await stub.until(lambda: stub.states() == ["RUNNING", "COMPLETED"])


async def test_refused_key_ends_the_program(stub: Stub, url: str, tmp_path: Path) -> None:
    """A key that the coordinator does not know is no reason to try for ever: exit code 1."""
    transport = HttpTransport(url, "alice:wrong-secret", backoff=QUICK)
    config = MinerConfig("alice:wrong-secret", coordinator_url=url, hardware=Hardware())
    program = MinerProgram(config, transport, {"work": Hands()}, signing_key=SigningKey.generate())
    assert await program.run(handle_signals=False) == 1


async def test_miner_without_executors_does_not_start(tmp_path: Path) -> None:
    """Where no executor passes its check there is nothing to register: exit code 2."""

    class Missing(Hands):
        async def check(self) -> str | None:
            return "no such program"

    class Broken(Hands):
        async def check(self) -> str | None:
            raise OSError

    config = MinerConfig(KEY, hardware=Hardware())
    transport = HttpTransport("http://127.0.0.1:9", KEY)
    program = MinerProgram(
        config, transport, {"one": Missing(), "two": Broken()}, signing_key=SigningKey.generate()
    )
    assert await program.run(handle_signals=False) == 2


async def test_position_is_kept(stub: Stub, url: str) -> None:
    """The transport knows the last position that an answer named."""
    transport = HttpTransport(url, KEY, backoff=QUICK)
    stub.session = "session-1"
    await transport.call("miner.drain", {"miner_id": "alice", "session_id": "session-1"})
    assert transport.position == 7
    await transport.close()


# --- blobs -------------------------------------------------------------------------------------------------
async def test_files_travel_by_digest(stub: Stub, url: str, tmp_path: Path) -> None:
    """A file is uploaded once however often it is asked for, and comes back the same."""
    blobs = HttpBlobs(url, KEY, backoff=QUICK)
    content = bytes(range(256)) * 10_000
    source, target = tmp_path / "frames.bin", tmp_path / "copy"
    await asyncio.to_thread(source.write_bytes, content)
    access = blobs.of_job("job")
    stub.broken[hashlib.sha256(content).hexdigest()] = [Response(status_code=503)]
    first = await access.upload(source, media_type="application/octet-stream")
    assert first == await access.upload(source, media_type="application/octet-stream")
    assert (first["name"], first["size"]) == ("frames.bin", len(content))
    assert len([request for request in stub.requests if request.startswith("PUT")]) == 1
    stub.damage = 1
    await access.download(first["blob"], target, max_bytes=len(content) * 2)
    assert await asyncio.to_thread(target.read_bytes) == content
    await blobs.close()


@pytest.mark.parametrize(
    ("ref", "damage", "max_bytes", "code", "retryable"),
    [
        ("blob:" + hashlib.sha256(b"content").hexdigest(), 0, 6, "INPUT_TOO_LARGE", False),
        ("blob:" + hashlib.sha256(b"content").hexdigest(), 99, 99, "DOWNLOAD_FAILED", True),
        ("blob:" + hashlib.sha256(b"other").hexdigest(), 0, 99, "DOWNLOAD_FAILED", True),
        ("blob:../../etc/passwd", 0, 99, "INVALID_PAYLOAD", False),
    ],
)
async def test_failed_downloads_leave_nothing(
    ref: str, damage: int, max_bytes: int, code: str, retryable: bool, stub: Stub, url: str, tmp_path: Path
) -> None:
    """A download that is too large, damaged for good, missing or nonsense fails the job and keeps no file."""
    stub.blobs[hashlib.sha256(b"content").hexdigest()] = b"content"
    stub.damage = damage
    blobs = HttpBlobs(url, KEY, backoff=QUICK)
    target = tmp_path / "input"
    with pytest.raises(ExecutorError) as failed:
        await blobs.of_job("job").download(ref, target, max_bytes=max_bytes)
    assert (failed.value.code, failed.value.retryable) == (code, retryable)
    assert not await asyncio.to_thread(target.exists)
    await blobs.close()


@pytest.mark.parametrize(
    ("status", "code"),
    [(409, "STALE_ATTEMPT"), (403, "FORBIDDEN"), (404, "JOB_NOT_FOUND"), (409, "SESSION_NOT_LIVE")],
)
async def test_a_refused_report_ends_the_attempt(
    stub: Stub, url: str, tmp_path: Path, status: int, code: str
) -> None:
    """Progress of an attempt that is over is refused: its work stops at once, without a heartbeat."""
    hands = Hands()
    async with running(url, hands, tmp_path):
        await stub.until(lambda: bool(stub.session))
        await stub.add(n=1)
        work = await hands.started.get()
        stub.broken["progress"] = [_problem(status, code)]
        work.progress(0.5, "half")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await hands.killed.wait()
    assert ([], []) == (stub.sent("result"), stub.sent("fail"))


@pytest.mark.parametrize(
    "answer", [_problem(400, "INVALID_PAYLOAD"), _problem(413, "TOO_LARGE"), Response(status_code=404)]
)
async def test_a_report_that_is_not_understood_ends_nothing(
    stub: Stub, url: str, tmp_path: Path, answer: Response
) -> None:
    """An older coordinator may not know a report's path or form; the work is still wanted."""
    hands = Hands()
    async with running(url, hands, tmp_path):
        await stub.until(lambda: bool(stub.session))
        await stub.add(n=1)
        work = await hands.started.get()
        stub.broken["progress"] = [answer]
        work.progress(0.5, "half")
        await stub.until(lambda: not stub.broken["progress"])
        hands.finish.set()
        await stub.until(lambda: stub.states() == ["COMPLETED"])
