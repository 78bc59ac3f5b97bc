"""The client SDK: submit jobs, wait for them, fetch what they gave.

async with Client("http://127.0.0.1:8011", "name:secret") as client:
    job = await client.submit("checksum", {"inputs": [(await client.upload(path)).ref]})
    done = await client.wait(job.job_id)
"""

from coordinator.client.errors import (
    BadAnswer,
    Conflict,
    CoordinatorError,
    DamagedBlob,
    NotAuthorised,
    NotFound,
    NotReady,
    RateLimited,
    Refused,
    TryAgain,
    Unreachable,
)
from coordinator.client.http import Client
from coordinator.client.models import Blob, Canceled, Job, JobError, JobResult, Page, ResultFile, Submitted

__all__ = [
    "BadAnswer",
    "Blob",
    "Canceled",
    "Client",
    "Conflict",
    "CoordinatorError",
    "DamagedBlob",
    "Job",
    "JobError",
    "JobResult",
    "NotAuthorised",
    "NotFound",
    "NotReady",
    "Page",
    "RateLimited",
    "Refused",
    "ResultFile",
    "Submitted",
    "TryAgain",
    "Unreachable",
]
