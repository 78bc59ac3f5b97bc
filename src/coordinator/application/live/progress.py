"""The values of progress: reports about a running job, and the tail of its text output.

Progress is not an event and never touches the database. Lost progress stays lost; the result is complete.
`progress_hub` keeps one `Tail` for each running job, `progress_stream` each reader's `ReaderPlace` in it. So
a slow reader costs no memory: progress that it did not fetch in time is merged, and text beyond
`MAX_PROGRESS_TEXT` characters becomes a gap, which `offset` shows.
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
    """The progress of an attempt, and new text of its output.

    Characters are Unicode code points. A reader that has fewer than `offset` of them has a gap.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    job_id: UUID
    attempt: Attempt
    seq: Annotated[int, Field(ge=0, lt=2**53)]
    """Increases with each report of the attempt."""
    fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    """The share of the work that is done; absent if unknown or unchanged."""
    note: Note | None = None
    """The current step, for people."""
    text: OutputText | None = None
    """New text of the job's output."""
    offset: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    """The number of characters before `text`."""

    @model_validator(mode="after")
    def _text_has_a_place(self) -> Progress:
        if self.text and self.offset is None:
            raise ValueError("text needs an offset")
        return self


class ProgressReport(Progress):
    """A miner's report about an attempt that it holds."""

    miner_id: MinerId
    session_id: SessionId
    whole: bool = False
    """Whether this is the whole text so far, in answer to a hint `progress`."""


class ReaderPlace(NamedTuple):
    """A reader's place in a job's progress."""

    attempt: int = 0
    seq: int = -1
    end: int = 0
    """Characters of the text that the reader has got or missed."""


class Tail:
    """The known progress of a job's current attempt, and the tail of its text."""

    __slots__ = ("attempt", "client", "fraction", "note", "offset", "said_at", "seq", "text")

    def __init__(self, client: str, attempt: int) -> None:
        self.client = client
        self.attempt = attempt
        self.seq = -1
        self.said_at = -1
        """The `seq` of the last change of fraction or note."""
        self.fraction: float | None = None
        self.note: str | None = None
        self.text = ""
        self.offset = 0
        """Characters before `text`."""

    @property
    def end(self) -> int:
        return self.offset + len(self.text)

    def take_in(self, item: Progress) -> bool:
        """Add a report; returns whether it has news."""
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
            # The texts overlap or touch: join the part before ours (from a late answer), ours, and the rest.
            prefix = text[: self.offset - offset] if offset < self.offset and end >= self.offset else ""
            suffix = text[before - offset :] if end > before else ""
            if not prefix and not suffix:
                return False
            self.text, self.offset = prefix + self.text + suffix, self.offset - len(prefix)
        surplus = len(self.text) - MAX_PROGRESS_TEXT
        if surplus > 0:
            self.text, self.offset = self.text[surplus:], self.offset + surplus
        return True

    def after(self, job_id: UUID, place: ReaderPlace) -> tuple[Progress | None, ReaderPlace]:
        """The news for a reader at `place`, and its new place."""
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
