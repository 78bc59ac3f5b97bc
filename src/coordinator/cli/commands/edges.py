"""The processes of `coordinator serve --edges N`, as commands that only their parent runs."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coordinator.cli.errors import Exit
from coordinator.cli.options import DataDir, Json
from coordinator.cli.settings import settings_with
from coordinator.private_files import OTHERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.runtime.coordinator import CoordinatorProcess
    from coordinator.runtime.settings import Settings

PROCESS = "serve-process"
"""The name of the command."""


def run_parent(
    settings: Settings,
    data_dir: Path | None,
    on_ready: Callable[[dict[str, Any], int], None],
    *,
    as_json: bool,
) -> None:
    """Run the core and its edge processes until a signal. Raises the errors of `parent.run_parent`."""
    from coordinator.runtime.edges import parent
    from coordinator.runtime.process.event_loop import run_loop

    # -P: no module of the working directory.
    command = [sys.executable, "-P", "-m", "coordinator", PROCESS, "--edges", str(settings.edges)]
    command += [] if data_dir is None else ["--data-dir", str(data_dir)]
    command += ["--json"] if as_json else []  # their errors, too
    try:
        stopped_by = run_loop(parent.run_parent(settings, command, on_ready))
    except parent.ProcessFailed as failure:
        raise typer.Exit(abs(failure.code) or 1) from None
    if stopped_by is signal.SIGINT:
        raise typer.Exit(Exit.INTERRUPTED)


def serve_process(
    role: Annotated[str, typer.Argument(help="core or edge.")],
    address: Annotated[Path, typer.Option("--socket", help="The core's local socket.")],
    ready: Annotated[int, typer.Option("--ready", help="The descriptor that tells the parent of the start.")],
    edges: Annotated[int, typer.Option("--edges", help="Number of edge processes.")],
    port: Annotated[int, typer.Option("--port", help="The port of an edge process.")] = 0,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Run one process of `coordinator serve --edges`."""
    from coordinator.runtime.process.event_loop import run_loop
    from coordinator.runtime.process.logs import configure_logs
    from coordinator.telemetry import export

    settings = settings_with(data_dir, edges=edges)
    os.umask(OTHERS)
    os.set_inheritable(ready, False)
    configure_logs(settings.log_format, settings.log_level)
    kind: Literal["core", "edge"] = "core" if role == "core" else "edge"
    stop_telemetry = export.start("coordinator")
    try:
        if kind == "core":
            from coordinator.runtime.edges.core import serve_core

            run_loop(serve_core(settings, address, lambda coordinator: _tell(ready, _about(coordinator))))
        else:
            from coordinator.runtime.edges.edge import serve_edge

            run_loop(serve_edge(settings, address, port, lambda: _tell(ready, {})))
    finally:
        stop_telemetry()


def _about(coordinator: CoordinatorProcess) -> dict[str, Any]:
    return {"signing_key_id": coordinator.signing_key_id}


def _tell(ready: int, about: dict[str, Any]) -> None:
    with os.fdopen(ready, "w") as parent:
        json.dump({"pid": os.getpid(), **about}, parent)
