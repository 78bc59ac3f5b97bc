"""The edge over a real socket: what only bytes on a wire can show."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp
from websockets.exceptions import InvalidStatus

from coordinator.edge import EdgeLimits
from coordinator.edge.server.connections import Connections
from coordinator.edge.server.header_limits import MAX_HEADER_BYTES, LimitedHeaders
from coordinator.runtime.process.http_server import configure
from coordinator.runtime.process.ports import listen
from coordinator.wire.limits import MAX_BODY_BYTES
from tests.harness.cases import every
from tests.harness.live import live_socket
from tests.integration.edge_bench import Bench, key_of


class Server(uvicorn.Server):
    """uvicorn, which says when it is up, and leaves signals to the test."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: object = None) -> None:
        await super().startup(sockets)  # type: ignore[arg-type]
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp,
    protocol: type[LimitedHeaders] | None = None,
    connections: Connections | None = None,
) -> AsyncIterator[int]:
    """Serve `app`; the port."""
    config = configure(app)
    config.http = protocol or config.http
    if connections is not None:
        config.connections = connections
    server = Server(config)
    with contextlib.closing(listen("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await server.up.wait()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


class Wire:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def status(self) -> int:
        """The status of the next answer."""
        line = await asyncio.wait_for(self.reader.readline(), 60)
        return int(line.split()[1])

    async def rest(self) -> bytes:
        """Everything until the server closes the connection."""
        return await asyncio.wait_for(self.reader.read(), 60)


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def head(method: str, path: str, name: str, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: edge", f"X-Api-Key: {key_of(name)}", *headers, "", ""]
    return "\r\n".join(lines).encode()


ODD_TARGETS: list[str] = [
    "/v1/jobs?cursor=%ff%fe",
    "/v1/jobs?state=%00",
    "/v1/jobs?limit=5&limit=x",
    "/v1/jobs/%ff",
    "/v1/jobs?service=" + "%25" * 5000,
    "/v1/jobs?%00=1",
]


async def test_a_chunked_body_is_cut_off_at_the_limit(edge: Bench) -> None:
    """A body that never says how long it is gets 413 once it is too long, and the connection is closed."""
    chunk = b"x" * 2**16
    async with serving(edge.app) as port, connected(port) as wire:
        await wire.send(head("POST", "/v1/jobs", "alice", "Transfer-Encoding: chunked"))
        for _ in range(MAX_BODY_BYTES // len(chunk)):
            await wire.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        await wire.send(b"1\r\nx\r\n")
        assert await wire.status() == 413
        rest = await wire.rest()
    assert b'"TOO_LARGE"' in rest
    assert b"connection: close" in rest.lower()


async def test_a_stranger_is_answered_without_reading_its_body(edge: Bench) -> None:
    """401 comes before the body, and closes the connection: nobody feeds us gigabytes without a key."""
    async with serving(edge.app) as port, connected(port) as wire:
        await wire.send(head("PUT", f"/v1/blobs/{'a' * 64}", "stranger", "Content-Length: 5000000000"))
        assert await wire.status() == 401
        await wire.rest()


async def test_a_body_that_trickles_is_given_up_and_holds_up_nobody(edge: Bench) -> None:
    """A sender that stops in the middle gets 408 after a while; meanwhile others are served."""
    impatient = edge.again(limits=EdgeLimits(body_seconds=1))
    async with serving(impatient.app) as port, contextlib.AsyncExitStack() as stack:
        stalled = [await stack.enter_async_context(connected(port)) for _ in range(20)]
        for wire in stalled:
            await wire.send(head("POST", "/v1/jobs", "alice", "Content-Length: 100") + b'{"service"')
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            answer = await http.get("/v1/jobs", headers={"X-Api-Key": key_of("alice")})
        assert answer.status_code == 200
        assert {await wire.status() for wire in stalled} == {408}


async def test_a_miner_that_hangs_up_during_a_poll_leaves_the_work_to_others(edge: Bench) -> None:
    """Work that comes after (or as) a polling miner disconnects goes to another miner, and not to nobody."""
    await edge.register("rig")
    async with serving(edge.app) as port:
        async with connected(port) as wire:
            body = b'{"max_wait_seconds": 60}'
            await wire.send(head("POST", "/v1/miners/poll", "rig", f"Content-Length: {len(body)}") + body)
        await edge.register("other-rig")
        job = await edge.submit(edge.alice)
        # Before any lease could run out: 30 s of silence.
        offer = await asyncio.wait_for(edge.poll("other-rig", wait=20), 20)
    assert offer["job_id"] == job["job_id"]


async def test_an_upload_that_is_cut_off_leaves_nothing(edge: Bench, tmp_path: Path) -> None:
    """A connection that is lost in the middle of an upload leaves neither a blob nor an owner."""
    content = b"y" * 500_000
    path = f"/v1/blobs/{sha256(content).hexdigest()}"
    async with serving(edge.app) as port:
        async with connected(port) as wire:
            await wire.send(head("PUT", path, "alice", f"Content-Length: {len(content)}") + content[:400_000])
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            answer = await http.head(path, headers={"X-Api-Key": key_of("alice")})
    assert answer.status_code == 404
    # The server has stopped, so every request of it is over.
    assert [file for file in (tmp_path / "blobs").rglob("*") if file.is_file()] == []


async def test_an_upload_is_streamed_both_ways(edge: Bench) -> None:
    """A blob larger than any buffer goes up chunked and comes back whole, by way of a job."""
    content = bytes(range(256)) * 20_000
    digest = sha256(content).hexdigest()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 100_000):
            yield content[start : start + 100_000]

    async with serving(edge.app) as port:
        headers = {"X-Api-Key": key_of("alice")}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as http:
            assert (await http.put(f"/v1/blobs/{digest}", content=chunks())).status_code == 201
            job = (await edge.submit(edge.alice, payload={"inputs": [f"blob:{digest}"]}))["job_id"]
            answer = await http.get(f"/v1/jobs/{job}/blobs/{digest}")
    assert answer.content == content


async def test_the_server_does_not_say_what_it_is(edge: Bench) -> None:
    """No server header on answers and problems, and a HEAD has no body."""
    async with serving(edge.app) as port, connected(port) as wire:
        await wire.send(head("GET", "/health", "alice"))
        await wire.send(head("HEAD", f"/v1/blobs/{'a' * 64}", "alice", "Connection: close"))
        answers = (await wire.rest()).lower()
    assert answers.startswith(b"http/1.1 200")
    assert b"http/1.1 404" in answers
    assert b"server:" not in answers
    assert answers.endswith(b"\r\n\r\n")


async def test_head_of_a_page_and_of_a_stream_ends_at_once(edge: Bench) -> None:
    """A HEAD has the headers of a GET and no body, and does not keep a stream of events open."""
    async with serving(edge.app) as port, connected(port) as wire:
        await wire.send(head("HEAD", "/health", "alice"))
        await wire.send(head("HEAD", "/v1/events", "alice", "Connection: close"))
        health, events = (await wire.rest()).lower().split(b"\r\n\r\n")[:2]
    assert health.startswith(b"http/1.1 200")
    assert b"content-type: application/json" in health
    assert b"content-length: " in health
    assert events.startswith(b"http/1.1 200")
    assert b"content-type: text/event-stream" in events


async def test_odd_bytes_in_a_target_are_refused(edge: Bench) -> None:
    """Percent-encoded bytes that are no text end in a problem document, never in an internal error."""
    async with serving(edge.app) as port:
        for target in ODD_TARGETS:
            async with connected(port) as wire:
                await wire.send(head("GET", target, "alice", "Connection: close"))
                assert await wire.status() in (404, 422)
                assert b"application/problem+json" in await wire.rest()


# --- headers -----------------------------------------------------------------------------------------------
class HastyHeaders(LimitedHeaders):
    """Gives up headers that take longer than a moment."""

    header_seconds = 0.3


LINE = b"X-A: " + b"a" * 1000 + b"\r\n"


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET /health HTTP/1.1\r\nHost: edge\r\n", LINE * 10),
        (b"GET /health HTTP/1.1\r\nX-A: ", b"a" * 10_000),
        (b"GET /health HTTP/1.1\r\nX-", b"a" * 10_000),
        (b"GET /health?a=", b"a" * 10_000),
        (b"GET /health HTTP/1.1\r\nHost: edge\r\n", b"a:\r\n" * 2500),
    ],
)
async def test_a_head_without_end_is_cut_off(edge: Bench, begin: bytes, more: bytes) -> None:
    """Strangers can't fill our memory with a head: 431, and the connection is closed."""
    async with serving(edge.app) as port, connected(port) as wire:
        await wire.send(begin)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while not wire.reader.at_eof() and sent < 100 * MAX_HEADER_BYTES:
                await wire.send(more)
                sent += len(more)
                await asyncio.sleep(0)  # so that the answer can arrive
        assert sent < 100 * MAX_HEADER_BYTES


async def test_a_head_that_is_too_large_is_told_so(edge: Bench) -> None:
    """In one piece, too: 431 with a problem document; one just within the limit is answered."""
    async with serving(edge.app) as port:
        async with connected(port) as wire:
            await wire.send(head("GET", "/health", "alice", "X-A: " + "a" * MAX_HEADER_BYTES))
            assert await wire.status() == 431
            rest = await wire.rest()
        assert b"application/problem+json" in rest
        assert b"x-content-type-options: nosniff" in rest.lower()  # as on every answer
        assert b'"TOO_LARGE"' in rest
        async with connected(port) as wire:
            large = "X-A: " + "a" * (MAX_HEADER_BYTES - 1000)
            whole = head("GET", "/health", "alice", large, "Connection: close")
            for start in range(0, len(whole), 1000):
                await wire.send(whole[start : start + 1000])
                await asyncio.sleep(0)  # so that it is read piece by piece
            assert await wire.status() == 200


async def test_a_trailer_without_end_is_cut_off(edge: Bench) -> None:
    """What follows a body in chunks is bounded as the head is, also while its answer is on the way."""
    async with serving(edge.app) as port, connected(port) as wire:
        await wire.send(head("POST", "/v1/jobs", "alice", "Transfer-Encoding: chunked"))
        await wire.send(b"2\r\n{}\r\n0\r\nX-A: ")
        sent = 0
        with contextlib.suppress(ConnectionError):
            while not wire.reader.at_eof() and sent < 100 * MAX_HEADER_BYTES:
                await wire.send(b"a" * 10_000)
                sent += 10_000
                await asyncio.sleep(0)  # so that the answer can arrive
        assert sent < 100 * MAX_HEADER_BYTES


async def test_small_chunks_are_no_trailer(edge: Bench) -> None:
    """A body of thousands of chunks is taken, though their sizes alone are longer than a head may be."""
    content = b"z" * 40_000
    chunked = b"".join(b"1\r\nz\r\n" for _ in range(20_000)) + b"4e20\r\n" + content[20_000:] + b"\r\n"
    path = f"/v1/blobs/{sha256(content).hexdigest()}"
    async with serving(edge.app) as port, connected(port) as wire:
        await wire.send(head("PUT", path, "alice", "Transfer-Encoding: chunked"))
        for start in range(0, len(chunked), 777):
            await wire.send(chunked[start : start + 777])
        await wire.send(b"0\r\nX-Checked: yes\r\n\r\n")
        assert await wire.status() == 201


@pytest.mark.parametrize("begin", [b"", b"GET /health HTTP/1.1\r\nHost:"])
async def test_a_head_that_trickles_is_given_up(edge: Bench, begin: bytes) -> None:
    """A connection that sends no request, or not the whole of one, is closed: 408 where one has begun."""
    async with serving(edge.app, HastyHeaders) as port, connected(port) as wire:
        await wire.send(begin)
        rest = await wire.rest()
    assert (b"HTTP/1.1 408" in rest) == bool(begin)


async def test_waits_are_longer_than_heads(edge: Bench) -> None:
    """The limit is the head's alone: a connection that waits for an answer, or between requests, is kept."""
    job = (await edge.submit(edge.alice))["job_id"]
    async with serving(edge.app, HastyHeaders) as port, connected(port) as wire:
        await wire.send(head("GET", f"/v1/jobs/{job}/result?wait=1", "alice"))
        assert await wire.status() == 425
        await wire.reader.readuntil(b"}")
        await asyncio.sleep(3 * HastyHeaders.header_seconds)  # nothing happens, which is what is looked for
        await wire.send(head("GET", "/health", "alice"))
        assert await wire.status() == 200


async def test_what_is_no_http_is_told_so(edge: Bench) -> None:
    """Bytes that are no request get 400 and a problem document like any other refusal."""
    async with serving(edge.app) as port, connected(port) as wire:
        await wire.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        assert await wire.status() == 400
        assert b"application/problem+json" in await wire.rest()


# --- sockets that are refused ------------------------------------------------------------------------------
@every(
    ("path", "key", "expected"),
    [
        ("/ws/client", "alice:wrong", (401, "UNAUTHORIZED_KEY")),
        ("/ws/miner", key_of("alice"), (403, "FORBIDDEN")),
        ("/ws/nowhere", key_of("alice"), (404, "UNKNOWN_COMMAND")),
        ("/v1/jobs", key_of("alice"), (404, "UNKNOWN_COMMAND")),
    ],
)
async def test_a_refused_socket_is_told_why_and_alarms_nobody(
    edge: Bench, caplog: pytest.LogCaptureFixture, path: str, key: str, expected: tuple[int, str]
) -> None:
    """What a socket is refused for is its problem document, and no error in our log."""
    async with serving(edge.app) as port:
        with caplog.at_level(logging.WARNING), pytest.raises(InvalidStatus) as refused:
            async with live_socket(f"http://127.0.0.1:{port}", key, path):
                pass
    answer = refused.value.response
    assert answer.body is not None
    assert expected == (answer.status_code, json.loads(answer.body)["code"])
    assert [] == [record for record in caplog.records if record.name.startswith("uvicorn")]
