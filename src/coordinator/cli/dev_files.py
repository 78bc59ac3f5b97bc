"""The files that `coordinator dev` writes for the other commands on this machine: API keys, and its address.

They are in the data directory, readable by their owner alone, one line per setting, as in a `.env` file.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from coordinator.cli.errors import CommandError, Exit
from coordinator.private_files import private_folder
from coordinator.storage.connections.data_directory import KNOWN_NAMES

KEYS_FILE = "dev-keys.env"
ADDRESS_FILE = "dev-address.env"
ADDRESS_SETTING = "COORDINATOR_URL"
SECRET_BYTES = 24
ROLES = ("client", "miner", "admin")
_ADDRESS = re.compile(r"http://[^\s/]+:[0-9]{1,5}")


def setting_of(role: str) -> str:
    """The environment variable that holds the keys of a role."""
    return f"{role.upper()}_API_KEYS"


# --- keys --------------------------------------------------------------------------------------------------
def load_or_create(data_dir: Path) -> dict[str, str]:
    """The keys (`name:secret`) by role, made on first use."""
    path = data_dir / KEYS_FILE
    if not path.exists():
        private_folder(data_dir, known=KNOWN_NAMES)
        partial = _written(
            path, (f"{setting_of(role)}=dev-{role}:{secrets.token_urlsafe(SECRET_BYTES)}" for role in ROLES)
        )
        # If two processes start at once, the first one's keys are used.
        try:
            path.hardlink_to(partial)
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    return read_keys(path)


def read_keys(path: Path) -> dict[str, str]:
    """The keys by role in such a file."""
    found = _settings_in(path, "KEY_FILE", "`coordinator dev` makes new keys")
    return {role: found[setting_of(role)] for role in ROLES if found.get(setting_of(role))}


def find_key(url: str, role: str, data_dir: Path | None = None) -> str | None:
    """The `coordinator dev`'s key of this role; None if `url` is not on this machine."""
    if not is_loopback(url):
        return None  # never send a key to another machine
    folder = data_dir or _data_dir()
    path = None if folder is None else folder / KEYS_FILE
    return read_keys(path).get(role) if path is not None and path.exists() else None


def is_loopback(url: str) -> bool:
    """Whether an address is always on this machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- the address -------------------------------------------------------------------------------------------
def write_address(data_dir: Path, url: str) -> None:
    """Record the address of this data directory's coordinator."""
    path = data_dir / ADDRESS_FILE
    _written(path, [f"{ADDRESS_SETTING}={url}"]).replace(path)


def forget_address(data_dir: Path) -> None:
    """Remove the address: the coordinator has stopped. May be called twice."""
    (data_dir / ADDRESS_FILE).unlink(missing_ok=True)


def find_address(data_dir: Path | None = None) -> tuple[str, Path] | None:
    """The address of the `coordinator dev` on this machine, and the file with it; None without one.

    If that process was killed, the file is still there.
    """
    folder = data_dir or _data_dir()
    path = None if folder is None else folder / ADDRESS_FILE
    if path is None or not path.exists():
        return None
    url = _settings_in(path, "ADDRESS_FILE", "`coordinator dev` writes it again").get(ADDRESS_SETTING, "")
    if not _ADDRESS.fullmatch(url):
        raise CommandError(
            "ADDRESS_FILE",
            f"{path} does not hold the address of a coordinator",
            "Delete it: `coordinator dev` writes it again. --url and COORDINATOR_URL take precedence.",
            Exit.USAGE,
        )
    return url, path


# --- both --------------------------------------------------------------------------------------------------
def _data_dir() -> Path | None:
    from coordinator.cli.settings import settings_with
    from coordinator.runtime.settings import BadSettings

    try:
        return settings_with(None).data_dir
    except BadSettings:
        return None  # these are a coordinator's settings; a client needs none of them


def _written(path: Path, lines: Iterable[str]) -> Path:
    """A file of these lines beside `path`, to be moved there complete."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.writelines(f"{line}\n" for line in lines)
    return partial


def _settings_in(path: Path, code: str, once_deleted: str) -> dict[str, str]:
    if os.name == "posix" and path.stat().st_mode & 0o077:
        hint = f"Run `chmod 600 {path}`, or delete it: {once_deleted}."
        raise CommandError(code, f"{path} may be read by others", hint, Exit.USAGE)
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        raise CommandError(
            code, f"{path} is not UTF-8 text", f"Delete it: {once_deleted}.", Exit.USAGE
        ) from None
    pairs = (line.partition("=") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}
