"""Answers to commands: as the coordinator's types, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from coordinator.domain.errors import Code

AnswerJson = dict[str, Any]
"""`{"status": "accepted", …, "position"}` or `{"status": "refused", "code", "detail"}`.

A refusal may have `retry_after`, in seconds."""


class Accepted(NamedTuple):
    """The command's effect is in the log at `position` (an earlier one for a repeat)."""

    position: int
    body: Mapping[str, Any] = MappingProxyType({})

    def to_wire(self) -> AnswerJson:
        return {"status": "accepted", **self.body, "position": self.position}


class Refused(NamedTuple):
    """The command did nothing, for this reason."""

    code: Code
    detail: str
    retry_after: float | None = None
    """Seconds until the same may be accepted, where time helps and the seconds are known."""

    def to_wire(self) -> AnswerJson:
        answer = refused(self.code.value, self.detail)
        return answer if self.retry_after is None else {**answer, "retry_after": self.retry_after}


Answer = Accepted | Refused


def refused(code: str, detail: str) -> AnswerJson:
    """A refusal as JSON."""
    return {"status": "refused", "code": code, "detail": detail}


def read_answer(value: object) -> AnswerJson | None:
    """The answer in this JSON value; None for anything else."""
    if isinstance(value, dict) and value.get("status") in ("accepted", "refused"):
        return value
    return None
