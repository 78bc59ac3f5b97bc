"""Requests between an edge process and the core, over a real local socket and a small application."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from coordinator.edge.http.disconnects import CLIENT, RequestClient
from coordinator.edge.relay.answering import CoreSocket
from coordinator.edge.relay.calling import CoreGone, Relay
from coordinator.edge.relay.frames import (
    MAX_FRAME_BYTES,
    PIECE_BYTES,
    BadFrame,
    FrameReader,
    Kind,
    arrays,
    encode,
)

LARGE = os.urandom(3 * PIECE_BYTES + 7)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it got; some paths behave in other ways."""
    if scope["type"] == "websocket":
        await _echo_socket(receive, send)
        return
    if scope["path"] == "/fails-late":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        raise RuntimeError("in the middle of an answer")
    if scope["path"] == "/watched":
        scope["state"][CLIENT].on_gone(SIGNALS["left"].set)
        SIGNALS["begun"].set()
        await SIGNALS["left"].wait()
        return
    if scope["path"] == "/until-left":
        SIGNALS["begun"].set()
        while (await receive())["type"] != "http.disconnect":
            pass
        scope["headers"].append((b"left", b""))
        SIGNALS["left"].set()
        return
    body = b""
    if scope["path"] != "/unread":
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
    told = [(b"x-path", scope["raw_path"]), (b"x-from", str(scope["client"]).encode())]
    told += [(name, value) for name, value in scope["headers"] if name == b"x-mark"]
    await send({"type": "http.response.start", "status": 201, "headers": told})
    await send({"type": "http.response.body", "body": body[:10], "more_body": True})
    await send({"type": "http.response.body", "body": body[10:]})


SIGNALS: dict[str, asyncio.Event] = {}
"""Those of the application, anew for each test: an event belongs to one loop."""


async def _echo_socket(receive: Receive, send: Send) -> None:
    assert "websocket.connect" == (await receive())["type"]
    await send({"type": "websocket.accept", "subprotocol": "b", "headers": []})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "end":
            await send({"type": "websocket.close", "code": 4001, "reason": "as you wish"})
            return
        await send({**message, "type": "websocket.send"})


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[CoreSocket]:
    SIGNALS.update(begun=asyncio.Event(), left=asyncio.Event())
    core = CoreSocket(tmp_path / "core.sock", app)
    await core.start()
    yield core
    await core.stop()


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Relay]:
    relay = Relay(tmp_path / "core.sock")
    yield relay
    await relay.stop()


@pytest.fixture
async def client(relay: Relay) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(relay, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
        yield client


@pytest.mark.usefixtures("core")
async def test_requests_and_answers_cross_whole(client: httpx.AsyncClient) -> None:
    """The application gets what the edge process got, byte by byte, and its answer comes back."""
    for body in (b"", b"a body of more than ten bytes", LARGE):
        answer = await client.post("/a%2Fb?q=1", content=body, headers={b"X-Mark": b"\xe9"})
        assert (201, body) == (answer.status_code, answer.content)
        assert ("/a%2Fb", "('127.0.0.1', 123)") == (answer.headers["x-path"], answer.headers["x-from"])
        assert (b"x-mark", b"\xe9") in answer.headers.raw
    assert b"" == (await client.get("/")).content


async def test_a_connection_carries_one_exchange_after_the_other(
    core: CoreSocket, client: httpx.AsyncClient
) -> None:
    """As many connections as exchanges at a time; a body that nobody read does not disturb the next one."""
    for path in ("/unread", "/", "/unread", "/"):
        assert 201 == (await client.post(path, content=b"some bytes")).status_code
    assert 1 == len(core)
    await asyncio.gather(*(client.post("/", content=LARGE) for _ in range(5)))
    assert 5 == len(core)


@pytest.mark.usefixtures("core")
async def test_an_answer_that_fails_late_is_cut(client: httpx.AsyncClient) -> None:
    """A failure after the beginning of an answer cuts the connection: nobody takes a part for the whole."""
    relayed: list[Message] = []

    async def take(message: Message) -> None:
        relayed.append(message)

    async def nothing() -> Message:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    with pytest.raises(CoreGone):
        await client._transport.app(scope_of("/fails-late"), nothing, take)  # type: ignore[attr-defined]
    assert [b"begun"] == [m["body"] for m in relayed if m["type"] == "http.response.body"]
    assert 201 == (await client.get("/")).status_code


@pytest.mark.usefixtures("core")
async def test_the_application_hears_that_a_client_left(relay: Relay) -> None:
    """While an answer takes long, its client's end reaches the application."""

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def ignored(message: Message) -> None: ...

    await relay(scope_of("/until-left"), gone, ignored)
    async with asyncio.timeout(5):
        await SIGNALS["left"].wait()


@pytest.mark.parametrize("pieces", [(b"",), (b"short",), (LARGE,), (b"a", b"b" * 70_000)])
@pytest.mark.usefixtures("core")
async def test_a_request_that_has_arrived_crosses_whole(relay: Relay, pieces: tuple[bytes, ...]) -> None:
    """Our server says so: then its body is read at once, in one piece or in several."""
    parts = [{"type": "http.request", "body": b, "more_body": b is not pieces[-1]} for b in pieces]
    answered: list[Message] = []

    async def body() -> Message:
        return parts.pop(0)

    async def take(message: Message) -> None:
        answered.append(message)

    size = str(sum(map(len, pieces))).encode()
    scope = scope_of("/") | {"method": "POST", "headers": [(b"content-length", size)]}
    await relay(scope | {"state": {CLIENT: RequestClient(has_sent_all=True)}}, body, take)
    assert b"".join(pieces) == b"".join(m["body"] for m in answered[1:])


@pytest.mark.parametrize("path", ["/until-left", "/watched"])
@pytest.mark.parametrize("leaves", ["before", "while it is read", "later"])
@pytest.mark.usefixtures("core")
async def test_a_client_of_our_server_that_leaves(relay: Relay, leaves: str, path: str) -> None:
    """The application hears it, whether it reads messages or has itself called back."""
    client = RequestClient(has_sent_all=True)

    async def read() -> Message:
        client.leave()
        return {"type": "http.disconnect"}

    async def ignored(message: Message) -> None: ...

    scope = scope_of(path) | {"state": {CLIENT: client}}
    if leaves == "before":
        client.leave()
    if leaves == "while it is read":
        scope["headers"] = [(b"content-length", b"5")]
    async with asyncio.timeout(5):
        exchange = asyncio.create_task(relay(scope, read, ignored))
        await SIGNALS["begun"].wait()
        if leaves == "later":
            client.leave()
        await SIGNALS["left"].wait()
        await exchange


@pytest.mark.usefixtures("core")
async def test_websockets_cross(relay: Relay) -> None:
    """Messages of both kinds, the handshake and the close cross in both directions."""
    given: asyncio.Queue[Message] = asyncio.Queue()
    told: list[Message] = []
    for message in (
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "é"},
        {"type": "websocket.receive", "bytes": b"\0"},
        {"type": "websocket.receive", "text": "end"},
    ):
        given.put_nowait(message)

    async def tell(message: Message) -> None:
        told.append(message)

    scope = {**scope_of("/ws"), "type": "websocket", "subprotocols": ["a", "b"]}
    await relay(scope, given.get, tell)
    assert [
        {"type": "websocket.accept", "subprotocol": "b", "headers": []},
        {"type": "websocket.send", "text": "é"},
        {"type": "websocket.send", "bytes": b"\0"},
        {"type": "websocket.close", "code": 4001, "reason": "as you wish"},
    ] == told


