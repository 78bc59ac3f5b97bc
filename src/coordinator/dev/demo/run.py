"""The demo from beginning to end."""

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
from coordinator.dev.demo import money, work
from coordinator.dev.demo.batch import SOURCE
from coordinator.dev.demo.media import NoVideo, make_video
from coordinator.dev.demo.system import DemoFailed, DemoSystem
from coordinator.dev.demo.work import DemoJob
from coordinator.dev.servers import ServerFailed, ServersMissing
from coordinator.runtime import terminal

DEFAULT_JOBS: Final = 16


class DemoOptions(NamedTuple):
    """`output`: the folder for the results; None makes a new one in ./demo-output."""

    jobs: int = DEFAULT_JOBS
    amqp: bool = False
    output: Path | None = None
    keep: bool = False
    as_json: bool = False
    money: bool = False


class DemoReport(NamedTuple):
    """The report of a successful demo."""

    jobs: int
    receipts: int
    events: int
    seconds: float
    output: Path
    data: Path | None
    """The coordinator's data directory, to be looked at; None with servers."""
    batch: list[DemoJob]
    paid: int | None
    """The sum of all payments in 10⁻⁶ of the unit; None without money."""

    def document(self) -> dict[str, Any]:
        return {
            "ok": True,
            "jobs": self.jobs,
            "receipts": self.receipts,
            "events": self.events,
            "seconds": round(self.seconds, 1),
            "output": str(self.output),
            "data_dir": None if self.data is None else str(self.data),
            "paid": self.paid,
            "items": [dict(zip(_COLUMNS, row, strict=True)) for row in map(_row, self.batch)],
        }


_COLUMNS = (
    "job",
    "service",
    "what",
    "miner",
    "attempt",
    "seconds",
    "units",
    "unit_type",
    "price",
    "receipt_id",
)


