"""Limits of connections over a real socket: pipelining, control frames, streams of a key, slow peers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send
from websockets.exceptions import ConnectionClosed, InvalidStatus

from coordinator.edge import EdgeLimits
from coordinator.edge.server.connections import Connections
from coordinator.edge.server.http_connection import MAX_WAITING
from coordinator.edge.server.websocket_connection import (
    MAX_CONTROL_FRAMES,
    MAX_FRAGMENTS,
    MAX_STRANGER_BYTES,
)
from coordinator.edge.state.open_connections import ConnectionLimits, OpenConnections
from tests.harness.hostile import MIB, frame, handshake
from tests.harness.live import live_socket
from tests.harness.waiting import eventually
from tests.integration.edge_bench import Bench, key_of
from tests.integration.test_edge_server import Wire, connected, head, serving

HEALTH = head("GET", "/health/live", "alice")
KEY = f"X-Api-Key: {key_of('alice')}"


def limited(edge: Bench, **limits: int) -> Bench:
    return edge.again(open_connections=OpenConnections(ConnectionLimits(**limits)))


async def answer(wire: Wire) -> tuple[int, dict[str, str], bytes]:
    """The next answer: status, headers and body, by its length."""
    status = await wire.status()
    headers: dict[str, str] = {}
    while (line := (await wire.reader.readline()).decode().strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, await wire.reader.readexactly(int(headers.get("content-length", 0)))


async def closing(wire: Wire) -> tuple[int, str]:
    """The code and the reason of the close frame that ends a WebSocket."""
    rest = await wire.rest()
    close = rest[rest.rindex(b"\x88") + 2 :]
    return int.from_bytes(close[:2], "big"), close[2:].decode()


async def upgraded(wire: Wire, *headers: str, path: str = "/ws/client") -> None:
    await wire.send(handshake(path, *headers))
    assert await wire.status() == 101
    await wire.reader.readuntil(b"\r\n\r\n")


# --- pipelining --------------------------------------------------------------------------------------------
async def test_a_few_pipelined_requests_are_answered_in_order(edge: Bench) -> None:
    """As many as may wait, beside the first; each has its own answer, and the connection stays open."""
    async with serving(edge.app) as port, connected(port) as wire:
        paths = [f"/health/live?{n}" if n % 2 else f"/v1/nowhere/{n}" for n in range(MAX_WAITING + 1)]
        await wire.send(b"".join(head("GET", path, "alice") for path in paths))
        assert [(await answer(wire))[0] for _ in paths] == [404, 200] * (MAX_WAITING // 2) + [404]
        await wire.send(HEALTH)
        assert (await answer(wire))[0] == 200


async def test_more_pipelined_requests_end_the_connection(edge: Bench) -> None:
    """Those that may wait are answered; the rest is refused with 429, and the connection ends."""
    async with serving(edge.app) as port, connected(port) as wire:
        await wire.send(HEALTH * 1000)
        statuses = [(await answer(wire))[0] for _ in range(MAX_WAITING + 1)]
        refusal = await answer(wire)
        assert await wire.rest() == b""
    assert statuses == [200] * (MAX_WAITING + 1)
    assert (refusal[0], b'"RATE_LIMITED"' in refusal[2]) == (429, True)
    assert refusal[1]["connection"] == "close"


async def test_an_invalid_request_waits_for_the_answers_before_it(edge: Bench) -> None:
    """Its 400 does not come in the middle of another answer; so a WebSocket that is not alone."""
    for invalid in (b"no request\r\n\r\n", handshake("/ws/client", KEY)):
        async with serving(edge.app) as port, connected(port) as wire:
            await wire.send(HEALTH + HEALTH + invalid)
            assert [(await answer(wire))[0] for _ in range(3)] == [200, 200, 400]
            assert await wire.rest() == b""


async def test_a_stream_before_other_requests_ends_with_its_connection(edge: Bench) -> None:
    """The application of the running request hears of the disconnect, though another request waits."""
    watchful = Connections()
    watchful.sweep_seconds = 0.1
    async with serving(edge.app, connections=watchful) as port:
        async with connected(port) as wire:
            await wire.send(head("GET", "/v1/events", "alice") + HEALTH)
            assert await wire.status() == 200
            assert edge.app.state.context.open_connections.streams == 1
            wire.writer.transport.abort()
        await eventually(lambda: edge.app.state.context.open_connections.streams == 0, "the stream ended")


async def test_line_ends_do_not_keep_a_connection(edge: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between requests they are skipped, and the connection is closed as if it were silent."""
    monkeypatch.setattr("coordinator.edge.server.http_connection.BoundedHttp.header_seconds", 0.3)
    async with serving(edge.app) as port, connected(port) as wire:
        await wire.send(HEALTH + b"\r\n")
        assert (await answer(wire))[0] == 200
        await wire.send(b"\r\n")
        assert await wire.rest() == b""


