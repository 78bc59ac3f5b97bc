"""The demo's work as a client sees it: upload, submit, follow, fetch."""

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
from coordinator.dev.demo.stage import DemoFailed, Stage

READY_TIMEOUT_S: Final = 60.0
BATCH_TIMEOUT_S: Final = 120.0
JOB_TIMEOUT_S: Final = 10.0
"""On top, for each job."""
LOOK_EVERY_S: Final = 0.2


@dataclass
class Played:
    """One job of the batch, from the plan to what came of it."""

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


async def wait_ready(stage: Stage, client: AsyncCoordinator) -> None:
    """Return when the coordinator answers and is well. Raises DemoFailed."""
    said = "no answer"
    for _ in _looks(stage, READY_TIMEOUT_S):
        try:
            told = await client.health()
            if told.get("status") == "ok":
                return
            said = json.dumps(told)
        except CoordinatorError as error:
            said = str(error)
        await asyncio.sleep(LOOK_EVERY_S)
    raise DemoFailed(f"the coordinator was not ready in {READY_TIMEOUT_S:.0f} s: {said}", stage.children.all)


async def wait_for_miners(stage: Stage, admin: AsyncCoordinator) -> None:
    """Return when every miner has registered. Raises DemoFailed."""
    missing = set(stage.miners.values())
    for _ in _looks(stage, READY_TIMEOUT_S):
        missing -= {m["miner_id"] async for m in admin.miners() if m.get("state") == "ONLINE"}
        if not missing:
            return
        await asyncio.sleep(LOOK_EVERY_S)
    raise DemoFailed(f"not registered in {READY_TIMEOUT_S:.0f} s: {', '.join(missing)}", stage.children.all)


async def submit(client: AsyncCoordinator, video: Path, number: int) -> list[Played]:
    """Upload the inputs and submit the batch, several jobs at a time."""
    first, second = await asyncio.gather(client.upload(video), client.upload(SOURCE))
    planned = plan(Inputs(first.ref, second.ref), number)
    at_a_time = asyncio.Semaphore(16)

    async def one(index: int, job: Planned) -> Played:
        async with at_a_time:
            told = await client.submit(job.service, job.payload)
        return Played(index, job, told.job_id)

    return list(await asyncio.gather(*(one(i, job) for i, job in enumerate(planned, start=1))))


async def follow(
    stage: Stage, client: AsyncCoordinator, batch: list[Played], seen: Callable[[Played], None]
) -> None:
    """Return when every job is final; `seen` is told of each that changed. Raises DemoFailed."""
    by_id = {played.job_id: played for played in batch}
    limit = BATCH_TIMEOUT_S + JOB_TIMEOUT_S * len(batch)
    for _ in _looks(stage, limit):
        async for job in client.jobs():
            played = by_id.get(job.job_id)
            if played is None or (played.job is not None and played.job.final):
                continue
            changed = played.job is None or played.job.state != job.state
            played.job = job
            if changed:
                seen(played)
        if all(played.job is not None and played.job.final for played in batch):
            break
        await asyncio.sleep(LOOK_EVERY_S)
    lost = [p for p in batch if p.job is None or p.job.state != "COMPLETED"]
    if lost:
        told = "\n".join(
            f"  {p.number} {p.planned.title} ({p.job_id}): "
            + (f"{p.job.state} {p.job.problem}" if p.job else "unseen")
            for p in lost
        )
        raise DemoFailed(f"{len(lost)} of {len(batch)} jobs did not complete:\n{told}", stage.children.all)


async def fetch(
    client: AsyncCoordinator, batch: list[Played], folder: Path, moved: Callable[[], None]
) -> None:
    """Results, receipts and files of every job. Raises DemoFailed where a result is not what was digested."""
    for played in batch:
        job = client.job(played.job_id)
        played.result = result = await job.result()
        played.receipt = (await job.receipt()).document()
        if salted_digest(bytes.fromhex(result.result_salt), result.result) != result.result_digest:
            raise DemoFailed(f"the result of job {played.job_id} has another digest than was signed")
        name = f"{played.number:02d}-{re.sub(r'[^a-z0-9]+', '-', played.planned.title.lower())}"
        found = False
        for file in result.files():
            if file.sha256 in json.dumps(played.planned.payload):
                continue  # an input that the result mentions
            found = True
            await job.download(file.sha256, folder / f"{name}{Path(file.name).suffix}")
        if not found:
            text = json.dumps(result.result, indent=2) + "\n"
            await asyncio.to_thread((folder / f"{name}.json").write_text, text)
        moved()


def check_digests(batch: list[Played], *files: Path) -> None:
    """Compare what the checksum jobs say with the files here. Raises DemoFailed."""
    by_ref = {f"blob:{_digest(path, 'sha256')}": path for path in files}
    for played in batch:
        if played.planned.service != "checksum" or played.result is None:
            continue
        algorithm = played.planned.payload["algorithm"]
        expected = [_digest(by_ref[ref], algorithm) for ref in played.planned.payload["inputs"]]
        actual = [entry["digest"] for entry in played.result.result["digests"]]
        if actual != expected:
            raise DemoFailed(f"job {played.job_id}: expected the digests {expected}, got {actual}")


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _looks(stage: Stage, timeout: float) -> Any:
    """Once a look, until `timeout` seconds are over. Raises DemoFailed when a process ends meanwhile."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        ended: Child | None = stage.children.first_ended()
        if ended is not None:
            raise DemoFailed(f"the process {ended.name} ended with {ended.ended}", [ended])
        yield
