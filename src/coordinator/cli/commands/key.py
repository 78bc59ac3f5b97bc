"""`coordinator key`: an admin makes and revokes API keys while the coordinator runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coordinator.cli.options import Json, Key, Url, id_argument, seconds_of, talk
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator

app = typer.Typer(help="API keys: list, create, rotate, revoke. For admins.", no_args_is_help=True)

KeyId = Annotated[
    str,
    typer.Argument(
        metavar="KEY_ID",
        help="The key's id; `coordinator key list` shows it.",
        callback=id_argument("key", "`coordinator key list` shows the ids of keys."),
    ),
]
Role = Literal["client", "miner", "viewer", "operator", "admin"]


@app.command("list")
def list_keys(
    name: Annotated[str | None, typer.Option("--name", help="Only keys of this name.")] = None,
    role: Annotated[Role | None, typer.Option("--role", help="Only keys of this role.")] = None,
    revoked: Annotated[bool, typer.Option("--revoked", help="Also revoked keys.")] = False,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """List the keys made with `create`; keys in the settings are not shown."""

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
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its user's name in events and receipts.")],
    role: Annotated[Role, typer.Option("--role", help="Decides what the key may do.")] = "client",
    label: Annotated[str, typer.Option("--label", help="A note on its purpose, for people.")] = "",
    expires_in: Annotated[
        str | None, typer.Option("--expires-in", help="The key expires after this time, such as 90d or 12h.")
    ] = None,
    signed: Annotated[
        bool, typer.Option("--signed", help="HTTP requests must be signed with a second secret.")
    ] = False,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Make a key. Its secret is shown only once, now."""
    seconds = None if expires_in is None else seconds_of(expires_in, "--expires-in")

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.keys.create(name, role, label=label, expires_in_seconds=seconds, signed=signed)

    _show_secret(talk(url, api_key, "admin", work), as_json)


@app.command()
def rotate(
    key_id: KeyId,
    grace: Annotated[
        str,
        typer.Option("--grace", help="How long the old secret stays valid, such as 1d; 0 ends it now."),
    ] = "0",
    generation: Annotated[
        int | None, typer.Option("--generation", help="Do nothing unless this is the newest generation.")
    ] = None,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Give a key a new secret, which is shown only once, now."""
    seconds = seconds_of(grace, "--grace")

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.keys.rotate(key_id, grace_seconds=seconds, generation=generation)

    _show_secret(talk(url, api_key, "admin", work), as_json)


@app.command()
def revoke(
    key_id: KeyId,
    reason: Annotated[str, typer.Option("--reason", help="For readers of the log.")] = "",
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Revoke a key, at once and for good."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.keys.revoke(key_id, reason)

    _show(talk(url, api_key, "admin", work), as_json)


def _show_secret(answer: dict[str, Any], as_json: bool) -> None:
    _show(answer, as_json)
    if not answer.get("key"):
        terminal.note("The secret was in an earlier answer, which was lost: rotate the key to get a new one.")
    elif not as_json:
        terminal.note("Save the key now: it is stored nowhere and never shown again.")


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        terminal.document(answer)
    else:
        terminal.fields({name: v for name, v in answer.items() if name not in ("status", "position")})
