"""Blobs over HTTP: uploads that prove themselves, and downloads that a job gives a right to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from coordinator.application.commands.handlers.jobs import bodies, handler
from coordinator.blobs import BlobStoreUnavailable
from coordinator.edge import EdgeLimits
from tests.integration.edge_bench import Bench, an_edge, key_of
from tests.unit.dashboard_fakes import a_browser, log_in
from tests.unit.edge_fakes import Conversation

CONTENT = b"some audio" * 1000
DIGEST = sha256(CONTENT).hexdigest()
MAX_BYTES = 2_000_000


NO_DIGESTS: list[str] = [
    "a" * 63,
    "a" * 65,
    "A" * 64,
    "g" * 64,
    "a" * 64 + "%0a",
    "a" * 63 + "%00",
    "%2e%2e%2f" * 8,
    "blob:" + "a" * 64,
    "ａ" * 64,
]


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Bench]:
    async with an_edge(tmp_path, max_blob_bytes=MAX_BYTES) as bench:
        yield bench


async def upload(client: httpx.AsyncClient, content: bytes = CONTENT) -> str:
    digest = sha256(content).hexdigest()
    answer = await client.put(f"/v1/blobs/{digest}", content=content)
    assert answer.status_code == 201, answer.text
    return digest


async def test_an_upload_is_owned_by_who_uploaded_it(edge: Bench) -> None:
    """HEAD is 404 before, 200 with the size after; to others it stays 404, though the content is there."""
    path = f"/v1/blobs/{DIGEST}"
    assert (await edge.alice.head(path)).status_code == 404
    answer = await edge.alice.put(path, content=CONTENT)
    assert answer.status_code == 201
    assert answer.json() == {"blob": f"blob:{DIGEST}", "sha256": DIGEST, "size": len(CONTENT)}
    head = await edge.alice.head(path)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(CONTENT)))
    for other in (edge.bob, edge.rig, edge.admin):
        assert (await other.head(path)).status_code == 404
    assert (await edge.bob.put(path, content=CONTENT)).status_code == 201
    assert (await edge.bob.head(path)).status_code == 200
    assert (await edge.alice.put(path, content=CONTENT)).status_code == 201  # a repeat


async def test_an_upload_must_have_its_digest(edge: Bench) -> None:
    """Other content than the path says is DIGEST_MISMATCH: nothing is kept, and nothing owned."""
    await upload(edge.bob)
    for content in (b"something else", CONTENT[:-1], b""):
        answer = await edge.alice.put(f"/v1/blobs/{DIGEST}", content=content)
        assert (answer.status_code, answer.json()["code"]) == (422, "DIGEST_MISMATCH")
    assert (await edge.alice.head(f"/v1/blobs/{DIGEST}")).status_code == 404


async def test_an_upload_is_bounded_by_its_length_and_by_its_bytes(edge: Bench) -> None:
    """MAX_BLOB_BYTES holds for a declared length and for a chunked body alike."""
    large = b"x" * (MAX_BYTES + 1)
    digest = sha256(large).hexdigest()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 65536):
            yield large[start : start + 65536]

    for content in (large, chunks()):
        answer = await edge.alice.put(f"/v1/blobs/{digest}", content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "BLOB_TOO_LARGE")
    assert (await edge.alice.head(f"/v1/blobs/{digest}")).status_code == 404
    await upload(edge.alice, b"x" * MAX_BYTES)


async def test_an_upload_that_stops_leaves_nothing(edge: Bench, tmp_path: Path) -> None:
    """A sender that hangs up, or stalls, in the middle of an upload leaves no file and no owner."""
    impatient = edge.again(limits=EdgeLimits(chunk_seconds=0.05))
    for hangs_up in (True, False):
        talk = Conversation(impatient.app, "PUT", f"/v1/blobs/{DIGEST}", key_of("alice"))
        talk.say(CONTENT[:100], more=True)
        if hangs_up:
            talk.hang_up()
        await talk.begin()
        assert talk.sent == [] if hangs_up else talk.status == 408
    files = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert files == []
    assert (await edge.alice.head(f"/v1/blobs/{DIGEST}")).status_code == 404


async def test_a_name_that_is_no_digest_is_refused(edge: Bench) -> None:
    """What is not 64 lower-case hex digits never comes near a path."""
    for digest in NO_DIGESTS:
        for answer in (
            await edge.alice.put(f"/v1/blobs/{digest}", content=CONTENT),
            await edge.alice.head(f"/v1/blobs/{digest}"),
            await edge.alice.get(f"/v1/jobs/{uuid4()}/blobs/{digest}"),
        ):
            assert answer.status_code in (404, 422)


async def test_a_reference_needs_an_upload_of_ones_own(edge: Bench) -> None:
    """A payload may refer to what its client uploaded, and to nobody else's blob."""
    await upload(edge.bob)
    body = {"service": "checksum", "payload": {"inputs": [f"blob:{DIGEST}"]}}
    refused = await edge.alice.post("/v1/jobs", json=body)
    assert (refused.status_code, refused.json()["code"]) == (404, "BLOB_NOT_FOUND")
    await upload(edge.alice)
    assert (await edge.alice.post("/v1/jobs", json=body)).status_code == 201


