"""`coordinator log`: the events themselves, read directly from the log."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from coordinator.cli.errors import CommandError, Exit, usage
from coordinator.cli.options import DataDir, Json
from coordinator.cli.settings import settings_with
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.application.ports import Recorded

app = typer.Typer(help="The event log, read directly from its database.", no_args_is_help=True)

TAIL_WAIT_S = 1.0
_POSITION = re.compile(r"[0-9]{1,18}")
_AGO = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIMPLE = re.compile(r"[^\s=\"]*")

From = Annotated[int | None, typer.Option("--from", min=0, metavar="POSITION", help="After this position.")]
Job = Annotated[str | None, typer.Option("--job", metavar="JOB_ID", help="Only this job's events.")]
Miner = Annotated[str | None, typer.Option("--miner", metavar="MINER_ID", help="Only this miner's events.")]
Service = Annotated[str | None, typer.Option("--service", help="Only this registry entry's events.")]
Stream = Annotated[str | None, typer.Option("--stream", metavar="UUID", help="Only this stream's events.")]


@app.command()
def show(
    job: Job = None,
    miner: Miner = None,
    service: Service = None,
    stream: Stream = None,
    after: From = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="At most so many events. [default: 100, or all of a stream]"),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show the events of a job (or miner, service, stream), or of the whole log from a position."""
    from coordinator.runtime.log_reader import open_log, read_events

    chosen = _stream(job, miner, service, stream)
    settings = settings_with(data_dir)
    with closing(open_log(settings)) as log:
        if chosen is None:
            events = read_events(log, after or 0, limit or 100)
        else:
            of_stream = log.load([chosen]).get(chosen, [])
            events = iter([e for e in of_stream if e.position > (after or 0)][:limit])
        found = _print_all(events, as_json)
    if chosen is not None and not found and not after:
        named = job or miner or service or stream
        hint = f"Check the id, and that {settings.data_dir} (or DATABASE_URL) is the right coordinator's."
        raise CommandError("NOT_FOUND", f"the log has no events of {named}", hint, Exit.NOT_FOUND)


