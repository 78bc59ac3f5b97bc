"""API keys that an admin makes at run time, over HTTP, in an embedded coordinator."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from coordinator.domain.key import KeyCreated
from tests.harness.cases import every
from tests.harness.waiting import eventually
from tests.integration.edge_bench import SERVICE, Bench, an_edge

# Fixed, as they are in names of tests, which must be the same on each worker.
NO_KEY, NOR_THIS = "7d1f0c52-3a0e-4a57-9d53-2f5c7a1b8e01", "7d1f0c52-3a0e-4a57-9d53-2f5c7a1b8e02"
JOB = {"service": SERVICE, "payload": {"text": "hello"}}


async def make(edge: Bench, key: str | None = None, **fields: Any) -> dict[str, Any]:
    """Create a key for carol, the client, or for whom the fields say."""
    headers = {"Idempotency-Key": key} if key else {}
    body = {"name": "carol", "role": "client", **fields}
    answer = await edge.admin.post("/v1/admin/keys", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/v1/admin/keys/{answer.json()['key_id']}"
    told: dict[str, Any] = answer.json()
    return told


async def about(edge: Bench, made: dict[str, Any], what: str, **body: Any) -> httpx.Response:
    return await edge.admin.post(f"/v1/admin/keys/{made['key_id']}/{what}", json=body)


async def status(edge: Bench, key: str, path: str = "/v1/jobs") -> int:
    return (await edge.anyone.get(path, headers={"X-Api-Key": key})).status_code


async def test_a_key_works_from_its_answer_on(edge: Bench) -> None:
    """Its name is who acts: the job is the name's, whatever key of it submitted, and nobody else's."""
    one, other = await make(edge), await make(edge, label="other")
    job = await edge.anyone.post("/v1/jobs", json=JOB, headers={"X-Api-Key": one["key"]})
    assert job.status_code == 201
    await edge.reached(job.json()["position"])
    path = job.headers["location"]
    read = await edge.anyone.get(path, headers={"X-Api-Key": other["key"]})
    assert (read.status_code, read.json()["client"]) == (200, "carol")
    assert (await edge.alice.get(path)).status_code == 404
    assert await status(edge, one["key"], "/v1/admin/keys") == 403


async def test_each_role_gets_what_is_its_own(edge: Bench) -> None:
    """A key for a miner registers, one for an admin makes keys; neither does the other's."""
    miner = await make(edge, name="new-rig", role="miner")
    admin = await make(edge, name="ops", role="admin")
    body = {"capabilities": {"services": [SERVICE]}, "public_key": edge.keys["rig"].key_id}
    for made, registers, lists in ((miner, 200, 403), (admin, 403, 200)):
        headers = {"X-Api-Key": made["key"]}
        registered = await edge.anyone.post("/v1/miners/register", json=body, headers=headers)
        assert registered.status_code == registers
        assert await status(edge, made["key"], "/v1/admin/keys") == lists
    events = [r.event for r in edge.coordinator.adapters.log.read(0, 1000)]
    assert {"ops": "root", "new-rig": "root"} == {e.name: e.by for e in events if isinstance(e, KeyCreated)}


async def test_a_repeat_does_not_show_the_secret(edge: Bench) -> None:
    """With an idempotency key there is one key, and its secret is in the first answer only."""
    first = await make(edge, "order-1")
    repeat = await make(edge, "order-1")
    assert {**first, "key": None} == repeat
    assert await status(edge, first["key"]) == 200
    answer = await edge.admin.post(
        "/v1/admin/keys", json={"name": "dave", "role": "client"}, headers={"Idempotency-Key": "order-1"}
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "IDEMPOTENCY_MISMATCH")
    assert "carol:" not in answer.text


