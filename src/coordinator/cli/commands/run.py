"""`coordinator dev` and `coordinator serve`: the coordinator itself."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli import dev_files
from coordinator.cli.errors import CommandError, Exit
from coordinator.cli.options import DataDir, Json
from coordinator.cli.settings import settings_with
from coordinator.private_files import OTHERS, make_folder
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.runtime.coordinator import CoordinatorProcess
    from coordinator.runtime.settings import Settings


def dev(
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=0, max=65535, help="If taken, another is used. [default: APP_PORT, which is 8011]"
        ),
    ] = None,
    data_dir: DataDir = None,
    miners: Annotated[
        int, typer.Option("--miners", min=0, max=16, help="Number of miner processes to start, too.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Run everything in one process.

    It needs no database server and no broker: for trials and for development.
    """
    # No database and no broker, even if the environment or a .env file names them.
    chosen: dict[str, Any] = {"database_url": None, "amqp_url": None}
    chosen |= {"tls_cert_file": None, "tls_key_file": None}  # for this machine alone
    if port is not None:
        chosen["app_port"] = port
    settings = settings_with(data_dir, **chosen)
    keys = dev_files.load_or_create(settings.data_dir)
    made: dict[str, Any] = {
        f"{role}_api_keys": [key] for role, key in keys.items() if not getattr(settings, f"{role}_api_keys")
    }
    wanted = settings.app_port
    free = _free_port(settings.app_host, wanted)
    settings = settings_with(data_dir, **{**chosen, **made, "app_port": free})
    with ExitStack() as stack:

        def ready(coordinator: CoordinatorProcess, port_now: int) -> None:
            url = _url(settings.app_host, port_now)
            dev_files.write_address(settings.data_dir, url)
            stack.callback(dev_files.forget_address, settings.data_dir)
            if miners:
                _start_miners(stack, settings, url, miners)
            dashboard = _dashboard(coordinator, url)
            if as_json:
                shown = {} if dashboard is None else {"dashboard": dashboard}
                terminal.line({**_about(settings, coordinator.signing_key_id, url, miners), **shown})
            else:
                if free != wanted:
                    terminal.note(f"Port {wanted} is taken; using {port_now} this time.")
                terminal.write(_ready_text(settings, url, bool(made), miners, dashboard))

        # Miners stop first, while the coordinator can still hear that they leave.
        _run(settings, ready, before_stop=stack.close)


