"""Warnings in a result: the job is done, and the client should know about something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import Field

MAX_WARNINGS: Final = 20
MAX_CHARACTERS: Final = 300

Warnings = (
    Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]],
        Field(min_length=1, max_length=MAX_WARNINGS),
    ]
    | None
)
"""A result's field `warnings`, left out if there are none."""


def bounded(notes: Sequence[str]) -> list[str] | None:
    """The notes as a field `warnings`; the last one says how many more there are."""
    if not notes:
        return None
    kept = [note if len(note) <= MAX_CHARACTERS else f"{note[: MAX_CHARACTERS - 1]}…" for note in notes]
    if len(kept) > MAX_WARNINGS:
        kept[MAX_WARNINGS - 1 :] = [f"and {len(kept) - MAX_WARNINGS + 1} more"]
    return kept