async def test_many_headers_are_too_large(edge: Bench) -> None:
    """However short they are: each is an object for us."""
    async with serving(edge.app) as port, connected(port) as wire:
        await wire.send(head("GET", "/health/live", "alice", *["a:b"] * 300))
        assert (await answer(wire))[0] == 431


# --- WebSockets --------------------------------------------------------------------------------------------
async def test_a_few_pings_are_answered_and_many_end_the_socket(edge: Bench) -> None:
    """Each has its pong; beyond the rate it is 1008, before any key."""
    async with serving(edge.app) as port, connected(port) as wire:
        await upgraded(wire)
        await wire.send(frame(9, b"hello") * 10)
        assert await wire.reader.readexactly(70) == b"\x8a\x05hello" * 10
        await wire.send(frame(9) * MAX_CONTROL_FRAMES)
        assert await closing(wire) == (1008, "too many control frames")


async def test_a_message_of_endless_fragments_ends_the_socket(edge: Bench) -> None:
    """Empty ones, too, which no limit of bytes would stop; a message of some fragments is taken."""
    async with serving(edge.app) as port, connected(port) as wire:
        await upgraded(wire, KEY)
        await wire.send(frame(1, b'{"type":', fin=False) + frame(0, fin=False) * 100 + frame(0, b'"ping"}'))
        assert b'"pong"' in await wire.reader.readuntil(b'"pong"')
        await wire.send(frame(1, fin=False) + frame(0, fin=False) * (MAX_FRAGMENTS + 1))
        assert await closing(wire) == (1008, f"a message has more than {MAX_FRAGMENTS} fragments")


async def test_a_stranger_has_small_messages(edge: Bench) -> None:
    """Before a valid key only a hello fits (1009); afterwards a message has its usual limit."""
    async with serving(edge.app) as port:
        url = f"http://127.0.0.1:{port}"
        async with live_socket(url) as ws:
            await ws.connection.send("x" * (MAX_STRANGER_BYTES + 1))
            with pytest.raises(ConnectionClosed) as closed:
                await ws.next()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        async with live_socket(url) as ws:
            await ws.say("hello", key=key_of("alice"))
            assert (await ws.next())["type"] == "welcome"
            await ws.say("ping", id="x" * 90, more="y" * 4 * MAX_STRANGER_BYTES)
            assert (await ws.next())["code"] == "INVALID_PAYLOAD"


# --- limits ------------------------------------------------------------------------------------------------
@contextlib.asynccontextmanager
async def bounded(edge: Bench, limits: ConnectionLimits) -> AsyncIterator[int]:
    """The edge behind a server with these limits; the port."""
    async with serving(edge.app, connections=Connections(limits)) as port:
        yield port


@pytest.mark.parametrize(
    ("limits", "status", "code"),
    [
        (ConnectionLimits(total=5), 503, b'"UNAVAILABLE"'),
        (ConnectionLimits(total=50, per_address=5), 429, b'"RATE_LIMITED"'),
    ],
)
async def test_connections_beyond_the_limit_are_told_so(
    edge: Bench, limits: ConnectionLimits, status: int, code: bytes
) -> None:
    """In total and from one address, with Retry-After and one line in the log; a closed one makes room."""
    with structlog.testing.capture_logs() as logs:
        async with bounded(edge, limits) as port, contextlib.AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(connected(port)) for _ in range(5)]
            for _ in range(3):
                async with connected(port) as refused:
                    await refused.send(HEALTH)
                    found = await answer(refused)
                    assert (found[0], code in found[2]) == (status, True)
                    assert int(found[1]["retry-after"]) >= 1
            for wire in wires:
                await wire.send(HEALTH)
                assert (await answer(wire))[0] == 200
            wires[0].writer.close()

            async def admitted() -> bool:
                async with connected(port) as again:
                    await again.send(HEALTH)
                    return (await answer(again))[0] == 200

            await eventually(admitted, "room for another connection")
    assert len([line for line in logs if line["event"] == "connections refused"]) == 1


