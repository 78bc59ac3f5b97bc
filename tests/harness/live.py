"""Live connections for tests: a WebSocket that speaks JSON, and a reader of server-sent events."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

PATIENCE_SECONDS = 60.0
Message = dict[str, Any]


class LiveSocket:
    """What was received is in `got`."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.got: list[Message] = []

    async def say(self, kind: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, **fields}))

    async def next(self) -> Message:
        """The next message."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            message: Message = json.loads(await self.connection.recv())
        self.got.append(message)
        return message

    async def until(self, condition: Callable[[Message], bool]) -> list[Message]:
        """Receive up to the first message that fulfils it; all messages since the last call."""
        got: list[Message] = []
        while not got or not condition(got[-1]):
            got.append(await self.next())
        return got

    async def until_type(self, kind: str) -> list[Message]:
        return await self.until(lambda message: message["type"] == kind)

    async def subscribe(self, jobs: Any = "all", **fields: Any) -> list[Message]:
        """Subscribe; everything up to the answer."""
        await self.say("subscribe", jobs=jobs, **fields)
        return await self.until(lambda message: message["type"] in ("subscribed", "refused"))


@asynccontextmanager
async def live_socket(
    url: str, key: str | None = None, path: str = "/ws/client", **options: Any
) -> AsyncIterator[LiveSocket]:
    """A socket of the coordinator at `url` (http://…)."""
    headers = {"X-Api-Key": key} if key else {}
    address = url.replace("http", "ws", 1) + path
    async with connect(address, additional_headers=headers, compression=None, **options) as connection:
        yield LiveSocket(connection)


def key_protocol(key: str) -> str:
    """The subprotocol that carries a key."""
    return "key." + base64.urlsafe_b64encode(key.encode()).rstrip(b"=").decode()


@asynccontextmanager
async def event_stream(
    url: str, key: str, path: str, **headers: str
) -> AsyncIterator[AsyncIterator[tuple[str | None, Message]]]:
    """(id, message) of each server-sent event."""
    async with (
        httpx.AsyncClient(
            base_url=url, headers={"X-Api-Key": key, **headers}, timeout=PATIENCE_SECONDS
        ) as http,
        http.stream("GET", path) as response,
    ):
        assert response.status_code == 200, await response.aread()
        yield read_events(response.aiter_lines())


async def read_events(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str | None, Message]]:
    """As the HTML standard reads them."""
    fields: dict[str, str] = {}
    async for line in lines:
        if not line:
            if "data" in fields:
                message = json.loads(fields["data"])
                assert message["type"] == fields["event"]
                yield fields.get("id"), message
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


def told(messages: list[Message]) -> list[tuple[int, str]]:
    """(position, state or outcome) of the messages that are in the log."""
    return [
        (m["position"], m.get("state") or m["outcome"])
        for m in messages
        if m["type"] in ("state.changed", "result.ready", "attempt.ended")
    ]


def text_of(messages: list[Message], job_id: str) -> str:
    """A job's text, put together; fails on a gap or an overlap."""
    text = ""
    for message in messages:
        if message["type"] == "tokens" and message["job_id"] == job_id:
            assert message["offset"] == len(text), f"a gap or an overlap at {len(text)}: {message}"
            text += message["text"]
    return text
