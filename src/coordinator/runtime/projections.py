"""Rebuilds the derived tables, or compares them with the log, without a running coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from coordinator.application.proof.origins import forget_tree
from coordinator.projections import projector
from coordinator.projections.derived import rebuilding
from coordinator.runtime.bootstrap import open_adapters
from coordinator.runtime.modes.adapters import Adapters
from coordinator.runtime.process.garbage_collection import collecting_rarely
from coordinator.runtime.settings import Settings

LEADERS = ("projector", *rebuilding.FOLLOWERS)


def rebuild_projections(settings: Settings, progress: Callable[[int, int], None]) -> int:
    """Fold the log again into empty read models; returns the number of events. `progress(position, head)`."""
    with _opened(settings) as adapters, collecting_rarely():
        return projector.rebuild(adapters.log, adapters.database, progress)


def rebuild_all(settings: Settings, progress: Callable[[int, int], None]) -> int:
    """The same for all derived tables, those of the followers too.

    The Merkle tree is cleared: the notary derives it at the next start, and compares each checkpoint. Raises
    CoordinatorRuns, DataDirectoryInUse.
    """
    with _alone(settings), _opened(settings) as adapters, collecting_rarely():
        timeout = settings.heartbeat_timeout_seconds
        return rebuilding.rebuild_all(adapters.log, adapters.database, timeout, progress)


def rebuild_tree(settings: Settings) -> None:
    """Throw the Merkle tree away: the notary derives it from the log again, and compares each checkpoint."""
    with _opened(settings) as adapters:
        forget_tree(adapters.database)


def check_projections(settings: Settings, *, every: bool = False) -> list[str]:
    """The differences between the read models and a fold of the log, one sentence per row.

    `every`: of all derived tables.
    """
    with _opened(settings) as adapters:
        found = list(projector.differences(adapters.log, adapters.database))
        if every:
            found += rebuilding.differences(adapters.log, adapters.database)
        return found


@contextmanager
def _opened(settings: Settings) -> Iterator[Adapters]:
    adapters = open_adapters(settings)
    try:
        yield adapters
    finally:
        asyncio.run(adapters.stop())


def _alone(settings: Settings) -> AbstractContextManager[None]:
    if settings.mode == "embedded":
        return nullcontext()  # the data directory's lock
    from coordinator.storage.tables.leadership import nobody_leads

    assert settings.database_url is not None
    return nobody_leads(settings.database_url.get_secret_value(), LEADERS)
