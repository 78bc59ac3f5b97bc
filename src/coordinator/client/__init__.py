"""The client SDK: submit jobs, wait for them, fetch their results.

    with Coordinator("http://127.0.0.1:8011", "name:secret") as coordinator:
        job = coordinator.submit("checksum", {"inputs": [coordinator.upload("a.bin").ref]})
        print(job.result(timeout=60).result)

`AsyncCoordinator` has the same methods for asynchronous programs.
"""

from coordinator.client.coordinator import AsyncCoordinator
from coordinator.client.errors import (
    BadAnswer,
    Conflict,
    CoordinatorError,
    DamagedBlob,
    Erased,
    NoResult,
    NotAuthorised,
    NotFound,
    NotReady,
    OverQuota,
    RateLimited,
    RequestRefused,
    TryAgain,
    Unreachable,
)
from coordinator.client.job import AsyncJob
from coordinator.client.models import (
    AttemptEndedUpdate,
    Blob,
    EraseAnswer,
    ErasePiece,
    HistoryEntry,
    JobCancelAnswer,
    JobError,
    JobHistory,
    JobMatch,
    JobResult,
    JobSubmitAnswer,
    JobView,
    MinerMatch,
    Passport,
    ProgressMade,
    Receipt,
    ResultFile,
    StateChanged,
    Tokens,
    Update,
)
from coordinator.client.registry import ServiceChanged, ServiceEntry, ServiceSummary, ServiceVersion
from coordinator.client.sync import Coordinator, Job

__all__ = [
    "AsyncCoordinator",
    "AsyncJob",
    "AttemptEndedUpdate",
    "BadAnswer",
    "Blob",
    "Conflict",
    "Coordinator",
    "CoordinatorError",
    "DamagedBlob",
    "EraseAnswer",
    "ErasePiece",
    "Erased",
    "HistoryEntry",
    "Job",
    "JobCancelAnswer",
    "JobError",
    "JobHistory",
    "JobMatch",
    "JobResult",
    "JobSubmitAnswer",
    "JobView",
    "MinerMatch",
    "NoResult",
    "NotAuthorised",
    "NotFound",
    "NotReady",
    "OverQuota",
    "Passport",
    "ProgressMade",
    "RateLimited",
    "Receipt",
    "RequestRefused",
    "ResultFile",
    "ServiceChanged",
    "ServiceEntry",
    "ServiceSummary",
    "ServiceVersion",
    "StateChanged",
    "Tokens",
    "TryAgain",
    "Unreachable",
    "Update",
]
