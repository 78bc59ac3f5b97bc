"""`coordinator projections`: tables that are derived from the log."""

from __future__ import annotations

import typer

from coordinator.cli import output
from coordinator.cli.commands.log import open_log
from coordinator.cli.errors import CommandError, Exit
from coordinator.cli.options import DataDir, Json, settings_with

app = typer.Typer(help="Tables that are derived from the log.", no_args_is_help=True)


@app.command()
def rebuild(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Throw the derived tables away, and make them again from the log. Stop an embedded coordinator first."""
    settings = settings_with(data_dir)
    open_log(settings).close()  # refuses where there is none, instead of making an empty one
    from coordinator.runtime.bootstrap import rebuild_projections

    with output.progress(quiet=as_json) as bars:
        events = rebuild_projections(settings, output.bar(bars, "rebuilding", unit="positions"))
    if as_json:
        output.document({"events": events})
    else:
        output.write(f"{events} events folded")


@app.command()
def check(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Compare the derived tables with a fold of the log. Ends with 7 if they differ."""
    settings = settings_with(data_dir)
    open_log(settings).close()
    from coordinator.runtime.bootstrap import check_projections

    differences = check_projections(settings)
    if as_json:
        output.document({"ok": not differences, "differences": differences})
    else:
        output.write("\n".join(differences) or "The projections equal a fold of the log.")
    if differences:
        hint = "`coordinator projections rebuild` makes them anew; keep a copy of the database for the cause."
        raise CommandError("PROJECTIONS_DIFFER", f"{len(differences)} rows differ", hint, Exit.UNVERIFIED)
