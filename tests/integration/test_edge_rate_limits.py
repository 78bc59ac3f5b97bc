"""How often one may call: what every answer says about it, and what happens beyond."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.edge import create_app
from coordinator.edge.middleware.rate_limits import DELAY_SECONDS, RATE_HEADERS
from tests.integration.edge_bench import Bench, an_edge, key_of
from tests.unit.edge_fakes import FakeGateway, a_context, browsing

LIMITS = {"rate_limit_requests": 3, "rate_limit_miner_requests": 0, "rate_limit_failures": 2}


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Bench]:
    async with an_edge(tmp_path, **LIMITS) as bench:
        yield bench


def left(answer: httpx.Response) -> int:
    return int(answer.headers["RateLimit-Remaining"])


async def test_every_answer_says_what_is_left(edge: Bench) -> None:
    """Successes, refusals, and paths that are not there: all count, and all say so."""
    paths = ("/v1/jobs", "/v1/admin/keys", "/v1/nowhere")
    answers = [await edge.alice.get(path) for path in paths]
    assert [a.status_code for a in answers] == [200, 403, 404]
    assert [left(a) for a in answers] == [2, 1, 0]
    assert {a.headers["RateLimit-Policy"] for a in answers} == {"3;w=60"}


async def test_beyond_the_limit_is_429(edge: Bench) -> None:
    """A problem with Retry-After, before the body is read; others go on."""
    for _ in range(3):
        assert (await edge.alice.get("/v1/jobs")).status_code == 200
    answer = await edge.alice.post("/v1/jobs", content=b"{")
    assert (answer.status_code, answer.json()["code"]) == (429, "RATE_LIMITED")
    assert answer.json()["type"] == "/errors/RATE_LIMITED"
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert left(answer) == 0
    assert (await edge.bob.get("/v1/jobs")).status_code == 200


async def test_keys_of_one_name_share_its_budget(edge: Bench) -> None:
    """Another key is no second budget."""
    made = await edge.admin.post("/v1/admin/keys", json={"name": "alice", "role": "client"})
    other = {"X-Api-Key": made.json()["key"]}
    for _ in range(3):
        assert (await edge.alice.get("/v1/jobs")).status_code == 200
    assert (await edge.anyone.get("/v1/jobs", headers=other)).status_code == 429


async def test_roles_have_limits_of_their_own(edge: Bench) -> None:
    """0 is any number, and then nothing is said about it; so it is without settings (APP_ENV=dev)."""
    for client in (edge.rig, edge.admin):
        for _ in range(5):
            answer = await client.get("/v1/registry/services")
            assert answer.status_code == 200
            assert not set(map(str.lower, RATE_HEADERS)) & set(answer.headers)


async def test_what_needs_no_key_is_not_limited(edge: Bench) -> None:
    """Probes and readers of the page: without a key nothing is counted."""
    for _ in range(5):
        for path in ("/health", "/openapi.json"):
            assert (await edge.anyone.get(path)).status_code == 200


async def test_a_strangers_failures_are_limited(edge: Bench) -> None:
    """Beyond the limit they are answered late, with 429; a valid key from there is accepted all the same."""
    wrong = {"X-Api-Key": "alice:not-the-secret"}
    answers = [await edge.anyone.get("/v1/jobs", headers=wrong) for _ in range(3)]
    assert [a.status_code for a in answers] == [401, 401, 429]
    assert [left(a) for a in answers] == [1, 0, 0]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert answers[-1].headers["Connection"] == "close"
    assert answers[-1].elapsed.total_seconds() >= DELAY_SECONDS
    assert (await edge.alice.get("/v1/jobs")).status_code == 200
    again = await edge.anyone.get("/v1/jobs", headers=wrong)
    assert (again.status_code, again.json()["code"]) == (429, "RATE_LIMITED")
    assert (await edge.bob.get("/v1/jobs")).status_code == 200
    assert (await edge.anyone.get("/health", headers=wrong)).status_code == 200


async def test_requests_without_a_key_are_limited_where_one_is_asked_for(edge: Bench) -> None:
    """They fail too; what is open stays open."""
    assert [(await edge.anyone.get("/v1/jobs")).status_code for _ in range(3)] == [401, 401, 429]
    assert (await edge.anyone.get("/health")).status_code == 200
    assert (await edge.bob.get("/v1/jobs")).status_code == 200


async def test_another_address_is_another_stranger(edge: Bench) -> None:
    """Whoever fails elsewhere costs a client nothing."""
    elsewhere = httpx.ASGITransport(edge.app, client=("198.51.100.7", 1))
    async with httpx.AsyncClient(transport=elsewhere, base_url="http://edge") as stranger:
        wrong = {"X-Api-Key": "alice:not-the-secret"}
        assert [(await stranger.get("/v1/jobs", headers=wrong)).status_code for _ in range(3)][-1] == 429
    assert (await edge.alice.get("/v1/jobs")).status_code == 200


# --- browsers ----------------------------------------------------------------------------------------------
ORIGIN = "https://app.example"


class BrokenGateway(FakeGateway):
    async def state(self, stream: Any) -> Any:
        raise ZeroDivisionError


async def test_browsers_may_read_every_answer(edge: Bench) -> None:
    """With ALLOW_ORIGINS also refusals, 429s and failures have the headers that let a page see them."""
    context = a_context(settings={"allow_origins": ORIGIN, **LIMITS}, gateway=BrokenGateway())
    rates = edge.app.state.context.rates
    async with browsing(create_app(a_context(settings={"allow_origins": ORIGIN}, rates=rates))) as http:
        key = {"X-Api-Key": key_of("alice"), "Origin": ORIGIN}
        answers = [await http.get("/v1/nowhere", headers=key) for _ in range(4)]
        answers.append(await http.get("/v1/jobs", headers={"Origin": ORIGIN}))
    async with browsing(create_app(context)) as http:
        poll = {"X-Api-Key": key_of("rig"), "Origin": ORIGIN}
        answers.append(await http.post("/v1/miners/poll", headers=poll, json={}))
    assert [a.status_code for a in answers] == [404, 404, 404, 429, 401, 500]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert {"ratelimit-remaining", "retry-after", "x-request-id", "x-position"} <= set(exposed)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-request-id"]


async def test_preflights_cost_nothing_and_need_no_key(edge: Bench) -> None:
    """A browser asks before each request; it says which headers it will send, and may."""
    rates = edge.app.state.context.rates
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key,idempotency-key,x-signature,x-timestamp,content-type",
    }
    async with browsing(create_app(a_context(settings={"allow_origins": ORIGIN}, rates=rates))) as http:
        for _ in range(6):
            answer = await http.options("/v1/jobs", headers=asked)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            allowed = set(answer.headers["access-control-allow-headers"].lower().replace(" ", "").split(","))
            assert set(asked["Access-Control-Request-Headers"].split(",")) <= allowed
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await http.get("/v1/nowhere", headers={"X-Api-Key": key_of("alice")})).status_code == 404
        evil = await http.options("/v1/jobs", headers={**asked, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in evil.headers


# --- bearer tokens -----------------------------------------------------------------------------------------
async def test_a_key_may_come_as_a_bearer_token(edge: Bench) -> None:
    """For clients that know no other way; two different keys in one request are none."""
    bearer = {"Authorization": f"Bearer {key_of('bob')}"}
    assert (await edge.anyone.get("/v1/jobs", headers=bearer)).status_code == 200
    lower = {"authorization": f"bearer  {key_of('bob')}", "X-Api-Key": key_of("bob")}
    assert (await edge.anyone.get("/v1/jobs", headers=lower)).status_code == 200
    mixed = {**bearer, "X-Api-Key": key_of("alice")}
    assert (await edge.anyone.get("/v1/jobs", headers=mixed)).status_code == 401
    basic = {"Authorization": "Basic Ym9iOnNlY3JldC1vZi1ib2I="}
    assert (await edge.anyone.get("/v1/jobs", headers=basic)).status_code == 401
