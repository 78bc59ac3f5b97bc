"""The coordinator is killed while a client watches; both come back, and nothing is missing or told twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.harness.executor import SERVICE, text_of_tokens
from tests.harness.live import LiveSocket, Message, live_socket, told
from tests.harness.stage import ALICE, Stage
from tests.harness.waiting import eventually

JOBS = 30
TOKENS = 300


class Watcher:
    """A client as the protocol page asks for: it remembers the last position, and comes back with it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.messages: list[Message] = []
        self.position = 0
        self.connections = 0

    async def run(self, until: Callable[[], bool]) -> None:
        while not until():
            try:
                async with live_socket(self.url, ALICE, open_timeout=5) as ws:
                    self.connections += 1
                    await ws.say("subscribe", jobs="all", **{"from": self.position})
                    await self._listen(ws, until)
            except (ConnectionClosed, InvalidHandshake, OSError, TimeoutError):
                await asyncio.sleep(0.05)

    async def _listen(self, ws: LiveSocket, until: Callable[[], bool]) -> None:
        while not until():
            message = await ws.next()
            self.messages.append(message)
            if "position" in message and message["type"] not in ("welcome", "pong"):
                self.position = max(self.position, message["position"])


async def the_log(stage: Stage) -> list[tuple[int, str]]:
    """All positions of job events, in order."""
    return [(e.position, e.topic) for e in stage.log.entries() if e.topic.startswith("job.")]


@pytest.mark.parametrize("mode", ["standard", "embedded"])
async def test_resumed_after_a_kill(request: pytest.FixtureRequest, tmp_path: Path, mode: str) -> None:
    """Killed in the middle of a batch and of a text: each event is told once, in order, and the text of the
    job that ran all the while is whole."""
    urls: dict[str, Any] = {"heartbeat_timeout_seconds": 30}
    if mode == "standard":
        urls |= {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    with Stage(tmp_path, **urls) as stage:
        first = stage.coordinator(dies=("never", 1))
        await stage.ready()
        stage.miner("rig1", concurrency=3)
        watcher = Watcher(stage.urls["main"])
        async with stage.client(tries=60) as client:
            long = await client.submit(SERVICE, {"tokens": TOKENS, "pause": 0.02, "until": "go"})
            stage.accepted.add(long.job_id)

            async def others(numbers: range) -> None:
                for number in numbers:
                    job = await client.submit(SERVICE, {"seconds": 0.02}, idempotency_key=f"job-{number}")
                    stage.accepted.add(job.job_id)

            done = asyncio.Event()
            watching = asyncio.create_task(watcher.run(done.is_set))
            await others(range(JOBS // 2))
            await eventually(lambda: any(m["type"] == "tokens" for m in watcher.messages), "tokens")
            first.kill()
            before = len(_joined(watcher.messages, long.job_id))
            submitting = asyncio.create_task(others(range(JOBS // 2, JOBS)))
            stage.coordinator(dies=("never", 1))
            await submitting
            await eventually(
                lambda: watcher.connections > 1 and len(_joined(watcher.messages, long.job_id)) > before + 50,
                "the text goes on without a gap",
            )
            stage.release("go")
            await stage.ended(stage.accepted)
            last = max(position for position, _ in await the_log(stage))
            await eventually(lambda: watcher.position >= last, "the last event")
            done.set()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        assert watcher.connections >= 2
        assert [position for position, _ in await the_log(stage)] == [p for p, _ in told(watcher.messages)]
        whole = _joined(watcher.messages, long.job_id)
        assert text_of_tokens(2 * TOKENS).startswith(whole)


def _joined(messages: list[Message], job_id: str) -> str:
    """The text as a client that came back puts it together: what it has had already, it cuts off."""
    text = ""
    for message in messages:
        if message["type"] == "tokens" and message["job_id"] == job_id:
            assert message["offset"] <= len(text), "a gap"
            text += message["text"][len(text) - message["offset"] :]
    return text
