"""The read models without a running coordinator: made anew, or compared with the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coordinator.projections import projector
from coordinator.runtime.bootstrap import open_adapters
from coordinator.runtime.garbage_collection import collected_rarely
from coordinator.runtime.settings import Settings


def rebuild_projections(settings: Settings, progress: Callable[[int, int], None]) -> int:
    """Fold the log again into empty read models; the number of events. `progress(position, head)`."""
    adapters = open_adapters(settings)
    try:
        with collected_rarely():
            return projector.rebuild(adapters.log, adapters.database, progress)
    finally:
        asyncio.run(adapters.stop())


def check_projections(settings: Settings) -> list[str]:
    """Where the read models differ from a fold of the log; empty where nowhere."""
    adapters = open_adapters(settings)
    try:
        return list(projector.differences(adapters.log, adapters.database))
    finally:
        asyncio.run(adapters.stop())
