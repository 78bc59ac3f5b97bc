"""`coordinator miner`: run a miner, and manage the registered ones."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coordinator.cli.errors import CommandError, Exit, usage
from coordinator.cli.matches import show_miner_match
from coordinator.cli.options import DEFAULT_URL, Json, Key, Url, talk
from coordinator.private_files import OTHERS, make_folder
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator, MinerMatch
    from coordinator.miner.config import MinerConfig
    from coordinator.miner.transport import Transport

app = typer.Typer(help="Run a miner, and manage the registered ones.", no_args_is_help=True)
_HELP = "`coordinator miner run --help` shows the options."
_COUNTS = ("completed", "failed", "lost", "too_slow", "released", "unclaimed")
Principal = Annotated[str, typer.Argument(metavar="KEYNAME", help="The name of the miners' key.")]
ServiceOption = Annotated[str | None, typer.Option("--service", help="One service. [default: every service]")]
Reason = Annotated[str, typer.Option("--reason", help="Kept in the log.")]
MinerId = Annotated[str, typer.Argument(metavar="MINER_ID")]


@app.command()
def run(
    name: Annotated[
        str | None,
        typer.Option("--name", help="Names this machine if one key runs several: NAME@KEYNAME."),
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=1024, help="Jobs at a time.")] = 1,
    transport: Annotated[
        Literal["auto", "amqp", "http"],
        typer.Option("--transport", help="auto is AMQP if AMQP_URL is set, otherwise HTTP."),
    ] = "auto",
    amqp_url: Annotated[
        str | None, typer.Option("--amqp-url", envvar="AMQP_URL", show_envvar=True, help="The broker.")
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", help="Key that signs results; made on first use. [default: in ~/.config]"),
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="The region of this machine.")] = None,
    price: Annotated[
        str | None, typer.Option("--price", help="Price of one GPU second. [default: the list price]")
    ] = None,
    unit_price: Annotated[
        list[str] | None,
        typer.Option(
            "--unit-price",
            help="Price of a counted unit, such as image=0.02; may be repeated. [default: the list price]",
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="A model on this machine; may be repeated.")
    ] = None,
    grace: Annotated[
        float, typer.Option("--grace", min=0, help="Seconds that a stop waits for running jobs.")
    ] = 30.0,
    recheck: Annotated[
        float, typer.Option("--recheck", min=1, help="Seconds between two checks of the engines.")
    ] = 30.0,
    work_dir: Annotated[
        Path | None,
        typer.Option("--work-dir", help="Folder for temporary files of jobs. [default: the system's]"),
    ] = None,
    fetch_allow_hosts: Annotated[
        str | None,
        typer.Option(
            "--fetch-allow-hosts",
            envvar="FETCH_ALLOW_HOSTS",
            help="Private hosts (host or host:port, comma-separated) from which files may be fetched.",
        ),
    ] = None,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Run a miner: claim jobs, run them, and report results with signed statements.

    Ctrl-C finishes the running jobs (see --grace); a second one hands them back at once.
    """

    from pydantic import ValidationError

    from coordinator.cli.dev_files import find_address, find_key
    from coordinator.miner.config import DEFAULT_KEY_FILE, BadConfig, MinerConfig
    from coordinator.miner.settings import MinerSettings
    from coordinator.runtime.process.logs import configure_logs
    from coordinator.validation import first_invalid_field

    try:
        settings = MinerSettings()
    except ValidationError as error:
        raise usage(
            first_invalid_field(error).text("settings"), "Correct it in the environment or .env."
        ) from None
    except ValueError:
        raise usage(".env is not UTF-8 text", "Write it again, like .env.example.") from None
    if amqp_url is None and settings.amqp_url is not None:
        amqp_url = settings.amqp_url.get_secret_value()
    hosts = settings.fetch_allow_hosts if fetch_allow_hosts is None else fetch_allow_hosts
    broker = None if transport == "http" else amqp_url
    if transport == "amqp" and not broker:
        raise usage("--transport amqp needs a broker", "Name it with AMQP_URL or --amqp-url.")
    found = None if url else find_address()
    address = url or (found[0] if found else DEFAULT_URL)
    key = api_key or find_key(address, "miner")
    if not key:
        hint = "Give a miner's key as name:secret in COORDINATOR_API_KEY, or with --api-key."
        raise CommandError("UNAUTHORIZED_KEY", "a miner needs an API key", hint, Exit.AUTH)
    try:
        config = MinerConfig(
            key=key,
            node=name,
            concurrency=concurrency,
            coordinator_url=address,
            amqp_url=broker,
            coordinator_keys=_coordinator_keys(settings.coordinator_public_key),
            key_file=key_file or DEFAULT_KEY_FILE,
            models=tuple(model or ()),
            region=region,
            price=price,
            prices=_unit_prices(unit_price or ()),
            grace_seconds=grace,
            recheck_seconds=recheck,
            work_folder=work_dir,
            gpus=settings.gpus,
            job_memory_bytes=settings.job_memory_mb and settings.job_memory_mb * 2**20,
            fetch_allow_hosts=tuple(host.strip() for host in hosts.split(",") if host.strip()),
        )
    except BadConfig as error:
        raise usage(str(error), _HELP) from None
    if work_dir is not None:
        # Fail now, not at the first job: that would be handed back, and the next one, too.
        make_folder(work_dir)
        with TemporaryDirectory(dir=work_dir):
            pass
    os.umask(OTHERS)  # clients' files are not for other accounts
    configure_logs("json" if as_json else settings.log_format, settings.log_level)
    from coordinator.runtime.process.event_loop import run_loop
    from coordinator.telemetry import export

    stop_telemetry = export.start("coordinator-miner", config.miner_id)
    try:
        code = run_loop(_run(config, as_json, settings.health_file))
    finally:
        stop_telemetry()
    if code != Exit.OK:
        raise typer.Exit(code)


