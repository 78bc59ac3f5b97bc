"""The page Job: one sentence first, then lanes, attempts, events and the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from coordinator.application.search.jobs import FoundJob
from coordinator.domain.messages import Millis
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer

LaneName = Literal["queued", "offered", "lease", "attempt", "result"]
Outcome = Literal["waits", "runs", "completed", "failed", "lost", "released", "canceled", "expired"]
ResultKind = Literal["none", "erased", "large", "json", "table", "text", "image", "audio", "video", "file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of a lane. `end` None: it goes on."""

    begin: Millis
    end: Millis | None
    outcome: Outcome
    text: str
    """A few words: the miner, and the error's code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One line of the timeline, oldest span first."""

    name: LaneName
    label: str
    """`queued`, `attempt 2`, …"""
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptLine:
    """One attempt. An attempt that nobody claimed yet has no miner."""

    attempt: int
    miner_id: str | None
    outcome: Outcome
    begun_at: Millis | None
    ended_at: Millis | None
    seconds: float | None
    """From the claim to the end; to now while it runs."""
    error_code: str | None
    error_message: str | None
    units: str | None
    cost: str | None
    """The billed price; only completed attempts are billed."""
    metrics: dict[str, int | str]
    """As the miner reported them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLine:
    """One event of the log."""

    position: int
    at: Millis
    topic: str
    by: str
    text: str
    """A sentence."""
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonLine:
    """One reason why the job waits."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaxationLine:
    """The smallest change of one constraint that would find miners."""

    constraint: str
    text: str
    miners: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """A file that the result names; `GET /v1/jobs/{id}/blobs/{sha256}` has its bytes."""

    name: str
    sha256: str
    kind: ResultKind
    """`image`, `audio`, `video`, `table`, `text`, `json` or `file`, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultView:
    """The result, as people would rather look at it."""

    kind: ResultKind
    document: Any
    """The JSON of the result; None if there is none, if it was erased or is too large for a page."""
    files: tuple[ResultFile, ...]
    columns: tuple[str, ...]
    """Of a table: the names of its columns."""
    rows: tuple[tuple[Any, ...], ...]
    """Of a table: its first rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStory:
    """Everything that the page of one job shows."""

    job: FoundJob
    sentence: str
    """Plain, first on the page."""
    reasons: tuple[ReasonLine, ...]
    """Of a job that waits, the decisive one first."""
    relaxations: tuple[RelaxationLine, ...]
    lanes: tuple[Lane, ...]
    attempts: tuple[AttemptLine, ...]
    events: tuple[EventLine, ...]
    result: ResultView
    constraints: dict[str, Any]
    list_price: str
    timeout_seconds: int
    trace_id: str | None
    request: dict[str, Any] | None
    """The body of the same request, for copies as curl, CLI and Python; None if the payload was erased or is
    large."""
    payload_erased: int | None
    """The position of the event that says so."""
    result_erased: int | None
    has_receipt: bool
    has_passport: bool
    may_cancel: bool
    """Whether this viewer could cancel it now."""
    may_submit_again: bool
    now: Millis
    position: int
    """The last event's."""


async def story(context: EdgeContext, viewer: Viewer, job_id: UUID) -> JobStory:
    """Everything about one job. Raises Refusal, the same one for another client's job as for no job."""
    raise NotImplementedError


async def cancel(context: EdgeContext, viewer: Viewer, job_id: UUID, reason: str = "") -> int:
    """Cancel the job as this viewer; the position of the effect. Raises Refusal."""
    raise NotImplementedError


async def submit_again(context: EdgeContext, viewer: Viewer, job_id: UUID, form: str = "") -> UUID:
    """Submit a final job again, for its client; the new job's id. Raises Refusal.

    `form`: an id of the page's form; the same form submits once.
    """
    raise NotImplementedError
