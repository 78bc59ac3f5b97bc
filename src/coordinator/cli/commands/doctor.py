"""`coordinator doctor`: checks everything that a coordinator needs."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.checks import Check
from coordinator.cli.dev_files import KEYS_FILE
from coordinator.cli.errors import CommandError, Exit
from coordinator.cli.gpus import check_gpus, show_gpus
from coordinator.cli.miner_checks import check_miner, is_for_miners
from coordinator.cli.options import DataDir, Json
from coordinator.cli.settings import settings_with
from coordinator.private_files import OTHERS
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.miner.executors import Executor
    from coordinator.miner.executors.base import Discovery
    from coordinator.runtime.settings import Settings

OLDEST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 2 * 10**9
LARGEST_DRIFT_S = 1.0
TIMEOUT_S = 10.0
RELEASED = 1_767_225_600  # 2026-01-01: a clock before this is wrong


def doctor(
    data_dir: DataDir = None,
    miner: Annotated[
        bool | None,
        typer.Option(
            "--miner/--coordinator",
            help="What runs here. [default: a miner if COORDINATOR_URL is set, and no coordinator is here]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check everything that a coordinator, or a miner, needs here.

    Exits with 1 if a check fails.
    """
    import asyncio

    from coordinator.runtime.process.logs import configure_logs

    configure_logs(level="error")  # the table shows unreachable servers, so libraries need not log them
    for_miners = is_for_miners() if miner is None else miner
    checks, gpus = asyncio.run(_check_all(data_dir, for_miners))
    failed = [check for check in checks if check.status == "failed"]
    if as_json:
        terminal.document({"ok": not failed, "checks": [check._asdict() for check in checks], "gpus": gpus})
    else:
        terminal.table(("CHECK", "STATUS", "DETAIL"), [check[:3] for check in checks], "Nothing to check.")
        show_gpus(gpus)
        for check in checks:
            if check.next_step:
                terminal.note(f"{check.name}: {check.next_step}")
    if failed:
        raise typer.Exit(Exit.FAILED)


async def _check_all(data_dir: Path | None, for_miners: bool) -> tuple[list[Check], list[dict[str, Any]]]:
    """The checks, and the GPUs found."""
    from coordinator.miner.executors import discover_executors

    if for_miners:
        servers = [_python(), *await check_miner(), _clock()]
    else:
        servers = await _check_servers(data_dir)
    found = discover_executors()
    executors = await _executors(found)
    gpus, listed = await check_gpus(found.executors)
    return [*servers, gpus, *executors], listed


async def _check_servers(data_dir: Path | None) -> list[Check]:
    import asyncio

    from coordinator.runtime.settings import BadSettings

    checks = [_python()]
    try:
        settings = settings_with(data_dir)
    except BadSettings as error:
        hint = "Correct it in the environment or in .env; .env.example explains every setting."
        return [*checks, Check("settings", "failed", str(error), hint)]
    checks += [_settings(settings), _data_dir(settings)]
    server_checks: list[tuple[str, Callable[[Settings], Awaitable[list[Check]]]]] = [
        ("database", _database),
        ("broker", _broker),
        ("blob store", _blobs),
        ("coordinator", _coordinator),
    ]
    for name, check in server_checks:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                checks += await check(settings)
        except TimeoutError:
            checks.append(Check(name, "failed", f"no answer in {TIMEOUT_S:.0f} s"))
        except CommandError as error:
            checks.append(Check(name, "failed", error.cause, error.next_step))
        except Exception as error:
            # The user has to see any error that a library raises about a server.
            checks.append(Check(name, "failed", f"{type(error).__name__}: {str(error).strip()}"))
    return [*checks, _clock()]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        return Check("python", "failed", version, f"Use Python {'.'.join(map(str, OLDEST_PYTHON))} or newer.")
    return Check("python", "ok", version)


def _settings(settings: Settings) -> Check:
    missing = [
        name.upper()
        for name in ("client_api_keys", "miner_api_keys", "admin_api_keys")
        if not getattr(settings, name)
    ]
    if missing and (settings.data_dir / KEYS_FILE).exists():
        return Check("settings", "ok", f"{settings.mode} mode, with the keys that `coordinator dev` made")
    if missing:
        hint = "Set them as name:secret; without them `coordinator dev` makes keys of its own."
        return Check("settings", "warning", f"{settings.mode} mode, without {', '.join(missing)}", hint)
    return Check("settings", "ok", f"{settings.mode} mode")


