"""What the coordinator answers, typed. Members that a newer coordinator adds are kept, not refused.

Moments are aware datetimes; prices and units are decimal strings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr

from coordinator.crypto.refs import blob_ref, blob_refs, parse_blob_ref

if TYPE_CHECKING:
    from coordinator.crypto.receipt import Verified


class AnswerModel(BaseModel):
    """An answer, and the JSON it came as."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    _document: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """The typed form of a JSON answer. Raises pydantic.ValidationError."""
        answer = cls.model_validate(document)
        answer._document = document
        return answer

    def document(self) -> dict[str, Any]:
        """The JSON that was answered, with every member, known here or not."""
        return self._document


class JobSubmitAnswer(AnswerModel):
    """A job was accepted (or, for a repeat, had been). `position` is where its event is in the log."""

    job_id: str
    state: str
    expires_at: datetime
    position: int


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str = ""


class JobView(AnswerModel):
    """One job as it was when it was looked at."""

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

    @property
    def final(self) -> bool:
        """Whether the job's state will never change again."""
        # Here, since the domain's models take longer to import than most commands take to run.
        from coordinator.domain.job import FINAL_STATES

        return self.state in FINAL_STATES

    @property
    def problem(self) -> str:
        """Why it failed, as one line; empty where it did not."""
        if self.error is None:
            return ""
        return ": ".join(part for part in (self.error.code, self.error.message) if part)


class JobResult(AnswerModel):
    """What a completed job gave. `result_digest` is SHA-256 over `result_salt` and the canonical result."""

    job_id: str
    state: str
    result: dict[str, Any]
    attempt: int
    miner_id: str
    finished_at: datetime
    result_digest: str
    result_salt: str

    def files(self) -> Iterator[ResultFile]:
        """The files that the result names, wherever in it they are."""
        waiting: list[tuple[str, Any]] = [("file", self.result)]
        while waiting:
            name, value = waiting.pop(0)
            if isinstance(value, dict):
                named = value.get("name")
                for member, inner in value.items():
                    # `{"name": …, "blob": …}` is how executors describe a file.
                    own = named if member == "blob" and isinstance(named, str) else member
                    waiting.append((own, inner))
            elif isinstance(value, list):
                waiting += [(name, inner) for inner in value]
            elif isinstance(value, str) and blob_refs(value):
                yield ResultFile(_harmless(name), parse_blob_ref(value))


class Update(AnswerModel):
    """Something that happened to a job, from its `stream`. `attempt` is the one that it is about."""

    job_id: str
    attempt: int | None = None


class StateChanged(Update):
    """The job is in another state. `position` is the event's place in the log."""

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
    """How far the attempt is (0 to 1), and a word for what is being done. The newest counts."""

    attempt: int
    fraction: float | None = None
    note: str | None = None


class Tokens(Update):
    """What the attempt's text grew by. `offset` characters came before: more than you have had is a gap."""

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
"""By the type of what a coordinator sends."""


class JobCancelAnswer(AnswerModel):
    """A job was cancelled (or, for a repeat, had been)."""

    job_id: str
    state: str
    position: int


class Receipt(AnswerModel):
    """A signed receipt (AITBC receipt 1.0). `price` is a decimal string; the moments are Unix seconds."""

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
    ) -> Verified:
        """Check it with public keys alone; nothing is asked of anybody.

        `trusted` are key ids of coordinators that you trust (one's `signing_key_id` is in its `health()`, but
        keep it, or take it from its operator: who could forge the receipt could forge that, too). None trusts
        no key, and shows only that the receipt is whole. `miner_keys` maps miners' names to key ids.
        Raises crypto.receipt.VerificationFailed.
        """
        from coordinator.crypto.receipt import verify_receipt

        return verify_receipt(self.document(), trusted, miner_keys)


class ResultFile(NamedTuple):
    """A file of a result: a name that is safe to use in a folder of one's own, and its SHA-256."""

    name: str
    sha256: str


class Blob(NamedTuple):
    """A stored file: SHA-256 in hex, and size in bytes."""

    sha256: str
    size: int

    @property
    def ref(self) -> str:
        """How a payload names it."""
        return blob_ref(self.sha256)


def _harmless(name: str) -> str:
    """A file name out of one that somebody else chose: it must not lead out of a folder, or be hidden."""
    kept = "".join(c if c.isalnum() or c in "._-" else "_" for c in name[:100]).lstrip(".")
    return kept or "file"


class ServiceSummary(AnswerModel):
    """A service of the registry, as lists show it."""

    id: str
    name: str
    category: str
    description: str
    pricing: dict[str, Any]
    tags: tuple[str, ...]
    aliases: tuple[str, ...]
    version: int
    retired: bool


class ServiceEntry(ServiceSummary):
    """A service of the registry, in full. The schemas are JSON Schema 2020-12."""

    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    requirements: dict[str, Any]
    capabilities: tuple[str, ...]
    max_concurrent: int
    timeout_seconds: int

    def spec(self) -> dict[str, Any]:
        """The entry as `register` and `revise` take it."""
        return {name: value for name, value in self.document().items() if name not in ("version", "retired")}


class ServiceChanged(AnswerModel):
    """A service was registered, revised or retired (or, for a repeat, had been)."""

    service: str
    version: int
    retired: bool
    position: int


class ServiceVersion(AnswerModel):
    """One change of a service."""

    version: int
    change: str
    at: datetime
    by: str
    position: int
