"""Warnings in a result: how many fit, and how long they may be."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.services.base import MAX_WARNING_CHARACTERS, MAX_WARNINGS


def bounded(notes: Sequence[str]) -> list[str] | None:
    """The notes as a field `warnings`; the last one says how many more there are."""
    if not notes:
        return None
    kept = [
        note if len(note) <= MAX_WARNING_CHARACTERS else f"{note[: MAX_WARNING_CHARACTERS - 1]}…"
        for note in notes
    ]
    if len(kept) > MAX_WARNINGS:
        kept[MAX_WARNINGS - 1 :] = [f"and {len(kept) - MAX_WARNINGS + 1} more"]
    return kept
