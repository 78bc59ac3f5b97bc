"""Executors: the code that runs the jobs of a service, one module or folder per service."""

from coordinator.miner.executors.base import (
    BlobAccess,
    Discovery,
    Executor,
    ExecutorError,
    Outcome,
    Work,
    Workspace,
    discover_executors,
    load_executors,
    payload_of,
)
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