async def test_rotation_with_grace_keeps_the_old_secret_for_a_while(edge: Bench) -> None:
    """Both work, then the old one is ended by a rotation without grace."""
    made = await make(edge)
    rotated = (await about(edge, made, "rotate", grace_seconds=3600, generation=1)).json()
    assert (rotated["generation"], rotated["name"], rotated["role"]) == (2, "carol", "client")
    assert [await status(edge, told["key"]) for told in (made, rotated)] == [200, 200]
    again = await about(edge, made, "rotate", grace_seconds=3600, generation=1)
    assert (again.status_code, again.json()["code"]) == (409, "CONFLICT_STATE")
    last = (await about(edge, made, "rotate")).json()
    assert [await status(edge, told["key"]) for told in (made, rotated, last)] == [401, 401, 200]


async def test_revocation_is_at_once_and_for_good(edge: Bench, tmp_path: Path) -> None:
    """From the answer on, every secret of the key is refused; other keys of the name are not."""
    made, other = await make(edge), await make(edge)
    old = made["key"]
    new = (await about(edge, made, "rotate", grace_seconds=3600)).json()["key"]
    for _ in range(2):
        answer = await about(edge, made, "revoke", reason="lost")
        assert (answer.status_code, answer.json()["state"]) == (200, "REVOKED")
    assert [await status(edge, key) for key in (old, new, other["key"])] == [401, 401, 200]
    assert (await about(edge, made, "rotate")).json()["code"] == "CONFLICT_STATE"


async def test_keys_outlive_a_restart(tmp_path: Path) -> None:
    """What is valid, in its grace, or revoked is so after the next start, before anything else happened."""
    async with an_edge(tmp_path) as edge:
        kept, gone = await make(edge), await make(edge)
        new = (await about(edge, kept, "rotate", grace_seconds=3600)).json()
        await about(edge, gone, "revoke")
    async with an_edge(tmp_path) as edge:
        found = [await status(edge, key) for key in (kept["key"], new["key"], gone["key"])]
        assert found == [200, 200, 401]


async def test_keys_are_there_while_the_read_models_are_not(tmp_path: Path) -> None:
    """A rebuild begins with empty tables: the log after their position says what a start has to know."""
    async with an_edge(tmp_path) as edge:
        kept, gone = await make(edge), await make(edge)
        await about(edge, gone, "revoke")
        await edge.reached(edge.coordinator.feed.head)
        await edge.coordinator.stop()
    from coordinator.storage.tables.sqlite import SqliteDatabase

    database = SqliteDatabase(tmp_path / "coordinator.db")
    with database.transaction() as tables, tables.refill(["api_keys"]):
        tables.move("projector", tables.position("projector"), 0)
    database.close()
    async with an_edge(tmp_path) as edge:
        assert [await status(edge, made["key"]) for made in (kept, gone)] == [200, 401]


async def test_a_key_ends_at_its_time(edge: Bench) -> None:
    """After so many seconds it is refused, and shown as expired."""
    made = await make(edge, expires_in_seconds=1)
    keyring = edge.coordinator.keyring
    await eventually(lambda: not keyring.grants(made["key"]), "the key's end")
    assert await status(edge, made["key"]) == 401
    shown = (await edge.admin.get(f"/v1/admin/keys/{made['key_id']}")).json()
    assert (shown["state"], shown["expires_at"]) == ("EXPIRED", made["expires_at"])


async def test_keys_are_listed_by_name(edge: Bench) -> None:
    """In pages; revoked ones only where they are asked for; never what proves one."""
    names = ("dave", "carol", "erin")
    made = {name: await make(edge, name=name, label=f"of {name}") for name in names}
    await about(edge, made["erin"], "revoke", reason="left")
    await edge.reached(edge.coordinator.feed.head)

    async def listed(**params: Any) -> list[str]:
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            asked = {**params, **({"cursor": cursor} if cursor else {})}
            page = await edge.admin.get("/v1/admin/keys", params={"limit": 1, **asked})
            assert page.status_code == 200, page.text
            assert not any(m["key"].partition(":")[2] in page.text for m in made.values())
            found += page.json()["items"]
            cursor = page.json()["next_cursor"]
            if cursor is None:
                return [item["name"] for item in found]

    assert await listed() == ["carol", "dave"]
    assert await listed(revoked=True) == ["carol", "dave", "erin"]
    assert await listed(name="dave") == ["dave"]
    assert await listed(role="miner") == []
    shown = (await edge.admin.get(f"/v1/admin/keys/{made['erin']['key_id']}")).json()
    assert (shown["state"], shown["reason"], shown["revoked_by"], shown["label"]) == (
        "REVOKED",
        "left",
        "root",
        "of erin",
    )


