"""`coordinator job`: submit jobs and follow them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coordinator.cli.errors import CommandError, Exit, usage
from coordinator.cli.matches import show_match
from coordinator.cli.options import JobId, Json, Key, Url, job_id, json_object, micros, talk
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from datetime import datetime

    from coordinator.client import AsyncCoordinator, AsyncJob, JobHistory, JobMatch, JobResult, JobView

app = typer.Typer(help="Submit jobs and follow them.", no_args_is_help=True)

Timeout = Annotated[
    float | None, typer.Option("--timeout", min=0, help="Give up waiting after so many seconds.")
]


@app.command()
def submit(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="See `coordinator service list`.")],
    payload: Annotated[
        str, typer.Option("--payload", help="The input: a JSON object, @FILE, or - for stdin.")
    ] = "{}",
    file: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="NAME=PATH", help="Upload a file and name it in this payload field."),
    ] = None,
    constraints: Annotated[
        str, typer.Option("--constraints", help="""The job's needs, such as '{"gpu": "nvidia"}'.""")
    ] = "{}",
    ttl: Annotated[
        int | None, typer.Option("--ttl", min=1, help="Seconds until the job expires. [default: 900]")
    ] = None,
    priority: Annotated[
        int | None, typer.Option("--priority", min=0, max=9, help="Higher goes first.")
    ] = None,
    max_attempts: Annotated[
        int | None, typer.Option("--max-attempts", min=1, max=10, help="[default: 3]")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Idempotency key: the same key and request are the same job."),
    ] = None,
    when_unmatched: Annotated[
        Literal["wait", "refuse"] | None,
        typer.Option("--when-unmatched", help="If no live miner could run it: wait for one, or refuse."),
    ] = None,
    callback_url: Annotated[
        str | None,
        typer.Option("--callback-url", help="A public https URL that is told of the job's end."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="AMOUNT", help="In units: the job is never paid more.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result and print it.")] = False,
    timeout: Timeout = None,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Submit a job. The payload is checked against the service's schema at once."""
    body = json_object(payload, "--payload")
    needs = json_object(constraints, "--constraints")
    files = [_named_path(text) for text in file or ()]
    most = None if budget is None else micros(budget)

    async def work(client: AsyncCoordinator) -> JobView | None:
        listing = _list_fields(await client.service(service)) if files else frozenset()
        with terminal.progress(quiet=as_json) as bars:
            for name, path in files:
                uploaded = await client.upload(path, terminal.bar(bars, f"uploading {path.name}"))
                _put(body, name, uploaded.ref, listing)
        submitted = await client.submit(
            service,
            body,
            constraints=needs,
            ttl_seconds=ttl,
            priority=priority,
            max_attempts=max_attempts,
            idempotency_key=key,
            when_unmatched=when_unmatched,
            callback_url=callback_url,
            budget=most,
        )
        if not wait:
            assert submitted.submitted is not None
            if as_json:
                terminal.document(submitted.submitted.document())
            else:
                _show(submitted.submitted.document())
            return None
        terminal.note(f"job {terminal.plain(submitted.job_id)}")  # for a user who interrupts the wait
        return await _finish(submitted, timeout, as_json)

    job = talk(url, api_key, "client", work)
    if job is not None:
        _exit_by_state(job)


