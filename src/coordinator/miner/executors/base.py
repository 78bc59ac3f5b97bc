"""The interface of executors: the code that runs jobs of one or a few services.

An executor gets a `Work`, and returns an `Outcome` or raises ExecutorError. It does not know coordinators,
leases or signatures. Third parties add executors through the entry point group `coordinator.executors`.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Protocol, Self

import structlog
from pydantic import ValidationError

from coordinator.services.base import KnownService, OutputFile, P
from coordinator.validation import meant_field

ENTRY_POINT_GROUP: Final = "coordinator.executors"

INVALID_PAYLOAD: Final = "INVALID_PAYLOAD"
INPUT_TOO_LARGE: Final = "INPUT_TOO_LARGE"
EXECUTOR_TIMEOUT: Final = "EXECUTOR_TIMEOUT"
EXECUTOR_FAILED: Final = "EXECUTOR_FAILED"
EXECUTOR_KILLED: Final = "EXECUTOR_KILLED"
OUTPUT_TOO_LARGE: Final = "OUTPUT_TOO_LARGE"
UNSUPPORTED: Final = "UNSUPPORTED"
ENGINE_UNAVAILABLE: Final = "ENGINE_UNAVAILABLE"
"""The executor can't reach its engine. The miner checks the engine at once; if it is still unreachable, the
miner hands the job back instead of failing it."""

_log = structlog.get_logger(__name__)


class ExecutorError(Exception):
    """The job failed. `detail` is for the client: no paths, names or secrets of this machine.

    `retryable` says whether another attempt, perhaps on another miner, may succeed.
    """

    def __init__(self, code: str, detail: str, *, retryable: bool = False) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.retryable = retryable


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


class Workspace:
    """A temporary folder, made at its first use: tiny jobs never make one."""

    def __init__(self, parent: Path | None = None) -> None:
        self._parent = parent
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """The folder, mode 0700."""
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(prefix="job-", dir=self._parent))
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


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

    @property
    def folder(self) -> Path:
        """The attempt's temporary folder; the maker of the work removes it."""
        return self.workspace.path


@dataclass(frozen=True, slots=True)
class Outcome:
    """A job's result, in the form of the service's output schema, and the metrics of the run."""

    result: dict[str, Any]
    metrics: dict[str, int | str] = field(default_factory=dict)


class Executor(Protocol):
    """Runs jobs of its services, also several at once.

    It may have three more attributes. The miner advertises `models` (a tuple of names, read after each check)
    besides its own `--model`. An executor with `watched = True` is checked again while the miner runs, as its
    server may come and go; the miner then advertises the services and models that are left. With
    `instant = True` a job takes microseconds, and its result also claims it.
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


def payload_of(service: KnownService[P, Any], work: Work) -> P:
    """The work's payload. Raises ExecutorError: INVALID_PAYLOAD, naming the first invalid field, no value."""
    try:
        payload = service.payload.validate_python(work.payload)
    except ValidationError as error:
        raise ExecutorError(INVALID_PAYLOAD, meant_field(error, work.payload).text("payload")) from None
    if contradiction := payload.contradiction():
        raise ExecutorError(INVALID_PAYLOAD, contradiction)
    return payload
