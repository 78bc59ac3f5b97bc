"""The client's part of the demo: upload, submit, follow, fetch."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from coordinator.client import AsyncCoordinator, CoordinatorError, JobResult, JobView
from coordinator.crypto.canonical import salted_digest
from coordinator.dev.demo.batch import SOURCE, Inputs, Planned, plan
from coordinator.dev.demo.processes import Child
from coordinator.dev.demo.system import DemoFailed, DemoSystem

READY_TIMEOUT_S: Final = 60.0
BATCH_TIMEOUT_S: Final = 120.0
JOB_TIMEOUT_S: Final = 10.0
"""In addition, for each job."""
POLL_S: Final = 0.2


@dataclass
class DemoJob:
    """One job of the batch, from the plan to the receipt."""

    number: int
    planned: Planned
    job_id: str
    job: JobView | None = None
    result: JobResult | None = None
    receipt: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From start to end, by the coordinator's clock."""
        job = self.job
        if job is None or job.started_at is None or job.finished_at is None:
            return 0.0
        return (job.finished_at - job.started_at).total_seconds()


async def wait_ready(system: DemoSystem, client: AsyncCoordinator) -> None:
    """Return when the coordinator answers and is ready. Raises DemoFailed."""
    reason = "no answer"
    for _ in _polls(system, READY_TIMEOUT_S):
        try:
            health = await client.health()
            if health.get("status") == "ok":
                return
            reason = json.dumps(health)
        except CoordinatorError as error:
            reason = str(error)
        await asyncio.sleep(POLL_S)
    raise DemoFailed(
        f"the coordinator was not ready in {READY_TIMEOUT_S:.0f} s: {reason}", system.children.all
    )


async def wait_for_miners(system: DemoSystem, admin: AsyncCoordinator) -> None:
    """Return when every miner has registered. Raises DemoFailed."""
    missing = set(system.miners.values())
    for _ in _polls(system, READY_TIMEOUT_S):
        missing -= {m["miner_id"] async for m in admin.miners() if m.get("state") == "ONLINE"}
        if not missing:
            return
        await asyncio.sleep(POLL_S)
    raise DemoFailed(f"not registered in {READY_TIMEOUT_S:.0f} s: {', '.join(missing)}", system.children.all)


async def submit(client: AsyncCoordinator, video: Path, number: int) -> list[DemoJob]:
    """Upload the inputs and submit the batch, several jobs at a time."""
    first, second = await asyncio.gather(client.upload(video), client.upload(SOURCE))
    planned = plan(Inputs(first.ref, second.ref), number)
    at_a_time = asyncio.Semaphore(16)

    async def one(index: int, job: Planned) -> DemoJob:
        async with at_a_time:
            submitted = await client.submit(job.service, job.payload)
        return DemoJob(index, job, submitted.job_id)

    return list(await asyncio.gather(*(one(i, job) for i, job in enumerate(planned, start=1))))


async def follow(
    system: DemoSystem, client: AsyncCoordinator, batch: list[DemoJob], seen: Callable[[DemoJob], None]
) -> None:
    """Return when every job is final; `seen` is called for each changed job. Raises DemoFailed."""
    by_id = {demo_job.job_id: demo_job for demo_job in batch}
    limit = BATCH_TIMEOUT_S + JOB_TIMEOUT_S * len(batch)
    for _ in _polls(system, limit):
        async for job in client.jobs():
            demo_job = by_id.get(job.job_id)
            if demo_job is None or (demo_job.job is not None and demo_job.job.final):
                continue
            changed = demo_job.job is None or demo_job.job.state != job.state
            demo_job.job = job
            if changed:
                seen(demo_job)
        if all(demo_job.job is not None and demo_job.job.final for demo_job in batch):
            break
        await asyncio.sleep(POLL_S)
    lost = [p for p in batch if p.job is None or p.job.state != "COMPLETED"]
    if lost:
        lines = "\n".join(
            f"  {p.number} {p.planned.title} ({p.job_id}): "
            + (f"{p.job.state} {p.job.problem}" if p.job else "unseen")
            for p in lost
        )
        raise DemoFailed(f"{len(lost)} of {len(batch)} jobs did not complete:\n{lines}", system.children.all)


async def fetch(
    client: AsyncCoordinator, batch: list[DemoJob], folder: Path, moved: Callable[[], None]
) -> None:
    """Fetch result, receipt and files of every job. Raises DemoFailed if a result has another digest."""
    for demo_job in batch:
        job = client.job(demo_job.job_id)
        demo_job.result = result = await job.result()
        demo_job.receipt = (await job.receipt()).document()
        if salted_digest(bytes.fromhex(result.result_salt), result.result) != result.result_digest:
            raise DemoFailed(f"the result of job {demo_job.job_id} does not have the signed digest")
        name = f"{demo_job.number:02d}-{re.sub(r'[^a-z0-9]+', '-', demo_job.planned.title.lower())}"
        found = False
        for file in result.files():
            if file.sha256 in json.dumps(demo_job.planned.payload):
                continue  # an input that the result mentions
            found = True
            await job.download(file.sha256, folder / f"{name}{Path(file.name).suffix}")
        if not found:
            text = json.dumps(result.result, indent=2) + "\n"
            await asyncio.to_thread((folder / f"{name}.json").write_text, text)
        moved()


def check_digests(batch: list[DemoJob], *files: Path) -> None:
    """Compare the results of the checksum jobs with the local files. Raises DemoFailed."""
    by_ref = {f"blob:{_digest(path, 'sha256')}": path for path in files}
    for demo_job in batch:
        if demo_job.planned.service != "checksum" or demo_job.result is None:
            continue
        algorithm = demo_job.planned.payload["algorithm"]
        expected = [_digest(by_ref[ref], algorithm) for ref in demo_job.planned.payload["inputs"]]
        actual = [entry["digest"] for entry in demo_job.result.result["digests"]]
        if actual != expected:
            raise DemoFailed(f"job {demo_job.job_id}: expected the digests {expected}, got {actual}")


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _polls(system: DemoSystem, timeout: float) -> Any:
    """Yield for each poll until `timeout` seconds are over. Raises DemoFailed if a process ends."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        ended: Child | None = system.children.first_ended()
        if ended is not None:
            raise DemoFailed(f"the process {ended.name} ended with {ended.ended}", [ended])
        yield
