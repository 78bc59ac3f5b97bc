"""A running coordinator's log over HTTP: its checkpoint and its entries (C2SP tlog-tiles)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx

from coordinator.audit.entries import BadSource, Entry, LogSource, StoredCheckpoint
from coordinator.crypto.log.checkpoint import read_checkpoint
from coordinator.crypto.log.leaf import BadLeaf, StateDigest, read_leaf
from coordinator.crypto.log.note import BadNote
from coordinator.crypto.log.tiles import WIDTH, tile_path
from coordinator.wire.http import bounded
from coordinator.wire.http.proxies import new_blocking_client

TIMEOUT_SECONDS: Final = 30.0
TRIES: Final = 6
MAX_BUNDLE: Final = WIDTH * (65_535 + 2)
_TEXT: Final = re.compile(r"[\x20-\x7e]{1,300}")


class ProtocolBroken(BadSource):
    """The coordinator did not answer as the protocol says."""


class TileSource:
    """A `LogSource` with the events of the published checkpoint, and that checkpoint."""

    tables = None

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self.name = url
        note = self._get("/checkpoint", 64 * 1024)
        try:
            signed = read_checkpoint(note)
        except BadNote as error:
            raise ProtocolBroken(f"invalid checkpoint: {error}") from None
        self._checkpoint = StoredCheckpoint(signed.checkpoint.origin, signed.checkpoint.size, note.decode())
        self.total: int | None = signed.checkpoint.size
        self._done = 0

    def done(self) -> int:
        return self._done

    def checkpoints(self) -> Iterator[StoredCheckpoint]:
        yield self._checkpoint

    def entries(self, after: int) -> Iterator[Entry]:
        size = self._checkpoint.size
        for first in range(0, size, WIDTH):
            width = min(WIDTH, size - first)
            bundle = self._get(f"/tile/entries/{tile_path(first // WIDTH, width)}", MAX_BUNDLE)
            for content in _entries(bundle, width):
                try:
                    leaf = read_leaf(content)
                except BadLeaf as error:
                    raise ProtocolBroken(f"an entry of the bundle from index {first} on: {error}") from None
                self._done += 1
                if leaf.position > after:
                    state = b"" if isinstance(leaf.state, StateDigest) else leaf.state
                    yield Entry(
                        leaf.position, leaf.stream, leaf.version, leaf.topic, leaf.metadata, state, content
                    )

    def _get(self, path: str, most: int) -> bytes:
        for attempt in range(TRIES):
            try:
                status, content, wait = bounded.get(self._client, path, most)
            except bounded.OutOfBounds as error:
                raise ProtocolBroken(str(error)) from None
            if status == 200:
                return content
            if status not in (429, 503) or attempt == TRIES - 1:
                break
            time.sleep(wait)
        shown = " ".join(_TEXT.findall(content[:1000].decode(errors="replace")))
        raise ProtocolBroken(f"{path}: status {status}: {shown}")


def _entries(bundle: bytes, count: int) -> Iterator[bytes]:
    offset = 0
    for _ in range(count):
        size = int.from_bytes(bundle[offset : offset + 2], "big")
        content = bundle[offset + 2 : offset + 2 + size]
        if len(content) != size or not size:
            raise ProtocolBroken("a bundle of entries is too short")
        yield content
        offset += 2 + size
    if offset != len(bundle):
        raise ProtocolBroken("a bundle of entries is too long")


@contextmanager
def open_tiles(url: str, api_key: str | None) -> Iterator[LogSource]:
    """The published log of the coordinator at this URL; the entries need an admin's key."""
    headers = {"X-Api-Key": api_key} if api_key else {}
    with new_blocking_client(
        url, base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT_SECONDS
    ) as client:
        yield TileSource(client, url)
