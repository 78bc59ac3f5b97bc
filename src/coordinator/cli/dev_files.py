"""API keys for one machine: made by `coordinator dev`, found again by the other commands.

They lie in the data directory, readable by its owner alone, one line per setting, as in a `.env` file.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from coordinator.cli.errors import CommandError, Exit

FILE_NAME = "dev-keys.env"
SECRET_BYTES = 24
ROLES = ("client", "miner", "admin")


def setting_of(role: str) -> str:
    """The environment variable that holds the keys of a role."""
    return f"{role.upper()}_API_KEYS"


def load_or_create(data_dir: Path) -> dict[str, str]:
    """The keys (`name:secret`) by role, made on first use."""
    path = data_dir / FILE_NAME
    if not path.exists():
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = [f"{setting_of(role)}=dev-{role}:{secrets.token_urlsafe(SECRET_BYTES)}\n" for role in ROLES]
        # Complete or not at all, and of two processes that start at once the first one's.
        partial = path.with_name(f".{FILE_NAME}.{os.getpid()}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.writelines(lines)
        try:
            path.hardlink_to(partial)
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    return read(path)


def read(path: Path) -> dict[str, str]:
    """The keys by role in such a file."""
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise CommandError(
            "KEY_FILE",
            f"{path} may be read by others",
            f"Run `chmod 600 {path}`, or delete it: new keys are made then.",
            Exit.USAGE,
        )
    found = {}
    for text in path.read_text().splitlines():
        name, _, value = text.partition("=")
        found[name.strip()] = value.strip()
    return {role: found[setting_of(role)] for role in ROLES if found.get(setting_of(role))}


def find_key(url: str, role: str, data_dir: Path | None = None) -> str | None:
    """The key of this role of the `coordinator dev` on this machine, for an address on this machine only."""
    if not is_loopback(url):
        return None  # never to another machine
    from coordinator.cli.settings import settings_with
    from coordinator.runtime.settings import BadSettings

    if data_dir is None:
        try:
            data_dir = settings_with(None).data_dir
        except BadSettings:
            return None  # settings of a coordinator; a client needs none of them
    path = data_dir / FILE_NAME
    return read(path).get(role) if path.exists() else None


def is_loopback(url: str) -> bool:
    """Whether an address can only be this machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
