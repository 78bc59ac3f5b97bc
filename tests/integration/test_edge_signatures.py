"""Signed requests over HTTP: what is covered, for how long, and how often."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.client import AsyncCoordinator
from coordinator.dev.servers import RedisServer
from coordinator.edge.middleware import rate_limits as rates_module
from coordinator.edge.middleware import used_signatures
from coordinator.edge.middleware.rate_limits import RateLimits, redis_storage
from coordinator.wire.http.signing import SignedRequests, content_digest, signing
from tests.harness.cases import every
from tests.integration.edge_bench import SERVICE, Bench, an_edge, key_of
from tests.integration.test_keys import about, make

STATIC = "a secret for all static keys"
JOB = {"service": SERVICE, "payload": {"text": "hello"}}


@pytest.fixture
async def made(edge: Bench) -> dict[str, Any]:
    """carol's key, whose requests must be signed."""
    return await make(edge, signed=True)


def browse(edge: Bench, made: dict[str, Any], secret: str | None = None) -> httpx.AsyncClient:
    """A client that signs."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(edge.app),
        base_url="http://edge",
        headers={"X-Api-Key": made["key"]},
        auth=SignedRequests(secret or made["hmac_secret"]),
    )


def signature(
    made: dict[str, Any], method: str, path: str, query: str = "", body: bytes = b"", at: float | None = None
) -> dict[str, str]:
    """The headers, made by hand from what the protocol page says."""
    timestamp = str(time.time() if at is None else at)[:18]
    message = "\n".join((method, path, query, timestamp, hashlib.sha256(body).hexdigest()))
    digest = hmac.new(made["hmac_secret"].encode(), message.encode(), hashlib.sha256).hexdigest()
    return {"X-Api-Key": made["key"], "X-Timestamp": timestamp, "X-Signature": digest}


def refused(answer: httpx.Response, word: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED_KEY"), answer.text
    assert word in answer.json()["detail"]


async def test_a_signed_request_is_let_in(edge: Bench, made: dict[str, Any]) -> None:
    """With a body or without, with a query or without; the same request again is signed anew."""
    async with browse(edge, made) as carol:
        job = await carol.post("/v1/jobs", json=JOB)
        assert job.status_code == 201
        await edge.reached(job.json()["position"])
        for params in ({}, {"limit": "1", "service": SERVICE}, {}, {}):
            listed = await carol.get("/v1/jobs", params=params)
            assert [item["client"] for item in listed.json()["items"]] == ["carol"]


async def test_a_request_signed_by_hand_is_let_in(edge: Bench, made: dict[str, Any]) -> None:
    """HMAC-SHA256 over five lines, as the protocol page has it, for those who have no SDK."""
    headers = signature(made, "GET", "/v1/jobs", "limit=5&service=a%5Fb")
    answer = await edge.anyone.get("/v1/jobs?limit=5&service=a%5Fb", headers=headers)
    assert answer.status_code == 200
    body = b'{"service": "checksum", "payload": {"text": "x"}}'
    headers = {
        k: v.upper() if k == "X-Signature" else v
        for k, v in signature(made, "POST", "/v1/jobs", body=body).items()
    }
    assert (await edge.anyone.post("/v1/jobs", content=body, headers=headers)).status_code == 201


async def test_the_key_alone_opens_nothing(edge: Bench, made: dict[str, Any]) -> None:
    """Whoever sees the header, in some proxy's log, can do nothing with it; nor with one of two headers."""
    full = signature(made, "GET", "/v1/jobs")
    for left_out in (("X-Signature", "X-Timestamp"), ("X-Signature",), ("X-Timestamp",)):
        headers = {name: value for name, value in full.items() if name not in left_out}
        refused(await edge.anyone.get("/v1/jobs", headers=headers), "must be signed")
    assert (await edge.anyone.get("/health", headers={"X-Api-Key": made["key"]})).status_code == 200


@every(
    ("method", "path", "query", "body"),
    [
        ("PUT", "/v1/jobs", "", b"{}"),
        ("POST", "/v1/jobs/", "", b"{}"),
        ("POST", "/v1/jobs", "a=1", b"{}"),
        ("POST", "/v1/jobs", "", b"{} "),
        ("POST", "/v1/jobs", "", b""),
        ("post", "/v1/jobs", "", b"{}"),
    ],
)
async def test_every_part_is_covered(
    edge: Bench, made: dict[str, Any], method: str, path: str, query: str, body: bytes
) -> None:
    """A signature for another request is none for this one."""
    headers = signature(made, method, path, query, body)
    refused(await edge.anyone.post("/v1/jobs", content=b"{}", headers=headers), "invalid signature")


