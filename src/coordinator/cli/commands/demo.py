"""`coordinator demo`: run real jobs and verify them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.errors import CommandError, Exit
from coordinator.cli.options import Json
from coordinator.runtime import terminal


def demo(
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=1000, help="Number of jobs to run.")] = 16,
    amqp: Annotated[
        bool,
        typer.Option("--amqp", help="Use RabbitMQ and Postgres: private ones, or AMQP_URL and DATABASE_URL."),
    ] = False,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Folder for the results. [default: ./demo-output/TIME]"),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the log and the output of the processes.")
    ] = False,
    money: Annotated[
        bool, typer.Option("--money", help="Keep accounts: a deposit, holds, payments, statements.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run real jobs and verify them.

    Starts a coordinator and two miners, runs jobs on a video, and verifies every receipt.
    """
    from coordinator.dev.demo.run import DemoOptions, run_demo, show_table
    from coordinator.dev.demo.system import DemoFailed

    try:
        report = run_demo(DemoOptions(jobs, amqp, output_dir, keep, as_json, money))
    except DemoFailed as failure:
        for child, lines in failure.logs:
            if lines:
                terminal.note("\n".join([f"--- the end of {child.log}", *map(terminal.quoted, lines)]))
        raise CommandError("DEMO", str(failure), "", Exit.FAILED) from failure
    if as_json:
        terminal.document(report.document())
        return
    show_table(report)
    paid = "" if report.paid is None else f" paid={report.paid} sum=0"
    terminal.write(f"demo: ok jobs={report.jobs} receipts={report.receipts} events={report.events}{paid}")
    if report.data is not None:
        terminal.write(f"See it: coordinator dev --data-dir {shlex.quote(str(report.data))}")
