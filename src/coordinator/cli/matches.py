"""Why a job waits, and why a miner has no work, on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.runtime import terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.client.models import JobMatch, MatchReason, MinerMatch


def show_match(match: JobMatch, as_json: bool) -> None:
    """The sentence, the reasons, what would help, and for an admin the profiles."""
    document = match.document()
    if as_json:
        terminal.document(document)
        return
    terminal.write(terminal.plain(match.sentence))
    _show_reasons(match.reasons)
    if match.relaxations:
        rows = [(r.constraint, _value(r.asked), _value(r.to), r.miners) for r in match.relaxations]
        terminal.table(("CHANGE", "FROM", "TO", "MINERS"), rows, "")
    profiles = [
        (
            item.get("principal"),
            item.get("online"),
            f"{item.get('busy_slots')} of {item.get('slots')}",
            "; ".join(unmet.get("text", "") for unmet in item.get("unmet", ())) or "fits",
        )
        for item in document.get("profiles", ())
    ]
    if profiles:
        terminal.table(("MINERS OF", "ONLINE", "BUSY", "AGAINST IT"), profiles, "")


def show_miner_match(match: MinerMatch, as_json: bool) -> None:
    """The sentence, the reasons, and what would bring jobs."""
    if as_json:
        terminal.document(match.document())
        return
    terminal.write(terminal.plain(match.sentence))
    _show_reasons(match.reasons)
    if match.improvements:
        rows = [(i.constraint, _value(i.to), i.jobs, i.text) for i in match.improvements]
        terminal.table(("CHANGE", "TO", "JOBS", "TEXT"), rows, "")


def _show_reasons(reasons: Sequence[MatchReason]) -> None:
    if reasons:
        rows = [(reason.code, reason.constraint, reason.text) for reason in reasons]
        terminal.table(("REASON", "CONSTRAINT", "TEXT"), rows, "")


def _value(value: str | int | list[str] | None) -> object:
    if value is None or value == []:
        return "(none)"
    return ", ".join(value) if isinstance(value, list) else value