def run_demo(options: DemoOptions) -> DemoReport:
    """Run the demo and stop everything that it started. Raises DemoFailed."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="coordinator-demo-"))
    keep = options.keep
    try:
        with (
            _stopped_by_signals(),
            DemoSystem(folder, options.amqp, money.SETTINGS if options.money else {}) as system,
        ):
            return _run(system, options, began)
    except Exception as error:
        keep = True  # to find the cause
        if isinstance(error, CoordinatorError | NoVideo | ServersMissing | ServerFailed):
            raise DemoFailed(str(error)) from error
        raise
    finally:
        if keep:
            terminal.note(f"Log, keys and the output of every process are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _run(system: DemoSystem, options: DemoOptions, began: float) -> DemoReport:
    if options.amqp:
        terminal.note(
            "Starting RabbitMQ and Postgres, private ones unless AMQP_URL and DATABASE_URL name some …"
        )
        system.start_servers()
    coordinator = system.start_coordinator()
    terminal.note(f"Coordinator: process {coordinator.pid}, {system.url}, {system.settings().mode} mode")
    video = system.folder / "clip.mp4"
    make_video(video)  # while the coordinator starts
    batch, results, paid = asyncio.run(_with_client(system, options, video))

    # Nothing runs any more; what follows uses files, the log and public keys alone.
    system.stop()
    receipts = _verify(system, batch)
    terminal.note(f"{receipts} receipts verified, with the public keys of coordinator and miners alone")
    events = _replay(system)
    terminal.note(f"{events} events replayed: the projections equal a fold of the log")
    data = system.keep_data(results / "data")
    return DemoReport(len(batch), receipts, events, time.monotonic() - began, results, data, batch, paid)


async def _with_client(
    system: DemoSystem, options: DemoOptions, video: Path
) -> tuple[list[DemoJob], Path, int | None]:
    async with (
        AsyncCoordinator(system.url, system.client_key) as client,
        AsyncCoordinator(system.url, system.admin_key) as admin,
    ):
        # 1. Start two miners beside the coordinator.
        await work.wait_ready(system, client)
        system.start_miners()
        await work.wait_for_miners(system, admin)
        names = ", ".join(system.miners.values())
        terminal.note(f"Miners: {names}, over {'AMQP' if system.amqp else 'HTTP'}")

        # 2. Submit jobs and follow them.
        if options.money:
            await money.deposit(system, admin)
            await money.bill_by_size(admin)
        batch = await work.submit(client, video, options.jobs)
        terminal.note(f"A video and a file uploaded, {len(batch)} jobs submitted")
        if options.money:
            await money.show_held(client)
        with terminal.progress(quiet=options.as_json) as bars:
            display = _ProgressDisplay(system, len(batch), bars, options.as_json)
            await work.follow(system, client, batch, display.show)

        # 3. Fetch the results.
        results = options.output or Path("demo-output") / datetime.now().strftime("%Y%m%d-%H%M%S")
        results.mkdir(parents=True, exist_ok=True)
        with terminal.progress(quiet=options.as_json) as bars:
            moved = terminal.bar(bars, "fetching results", unit="jobs")
            await work.fetch(client, batch, results, lambda: moved(_fetched(batch), len(batch)))
        work.check_digests(batch, video, SOURCE)
        terminal.note(f"Results: {results}")

        # 4. Every job is paid.
        paid = await money.settled(system, admin, batch) if options.money else None
        return batch, results, paid


class _ProgressDisplay:
    """Progress while jobs run: bars on a terminal, otherwise a line for each finished job."""

    def __init__(self, system: DemoSystem, jobs: int, bars: Any, quiet: bool) -> None:
        self._bars = bars
        self._jobs = jobs
        self._done = 0
        self._lines = bars.disable and not quiet
        self._all = bars.add_task("all jobs", total=jobs, detail="")
        self._miners = {
            miner: bars.add_task(miner, total=None, detail="") for miner in system.miners.values()
        }

    def show(self, demo_job: DemoJob) -> None:
        job = demo_job.job
        assert job is not None
        detail = f"{job.state.lower()}  {demo_job.planned.title}"
        if job.assigned_miner_id in self._miners:
            self._bars.update(self._miners[job.assigned_miner_id], detail=detail)
        if job.final:
            self._done += 1
            self._bars.update(self._all, completed=self._done, detail=f"{self._done} of {self._jobs}")
            if self._lines:
                terminal.note(
                    f"[{self._done:>{len(str(self._jobs))}}/{self._jobs}] {job.state}  "
                    f"{demo_job.planned.title}  on {job.assigned_miner_id}  attempt {job.attempt}  "
                    f"{demo_job.seconds:.2f} s"
                )


def show_table(report: DemoReport) -> None:
    """Print a table of all jobs."""
    terminal.table([column.upper() for column in _COLUMNS], map(_row, report.batch), "No jobs.")


def _row(demo_job: DemoJob) -> tuple[object, ...]:
    assert demo_job.job is not None
    receipt = demo_job.receipt
    return (
        demo_job.job_id,
        demo_job.planned.service,
        demo_job.planned.title,
        demo_job.job.assigned_miner_id or receipt.get("provider"),
        demo_job.job.attempt,
        round(demo_job.seconds, 2),
        receipt.get("units"),
        receipt.get("unit_type"),
        receipt.get("price"),
        receipt.get("receipt_id"),
    )


def _fetched(batch: list[DemoJob]) -> int:
    return sum(1 for demo_job in batch if demo_job.receipt)


def _verify(system: DemoSystem, batch: list[DemoJob]) -> int:
    """Verify the receipts with keys known before the start; returns their number. Raises DemoFailed."""
    verified = set()
    for demo_job in batch:
        assert demo_job.result is not None
        try:
            found = verify_receipt(demo_job.receipt, {system.coordinator_key_id}, system.miner_key_ids)
        except VerificationFailed as error:
            raise DemoFailed(f"the receipt of job {demo_job.job_id} does not verify: {error}") from error
        # The signature is valid; the receipt must also name this job, this client and this result.
        named = (found.job_id, demo_job.receipt.get("client"), demo_job.receipt["metadata"]["result_digest"])
        if named != (demo_job.job_id, system.client_name, demo_job.result.result_digest):
            raise DemoFailed(f"the receipt of job {demo_job.job_id} names others: {named}")
        verified.add(found.receipt_id)
    if len(verified) != len(batch):
        raise DemoFailed(f"{len(batch)} jobs have only {len(verified)} different receipts")
    return len(verified)


def _replay(system: DemoSystem) -> int:
    """The number of events in the log. Raises DemoFailed unless every projection equals a fold of them."""
    from coordinator.runtime.log_reader import count_events
    from coordinator.runtime.projections import check_projections

    settings = system.settings()
    differences = check_projections(settings)
    if differences:
        lines = "\n".join(f"  {difference}" for difference in differences[:20])
        raise DemoFailed(f"the projections differ from a fold of the log:\n{lines}")
    return count_events(settings)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM ends the demo like Ctrl-C, with everything stopped; a second signal does not cut that short."""

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