def serve(
    data_dir: DataDir = None,
    edges: Annotated[
        int | None,
        typer.Option(
            "--edges", min=0, max=64, help="Number of processes that speak HTTP. [default: EDGES, which is 0]"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a coordinator with the settings of the environment.

    DATABASE_URL and AMQP_URL name its servers; without them everything runs in this process. With --edges
    further processes speak HTTP with the clients, and this one starts them again when they end.
    """
    settings = settings_with(data_dir, **({} if edges is None else {"edges": edges}))
    if not (settings.client_api_keys or settings.miner_api_keys or settings.admin_api_keys):
        raise CommandError(
            "SETTINGS",
            "there are no API keys, so nobody could use this coordinator",
            "Set CLIENT_API_KEYS, MINER_API_KEYS, ADMIN_API_KEYS, or run `coordinator dev`: it makes keys.",
            Exit.USAGE,
        )

    def ready(signing_key_id: str, port: int) -> None:
        if settings.mode == "embedded":
            # This process has the data directory's lock, so the file of a `coordinator dev` is stale.
            dev_files.forget_address(settings.data_dir)
        url = _url(settings.app_host, port, tls=settings.tls_cert_file is not None)
        if as_json:
            terminal.line(_about(settings, signing_key_id, url, 0))
        else:
            terminal.write(f"Coordinator on {url} ({settings.mode} mode)")

    if settings.edges:
        _run_edges(settings, data_dir, lambda about, port: ready(about["signing_key_id"], port), as_json)
    else:
        _run(settings, lambda coordinator, port: ready(coordinator.signing_key_id, port))


def _run(
    settings: Settings,
    ready: Callable[[CoordinatorProcess, int], None],
    before_stop: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal. `before_stop` is called in a thread after the first Ctrl-C."""
    from coordinator.runtime import server
    from coordinator.runtime.process.logs import configure_logs
    from coordinator.telemetry import export

    os.umask(OTHERS)  # nothing that this process writes is for other accounts
    configure_logs(settings.log_format, settings.log_level)
    stop_telemetry = export.start("coordinator")
    interrupted = False

    def on_ready(coordinator: CoordinatorProcess, port: int) -> None:
        import asyncio

        loop = asyncio.get_running_loop()

        def stop(_: object = None) -> None:
            os.kill(os.getpid(), signal.SIGTERM)  # the server then stops in order

        def interrupt() -> None:
            nonlocal interrupted
            if interrupted:
                stop()
            else:
                interrupted = True
                loop.run_in_executor(None, before_stop).add_done_callback(stop)

        loop.add_signal_handler(signal.SIGINT, interrupt)
        ready(coordinator, port)

    try:
        with _explained_port(settings):
            server.run(settings, on_ready)
    finally:
        stop_telemetry()
    if interrupted:
        raise typer.Exit(Exit.INTERRUPTED)


def _run_edges(
    settings: Settings,
    data_dir: Path | None,
    ready: Callable[[dict[str, Any], int], None],
    as_json: bool,
) -> None:
    """Serve with edge processes until a signal."""
    from coordinator.cli.commands.edges import run_parent
    from coordinator.runtime.process.logs import configure_logs

    os.umask(OTHERS)
    configure_logs(settings.log_format, settings.log_level)
    with _explained_port(settings):
        run_parent(settings, data_dir, ready, as_json=as_json)


@contextmanager
def _explained_port(settings: Settings) -> Iterator[None]:
    """Says what to do where the port can't be had."""
    try:
        yield
    except OSError as error:
        cannot_listen = (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL)
        if error.filename is not None or not (
            error.errno in cannot_listen or isinstance(error, socket.gaierror)
        ):
            raise
        where = f"{settings.app_host}:{settings.app_port}"
        hint = "Set APP_HOST and APP_PORT to a free address of this machine."
        raise CommandError("PORT", f"can't listen on {where}: {error.strerror}", hint, Exit.USAGE) from None


def _free_port(host: str, port: int) -> int:
    """`port`, or 0 (the system chooses) if another process has it."""
    from coordinator.runtime.process.ports import listen

    try:
        listen(host, port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return 0
        hint = "Set APP_HOST to an address of this machine, and --port to a port that you may use."
        raise CommandError(
            "PORT", f"can't listen on {host}:{port}: {error.strerror}", hint, Exit.USAGE
        ) from None
    return port


def _start_miners(stack: ExitStack, settings: Settings, url: str, number: int) -> None:
    from coordinator.dev.demo.processes import Children, bare_environment

    folder = settings.data_dir.resolve() / "miners"
    make_folder(folder)
    secret = settings.miner_api_keys[0].get_secret_value()
    hosts = ",".join(settings.fetch_allow_hosts)
    given = {"COORDINATOR_URL": url, "COORDINATOR_API_KEY": secret, "FETCH_ALLOW_HOSTS": hosts}
    if settings.hmac_secret is not None:
        given["COORDINATOR_HMAC_SECRET"] = settings.hmac_secret.get_secret_value()
    environment = bare_environment(given)
    # In this directory, as its .env file may name engines. We ignore its AMQP_URL, and so must they.
    children = stack.enter_context(Children(environment, folder, Path.cwd()))
    for index in range(1, number + 1):
        name = f"miner-{index}"
        key_file = str(folder / f"{name}.key")
        children.start(name, *("miner", "run", "--name", name, "--key-file", key_file, "--transport", "http"))


def _about(settings: Settings, signing_key_id: str, url: str, miners: int) -> dict[str, Any]:
    return {
        "url": url,
        "pid": os.getpid(),
        "mode": settings.mode,
        "data_dir": str(settings.data_dir.resolve()),
        "signing_key_id": signing_key_id,
        "miners": miners,
    }


def _dashboard(coordinator: CoordinatorProcess, url: str) -> str | None:
    """The dashboard's address, with a token that logs an admin in once; None without a dashboard."""
    from coordinator.domain.messages import Role

    settings = coordinator.settings
    if not settings.ui_enabled or not settings.admin_api_keys:
        return None
    token = coordinator.sessions.link(settings.admin_api_keys[0].get_secret_value(), Role.ADMIN)
    return f"{url}/?token={token}"


def _ready_text(settings: Settings, url: str, made_keys: bool, miners: int, dashboard: str | None) -> str:
    place = settings.data_dir.resolve()
    # The other commands find us and our keys in the data directory, unless the environment names another.
    prefix = f"COORDINATOR_URL={url} " if os.environ.get("COORDINATOR_URL", url) != url else ""
    if settings.data_dir != Path("coordinator-data"):
        prefix += f"DATA_DIR={shlex.quote(str(place))} "
    lines = [
        f"Coordinator on {url}",
        *([f"Dashboard: {dashboard}"] if dashboard else []),
        f"All data is in {place}",
        *([f"New API keys are in {place / dev_files.KEYS_FILE}"] if made_keys else []),
        "",
        "In another terminal, in this directory:",
        *([] if miners else [f"  {prefix}coordinator miner run"]),
        f"""  {prefix}coordinator job submit checksum --payload '{{"text": "hello"}}' --wait""",
        "",
        "Ctrl-C stops it.",
    ]
    return "\n".join(lines)


def _url(host: str, port: int, *, tls: bool = False) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{'https' if tls else 'http'}://{host}:{port}"
