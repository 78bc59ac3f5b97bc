"""`coordinator quota`: what names may use, and what they use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.errors import usage
from coordinator.cli.options import Json, Key, Url, talk
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator

app = typer.Typer(help="Limits of names, and their usage: list, show, set.", no_args_is_help=True)

LIMITS = ("queued_jobs", "stored_bytes", "commands_per_minute", "miners", "profiles", "max_priority")
_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_HELP = "A number, `unlimited`, or `default` for the limit of the settings."
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name in the keys, before the colon.")]


@app.command("list")
def list_quotas(url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """List the names that use anything, or have limits of their own; for admins."""

    async def work(client: AsyncCoordinator) -> list[dict[str, Any]]:
        return [item async for item in client.quotas.list()]

    found = talk(url, api_key, "admin", work)
    if as_json:
        terminal.document({"items": found, "next_cursor": None})
        return
    columns = ("queued_jobs", "stored_bytes", "miners", "profiles")
    rows = [
        [item["name"], *(_of(item, column) for column in columns), item["limits"]["max_priority"]]
        for item in found
    ]
    terminal.table(["NAME", *(column.upper() for column in columns), "MAX_PRIORITY"], rows, "No names.")


@app.command()
def show(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Another name, for admins; else your key's own.")
    ] = None,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Show the limits and the usage of a name."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.quotas.show(name)

    found = talk(url, api_key, "client" if name is None else "admin", work)
    if as_json:
        terminal.document(found)
        return
    own = found["own_limits"]
    rows = [
        [
            limit,
            found["used"].get(limit, "-"),
            _shown(found["limits"][limit]),
            "settings" if own[limit] is None else "own",
        ]
        for limit in LIMITS
    ]
    terminal.table(["LIMIT", "USED", "ALLOWED", "FROM"], rows, "")


@app.command("set")
def set_quota(
    name: Name,
    queued_jobs: Annotated[str | None, typer.Option("--queued-jobs", help=f"Queued jobs. {_HELP}")] = None,
    stored_bytes: Annotated[
        str | None,
        typer.Option("--stored-bytes", help=f"Bytes of payloads, results and files, such as 10G. {_HELP}"),
    ] = None,
    commands_per_minute: Annotated[
        str | None, typer.Option("--commands-per-minute", help=f"Commands over AMQP and HTTP. {_HELP}")
    ] = None,
    miners: Annotated[str | None, typer.Option("--miners", help=f"Miners with a session. {_HELP}")] = None,
    profiles: Annotated[str | None, typer.Option("--profiles", help=f"Their profiles. {_HELP}")] = None,
    max_priority: Annotated[
        str | None, typer.Option("--max-priority", help="The highest priority of jobs, 0 to 9, or `default`.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="For readers of the log.")] = "",
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Change limits of a name; for admins. Limits that are not named stay as they are."""
    values = (queued_jobs, stored_bytes, commands_per_minute, miners, profiles, max_priority)
    given = {
        limit: _limit(text, limit) for limit, text in zip(LIMITS, values, strict=True) if text is not None
    }
    if not given:
        raise usage("no limit is named", "`coordinator quota set --help` lists the limits.")

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.quotas.set(name, given, reason)

    answer = talk(url, api_key, "admin", work)
    if as_json:
        terminal.document(answer)
        return
    own = {limit: value for limit, value in answer["own_limits"].items() if value is not None}
    terminal.fields({"name": answer["name"], **own})


def _limit(text: str, limit: str) -> int | str | None:
    """The value of an option."""
    if text == "default":
        return None
    if text == "unlimited" and limit != "max_priority":
        return text
    found = re.fullmatch(r"([0-9]{1,15})([kmgt]?)", text.lower())
    if found is None or (found[2] and limit != "stored_bytes"):
        option = limit.replace("_", "-")
        raise usage(f"--{option}: invalid limit {text!r}", "Write a number, `unlimited` or `default`.")
    return int(found[1]) * _BYTES[found[2]]


def _of(item: dict[str, Any], limit: str) -> str:
    return f"{item['used'][limit]} of {_shown(item['limits'][limit])}"


def _shown(limit: int | None) -> str:
    return "unlimited" if limit is None else str(limit)
