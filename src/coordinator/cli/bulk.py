"""`coordinator job search`, `cancel` and `retry`: of one job, or of all that match a query.

A batch has a dry run, a confirmation and a bar.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coordinator.cli.errors import CommandError, Exit, usage
from coordinator.cli.options import Json, Key, Url, job_id, talk
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator

POLL_SECONDS = 0.5
_VERBS = {"cancel": "Cancel", "retry": "Submit again"}
_DOING = {"cancel": "canceling", "retry": "submitting again"}


def _job_id_if_given(text: str | None) -> str | None:
    return None if text is None else job_id(text)


JobIdOrAll = Annotated[
    str | None,
    typer.Argument(metavar="[JOB_ID]", help="The job's id; or --all.", callback=_job_id_if_given),
]
All = Annotated[
    str | None,
    typer.Option(
        "--all", metavar="QUERY", help="All jobs that match, such as 'state:failed service:whisper age:>1h'."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="With --all: only count, and show the first jobs.")]
Yes = Annotated[bool, typer.Option("--yes", help="With --all: do not ask.")]


def search(
    query: Annotated[
        str, typer.Argument(metavar="QUERY", help="Such as 'state:failed client:alice age:<1d'.")
    ],
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many jobs.")] = 20,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Jobs that match a query, newest first: your own, or everybody's for operators and admins.

    Terms, all of which must hold: state, service, client, miner, code, class, attempt (attempt:>1), age
    (age:>10m), id, and words.
    """

    async def work(client: AsyncCoordinator) -> list[dict[str, Any]]:
        return [job async for job in client.batches.search(query, limit=limit)]

    jobs = talk(url, api_key, "client", work)
    if as_json:
        terminal.document({"items": jobs, "next_cursor": None})
        return
    names = ("job_id", "state", "service", "client", "attempt", "miner_id", "error_code", "requested_at")
    rows = [[job.get(name) for name in names] for job in jobs]
    columns = ("JOB", "STATE", "SERVICE", "CLIENT", "ATTEMPT", "MINER", "ERROR", "REQUESTED")
    terminal.table(columns, rows, "No jobs.")


def retry(
    job: JobIdOrAll = None,
    all_: All = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Submit a final job again, or with --all those that match: failed, expired and canceled ones.

    Each is a new job of the same client, with the same request.
    """
    _check_one(job, all_, dry_run=dry_run)
    if all_ is not None:
        _run_batch("retry", all_, "", url, api_key, dry_run=dry_run, yes=yes, as_json=as_json)
        return

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        submitted = (await client.job(job or "").retry()).submitted
        assert submitted is not None
        return submitted.document()

    answer = talk(url, api_key, "client", work)
    if as_json:
        terminal.document(answer)
    else:
        terminal.fields({name: value for name, value in answer.items() if name != "status"})


def cancel(
    job: JobIdOrAll = None,
    all_: All = None,
    reason: Annotated[str, typer.Option("--reason", help="Stored with the job.")] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Cancel a queued or running job, or with --all those that match."""
    _check_one(job, all_, dry_run=dry_run)
    if all_ is not None:
        _run_batch("cancel", all_, reason, url, api_key, dry_run=dry_run, yes=yes, as_json=as_json)
        return

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return (await client.job(job or "").cancel(reason)).document()

    answer = talk(url, api_key, "client", work)
    if as_json:
        terminal.document(answer)
    else:
        terminal.fields({name: value for name, value in answer.items() if name != "status"})


def _check_one(job: str | None, query: str | None, *, dry_run: bool) -> None:
    if (job is None) == (query is None):
        raise usage("name one job, or --all QUERY", "Write it like --all 'state:queued age:>1h'.")
    if dry_run and query is None:
        raise usage("--dry-run goes with --all", "One job needs none.")


def _run_batch(
    kind: Literal["cancel", "retry"],
    query: str,
    reason: str,
    url: str | None,
    api_key: str | None,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Do it, and follow it to its end. Ctrl-C stops the batch; what is done stays done."""

    async def plan(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.batches.plan(kind, query)

    if dry_run or not yes:
        planned = talk(url, api_key, "client", plan)
        if dry_run:
            _show_plan(planned, as_json)
            return
        if not _is_confirmed(kind, planned):
            raise CommandError("NOT_CONFIRMED", "nothing was done", "Write `yes`, or add --yes.", Exit.USAGE)

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await _followed(client, kind, query, reason, as_json=as_json)

    batch = talk(url, api_key, "client", work)
    if as_json:
        terminal.document(batch)
    else:
        shown = ("batch_id", "state", "why", "done", "refused")
        terminal.fields({name: batch[name] for name in shown})
    if batch["state"] != "DONE":
        hint = "Begin it again: jobs that are done already are left out."
        raise CommandError(f"BATCH_{batch['state']}", batch["why"] or "it was canceled", hint, Exit.FAILED)


async def _followed(
    client: AsyncCoordinator, kind: Literal["cancel", "retry"], query: str, reason: str, *, as_json: bool
) -> dict[str, Any]:
    import asyncio

    batch = await client.batches.begin(kind, query, reason=reason)
    total = None if batch["total"]["more"] else batch["total"]["number"]
    try:
        with terminal.progress(quiet=as_json) as bars:
            task = bars.add_task(_DOING[kind], total=total, detail="")
            while batch["ended_at"] is None:
                await asyncio.sleep(POLL_SECONDS)
                batch = await client.batches.show(batch["batch_id"])
                refused = sum(batch["refused"].values())
                told = f"{batch['done']} jobs" + (f", {refused} refused" if refused else "")
                bars.update(task, completed=batch["done"] + refused, detail=told)
    except asyncio.CancelledError:
        terminal.note("stopping the batch; what is done stays done")
        await asyncio.shield(client.batches.cancel(batch["batch_id"]))
        raise
    return batch


def _show_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        terminal.document(plan)
        return
    columns = ("JOB", "STATE", "SERVICE", "CLIENT", "REQUESTED")
    rows = [
        (job["job_id"], job["state"], job["service"], job["client"], job["requested_at"])
        for job in plan["sample"]
    ]
    terminal.fields({"query": plan["query"], "jobs": _number(plan["total"]), **plan["by_state"]})
    terminal.table(columns, rows, "No jobs.")
    terminal.note("Nothing was done: this was a dry run. The table has the first jobs.")


def _is_confirmed(kind: str, plan: dict[str, Any]) -> bool:
    if not sys.stdin.isatty():
        raise usage("this has to be confirmed, and stdin is no terminal", "Add --yes, or see --dry-run.")
    number = _number(plan["total"])
    terminal.note(f"{_VERBS[kind]} {number} jobs ({terminal.plain(plan['query'])})? Write `yes` to go on:")
    return sys.stdin.readline().strip().lower() == "yes"


def _number(count: dict[str, Any]) -> str:
    return f"more than {count['number']}" if count["more"] else str(count["number"])
