"""The interface of executors: the code that runs jobs of one or a few services.

An executor gets a `Work`, and returns an `Outcome` or raises ExecutorError. It does not know coordinators,
leases or signatures. Third parties add executors through the entry point group `coordinator.executors`.
"""

import asyncio
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Protocol, Self

import structlog
from pydantic import ValidationError

from coordinator.crypto.json_size import has_more_values
from coordinator.domain.matching.units import CountedUnit
from coordinator.miner.executors.errors import INVALID_PAYLOAD, ExecutorError
from coordinator.miner.executors.limits import Share, whole_machine
from coordinator.services.base import WHOLE_RESULT_TYPE, KnownService, LargeResult, OutputFile, P
from coordinator.validation import meant_field

ENTRY_POINT_GROUP: Final = "coordinator.executors"
INLINE_BYTES: Final = 512 << 10
INLINE_VALUES: Final = 16_384
"""Of a result in a message, which has 1 MiB and 50,000 values; the check by a schema needs a reserve, too."""

_log = structlog.get_logger(__name__)


class BlobAccess(Protocol):
    """An attempt's access to its files; the miner program provides it."""

    async def download(self, ref: str, to: Path, *, max_bytes: int) -> None:
        """Fetch the file `ref` into a new file.

        `blob:<sha256>` names a file of the coordinator, whose digest is verified. An http(s) URL names a
        public server, never one of this machine's own network.
        Raises ExecutorError: INPUT_TOO_LARGE beyond `max_bytes`, and other codes.
        """

    async def upload(self, path: Path, *, media_type: str) -> OutputFile:
        """Store a file; its name in the result is the path's last part."""


WORKSPACE_PREFIX: Final = "coordinator-job-"
UNLOCKED_PREFIX: Final = "coordinator-new-"
"""Of a folder for the moment until its maker has locked it."""
YOUNG_SECONDS: Final = 60.0
"""A younger folder may be one that another miner has just made and not yet locked."""


class Workspace:
    """A temporary folder, made at its first use: tiny jobs never make one.

    It is locked until it is removed, or its process ends: see `remove_left_workspaces`.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self._parent = parent
        self._path: Path | None = None
        self._lock: int | None = None

    @property
    def path(self) -> Path:
        """The folder, mode 0700."""
        if self._path is None:
            made = Path(tempfile.mkdtemp(prefix=UNLOCKED_PREFIX, dir=self._parent))
            self._lock = _locked(made)
            # Renamed once it is locked: so a folder of this name without a lock was left by a killed miner,
            # also by one that ended a moment ago.
            self._path = made.rename(made.with_name(WORKSPACE_PREFIX + made.name[len(UNLOCKED_PREFIX) :]))
        return self._path

    @property
    def used(self) -> bool:
        """Whether the folder was made."""
        return self._path is not None

    def remove(self) -> None:
        """Remove the folder and everything in it, if it was made. Blocks until that is done."""
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def _locked(folder: Path) -> int | None:
    """The descriptor that holds the folder's lock; None if another process has it, or it is not ours."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def remove_left_workspaces(parent: Path | None = None) -> int:
    """Remove the folders of miners that were killed; returns their number. Blocks."""
    place = Path(parent or tempfile.gettempdir())
    removed = 0
    for folder in (*place.glob(f"{WORKSPACE_PREFIX}*"), *place.glob(f"{UNLOCKED_PREFIX}*")):
        lock = _locked(folder)
        if lock is None:
            continue
        try:
            young = os.fstat(lock).st_mtime > time.time() - YOUNG_SECONDS
            if young and folder.name.startswith(UNLOCKED_PREFIX):
                continue
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
        finally:
            os.close(lock)
    return removed


def _ignore(text: str) -> None:
    """Drops the text: nobody listens."""


