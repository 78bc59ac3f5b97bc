"""`coordinator settlement`: batches of payouts, and where a name is paid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.errors import CommandError, usage
from coordinator.cli.options import Json, Key, Url, change, talk
from coordinator.cli.settings import settings_with
from coordinator.runtime import terminal
from coordinator.wire.amounts import units

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator

app = typer.Typer(
    help="Payouts in batches: list, show, close, address, proof, confirm, refuse, secret, deploy.",
    no_args_is_help=True,
)

Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="The number of a batch.")]
PartNumber = Annotated[int, typer.Option("--part", min=0, help="The part that is under way: see `show`.")]


@app.command("list")
def list_settlements(
    limit: Annotated[int, typer.Option("--limit", min=1, help="Batches at most.")] = 50,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """List batches, the newest first; those that pay you, unless you are an admin."""

    async def work(client: AsyncCoordinator) -> list[dict[str, Any]]:
        return [item async for item in client.settlements.list(limit=limit)]

    found = talk(url, api_key, "admin", work)
    if as_json:
        terminal.document({"items": found, "next_cursor": None})
        return
    rows = [
        [
            batch["number"],
            batch["state"],
            batch["sink"],
            batch["payouts"],
            *(units(batch[name]) for name in ("total", "confirmed", "refused", "in_transit")),
            batch["closed_at"],
        ]
        for batch in found
    ]
    columns = ["BATCH", "STATE", "SINK", "PAYOUTS", "TOTAL", "PAID", "RETURNED", "IN TRANSIT", "CLOSED"]
    terminal.table(columns, rows, "No batches.")


@app.command()
def show(number: Number, url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Show a batch and its payouts."""
    found = talk(url, api_key, "admin", lambda client: client.settlements.show(number))
    if as_json:
        terminal.document(found)
        return
    money = ("total", "confirmed", "refused", "in_transit")
    hidden = {"lines", "position", "payouts"}
    shown = {name: value for name, value in found.items() if name not in hidden and value not in (None, "")}
    terminal.fields({name: units(value) if name in money else value for name, value in shown.items()})
    rows = [
        [line["party"], units(line["amount"]), line["state"], line["address"], line["hash"] or ""]
        for line in found["lines"]
    ]
    terminal.table(["PARTY", "AMOUNT", "STATE", "ADDRESS", "HASH"], rows, "No payouts.")


@app.command()
def close(
    number: Annotated[
        int | None, typer.Option("--number", min=1, help="Its number: a repeat has no second effect.")
    ] = None,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Close a batch now: earned and available money is on its way; for admins."""
    change(url, api_key, "admin", lambda client: client.settlements.close(number), as_json=as_json)


@app.command()
def confirm(
    number: Number, part: PartNumber, url: Url = None, api_key: Key = None, as_json: Json = False
) -> None:
    """Say that a part of a batch was paid, where the sink can't tell; for admins."""
    change(url, api_key, "admin", lambda client: client.settlements.confirm(number, part), as_json=as_json)


@app.command()
def refuse(
    number: Number,
    part: PartNumber,
    reason: Annotated[str, typer.Option("--reason", help="For readers of the log.")],
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Say that a part was not paid and never will be: its money returns; for admins."""
    change(
        url, api_key, "admin", lambda client: client.settlements.refuse(number, part, reason), as_json=as_json
    )


@app.command()
def address(
    new: Annotated[
        str | None, typer.Argument(metavar="[ADDRESS]", help="Where you want to be paid from now on.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Remove the address.")] = False,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Show where you are paid, or change it; for miners, with their key."""
    if new is not None and none:
        raise usage("an address and --none exclude each other", "Give one of them.")

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        if new is None and not none:
            return await client.settlements.address()
        return await client.settlements.set_address(new)

    change(url, api_key, "miner", work, as_json=as_json)


@app.command()
def proof(
    party: Annotated[
        str | None, typer.Argument(metavar="[MINER]", help="Another name, for admins; else your key's own.")
    ] = None,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Show what you need to claim your payouts from the contract by yourself; for the sink `evm`."""
    role = "miner" if party is None else "admin"
    found = talk(url, api_key, role, lambda client: client.settlements.proof(party))
    if as_json:
        terminal.document(found)
        return
    terminal.fields({name: found[name] for name in ("chain_id", "contract", "batch", "root")})
    for claim in found["claims"]:
        terminal.fields({**claim, "proof": ",".join(claim["proof"])})


@app.command()
def deploy(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The address of an ERC-20 token.")],
    owner: Annotated[
        str | None,
        typer.Option("--owner", help="Who may replace the key, and withdraw; without it, the key itself."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Put the contract that pays in this token on a chain; the coordinator's key publishes there."""
    import asyncio

    from coordinator.runtime.money.chains import deploy_distributor
    from coordinator.settlement.evm.deploy import DeployFailed

    try:
        made = asyncio.run(deploy_distributor(settings_with(None), token, owner, _tell))
    except DeployFailed as error:
        hint = (
            "Correct it, and run the same command again; `coordinator settlement deploy --help` tells more."
        )
        raise CommandError("CHAIN", str(error), hint) from None
    if as_json:
        terminal.document({"distributor": made, "token": token})
    else:
        terminal.write(f"EVM_DISTRIBUTOR={made}\n")


def _tell(tx_hash: str) -> None:
    terminal.note(f"transaction {tx_hash}; it may take some minutes")


@app.command()
def secret(url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Show what the receiver of the sink `webhook` verifies messages with; for admins."""
    change(url, api_key, "admin", lambda client: client.settlements.secret(), as_json=as_json)
