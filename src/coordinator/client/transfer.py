"""Uploads and downloads of files by digest, without holding a whole file in memory."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, Final

from coordinator.client.errors import CoordinatorError, DamagedBlob, NotFound
from coordinator.client.http import HttpPool
from coordinator.client.models import Blob
from coordinator.crypto.refs import blob_ref, parse_blob_ref
from coordinator.wire.http.signing import DIGEST_HEADER, content_digest

CHUNK_BYTES: Final = 256 * 1024

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in total)."""


async def upload(http: HttpPool, path: Path, progress: Progress | None) -> Blob:
    """Store a file under its SHA-256, unless the coordinator has it."""
    sha256, size = await asyncio.to_thread(_digest, path)
    address = f"/v1/blobs/{sha256}"
    try:
        await http.ask("HEAD", address)
    except NotFound:

        def body() -> AsyncIterator[bytes]:
            return _content(path, size, progress)

        # With its length, so that the server can refuse too large a file before it reads it.
        headers = {b"Content-Length": b"%d" % size, b"Content-Type": b"application/octet-stream"}
        # A signed request signs this digest; without it the whole file would be read into memory first.
        headers[DIGEST_HEADER.encode()] = content_digest(sha256).encode()
        await http.ask("PUT", address, body=body, headers=headers)
    if progress:
        progress(size, size)
    return Blob(sha256, size)


async def download(http: HttpPool, blobs: str, ref: str, target: Path, progress: Progress | None) -> int:
    """Fetch a blob under the path `blobs` into `target`, which appears whole and checked or not at all.

    Raises CoordinatorError if `ref` is neither `blob:<sha256>` nor a SHA-256.
    """
    try:
        sha256 = parse_blob_ref(ref if ref.startswith("blob:") else blob_ref(ref))
    except ValueError:
        raise CoordinatorError("INVALID_ARGUMENT", "name the file by blob:<sha256>") from None
    # For this download alone: a second one to the same target must not write into the file of the first.
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    digest = hashlib.sha256()
    done = 0
    try:
        with partial.open("wb") as file:
            async with http.stream(f"{blobs}/{sha256}") as response:
                total = int(response.headers.get("Content-Length", 0))
                async for chunk in response.aiter_bytes(CHUNK_BYTES):
                    await asyncio.to_thread(_take, file, digest.update, chunk)
                    done += len(chunk)
                    if progress:
                        progress(done, max(total, done))
        if digest.hexdigest() != sha256:
            raise DamagedBlob(f"the content received for {sha256} has another digest; fetch it again")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return done


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return digest.hexdigest(), file.tell()


async def _content(path: Path, size: int, progress: Progress | None) -> AsyncIterator[bytes]:
    done = 0
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
            done += len(chunk)
            if progress:
                progress(done, size)


def _take(file: BinaryIO, update: Callable[[bytes], None], chunk: bytes) -> None:
    update(chunk)
    file.write(chunk)
