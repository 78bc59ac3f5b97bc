"""`coordinator log export` and `coordinator log import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.cli.errors import CommandError, Exit
from coordinator.cli.options import DataDir, Json
from coordinator.cli.settings import settings_with
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.runtime.log_transfer import Transferred


def export(
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="A new file; an interrupted one is continued.")
    ],
    whole: Annotated[
        bool,
        typer.Option("--whole", help="With payloads, results and all tables: to move, or to keep a copy."),
    ] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write the log, byte for byte, and its checkpoints to one compressed file. The coordinator may run."""
    from coordinator.runtime.log_transfer import export_log
    from coordinator.storage.transfer.export_file import BadExport

    settings = settings_with(data_dir)
    with terminal.progress(quiet=as_json) as bars:
        try:
            done = export_log(
                settings, output, whole=whole, progress=terminal.bar(bars, "exporting", unit="positions")
            )
        except BadExport as error:
            raise CommandError(
                "BAD_EXPORT", f"{output}: {error}", "Name a new file with --output.", Exit.REFUSED
            ) from None
    _show(done, output, as_json)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="An export.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Read an export into an empty database or data directory. The log is the same, byte for byte."""
    from coordinator.runtime.log_transfer import LogNotEmpty, import_log
    from coordinator.storage.transfer.export_file import BadExport

    settings = settings_with(data_dir)
    with terminal.progress(quiet=as_json) as bars:
        try:
            done = import_log(settings, file, terminal.bar(bars, "importing"))
        except BadExport as error:
            hint = "Nothing was imported. Export the log again, or run `log export` again to continue it."
            raise CommandError("BAD_EXPORT", f"{file}: {error}", hint, Exit.UNVERIFIED) from None
        except LogNotEmpty:
            hint = "Name an empty database with DATABASE_URL, or another directory with --data-dir."
            raise CommandError("LOG_NOT_EMPTY", "there is a log already", hint, Exit.REFUSED) from None
    _show(done, file, as_json)


def _show(done: Transferred, file: Path, as_json: bool) -> None:
    if as_json:
        terminal.document({"file": str(file), **done._asdict()})
    else:
        size = terminal.size(file.stat().st_size)
        terminal.write(
            f"{done.events} events up to position {done.position}, {done.rows} rows of tables; "
            f"{terminal.plain(file)} ({size})"
        )