@app.command("list")
def list_miners(
    state: Annotated[
        Literal["ONLINE", "DRAINING", "OFFLINE"] | None,
        typer.Option("--state", case_sensitive=False, help="Only miners in this state."),
    ] = None,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """List the miners that this key may see: an admin's key sees all."""

    async def work(client: AsyncCoordinator) -> list[dict[str, Any]]:
        return [item async for item in client.miners() if state in (None, item.get("state"))]

    miners = talk(url, api_key, "admin", work)
    if as_json:
        terminal.document({"items": miners, "next_cursor": None})
        return
    rows = [
        (
            miner.get("miner_id"),
            miner.get("state"),
            miner.get("concurrency"),
            _gpus(miner.get("capabilities")),
            ", ".join((miner.get("capabilities") or {}).get("services", ())),
            miner.get("changed_at"),
        )
        for miner in miners
    ]
    terminal.table(("MINER", "STATE", "SLOTS", "GPUS", "SERVICES", "SINCE"), rows, "No miners.")


@app.command()
def show(miner_id: MinerId, url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Show one miner, and where it stands: the jobs it gets, why, and the next step up."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.miner(miner_id)

    found = talk(url, api_key, "admin", work)
    if as_json:
        terminal.document(found)
        return
    standing = found.pop("standing", [])
    terminal.fields(found)
    rows = [
        (
            item.get("service") or "(every service)",
            item.get("state"),
            item.get("slots"),
            ", ".join(f"{count.replace('_', ' ')} {item[count]}" for count in _COUNTS if item.get(count)),
            item.get("reason"),
            item.get("advice"),
        )
        for item in standing
    ]
    if rows:
        terminal.table(("SERVICE", "STANDING", "SLOTS", "OF LATE", "REASON", "NEXT"), rows, "")


@app.command()
def why(miner_id: MinerId, url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Tell why a miner has no work, and what would bring it some."""

    async def work(client: AsyncCoordinator) -> MinerMatch:
        return await client.miner_match(miner_id)

    show_miner_match(talk(url, api_key, "admin", work), as_json)


@app.command()
def drain(miner_id: MinerId, url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Let a miner finish its jobs, and offer it no new ones."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.drain(miner_id)

    _show_answer(talk(url, api_key, "admin", work), as_json)


@app.command()
def quarantine(
    principal: Principal,
    service: ServiceOption = None,
    reason: Reason = "",
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Offer a key's miners no more jobs, until they are released. Running attempts go on."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.quarantine(principal, service=service, reason=reason)

    _show_answer(talk(url, api_key, "admin", work), as_json)


@app.command()
def release(
    principal: Principal,
    service: ServiceOption = None,
    reason: Reason = "",
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """End a quarantine: the key's miners begin again with one slot."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.release(principal, service=service, reason=reason)

    _show_answer(talk(url, api_key, "admin", work), as_json)


def _show_answer(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        terminal.document(answer)
    else:
        terminal.fields({name: value for name, value in answer.items() if name != "status"})


def _gpus(capabilities: Any) -> str:
    gpus = (capabilities or {}).get("gpus", ())
    return ", ".join(
        f"{gpu.get('name')} ({gpu.get('vendor') or '?'}, {gpu.get('memory_mb')} MiB)" for gpu in gpus
    )


async def _run(config: MinerConfig, as_json: bool, health_file: Path | None) -> Exit:
    import asyncio

    from coordinator.cli.health_file import told_by
    from coordinator.crypto.keys import SigningKey
    from coordinator.miner.config import BadConfig
    from coordinator.miner.executors import load_executors
    from coordinator.miner.program import EXIT_NO_EXECUTOR, EXIT_OK, MinerProgram
    from coordinator.runtime.process.garbage_collection import collect_rarely

    signing_key = SigningKey.load_or_create(config.key_file)
    identity = {
        "miner_id": config.miner_id,
        "transport": "amqp" if config.amqp_url else "http",
        "coordinator": config.coordinator_url,
        "public_key": signing_key.key_id,
    }
    if as_json:
        terminal.line(identity)
    else:
        terminal.fields(identity)
    answered = told_by(health_file)
    program = MinerProgram(
        config, _transport(config), load_executors(), signing_key=signing_key, on_answered=answered
    )
    collect_rarely()
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        program.stop()

    # Our own handlers, not the program's: our exit code depends on the signal.
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupt)
    loop.add_signal_handler(signal.SIGTERM, program.stop)
    try:
        code = await program.run(handle_signals=False)
    except BadConfig as error:
        raise usage(str(error), _HELP) from None
    if code == EXIT_NO_EXECUTOR:
        hint = "The lines above name the missing part of each; `coordinator doctor` checks more."
        raise CommandError("NO_EXECUTOR", "no executor can run on this machine", hint)
    if code != EXIT_OK:
        refused, why = program.refusal or ("REFUSED", "the coordinator refused this miner")
        hint = "Check the API key (it must be a miner's), --name, and that both sides have the same version."
        auth = refused in ("UNAUTHORIZED_KEY", "FORBIDDEN")
        raise CommandError(refused, why, hint, Exit.AUTH if auth else Exit.REFUSED)
    return Exit.INTERRUPTED if interrupted else Exit.OK


def _unit_prices(given: Sequence[str]) -> dict[str, str]:
    from coordinator.domain.matching.units import COUNTED, is_counted

    prices = dict(text.partition("=")[::2] for text in given)
    if unknown := [unit for unit in prices if not is_counted(unit)]:
        raise usage(
            f"--unit-price: no unit {unknown[0]!r}", f"Say UNIT=PRICE; units are {', '.join(COUNTED)}."
        )
    return prices


def _coordinator_keys(text: str) -> tuple[str, ...]:
    from coordinator.wire.signed_messages import VARIABLE, read_keys

    try:
        return read_keys(text)
    except ValueError as error:
        raise usage(f"{VARIABLE}: {error}", "Copy `signing_key_id` from the coordinator's /health.") from None


def _transport(config: MinerConfig) -> Transport:
    if config.amqp_url:
        from coordinator.miner.amqp import AmqpTransport

        return AmqpTransport(config.amqp_url, config.key, coordinator_keys=config.coordinator_keys)
    from coordinator.miner.http import HttpTransport

    return HttpTransport(config.coordinator_url, config.key)
