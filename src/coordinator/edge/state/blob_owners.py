"""The owners of blobs: principals that uploaded them, and so may refer to them."""

from __future__ import annotations

import time

from coordinator.application.ports import Database
from coordinator.application.quotas.quotas import bytes_refusal
from coordinator.application.quotas.usage import blob_charge
from coordinator.domain.messages import Principal
from coordinator.edge.state.threads import in_thread


class BlobOwners:
    """The table of uploads. Raises LogUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, principal: Principal, sha256: str, size: int, most: int | None = None) -> int:
        """Record that this principal uploaded a blob of `size` bytes; returns the bytes that this counts.

        An upload counts once, however often it is repeated. Raises Refusal if the principal then stores more
        than `most` bytes; the content goes soon, unless others need it.
        """
        now = time.time_ns() // 1_000_000
        name, key = principal.name, _key(sha256, principal)
        row = {"key": key, "digest": sha256, "principal": name, "size": size, "at": now, "used_at": now}

        def write() -> int | None:
            with self._database.transaction() as tables:
                # This locks the name's row: the same upload at the same time must not count twice.
                tables.execute("quotas_add_bytes", name=name, payload_bytes=0, blob_bytes=0)
                charge = 0 if tables.query("read_blob_owners", keys=[key]) else blob_charge(size)
                if charge and most is None:
                    tables.execute("quotas_add_bytes", name=name, payload_bytes=0, blob_bytes=charge)
                elif charge and not tables.execute("quotas_take_bytes", name=name, charge=charge, most=most):
                    tables.put("blob_removals", [{"digest": sha256, "at": now}])
                    return None
                tables.put("blob_owners", [row])
                return charge

        charge = await in_thread(write)
        if charge is None:
            assert most is not None
            raise bytes_refusal(name, most, blob_charge(size), most)
        return charge

    async def has(self, principal: Principal, sha256: str) -> bool:
        """Whether this principal uploaded the blob."""

        def query() -> bool:
            with self._database.transaction() as tables:
                return bool(tables.query("read_blob_owners", keys=[_key(sha256, principal)]))

        return await in_thread(query)


def _key(sha256: str, principal: Principal) -> str:
    return f"{sha256}/{principal.name}"
