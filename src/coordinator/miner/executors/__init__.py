"""Executors: the code that runs the jobs of a service, one module or folder per service."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordinator.miner.executors.base import (
        BlobAccess,
        Discovery,
        Executor,
        Outcome,
        Work,
        Workspace,
        discover_executors,
        load_executors,
        payload_of,
    )
    from coordinator.miner.executors.errors import ExecutorError
    from coordinator.services.base import OutputFile

__all__ = [
    "BlobAccess",
    "Discovery",
    "Executor",
    "ExecutorError",
    "Outcome",
    "OutputFile",
    "Work",
    "Workspace",
    "discover_executors",
    "load_executors",
    "payload_of",
]


def __getattr__(name: str) -> Any:
    """Import the interface when it is asked for: a job's child process does without most of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from coordinator.miner.executors import base, errors
    from coordinator.services.base import OutputFile

    known = {**vars(base), "ExecutorError": errors.ExecutorError, "OutputFile": OutputFile}
    return known[name]