async def test_a_blob_of_the_payload_is_for_the_client_and_the_miner_that_holds_the_job(edge: Bench) -> None:
    """The lease is the right: the miner may read it while the job is its own, and not before or after."""
    await edge.register("rig")
    await edge.register("other-rig")
    await upload(edge.alice)
    job = (await edge.submit(edge.alice, payload={"inputs": [f"blob:{DIGEST}"]}))["job_id"]
    path = f"/v1/jobs/{job}/blobs/{DIGEST}"

    async def readers() -> set[str]:
        names = ("alice", "bob", "rig", "other_rig", "admin")
        answers = {name: await getattr(edge, name).get(path) for name in names}
        refused = [a for a in answers.values() if a.status_code != 200]
        assert {(a.status_code, a.json()["code"]) for a in refused} == {(404, "BLOB_NOT_FOUND")}
        return {name for name, answer in answers.items() if answer.content == CONTENT}

    assert await readers() == {"alice", "admin"}
    offer = await edge.poll("rig")
    assert await readers() == {"alice", "admin", "rig"}
    assert (await edge.complete(offer, {"ok": True})).status_code == 200
    assert await readers() == {"alice", "admin"}


async def test_a_blob_of_the_result_is_for_the_client(edge: Bench) -> None:
    """What the miner uploaded and its result refers to, the client may read; a stranger may not."""
    await edge.register()
    await upload(edge.rig)
    job = await edge.finish(edge.alice, {"output": f"blob:{DIGEST}"})
    answer = await edge.alice.get(f"/v1/jobs/{job}/blobs/{DIGEST}")
    assert answer.content == CONTENT
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["etag"] == f'"{DIGEST}"'
    for stranger in (edge.bob, edge.rig, edge.other_rig):
        assert (await stranger.get(f"/v1/jobs/{job}/blobs/{DIGEST}")).status_code == 404


async def test_a_blob_that_the_job_does_not_refer_to_is_not_the_jobs(edge: Bench) -> None:
    """Neither an upload of one's own nor a reference inside a longer text opens a blob through a job."""
    await upload(edge.alice)
    job = (await edge.submit(edge.alice, payload={"text": f"see blob:{DIGEST}"}))["job_id"]
    for path in (f"/v1/jobs/{job}/blobs/{DIGEST}", f"/v1/jobs/{uuid4()}/blobs/{DIGEST}"):
        answer = await edge.alice.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "BLOB_NOT_FOUND")


