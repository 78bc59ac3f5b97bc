"""`coordinator receipt`: signed statements of work done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from coordinator.cli.errors import usage
from coordinator.cli.options import JobId, Json, Key, Url, json_object, talk
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator

app = typer.Typer(help="Receipts: signed statements of work done.", no_args_is_help=True)


@app.command()
def show(job_id: JobId, url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Show the receipt of a completed job. `receipt verify` takes the output of --json."""
    receipt = _fetch(job_id, url, api_key)
    if as_json:
        terminal.document(receipt)
    else:
        terminal.fields({name: v for name, v in receipt.items() if name not in ("metadata", "attestations")})


@app.command()
def verify(
    source: Annotated[
        str, typer.Argument(metavar="FILE|JOB_ID", help="A receipt or promise (- is stdin), or a job's id.")
    ],
    trusted: Annotated[
        list[str] | None,
        typer.Option("--trusted", metavar="KEY", help="Public key of a coordinator that you trust."),
    ] = None,
    miner_key: Annotated[
        list[str] | None,
        typer.Option("--miner-key", metavar="MINER=KEY", help="The public key of this miner."),
    ] = None,
    any_key: Annotated[
        bool,
        typer.Option("--any-key", help="Trust no key: check only that the receipt is unchanged."),
    ] = False,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Verify a receipt, or the promise of one, with public keys alone; a file needs no network.

    Exits with 7 if it fails.
    """
    from coordinator.crypto.receipt import verify_receipt

    keys = [key for text in trusted or () for key in text.replace(",", " ").split()]
    if bool(keys) == any_key:
        hint = "A coordinator's /health shows its key, but get it from somebody you trust."
        raise usage("name the keys that you trust with --trusted KEY, or give --any-key; not both", hint)
    miners = dict(_named_key(text) for text in miner_key or ())
    receipt = _read(source, url, api_key)
    found = verify_receipt(receipt, None if any_key else keys, miners or None)
    outcome = {
        "verified": True,
        "form": "promise" if found.is_promise else "receipt",
        "receipt_id": found.receipt_id,
        "job_id": found.job_id,
        "key_id": found.key_id,
        "key_trusted": found.key_trusted,
        "miner": found.statement["miner_id"] if found.statement else None,
        "miner_key_id": found.miner_key_id,
        "miner_key_trusted": found.miner_key_trusted,
        "attestations": [
            {"key_id": a.key_id, "covers_signature": a.covers_signature} for a in found.attestations
        ],
    }
    if as_json:
        terminal.document(outcome)
        return
    terminal.fields(outcome)
    if not found.key_trusted:
        terminal.note("The receipt is unchanged, but anybody may have made it: you named no trusted key.")


def _read(source: str, url: str | None, api_key: str | None) -> dict[str, Any]:
    if source == "-":
        return json_object("-", "FILE")
    path = Path(source)
    if path.is_file():
        return json_object(f"@{source}", source)
    if not _is_job_id(source):
        hint = "Paths are relative to this directory; `coordinator job list` shows the ids of your jobs."
        raise usage(f"{source} is neither a file nor a job's id", hint)
    return _fetch(source, url, api_key)


def _fetch(job_id: str, url: str | None, api_key: str | None) -> dict[str, Any]:
    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return (await client.job(job_id).receipt()).document()

    return talk(url, api_key, "client", work)


def _is_job_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _named_key(text: str) -> tuple[str, str]:
    miner, found, key = text.partition("=")
    if not (miner and found and key):
        raise usage(f"--miner-key takes MINER=KEY, not {text!r}", "MINER is `provider` in the receipt.")
    return miner, key
