"""The log's proofs without a running coordinator: read, verified as a whole, or begun under another name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from coordinator.application.ports import Database
from coordinator.application.proof.errors import RootDiffers
from coordinator.application.proof.leaves import LeafTile, read_leaves
from coordinator.application.proof.origins import continue_as
from coordinator.application.proof.proofs import Proofs
from coordinator.crypto.log.tiles import WIDTH, TreeEdge
from coordinator.crypto.merkle import leaf_hash
from coordinator.runtime.bootstrap import SYSTEM_CLOCK, checkpoint_memory, open_adapters
from coordinator.runtime.log_reader import open_log
from coordinator.runtime.settings import Settings
from coordinator.runtime.signing import signing_key


@contextmanager
def open_proofs(settings: Settings) -> Iterator[Proofs]:
    """The proofs of the log of these settings, for reading only. Raises NoLog; never creates a log."""
    with closing(open_log(settings)) as event_log, closing(_open_tables(settings)) as database:
        yield Proofs(database, event_log, signing_key(settings), settings.witness_quorum)


def verify_log(proofs: Proofs, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Hash every event of the newest checkpoint again, and compare with the tree and with each checkpoint.

    `progress(events, all)`. Raises LogRewritten at the first difference, NotPublished.
    """
    newest = proofs.newest()
    if newest is None:
        proofs.published()  # raises
        raise AssertionError("a published checkpoint is stored")
    origin, size, edge, compared = newest.checkpoint.origin, newest.checkpoint.size, TreeEdge(), 0
    while edge.size < size:
        with proofs.database.transaction() as tables:
            rows = tables.query("proof_leaves", tile=edge.size // WIDTH)
            signed = tables.query(
                "proof_between", origin=origin, after=edge.size, until=min(size, edge.size + WIDTH)
            )
        if not rows:
            raise RootDiffers(origin, size, "the database")
        hashes = [leaf_hash(content) for content in read_leaves(proofs.event_log, LeafTile.of(rows[0]))]
        hashes = hashes[: size - edge.size]
        start = edge.size
        for row in signed:
            edge.extend(hashes[edge.size - start : row["size"] - start])
            if edge.size != row["size"] or edge.root() != bytes(row["root"]):
                raise RootDiffers(origin, row["size"], "the database")
            compared += 1
        rest = hashes[edge.size - start :]
        if not hashes:
            raise RootDiffers(origin, size, "the database")
        edge.extend(rest)
        progress(edge.size, size)
    return {
        "verified": True,
        "origin": origin,
        "size": size,
        "root": edge.root().hex(),
        "checkpoints": compared,
    }


def continue_log(settings: Settings, origin: str, reason: str) -> str:
    """Begin a new log identity; returns the name that is left. See `origins.continue_as` for the errors."""
    adapters = open_adapters(settings)
    try:
        remembered = checkpoint_memory(settings).load()
        return continue_as(adapters.database, origin, remembered, reason, SYSTEM_CLOCK.now())
    finally:
        asyncio.run(adapters.stop())


def _open_tables(settings: Settings) -> Database:
    # Imported here: a command loads only the library of its own database.
    if settings.mode == "standard":
        from coordinator.storage.tables.postgres import PostgresDatabase

        assert settings.database_url is not None
        return PostgresDatabase(settings.database_url.get_secret_value())
    from coordinator.storage.connections.data_directory import DATABASE_FILE
    from coordinator.storage.tables.sqlite import SqliteDatabase

    return SqliteDatabase(settings.data_dir / DATABASE_FILE)
