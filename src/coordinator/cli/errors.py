"""The end of a command: exit codes, and one or two lines on stderr."""

from __future__ import annotations

import json
import os
import sys
from enum import IntEnum
from typing import Any

from coordinator.runtime.terminal import plain


class Exit(IntEnum):
    """Every exit code of every command. Scripts rely on them."""

    OK = 0
    FAILED = 1  # the job or a check failed
    USAGE = 2  # the command line or a setting is invalid
    REFUSED = 3  # the coordinator refused the request
    NOT_FOUND = 4
    AUTH = 5
    UNREACHABLE = 6  # no answer, or "try again later"
    UNVERIFIED = 7  # a signature or a digest does not match
    BUG = 70  # an unexpected error
    INTERRUPTED = 130
    PIPE_CLOSED = 141  # the reader of stdout is gone, as for any Unix tool


class CommandError(Exception):
    """A command failed. `next_step` says what the user can do."""

    def __init__(self, code: str, cause: str, next_step: str = "", exit_code: Exit = Exit.FAILED) -> None:
        super().__init__(f"{code}: {cause}")
        self.code = code
        self.cause = cause
        self.next_step = next_step
        self.exit_code = exit_code


def usage(cause: str, next_step: str = "") -> CommandError:
    """An error for an invalid command line."""
    return CommandError("USAGE", cause, next_step, Exit.USAGE)


_NEXT_STEPS = {
    "UNREACHABLE": "Start a coordinator with `coordinator dev`, or name one with --url or COORDINATOR_URL.",
    "BAD_ANSWER": "Check --url (or COORDINATOR_URL), and that both sides have the same version.",
    "UNAUTHORIZED_KEY": "Give a key as name:secret in COORDINATOR_API_KEY, or with --api-key;"
    " a key with signed requests also needs COORDINATOR_HMAC_SECRET.",
    "FORBIDDEN": "Use a key of the right role: client for jobs, miner for mining, admin for the rest.",
    "RATE_LIMITED": "Wait a little, then run the same command again.",
    "INSUFFICIENT_FUNDS": "`coordinator account show` says how much is available; an admin deposits more.",
    "QUEUE_FULL": "Wait until some of your jobs run, or cancel some; `coordinator quota show` has figures.",
    "QUOTA_EXCEEDED": "`coordinator quota show` shows limits and usage; the operator can raise a limit.",
    "CONTENT_EXPIRED": "`coordinator job history` tells who erased it and why; the receipt still verifies.",
    "UNAVAILABLE": "Run the same command again in a moment; `coordinator doctor` looks for the cause.",
    "INTERNAL": "Run the same command again; if the error stays, the coordinator's log has the cause.",
    "JOB_NOT_READY": "Wait longer (--wait, --timeout), or follow it with `coordinator job watch`.",
    "NOT_IN_CHECKPOINT": "Wait longer (--wait); `coordinator doctor` says whether checkpoints come.",
    "JOB_NOT_FOUND": "`coordinator job list` shows your jobs; another client's are not shown.",
    "SERVICE_NOT_FOUND": "`coordinator service list` shows the services.",
    "BATCH_NOT_FOUND": "`GET /v1/jobs/batches` lists the newest batches.",
    "MINER_NOT_FOUND": "`coordinator miner list` shows the miners.",
    "WEBHOOK_NOT_FOUND": "`coordinator webhook list` shows your webhooks, `webhook deliveries` the messages.",
    "KEY_NOT_FOUND": "`coordinator key list --revoked` shows the keys; change keys of the settings there.",
    "INVALID_PAYLOAD": "Correct the named field; `coordinator service show SERVICE` lists all fields.",
    "TOO_LARGE": "Upload large inputs with --file NAME=PATH.",
    "BLOB_TOO_LARGE": "Use a smaller file; the coordinator's MAX_BLOB_BYTES is the limit.",
    "UNKNOWN_COMMAND": "Check --url (or COORDINATOR_URL), and that both sides have the same version.",
    "IDEMPOTENCY_MISMATCH": "Use another --key for another request.",
    "CONFLICT_STATE": "`coordinator job show` shows the job's state.",
    "NO_ELIGIBLE_MINER": "Loosen --constraints as it says; without --when-unmatched the job waits.",
    "DEAD_LETTER_NOT_FOUND": "`coordinator dead list` shows those that are there.",
    "EVENT_NOT_FOUND": "Take the position from `coordinator log show`.",
    "BLOB_NOT_FOUND": "Upload the file with --file NAME=PATH.",
    "DIGEST_MISMATCH": "Run the same command again; the file changed, or was damaged on the way.",
}


