"""The owners of blobs: principals that uploaded them, and so may refer to them."""

from __future__ import annotations

import time

from coordinator.application.ports import Database
from coordinator.domain.messages import Principal
from coordinator.edge.state.threads import in_thread


class BlobOwners:
    """The table of uploads. Raises LogUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, principal: Principal, sha256: str, size: int) -> None:
        """Record that this principal uploaded a blob of `size` bytes."""
        row = {
            "key": _key(sha256, principal),
            "digest": sha256,
            "principal": principal.name,
            "size": size,
            "at": time.time_ns() // 1_000_000,
        }

        def write() -> None:
            with self._database.transaction() as tables:
                tables.put("blob_owners", [row])

        await in_thread(write)

    async def has(self, principal: Principal, sha256: str) -> bool:
        """Whether this principal uploaded the blob."""

        def query() -> bool:
            with self._database.transaction() as tables:
                return bool(tables.query("read_blob_owners", keys=[_key(sha256, principal)]))

        return await in_thread(query)


def _key(sha256: str, principal: Principal) -> str:
    return f"{sha256}/{principal.name}"
