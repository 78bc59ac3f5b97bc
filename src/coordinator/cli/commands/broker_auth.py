"""`coordinator broker-auth`: the answers to RabbitMQ's questions about API keys."""

from __future__ import annotations

import errno
import os
import socket

from coordinator.cli.errors import CommandError, Exit
from coordinator.cli.options import Json
from coordinator.cli.settings import settings_with
from coordinator.runtime import terminal


def broker_auth(as_json: Json = False) -> None:
    """Answer RabbitMQ's HTTP auth backend, so that API keys are users of the broker.

    It reads the keys and registrations from the database and writes nothing. Run two, for example on the
    same address: connected miners go on when one of them ends.
    """
    from coordinator.runtime import broker_auth
    from coordinator.runtime.logs import configure_logs

    settings = settings_with(None)
    configure_logs(settings.log_format, settings.log_level)
    host = settings.broker_auth_host

    def ready(port: int) -> None:
        if as_json:
            terminal.line({"url": f"http://{host}:{port}/auth", "pid": os.getpid()})
        else:
            terminal.write(f"Answering RabbitMQ on http://{host}:{port}/auth")

    try:
        broker_auth.run(settings, ready)
    except OSError as error:
        cannot_listen = error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL)
        if error.filename is not None or not (cannot_listen or isinstance(error, socket.gaierror)):
            raise
        where = f"{host}:{settings.broker_auth_port}"
        hint = "Set BROKER_AUTH_HOST and BROKER_AUTH_PORT to a free address of this machine."
        raise CommandError("PORT", f"can't listen on {where}: {error.strerror}", hint, Exit.USAGE) from None
