"""`coordinator witness`: co-signs the checkpoints of other coordinators' logs."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.errors import CommandError, Exit, usage
from coordinator.cli.options import Json
from coordinator.runtime import terminal

DEFAULT_PORT = 8013


def witness(
    name: Annotated[
        str, typer.Option("--name", envvar="WITNESS_NAME", help="The name of its key: example.com/w1.")
    ],
    log: Annotated[
        list[str] | None,
        typer.Option(
            "--log", metavar="KEY", help="The verifier key of a log to witness; repeat it for more."
        ),
    ] = None,
    logs: Annotated[
        Path | None,
        typer.Option("--logs", envvar="WITNESS_LOGS", help="A file with such keys, one a line."),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--folder", envvar="WITNESS_FOLDER", help="Its key and its state.")
    ] = Path("coordinator-witness"),
    host: Annotated[
        str, typer.Option("--host", envvar="WITNESS_HOST", help="Where to listen.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", envvar="WITNESS_PORT", min=0, max=65535, help="0 picks one.")
    ] = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Co-sign the checkpoints of logs, after checking that they only grew (C2SP tlog-witness).

    Its state is on disk before it answers. Run it on another machine than the coordinators it watches.
    """
    from coordinator.crypto.log.note import BadNote, VerifierKey
    from coordinator.runtime import witness as process
    from coordinator.runtime.process.logs import configure_logs
    from coordinator.witness.logs import BadLogs, read_log_file, read_logs

    if not log and logs is None:
        raise usage(
            "name the logs with --log KEY or --logs FILE", "`coordinator checkpoint key` shows a key."
        )
    try:
        lines = [key.text for keys in read_log_file(logs).values() for key in keys] if logs else []
        known = read_logs([*lines, *(log or ())])
    except (BadLogs, OSError) as error:
        raise usage(f"invalid logs: {error}", "`coordinator checkpoint key` shows a log's key.") from None
    configure_logs("console", "info")

    def ready(key: VerifierKey, listening: int) -> None:
        url = f"http://{host}:{listening}"
        if as_json:
            terminal.line({"url": url, "verifier_key": key.text, "pid": os.getpid()})
            return
        terminal.write(f"Witnessing {len(known)} logs on {url}")
        terminal.write(f"For the settings of the coordinators: WITNESSES={url} {key.text}")

    settings = process.WitnessSettings(name, known, folder, host, port)
    try:
        process.run(settings, ready)
    except BadNote as error:
        raise usage(str(error), "Choose a --name without spaces, and a key that no log has.") from None
    except OSError as error:
        cannot_listen = error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL)
        if error.filename is not None or not (cannot_listen or isinstance(error, socket.gaierror)):
            raise
        hint = "Choose a free address of this machine with --host and --port."
        raise CommandError(
            "PORT", f"can't listen on {host}:{port}: {error.strerror}", hint, Exit.USAGE
        ) from None