async def test_streams_of_a_key_are_limited(edge: Bench) -> None:
    """Event streams, WebSockets by header and by hello count together; a closed one makes room."""
    few = limited(edge, streams_per_key=2, streams=3)
    async with serving(few.app) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        url, alice = str(http.base_url), {"X-Api-Key": key_of("alice")}
        async with http.stream("GET", "/v1/events", headers=alice) as stream:
            assert stream.status_code == 200
            async with live_socket(url, key_of("alice")) as ws:
                assert (await ws.next())["type"] == "welcome"
                refused = await http.get("/v1/events", headers=alice)
                assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMITED")
                assert int(refused.headers["Retry-After"]) >= 1
                assert refused.headers["Connection"] == "close"
                with pytest.raises(InvalidStatus) as denied:
                    await live_socket(url, key_of("alice")).__aenter__()
                assert denied.value.response.status_code == 429
                async with live_socket(url) as by_hello:
                    await by_hello.say("hello", key=key_of("alice"))
                    with pytest.raises(ConnectionClosed) as closed:
                        await by_hello.next()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 4429
                async with live_socket(url, key_of("bob")) as other:
                    assert (await other.next())["type"] == "welcome"
                    total = await http.get("/v1/events", headers={"X-Api-Key": key_of("root")})
                    assert (total.status_code, total.json()["code"]) == (503, "UNAVAILABLE")
        streams = few.app.state.context.open_connections
        await eventually(lambda: streams.streams == 0, "all places given back")
        async with http.stream("GET", "/v1/events", headers=alice) as stream:
            assert stream.status_code == 200


async def test_requests_under_way_of_a_key_are_limited(edge: Bench) -> None:
    """Long polls that are abandoned count until they end; others' requests are answered."""
    few = limited(edge, per_key=2)
    job = (await edge.submit(edge.alice))["job_id"]
    async with serving(few.app) as port, contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            wire = await stack.enter_async_context(connected(port))
            await wire.send(head("GET", f"/v1/jobs/{job}/result?wait=30", "alice"))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:

            async def refused() -> bool:
                got = await http.get("/v1/jobs", headers={"X-Api-Key": key_of("alice")})
                return (got.status_code, got.json().get("code")) == (429, "RATE_LIMITED")

            await eventually(refused, "the limit reached")
            assert (await http.get("/v1/jobs", headers={"X-Api-Key": key_of("bob")})).status_code == 200
        few.app.state.context.stopping.set()


# --- slow and full -----------------------------------------------------------------------------------------
async def test_a_reader_that_takes_nothing_is_cut(edge: Bench) -> None:
    """An unread download ends after a while, and its stream is given back."""
    content = os.urandom(8 * MIB)
    digest = sha256(content).hexdigest()
    assert (await edge.alice.put(f"/v1/blobs/{digest}", content=content)).status_code == 201
    job = (await edge.submit(edge.alice, payload={"text": f"blob:{digest}"}))["job_id"]
    hasty = Connections()
    hasty.sweep_seconds, hasty.write_seconds = 0.1, 0.5
    async with serving(edge.app, connections=hasty) as port:
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.connect(("127.0.0.1", port))
            peer.sendall(head("GET", f"/v1/jobs/{job}/blobs/{digest}", "alice"))
            open_connections = edge.app.state.context.open_connections
            await eventually(lambda: open_connections.streams == 1, "the download begun")
            await eventually(lambda: open_connections.streams == 0, "the download ended", 30)
            assert len(hasty) == 0


async def test_an_upload_that_is_too_slow_is_given_up(edge: Bench) -> None:
    """Bytes that come now and then do not keep it alive (408); a steady sender has all the time it needs."""
    slow = edge.again(limits=EdgeLimits(grace_seconds=0.4, bytes_per_second=1000))
    async with serving(slow.app) as port:
        async with connected(port) as wire:
            await wire.send(head("PUT", f"/v1/blobs/{'a' * 64}", "alice", "Content-Length: 100000"))
            with contextlib.suppress(ConnectionError):
                while not wire.reader.at_eof() and not slow_answer(wire):
                    await wire.send(b"x")
                    await asyncio.sleep(0.02)
            assert (await answer(wire))[0] == 408
        content = b"y" * 12_000
        async with connected(port) as wire:
            path = f"/v1/blobs/{sha256(content).hexdigest()}"
            await wire.send(head("PUT", path, "alice", f"Content-Length: {len(content)}"))
            for at in range(0, len(content), 500):  # 10,000 bytes a second, for three times the grace
                await wire.send(content[at : at + 500])
                await asyncio.sleep(0.05)
            assert (await answer(wire))[0] == 201


