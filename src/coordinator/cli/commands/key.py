"""`coordinator key`: API keys, made and ended by an admin while the coordinator runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coordinator.cli.errors import usage
from coordinator.cli.options import Json, Key, Url, an_id, talk
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator

app = typer.Typer(help="API keys: list, create, rotate, revoke. For admins.", no_args_is_help=True)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
KeyId = Annotated[
    str,
    typer.Argument(
        metavar="KEY_ID",
        help="The key's id; `coordinator key list` shows it.",
        callback=an_id("key", "`coordinator key list` shows the ids of keys."),
    ),
]
Role = Literal["client", "miner", "admin"]


@app.command("list")
def list_keys(
    name: Annotated[str | None, typer.Option("--name", help="Only this name's.")] = None,
    role: Annotated[Role | None, typer.Option("--role", help="Only keys of this role.")] = None,
    revoked: Annotated[bool, typer.Option("--revoked", help="Also those that are revoked.")] = False,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Keys that were made with `create`; those in the settings are not shown."""

    async def work(client: AsyncCoordinator) -> list[dict[str, Any]]:
        return [item async for item in client.keys.list(name=name, role=role, revoked=revoked)]

    keys = talk(url, api_key, "admin", work)
    if as_json:
        terminal.document({"items": keys, "next_cursor": None})
        return
    columns = ("name", "role", "state", "generation", "created_at", "expires_at", "label", "key_id")
    rows = [[key.get(column) for column in columns] for key in keys]
    terminal.table([column.upper() for column in columns], rows, "No keys.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who speaks with it, in events and receipts.")],
    role: Annotated[Role, typer.Option("--role", help="What it may do.")] = "client",
    label: Annotated[str, typer.Option("--label", help="What it is for; for people.")] = "",
    expires_in: Annotated[
        str | None, typer.Option("--expires-in", help="When it ends by itself, such as 90d or 12h.")
    ] = None,
    signed: Annotated[
        bool, typer.Option("--signed", help="Requests over HTTP must be signed with a second secret.")
    ] = False,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Make a key. Its secret is shown now, and never again."""
    seconds = None if expires_in is None else _seconds(expires_in, "--expires-in")

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.keys.create(name, role, label=label, expires_in_seconds=seconds, signed=signed)

    _show_secret(talk(url, api_key, "admin", work), as_json)


@app.command()
def rotate(
    key_id: KeyId,
    grace: Annotated[
        str,
        typer.Option("--grace", help="How long the secret before is good for, such as 1d; 0 ends it now."),
    ] = "0",
    generation: Annotated[
        int | None, typer.Option("--generation", help="Do nothing unless this is the newest generation.")
    ] = None,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Give a key another secret, which is shown now, and never again."""
    seconds = _seconds(grace, "--grace")

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.keys.rotate(key_id, grace_seconds=seconds, generation=generation)

    _show_secret(talk(url, api_key, "admin", work), as_json)


@app.command()
def revoke(
    key_id: KeyId,
    reason: Annotated[str, typer.Option("--reason", help="For those who read the log.")] = "",
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """End a key for good, at once."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.keys.revoke(key_id, reason)

    _show(talk(url, api_key, "admin", work), as_json)


def _show_secret(told: dict[str, Any], as_json: bool) -> None:
    _show(told, as_json)
    if not told.get("key"):
        terminal.note("The secret was in an earlier answer, which got lost: rotate the key to get another.")
    elif not as_json:
        terminal.note("Keep the key now: it is stored nowhere and never shown again.")


def _show(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        terminal.document(told)
    else:
        terminal.fields({name: value for name, value in told.items() if name not in ("status", "position")})


def _seconds(text: str, option: str) -> int:
    """A span such as `90d`, `12h`, `30m` or `45` (seconds)."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if found is None:
        raise usage(f"{option}: {text!r} is no span of time", f"Write it like {option} 90d, 12h, 30m or 45s.")
    return int(found[1]) * _UNITS[found[2] or "s"]
