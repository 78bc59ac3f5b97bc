"""`coordinator passport`: files that prove one job offline."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.errors import CommandError, Exit, usage
from coordinator.cli.options import JobId, Json, Key, Url, json_object, talk
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.audit.passport.trust import Trust
    from coordinator.audit.passport.verify import Given, Verdict
    from coordinator.client import AsyncCoordinator
    from coordinator.client.models import Passport as MadePassport
    from coordinator.crypto.log.passport import Passport

app = typer.Typer(help="Passports: files that prove one job offline.", no_args_is_help=True)

File = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A passport, as `make` writes it.")
]
Document = Annotated[str | None, typer.Option(metavar="@FILE|JSON", help="Compare its digest, too.")]


@app.command()
def make(
    job_id: JobId,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write it.")],
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for the job's end and its checkpoint.")
    ] = 10.0,
    with_salts: Annotated[
        bool,
        typer.Option("--with-salts", help="Whoever has the payload can check its digest, or guess at it."),
    ] = False,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Fetch the passport of a final job. `passport verify` needs no server."""

    async def work(client: AsyncCoordinator) -> MadePassport:
        return await client.job(job_id).passport(with_salts=with_salts, timeout=wait)

    made = talk(url, api_key, "client", work)
    try:
        made.save(output)
    except OSError as error:
        raise usage(f"--output: can't write {output}: {error.strerror or error}") from None
    events = len(made.document()["events"])
    if as_json:
        terminal.document({"file": str(output), "job_id": job_id, "events": events})
    else:
        terminal.note(f"{output}: {events} events of job {job_id}")


@app.command()
def show(file: File, as_json: Json = False) -> None:
    """Show what a passport says. Nothing is verified: `passport verify` does."""
    passport = _read(file)
    if as_json:
        terminal.document(passport.model_dump(mode="json"))
        return
    told = _event(passport.events[0].state)
    origin, size, *_ = [*passport.checkpoint.split("\n"), "", ""]
    terminal.fields(
        {
            "job": passport.job_id,
            "client": told.get("client"),
            "service": told.get("service"),
            "payload digest": told.get("payload_digest"),
            "log": f"{origin}, checkpoint of {size} events",
            "receipt": None if passport.receipt is None else passport.receipt.get("receipt_id"),
            "salts": "with salts" if passport.salts else "",
        }
    )
    rows = [
        (e.position, e.index, e.version, e.topic, _facts(e.state))
        for e in sorted([*passport.events, *passport.relied_on], key=lambda event: event.position)
    ]
    terminal.table(["POSITION", "INDEX", "VERSION", "TOPIC", "FACTS"], rows, "no events")
    terminal.note("Not verified: `coordinator passport verify` does.")


@app.command()
def verify(
    file: File,
    trusted: Annotated[
        list[str] | None,
        typer.Option(
            "--trusted",
            metavar="KEY",
            help="The coordinator's key, or its log's (origin+hash+base64); several after a rotation.",
        ),
    ] = None,
    witness: Annotated[
        list[str] | None,
        typer.Option("--witness", metavar="KEY", help="A witness's verifier key, name+hash+base64."),
    ] = None,
    quorum: Annotated[
        int, typer.Option("--quorum", min=1, help="How many of the witnesses must have signed.")
    ] = 1,
    miner_key: Annotated[
        list[str] | None,
        typer.Option("--miner-key", metavar="MINER=KEY", help="The public key of this miner."),
    ] = None,
    any_key: Annotated[
        bool, typer.Option("--any-key", help="Trust no key: check only that the passport is whole.")
    ] = False,
    payload: Document = None,
    result: Document = None,
    as_json: Json = False,
) -> None:
    """Verify a passport with public keys alone, without any network. Exits with 7 if a check fails."""
    from coordinator.audit.passport.trust import trust_of
    from coordinator.audit.passport.verify import Given, verify_passport

    keys = [key for text in trusted or () for key in text.replace(",", " ").split()]
    if bool(keys) == any_key:
        hint = "A coordinator's /health shows its key, but get it from somebody you trust."
        raise usage("name the keys that you trust with --trusted KEY, or give --any-key; not both", hint)
    try:
        miners = dict(_named_key(text) for text in miner_key or ())
        trust = trust_of(None if any_key else keys, witness or (), miners, quorum)
    except ValueError as error:
        raise usage(str(error)) from None
    given = Given(
        None if payload is None else json_object(payload, "--payload"),
        None if result is None else json_object(result, "--result"),
    )
    passport = _read(file)
    verdict = verify_passport(passport, trust, given)
    if as_json:
        terminal.document(_document(passport, verdict, trust, given))
    else:
        _tell(passport, verdict, trust, given)
    if not verdict.ok:
        failed = next(check for check in verdict.checks if not check.ok)
        raise CommandError(
            "PASSPORT",
            f"{failed.name}: {failed.detail}",
            "Do not rely on this passport; ask its sender, or the coordinator, for another one.",
            Exit.UNVERIFIED,
        )


