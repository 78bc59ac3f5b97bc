"""`coordinator projections`: the tables derived from the log."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.errors import CommandError, Exit
from coordinator.cli.options import DataDir, Json
from coordinator.cli.settings import settings_with
from coordinator.runtime import terminal

app = typer.Typer(help="The tables derived from the log: rebuild or check them.", no_args_is_help=True)


Everything = Annotated[
    bool, typer.Option("--all", help="Those of the dispatcher, the timers, the quotas and the tree, too.")
]


@app.command()
def rebuild(
    everything: Everything = False,
    tree: Annotated[
        bool,
        typer.Option("--tree", help="The Merkle tree, too: the running coordinator derives it again."),
    ] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Rebuild the derived tables from the log. Stop an embedded coordinator first; for --all, every one."""
    from coordinator.runtime.log_reader import open_log
    from coordinator.runtime.projections import rebuild_all, rebuild_projections, rebuild_tree

    settings = settings_with(data_dir)
    open_log(settings).close()  # an error without a log, instead of a new empty one

    with terminal.progress(quiet=as_json) as bars:
        rebuild_tables = rebuild_all if everything else rebuild_projections
        events = rebuild_tables(settings, terminal.bar(bars, "rebuilding", unit="positions"))
    if tree and not everything:
        rebuild_tree(settings)
    if as_json:
        terminal.document({"events": events})
    else:
        terminal.write(f"{events} events folded")


@app.command()
def check(everything: Everything = False, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Compare the derived tables with a fold of the log. Exits with 7 if they differ."""
    from coordinator.runtime.log_reader import open_log
    from coordinator.runtime.projections import check_projections

    settings = settings_with(data_dir)
    open_log(settings).close()

    differences = check_projections(settings, every=everything)
    if as_json:
        terminal.document({"ok": not differences, "differences": differences})
    else:
        terminal.write(
            "\n".join(map(terminal.plain, differences)) or "The projections equal a fold of the log."
        )
    if differences:
        command = "coordinator projections rebuild" + (" --all" if everything else "")
        hint = f"Keep a copy of the database to find the cause, then run `{command}`."
        raise CommandError("PROJECTIONS_DIFFER", f"{len(differences)} rows differ", hint, Exit.UNVERIFIED)
