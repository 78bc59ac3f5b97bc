"""Rebuilds the read models, or compares them with the log, without a running coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coordinator.application.proof.origins import forget_tree
from coordinator.projections import projector
from coordinator.runtime.bootstrap import open_adapters
from coordinator.runtime.process.garbage_collection import collecting_rarely
from coordinator.runtime.settings import Settings


def rebuild_projections(settings: Settings, progress: Callable[[int, int], None]) -> int:
    """Fold the log again into empty read models; returns the number of events. `progress(position, head)`."""
    adapters = open_adapters(settings)
    try:
        with collecting_rarely():
            return projector.rebuild(adapters.log, adapters.database, progress)
    finally:
        asyncio.run(adapters.stop())


def rebuild_tree(settings: Settings) -> None:
    """Throw the Merkle tree away: the notary derives it from the log again, and compares each checkpoint."""
    adapters = open_adapters(settings)
    try:
        forget_tree(adapters.database)
    finally:
        asyncio.run(adapters.stop())


def check_projections(settings: Settings) -> list[str]:
    """The differences between the read models and a fold of the log, one sentence per row."""
    adapters = open_adapters(settings)
    try:
        return list(projector.differences(adapters.log, adapters.database))
    finally:
        asyncio.run(adapters.stop())
