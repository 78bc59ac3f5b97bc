"""The demo from beginning to end, as a newcomer sees it."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from coordinator.client import AsyncCoordinator, CoordinatorError
from coordinator.crypto.receipt import verify_receipt
from coordinator.crypto.signature import VerificationFailed
from coordinator.dev.demo import work
from coordinator.dev.demo.batch import SOURCE
from coordinator.dev.demo.media import NoVideo, make_video
from coordinator.dev.demo.stage import DemoFailed, Stage
from coordinator.dev.demo.work import Played
from coordinator.dev.servers import ServerFailed, ServersMissing
from coordinator.runtime import terminal

DEFAULT_JOBS: Final = 16


class Options(NamedTuple):
    """`output`: where the results go; None is a new folder below ./demo-output."""

    jobs: int = DEFAULT_JOBS
    amqp: bool = False
    output: Path | None = None
    keep: bool = False
    as_json: bool = False


class DemoReport(NamedTuple):
    """What a demo that went well has to say."""

    jobs: int
    receipts: int
    events: int
    seconds: float
    output: Path
    batch: list[Played]

    def document(self) -> dict[str, Any]:
        return {
            "ok": True,
            "jobs": self.jobs,
            "receipts": self.receipts,
            "events": self.events,
            "seconds": round(self.seconds, 1),
            "output": str(self.output),
            "items": [dict(zip(_COLUMNS, row, strict=True)) for row in map(_row, self.batch)],
        }


_COLUMNS = ("job", "service", "what", "miner", "attempt", "seconds", "units", "price", "receipt_id")


def play(options: Options) -> DemoReport:
    """Play it. Raises DemoFailed, with everything that was started stopped again."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="coordinator-demo-"))
    keep = options.keep
    try:
        with _stopped_by_signals(), Stage(folder, options.amqp) as stage:
            return _perform(stage, options, began)
    except Exception as error:
        keep = True  # to find out why
        if isinstance(error, CoordinatorError | NoVideo | ServersMissing | ServerFailed):
            raise DemoFailed(str(error)) from error
        raise
    finally:
        if keep:
            terminal.note(f"Log, keys and the output of every process are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _perform(stage: Stage, options: Options, began: float) -> DemoReport:
    if options.amqp:
        terminal.note(
            "Starting RabbitMQ and Postgres, private ones unless AMQP_URL and DATABASE_URL name some …"
        )
        stage.start_servers()
    coordinator = stage.start_coordinator()
    terminal.note(f"Coordinator: process {coordinator.pid}, {stage.url}, {stage.settings().mode} mode")
    video = stage.folder / "clip.mp4"
    make_video(video)  # while the coordinator starts
    batch, results = asyncio.run(_with_client(stage, options, video))

    # From here on nothing runs any more: what is left is files, a log, and public keys.
    stage.stop()
    receipts = _verify(stage, batch)
    terminal.note(f"{receipts} receipts verified, with the public keys of coordinator and miners alone")
    events = _replay(stage)
    terminal.note(f"{events} events replayed: the projections equal a fold of the log")
    return DemoReport(len(batch), receipts, events, time.monotonic() - began, results, batch)


async def _with_client(stage: Stage, options: Options, video: Path) -> tuple[list[Played], Path]:
    async with (
        AsyncCoordinator(stage.url, stage.client_key) as client,
        AsyncCoordinator(stage.url, stage.admin_key) as admin,
    ):
        # 1. A coordinator and two miners.
        await work.wait_ready(stage, client)
        stage.start_miners()
        await work.wait_for_miners(stage, admin)
        names = ", ".join(stage.miners.values())
        terminal.note(f"Miners: {names}, over {'AMQP' if stage.amqp else 'HTTP'}")

        # 2. Jobs.
        batch = await work.submit(client, video, options.jobs)
        terminal.note(f"A video and a file uploaded, {len(batch)} jobs submitted")
        with terminal.progress(quiet=options.as_json) as bars:
            show = _Show(stage, len(batch), bars, options.as_json)
            await work.follow(stage, client, batch, show.seen)

        # 3. What they gave.
        results = options.output or Path("demo-output") / datetime.now().strftime("%Y%m%d-%H%M%S")
        results.mkdir(parents=True, exist_ok=True)
        with terminal.progress(quiet=options.as_json) as bars:
            moved = terminal.bar(bars, "fetching results", unit="jobs")
            await work.fetch(client, batch, results, lambda: moved(_fetched(batch), len(batch)))
        work.check_digests(batch, video, SOURCE)
        terminal.note(f"Results: {results}")
        return batch, results


class _Show:
    """Progress while jobs run: bars on a terminal, a line for each finished job elsewhere."""

    def __init__(self, stage: Stage, jobs: int, bars: Any, quiet: bool) -> None:
        self._bars = bars
        self._jobs = jobs
        self._done = 0
        self._lines = bars.disable and not quiet
        self._all = bars.add_task("all jobs", total=jobs, detail="")
        self._miners = {miner: bars.add_task(miner, total=None, detail="") for miner in stage.miners.values()}

    def seen(self, played: Played) -> None:
        job = played.job
        assert job is not None
        said = f"{job.state.lower()}  {played.planned.title}"
        if job.assigned_miner_id in self._miners:
            self._bars.update(self._miners[job.assigned_miner_id], detail=said)
        if job.final:
            self._done += 1
            self._bars.update(self._all, completed=self._done, detail=f"{self._done} of {self._jobs}")
            if self._lines:
                terminal.note(
                    f"[{self._done:>{len(str(self._jobs))}}/{self._jobs}] {job.state}  {played.planned.title}"
                    f"  on {job.assigned_miner_id}  attempt {job.attempt}  {played.seconds:.2f} s"
                )


def show_table(report: DemoReport) -> None:
    """What became of each job."""
    terminal.table([column.upper() for column in _COLUMNS], map(_row, report.batch), "No jobs.")


def _row(played: Played) -> tuple[object, ...]:
    assert played.job is not None
    receipt = played.receipt
    return (
        played.job_id,
        played.planned.service,
        played.planned.title,
        played.job.assigned_miner_id or receipt.get("provider"),
        played.job.attempt,
        round(played.seconds, 2),
        receipt.get("units"),
        receipt.get("price"),
        receipt.get("receipt_id"),
    )


def _fetched(batch: list[Played]) -> int:
    return sum(1 for played in batch if played.receipt)


def _verify(stage: Stage, batch: list[Played]) -> int:
    """How many receipts verified: with keys that were known before anything ran. Raises DemoFailed."""
    verified = set()
    for played in batch:
        assert played.result is not None
        try:
            found = verify_receipt(played.receipt, {stage.coordinator_key_id}, stage.miner_key_ids)
        except VerificationFailed as error:
            raise DemoFailed(f"the receipt of job {played.job_id} does not verify: {error}") from error
        # It verifies; it must also be about this job, this client and this very result.
        said = (found.job_id, played.receipt.get("client"), played.receipt["metadata"]["result_digest"])
        if said != (played.job_id, stage.client_name, played.result.result_digest):
            raise DemoFailed(f"the receipt of job {played.job_id} is about something else: {said}")
        verified.add(found.receipt_id)
    if len(verified) != len(batch):
        raise DemoFailed(f"{len(batch)} jobs have only {len(verified)} different receipts")
    return len(verified)


def _replay(stage: Stage) -> int:
    """How many events the log has; every projection equals a fold of them, or DemoFailed is raised."""
    from coordinator.runtime.log_reader import count_events
    from coordinator.runtime.projections import check_projections

    settings = stage.settings()
    differences = check_projections(settings)
    if differences:
        told = "\n".join(f"  {difference}" for difference in differences[:20])
        raise DemoFailed(f"the projections differ from a fold of the log:\n{told}")
    return count_events(settings)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, with everything stopped; a second one does not cut that short."""

    def end(number: int, _: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
