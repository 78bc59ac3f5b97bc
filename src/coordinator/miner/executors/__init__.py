"""Executors: one file per service that a miner can really run."""

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
