"""One suite for every blob store: content comes back, bad content never gets in, nothing is left."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from coordinator.blobs import (
    BlobInfo,
    BlobNotFound,
    BlobStore,
    BlobStoreUnavailable,
    BlobTooLarge,
    DigestMismatch,
    open_blob_store,
)
from coordinator.blobs.local import ABANDONED_AFTER_SECONDS

LIMIT = 32 * 2**20
HOSTILE_NAMES = [
    "",
    "../../etc/passwd",
    "/etc/passwd",
    "a" * 63,
    "a" * 65,
    "A" * 64,
    "a" * 63 + "/",
    "a" * 63 + "\n",
    "../" + "a" * 61,
    "٠" * 64,
    "a" * 63 + "\x00",
]


@dataclass
class Subject:
    """A store, and how to look behind it."""

    setting: str
    store: BlobStore
    everything: Callable[[], list[str]]
    """All that the store keeps, finished or not."""
    damage: Callable[[str], None]
    """Change a stored blob behind the store's back."""


def local_subject(folder: Path) -> Subject:
    def everything() -> list[str]:
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def damage(sha256: str) -> None:
        path = folder / sha256[:2] / sha256[2:]
        path.write_bytes(b"X" + path.read_bytes()[1:])

    return Subject(str(folder), open_blob_store(str(folder)), everything, damage)


def s3_subject(endpoint: str) -> Subject:
    client: Any = boto3.client("s3", endpoint_url=endpoint)
    bucket = f"bucket-{os.urandom(6).hex()}"
    client.create_bucket(Bucket=bucket)

    def everything() -> list[str]:
        objects = client.list_objects_v2(Bucket=bucket).get("Contents", [])
        uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return sorted(item["Key"] for item in [*objects, *uploads])

    def damage(sha256: str) -> None:
        body = client.get_object(Bucket=bucket, Key=f"blobs/{sha256}")["Body"].read()
        client.put_object(Bucket=bucket, Key=f"blobs/{sha256}", Body=b"X" + body[1:])

    setting = f"s3://{bucket}/blobs?endpoint_url={endpoint}"
    return Subject(setting, open_blob_store(setting), everything, damage)


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    names = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(params=["local", "s3"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    if request.param == "local":
        return local_subject(tmp_path / "blobs")
    return s3_subject(request.getfixturevalue("s3_endpoint"))


async def chunks(*contents: bytes) -> AsyncIterator[bytes]:
    for content in contents:
        yield content


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def put(subject: Subject, content: bytes, expected: str | None = None) -> BlobInfo:
    return await subject.store.put(chunks(content), expected_sha256=expected, max_bytes=LIMIT)


async def read(subject: Subject, name: str) -> bytes:
    return b"".join([chunk async for chunk in subject.store.get(name)])


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 9 * 2**20])
async def test_content_comes_back(subject: Subject, size: int) -> None:
    """Of any size, from nothing to more than one part, what was put is what is read."""
    content = os.urandom(size)
    info = await put(subject, content, expected=sha256(content))

    assert BlobInfo(sha256(content), size) == info
    assert info == await subject.store.stat(info.sha256)
    assert content == await read(subject, info.sha256)


async def test_a_part_comes_back(subject: Subject) -> None:
    """Any range of bytes, over pieces of any size; none of a blob that does not exist."""
    content = os.urandom(300_000)
    name = (await put(subject, content)).sha256
    for first, last in ((0, 0), (0, 299_999), (65_535, 65_536), (299_999, 299_999), (100_000, 250_000)):
        part = b"".join([chunk async for chunk in subject.store.get_part(name, first, last)])
        assert content[first : last + 1] == part
    for strange in (sha256(b"never stored"), "../" + name, ""):
        with pytest.raises(BlobNotFound):
            await anext(aiter(subject.store.get_part(strange, 0, 1)))


async def test_a_probe_leaves_nothing(subject: Subject) -> None:
    """A store that works says so, and is as before."""
    before = subject.everything()
    await subject.store.probe()
    assert before == subject.everything()


