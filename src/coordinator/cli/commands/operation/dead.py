"""`coordinator dead`: messages that could not be handled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.errors import CommandError, Exit, usage
from coordinator.cli.options import Json, Key, Url, talk
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator

app = typer.Typer(
    help="Dead letters: messages from RabbitMQ that could not be handled.", no_args_is_help=True
)
PATH = "/v1/admin/dead-letters"
Letters = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="See `coordinator dead list`.")]
Everything = Annotated[bool, typer.Option("--all", help="All of them, the oldest 500 at a time.")]


@app.command("list")
def list_letters(
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="At most so many.")] = 100,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """List dead letters, the oldest first; with an admin's key. Meanwhile no other reader sees them."""
    found = _ask(url, api_key, "GET", PATH, params={"limit": limit})
    if as_json:
        terminal.document(found)
        return
    columns = ("ID", "WHEN", "TYPE", "CODE", "SENDER", "PROVEN", "REASON")
    rows = [
        (
            letter["id"],
            letter["at"] or "-",
            letter["type"],
            letter["code"],
            letter["principal"],
            "yes" if letter["proven"] else "no",
            letter["reason"],
        )
        for letter in found["items"]
    ]
    terminal.table(columns, rows, "No dead letters.")
    if found["total"] > len(rows):
        terminal.note(f"{found['total'] - len(rows)} more.")


@app.command()
def show(
    letter: Annotated[str, typer.Argument(metavar="ID", help="See `coordinator dead list`.")],
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Show a dead letter with its body, which a stranger wrote."""
    found = _ask(url, api_key, "GET", f"{PATH}/{_id(letter)}")
    if as_json:
        terminal.document(found)
    else:
        terminal.fields(found)


@app.command()
def replay(
    letters: Letters = None,
    everything: Everything = False,
    unproven: Annotated[
        bool,
        typer.Option("--unproven", help="Also of senders that are not proven: you vouch for their names."),
    ] = False,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Send dead letters again as commands of their senders, who need a valid key. Accepted ones are removed.

    A command that had its effect has no second one. Exits with 3 if any is refused: it stays.
    """
    body = {**_chosen(letters, everything), "unproven": unproven}
    done = _ask(url, api_key, "POST", f"{PATH}/replay", json=body)["replayed"]
    if as_json:
        terminal.document({"replayed": done})
    else:
        rows = [
            (
                one["id"],
                one["status"],
                one["type"],
                one["principal"],
                f"{one['code']}: {one['reason']}",
                _why(one),
            )
            for one in done
        ]
        terminal.table(("ID", "STATUS", "TYPE", "SENDER", "WAS DEAD BY", "ANSWER"), rows, "No dead letters.")
    _check_found(letters, [one["id"] for one in done])
    refused = sum(one["status"] == "refused" for one in done)
    if refused:
        hint = "They stay. `coordinator dead show ID` shows one, `coordinator dead drop ID` removes it."
        raise CommandError("REFUSED", f"{refused} of {len(done)} letters were refused", hint, Exit.REFUSED)


@app.command()
def drop(
    letters: Letters = None,
    everything: Everything = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Remove dead letters for good."""
    body = _chosen(letters, everything)
    if everything and not yes:
        raise usage("this removes every dead letter", "Add --yes.")
    done = _ask(url, api_key, "POST", f"{PATH}/drop", json=body)["dropped"]
    if as_json:
        terminal.document({"dropped": done})
    else:
        terminal.write(f"{len(done)} dropped")
    _check_found(letters, [one["id"] for one in done])


def _ask(url: str | None, api_key: str | None, method: str, path: str, **options: Any) -> dict[str, Any]:
    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.http.ask_json(method, path, **options)

    return talk(url, api_key, "admin", work)


def _id(text: str) -> str:
    if len(text) != 20 or not set(text) <= set("0123456789abcdef"):
        raise usage(f"invalid id {text!r}", "`coordinator dead list` shows the ids.")
    return text


def _chosen(letters: list[str] | None, everything: bool) -> dict[str, Any]:
    if bool(letters) == everything:
        raise usage("name dead letters, or say --all", "`coordinator dead list` shows their ids.")
    return {"all": True} if everything else {"ids": [_id(letter) for letter in letters or ()]}


def _check_found(letters: list[str] | None, found: list[str]) -> None:
    missing = [letter for letter in letters or () if letter not in found]
    if missing:
        hint = "`coordinator dead list` shows those that are there."
        raise CommandError("NOT_FOUND", f"no dead letter {', '.join(missing)}", hint, Exit.NOT_FOUND)


def _why(one: dict[str, Any]) -> str:
    for answer in one["answers"]:
        if answer["status"] == "refused":
            return f"{answer['code']}: {answer['detail']}"
    return json.dumps({name: one["answers"][0][name] for name in ("position",) if one["answers"]})
