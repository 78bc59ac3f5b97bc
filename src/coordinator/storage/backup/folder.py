"""The folder of a backup.

    backup.json            what is whole: replaced at the end of each run, so half a run is not in it
    parts/000001.gz        an export file (`storage.transfer.export_file`) of each run
    blobs/ab/cdef…         uploads and large documents by their SHA-256, as in a local blob store
    lock                   one run at a time

It holds no private key.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coordinator.private_files import make_folder, private_folder, sync_folder

FORMAT: Final = "coordinator backup 1"
MANIFEST, PARTS, BLOBS, LOCK = "backup.json", "parts", "blobs", "lock"
KNOWN_NAMES = (MANIFEST, PARTS, BLOBS, LOCK)
MAX_MANIFEST_BYTES: Final = 16 * 2**20
Count = Annotated[int, Field(ge=0)]


class BadBackup(Exception):
    """The folder is no whole backup; the text says what is wrong with it."""


class BackupBusy(Exception):
    """Another process writes to this backup."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackupPart(_Model):
    """One run's file."""

    file: Annotated[str, Field(pattern=r"^[0-9]{6}\.gz$")]
    after: Count
    """It begins after this position …"""
    position: Count
    """… and ends with this one."""
    events: Count
    rows: Count
    bytes: Count
    at: Count
    """The moment that it shows, Unix milliseconds."""


class Manifest(_Model):
    """What is whole in the folder."""

    format: Literal["coordinator backup 1"] = FORMAT
    log_id: str
    program: str
    """The version that wrote the last part."""
    mode: Literal["embedded", "standard"]
    """That of the coordinator; a backup of either is restored into either."""
    migrations: tuple[str, ...]
    parts: tuple[BackupPart, ...]
    last_leaf: str
    """The Merkle tree's hash of the last event, in hex; empty for an empty log."""
    signed_to: Count
    """The position of the last checkpoint in the parts."""
    with_blobs: bool
    blobs: Count
    blob_bytes: Count
    missing_blobs: tuple[str, ...]
    """Blobs that the log's jobs or uploads name, and that the store did not have."""
    signing_key_id: str
    """The public part of the key that signs; the private one is not here."""

    @property
    def position(self) -> int:
        """The last position."""
        return self.parts[-1].position

    @property
    def events(self) -> int:
        return sum(part.events for part in self.parts)

    @property
    def at(self) -> int:
        """The moment of the last part, Unix milliseconds."""
        return self.parts[-1].at


class BackupFolder:
    """A folder that holds a backup, or will."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def blobs(self) -> Path:
        return self.path / BLOBS

    def part(self, part: BackupPart) -> Path:
        """The file of a part."""
        return self.path / PARTS / part.file

    def manifest(self) -> Manifest:
        """What is whole. Raises BadBackup."""
        file = self.path / MANIFEST
        try:
            if file.stat().st_size > MAX_MANIFEST_BYTES:
                raise BadBackup(f"{MANIFEST} is too large")
            content = json.loads(file.read_bytes())
        except FileNotFoundError:
            raise BadBackup(f"it has no {MANIFEST}: no backup, or the first one was interrupted") from None
        except (ValueError, RecursionError):
            raise BadBackup(f"{MANIFEST} is damaged: it is not JSON") from None
        named = content.get("format") if isinstance(content, dict) else None
        if named != FORMAT:
            raise BadBackup(f"{MANIFEST} has the format {named!r}, and this version reads {FORMAT!r}")
        try:
            found = Manifest.model_validate(content)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise BadBackup(f"{MANIFEST} is damaged: {where} is invalid") from None
        _check_parts(found)
        return found

    def check_sizes(self, manifest: Manifest) -> None:
        """Every part is there, as long as it was. Raises BadBackup."""
        for part in manifest.parts:
            try:
                size = self.part(part).stat().st_size
            except FileNotFoundError:
                raise BadBackup(f"{PARTS}/{part.file} is missing") from None
            if size != part.bytes:
                raise BadBackup(f"{PARTS}/{part.file} has {size} bytes, and had {part.bytes}: it is damaged")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make the folder, and keep other runs out. Raises BackupBusy, NotPrivate."""
        private_folder(self.path, known=KNOWN_NAMES)
        make_folder(self.path / PARTS)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path / LOCK, flags, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupBusy(f"another backup writes to {self.path}") from None
            yield
        finally:
            os.close(descriptor)

    def new_part(self, number: int) -> Path:
        """The path of an unfinished part; what an interrupted run has left there is removed."""
        path = self.path / PARTS / f"{number:06}.gz.new"
        for left in (self.path / PARTS).glob("*.new"):
            left.unlink()
        return path

    def finish_part(self, path: Path) -> str:
        """Give a finished part its name, which it returns."""
        name = path.name.removesuffix(".new")
        path.replace(path.with_name(name))
        sync_folder(path.parent)
        return name

    def store(self, manifest: Manifest) -> None:
        """Replace the manifest: from now on this is what is whole."""
        new = self.path / f".{MANIFEST}.new"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(manifest.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path / MANIFEST)
        sync_folder(self.path)


def _check_parts(manifest: Manifest) -> None:
    after = 0
    if not manifest.parts:
        raise BadBackup(f"{MANIFEST} names no part")
    for part in manifest.parts:
        if part.after != after or part.position < after:
            raise BadBackup(f"{MANIFEST} is damaged: {part.file} does not continue the part before it")
        after = part.position