async def test_small_chunks_add_up(subject: Subject) -> None:
    """How a stream is cut, empty chunks included, does not matter."""
    content = os.urandom(1000)
    stream = chunks(b"", *(content[i : i + 7] for i in range(0, 1000, 7)), b"")
    info = await subject.store.put(stream, expected_sha256=None, max_bytes=1000)

    assert BlobInfo(sha256(content), 1000) == info


async def test_another_process_finds_it(subject: Subject) -> None:
    """A store opened later from the same setting has the blob."""
    info = await put(subject, b"content")
    again = open_blob_store(subject.setting)

    assert info == await again.stat(info.sha256)


@pytest.mark.parametrize("expected", [sha256(b"other"), "", "A" * 64, "../../etc/passwd"])
async def test_a_wrong_digest_is_refused_and_leaves_nothing(subject: Subject, expected: str) -> None:
    """Content that is not what it was announced as never becomes a blob, under either name."""
    with pytest.raises(DigestMismatch) as caught:
        await put(subject, b"content", expected=expected)

    assert caught.value.code == "DIGEST_MISMATCH"
    assert subject.everything() == []


async def test_an_oversized_stream_is_cut_off_and_leaves_nothing(subject: Subject) -> None:
    """The limit holds while the stream runs, not only at its end: an endless one is stopped."""
    asked = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield bytes(100_000)

    with pytest.raises(BlobTooLarge) as caught:
        await subject.store.put(endless(), expected_sha256=None, max_bytes=1_000_000)

    assert caught.value.code == "BLOB_TOO_LARGE"
    assert asked == 11
    assert subject.everything() == []


async def test_the_limit_itself_is_allowed(subject: Subject) -> None:
    """Exactly as large as allowed is fine."""
    info = await subject.store.put(chunks(bytes(10)), expected_sha256=None, max_bytes=10)

    assert info.size == 10


async def test_a_stream_that_fails_leaves_nothing(subject: Subject) -> None:
    """A sender that disappears half way leaves no blob, and its error reaches the caller."""

    async def failing() -> AsyncIterator[bytes]:
        yield bytes(300_000)
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        await subject.store.put(failing(), expected_sha256=None, max_bytes=LIMIT)

    assert subject.everything() == []


async def test_a_cancelled_upload_leaves_nothing(subject: Subject) -> None:
    """Cancelled between two chunks, with data written already, an upload removes what it wrote."""
    waiting = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield bytes(300_000)
        waiting.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(subject.store.put(stalling(), expected_sha256=None, max_bytes=LIMIT))
    await waiting.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload

    assert subject.everything() == []


async def test_simultaneous_uploads_of_one_blob_all_succeed(subject: Subject) -> None:
    """The same content from many senders at once is one whole blob."""
    content = os.urandom(600_000)
    infos = await asyncio.gather(*(put(subject, content) for _ in range(8)))

    assert [BlobInfo(sha256(content), 600_000)] * 8 == infos
    assert content == await read(subject, sha256(content))
    assert len(subject.everything()) == 1


async def test_reading_while_the_same_blob_is_put_again(subject: Subject) -> None:
    """A reader half way through is not disturbed by a repeated upload."""
    content = os.urandom(700_000)
    await put(subject, content)
    reader = subject.store.get(sha256(content))
    first = await anext(reader)
    await put(subject, content)

    assert content == first + b"".join([chunk async for chunk in reader])


async def test_a_deleted_blob_is_gone(subject: Subject) -> None:
    """Deleting twice is fine; afterwards there is nothing to read."""
    info = await put(subject, b"content")
    await subject.store.delete(info.sha256)
    await subject.store.delete(info.sha256)

    assert await subject.store.stat(info.sha256) is None
    with pytest.raises(BlobNotFound) as caught:
        await read(subject, info.sha256)
    assert caught.value.code == "BLOB_NOT_FOUND"
    assert subject.everything() == []