def explain(error: Exception) -> CommandError:
    """Any error as a CommandError. Unexpected errors are shown as such, never swallowed."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]  # the first failure of concurrent tasks ended the others
    if isinstance(error, CommandError):
        return error
    if hasattr(error, "format_message"):  # typer raises it for an invalid command line
        return _explain_usage(error)

    # Imported here: a command without an error needs none of these.
    import sqlite3

    from coordinator.application.ports import BrokerMismatch, CoordinatorRuns, LogError, LogUnavailable
    from coordinator.client.errors import CoordinatorError
    from coordinator.crypto.keys import KeyFileError
    from coordinator.crypto.signature import VerificationFailed
    from coordinator.private_files import NotPrivate
    from coordinator.runtime.log_reader import NoLog
    from coordinator.runtime.settings import BadSettings
    from coordinator.storage.connections.data_directory import DataDirectoryInUse
    from coordinator.storage.migrate import UnfitDatabase
    from coordinator.telemetry.export import BadTelemetry
    from coordinator.wire.http.proxies import BadProxy

    if isinstance(error, CoordinatorError):
        return _explain_answer(error)
    if isinstance(error, BadSettings):
        hint = "Correct it in the environment or in .env; .env.example explains every setting."
        return CommandError("SETTINGS", str(error), hint, Exit.USAGE)
    if isinstance(error, BadTelemetry):
        hint = "Correct or unset the variable, in the environment or in .env; docs/monitoring.md has them."
        return CommandError("SETTINGS", str(error), hint, Exit.USAGE)
    if isinstance(error, BadProxy):
        return CommandError("SETTINGS", str(error), "Correct or unset the variable.", Exit.USAGE)
    if isinstance(error, VerificationFailed):
        hint = "Do not rely on this document; ask its sender for the original."
        return CommandError(error.code, error.detail, hint, Exit.UNVERIFIED)
    if isinstance(error, KeyFileError):
        hint = "Name another file with --key-file (for a coordinator, DATA_DIR); a new key is made there."
        return CommandError("KEY_FILE", str(error), hint, Exit.USAGE)
    if isinstance(error, UnfitDatabase):
        return CommandError("DATABASE", *_in_two(str(error)), Exit.REFUSED)
    if isinstance(error, LogUnavailable | ConnectionError):
        hint = "Check that the database and the broker run; `coordinator doctor` checks both."
        # A database's message has several lines.
        return CommandError("UNAVAILABLE", " ".join(str(error).split()), hint, Exit.UNREACHABLE)
    if isinstance(error, BrokerMismatch):
        hint = "Name a virtual host of its own in AMQP_URL; the page on operations says how to move one."
        return CommandError("TOPOLOGY", " ".join(str(error).split()), hint, Exit.REFUSED)
    if isinstance(error, DataDirectoryInUse):
        hint = "Stop the other coordinator, or name another directory with --data-dir or DATA_DIR."
        return CommandError("DATA_DIR_IN_USE", str(error).partition(";")[0], hint, Exit.REFUSED)
    if isinstance(error, CoordinatorRuns):
        return CommandError("COORDINATOR_RUNS", str(error), "Stop every one of them first.", Exit.REFUSED)
    if isinstance(error, NotPrivate):
        return CommandError("NOT_PRIVATE", *_in_two(str(error)), Exit.USAGE)
    if isinstance(error, NoLog):
        hint = "Name the coordinator's data directory with --data-dir, or set DATABASE_URL and AMQP_URL."
        return CommandError("NOT_FOUND", str(error), hint, Exit.NOT_FOUND)
    if isinstance(error, LogError):
        hint = "Run the version of the program that wrote this log."
        return CommandError("LOG", str(error), hint, Exit.UNVERIFIED)
    if isinstance(error, sqlite3.DatabaseError):
        hint = "`coordinator doctor` checks the database; if it is damaged, restore a backup."
        return CommandError("DATABASE", f"the log can't be read: {error}", hint, Exit.UNVERIFIED)
    if isinstance(error, OSError) and error.filename is not None:
        hint = "Check the path and its permissions, or name another."
        return CommandError("FILE", f"{error.filename}: {error.strerror}", hint, Exit.USAGE)
    # Last, because it imports the client of the broker.
    from coordinator.broker.connection import BrokerError

    if isinstance(error, BrokerError):
        hint = "Correct AMQP_URL; `coordinator doctor` checks it."
        return CommandError("BROKER", " ".join(str(error).split()), hint, Exit.USAGE)
    hint = "This should not happen. Run it again with COORDINATOR_TRACEBACK=1 and report the output."
    return CommandError("BUG", f"{type(error).__name__}: {error}", hint, Exit.BUG)


def _in_two(message: str) -> tuple[str, str]:
    """The cause, and the next step as a sentence, of a message `cause: next step`."""
    cause, _, step = message.rpartition(": ")
    return cause, f"{step[:1].upper()}{step[1:]}."


def _explain_usage(error: Any) -> CommandError:
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "coordinator"
    if type(error).__name__ == "NoArgsIsHelpError":
        return usage("a command is missing", error.format_message())
    return usage(error.format_message(), f"`{where} --help` shows the options.")


def _explain_answer(error: Any) -> CommandError:
    from coordinator.client import DamagedBlob, NotAuthorised, NotFound, TryAgain, Unreachable

    exit_code = Exit.REFUSED
    if isinstance(error, NotFound):
        exit_code = Exit.NOT_FOUND
    elif isinstance(error, NotAuthorised):
        exit_code = Exit.AUTH
    elif isinstance(error, Unreachable | TryAgain):
        exit_code = Exit.UNREACHABLE
    elif isinstance(error, DamagedBlob):
        exit_code = Exit.UNVERIFIED
    elif error.code == "BAD_ANSWER":
        exit_code = Exit.UNREACHABLE
    elif error.code == "INVALID_ARGUMENT":
        exit_code = Exit.USAGE
    next_step = _NEXT_STEPS.get(error.code, plain(error.next_step))
    return CommandError(error.code, error.detail, next_step, exit_code)


def report(error: CommandError, as_json: bool) -> None:
    """Print the error on stderr: a line with code and cause, a line with the next step."""
    if as_json:
        document = {"code": error.code, "detail": error.cause, "next_step": error.next_step}
        sys.stderr.write(json.dumps(document) + "\n")
        return
    red, reset = ("\x1b[31m", "\x1b[0m") if _colours() else ("", "")
    lines = [f"{red}{plain(error.code)}{reset}: {plain(error.cause)}", error.next_step]
    sys.stderr.write("".join(f"{line}\n" for line in lines if line))


def _colours() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