@every(
    ("method", "path", "body", "expected"),
    [
        ("POST", "", {"name": "a.b", "role": "client"}, 422),
        ("POST", "", {"name": "coordinator", "role": "client"}, 422),
        ("POST", "", {"name": "carol", "role": "system"}, 422),
        ("POST", "", {"name": "carol", "role": "client", "secret": "my own"}, 422),
        ("POST", "", {"name": "carol\u0000", "role": "client"}, 422),
        ("POST", "", {"name": "carol", "role": "client", "label": "x" * 10_000}, 422),
        ("POST", "", [], 422),
        ("POST", f"/{NO_KEY}/rotate", {}, 404),
        ("POST", f"/{NO_KEY}/revoke", {}, 404),
        ("POST", f"/{NO_KEY}/rotate", {"key_id": NOR_THIS}, 422),
        ("POST", f"/{NO_KEY}/rotate", {"grace_seconds": -1}, 422),
        ("POST", f"/{NO_KEY}/rotate", {"grace_seconds": 10**9}, 422),
        ("POST", "/not-a-key/revoke", {}, 422),
        ("GET", f"/{NO_KEY}", None, 404),
        ("GET", "?cursor=AAAA", None, 422),
        ("GET", "?name=%27%3B--", None, 422),
        ("GET", "?role=system", None, 422),
    ],
)
async def test_what_makes_no_sense_is_refused(
    edge: Bench, method: str, path: str, body: Any, expected: int
) -> None:
    """Malformed, unknown, or not ours to say: a problem document, and no event."""
    before = edge.coordinator.feed.head
    answer = await edge.admin.request(method, f"/v1/admin/keys{path}", json=body)
    assert answer.status_code == expected, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert edge.coordinator.feed.head == before


async def test_a_job_is_no_key(edge: Bench) -> None:
    """Streams of other things are not found, and not touched; nor is a key's by what is for jobs."""
    job = await edge.submit(edge.alice)
    for what in ("rotate", "revoke"):
        answer = await edge.admin.post(f"/v1/admin/keys/{job['job_id']}/{what}", json={})
        assert answer.status_code == 404
    assert (await edge.alice.get(f"/v1/jobs/{job['job_id']}")).json()["state"] == "QUEUED"
    made = await make(edge)
    for path in (f"jobs/{made['key_id']}/cancel", f"miners/{made['key_id']}/release"):
        client = edge.rig if path.startswith("miners") else edge.admin
        answer = await client.post(
            f"/v1/{path}",
            json={"attempt": 1, "session_id": "s" * 8, "miner_id": "rig"} if client is edge.rig else {},
        )
        assert answer.json()["code"] == "JOB_NOT_FOUND", answer.text
    assert await status(edge, made["key"]) == 200


async def test_no_secret_is_kept(tmp_path: Path) -> None:
    """Neither the database nor anything else in the data directory holds a secret or its second one."""
    async with an_edge(tmp_path) as edge:
        made = await make(edge, signed=True)
        rotated = (await about(edge, made, "rotate", grace_seconds=60)).json()
        secrets = [
            told[n].partition(":")[2] or told[n] for told in (made, rotated) for n in ("key", "hmac_secret")
        ]
        assert len(set(secrets)) == 4
    kept = await asyncio.to_thread(contents, tmp_path)
    assert any(path.name == "coordinator.db" for path in kept)
    for path, content in kept.items():
        assert not any(secret.encode() in content for secret in secrets), path


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