def slow_answer(wire: Wire) -> bool:
    return bool(wire.reader._buffer)  # type: ignore[attr-defined]


async def test_compressed_bodies_are_refused(edge: Bench) -> None:
    """415 with the reason, for JSON and for files; `identity` is no compression."""
    for path in ("/v1/jobs", f"/v1/blobs/{'a' * 64}"):
        method = "PUT" if "blobs" in path else "POST"
        refused = await edge.alice.request(method, path, content=b"x", headers={"Content-Encoding": "gzip"})
        assert (refused.status_code, refused.json()["code"]) == (415, "INVALID_PAYLOAD")
        assert "Content-Encoding" in refused.json()["detail"]
    body = b'{"service": "checksum", "payload": {"text": "x"}}'
    headers = {"Content-Encoding": "identity"}
    assert (await edge.alice.post("/v1/jobs", content=body, headers=headers)).status_code == 201


async def test_an_upload_on_a_full_disk_is_to_be_tried_later(edge: Bench, tmp_path: Path) -> None:
    """503 with a code and Retry-After, and nothing is left; with room again it succeeds."""
    content = os.urandom(6 * MIB)
    path = f"/v1/blobs/{sha256(content).hexdigest()}"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MIB, hard))  # a write beyond it fails as on a full disk
    try:
        full = await edge.alice.put(path, content=content)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (full.status_code, full.json()["code"]) == (503, "UNAVAILABLE")
    assert int(full.headers["Retry-After"]) >= 1
    assert [file for file in (tmp_path / "blobs").rglob("*") if file.is_file()] == []
    assert (await edge.alice.put(path, content=content)).status_code == 201


# --- memory ------------------------------------------------------------------------------------------------
async def test_lost_connections_leave_no_cycles(edge: Bench) -> None:
    """The memory of a lost connection is free at once: collections are rare here."""
    content = os.urandom(2 * MIB)
    digest = sha256(content).hexdigest()
    assert (await edge.alice.put(f"/v1/blobs/{digest}", content=content)).status_code == 201
    job = (await edge.submit(edge.alice, payload={"text": f"blob:{digest}"}))["job_id"]
    await edge.register("rig")
    poll = b'{"max_wait_seconds": 60}'
    kinds: dict[str, bytes] = {
        "pipelined": HEALTH * 5,
        "stream": head("GET", "/v1/events?from=0", "alice"),
        "download": head("GET", f"/v1/jobs/{job}/blobs/{digest}", "alice"),
        "upload": head("PUT", f"/v1/blobs/{'a' * 64}", "alice", "Content-Length: 90000") + b"x" * 50_000,
        "poll": head("POST", "/v1/miners/poll", "other-rig", f"Content-Length: {len(poll)}") + poll,
        "no key": b"GET /v1/jobs HTTP/1.1\r\nHost: edge\r\n\r\n",
        "socket": handshake("/ws/client", KEY) + frame(1, b'{"type":"ping"}'),
        "pings": handshake("/ws/client") + frame(9) * 200,
    }
    await edge.register("other-rig")
    counted, connections = Counted(edge.app), Connections()
    async with serving(counted, connections=connections) as port:

        async def lose(first: bytes) -> None:
            begun = counted.begun
            with socket.socket() as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                peer.connect(("127.0.0.1", port))
                peer.sendall(first)
                await eventually(lambda: counted.begun > begun, "the request began")
            await eventually(lambda: not connections and counted.ended == counted.begun, "it ended")

        left = {name: await _garbage_of(partial(lose, first)) for name, first in kinds.items()}
    assert {name: found for name, found in left.items() if found} == {}


class Counted:
    """An application whose requests are counted."""

    def __init__(self, app: ASGIApp) -> None:
        self.begun = self.ended = 0
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        counts = scope["type"] != "lifespan"
        self.begun += counts
        try:
            await self._app(scope, receive, send)
        finally:
            self.ended += counts


async def _garbage_of(use: Callable[[], Awaitable[None]]) -> list[str]:
    """The names of what only a collection frees after a use; the first use loads what is loaded once."""
    await use()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(2):
            await use()
        gc.collect()
        kinds = {type(each).__name__ for each in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    return sorted(
        kinds & {"BoundedHttp", "BoundedWebSocket", "RequestResponseCycle", "TCPTransport", "frame"}
    )
