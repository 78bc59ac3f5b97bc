"""Why a log can't be signed any more. Each text says what happened and what an operator may do."""

from __future__ import annotations

ADVICE = (
    "restore the newest copy of the log, or, if there is none, begin a new log identity with "
    '`coordinator log continue-as NEW_ORIGIN` (docs/operations.md, "The notary stopped")'
)


class LogRewritten(Exception):
    """The log is not the one whose checkpoints were signed. No other one is signed under its name."""


class LogWentBack(LogRewritten):
    """The log has fewer events than a checkpoint that was signed."""

    def __init__(self, origin: str, signed: int, found: int, where: str) -> None:
        super().__init__(
            f"the log {origin} has {found} events, but {where} has its checkpoint of {signed}: this database "
            f"is an older copy; {ADVICE}"
        )


class RootDiffers(LogRewritten):
    """The log's beginning does not have the root that was signed for it."""

    def __init__(self, origin: str, size: int, where: str) -> None:
        super().__init__(
            f"the first {size} events of the log {origin} do not have the root of the checkpoint in {where}: "
            f"events were changed, or this is another copy; {ADVICE}"
        )


class LeavesDiffer(LogRewritten):
    """Stored events do not have the hashes that the tree has for them."""

    def __init__(self, first: int, why: str) -> None:
        super().__init__(
            f"the events from index {first} on are not those of the Merkle tree: {why}; {ADVICE}"
        )


class UnknownOrigin(LogRewritten):
    """The last checkpoint that was signed has a name that this database does not know."""

    def __init__(self, origin: str, where: str) -> None:
        super().__init__(
            f"{where} has a checkpoint of the log {origin}, which this database does not know: it is an "
            f"older copy, or another coordinator's; {ADVICE}"
        )


class WrongOrigin(Exception):
    """LOG_ORIGIN names another log."""

    def __init__(self, setting: str, origin: str) -> None:
        super().__init__(
            f"LOG_ORIGIN is {setting}, but this log's name is {origin}: remove the setting, or rename the "
            "log with `coordinator log continue-as`"
        )
