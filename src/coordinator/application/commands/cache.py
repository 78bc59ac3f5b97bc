"""The states of hot aggregates, so that most commands are decided without reading the log."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import UUID

CACHE_BYTES = 64 * 2**20
LIVE_BYTES = 3 * 1024  # a queued job, measured with its Python objects
FINAL_BYTES = 6 * 1024  # a completed job with its statement
FINAL_SHARE = 0.2


class CachedState(NamedTuple):
    """One aggregate as this process knows it."""

    state: Any
    version: int
    position: int


ABSENT = CachedState(None, 0, 0)


class StateCache:
    """Bounded in bytes.

    Final jobs get at most FINAL_SHARE of the bytes: only repeated messages ask for them.
    """

    def __init__(self, is_final: Callable[[Any], bool], max_bytes: int = CACHE_BYTES) -> None:
        """`is_final`: whether this is the state of a final job."""
        self._is_final = is_final
        self._live: OrderedDict[UUID, CachedState] = OrderedDict()
        """Least recently used first."""
        self._final: OrderedDict[UUID, CachedState] = OrderedDict()
        """Oldest first."""
        self._reads: list[dict[UUID, int]] = []
        """Of each read of the log under way: by stream, the version that another process's events told."""
        self._max_bytes = max(16 * FINAL_BYTES, max_bytes)

    def get(self, stream: UUID) -> CachedState | None:
        entry = self._live.get(stream)
        if entry is not None:
            self._live.move_to_end(stream)
            return entry
        return self._final.get(stream)

    def put(self, stream: UUID, entry: CachedState) -> None:
        if self._is_final(entry.state):
            self._live.pop(stream, None)
            self._final[stream] = entry
        else:
            self._live[stream] = entry
            self._live.move_to_end(stream)
        final_bytes = len(self._final) * FINAL_BYTES
        if final_bytes > self._max_bytes * FINAL_SHARE:
            self._final.popitem(last=False)
        elif len(self._live) * LIVE_BYTES + final_bytes > self._max_bytes:
            (self._final or self._live).popitem(last=False)

    def drop(self, streams: Iterable[UUID]) -> None:
        for stream in streams:
            self._live.pop(stream, None)
            self._final.pop(stream, None)

    def __len__(self) -> int:
        return len(self._live) + len(self._final)

    @contextmanager
    def reading(self, streams: Collection[UUID]) -> Iterator[dict[UUID, int]]:
        """While these streams are read from the log: by stream, the version that is told meanwhile (or 0).

        What was read is older than a newer version, and must not be put.
        """
        told = dict.fromkeys(streams, 0)
        self._reads.append(told)
        try:
            yield told
        finally:
            self._reads = [one for one in self._reads if one is not told]

    def note(self, stream: UUID, version: int) -> None:
        """Another process appended this version: drop an older state."""
        entry = self._live.get(stream) or self._final.get(stream)
        if entry is not None and entry.version < version:
            self.drop([stream])
        for told in self._reads:
            if stream in told:
                told[stream] = version