@app.command()
def page(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write it.")],
    as_json: Json = False,
) -> None:
    """Write the page that verifies passports in a browser, from a file and without any server."""
    from coordinator.edge.pages.passport_page import passport_page

    content = passport_page().html.encode()
    try:
        output.write_bytes(content)
    except OSError as error:
        raise usage(f"--output: can't write {output}: {error.strerror or error}") from None
    if as_json:
        terminal.document({"file": str(output), "sha256": hashlib.sha256(content).hexdigest()})
    else:
        terminal.note(f"{output}: open it in a browser, and drop a passport on it")


def _read(file: Path) -> Passport:
    from coordinator.audit.passport.reading import BadPassport, load_passport

    try:
        return load_passport(file)
    except OSError as error:
        raise usage(f"can't read {file}: {error.strerror or error}") from None
    except BadPassport as error:
        hint = "`coordinator passport make` writes one; ask the sender for the original."
        raise CommandError("PASSPORT", f"{file}: {error}", hint, Exit.UNVERIFIED) from None


def _document(passport: Passport, verdict: Verdict, trust: Trust, given: Given) -> dict[str, Any]:
    from coordinator.audit.passport.words import proven, unproven

    return {
        "verified": verdict.ok,
        "job_id": passport.job_id,
        "keys_trusted": trust.coordinator is not None,
        "checks": [check._asdict() for check in verdict.checks],
        "proven": proven(passport, verdict, trust),
        "not_proven": unproven(verdict, trust, given),
    }


def _tell(passport: Passport, verdict: Verdict, trust: Trust, given: Given) -> None:
    from coordinator.audit.passport.verify import CHECKS
    from coordinator.audit.passport.words import proven, unproven

    rows = [("ok" if c.ok else "failed", c.name, CHECKS[c.name], c.detail) for c in verdict.checks]
    terminal.table(["", "CHECK", "TRUE OF A GOOD PASSPORT", "FOUND"], rows, "no checks")
    if not verdict.ok:
        return
    terminal.write("\nProven:")
    for sentence in proven(passport, verdict, trust):
        terminal.write(f"- {terminal.plain(sentence)}")
    terminal.write("\nNot proven:")
    for sentence in unproven(verdict, trust, given):
        terminal.write(f"- {terminal.plain(sentence)}")


def _facts(state: str) -> str:
    """A few members of an event, for people."""
    event = _event(state)
    names = ("client", "miner_id", "attempt", "outcome", "key_id", "price")
    return " ".join(f"{name}={event[name]}" for name in names if name in event)


def _event(state: str) -> dict[str, Any]:
    try:
        event = json.loads(state)
    except (ValueError, RecursionError):
        event = None
    return event if isinstance(event, dict) else {}


def _named_key(text: str) -> tuple[str, str]:
    miner, found, key = text.partition("=")
    if not (miner and found and key):
        raise usage(f"--miner-key takes MINER=KEY, not {text!r}", "MINER is `provider` in the receipt.")
    return miner, key
