"""Options that several commands share, and their values."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from coordinator.cli.errors import CommandError, Exit, usage
from coordinator.runtime import terminal
from coordinator.wire.amounts import micros_of, units

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator

DEFAULT_URL = "http://127.0.0.1:8011"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
TRIES = 3  # of a request: few, as a person waits for the answer
MONEY = frozenset({"amount", "total", "confirmed", "refused"})
"""Members of answers about money, in 10⁻⁶ of the unit."""
T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="COORDINATOR_URL",
        help=f"The coordinator's address. [default: a `coordinator dev` here, else {DEFAULT_URL}]",
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="COORDINATOR_API_KEY",
        help="Your API key, name:secret. [default: a key of the `coordinator dev` here]",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="The data directory of an embedded coordinator (DATA_DIR)."),
]


def id_argument(noun: str, hint: str) -> Callable[[str], str]:
    """A callback that returns a UUID in its usual form, and raises a usage error for any other text."""

    def checked(text: str) -> str:
        try:
            return str(UUID(text))
        except ValueError:
            raise usage(f"invalid {noun} id {text!r}", hint) from None

    return checked


job_id = id_argument("job", "`coordinator job list` shows the ids of your jobs.")
JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="The job's id.", callback=job_id)]


def talk(url: str | None, key: str | None, role: str, work: Callable[[AsyncCoordinator], Awaitable[T]]) -> T:
    """Do `work` with a client.

    Without `url`, uses the address of the `coordinator dev` on this machine; without `key`, its key of this
    role.
    """
    import asyncio

    from coordinator.cli.dev_files import find_address, find_key
    from coordinator.client import AsyncCoordinator, Unreachable

    found = None if url else find_address()
    address = url or (found[0] if found else DEFAULT_URL)

    async def doing() -> T:
        async with AsyncCoordinator(address, key or find_key(address, role), tries=TRIES) as client:
            return await work(client)

    try:
        return asyncio.run(doing())
    except Unreachable as error:
        if found is None:
            raise
        raise CommandError(
            error.code,
            f"{error.detail}; the address is from {found[1]}",
            "Start `coordinator dev` again, or delete that file to use another coordinator.",
            Exit.UNREACHABLE,
        ) from None


def change(
    url: str | None,
    key: str | None,
    role: str,
    work: Callable[[AsyncCoordinator], Awaitable[dict[str, Any]]],
    *,
    as_json: bool,
) -> None:
    """Do `work` as `talk` does, and show its answer about money."""
    answer = talk(url, key, role, work)
    if as_json:
        terminal.document(answer)
        return
    shown = {name: value for name, value in answer.items() if name != "status"}
    terminal.fields({name: units(value) if name in MONEY else value for name, value in shown.items()})


def seconds_of(text: str, option: str) -> int:
    """A duration such as `90d`, `12h`, `30m` or `45` (seconds)."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if found is None:
        raise usage(f"{option}: invalid duration {text!r}", f"Write it like {option} 90d, 12h, 30m or 45s.")
    return int(found[1]) * _UNITS[found[2] or "s"]


def micros(text: str) -> int:
    """An amount in the unit of money as a whole number of its millionth."""
    found = micros_of(text)
    if found is None:
        raise usage(
            f"invalid amount {text!r}",
            "Write a positive number of units, such as 12.5, with six decimals at most.",
        )
    return found


def json_object(text: str, option: str) -> dict[str, Any]:
    """The JSON object in `text`, in a file (`@file`), or on stdin (`-`)."""
    if text == "-":
        if sys.stdin.isatty():
            raise usage(
                f"{option} - reads stdin, but stdin is this terminal", f"Use {option} @FILE, or a pipe."
            )
        try:
            text, where = _stdin(), "stdin"
        except UnicodeDecodeError as error:
            raise usage(f"{option}: can't read stdin: {_why(error)}", "Pipe in JSON, as UTF-8.") from None
    elif text.startswith("@"):
        path = Path(text[1:])
        try:
            text, where = path.read_text("utf-8-sig"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            hint = "Paths are relative to this directory; the file must hold one JSON object, as UTF-8."
            raise usage(f"{option}: can't read {path}: {_why(error)}", hint) from None
    else:
        where = option
    try:
        value = json.loads(text)
    except ValueError as error:
        raise usage(
            f"{where} is not JSON: {error}", f"""Write it like {option} '{{"name": "value"}}'."""
        ) from None
    except RecursionError:
        raise usage(f"{where} is nested too deeply", "A payload may be 32 levels deep.") from None
    if not isinstance(value, dict):
        raise usage(f"{where} must be a JSON object", f"""Write it like {option} '{{"name": "value"}}'.""")
    return value


def _stdin() -> str:
    """All of stdin, which is UTF-8 whatever the terminal's encoding is."""
    binary = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read() if binary is None else binary.read().decode("utf-8-sig")


def _why(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "not UTF-8 text"