async def test_the_timestamp_is_covered(edge: Bench, made: dict[str, Any]) -> None:
    """An old request can't be made a new one."""
    headers = signature(made, "GET", "/v1/jobs", at=time.time() - 100)
    headers["X-Timestamp"] = str(time.time())[:14]
    refused(await edge.anyone.get("/v1/jobs", headers=headers), "invalid signature")


async def test_a_signature_is_good_once(edge: Bench, made: dict[str, Any]) -> None:
    """Whoever records a request can't send it again, in either letter case, nor before its time is over."""
    headers = signature(made, "GET", "/v1/jobs")
    assert (await edge.anyone.get("/v1/jobs", headers=headers)).status_code == 200
    for again in (headers, {**headers, "X-Signature": headers["X-Signature"].upper()}):
        refused(await edge.anyone.get("/v1/jobs", headers=again), "used already")


async def test_a_refused_signature_uses_nothing_up(edge: Bench, made: dict[str, Any]) -> None:
    """Only what was proved is remembered: strangers can't fill the memory."""
    for n in range(20):
        headers = {**signature(made, "GET", "/v1/jobs"), "X-Signature": f"{n:064x}"}
        refused(await edge.anyone.get("/v1/jobs", headers=headers), "invalid signature")
    assert not edge.app.state.context.used_signatures._used


@pytest.mark.parametrize("seconds", [-301, -3600, 302, 10**9])
async def test_a_window_of_time(edge: Bench, made: dict[str, Any], seconds: float) -> None:
    """Too old, and too far in the future: HMAC_WINDOW_SECONDS either way."""
    headers = signature(made, "GET", "/v1/jobs", at=time.time() + seconds)
    refused(await edge.anyone.get("/v1/jobs", headers=headers), "our clock")
    near = signature(made, "GET", "/v1/jobs", at=time.time() + (280 if seconds > 0 else -280))
    assert (await edge.anyone.get("/v1/jobs", headers=near)).status_code == 200


@every(
    ("name", "value"),
    [
        ("X-Signature", b""),
        ("X-Signature", b"zz" * 32),
        ("X-Signature", b"0" * 63),
        ("X-Signature", b"0" * 100_000),
        ("X-Signature", b"\xff" * 64),
        ("X-Timestamp", b""),
        ("X-Timestamp", b"-1"),
        ("X-Timestamp", b"nan"),
        ("X-Timestamp", b"inf"),
        ("X-Timestamp", b"1e9"),
        ("X-Timestamp", "٣".encode()),
        ("X-Timestamp", b"9" * 400),
        ("X-Timestamp", b"1.1.1"),
        ("Content-Digest", b"sha-256=:" + b"A" * 44 + b":"),
        ("Content-Digest", b"sha-256=:" + b"=" * 44 + b":"),
        ("Content-Digest", b"sha-256=:%s:, sha-256=:%s:" % (b"A" * 43 + b"=", b"B" * 43 + b"=")),
    ],
)
async def test_hostile_headers_are_refused(
    edge: Bench, made: dict[str, Any], name: str, value: bytes
) -> None:
    """Odd, endless and half-right headers answer 401 and no 500."""
    headers = {k.encode(): v.encode() for k, v in signature(made, "GET", "/v1/jobs").items()}
    answer = await edge.anyone.get("/v1/jobs", headers={**headers, name.encode(): value})
    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED_KEY"), answer.text


async def test_two_signatures_are_none(edge: Bench, made: dict[str, Any]) -> None:
    """Two headers could be read differently by a proxy before us."""
    headers = [*signature(made, "GET", "/v1/jobs").items(), ("X-Signature", "0" * 64)]
    refused(await edge.anyone.get("/v1/jobs", headers=headers), "more than once")


# --- bodies ------------------------------------------------------------------------------------------------
async def test_a_file_is_signed_by_its_digest(edge: Bench, made: dict[str, Any]) -> None:
    """Content-Digest is what is signed, and the body is checked against it while it streams in."""
    content = os.urandom(3 * 2**20)
    sha256 = hashlib.sha256(content).hexdigest()
    async with browse(edge, made) as carol:
        path, headers = f"/v1/blobs/{sha256}", {"Content-Digest": content_digest(sha256)}
        # Without the digest it would have to be held in memory: only a MiB is.
        too_large = await carol.put(path, content=content)
        assert (too_large.status_code, too_large.json()["code"]) == (413, "TOO_LARGE")
        other = os.urandom(len(content))
        refused(await carol.put(path, content=other, headers=headers), "Content-Digest")
        assert (await carol.head(path)).status_code == 404
        assert (await carol.put(path, content=content, headers=headers)).status_code == 201
        assert (await carol.head(path)).status_code == 200