@app.command()
def tail(
    job: Job = None,
    miner: Miner = None,
    service: Service = None,
    stream: Stream = None,
    after: From = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Follow the events until Ctrl-C: from now on, or from a position."""
    from coordinator.runtime.log_reader import READ_EVENTS, open_log

    chosen = _stream(job, miner, service, stream)
    with closing(open_log(settings_with(data_dir))) as log:
        position = log.head() if after is None else after
        while True:
            events = log.read(position, READ_EVENTS)
            _print_all((e for e in events if chosen in (None, e.stream)), as_json)
            if events:
                position = events[-1].position
            else:
                log.wait(position, TAIL_WAIT_S)


@app.command("at")
def at_moment(
    moment: Annotated[
        str,
        typer.Argument(
            metavar="POSITION|TIME",
            help="A position of the log, a time (2026-01-31T12:00:00Z), or a time ago (10m, 2h, 3d).",
        ),
    ],
    limit: Annotated[int, typer.Option("--limit", min=0, max=100_000, help="At most so many jobs.")] = 20,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show the jobs and miners as they were: the open jobs, and the last ones that had ended."""
    from coordinator.projections.past import past_at
    from coordinator.runtime.log_reader import open_log

    position, millis = read_moment(moment, time.time())
    with closing(open_log(settings_with(data_dir))) as log, terminal.progress(quiet=as_json) as bars:
        head = log.head()
        if position is not None and position > head:
            raise CommandError("BEYOND_THE_LOG", f"the log ends at position {head}", "", Exit.NOT_FOUND)
        past = past_at(log, position, millis, limit, terminal.bar(bars, "reading the log", unit="positions"))
    jobs = [*past.open_jobs.values(), *reversed(past.final_jobs.values())][:limit]
    if as_json:
        terminal.document(
            {
                "position": past.position,
                "at": None if past.at is None else terminal.moment(past.at),
                "events": past.events,
                "jobs_by_state": past.counts(),
                "jobs": [_view(row) for row in jobs],
                "miners": [_view(row) for row in past.miners.values()],
            }
        )
        return
    if past.at is None:
        terminal.write("The log was empty.")
        return
    counted = ", ".join(f"{count} {state}" for state, count in past.counts().items()) or "no jobs"
    terminal.write(f"Position {past.position}, {terminal.moment(past.at)}: {past.events} events; {counted}")
    shown = ("job_id", "state", "service", "client", "attempt", "miner_id")
    rows = [(*(row[name] for name in shown), terminal.moment(row["requested_at"])) for row in jobs]
    terminal.table(("JOB", "STATE", "SERVICE", "CLIENT", "ATTEMPT", "MINER", "REQUESTED"), rows, "No jobs.")
    terminal.write("")
    known = [
        (row["miner_id"], row["state"], row["concurrency"], terminal.moment(row["registered_at"]))
        for row in past.miners.values()
    ]
    terminal.table(("MINER", "STATE", "CONCURRENCY", "REGISTERED"), known, "No miners.")


def read_moment(text: str, now: float) -> tuple[int | None, int | None]:
    """A position, or Unix milliseconds; `now` in Unix seconds. Raises a usage error."""
    if _POSITION.fullmatch(text):
        return int(text), None
    ago = _AGO.fullmatch(text)
    if ago:
        return None, round((now - int(ago[1]) * _SECONDS[ago[2]]) * 1000)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        hint = "Give a position (1042), a time (2026-01-31T12:00:00Z), or a time ago (10m, 2h, 3d)."
        raise usage(f"invalid position or time {text!r}", hint) from None
    if at.tzinfo is None:
        raise usage(f"{text!r} has no time zone", f"Add one: {text}Z, or {text}+01:00.")
    return None, round(at.timestamp() * 1000)


def _view(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a read model for JSON: moments as text, JSON columns as JSON."""
    shown: dict[str, Any] = {}
    for name, value in row.items():
        if name.endswith("_json"):
            shown[name.removesuffix("_json")] = json.loads(value)
        elif name.endswith("_at") and value is not None:
            shown[name] = terminal.moment(value)
        else:
            shown[name] = value
    return shown


@app.command(name="continue-as")
def continue_as(
    origin: Annotated[str, typer.Argument(metavar="NEW_ORIGIN", help="Such as example.com/coordinator-2.")],
    reason: Annotated[str, typer.Option("--reason", help="Why: it is kept in the database.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Begin a new log identity over the events that the log has now. Stop all its coordinators first.

    For a restored backup or a damaged log, when its notary has stopped. Checkpoints of the former name end;
    auditors and witnesses need the new key (`coordinator checkpoint key`).
    """
    from coordinator.crypto.log.note import BadNote
    from coordinator.runtime.log_reader import open_log
    from coordinator.runtime.proofs import continue_log

    settings = settings_with(data_dir)
    open_log(settings).close()  # an error without a log, instead of a new empty one
    try:
        former = continue_log(settings, origin, reason)
    except BadNote as error:
        raise usage(str(error), "The origin is the first line of each checkpoint.") from None
    except ValueError as error:
        raise CommandError(
            "CONFLICT_STATE", str(error), "Choose a name that was never used.", Exit.REFUSED
        ) from None
    if as_json:
        terminal.document({"origin": origin, "former_origin": former or None})
    else:
        terminal.write(
            f"The log is {origin} now; start the coordinator, and give witnesses and auditors its key."
        )


def _stream(job: str | None, miner: str | None, service: str | None, stream: str | None) -> UUID | None:
    if sum(name is not None for name in (job, miner, service, stream)) > 1:
        raise usage("give only one of --job, --miner, --service and --stream")
    named = job or stream
    if named is not None:
        try:
            return UUID(named)
        except ValueError:
            hint = "`coordinator log show` prints all events, with these ids."
            raise usage(f"invalid {'job' if job else 'stream'} id {named!r}", hint) from None
    if miner is not None:
        from coordinator.domain.miner import miner_stream

        return miner_stream(miner)
    if service is not None:
        from coordinator.domain.service import service_stream

        return service_stream(service)
    return None


def _print_all(events: Iterable[Recorded], as_json: bool) -> int:
    """Print events as they come, one line each; returns their number."""
    print_event: Callable[[Recorded], None] = _print_json if as_json else _print
    count = 0
    for recorded in events:
        print_event(recorded)
        count += 1
    return count


def _print_json(recorded: Recorded) -> None:
    # The same form as on the exchange `coordinator.events`.
    terminal.line(
        {
            "position": recorded.position,
            "stream": recorded.key,
            "version": recorded.version,
            "topic": recorded.event.topic,
            "event": recorded.event.model_dump(mode="json"),
        }
    )


def _print(recorded: Recorded) -> None:
    event = recorded.event.model_dump(mode="json", exclude_none=True, exclude={"at", "by"})
    event.pop("statement", None)  # long, and `coordinator receipt show` has it
    facts = " ".join(f"{name}={_short(value)}" for name, value in event.items())
    at, by = terminal.moment(recorded.event.at), recorded.event.by
    terminal.write(
        terminal.plain(f"{recorded.position:>7}  {at}  {recorded.event.topic:<24} by {by}  {facts}")
    )


def _short(value: Any) -> str:
    # A text with spaces is quoted: it could look like further facts.
    simple = isinstance(value, str) and _SIMPLE.fullmatch(value)
    text = value if simple else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text if len(text) <= 64 else f"{text[:61]}…"