@dataclass(frozen=True, slots=True)
class Work:
    """One attempt at one job.

    `progress(fraction, note)` takes a fraction 0..1 and a note on the current step. `emit(text)` appends to
    the job's text output (tokens, segments of a transcript). Both return at once, never raise, and may be
    called from any thread. Watchers of the job see them within a fraction of a second. Emitted text is not
    stored: the result must contain the whole text, too.
    """

    job_id: str
    attempt: int
    service: str
    payload: Mapping[str, Any]
    workspace: Workspace
    blobs: BlobAccess
    progress: Callable[[float, str], None]
    emit: Callable[[str], None] = _ignore
    share: Share = field(default_factory=whole_machine)
    """The part of this machine that the work may use; `run_program` holds programs to it."""

    @property
    def folder(self) -> Path:
        """The attempt's temporary folder; the maker of the work removes it."""
        return self.workspace.path


@dataclass(frozen=True, slots=True)
class Outcome:
    """A job's result, in the form of the service's output schema, the metrics of the run, and its units."""

    result: dict[str, Any]
    metrics: dict[str, int | str] = field(default_factory=dict)
    units: Mapping[CountedUnit, int | str] = field(default_factory=dict)
    """The numbers of units in the work besides its time: whole numbers, or decimal texts. The miner signs
    them, and is paid by one of them if its service is billed by that unit."""


class Executor(Protocol):
    """Runs jobs of its services, also several at once.

    It may have four more attributes. The miner advertises `models` (a tuple of names, read after each check)
    besides its own `--model`. An executor with `watched = True` is checked again while the miner runs, as its
    server may come and go; the miner then advertises the services and models that are left. With
    `instant = True` a job takes microseconds, and its result also claims it. `gpu_vendors` (a set, read after
    a check) names the vendors whose GPUs it uses itself: `coordinator doctor` shows it.
    """

    @property
    def services(self) -> tuple[str, ...]:
        """Ids of the catalogue's entries whose jobs it runs; may be a plain class attribute."""

    async def check(self) -> str | None:
        """None if this machine can run these services, otherwise the reason. Called before the first job.

        If a setting is missing, the reason is "NAME is not set".
        """

    async def run(self, work: Work) -> Outcome:
        """Do the work. Raises ExecutorError. A cancellation stops everything that it has started."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """Executors by service; and the errors of broken ones, by the names of their entry points."""

    executors: dict[str, Executor]
    broken: dict[str, str]


def discover_executors() -> Discovery:
    """Load every installed executor. A broken one costs only its own services."""
    found = Discovery({}, {})
    for entry in sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        try:
            executor: Executor = entry.load()()
            taken = [service for service in executor.services if service in found.executors]
            if taken:
                raise ValueError(f"another executor already runs {', '.join(taken)}")
        except Exception as error:
            found.broken[entry.name] = f"{type(error).__name__}: {error}"
        else:
            found.executors.update(dict.fromkeys(executor.services, executor))
    return found


def load_executors() -> dict[str, Executor]:
    """Executors by service; broken ones are logged."""
    found = discover_executors()
    for name, problem in found.broken.items():
        _log.warning("executor_broken", executor=name, problem=problem)
    return found.executors


async def document_of(work: Work, result: LargeResult) -> dict[str, Any]:
    """The result as JSON; if it is too large for a message, its small form, and all of it in a file."""
    document = result.document()
    content = await asyncio.to_thread(lambda: json.dumps(document, ensure_ascii=False).encode())
    if len(content) <= INLINE_BYTES and not has_more_values(content, INLINE_VALUES):
        return document
    path = work.folder / "result.json"
    await asyncio.to_thread(path.write_bytes, content)
    return result.in_file(await work.blobs.upload(path, media_type=WHOLE_RESULT_TYPE)).document()


def payload_of(service: KnownService[P, Any], work: Work) -> P:
    """The work's payload. Raises ExecutorError: INVALID_PAYLOAD, naming the first invalid field, no value."""
    try:
        payload = service.payload.validate_python(work.payload)
    except ValidationError as error:
        raise ExecutorError(INVALID_PAYLOAD, meant_field(error, work.payload).text("payload")) from None
    if contradiction := payload.contradiction():
        raise ExecutorError(INVALID_PAYLOAD, contradiction)
    return payload