async def test_the_sdk_signs(edge: Bench, made: dict[str, Any], tmp_path: Path) -> None:
    """Commands, reads and uploads, with the second secret as an argument."""
    file = tmp_path / "file"
    file.write_bytes(os.urandom(3 * 2**20))
    client = AsyncCoordinator(
        "http://edge", made["key"], hmac_secret=made["hmac_secret"], transport=httpx.ASGITransport(edge.app)
    )
    async with client:
        blob = await client.upload(file)
        job = await client.submit(SERVICE, {"text": "hello"})
        assert (await job.view()).state == "QUEUED"
        assert blob.size == 3 * 2**20


def test_the_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """COORDINATOR_HMAC_SECRET, for the command line and for miners; without it nothing is signed."""
    monkeypatch.delenv("COORDINATOR_HMAC_SECRET", raising=False)
    assert None is signing()
    monkeypatch.setenv("COORDINATOR_HMAC_SECRET", "s" * 20)
    assert isinstance(signing(), SignedRequests)


# --- which keys --------------------------------------------------------------------------------------------
async def test_keys_without_a_second_secret_need_no_signature(edge: Bench) -> None:
    """A signature with one is not looked at."""
    made = await make(edge)
    headers = {"X-Api-Key": made["key"], "X-Signature": "nonsense", "X-Timestamp": "nonsense"}
    assert (await edge.anyone.get("/v1/jobs", headers=headers)).status_code == 200
    assert made["hmac_secret"] is None


async def test_each_secret_signs_for_itself(edge: Bench, made: dict[str, Any]) -> None:
    """In the grace of a rotation both pairs of secrets are good, and neither with the other's half."""
    rotated = (await about(edge, made, "rotate", grace_seconds=60)).json()
    for key, secret, status in (
        (made, made, 200),
        (rotated, rotated, 200),
        (made, rotated, 401),
        (rotated, made, 401),
    ):
        async with browse(edge, key, secret["hmac_secret"]) as carol:
            assert (await carol.get("/v1/jobs")).status_code == status


async def test_hmac_secret_is_for_the_keys_of_the_settings(tmp_path: Path) -> None:
    """With HMAC_SECRET every one of them signs with it; keys that were made at run time have their own."""
    async with an_edge(tmp_path, hmac_secret=STATIC) as edge:
        static = {"key": key_of("root"), "hmac_secret": STATIC}
        refused(await edge.admin.get("/v1/admin/keys"), "must be signed")
        async with browse(edge, static) as root:
            made = await root.post("/v1/admin/keys", json={"name": "carol", "role": "client"})
            assert made.status_code == 201
        headers = {"X-Api-Key": made.json()["key"]}
        assert (await edge.anyone.get("/v1/jobs", headers=headers)).status_code == 200


# --- memory, and several processes -------------------------------------------------------------------------
async def test_more_than_can_be_remembered_is_refused(
    edge: Bench, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forgetting would let a replay through: 429 it is."""
    monkeypatch.setattr(used_signatures, "MAX_REMEMBERED", 3)
    async with browse(edge, made) as carol:
        statuses = [(await carol.get("/v1/jobs")).status_code for _ in range(5)]
    # Five requests fall into one window of timestamps, or at most one of them into the next.
    assert statuses.count(200) in (3, 4)
    assert 429 in statuses


def test_what_is_too_old_is_forgotten() -> None:
    """Timestamps that would be refused anyway need no memory; those that would not are remembered."""
    now = [1000.0]
    used = used_signatures.UsedSignatures(clock=lambda: now[0])
    for n in range(100):
        now[0] = 1000.0 + n * 60
        assert used.use("alice", now[0], 60, f"{n:064x}")
        assert not used.use("alice", now[0], 60, f"{n:064x}")
        if n:
            assert not used.use("alice", now[0] - 60, 60, f"{n - 1:064x}")
    assert len(used._used) <= 4


async def test_a_replay_at_another_process_is_refused_with_redis(
    edge: Bench, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one process has seen the others know, where they share a Redis."""
    monkeypatch.setattr(rates_module, "REDIS_SECONDS", 30.0)  # it answers, however busy the machine is
    made = await make(edge, signed=True)
    shared = [RateLimits({}, 60, lambda: redis_storage(redis.url)) for _ in range(2)]
    one, other = (
        edge.again(rates=rates, used_signatures=used_signatures.UsedSignatures()) for rates in shared
    )
    headers = signature(made, "GET", "/v1/jobs")
    assert (await one.anyone.get("/v1/jobs", headers=headers)).status_code == 200
    refused(await other.anyone.get("/v1/jobs", headers=headers), "used already")
    for rates in shared:
        await rates.close()
