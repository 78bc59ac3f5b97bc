"""Dead letters: messages that could not be handled, and what became of those that were sent again."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool
from pydantic.config import JsonValue

from coordinator.edge.models.base import Moment, View

LetterId = Annotated[str, Field(pattern=r"^[0-9a-f]{20}$")]
MAX_LETTERS = 500
_IDS_OR_ALL: Final[list[JsonValue]] = [
    {"properties": {"ids": {"minItems": 1}, "all": {"const": False}}, "required": ["ids"]},
    {"properties": {"ids": {"maxItems": 0}, "all": {"const": True}}, "required": ["all"]},
]
"""Described here and checked by the endpoint, so that a refusal has our own text."""


class DeadLetterView(View):
    """A dead letter. All of it comes from strangers; `principal` is proven only where `proven` says so."""

    id: str
    type: str
    routing_key: str
    code: str
    reason: str
    principal: str
    proven: bool
    at: Moment | None
    message_id: str
    bytes: int
    body: Any = None
    """The JSON of the message, or its text where it is none; only of one letter that is asked for."""


class DeadLetterList(View):
    """The oldest letters first."""

    items: list[DeadLetterView]
    total: int
    """The letters in the queue."""


class DeadLetterChoice(BaseModel):
    """Which letters: `ids`, or `all`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, json_schema_extra={"anyOf": _IDS_OR_ALL}
    )

    ids: Annotated[list[LetterId], Field(max_length=MAX_LETTERS)] = Field(default_factory=list)
    all: StrictBool = False
    """The oldest 500, if there are more."""


class DeadLetterReplay(DeadLetterChoice):
    """`unproven`: also letters whose sender is not proven; you vouch for their names."""

    unproven: StrictBool = False


class ReplayedView(View):
    """A letter that was sent again as its sender's command. It stays if any of it was refused."""

    id: str
    type: str
    principal: str
    code: str
    """Why it was dead."""
    reason: str
    status: Literal["accepted", "refused"]
    answers: list[dict[str, Any]]


class DeadLetterOutcome(View):
    """What was done; a letter that is not named was not found."""

    replayed: list[ReplayedView] = Field(default_factory=list)
    dropped: list[DeadLetterView] = Field(default_factory=list)
