"""The coordinator's answers, typed. Members that a newer coordinator adds are kept, not refused.

Times are aware datetimes; prices and units are decimal strings.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypedDict

from pydantic import BaseModel, ConfigDict, PrivateAttr

from coordinator.crypto.refs import blob_ref, blob_refs, parse_blob_ref

if TYPE_CHECKING:
    from coordinator.crypto.receipt import VerifiedReceipt


class AnswerModel(BaseModel):
    """An answer, and its JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    _document: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """The typed form of a JSON answer. Raises pydantic.ValidationError."""
        answer = cls.model_validate(document)
        answer._document = document
        return answer

    def document(self) -> dict[str, Any]:
        """The JSON of the answer, with all members, even those unknown here."""
        return self._document


class SubmitOptions(TypedDict, total=False):
    """What a submit may say beside its service and payload; `submit` explains each."""

    constraints: Mapping[str, Any] | None
    ttl_seconds: int | None
    priority: int | None
    max_attempts: int | None
    idempotency_key: str | None
    when_unmatched: Literal["wait", "refuse"] | None
    callback_url: str | None
    budget: int | None


class JobSubmitAnswer(AnswerModel):
    """A job was accepted, now or earlier (for a repeat). `position` is its event's place in the log."""

    job_id: str
    state: str
    expires_at: datetime
    position: int


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str = ""


class JobView(AnswerModel):
    """One job at the time of the request."""

    job_id: str
    state: str
    service: str
    attempt: int
    assigned_miner_id: str | None = None
    requested_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime
    error: JobError | None = None
    payload_erased: int | None = None
    """The position of the event that says that the payload was erased; None while it is stored."""
    result_erased: int | None = None
    """The same of the result; None, too, if there is none."""

    @property
    def final(self) -> bool:
        """Whether the job's state will never change again."""
        # Imported here: the domain's models take longer to import than most CLI commands to run.
        from coordinator.domain.job import FINAL_STATES

        return self.state in FINAL_STATES

    @property
    def problem(self) -> str:
        """Why the job failed, in one line; empty if it did not."""
        if self.error is None:
            return ""
        return ": ".join(part for part in (self.error.code, self.error.message) if part)


class HistoryEntry(BaseModel):
    """One event of a job: its facts, and a sentence for people. Names and messages come from strangers."""

    position: int
    at: datetime
    type: str
    text: str
    event: dict[str, Any]


class JobHistory(AnswerModel):
    """Everything that happened to a job, in order."""

    job_id: str
    state: str
    entries: list[HistoryEntry]


class MatchReason(BaseModel):
    """One reason: a code and counts for programs, a text for people."""

    code: str
    text: str
    constraint: str | None = None
    counts: dict[str, int] = {}


class Relaxation(BaseModel):
    """The smallest change of one constraint that finds miners. `to` None: without the constraint."""

    constraint: str
    asked: str | int | list[str] | None = None
    to: str | int | list[str] | None = None
    miners: int
    text: str


class JobMatch(AnswerModel):
    """Why a job waits. The first reason is decisive; `relaxations` are there while no miner can be found."""

    job_id: str
    state: str
    sentence: str
    reasons: list[MatchReason]
    relaxations: list[Relaxation]
    models: dict[str, int]
    miners_online: int
    miners_running_service: int
    miners_found: int
    since: datetime
    expires_at: datetime
    miner_id: str | None = None


class Improvement(BaseModel):
    """The smallest change of one capability that brings jobs."""

    constraint: str
    to: str | int | list[str] | None = None
    jobs: int
    text: str


class MinerMatch(AnswerModel):
    """Why a miner has no work. The first reason is decisive."""

    miner_id: str
    state: str
    sentence: str
    reasons: list[MatchReason]
    improvements: list[Improvement]
    slots: int
    busy_slots: int
    queued_jobs: int
    queued_jobs_of_its_services: int
    queued_jobs_fitting: int


class JobResult(AnswerModel):
    """The result of a completed job. `result_digest`: SHA-256 over `result_salt` and the canonical result."""

    job_id: str
    state: str
    result: dict[str, Any]
    attempt: int
    miner_id: str
    finished_at: datetime
    result_digest: str
    result_salt: str

    def files(self) -> Iterator[ResultFile]:
        """The files that the result names, at any depth."""
        waiting: list[tuple[str, Any]] = [("file", self.result)]
        while waiting:
            name, value = waiting.pop(0)
            if isinstance(value, dict):
                named = value.get("name")
                for member, inner in value.items():
                    # Executors describe a file as `{"name": …, "blob": …}`.
                    own = named if member == "blob" and isinstance(named, str) else member
                    waiting.append((own, inner))
            elif isinstance(value, list):
                waiting += [(name, inner) for inner in value]
            elif isinstance(value, str) and blob_refs(value):
                yield ResultFile(_safe_name(name), parse_blob_ref(value))


