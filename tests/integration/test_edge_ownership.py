"""One client can't see that another's job exists: not in a status, not in a word, not in a header."""

from __future__ import annotations

from hashlib import sha256
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.integration.edge_bench import Bench

FILE = b"a file of alice's"
DIGEST = sha256(FILE).hexdigest()
VARYING = {"x-request-id"}
BODIES: dict[str, Any] = {"cancel": {"reason": "not mine"}, "erase": {"reason": "not mine"}}
"""What is sent to an endpoint whose path ends so; an empty object to others."""


@pytest.fixture
async def jobs(edge: Bench) -> dict[str, str]:
    """A job of alice's in each state that can be told apart, by state."""
    await edge.register()
    done = await edge.finish(edge.alice, {"digest": "abc"})
    running = await edge.submit(edge.alice)
    assert (await edge.poll())["job_id"] == running["job_id"]
    assert (await edge.alice.put(f"/v1/blobs/{DIGEST}", content=FILE)).status_code == 201
    nowhere = {"constraints": {"region": "nowhere"}}
    queued = await edge.submit(edge.alice, payload={"text": f"blob:{DIGEST}"}, **nowhere)
    canceled = await edge.submit(edge.alice, **nowhere)
    assert (await edge.alice.post(f"/v1/jobs/{canceled['job_id']}/cancel")).status_code == 200
    await edge.reached(edge.coordinator.feed.head)
    found: dict[str, Any] = {"done": done, "running": running, "queued": queued, "canceled": canceled}
    return {state: job if isinstance(job, str) else job["job_id"] for state, job in found.items()}


def endpoints(edge: Bench) -> list[tuple[str, str, dict[str, str]]]:
    """Every operation that takes a job's id, in its path or its query: (method, path, query)."""
    found = []
    for path, operations in edge.app.openapi()["paths"].items():
        for method, operation in operations.items():
            parameters = {p["name"]: p["in"] for p in operation.get("parameters", ())}
            if "job_id" in parameters:
                query = {"job_id": "{job_id}"} if parameters["job_id"] == "query" else {}
                found.append((method.upper(), path.replace("{sha256}", DIGEST), query))
    return found


async def ask(
    client: httpx.AsyncClient, method: str, path: str, query: dict[str, str], job_id: str
) -> tuple[int, Any, dict[str, str]]:
    """Status, body and headers, but for what is different in every answer."""
    answer = await client.request(
        method,
        path.replace("{job_id}", job_id),
        params={name: value.replace("{job_id}", job_id) for name, value in query.items()},
        json=BODIES.get(path.rpartition("/")[2], {}) if method == "POST" else None,
    )
    body = answer.json() if answer.content else None
    if isinstance(body, dict):
        body.pop("request_id", None)
    assert job_id not in answer.text
    headers = {name: value for name, value in answer.headers.items() if name not in VARYING}
    return answer.status_code, body, headers


async def test_anothers_job_looks_like_none(edge: Bench, jobs: dict[str, str]) -> None:
    """Every endpoint that takes a job's id answers another client as it answers for an id that never was."""
    walked = endpoints(edge)
    assert {"/v1/jobs/{job_id}", "/v1/jobs/{job_id}/cancel", "/v1/jobs/{job_id}/result"} <= {
        p for _, p, _ in walked
    }
    for method, path, query in walked:
        missing = await ask(edge.bob, method, path, query, str(uuid4()))
        if path.endswith("/dispute"):  # no accounts are kept here, for nobody
            assert missing[0] == 409, missing
        else:
            assert missing[0] in (403, 404), (method, path, missing)
        # What is for miners and admins is for no client, whatever the job; all else does not exist.
        others = path.startswith(("/v1/miners/", "/v1/admin/"))
        assert (missing[0] == 403) == others, (method, path, missing)
        for state, job_id in jobs.items():
            assert missing == await ask(edge.bob, method, path, query, job_id), (method, path, state)
    # And nothing of it was done.
    for state, job_id in jobs.items():
        shown = (await edge.alice.get(f"/v1/jobs/{job_id}")).json()["state"]
        assert shown == {"done": "COMPLETED"}.get(state, state.upper())


async def test_waiting_for_anothers_job_ends_as_soon(edge: Bench, jobs: dict[str, str]) -> None:
    """A wait is no way to find out either: it is not waited for at all."""
    for job_id in (str(uuid4()), jobs["running"], jobs["queued"]):
        answer = await edge.bob.get(f"/v1/jobs/{job_id}/result?wait=30", timeout=10)
        assert (answer.status_code, answer.json()["detail"]) == (404, "no such job")


async def test_lists_and_keys_show_only_ones_own(edge: Bench, jobs: dict[str, str]) -> None:
    """Nor does the same idempotency key lead to another's job, nor does a digest to another's file."""
    assert (await edge.bob.get("/v1/jobs")).json()["items"] == []
    key = {"Idempotency-Key": "the same"}
    body = {"service": "checksum", "payload": {"text": "hello"}}
    mine = (await edge.alice.post("/v1/jobs", json=body, headers=key)).json()
    theirs = (await edge.bob.post("/v1/jobs", json=body, headers=key)).json()
    assert mine["job_id"] != theirs["job_id"]
    known = await edge.bob.head(f"/v1/blobs/{DIGEST}")
    unknown = await edge.bob.head(f"/v1/blobs/{'0' * 64}")
    assert (known.status_code, unknown.status_code) == (404, 404)


async def test_an_admin_sees_all(edge: Bench, jobs: dict[str, str]) -> None:
    """The walk would prove nothing if these jobs could not be read by anybody."""
    for job_id in jobs.values():
        assert (await edge.admin.get(f"/v1/jobs/{job_id}")).json()["client"] == "alice"
