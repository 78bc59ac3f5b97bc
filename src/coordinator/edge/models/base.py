"""The common parts of all answers: moments, views, answers to accepted commands, and problems."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

from coordinator.domain.messages import Millis

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(millis: Millis) -> datetime:
    """Unix milliseconds as a UTC datetime, exactly."""
    return _EPOCH + timedelta(milliseconds=millis)


def rfc3339(at: datetime) -> str:
    """RFC 3339 text such as 2026-01-31T12:00:00.250Z."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Moment = Annotated[
    datetime,
    BeforeValidator(lambda value: moment(value) if isinstance(value, int) else value),
    PlainSerializer(rfc3339),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00.250Z"]}),
]


class View(BaseModel):
    """The answer of a read, or a part of it."""

    model_config = ConfigDict(frozen=True)


class CommandAnswer(BaseModel):
    """The answer to an accepted command: its effect is in the log at `position`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    status: Literal["accepted"]
    position: int


class ArrayAnswer(View):
    """The answers to the elements of an array, in its order: accepted or refused, each as over AMQP."""

    answers: list[dict[str, Any]]
    position: int
    """The highest position of the accepted ones; 0 without any."""


class ProblemDetails(View):
    """RFC 9457, with our code. `code` never changes its meaning; `detail` is for people."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None = None
