"""Downloads and uploads of job files over HTTP; the miner's side of `BlobAccess`."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

import httpx

from coordinator.crypto.canonical import sha256_file
from coordinator.crypto.refs import BlobRefError, blob_ref, parse_blob_ref
from coordinator.miner.executors.errors import INPUT_TOO_LARGE, INVALID_PAYLOAD, ExecutorError
from coordinator.miner.fetch import DOWNLOAD_FAILED, FetchFailed, WebFiles
from coordinator.services.base import OutputFile
from coordinator.wire.backoff import Backoff, RetryClock
from coordinator.wire.http.proxies import new_client
from coordinator.wire.http.signing import DIGEST_HEADER, content_digest, signing

CHUNK_BYTES = 1 << 20
TRIES = 6
"""After these the attempt fails, retryably: a slot must not wait for a store that is gone."""
TIMEOUT = httpx.Timeout(60.0, connect=15.0)
WEB_TRIES = 3
UPLOAD_FAILED = "UPLOAD_FAILED"


class HttpBlobs:
    """The coordinator's blob store, and files from the web. `key` is `name:secret`."""

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        web: WebFiles | None = None,
        backoff: Backoff | None = None,
        clock: RetryClock | None = None,
    ) -> None:
        self._client = new_client(
            base_url, base_url=base_url, headers={"X-Api-Key": key}, timeout=TIMEOUT, auth=signing()
        )
        self._web = web or WebFiles()
        self._backoff = backoff or Backoff()
        self._clock = clock or RetryClock()

    async def close(self) -> None:
        await self._client.aclose()

    def of_job(self, job_id: str) -> JobBlobs:
        """The access for one attempt: uploads belong to the miner, downloads are limited to this job."""
        return JobBlobs(self, job_id)

    async def download(self, job_id: str, ref: str, to: Path, max_bytes: int) -> None:
        """Fetch a blob of this job, or a URL, into a file.

        Raises ExecutorError; leaves no partial file.
        """
        if ref.startswith("blob:"):
            try:
                digest = parse_blob_ref(ref)
            except BlobRefError as error:
                raise ExecutorError(INVALID_PAYLOAD, str(error)) from None
            server, tries = "the blob store", TRIES
            once = functools.partial(self._download_once, job_id, digest, to, max_bytes)
        else:
            server, tries = "the input's server", WEB_TRIES
            once = functools.partial(self._web.fetch, ref, to, max_bytes)
        try:
            await self._until_done(DOWNLOAD_FAILED, once, server, tries)
        except BaseException:
            _remove(to)
            raise

    async def upload(self, path: Path) -> tuple[str, int]:
        """Store a file, unless it is stored already; returns its SHA-256 and size. Raises ExecutorError."""
        digest, size = await asyncio.to_thread(_measure, path)
        await self._until_done(UPLOAD_FAILED, lambda: self._upload_once(digest, path, size))
        return digest, size

    async def _until_done(
        self,
        code: str,
        once: Callable[[], Awaitable[None]],
        server: str = "the blob store",
        most_tries: int = TRIES,
    ) -> None:
        for tries in range(most_tries):
            try:
                await once()
            except (FetchFailed, httpx.TransportError) as error:
                if tries == most_tries - 1:
                    reason = str(error) if isinstance(error, FetchFailed) else type(error).__name__
                    raise ExecutorError(
                        code, f"{server} can't be reached ({reason})", retryable=True
                    ) from None
                await self._clock.sleep(self._backoff.delay(tries))
            else:
                return

    async def _download_once(self, job_id: str, digest: str, to: Path, max_bytes: int) -> None:
        hasher, size = hashlib.sha256(), 0
        async with self._client.stream("GET", f"/v1/jobs/{job_id}/blobs/{digest}") as response:
            _check(response, DOWNLOAD_FAILED)
            with await asyncio.to_thread(to.open, "wb") as file:
                async for chunk in response.aiter_bytes(CHUNK_BYTES):
                    size += len(chunk)
                    if size > max_bytes:
                        raise ExecutorError(INPUT_TOO_LARGE, f"a file is larger than {max_bytes} bytes")
                    # Hashing and writing a megabyte take a millisecond: too long for the event loop.
                    await asyncio.to_thread(_keep, hasher.update, file, chunk)
        if hasher.hexdigest() != digest:
            raise FetchFailed("the received bytes have another digest")

    async def _upload_once(self, digest: str, path: Path, size: int) -> None:
        stored = await self._client.head(f"/v1/blobs/{digest}")
        if stored.is_success:
            return
        response = await self._client.put(
            f"/v1/blobs/{digest}",
            content=_chunks(path),
            headers={
                "Content-Length": str(size),
                "Content-Type": "application/octet-stream",
                DIGEST_HEADER: content_digest(digest),
            },
        )
        _check(response, UPLOAD_FAILED)


class JobBlobs:
    """One attempt's access to its files (a `BlobAccess`)."""

    def __init__(self, blobs: HttpBlobs, job_id: str) -> None:
        self._blobs = blobs
        self._job_id = job_id

    async def download(self, ref: str, to: Path, *, max_bytes: int) -> None:
        await self._blobs.download(self._job_id, ref, to, max_bytes)

    async def upload(self, path: Path, *, media_type: str) -> OutputFile:
        digest, size = await self._blobs.upload(path)
        return OutputFile(name=path.name, blob=blob_ref(digest), size=size, media_type=media_type)


def _keep(update: Callable[[bytes], None], file: BinaryIO, chunk: bytes) -> None:
    update(chunk)
    file.write(chunk)


def _measure(path: Path) -> tuple[str, int]:
    return sha256_file(path), path.stat().st_size


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk


def _check(response: httpx.Response, code: str) -> None:
    """Raise FetchFailed for a passing failure, ExecutorError for a lasting one."""
    if response.is_success:
        return
    if response.is_server_error or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise FetchFailed(f"HTTP status {response.status_code}")
    raise ExecutorError(code, f"the blob store answered {response.status_code}", retryable=True)
