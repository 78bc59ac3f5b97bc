"""What is said of a running job, and what is known of it: its progress, and the end of its text.

None of it is an event, and none of it touches the database: what is lost is lost, and the result has it
all. The values are here: `progress_hub` has one `Tail` for each running job, `progress_stream` each
reader's `ReaderPlace` in it. So a slow reader costs no memory: what it did not fetch in time is merged, and
beyond `MAX_PROGRESS_TEXT` characters it is a gap, which `offset` shows.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from coordinator.domain.messages import Attempt, MinerId, SessionId
from coordinator.wire.limits import MAX_PROGRESS_NOTE, MAX_PROGRESS_TEXT

Note = Annotated[str, StringConstraints(max_length=MAX_PROGRESS_NOTE)]
OutputText = Annotated[str, StringConstraints(max_length=MAX_PROGRESS_TEXT)]


class Progress(BaseModel):
    """How far an attempt is, and what its text output grew by.

    Characters are Unicode code points. A reader that has had fewer than `offset` of them has a gap.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    job_id: UUID
    attempt: Attempt
    seq: Annotated[int, Field(ge=0, lt=2**53)]
    """Increases with each report of the attempt."""
    fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    """How much of the work is done; absent where that is unknown, or as it was."""
    note: Note | None = None
    """A word for what is being done."""
    text: OutputText | None = None
    """What the job's text output grew by."""
    offset: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    """How many characters of text came before `text`."""

    @model_validator(mode="after")
    def _text_has_a_place(self) -> Progress:
        if self.text and self.offset is None:
            raise ValueError("text needs an offset")
        return self


class ProgressReport(Progress):
    """What a miner says of an attempt that it holds."""

    miner_id: MinerId
    session_id: SessionId
    whole: bool = False
    """This is the text so far, as it was asked for (a hint `progress`)."""


class ReaderPlace(NamedTuple):
    """How far a reader is in a job's progress."""

    attempt: int = 0
    seq: int = -1
    end: int = 0
    """Characters of the text that it has had, or missed."""


class Tail:
    """What is known of one job's present attempt."""

    __slots__ = ("attempt", "client", "fraction", "note", "offset", "said_at", "seq", "text")

    def __init__(self, client: str, attempt: int) -> None:
        self.client = client
        self.attempt = attempt
        self.seq = -1
        self.said_at = -1
        """The `seq` with which fraction or note changed last."""
        self.fraction: float | None = None
        self.note: str | None = None
        self.text = ""
        self.offset = 0
        """Characters before `text`."""

    @property
    def end(self) -> int:
        return self.offset + len(self.text)

    def take_in(self, item: Progress) -> bool:
        """Whether it says anything new."""
        news = self._take_text(item.text, item.offset or 0) if item.text else False
        if item.seq > self.seq:
            if item.fraction is not None or item.note is not None:
                self.fraction = self.fraction if item.fraction is None else item.fraction
                self.note = self.note if item.note is None else item.note
                self.said_at = item.seq
                news = True
            self.seq = item.seq
        return news

    def _take_text(self, text: str, offset: int) -> bool:
        end, before = offset + len(text), self.end
        if not self.text or offset > before:
            if end <= before:
                return False
            self.text, self.offset = text[max(0, before - offset) :], max(offset, before)
        else:
            # They overlap or touch: the part in front of ours (a late answer has it), ours, the part behind.
            gateway = text[: self.offset - offset] if offset < self.offset and end >= self.offset else ""
            behind = text[before - offset :] if end > before else ""
            if not gateway and not behind:
                return False
            self.text, self.offset = gateway + self.text + behind, self.offset - len(gateway)
        surplus = len(self.text) - MAX_PROGRESS_TEXT
        if surplus > 0:
            self.text, self.offset = self.text[surplus:], self.offset + surplus
        return True

    def after(self, job_id: UUID, place: ReaderPlace) -> tuple[Progress | None, ReaderPlace]:
        """What a reader at `place` has not had, and its place then."""
        if place.attempt != self.attempt:
            place = ReaderPlace(self.attempt)
        start = max(place.end, self.offset)
        text = self.text[start - self.offset :]
        said = self.said_at > place.seq
        now = ReaderPlace(self.attempt, self.seq, self.end)
        if not text and not said:
            return None, now
        item = Progress.model_construct(
            job_id=job_id,
            attempt=self.attempt,
            seq=self.seq,
            fraction=self.fraction if said else None,
            note=self.note if said else None,
            text=text or None,
            offset=start if text else None,
        )
        return item, now