def _data_dir(settings: Settings) -> Check:
    path = settings.data_dir.resolve()
    existing = _nearest(path)
    if not _can_be_written(existing):
        return Check("data dir", "failed", f"{existing} can't be written", "Choose another with DATA_DIR.")
    free = shutil.disk_usage(existing).free
    if free < LEAST_FREE_BYTES:
        hint = "Make room, or choose another with DATA_DIR."
        return Check("data dir", "failed", f"{path}: only {terminal.size(free)} free", hint)
    open_to_all = [p.name for p in _secrets(path) if p.stat().st_mode & 0o077]
    if open_to_all:
        detail = f"others may read {', '.join(open_to_all)} in {path}"
        return Check("data dir", "failed", detail, f"Run `chmod 600` on them in {path}, and make new keys.")
    if path.exists() and path.stat().st_uid != os.geteuid():
        detail = f"{path} belongs to another account"
        return Check("data dir", "warning", detail, "Run the coordinator, and this, as its owner.")
    if path.exists() and path.stat().st_mode & OTHERS:
        detail = f"others may enter {path}"
        return Check(
            "data dir", "warning", detail, "The next start of the coordinator narrows it to mode 0700."
        )
    made = "" if path.exists() else ", made at the first start"
    return Check("data dir", "ok", f"{path}{made}; {terminal.size(free)} free")


def _nearest(path: Path) -> Path:
    """This path, or its nearest existing parent."""
    path = path.resolve()
    return next(p for p in (path, *path.parents) if p.exists())


def _can_be_written(path: Path) -> bool:
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def _secrets(path: Path) -> Iterator[Path]:
    for pattern in ("*.key", "*/*.key", "*keys.env"):
        yield from path.glob(pattern)


async def _database(settings: Settings) -> list[Check]:
    import asyncio

    check = _postgres if settings.mode == "standard" else _sqlite
    return await asyncio.to_thread(check, settings)


def _sqlite(settings: Settings) -> list[Check]:
    import sqlite3

    from coordinator.runtime.modes.embedded import DATABASE_FILE

    path = settings.data_dir / DATABASE_FILE
    version = f"SQLite {sqlite3.sqlite_version}"
    if not path.exists():
        return [Check("database", "ok", f"{version}; {path} is made at the first start")]
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        [(whole,)] = connection.execute("PRAGMA quick_check(1)").fetchall()
        applied = dict(connection.execute("SELECT name, digest FROM schema_migrations").fetchall())
    finally:
        connection.close()
    if whole != "ok":
        hint = "Stop the coordinator, keep a copy of the file, and restore a backup."
        return [Check("database", "failed", f"{path}: {whole}", hint)]
    return [Check("database", "ok", f"{version}, {path}"), _migrations(applied)]


def _postgres(settings: Settings) -> list[Check]:
    import psycopg

    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    with psycopg.connect(url, connect_timeout=int(TIMEOUT_S), autocommit=True) as connection:
        before = time.time()
        row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
        drift = abs((row[0] if row else 0.0) - (before + time.time()) / 2)
        version = connection.info.server_version // 10_000
        row = connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL").fetchone()
        rows = connection.execute("SELECT name, digest FROM schema_migrations") if row and row[0] else ()
        applied = {str(name): str(digest) for name, digest in rows}
    checks = [Check("database", "ok", f"Postgres {version}")]
    if drift > LARGEST_DRIFT_S:
        detail = f"the database's clock differs from ours by {drift:.1f} s"
        checks.append(Check("database clock", "failed", detail, "Let NTP set both clocks."))
    return [*checks, _migrations(applied)]


def _migrations(applied: dict[str, str]) -> Check:
    from coordinator.storage.migrate import read_migrations

    known = {migration.name: migration.digest for migration in read_migrations()}
    changed = [name for name, digest in applied.items() if known.get(name, digest) != digest]
    newer = sorted(applied.keys() - known.keys())
    pending = sorted(known.keys() - applied.keys())
    if changed:
        return Check("migrations", "failed", f"changed after they were applied: {', '.join(changed)}")
    if newer:
        hint = "Run the version of the program that made them, or a newer one."
        return Check("migrations", "failed", f"unknown to this version: {', '.join(newer)}", hint)
    detail = f"{len(applied)} applied" + (f", {len(pending)} at the next start" if pending else "")
    return Check("migrations", "ok", detail)


async def _broker(settings: Settings) -> list[Check]:
    if settings.mode == "embedded":
        return [Check("broker", "ok", "none needed: queues are in the coordinator's process")]
    from coordinator.broker.connection import server_version

    assert settings.amqp_url is not None
    version = await server_version(settings.amqp_url.get_secret_value(), TIMEOUT_S)
    return [Check("broker", "ok", f"RabbitMQ {version}".strip())]


