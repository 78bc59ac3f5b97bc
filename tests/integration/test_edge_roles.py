"""Viewers and operators over HTTP: who reads and who does what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.waiting import eventually
from tests.integration.edge_bench import Bench, an_edge

JOB = "01890a5d-ac96-774b-bcce-b302099a8057"
READS = [
    "/v1/jobs",
    f"/v1/jobs/{JOB}",
    f"/v1/jobs/{JOB}/history",
    f"/v1/jobs/{JOB}/match",
    f"/v1/jobs/{JOB}/result",
    f"/v1/jobs/{JOB}/receipt",
    f"/v1/jobs/{JOB}/passport",
    "/v1/jobs/search?q=state:failed",
    "/v1/jobs/batches",
    f"/v1/jobs/batches/{JOB}",
    "/v1/admin/stats",
    "/v1/admin/jobs",
    "/v1/admin/miners",
    "/v1/miners",
    "/v1/miners/rig",
    "/v1/miners/rig/match",
    "/v1/registry/services",
    "/v1/quota",
    "/metrics",
]
ADMIN_READS = ["/v1/admin/keys", f"/v1/admin/keys/{JOB}", "/v1/admin/quotas", "/v1/admin/quotas/alice"]
BATCH = {"kind": "cancel", "query": "state:queued"}
ACTS: list[tuple[str, dict[str, Any]]] = [
    (f"/v1/jobs/{JOB}/cancel", {}),
    (f"/v1/jobs/{JOB}/retry", {}),
    ("/v1/jobs/batches/plan", BATCH),
    (f"/v1/jobs/batches/{JOB}/cancel", {}),
    ("/v1/miners/drain", {"miner_id": "rig"}),
    ("/v1/miners/quarantine", {"principal": "rig"}),
    ("/v1/miners/release", {"principal": "rig"}),
]
ADMIN_ACTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/jobs", {"service": "checksum", "payload": {"text": "x"}}),
    (f"/v1/jobs/{JOB}/erase", {"reason": "x"}),
    ("/v1/admin/erase", {"reason": "x", "client": "alice"}),
    ("/v1/admin/keys", {"name": "x", "role": "client"}),
    ("/v1/registry/services", {}),
]


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Bench]:
    keys = {"viewer_api_keys": "eve:secret-of-eve", "operator_api_keys": "ops:secret-of-ops"}
    async with an_edge(tmp_path, **keys) as bench:
        yield bench


async def test_roles_read_and_act_as_they_may(edge: Bench) -> None:
    """Viewers read all but keys and quotas; operators act on jobs and miners, too; admins do the rest."""
    viewer, operator = edge._browse("eve"), edge._browse("ops")
    wrong: list[tuple[str, str, int]] = []

    def check(role: str, path: str, status: int, *, allowed: bool) -> None:
        if (status == 403) == allowed or status in (401, 405) or status >= 500:
            wrong.append((role, path, status))

    for name, http in (("viewer", viewer), ("operator", operator)):
        for path in READS:
            check(name, path, (await http.get(path)).status_code, allowed=True)
        for path in ADMIN_READS:
            check(name, path, (await http.get(path)).status_code, allowed=False)
        for path, body in ACTS:
            answer = await http.post(path, json=body)
            check(name, path, answer.status_code, allowed=name == "operator")
        for path, body in ADMIN_ACTS:
            check(name, path, (await http.post(path, json=body)).status_code, allowed=False)
        put = await http.put(f"/v1/blobs/{'a' * 64}", content=b"x")
        check(name, "put blob", put.status_code, allowed=False)
    assert wrong == []


async def test_an_operator_acts_for_clients(edge: Bench) -> None:
    """It cancels alice's job and submits it again; the new one is hers, and a repeat makes no second one."""
    operator = edge._browse("ops")
    job = (await edge.submit(edge.alice))["job_id"]
    assert (await operator.get(f"/v1/jobs/{job}")).json()["state"] == "QUEUED"
    early = await operator.post(f"/v1/jobs/{job}/retry", json={})
    assert (early.status_code, early.json()["code"]) == (409, "CONFLICT_STATE")
    assert (await operator.post(f"/v1/jobs/{job}/cancel", json={})).status_code == 200
    again = await operator.post(f"/v1/jobs/{job}/retry", json={}, headers={"Idempotency-Key": "k"})
    assert again.status_code == 201, again.text
    new = again.json()["job_id"]
    assert again.headers["Location"] == f"/v1/jobs/{new}"
    repeat = await operator.post(f"/v1/jobs/{job}/retry", json={}, headers={"Idempotency-Key": "k"})
    assert repeat.json()["job_id"] == new
    await edge.reached(again.json()["position"])
    assert new in [item["job_id"] for item in (await edge.alice.get("/v1/jobs")).json()["items"]]
    other = await edge.bob.post(f"/v1/jobs/{job}/retry", json={})
    assert (other.status_code, other.json()["code"]) == (404, "JOB_NOT_FOUND")


async def test_searches_and_batches_over_http(edge: Bench) -> None:
    """A query finds, refuses what it does not know, and a batch cancels what it finds."""
    operator = edge._browse("ops")
    mine = [(await edge.submit(edge.alice))["job_id"] for _ in range(3)]
    found = await edge.alice.get("/v1/jobs/search", params={"q": "state:queued", "limit": "2"})
    assert [item["job_id"] for item in found.json()["items"]] == mine[:0:-1]
    cursor = found.json()["next_cursor"]
    rest = await edge.alice.get("/v1/jobs/search", params={"q": "state:queued", "cursor": cursor})
    assert [item["job_id"] for item in rest.json()["items"]] == mine[:1]
    wrong = await edge.alice.get("/v1/jobs/search", params={"q": "stat:queued"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "INVALID_PAYLOAD")
    assert wrong.json()["detail"].startswith("invalid stat:queued: there is no field stat")

    planned = await operator.post("/v1/jobs/batches/plan", json=BATCH)
    plan = planned.json()
    assert int(planned.headers["X-Position"]) >= 0
    assert (plan["total"], plan["by_state"]) == ({"number": 3, "more": False}, {"QUEUED": 3})
    begun = await operator.post("/v1/jobs/batches", json={**BATCH, "reason": "off"})
    assert begun.status_code == 202
    path = begun.headers["Location"]
    assert (await edge.alice.get(path)).status_code == 404

    async def ended() -> dict[str, Any] | None:
        batch: dict[str, Any] = (await operator.get(path)).json()
        return batch if batch["ended_at"] else None

    batch = await eventually(ended, timeout=30)
    assert batch is not None
    assert (batch["state"], batch["done"], batch["refused"]) == ("DONE", 3, {})
    canceled = await operator.post(f"{path}/cancel", json={})  # a repeat of nothing: it has ended
    assert str(batch["position"]) == canceled.headers["X-Position"]
    fresh = {"X-At-Least": str(batch["position"])}
    for read in (path, "/v1/jobs/batches"):
        shown = await operator.get(read, headers=fresh)
        assert int(shown.headers["X-Position"]) >= batch["position"]
    await edge.reached(batch["position"])
    assert [(await edge.alice.get(f"/v1/jobs/{job}")).json()["state"] for job in mine] == ["CANCELED"] * 3
