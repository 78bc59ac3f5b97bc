"""What an executor is: the code that really runs jobs of one or a few services.

An executor gets a `Work`, returns an `Outcome` or raises ExecutorError, and knows nothing of coordinators,
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
from coordinator.validation import first_invalid_field

ENTRY_POINT_GROUP: Final = "coordinator.executors"

INVALID_PAYLOAD: Final = "INVALID_PAYLOAD"
INPUT_TOO_LARGE: Final = "INPUT_TOO_LARGE"
EXECUTOR_TIMEOUT: Final = "EXECUTOR_TIMEOUT"
EXECUTOR_FAILED: Final = "EXECUTOR_FAILED"
EXECUTOR_KILLED: Final = "EXECUTOR_KILLED"
OUTPUT_TOO_LARGE: Final = "OUTPUT_TOO_LARGE"
UNSUPPORTED: Final = "UNSUPPORTED"
ENGINE_UNAVAILABLE: Final = "ENGINE_UNAVAILABLE"
"""The engine behind the executor is away. The miner looks at once whether it still is, and if so hands the
job back rather than fail it."""

_log = structlog.get_logger(__name__)


class ExecutorError(Exception):
    """A job could not be done. `detail` is for the client: no paths, names or secrets of this machine.

    `retryable` says whether another attempt, perhaps on another miner, may succeed.
    """

    def __init__(self, code: str, detail: str, *, retryable: bool = False) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.retryable = retryable


class BlobAccess(Protocol):
    """An attempt's way to its files; given by the miner program."""

    async def download(self, ref: str, to: Path, *, max_bytes: int) -> None:
        """Fetch the file that `ref` names into a new file.

        `blob:<sha256>` is one of the coordinator's, whose digest is verified; an http(s) URL leads elsewhere,
        but never into this machine's own network.
        Raises ExecutorError: INPUT_TOO_LARGE beyond `max_bytes`, others as the program sees fit.
        """

    async def upload(self, path: Path, *, media_type: str) -> OutputFile:
        """Store a file; its name in the result is the path's last part."""


class Workspace:
    """A temporary folder that exists from its first use to `remove`, so that tiny jobs never make one."""

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
        """Whether there is a folder to remove."""
        return self._path is not None

    def remove(self) -> None:
        """Remove the folder and everything in it, if there is one. Blocks for as long as that takes."""
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def _unheard(text: str) -> None:
    """Nobody listens to this work's text."""


@dataclass(frozen=True, slots=True)
class Work:
    """One attempt at one job.

    `progress(fraction, note)` takes a fraction 0..1 and a word for what is being done. `emit(text)` says that
    the job's text output so far grows by this text (tokens, segments of a transcript). Both return at once,
    never raise, and may be called from the event loop's thread or any other: whoever watches the job sees it
    within a fraction of a second, and nothing of it is kept: the whole text belongs into the result, too.
    """

    job_id: str
    attempt: int
    service: str
    payload: Mapping[str, Any]
    workspace: Workspace
    blobs: BlobAccess
    progress: Callable[[float, str], None]
    emit: Callable[[str], None] = _unheard

    @property
    def folder(self) -> Path:
        """The attempt's temporary folder; whoever made the work removes it."""
        return self.workspace.path


@dataclass(frozen=True, slots=True)
class Outcome:
    """A job's result, as the service's output schema describes it, and what the run took."""

    result: dict[str, Any]
    metrics: dict[str, int | str] = field(default_factory=dict)


class Executor(Protocol):
    """Runs jobs of the services that it names, several at once if asked to.

    It may have three more attributes. `models` (a tuple of names, read after each check) is what the miner
    advertises besides its own `--model`. With `watched = True` it is checked again while the miner runs, for
    what can come and go by itself, such as a server; the miner then advertises what is left. With
    `instant = True` a job takes microseconds, and its result claims it too.
    """

    @property
    def services(self) -> tuple[str, ...]:
        """Ids of the catalogue's entries whose jobs it runs; a plain class attribute will do."""

    async def check(self) -> str | None:
        """None if this machine can run these services, otherwise why not. Called before they are offered.

        Where it is not set up at all (a setting is missing), the reason says which.
        """

    async def run(self, work: Work) -> Outcome:
        """Do the work. Raises ExecutorError. Cancelling it stops whatever it has started."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """Executors by service, and by the names of their entry points what is wrong with the others."""

    executors: dict[str, Executor]
    broken: dict[str, str]


def discover_executors() -> Discovery:
    """Load every executor that is installed. One that is broken costs only its own services."""
    found = Discovery({}, {})
    for entry in sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        try:
            executor: Executor = entry.load()()
            taken = [service for service in executor.services if service in found.executors]
            if taken:
                raise ValueError(f"another executor runs {', '.join(taken)} already")
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
    """The work's payload. Raises ExecutorError: INVALID_PAYLOAD with the first fault, without its value."""
    try:
        payload = service.payload.validate_python(work.payload)
    except ValidationError as error:
        raise ExecutorError(INVALID_PAYLOAD, first_invalid_field(error).text("payload")) from None
    if contradiction := payload.contradiction():
        raise ExecutorError(INVALID_PAYLOAD, contradiction)
    return payload
