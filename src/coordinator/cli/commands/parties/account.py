"""`coordinator account`: balances, statements, deposits, withdrawals, disputes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.options import Json, Key, Url, change, job_id, micros, talk
from coordinator.runtime import terminal
from coordinator.wire.amounts import units

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator

app = typer.Typer(
    help="Money: show, list, services, statement, deposit, withdraw, dispute, refund, dismiss.",
    no_args_is_help=True,
)

BAR_WIDTH = 20
_PARTS = ("available", "held", "pending", "disputed", "balance")
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
    shown = {"party": found["party"], "unit": found["unit"]}
    terminal.fields(shown | {name: units(found[name]) for name in _PARTS})


@app.command("list")
def list_accounts(url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """List all accounts; for admins. The balances sum to zero."""

    async def work(client: AsyncCoordinator) -> list[dict[str, Any]]:
        return [item async for item in client.accounts.list()]

    found = talk(url, api_key, "admin", work)
    if as_json:
        terminal.document({"items": found, "next_cursor": None})
        return
    rows = [[item["party"], *(units(item[name]) for name in _PARTS)] for item in found]
    columns = [name.upper() for name in _PARTS]
    terminal.table(["PARTY", *columns], rows, "No accounts.", columns)


@app.command()
def services(
    party: OtherParty = None,
    days: Annotated[int, typer.Option(min=1, max=366, help="Days of UTC, today included.")] = 30,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Show what was spent and earned on which service."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.accounts.services(party, days=days)

    found = talk(url, api_key, "client" if party is None else "admin", work)
    if as_json:
        terminal.document(found)
        return
    rows = []
    for side in ("spent", "earned"):
        whole = sum(max(0, line["amount"]) for line in found[side])
        for line in found[side]:
            amount = line["amount"]
            rows.append(
                [side, line["service"] or "unknown", line["jobs"], units(amount), _bar(amount, whole)]
            )
    columns = ["SIDE", "SERVICE", "JOBS", "AMOUNT", "SHARE"]
    terminal.table(columns, rows, f"Nothing was paid in {days} days.", ["JOBS", "AMOUNT"])


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
    terminal.table(["AT", "KIND", "AMOUNT", "BALANCE", "PAID FOR", "JOB"], rows, "", ["AMOUNT", "BALANCE"])


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
    millionths = micros(amount)
    change(
        url,
        api_key,
        "admin",
        lambda client: client.accounts.deposit(party, millionths, business_id, reason),
        as_json=as_json,
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
    millionths = micros(amount)
    change(
        url,
        api_key,
        "admin",
        lambda client: client.accounts.withdraw(party, millionths, business_id, reason),
        as_json=as_json,
    )


@app.command()
def dispute(
    job: Job, reason: Reason = "", url: Url = None, api_key: Key = None, as_json: Json = False
) -> None:
    """Freeze the miner's credit for one of your jobs, while it is pending."""
    change(url, api_key, "client", lambda client: client.accounts.dispute(job, reason), as_json=as_json)


@app.command()
def refund(
    job: Job, reason: Reason = "", url: Url = None, api_key: Key = None, as_json: Json = False
) -> None:
    """Give the client of a job its money back; for admins."""
    change(url, api_key, "admin", lambda client: client.accounts.refund(job, reason), as_json=as_json)


@app.command()
def dismiss(
    job: Job, reason: Reason = "", url: Url = None, api_key: Key = None, as_json: Json = False
) -> None:
    """End a dispute: the miner keeps its credit; for admins."""
    change(url, api_key, "admin", lambda client: client.accounts.dismiss(job, reason), as_json=as_json)


def _bar(part: int, whole: int) -> str:
    filled = max(0, min(BAR_WIDTH, round(BAR_WIDTH * part / whole))) if whole > 0 else 0
    return "[" + "#" * filled + "." * (BAR_WIDTH - filled) + "]"