async def test_without_the_core(client: httpx.AsyncClient) -> None:
    """While the core is away, requests are answered 503 with Retry-After; the edge process is alive."""
    answer = await client.post("/v1/jobs", content=b"{}")
    assert (503, "UNAVAILABLE", "1") == (
        answer.status_code,
        answer.json()["code"],
        answer.headers["Retry-After"],
    )
    probes = {path: (await client.get(path)).status_code for path in ("/health/ready", "/health/live")}
    assert {"/health/ready": 503, "/health/live": 200} == probes


async def test_the_core_comes_back(tmp_path: Path, client: httpx.AsyncClient) -> None:
    """After a restart of the core the same edge process goes on, over new connections."""
    for _ in range(2):
        core = CoreSocket(tmp_path / "core.sock", app)
        await core.start()
        assert 201 == (await client.get("/")).status_code
        await core.stop()
        assert 503 == (await client.get("/")).status_code


@pytest.mark.parametrize(
    "hostile",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 64,
        encode(Kind.SCOPE, ["no", "scope"]),
        encode(Kind.SCOPE, {"type": "lifespan"}),
        encode(Kind.ANSWER_END),
        encode(Kind.SOCKET_TEXT, data=b"too early"),
        b"\x7f\xff\xff\xff" + encode(Kind.SCOPE, {})[4:],
        encode(Kind.SCOPE)[:-4] + b"\x00\x00\x00\x09",
        b"\x00\x00\x00\x05\x01\x00\x00\x00\x05[[[[[",
    ],
)
async def test_hostile_bytes_end_their_own_connection(
    tmp_path: Path, client: httpx.AsyncClient, core: CoreSocket, hostile: bytes
) -> None:
    """Bytes that are no exchange cut the connection that they came on, and no other one."""
    assert 201 == (await client.get("/")).status_code
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "core.sock"))
    writer.write(hostile)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            assert b"" == await reader.read()
    writer.close()
    assert 201 == (await client.get("/")).status_code
    assert 1 == len(core)


async def test_only_our_account_may_connect(
    tmp_path: Path, core: CoreSocket, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket is for its account alone, and the kernel's word about a peer counts."""
    assert 0o600 == (tmp_path / "core.sock").stat().st_mode & 0o777
    with monkeypatch.context() as other:
        other.setattr(os, "geteuid", lambda: 12_345)
        assert 503 == (await client.get("/")).status_code
    assert 0 == len(core)


def test_frames_are_read_from_any_pieces() -> None:
    """Frames come out whole however their bytes arrive; one that is too large is refused by its head."""
    sent = encode(Kind.START, [200, ["a", "b"]]) + encode(Kind.ANSWER_END, data=b"x" * 100)
    reader = FrameReader()
    frames = [frame for byte in sent for frame in reader.feed(bytes([byte]))]
    assert [(Kind.START, b'[200,["a","b"]]', b""), (Kind.ANSWER_END, b"", b"x" * 100)] == frames
    with pytest.raises(BadFrame):
        FrameReader(max_bytes=99).feed(encode(Kind.ANSWER_END, data=b"x" * 100)[:9])


def test_long_arrays_go_in_several_frames() -> None:
    """No array is too long for a frame because much was asked or answered in one turn."""
    texts = [b'"%d%b"' % (n, b"x" * 300_000) for n in range(20)]
    parts = list(arrays(texts))
    assert max(map(len, parts)) < MAX_FRAME_BYTES
    assert [json.loads(text) for text in texts] == [value for part in parts for value in json.loads(part)]
    assert [] == list(arrays([]))


def scope_of(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "extensions": {},
    }
