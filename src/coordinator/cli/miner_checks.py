"""The checks of `coordinator doctor` on a machine that runs miners and no coordinator."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from coordinator.cli.checks import Check
from coordinator.cli.dev_files import find_address, find_key
from coordinator.cli.errors import CommandError
from coordinator.cli.options import DEFAULT_URL
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.miner.settings import MinerSettings

LEAST_FREE_BYTES: Final = 10**9
TIMEOUT_S: Final = 10.0


def is_for_miners() -> bool:
    """Whether the environment names a coordinator to talk to, and none is or could be here."""
    of_coordinators = ("DATABASE_URL", "CLIENT_API_KEYS", "MINER_API_KEYS", "ADMIN_API_KEYS")
    if not os.environ.get("COORDINATOR_URL") or any(map(os.environ.get, of_coordinators)):
        return False
    try:
        return find_address() is None  # of a `coordinator dev`
    except CommandError:
        return False  # its file is no good, which a check tells


async def check_miner() -> list[Check]:
    """The settings, the folders, the way to the coordinator and to the broker, and the health file."""
    from pydantic import ValidationError

    from coordinator.miner.settings import MinerSettings
    from coordinator.validation import first_invalid_field

    hint = "Correct it in the environment or in .env; .env.example explains every setting."
    try:
        settings = MinerSettings()
    except ValidationError as error:
        return [Check("settings", "failed", first_invalid_field(error).text("settings"), hint)]
    except ValueError:
        return [Check("settings", "failed", ".env is not UTF-8 text", hint)]
    checks = [Check("settings", "ok", "of a miner"), *_folders()]
    checks += await _bounded("coordinator", _coordinator())
    if settings.amqp_url is not None:
        checks += await _bounded("broker", _broker(settings.amqp_url.get_secret_value()))
    if settings.health_file is not None:
        checks.append(_health(settings))
    return checks


async def _bounded(name: str, check: Awaitable[list[Check]]) -> list[Check]:
    import asyncio  # not for the help of other commands

    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await check
    except TimeoutError:
        return [Check(name, "failed", f"no answer in {TIMEOUT_S:.0f} s")]
    except CommandError as error:
        return [Check(name, "failed", error.cause, error.next_step)]
    except Exception as error:
        # The user has to see any error that a library raises about a server.
        return [Check(name, "failed", f"{type(error).__name__}: {str(error).strip()}")]


def _folders() -> list[Check]:
    data_dir = os.environ.get("DATA_DIR")
    checks = [_folder("temporary folder", Path(tempfile.gettempdir()))]
    if data_dir:
        checks.append(_folder("data dir", Path(data_dir)))
    return checks


def _folder(name: str, path: Path) -> Check:
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        return Check(name, "failed", f"{path} can't be written", "Make it, or give it to this account.")
    free = shutil.disk_usage(path).free
    if free < LEAST_FREE_BYTES:
        hint = "Make room, or give jobs' files another place with `miner run --work-dir`."
        return Check(name, "warning", f"{path}: only {terminal.size(free)} free", hint)
    return Check(name, "ok", f"{path}; {terminal.size(free)} free")


async def _coordinator() -> list[Check]:
    """Whether the coordinator answers, and takes this miner's key."""
    from coordinator.client import AsyncCoordinator, Unreachable
    from coordinator.client.errors import CoordinatorError, NotFound

    url = os.environ.get("COORDINATOR_URL")
    if not url:
        found = find_address()
        url = found[0] if found else DEFAULT_URL
    key = os.environ.get("COORDINATOR_API_KEY") or find_key(url, "miner")
    async with AsyncCoordinator(url, key, tries=1) as client:
        try:
            health = await client.health()
        except Unreachable as error:
            hint = "Set COORDINATOR_URL to the coordinator's address, and start the coordinator."
            return [Check("coordinator", "failed", f"{url}: {error.detail}", hint)]
        except CoordinatorError as error:
            hint = "/health names the failing part; its cause is in the coordinator's log."
            return [Check("coordinator", "failed", f"{url}: {error.detail}", hint)]
        checks = [Check("coordinator", "ok", f"runs on {url}, position {health.get('position', '?')}")]
        if not key:
            hint = "Set COORDINATOR_API_KEY to a miner's key, as name:secret."
            return [*checks, Check("API key", "failed", "there is none", hint)]
        name = key.partition(":")[0]
        try:
            # For a miner's key the answer is a miner or "no such miner"; another key may not ask.
            await client.miner(name)
        except NotFound:
            pass
        except CoordinatorError as error:
            hint = "Set COORDINATOR_API_KEY to one of the coordinator's MINER_API_KEYS, or of `key create`."
            return [*checks, Check("API key", "failed", error.detail, hint)]
    return [*checks, Check("API key", "ok", f"{name} is a miner's")]


async def _broker(url: str) -> list[Check]:
    from coordinator.broker.connection import server_version

    return [Check("broker", "ok", f"RabbitMQ {await server_version(url, TIMEOUT_S)}".strip())]


def _health(settings: MinerSettings) -> Check:
    """Whether the miner that writes the file has an answer of the coordinator that still counts."""
    assert settings.health_file is not None
    try:
        until = float(settings.health_file.read_text())
    except (OSError, ValueError):
        hint = "Its log tells why: `miner run` registers when the coordinator answers."
        return Check("registration", "warning", "no miner here has registered", hint)
    left = until - time.time()
    if left < 0:
        hint = "Look at its log, and at whether the coordinator and the broker can be reached from here."
        return Check(
            "registration", "failed", f"the coordinator's last answer ran out {-left:.0f} s ago", hint
        )
    return Check("registration", "ok", "the coordinator answers this miner's heartbeats")