@pytest.mark.parametrize("name", HOSTILE_NAMES)
async def test_hostile_names_name_nothing(subject: Subject, name: str) -> None:
    """Paths, other cases, other digits and wrong lengths are not there, and deleting them does nothing."""
    info = await put(subject, b"content")
    before = subject.everything()

    assert await subject.store.stat(name) is None
    await subject.store.delete(name)
    with pytest.raises(BlobNotFound):
        await read(subject, name)
    assert before == subject.everything()
    assert await read(subject, info.sha256) == b"content"


async def test_damage_is_noticed_at_the_end_of_reading_and_healed_by_a_new_upload(subject: Subject) -> None:
    """Bits that changed in the store are reported, and putting the right content again repairs the blob."""
    content = os.urandom(300_000)
    await put(subject, content)
    subject.damage(sha256(content))

    with pytest.raises(DigestMismatch):
        await read(subject, sha256(content))
    await put(subject, content)
    assert content == await read(subject, sha256(content))


async def test_a_reader_that_stops_early_is_fine(subject: Subject) -> None:
    """Closing the iterator after the first chunk raises nothing."""
    info = await put(subject, os.urandom(700_000))
    reader = subject.store.get(info.sha256)
    await anext(reader)
    await reader.aclose()  # type: ignore[attr-defined]


# --- of one adapter only ----------------------------------------------------------------------------


async def test_a_truncated_file_is_noticed(tmp_path: Path) -> None:
    """A local blob that lost its end, or everything, is damaged, not shorter."""
    subject = local_subject(tmp_path)
    info = await put(subject, os.urandom(300_000))
    for size in (1000, 0):
        os.truncate(tmp_path / info.sha256[:2] / info.sha256[2:], size)
        with pytest.raises(DigestMismatch):
            await read(subject, info.sha256)


def test_uploads_of_dead_processes_are_swept_at_the_next_start(tmp_path: Path) -> None:
    """Old temporary files go, recent ones may belong to a live process and stay."""
    open_blob_store(str(tmp_path))
    old, recent = tmp_path / "tmp" / "old", tmp_path / "tmp" / "recent"
    for path in (old, recent):
        path.touch()
    before = time.time() - ABANDONED_AFTER_SECONDS - 60
    os.utime(old, (before, before))
    open_blob_store(str(tmp_path))

    assert [recent] == list((tmp_path / "tmp").iterdir())


async def test_an_unreachable_s3_says_so(s3_endpoint: str) -> None:
    """A missing bucket is the operator's trouble, not a missing blob."""
    store = open_blob_store(f"s3://no-such-bucket-here?endpoint_url={s3_endpoint}")

    with pytest.raises(BlobStoreUnavailable):
        await store.put(chunks(b"content"), expected_sha256=None, max_bytes=LIMIT)
    with pytest.raises(BlobStoreUnavailable):
        await anext(store.get("a" * 64))
    with pytest.raises(BlobStoreUnavailable):
        await store.probe()


@pytest.mark.parametrize(
    "setting",
    [
        "",
        "ftp://host/path",
        "s3://",
        "s3:///prefix",
        "s3://key:secret@bucket",
        "s3://bucket?endpoint=http://localhost",
        "s3://bucket?endpoint_url=localhost",
        "s3://bucket?nonsense",
    ],
)
def test_settings_that_name_no_store_are_refused(setting: str) -> None:
    """A misspelt setting stops the start instead of storing blobs somewhere unexpected."""
    with pytest.raises(ValueError):
        open_blob_store(setting)


async def test_a_blob_is_removed_only_if_it_was_stored_before_a_moment(subject: Subject) -> None:
    """What was stored again since then stays; what is not there is gone, and no name leads elsewhere."""
    info = await subject.store.put(chunks(b"old"), expected_sha256=None, max_bytes=LIMIT)
    assert await subject.store.delete_older(info.sha256, time.time() - 3600) is False
    assert await subject.store.stat(info.sha256) == info
    assert await subject.store.delete_older(info.sha256, time.time() + 3600) is True
    assert await subject.store.stat(info.sha256) is None
    assert await subject.store.delete_older(info.sha256, time.time() + 3600) is True
    for name in HOSTILE_NAMES:
        assert await subject.store.delete_older(name, time.time() + 3600) is True
