"""The client SDK: submit jobs, wait for them, fetch what they gave.

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
    JobFailed,
    NotAuthorised,
    NotFound,
    NotReady,
    RateLimited,
    Refused,
    TryAgain,
    Unreachable,
)
from coordinator.client.job import AsyncJob
from coordinator.client.models import (
    AttemptEnded,
    Blob,
    Canceled,
    JobError,
    JobResult,
    JobView,
    ProgressMade,
    Receipt,
    ResultFile,
    ServiceChanged,
    ServiceEntry,
    ServiceSummary,
    ServiceVersion,
    StateChanged,
    Submitted,
    Tokens,
    Update,
)
from coordinator.client.sync import Coordinator, Job

__all__ = [
    "AsyncCoordinator",
    "AsyncJob",
    "AttemptEnded",
    "BadAnswer",
    "Blob",
    "Canceled",
    "Conflict",
    "Coordinator",
    "CoordinatorError",
    "DamagedBlob",
    "Job",
    "JobError",
    "JobFailed",
    "JobResult",
    "JobView",
    "NotAuthorised",
    "NotFound",
    "NotReady",
    "ProgressMade",
    "RateLimited",
    "Receipt",
    "Refused",
    "ResultFile",
    "ServiceChanged",
    "ServiceEntry",
    "ServiceSummary",
    "ServiceVersion",
    "StateChanged",
    "Submitted",
    "Tokens",
    "TryAgain",
    "Unreachable",
    "Update",
]
