"""`coordinator erase`: erase payloads and results, of one job or of many."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.errors import CommandError, Exit, usage
from coordinator.cli.options import Json, Key, Url, job_id, seconds_of, talk
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator

_KINDS = ("payload", "result")


def erase(
    reason: Annotated[
        str, typer.Option("--reason", help="Stays in the log for good: say nothing of what is erased.")
    ] = "",
    job: Annotated[str | None, typer.Option("--job", metavar="ID", help="A final job.")] = None,
    client: Annotated[
        str | None, typer.Option("--client", metavar="NAME", help="All final jobs of a client; for admins.")
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", help="All jobs that have been final for so long (30d); for admins."),
    ] = None,
    kinds: Annotated[str, typer.Option("--kinds", help="What to erase.")] = "payload,result",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count; for --client, --older-than.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Erase payloads and results of final jobs, for good. The log keeps what was erased, by whom and why.

    Digests and receipts stay, and still verify. Files that no other job needs follow.
    """
    if not reason.strip():
        raise usage("no reason is given", 'Write it like --reason "asked to be forgotten".')
    chosen = _kinds(kinds)
    if job is not None:
        if client is not None or older_than is not None or dry_run:
            raise usage("--job goes without --client, --older-than and --dry-run")
        _erase_one(job_id(job), chosen, reason, url, api_key, yes=yes, as_json=as_json)
        return
    if client is None and older_than is None:
        raise usage("name what to erase", "Give --job, --client or --older-than (0 for all final jobs).")
    age = None if older_than is None else seconds_of(older_than, "--older-than")
    asked = {"client": client, "older_than_seconds": age, "kinds": chosen}
    if not dry_run and not yes:
        found = _run(url, api_key, as_json, reason=reason, dry_run=True, **asked)
        _confirm(
            f"Erase {found['payloads']} payloads and {found['results']} results of {found['jobs']} jobs?"
        )
    done = _run(url, api_key, as_json, reason=reason, dry_run=dry_run, **asked)
    if as_json:
        terminal.document(done)
        return
    terminal.fields(done)
    if dry_run:
        terminal.note("Nothing was erased: this was a dry run.")
    elif not done["erased"]:
        _note_later()


def _erase_one(
    job: str, kinds: list[str], reason: str, url: str | None, api_key: str | None, *, yes: bool, as_json: bool
) -> None:
    if not yes:
        _confirm(f"Erase the {' and the '.join(kinds)} of job {job}?")

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return (await client.job(job).erase(reason, kinds)).document()

    answer = talk(url, api_key, "client", work)
    if as_json:
        terminal.document(answer)
        return
    terminal.fields({"job": job, **{name: answer[name] for name in ("kinds", "erased", "position")}})
    if not answer["erased"]:
        _note_later()


def _run(url: str | None, api_key: str | None, as_json: bool, **asked: Any) -> dict[str, Any]:
    """Erase, or count, piece by piece; the sums."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        sums: dict[str, Any] = {"jobs": 0, "payloads": 0, "results": 0}
        dry_run = asked["dry_run"]
        sums |= {"dry_run": dry_run, "erased": not dry_run, "position": 0}
        with terminal.progress(quiet=as_json) as bars:
            task = bars.add_task("counting" if dry_run else "erasing", total=None, detail="")
            async for piece in client.erase(**asked):
                for name in ("jobs", "payloads", "results"):
                    sums[name] += getattr(piece, name)
                sums["erased"] = sums["erased"] and piece.erased
                sums["position"] = max(sums["position"], piece.position)
                bars.update(task, detail=f"{sums['jobs']} jobs")
        return sums

    return talk(url, api_key, "admin", work)


def _kinds(text: str) -> list[str]:
    chosen = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if not set(chosen) <= set(_KINDS):
        raise usage(f"--kinds: invalid kinds {text!r}", "Write payload, result, or payload,result.")
    return chosen


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise usage("an erasure has to be confirmed, and stdin is no terminal", "Add --yes.")
    terminal.note(f"{question} Nothing brings them back. Write `yes` to go on:")
    if sys.stdin.readline().strip().lower() != "yes":
        raise CommandError("NOT_CONFIRMED", "nothing was erased", "Write `yes`, or add --yes.", Exit.USAGE)


def _note_later() -> None:
    terminal.note(
        "The erasure is in the log; its carrying out follows by itself (`/health` says what delays it)."
    )
