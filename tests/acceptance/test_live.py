"""Tokens from an executor to its client's eyes, by the programs that users run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.sockets import MIB, measure
from tests.harness.executor import SERVICE, text_of_tokens
from tests.harness.live import event_stream, live_socket, text_of, told
from tests.harness.stage import ALICE, BOB, Stage

TOKENS = 400
SOCKETS = 1000
MOST_MIB = 50


@pytest.mark.parametrize(
    ("mode", "transport"), [("standard", "amqp"), ("standard", "http"), ("embedded", "http")]
)
async def test_tokens_reach_their_client(
    request: pytest.FixtureRequest, tmp_path: Path, mode: str, transport: str
) -> None:
    """What an executor emits is on its client's socket and event stream, in order and once, before the end;
    another client sees nothing of it. Who comes in the middle has it from the beginning."""
    urls: dict[str, str] = {}
    if mode == "standard":
        urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    with Stage(tmp_path, **urls) as stage:
        stage.coordinator(dies=("never", 1))
        await stage.ready()
        stage.miner("rig1", transport=transport)
        url = stage.urls["main"]
        async with stage.client() as client, live_socket(url, ALICE) as ws, live_socket(url, BOB) as bob:
            await ws.subscribe()
            await bob.subscribe()
            job = await client.submit(SERVICE, {"tokens": TOKENS, "pause": 0.005, "until": "go"})
            stage.accepted.add(job.job_id)
            await ws.until_type("tokens")
            async with (
                event_stream(url, ALICE, f"/v1/jobs/{job.job_id}/events") as events,
                live_socket(url, ALICE) as late,
            ):
                await late.subscribe([job.job_id])
                messages = []
                async for _, message in events:
                    messages.append(message)
                    if len(text_of(messages, job.job_id)) >= len(text_of_tokens(TOKENS)):
                        stage.release("go")
                await late.until_type("result.ready")
            await ws.until_type("result.ready")
            await bob.say("ping")
            await bob.until_type("pong")
        for got in (ws.got, messages, late.got):
            text = text_of(got, job.job_id)
            assert text == text_of(ws.got, job.job_id)
            assert len(text) >= len(text_of_tokens(TOKENS))
            assert text_of_tokens(2 * TOKENS).startswith(text)
            assert ["QUEUED", "RUNNING", "COMPLETED"] == [said for _, said in told(got)]
            fractions = [m["fraction"] for m in got if m["type"] == "progress"]
            assert sorted(fractions) == fractions
            assert 1.0 == fractions[-1]
        assert ["welcome", "subscribed", "pong"] == [m["type"] for m in bob.got]


async def test_a_thousand_idle_sockets_are_cheap(tmp_path: Path) -> None:
    """1,000 open sockets, each subscribed to all its jobs, cost the coordinator less than 50 MiB."""
    found = await asyncio.to_thread(measure, SOCKETS, tmp_path)
    assert found.growth_bytes < MOST_MIB * MIB, found
