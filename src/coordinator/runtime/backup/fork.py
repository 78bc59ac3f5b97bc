"""May the restored log go on under its name? It has signed one history for good."""

from __future__ import annotations

from typing import NamedTuple

from coordinator.crypto.log.checkpoint import SignedCheckpoint
from coordinator.runtime.backup.survey import Survey


class HistorySigned(Exception):
    """A larger log than the restored one was signed, or may have been; the text says what to do."""


class Identity(NamedTuple):
    """What an operator decides about the restored log's name."""

    continue_as: str | None = None
    """A new name, under which checkpoints are signed from the first event on."""
    reason: str = ""
    same_origin: bool = False
    """The operator vouches that nothing was signed after the backup."""


_NEW_NAME = "begin a new log identity over it with --continue-as NEW_ORIGIN --reason WHY"


def check_history(
    found: Survey, remembered: SignedCheckpoint | None, identity: Identity
) -> SignedCheckpoint | None:
    """The last checkpoint that is known to be signed under the log's name. Raises HistorySigned."""
    origin, size = found.origin, found.size
    newest = found.newest.get(origin)
    names = {str(row[name]) for row in found.origins for name in ("origin", "left_origin")}
    known = None if remembered is None else remembered.checkpoint
    ours = known is not None and known.origin == origin
    if remembered is not None and ours and (newest is None or newest.checkpoint.size < size_of(remembered)):
        newest = remembered
    if identity.continue_as is not None:
        if identity.continue_as in {*names, *(() if known is None else (known.origin,))}:
            raise HistorySigned(
                f"checkpoints were signed under {identity.continue_as} already; choose another"
            )
        return newest
    if known is not None and known.origin not in names:
        raise HistorySigned(
            f"CHECKPOINT_FILE has a checkpoint of the log {known.origin}, which this backup does not know: "
            f"it is of another log, or this log has continued under that name since; {_NEW_NAME}"
        )
    if ours and found.remembered_differs:
        raise HistorySigned(
            "CHECKPOINT_FILE has a checkpoint of other events than the backup's: the log has gone on "
            f"otherwise since. Restore a backup of that log, or {_NEW_NAME}"
        )
    if newest is not None and size_of(newest) > size:
        raise HistorySigned(
            f"the log {origin} has signed a checkpoint of {size_of(newest)} events, and {size} are restored: "
            "after them it would sign another tree of a size that is signed already. Restore all of the "
            f"newest backup, or {_NEW_NAME}"
        )
    if origin and remembered is None and not identity.same_origin:
        raise HistorySigned(
            f"there is no CHECKPOINT_FILE, so nobody knows whether the log {origin} has signed more than "
            f"{size} events. Put that file in its place; or say --same-origin, if the coordinator was "
            f"stopped before this backup; or {_NEW_NAME}"
        )
    return newest


def size_of(signed: SignedCheckpoint) -> int:
    """The events of a checkpoint."""
    return signed.checkpoint.size
