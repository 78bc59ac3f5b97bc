"""Webhooks over HTTP: their limit, and whose secrets they show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from coordinator.domain.webhook import MAX_WEBHOOKS, callbacks_stream
from tests.integration.edge_bench import Bench, an_edge

URL = "https://hooks.example.org/x"


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Bench]:
    shared = {
        "viewer_api_keys": "alice:a-viewers-secret",
        "operator_api_keys": "alice:an-operators-secret",
    }
    async with an_edge(tmp_path, **shared) as bench:
        yield bench


async def test_many_creations_at_once_keep_the_limit(edge: Bench) -> None:
    """Webhooks that the read models do not have yet count, too; refused and removed ones do not."""

    async def create(key: str, **more: str) -> httpx.Response:
        body = {"url": URL, **more}
        return await edge.alice.post("/v1/webhooks", json=body, headers={"Idempotency-Key": key})

    first = await create("key-0")
    assert 409 == (await create("key-0", label="another")).status_code  # which gives back no place
    answers = await asyncio.gather(*(create(f"key-{n}") for n in range(3 * MAX_WEBHOOKS)))
    made = [answer for answer in answers if answer.status_code == 201]
    assert MAX_WEBHOOKS == len(made)
    assert {"QUOTA_EXCEEDED"} == {a.json()["code"] for a in answers if a.status_code != 201}
    assert first.json()["webhook_id"] in {answer.json()["webhook_id"] for answer in made}
    await edge.reached(max(answer.json()["position"] for answer in made))
    assert MAX_WEBHOOKS == len((await edge.alice.get("/v1/webhooks?limit=100")).json()["items"])
    removed = await edge.alice.delete(f"/v1/webhooks/{made[-1].json()['webhook_id']}")
    await edge.reached(removed.json()["position"])
    assert [201, 429] == [(await create(f"late-{n}")).status_code for n in range(2)]


async def test_a_clients_callbacks_are_its_own(edge: Bench) -> None:
    """Keys of other roles with a client's name see neither the secret nor the messages of its callbacks."""
    paths = [
        f"/v1/webhooks/{name}/{what}"
        for name in ("callbacks", callbacks_stream("alice"))
        for what in ("secret", "deliveries")
    ]
    for secret in ("a-viewers-secret", "an-operators-secret"):
        headers = {"X-Api-Key": f"alice:{secret}"}
        assert [404] * 4 == [(await edge.anyone.get(path, headers=headers)).status_code for path in paths]
    assert [200] * 4 == [(await edge.alice.get(path)).status_code for path in paths]
