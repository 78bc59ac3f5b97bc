"""Checkpoints, tiles, entries and proofs over HTTP: what an auditor recomputes from public answers alone."""

from __future__ import annotations

import hashlib
from typing import Any

from httpx import AsyncClient

from coordinator.crypto.log.checkpoint import log_key, read_checkpoint, verify_checkpoint
from coordinator.crypto.log.leaf import read_leaf
from coordinator.crypto.log.note import VerifierKey
from coordinator.crypto.merkle import leaf_hash, root_of, verify_consistency, verify_inclusion
from coordinator.runtime.signing import signing_key
from tests.harness.waiting import eventually
from tests.integration.edge_bench import Bench


async def published(edge: Bench, position: int) -> dict[str, Any]:
    """The log's view once its checkpoint covers this position."""

    async def covered() -> Any:
        view: dict[str, Any] = (await edge.anyone.get("/v1/log")).json()
        return view if (view.get("position") or 0) >= position else None

    found: dict[str, Any] = await eventually(covered, f"a checkpoint of position {position}")
    return found


async def test_an_auditor_recomputes_the_log_from_its_answers(any_edge: Bench) -> None:
    """Entries hash to the tile, the tile to the checkpoint's root, and proofs of a job's event verify."""
    edge = any_edge
    await edge.register()
    earlier = (await published(edge, 1))["size"]
    job = await edge.submit(edge.alice)
    view = await published(edge, job["position"])
    size, width = view["size"], f".p/{view['size']}"
    key = VerifierKey.parse(view["verifier_key"])
    assert key == log_key(signing_key(edge.coordinator.settings), view["origin"])

    signed = read_checkpoint((await edge.anyone.get("/checkpoint")).content)
    root = verify_checkpoint(signed, [key]).checkpoint.root
    assert (view["root"], view["checkpoint"]) == (root.hex(), signed.text)
    tile = (await edge.anyone.get(f"/tile/0/000{width}")).content
    hashes = [tile[i : i + 32] for i in range(0, len(tile), 32)]
    assert root_of(hashes) == root
    bundle, leaves = (await edge.admin.get(f"/tile/entries/000{width}")).content, []
    while bundle:
        length = int.from_bytes(bundle[:2], "big")
        leaves.append(bundle[2 : 2 + length])
        bundle = bundle[2 + length :]
    assert hashes == [leaf_hash(leaf) for leaf in leaves]
    found = next(leaf for leaf in map(read_leaf, leaves) if leaf.position == job["position"])
    assert (job["job_id"], "job.submitted.v1") == (found.stream, found.topic)

    proof = (await edge.anyone.get(f"/v1/proofs/inclusion?position={job['position']}")).json()
    path = [bytes.fromhex(text) for text in proof["path"]]
    assert hashlib.sha256(b"\x00" + leaves[proof["index"]]).hexdigest() == proof["leaf_hash"]
    assert verify_inclusion(hashes[proof["index"]], proof["index"], size, path, root)
    grown = (await edge.anyone.get(f"/v1/proofs/consistency?from={earlier}&to={size}")).json()
    path = [bytes.fromhex(text) for text in grown["path"]]
    assert verify_consistency(earlier, size, path, root_of(hashes[:earlier]), root)


async def test_what_may_be_cached_says_so(edge: Bench) -> None:
    """A full tile may be kept for ever, a checkpoint for a second, and entries by their reader alone."""
    for _ in range(6):
        await edge.alice.post("/v1/jobs", json={"service": "checksum", "payload": {"text": "x"}})
    jobs = [{"service": "checksum", "payload": {"text": f"{n}"}} for n in range(256)]
    for job in jobs:
        answer = await edge.alice.post("/v1/jobs", json=job)
    view = await published(edge, answer.json()["position"])
    assert view["size"] >= 256

    async def control(client: AsyncClient, path: str) -> str:
        answer = await client.get(path)
        assert 200 == answer.status_code, answer.text
        return str(answer.headers["cache-control"])

    assert "public, max-age=31536000, immutable" == await control(edge.anyone, "/tile/0/000")
    assert "public, max-age=60" == await control(edge.anyone, "/tile/1/000.p/1")
    assert "private, max-age=31536000, immutable" == await control(edge.admin, "/tile/entries/000")
    assert "public, max-age=1" == await control(edge.anyone, "/checkpoint")
    assert "text/plain; charset=utf-8" == (await edge.anyone.get("/checkpoint")).headers["content-type"]
    assert 8192 == len((await edge.anyone.get("/tile/0/000")).content)
    head = await edge.anyone.head("/tile/0/000")
    assert (200, "8192") == (head.status_code, head.headers["content-length"])


async def test_bad_questions_are_refused_with_a_code(edge: Bench) -> None:
    """Entries need an admin; malformed paths and numbers are 422, and what no checkpoint covers is 404."""
    job = await edge.submit(edge.alice)
    await published(edge, job["position"])
    big = 2**63
    expected = {
        "/tile/0/0": (422, "INVALID_PAYLOAD"),
        "/tile/00/000": (422, "INVALID_PAYLOAD"),
        "/tile/64/000": (422, "INVALID_PAYLOAD"),
        "/tile/0/000.p/256": (422, "INVALID_PAYLOAD"),
        "/tile/0/..%2F000": (422, "INVALID_PAYLOAD"),
        "/tile/0/000": (404, "NOT_IN_CHECKPOINT"),
        "/tile/0/999": (404, "NOT_IN_CHECKPOINT"),
        "/tile/63/000.p/1": (404, "NOT_IN_CHECKPOINT"),
        "/tile/0/x999/x999/x999/x999/x999/999": (404, "NOT_IN_CHECKPOINT"),
        "/tile/entries/000.p/1": (401, "UNAUTHORIZED_KEY"),
        "/v1/proofs/inclusion": (422, "INVALID_PAYLOAD"),
        "/v1/proofs/inclusion?position=-1": (422, "INVALID_PAYLOAD"),
        f"/v1/proofs/inclusion?position={big}": (422, "INVALID_PAYLOAD"),
        "/v1/proofs/inclusion?position=1&more=1": (422, "INVALID_PAYLOAD"),
        "/v1/proofs/inclusion?position=0": (404, "EVENT_NOT_FOUND"),
        f"/v1/proofs/inclusion?position={big - 1}": (404, "NOT_IN_CHECKPOINT"),
        f"/v1/proofs/inclusion?position=1&size={big - 1}": (404, "NOT_IN_CHECKPOINT"),
        "/v1/proofs/inclusion?position=3&size=0": (404, "NOT_IN_CHECKPOINT"),
        "/v1/proofs/consistency": (422, "INVALID_PAYLOAD"),
        "/v1/proofs/consistency?from=2&to=1": (404, "NOT_IN_CHECKPOINT"),
        f"/v1/proofs/consistency?from={big - 1}": (404, "NOT_IN_CHECKPOINT"),
    }
    found = {}
    for path in expected:
        answer = await edge.anyone.get(path)
        found[path] = (answer.status_code, answer.json()["code"])

    assert expected == found
    for client in (edge.alice, edge.rig):
        assert 403 == (await client.get("/tile/entries/000.p/1")).status_code
