"""`coordinator checkpoint`: the signed state of a log, shown, verified and compared; most of it offline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from coordinator.cli.errors import CommandError, Exit, usage
from coordinator.cli.options import DataDir, Json, Url
from coordinator.cli.settings import settings_with
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.crypto.log.checkpoint import SignedCheckpoint
    from coordinator.crypto.log.note import VerifierKey

MAX_ANSWER_BYTES: Final = 128 * 1024
"""Of a checkpoint, or of a proof with all its hashes."""
app = typer.Typer(help="Checkpoints: the signed size and root of the log.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(metavar="FILE|URL", help="A checkpoint; - is stdin.")]
Trusted = Annotated[
    list[str] | None,
    typer.Option("--trusted", metavar="KEY", help="A log's verifier key that you trust: origin+hash+base64."),
]
WitnessKeys = Annotated[
    list[str] | None,
    typer.Option("--witness", metavar="KEY", help="The verifier key of a witness that you trust."),
]


@app.command()
def show(url: Url = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show the published checkpoint: of the coordinator at --url, else of the log of the settings."""
    signed = _fetch(url) if url is not None else _stored(data_dir)
    if as_json:
        terminal.document(_described(signed))
    else:
        terminal.write(signed.text.rstrip("\n"))


@app.command()
def key(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show the verifier key of the log of the settings, for auditors and witnesses."""
    from coordinator.runtime.proofs import open_proofs

    with open_proofs(settings_with(data_dir)) as proofs, _no_proof():
        names = proofs.names()
    if as_json:
        terminal.document(
            {"origin": names.origin, "verifier_key": names.key.text, "former_origins": list(names.former)}
        )
    else:
        terminal.write(names.key.text)


@app.command()
def verify(
    source: Annotated[
        str | None, typer.Argument(metavar="[FILE|URL]", help="A checkpoint; without one, the whole log.")
    ] = None,
    trusted: Trusted = None,
    witness: WitnessKeys = None,
    quorum: Annotated[
        int | None, typer.Option("--quorum", min=0, help="Cosignatures needed. [default: all --witness]")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Verify a checkpoint's signatures offline; or hash the whole log of the settings, and compare the root.

    Exits with 7 if it fails.
    """
    from coordinator.crypto.log.checkpoint import verify_checkpoint
    from coordinator.crypto.log.note import BadNote

    if source is None:
        _verify_log(data_dir, as_json)
        return
    keys, witnesses = _keys(trusted, "--trusted"), _keys(witness, "--witness")
    if not keys:
        hint = "Get it from somebody you trust, not from the log."
        raise usage("name the log's key with --trusted KEY", hint)
    signed = _read(source)
    try:
        verified = verify_checkpoint(signed, keys, witnesses)
    except BadNote as error:
        raise _unverified(str(error)) from None
    needed = len(witnesses) if quorum is None else quorum
    if len(verified.cosignatures) < needed:
        found = ", ".join(cosigner.name for cosigner, _ in verified.cosignatures) or "none"
        count = len(verified.cosignatures)
        raise _unverified(f"{needed} cosignatures are needed, and there are {count} ({found})")
    outcome = {
        "verified": True,
        "origin": verified.checkpoint.origin,
        "size": verified.checkpoint.size,
        "root": verified.checkpoint.root.hex(),
        "key": verified.log_key.text,
        "cosignatures": [
            {"witness": cosigner.name, "time": signature.time}
            for cosigner, signature in verified.cosignatures
        ],
    }
    if as_json:
        terminal.document(outcome)
    else:
        terminal.fields(outcome)


@app.command()
def compare(one: Source, other: Source, trusted: Trusted = None, as_json: Json = False) -> None:
    """Compare two checkpoints of one log. Two roots for one size prove that it showed two histories.

    Exits with 7 for such a split view. Checkpoints of two sizes need a consistency proof, which is asked for
    where the larger one came from a URL.
    """
    from coordinator.crypto.log.checkpoint import is_split_view, verify_checkpoint
    from coordinator.crypto.log.note import BadNote

    keys = _keys(trusted, "--trusted")
    if not keys:
        raise usage("name the log's key with --trusted KEY", "Only signed checkpoints prove anything.")
    first, second = sorted((_read(one), _read(other)), key=lambda signed: signed.checkpoint.size)
    try:
        signers = [verify_checkpoint(signed, keys).log_key.text for signed in (first, second)]
    except BadNote as error:
        raise _unverified(str(error)) from None
    a, b = first.checkpoint, second.checkpoint
    if a.origin != b.origin:
        raise _unverified(f"these are checkpoints of two logs: {a.origin} and {b.origin}")
    split = is_split_view(a, b)
    verdict = "split view" if split else "same" if a.size == b.size else _grown(first, second, one, other)
    outcome: dict[str, Any] = {
        "verdict": verdict,
        "origin": a.origin,
        "signed_by": signers,
        "sizes": [a.size, b.size],
        "roots": [a.root.hex(), b.root.hex()],
    }
    if split:
        outcome["proof"] = [first.text, second.text]
    if as_json:
        terminal.document(outcome)
    else:
        terminal.fields({name: value for name, value in outcome.items() if name != "proof"})
    if split:
        raise CommandError(
            "SPLIT_VIEW",
            f"the log's key has signed two roots for the first {a.size} events of {a.origin}",
            "Keep both checkpoints: together they are the proof.",
            Exit.UNVERIFIED,
        )
    if verdict == "inconsistent":
        raise _unverified(f"the log of {b.size} events does not begin with that of {a.size}")


def _grown(smaller: SignedCheckpoint, larger: SignedCheckpoint, *sources: str) -> str:
    """Ask the log for the proof that the larger one begins with the smaller one, if one of them has a URL."""
    from coordinator.crypto.merkle import verify_consistency

    url = next((_base(source) for source in sources if _is_url(source)), None)
    if url is None:
        return "two sizes; no proof asked for"
    a, b = smaller.checkpoint, larger.checkpoint
    body = _get(f"{url}/v1/proofs/consistency?from={a.size}&to={b.size}")
    try:
        path = [bytes.fromhex(text) for text in json.loads(body)["path"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CommandError(
            "BAD_ANSWER", f"{url} answered no proof", "Ask its operator for it.", Exit.FAILED
        ) from None
    return "grown" if verify_consistency(a.size, b.size, path, a.root, b.root) else "inconsistent"


def _verify_log(data_dir: Path | None, as_json: bool) -> None:
    from coordinator.application.proof.errors import LogRewritten
    from coordinator.runtime.proofs import open_proofs, verify_log

    settings = settings_with(data_dir)
    with open_proofs(settings) as proofs, _no_proof(), terminal.progress(quiet=as_json) as bars:
        try:
            found = verify_log(proofs, terminal.bar(bars, "hashing", unit="events"))
        except LogRewritten as error:
            raise CommandError(
                "LOG_REWRITTEN", str(error), "Keep a copy of the database to find the cause.", Exit.UNVERIFIED
            ) from None
    if as_json:
        terminal.document(found)
    else:
        terminal.fields(found)


def _described(signed: SignedCheckpoint) -> dict[str, Any]:
    checkpoint = signed.checkpoint
    return {
        "origin": checkpoint.origin,
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
        "signatures": [
            {"name": s.name, "hash": s.hash.hex(), "time": s.time} for s in signed.note.signatures
        ],
        "checkpoint": signed.text,
    }


def _stored(data_dir: Path | None) -> SignedCheckpoint:
    from coordinator.runtime.proofs import open_proofs

    with open_proofs(settings_with(data_dir)) as proofs, _no_proof():
        return proofs.published().signed


def _read(source: str) -> SignedCheckpoint:
    from coordinator.crypto.log.checkpoint import read_checkpoint
    from coordinator.crypto.log.note import MAX_NOTE_BYTES, BadNote

    if _is_url(source):
        return _fetch(source)
    try:
        if source == "-":
            content = typer.get_binary_stream("stdin").read(MAX_NOTE_BYTES + 1)
        else:
            with Path(source).open("rb") as file:
                content = file.read(MAX_NOTE_BYTES + 1)
        return read_checkpoint(content)
    except OSError as error:
        raise usage(
            f"{source}: {error.strerror}", "Give a file, a coordinator's URL, or - for stdin."
        ) from None
    except BadNote as error:
        raise _unverified(f"{source} is no checkpoint: {error}") from None


def _fetch(url: str) -> SignedCheckpoint:
    from coordinator.crypto.log.checkpoint import read_checkpoint
    from coordinator.crypto.log.note import BadNote

    try:
        return read_checkpoint(_get(f"{_base(url)}/checkpoint"))
    except BadNote as error:
        raise _unverified(f"{url} answered no checkpoint: {error}") from None


def _get(url: str) -> bytes:
    from coordinator.wire.http import bounded
    from coordinator.wire.http.proxies import new_blocking_client

    try:
        with new_blocking_client(url, timeout=bounded.PATIENCE_SECONDS) as client:
            answer = bounded.get(client, url, MAX_ANSWER_BYTES)
    except bounded.OutOfBounds as error:
        hint = "Check the URL, and that the coordinator runs."
        raise CommandError("UNREACHABLE", str(error), hint, Exit.UNREACHABLE) from None
    if answer.status != 200:
        code, detail = _problem(answer.body) or ("BAD_ANSWER", f"{url} answered {answer.status}")
        raise CommandError(code, detail, "Check the URL; `/v1/log` shows what is published.", Exit.FAILED)
    return answer.body


def _problem(body: bytes) -> tuple[str, str] | None:
    """Code and detail of a problem document; None for anything else."""
    try:
        problem = json.loads(body)
        code, detail = problem["code"], problem["detail"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (code, detail) if isinstance(code, str) and isinstance(detail, str) else None


def _base(url: str) -> str:
    return url.rstrip("/").removesuffix("/checkpoint")


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _keys(texts: list[str] | None, option: str) -> list[VerifierKey]:
    from coordinator.crypto.log.note import BadNote, VerifierKey

    try:
        return [VerifierKey.parse(text) for text in texts or ()]
    except BadNote as error:
        raise usage(f"{option}: {error}", "`coordinator checkpoint key` shows a log's key.") from None


def _unverified(detail: str) -> CommandError:
    hint = "Check the file and the keys; a wrong signature proves nothing about the log."
    return CommandError("NOT_VERIFIED", detail, hint, Exit.UNVERIFIED)


@contextmanager
def _no_proof() -> Iterator[None]:
    from coordinator.application.proof.proofs import NoProof

    try:
        yield
    except NoProof as error:
        hint = "Start the coordinator: its first checkpoint follows within a second or so."
        raise CommandError("NOT_IN_CHECKPOINT", str(error), hint, Exit.NOT_FOUND) from None
