"""Files and folders for this account alone, and durable ones: modes, owners and fsyncs.

Folders have mode 0700 and files 0600, whatever the umask is. Wider modes of existing ones are narrowed. What
belongs to another account is refused: its owner could change it at any time.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
OTHERS: Final = 0o077


class NotPrivate(ValueError):
    """A file or folder can't be kept from other accounts; the message says what to do."""


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, with mode 0700, so that they survive a power cut."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        sync_folder(folder.parent)


def private_folder(path: Path, *, known: Collection[str]) -> None:
    """Make the folder, or narrow an existing one to mode 0700.

    `known` are names of entries by which we recognise a folder of ours. Raises NotPrivate if another account
    owns it, or if it is shared and holds other people's files: a temporary folder, for one.
    """
    make_folder(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise NotPrivate(
                f"{path} belongs to another account (user id {found.st_uid}): name a folder of this account's"
                f" own, such as {path / 'coordinator'}, or change its owner"
            )
        if not found.st_mode & OTHERS:
            return
        names = set(os.listdir(descriptor)) - {"lost+found"}
        if found.st_mode & stat.S_ISVTX or (names and not names.intersection(known)):
            raise NotPrivate(
                f"{path} is open to others (mode {stat.S_IMODE(found.st_mode):04o}), with other files in it:"
                f" name a folder for the coordinator alone, such as {path / 'coordinator'}, or"
                " run `chmod 700` on it"
            )
        os.fchmod(descriptor, FOLDER_MODE)
    finally:
        os.close(descriptor)


def narrow_entries(folder: Path, *, plain: Collection[str] = ()) -> None:
    """Keep others from the files and folders in a folder, as far as they are this account's.

    Raises NotPrivate for a file named in `plain` that is a link, has a second name, or another owner: what we
    write there would go into somebody else's file.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            ours = found.st_uid == os.geteuid()
            alone = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and ours
            if entry.name in plain and not alone:
                raise NotPrivate(
                    f"{entry.path} is a link, or belongs to another account: replace it by a file of its own"
                )
            if ours and found.st_mode & OTHERS and stat.S_IFMT(found.st_mode) in (stat.S_IFREG, stat.S_IFDIR):
                # By name, not by an open descriptor: to close one would drop SQLite's locks on the file.
                os.chmod(entry.path, stat.S_IMODE(found.st_mode) & FOLDER_MODE)


def make_file(path: Path) -> bool:
    """Make an empty file of mode 0600 that survives a power cut; False if the name is taken."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    except FileExistsError:
        return False
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)
    return True


def sync_folder(path: Path) -> None:
    """Make new names in a folder survive a power cut; a file's own fsync does not."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