async def test_a_large_payload_is_a_blob_with_references_inside(
    edge: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The miner of a job with a large payload fetches it, and what it refers to, from the job's blobs."""
    await upload(edge.alice)
    contents = [f"file {n}".encode() for n in range(99)]
    refs = [f"blob:{await upload(edge.alice, content)}" for content in contents]
    payload = {"inputs": [f"blob:{DIGEST}", *refs]}
    for module in (bodies, handler):
        monkeypatch.setattr(module, "MAX_INLINE_BYTES", 1000)
    job = (await edge.submit(edge.alice, payload=payload))["job_id"]
    await edge.register()
    offer = await edge.poll()
    assert offer["payload"] is None
    holder = offer["payload_blob"].removeprefix("blob:")
    fetched = await edge.rig.get(f"/v1/jobs/{job}/blobs/{holder}")
    assert json.loads(fetched.content) == payload
    assert (await edge.rig.get(f"/v1/jobs/{job}/blobs/{DIGEST}")).content == CONTENT
    assert (await edge.bob.get(f"/v1/jobs/{job}/blobs/{holder}")).status_code == 404


async def test_a_result_may_name_what_a_large_payload_names(
    edge: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inputs inside, the blob that holds them too, and no other; while the store is away, UNAVAILABLE."""
    ref = f"blob:{await upload(edge.alice)}"
    hers = f"blob:{await upload(edge.alice, b'of another job')}"
    for module in (bodies, handler):
        monkeypatch.setattr(module, "MAX_INLINE_BYTES", 30)
    await edge.submit(edge.alice, payload={"inputs": [ref]})
    await edge.register()
    offer = await edge.poll()
    refused = await edge.complete(offer, {"input": ref, "other": hers})
    assert (refused.status_code, refused.json()["code"]) == (404, "BLOB_NOT_FOUND")
    assert ref not in refused.json()["detail"]

    async def away(_: str) -> AsyncIterator[bytes]:
        raise BlobStoreUnavailable("as if the store were away")
        yield b""

    with monkeypatch.context() as patched:
        patched.setattr(edge.coordinator.blobs, "get", away)
        unavailable = await edge.complete(offer, {"input": ref})
        assert (unavailable.status_code, unavailable.json()["code"]) == (503, "UNAVAILABLE")
    assert (await edge.complete(offer, {"input": ref, "from": offer["payload_blob"]})).status_code == 200


async def test_a_preview_comes_in_parts(edge: Bench) -> None:
    """A film seeks: 206 for a range, 416 after the end; nothing is kept, and an erasure ends it."""
    await edge.register()
    await upload(edge.rig)
    job = await edge.finish(edge.alice, {"output": f"blob:{DIGEST}"})
    path, size = f"/jobs/{job}/files/{DIGEST}?as=video", len(CONTENT)
    async with a_browser(edge.app) as browser:
        await log_in(browser, key_of("alice"))
        whole = await browser.get(path)
        assert (200, CONTENT, "bytes") == (whole.status_code, whole.content, whole.headers["accept-ranges"])
        for asked, first, last in (("0-", 0, size - 1), ("5-9", 5, 9), ("-7", size - 7, size - 1)):
            part = await browser.get(path, headers={"Range": f"bytes={asked}"})
            assert (206, CONTENT[first : last + 1]) == (part.status_code, part.content)
            assert f"bytes {first}-{last}/{size}" == part.headers["content-range"]
            assert ("video/mp4", "inline") == (
                part.headers["content-type"],
                part.headers["content-disposition"],
            )
            assert "private, no-store" == part.headers["cache-control"]
            assert "sandbox" in part.headers["content-security-policy"]
        after = await browser.get(path, headers={"Range": f"bytes={size}-"})
        assert (416, f"bytes */{size}", b"") == (
            after.status_code,
            after.headers["content-range"],
            after.content,
        )
        other = await browser.get(path, headers={"Range": "bytes=0-1", "If-Range": '"another"'})
        assert (200, CONTENT) == (other.status_code, other.content)
        erased = await edge.alice.post(f"/v1/jobs/{job}/erase", json={"reason": "no longer needed"})
        assert erased.status_code == 200
        gone = await browser.get(path, headers={"Range": "bytes=0-1"})
        assert gone.status_code in (404, 410)
    async with a_browser(edge.app) as browser:
        await log_in(browser, key_of("bob"))
        assert 404 == (await browser.get(path, headers={"Range": "bytes=0-1"})).status_code


async def test_an_erased_payload_opens_no_blob(edge: Bench) -> None:
    """After an erasure the references are gone, and with them the right."""
    await upload(edge.alice)
    job = (await edge.submit(edge.alice, payload={"inputs": [f"blob:{DIGEST}"]}))["job_id"]
    assert (await edge.alice.get(f"/v1/jobs/{job}/blobs/{DIGEST}")).status_code == 200
    await asyncio.to_thread(edge.coordinator.adapters.log.erase, [UUID(job)])
    assert (await edge.alice.get(f"/v1/jobs/{job}/blobs/{DIGEST}")).status_code == 404


async def test_a_blob_that_the_store_lost_is_not_found(edge: Bench) -> None:
    """An owner whose blob is gone from the store is told to upload it again."""
    await upload(edge.alice)
    await edge.coordinator.blobs.delete(DIGEST)
    assert (await edge.alice.head(f"/v1/blobs/{DIGEST}")).status_code == 404
