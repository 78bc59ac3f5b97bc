"""The command `coordinator`: its subcommands and its exit code."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from coordinator import __version__
from coordinator.cli import bulk
from coordinator.cli.commands import (
    broker_auth,
    demo,
    doctor,
    edges,
    erase,
    job,
    key,
    log,
    miner,
    projections,
    run,
    service,
    transfer,
    webhook,
)
from coordinator.cli.commands.operation import backup, dead, top
from coordinator.cli.commands.parties import account, quota, settlement
from coordinator.cli.commands.proof import audit, checkpoint, passport, receipt, witness
from coordinator.cli.errors import Exit, explain, report
from coordinator.runtime.process.parent_watch import stop_with_parent
from coordinator.runtime.terminal import PipeClosed, escape_what_is_missing

app = typer.Typer(
    name="coordinator",
    help="Hand out GPU jobs to miners, and keep a log that proves every step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: the rich one takes three times as long to import, and wraps text that people want to copy.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run.dev)
app.command()(run.serve)
app.command(edges.PROCESS, hidden=True)(edges.serve_process)
app.command()(broker_auth.broker_auth)
app.command()(witness.witness)
app.command()(demo.demo)
app.command()(audit.audit)
app.command()(erase.erase)
app.command()(doctor.doctor)
for command in (bulk.search, bulk.cancel, bulk.retry):
    job.app.command()(command)
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(top.top)
app.add_typer(job.app, name="job")
app.add_typer(miner.app, name="miner")
app.add_typer(service.app, name="service")
app.add_typer(receipt.app, name="receipt")
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(passport.app, name="passport")
app.add_typer(key.app, name="key")
app.add_typer(quota.app, name="quota")
app.add_typer(webhook.app, name="webhook")
app.add_typer(account.app, name="account")
app.add_typer(settlement.app, name="settlement")
log.app.command("export")(transfer.export)
log.app.command("import")(transfer.import_)
app.add_typer(log.app, name="log")
app.add_typer(projections.app, name="projections")
app.add_typer(dead.app, name="dead")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"coordinator {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@functools.cache
def command_tree() -> Any:
    """All commands with their options: typer reads every signature, which takes longer than most commands."""
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `cli.errors.Exit`)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    as_json = "--json" in arguments
    stop_with_parent()
    escape_what_is_missing()
    try:
        ended = command_tree()(args=list(arguments), standalone_mode=False)
        sys.stdout.flush()
    except (PipeClosed, BrokenPipeError):
        # Python flushes stdout once more when it ends: send that to /dev/null, or it would fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.PIPE_CLOSED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except Exception as error:
        if os.environ.get("COORDINATOR_TRACEBACK"):
            raise
        failure = explain(error)
        report(failure, as_json)
        return failure.exit_code
    return ended if isinstance(ended, int) else Exit.OK
