"""`coordinator account`: balances, statements, deposits, withdrawals, disputes."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.errors import usage
from coordinator.cli.options import Json, Key, Url, job_id, talk
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator

app = typer.Typer(
    help="Money: show, list, statement, deposit, withdraw, dispute, refund, dismiss.", no_args_is_help=True
)

_AMOUNT = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,6}))?")
_MILLION = 1_000_000
OtherParty = Annotated[
    str | None, typer.Argument(metavar="[PARTY]", help="Another name, for admins; else your key's own.")
]
Party = Annotated[str, typer.Argument(metavar="PARTY", help="The name in the keys, before the colon.")]
Amount = Annotated[
    str, typer.Argument(metavar="AMOUNT", help="In the unit, such as 12.5: six decimals at most.")
]
BusinessId = Annotated[
    str, typer.Option("--id", help="The id in your own books; a repeat with the same one does nothing.")
]
Job = Annotated[str, typer.Argument(metavar="JOB_ID", callback=job_id, help="The id of the job.")]
Reason = Annotated[str, typer.Option("--reason", help="For readers of the log.")]


@app.command()
def show(party: OtherParty = None, url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Show what an account has: available, held for jobs, pending, disputed."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.accounts.show(party)

    found = talk(url, api_key, "client" if party is None else "admin", work)
    if as_json:
        terminal.document(found)
        return
    names = ("balance", "available", "held", "pending", "disputed")
    terminal.fields(
        {"party": found["party"], "unit": found["unit"], **{name: units(found[name]) for name in names}}
    )


@app.command("list")
def list_accounts(url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """List all accounts; for admins. The balances sum to zero."""

    async def work(client: AsyncCoordinator) -> list[dict[str, Any]]:
        return [item async for item in client.accounts.list()]

    found = talk(url, api_key, "admin", work)
    if as_json:
        terminal.document({"items": found, "next_cursor": None})
        return
    names = ("balance", "available", "held", "pending", "disputed")
    rows = [[item["party"], *(units(item[name]) for name in names)] for item in found]
    terminal.table(["PARTY", *(name.upper() for name in names)], rows, "No accounts.")


@app.command()
def statement(
    party: OtherParty = None,
    since: Annotated[str | None, typer.Option("--from", help="The first moment, in RFC 3339.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="The first moment after it.")] = None,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Show all entries of a period; with --json as the coordinator signed them."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.accounts.statement(party, since=since, until=until)

    found = talk(url, api_key, "client" if party is None else "admin", work)
    if as_json:
        terminal.document(found)
        return
    rows = [[found["from"], "opening", "", units(found["opening"]), "", ""]]
    rows += [
        [
            line["at"],
            line["kind"],
            units(line["amount"]),
            units(line["balance"]),
            f"{line['units']} {line['unit_type']}" if line["units"] else "",
            line["job_id"] or "",
        ]
        for line in found["lines"]
    ]
    rows.append([found["to"], "closing", "", units(found["closing"]), "", ""])
    rows += [
        [hold["held_at"], "hold", units(hold["amount"]), "", "", hold["job_id"]] for hold in found["holds"]
    ]
    terminal.table(["AT", "KIND", "AMOUNT", "BALANCE", "PAID FOR", "JOB"], rows, "")


@app.command()
def deposit(
    party: Party,
    amount: Amount,
    business_id: BusinessId,
    reason: Reason = "",
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Credit money that came from the outside; for admins."""
    micros = _micros(amount)
    _change(
        lambda client: client.accounts.deposit(party, micros, business_id, reason),
        "admin",
        url,
        api_key,
        as_json,
    )


@app.command()
def withdraw(
    party: Party,
    amount: Amount,
    business_id: BusinessId,
    reason: Reason = "",
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Debit money that leaves to the outside, from what is available; for admins."""
    micros = _micros(amount)
    _change(
        lambda client: client.accounts.withdraw(party, micros, business_id, reason),
        "admin",
        url,
        api_key,
        as_json,
    )


@app.command()
def dispute(
    job: Job, reason: Reason = "", url: Url = None, api_key: Key = None, as_json: Json = False
) -> None:
    """Freeze the miner's credit for one of your jobs, while it is pending."""
    _change(lambda client: client.accounts.dispute(job, reason), "client", url, api_key, as_json)


@app.command()
def refund(
    job: Job, reason: Reason = "", url: Url = None, api_key: Key = None, as_json: Json = False
) -> None:
    """Give the client of a job its money back; for admins."""
    _change(lambda client: client.accounts.refund(job, reason), "admin", url, api_key, as_json)


@app.command()
def dismiss(
    job: Job, reason: Reason = "", url: Url = None, api_key: Key = None, as_json: Json = False
) -> None:
    """End a dispute: the miner keeps its credit; for admins."""
    _change(lambda client: client.accounts.dismiss(job, reason), "admin", url, api_key, as_json)


def _change(
    work: Callable[[AsyncCoordinator], Awaitable[dict[str, Any]]],
    role: str,
    url: str | None,
    api_key: str | None,
    as_json: bool,
) -> None:
    answer = talk(url, api_key, role, work)
    if as_json:
        terminal.document(answer)
        return
    shown = {name: value for name, value in answer.items() if name != "status"}
    if "amount" in shown:
        shown["amount"] = units(shown["amount"])
    terminal.fields(shown)


def _micros(text: str) -> int:
    """An amount in the unit as a whole number of its millionth."""
    found = _AMOUNT.fullmatch(text)
    micros = 0 if found is None else int(found[1]) * _MILLION + int((found[2] or "").ljust(6, "0"))
    if micros == 0:
        raise usage(
            f"invalid amount {text!r}",
            "Write a positive number of units, such as 12.5, with six decimals at most.",
        )
    return micros


def units(micros: int) -> str:
    """A whole number of millionths as a number of units."""
    return format(Decimal(micros).scaleb(-6), "f")