async def _blobs(settings: Settings) -> list[Check]:
    import asyncio

    from coordinator.blobs import open_blob_store

    setting = settings.blob_store or str(settings.data_dir / "blobs")
    if "://" not in setting and not await asyncio.to_thread(Path(setting).exists):
        if not await asyncio.to_thread(lambda: _can_be_written(_nearest(Path(setting)))):
            hint = "Choose another with BLOB_STORE, or DATA_DIR."
            return [Check("blob store", "failed", f"{setting} can't be made", hint)]
        return [Check("blob store", "ok", f"{setting} is made at the first start")]
    store = open_blob_store(setting)
    content = os.urandom(32)

    async def stream() -> Any:
        yield content

    info = await store.put(stream(), expected_sha256=None, max_bytes=len(content))
    read = b"".join([piece async for piece in store.get(info.sha256)])
    await store.delete(info.sha256)
    if read != content:
        return [Check("blob store", "failed", "it returns other bytes than were stored")]
    return [Check("blob store", "ok", f"{setting}: written, read and deleted")]


async def _coordinator(settings: Settings) -> list[Check]:
    from coordinator.cli.dev_files import find_address
    from coordinator.client import AsyncCoordinator, Unreachable
    from coordinator.client.errors import CoordinatorError

    found = find_address(settings.data_dir)
    of_settings = f"http://{settings.app_host}:{settings.app_port}"
    url = found[0] if found else of_settings
    try:
        async with AsyncCoordinator(url, tries=1) as client:
            health = await client.health()
    except Unreachable:
        checks = [_address(settings, of_settings)]
        if found:
            hint = "Start `coordinator dev` again, or delete that file to use another coordinator."
            cause = f"no coordinator answers at {url}, the address in {found[1]}"
            checks.append(Check("coordinator's address", "warning", cause, hint))
        return checks
    except CoordinatorError as error:
        hint = "/health names the failing part; its cause is in the coordinator's log."
        return [Check("coordinator", "failed", f"{url}: {error.detail}", hint)]
    return [Check("coordinator", "ok", f"runs on {url}, position {health.get('position', '?')}")]


def _address(settings: Settings, url: str) -> Check:
    """Whether a coordinator could start at this address."""
    from coordinator.runtime.process.ports import listen

    try:
        listen(settings.app_host, settings.app_port).close()
    except OSError as error:
        hint = "Set APP_HOST and APP_PORT to an address of this machine that is free."
        return Check("coordinator", "failed", f"none runs on {url}, and none could: {error.strerror}", hint)
    return Check("coordinator", "ok", f"none runs on {url}")


def _clock() -> Check:
    if time.time() < RELEASED:
        return Check("clock", "failed", time.strftime("%Y-%m-%d %H:%M"), "Set the clock, best by NTP.")
    return Check("clock", "ok", terminal.moment(int(time.time() * 1000)))


async def _executors(found: Discovery) -> list[Check]:
    """The executors for a miner here. An engine without settings is off, which is no failure."""
    import asyncio

    from coordinator.services.model_names import RULE, is_model_name

    by_executor: dict[int, list[str]] = {}
    for service, executor in found.executors.items():
        by_executor.setdefault(id(executor), []).append(service)
    executors = {id(executor): executor for executor in found.executors.values()}
    problems = await asyncio.gather(*(_ask(executor) for executor in executors.values()))
    checks = [Check(name, "failed", problem) for name, problem in found.broken.items()]
    for (key, executor), problem in zip(executors.items(), problems, strict=True):
        name = ", ".join(sorted(by_executor[key]))
        if problem is None:
            models = tuple(getattr(executor, "models", ()))
            unusable = [
                f"{model!r} is not offered: a name has {RULE}" for model in models if not is_model_name(model)
            ]
            runs = f"runs; models: {', '.join(filter(is_model_name, models))}" if models else "runs"
            notes = [*getattr(executor, "notes", ()), *unusable]
            checks.append(Check(name, "warning" if notes else "ok", "; ".join([runs, *notes])))
        elif problem.endswith("is not set"):
            checks.append(Check(name, "ok", f"off: {problem}"))
        else:
            checks.append(Check(name, "warning", problem, "Miners here can't run this service."))
    return sorted(checks)


async def _ask(executor: Executor) -> str | None:
    try:
        return await executor.check()
    except Exception as error:
        return f"its check failed ({type(error).__name__})"