@app.command("list")
def list_jobs(
    state: Annotated[
        Literal["QUEUED", "RUNNING", "COMPLETED", "FAILED", "CANCELED", "EXPIRED"] | None,
        typer.Option("--state", case_sensitive=False, help="Only jobs in this state."),
    ] = None,
    service: Annotated[str | None, typer.Option("--service", help="Only jobs of this service.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many jobs.")] = 20,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Your jobs, newest first."""

    async def work(client: AsyncCoordinator) -> list[dict[str, Any]]:
        found = client.jobs(state=state, service=service, limit=limit)
        return [job.document() async for job in found]

    jobs = talk(url, api_key, "client", work)
    if as_json:
        terminal.document({"items": jobs, "next_cursor": None})
        return
    columns = ("JOB", "STATE", "SERVICE", "ATTEMPT", "MINER", "REQUESTED")
    rows = [
        (
            job.get("job_id"),
            job.get("state"),
            job.get("service"),
            job.get("attempt"),
            job.get("assigned_miner_id"),
            job.get("requested_at"),
        )
        for job in jobs
    ]
    terminal.table(columns, rows, "No jobs.")


@app.command()
def show(job_id: JobId, url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Everything about one job."""

    async def work(client: AsyncCoordinator) -> JobView:
        return await client.job(job_id).view()

    job = talk(url, api_key, "client", work)
    if as_json:
        terminal.document(job.document())
    else:
        _show(job.document())


@app.command()
def history(job_id: JobId, url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Tell what happened to a job: each event of the log in a sentence."""

    async def work(client: AsyncCoordinator) -> JobHistory:
        return await client.job(job_id).history()

    told = talk(url, api_key, "client", work)
    if as_json:
        terminal.document(told.document())
        return
    begun = told.entries[0].at
    rows = [
        (e.position, _moment(e.at), f"+{(e.at - begun).total_seconds():.3f} s", e.text) for e in told.entries
    ]
    terminal.table(("POSITION", "AT", "AFTER", "EVENT"), rows, "No events.")


@app.command()
def why(job_id: JobId, url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Tell why a job waits: which constraints miners fail, and what would help."""

    async def work(client: AsyncCoordinator) -> JobMatch:
        return await client.job(job_id).match()

    show_match(talk(url, api_key, "client", work), as_json)


@app.command()
def watch(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB_ID…", help="One job, or several.")],
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Follow jobs until they are final: states, progress, and text as it is written.

    Exits with 1 if a job did not complete. With --json every message is a line.
    """

    import asyncio

    from coordinator.cli.watching import Watching

    async def work(client: AsyncCoordinator) -> list[JobView]:
        jobs = list(dict.fromkeys(map(job_id, job_ids)))
        with terminal.progress(quiet=as_json) as bars:
            watching = Watching(bars, jobs, as_json=as_json)

            async def follow(followed: str) -> JobView:
                handle = client.job(followed)
                async for update in handle.stream():
                    watching.show(update)
                return await handle.view()

            async with asyncio.TaskGroup() as group:
                followed = [group.create_task(follow(one)) for one in jobs]
            return [task.result() for task in followed]

    for job in talk(url, api_key, "client", work):
        _exit_by_state(job)


@app.command()
def result(
    job_id: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job is final.")] = False,
    timeout: Timeout = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Download the files of the result to this folder."),
    ] = None,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Show a job's result. Exits with 1 if it ended without one."""

    async def work(client: AsyncCoordinator) -> JobView | None:
        handle = client.job(job_id)
        if wait:
            return await _finish(handle, timeout, as_json, output_dir)
        job = await handle.view()
        if job.final:
            return await _finish(handle, timeout, as_json, output_dir)
        hint = "Add --wait, or follow the job with `coordinator job watch`."
        raise CommandError("JOB_NOT_READY", f"job {job_id} is {job.state}", hint, Exit.REFUSED)

    job = talk(url, api_key, "client", work)
    if job is not None:
        _exit_by_state(job)


def _moment(at: datetime) -> str:
    return terminal.moment(round(at.timestamp() * 1000))


async def _finish(
    handle: AsyncJob, timeout: float | None, as_json: bool, folder: Path | None = None
) -> JobView:
    """Wait for the end of a job and print its result."""
    import asyncio

    with terminal.progress(quiet=as_json) as bars:
        bars.add_task(f"waiting for {handle.job_id}", total=None, detail="")
        job = await handle.wait(timeout)
    if job.state != "COMPLETED":
        if as_json:
            terminal.document(job.document())
        return job
    found = await handle.result()
    if folder is not None:
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        await _download(handle, found, folder, as_json)
    if as_json:
        terminal.document(found.document())
    else:
        ours = {"job_id": job.job_id, "state": job.state}
        # The miner named the result's fields: none of them takes the place of ours.
        theirs = {f"result.{name}" if name in ours else name: v for name, v in found.result.items()}
        terminal.fields(ours | theirs)
    return job


async def _download(handle: AsyncJob, found: JobResult, folder: Path, as_json: bool) -> None:
    with terminal.progress(quiet=as_json) as bars:
        for file in found.files():
            target = folder / f"{found.job_id}-{file.name}"
            size = await handle.download(file.sha256, target, terminal.bar(bars, f"downloading {file.name}"))
            terminal.note(f"{terminal.plain(target)} ({terminal.size(size)})")


def _list_fields(service: dict[str, Any]) -> frozenset[str]:
    """The payload fields that are lists in the service's schema."""
    schema = service.get("input_schema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return frozenset()
    return frozenset(name for name, spec in properties.items() if _is_list(spec))


def _is_list(spec: Any) -> bool:
    if not isinstance(spec, dict):
        return False
    kind = spec.get("type")
    choices = spec.get("anyOf") or spec.get("oneOf") or ()
    return "array" in (kind if isinstance(kind, list) else [kind]) or any(map(_is_list, choices))


def _put(body: dict[str, Any], name: str, ref: str, listing: frozenset[str]) -> None:
    """Name a file in a payload field; a list field gets one more item."""
    if name in listing:
        body[name] = [*body.get(name, ()), ref]
    else:
        body[name] = ref


def _named_path(text: str) -> tuple[str, Path]:
    name, found, path = text.partition("=")
    if not (name and found and path):
        raise usage(f"--file takes NAME=PATH, not {text!r}", "NAME is the payload field for the file.")
    if not Path(path).is_file():
        raise usage(f"--file {name}: file {path} not found", "Paths are relative to this directory.")
    return name, Path(path)


def _show(answer: dict[str, Any]) -> None:
    terminal.fields({name: value for name, value in answer.items() if name != "status"})


def _exit_by_state(job: JobView) -> None:
    if job.state != "COMPLETED":
        hint = f"`coordinator log show --job {job.job_id}` shows its events."
        raise CommandError(
            f"JOB_{job.state}", f"job {job.job_id}: {job.problem or job.state}", hint, Exit.FAILED
        )