class Update(AnswerModel):
    """An update of a job, from its `stream`. `attempt` is the attempt that it is about."""

    job_id: str
    attempt: int | None = None


class StateChanged(Update):
    """The job changed its state. `position` is the event's place in the log."""

    state: str
    position: int
    at: datetime
    miner_id: str | None = None
    error: JobError | None = None

    @property
    def final(self) -> bool:
        """Whether the job's state will never change again."""
        from coordinator.domain.job import FINAL_STATES

        return self.state in FINAL_STATES


class AttemptEndedUpdate(Update):
    """An attempt ended without a result: it `failed`, was `lost` or `released`."""

    outcome: str
    position: int
    at: datetime
    miner_id: str
    error: JobError


class ProgressMade(Update):
    """The attempt's progress (0 to 1), and a note on the current step. The newest counts."""

    attempt: int
    fraction: float | None = None
    note: str | None = None


class Tokens(Update):
    """New text of the attempt. `offset` characters came before it; if you have fewer, some were lost."""

    attempt: int
    text: str
    offset: int


UPDATES: dict[str, type[Update]] = {
    "state.changed": StateChanged,
    "result.ready": StateChanged,
    "attempt.ended": AttemptEndedUpdate,
    "progress": ProgressMade,
    "tokens": Tokens,
}
"""By the type of the message."""


class JobCancelAnswer(AnswerModel):
    """A job was cancelled, now or earlier (for a repeat)."""

    job_id: str
    state: str
    position: int


class EraseAnswer(AnswerModel):
    """An erasure is in the log at `position`. `erased`: whether it is carried out, too, or follows soon."""

    jobs: int
    kinds: list[str]
    erased: bool
    position: int


class ErasePiece(AnswerModel):
    """A piece of an admin's erasure of many jobs, or what it would be (`dry_run`)."""

    jobs: int
    payloads: int
    results: int
    dry_run: bool
    erased: bool
    position: int
    next_cursor: str | None = None


class Receipt(AnswerModel):
    """A signed receipt (AITBC receipt 1.0). `price` is a decimal string; times are Unix seconds."""

    receipt_id: str
    job_id: str
    provider: str
    client: str
    units: str
    unit_type: str
    price: str | None = None
    started_at: int
    completed_at: int

    def verify(
        self, trusted: Collection[str] | None, miner_keys: Mapping[str, str] | None = None
    ) -> VerifiedReceipt:
        """Check the receipt with public keys alone, offline.

        `trusted` are key ids of coordinators that you trust. A coordinator's `signing_key_id` is in its
        `health()`, but keep it, or take it from its operator: a forger of the receipt could forge it, too.
        None trusts no key: the check then shows only that the receipt is unchanged. `miner_keys` maps miners'
        names to key ids. Raises crypto.receipt.VerificationFailed.
        """
        from coordinator.crypto.receipt import verify_receipt

        return verify_receipt(self.document(), trusted, miner_keys)


class Passport(AnswerModel):
    """A job's passport: one JSON document that proves the job offline.

    `document()` is the whole of it. `coordinator passport verify FILE --trusted KEY` checks it, and so does
    any program by docs/passport.md.
    """

    format: str
    job_id: str

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, whole or not at all. Raises OSError."""
        target = Path(path)
        part = target.with_name(f".{target.name}.part")
        try:
            part.write_text(
                json.dumps(self.document(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
            )
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


class ResultFile(NamedTuple):
    """A file of a result: its SHA-256, and a name that is safe as a file name in any folder."""

    name: str
    sha256: str


class Blob(NamedTuple):
    """A stored file: SHA-256 in hex, and size in bytes."""

    sha256: str
    size: int

    @property
    def ref(self) -> str:
        """The file's name in a payload."""
        return blob_ref(self.sha256)


def _safe_name(name: str) -> str:
    """A safe file name from a stranger's: it must not lead out of a folder, or be hidden."""
    kept = "".join(c if c.isalnum() or c in "._-" else "_" for c in name[:100]).lstrip(".")
    return kept or "file"
