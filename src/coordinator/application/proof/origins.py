"""The names of a log: the origin under which its checkpoints are signed, and the operator's changes of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple
from uuid import uuid4

from coordinator.application.ports import Database, Tables
from coordinator.application.proof.errors import WrongOrigin
from coordinator.crypto.log.checkpoint import SignedCheckpoint, check_origin
from coordinator.domain.messages import Millis

NOTARY = "notary"


class Origins(NamedTuple):
    """The log's name, and all names that its database knows."""

    current: str
    known: Collection[str]


def read_origins(tables: Tables) -> Origins | None:
    """The names of the log; None before the notary's first start."""
    rows = tables.query("proof_origins")
    if not rows:
        return None
    names = {name for row in rows for name in (row["origin"], row["left_origin"]) if name}
    return Origins(rows[-1]["origin"], names)


def ensure_origins(tables: Tables, setting: str | None, now: Millis) -> Origins:
    """The names of the log. At the first call it gets one: `setting`, or `coordinator/<id of the log>`.

    Raises WrongOrigin if the log has another name than `setting`.
    """
    found = read_origins(tables)
    if found is None:
        origin = check_origin(setting or f"coordinator/{_log_id(tables)}")
        tables.put("log_origins", [_row(1, origin, now, None, "the first start")])
        found = Origins(origin, {origin})
    elif setting is not None and setting != found.current:
        raise WrongOrigin(setting, found.current)
    return found


def continue_as(
    database: Database, origin: str, remembered: SignedCheckpoint | None, reason: str, now: Millis
) -> str:
    """Begin a new log identity over the events that the log has now; returns the name that it leaves.

    Checkpoints of the former name stay as they are. The tree is derived from the log again. Raises BadNote
    for a bad origin, ValueError for one that the log has or had already, LogUnavailable.
    """
    check_origin(origin)
    with database.transaction() as tables:
        found = read_origins(tables)
        known = set(found.known) if found else set()
        if remembered is not None:
            known.add(remembered.checkpoint.origin)
        if origin in known:
            raise ValueError(f"checkpoints were signed under {origin} already; choose another name")
        number = len(tables.query("proof_origins")) + 1
        tables.put("log_origins", [_row(number, origin, now, remembered, reason)])
        tables.execute("proof_clear_tiles")
        tables.move(NOTARY, tables.position(NOTARY), 0)
        return found.current if found else ""


def _row(
    number: int, origin: str, at: Millis, left: SignedCheckpoint | None, reason: str
) -> dict[str, str | int]:
    return {
        "number": number,
        "origin": origin,
        "at": at,
        "left_origin": "" if left is None else left.checkpoint.origin,
        "left_size": 0 if left is None else left.checkpoint.size,
        "reason": reason,
    }


def _log_id(tables: Tables) -> str:
    rows = tables.query("log_identity")
    if not rows:
        tables.execute("log_identity_make", log_id=str(uuid4()))
        rows = tables.query("log_identity")
    return str(rows[0]["log_id"])
