"""`coordinator audit`: replay a log, and name the first event where anything differs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.errors import CommandError, Exit, usage
from coordinator.cli.options import DataDir, Json, Key, talk
from coordinator.cli.settings import settings_with
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.audit.entries import Divergence, LogSource
    from coordinator.audit.run import AuditReport
    from coordinator.client import AsyncCoordinator


def audit(
    data_dir: DataDir = None,
    url: Annotated[
        str | None, typer.Option("--url", help="A coordinator; its entries need an admin's key.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", exists=True, dir_okay=False, help="A `log export`."),
    ] = None,
    trusted: Annotated[
        list[str] | None,
        typer.Option("--trusted", metavar="KEY", help="The coordinator's key; several after a rotation."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", metavar="FILE", help="Go on from the last audit kept here, and keep this one."
        ),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(
            "--metrics",
            metavar="FILE",
            help="Write the outcome for Prometheus, through node_exporter's textfiles.",
        ),
    ] = None,
    signatures: Annotated[
        bool, typer.Option("--signatures/--no-signatures", help="Verify what miners signed.")
    ] = True,
    content: Annotated[
        bool,
        typer.Option(
            "--content/--no-content",
            help="Expect payloads and results that were not erased; a copy of the log alone has none.",
        ),
    ] = True,
    report_to: Annotated[
        str | None,
        typer.Option(
            "--report-to",
            metavar="URL",
            help="A coordinator that tells its admins' webhooks of a divergence.",
        ),
    ] = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Replay a log: every rule, signature, checkpoint and row. Exits with 7 and the first divergence.

    The log is that of DATABASE_URL or the data directory, of a coordinator (--url), or in a file (--file).
    """
    from coordinator.audit.chain import check_trusted
    from coordinator.audit.entries import BadSource
    from coordinator.audit.run import AuditOptions, BadAuditState
    from coordinator.audit.run import audit as run
    from coordinator.crypto.evm.keccak import NoKeccak

    if url is not None and file is not None:
        raise usage("give --url or --file, not both")
    try:
        check_trusted(trusted or ())
    except ValueError as error:
        raise usage(f"--trusted: {error}", "`signing_key_id` in /health is such a key.") from None
    options = AuditOptions(trusted or None, signatures, content=content, state=state)
    try:
        with _open(data_dir, url, file, api_key) as source, terminal.progress(quiet=as_json) as bars:
            moved = terminal.bar(bars, "auditing", unit="" if file else "events")
            report = run(source, options, moved)
    except (BadAuditState, NoKeccak) as error:
        raise usage(str(error)) from None
    except BadSource as error:
        hint = "Check the address, the key (an admin's) or the file; `coordinator log export` makes one."
        raise CommandError(
            "BAD_SOURCE", str(error), hint, Exit.UNREACHABLE if url else Exit.UNVERIFIED
        ) from None
    if metrics is not None:
        _write_metrics(metrics, report)
    if as_json:
        terminal.document(report.document())
    else:
        _show(report)
    if report.divergence is not None:
        if report_to is not None:
            _tell(report_to, api_key, report.divergence)
        raise CommandError(
            "DIVERGENCE",
            f"position {report.divergence.position}: {report.divergence.kind}",
            "Keep a copy of the log as it is, and compare it with another one, or with a witness.",
            Exit.UNVERIFIED,
        )


def _tell(url: str, api_key: str | None, found: Divergence) -> None:
    """Have a coordinator record the divergence, which tells the webhooks of its admins."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.raise_alarm("audit.diverged", found.kind, found.position, found.detail[:500])

    talk(url, api_key, "admin", work)


def _open(
    data_dir: Path | None, url: str | None, file: Path | None, api_key: str | None
) -> AbstractContextManager[LogSource]:
    if file is not None:
        from coordinator.audit.sources.export import open_export

        return open_export(file)
    if url is not None:
        from coordinator.audit.sources.tiles import open_tiles
        from coordinator.cli.dev_files import find_key

        return open_tiles(url, api_key or find_key(url, "admin"))
    from coordinator.audit.sources.database import open_postgres, open_sqlite
    from coordinator.runtime.log_reader import open_log
    from coordinator.runtime.modes.embedded import DATABASE_FILE

    settings = settings_with(data_dir)
    open_log(settings).close()  # an error without a log
    if settings.mode == "standard":
        assert settings.database_url is not None
        return open_postgres(settings.database_url.get_secret_value())
    return open_sqlite(settings.data_dir / DATABASE_FILE)


def _write_metrics(path: Path, report: AuditReport) -> None:
    """The outcome in Prometheus' text format, whole or not at all: a collector may read it at any moment."""
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    divergences = Gauge(
        "coordinator_audit_divergences",
        "1 if the audit found that the log is not the one that it should be.",
        ["check"],
        registry=registry,
    )
    divergences.labels("audit").set(report.divergence is not None)
    Gauge("coordinator_audit_events", "Events that the audit replayed.", registry=registry).set(report.events)
    Gauge(
        "coordinator_audit_timestamp_seconds", "When it ended (Unix time).", registry=registry
    ).set_to_current_time()
    write_to_textfile(str(path), registry)


def _show(report: AuditReport) -> None:
    from coordinator.audit.entries import KINDS

    found, seen = report.divergence, report.checkpoint
    rate = report.events / report.seconds if report.seconds else 0.0
    terminal.fields(
        {
            "events": f"{report.events} in {report.seconds:.1f} s ({rate:,.0f} a second)",
            "after position": report.from_position,
            "good up to position": report.position,
            "open jobs": report.open_jobs,
            "miners' signatures": f"{report.signatures} verified",
            "checkpoints": f"{report.checkpoints} verified"
            + (f"; the newest is of {seen.size} events of {seen.origin}" if seen else ""),
            "rows of read models": f"{report.rows} compared" if report.rows else "",
            "coordinator's key": "trusted by you"
            if report.keys_trusted
            else "named by the log itself: --trusted KEY proves more",
        }
    )
    if found is None:
        terminal.write("No divergence.")
        return
    terminal.fields(
        {
            "FIRST DIVERGENCE": f"position {found.position}",
            "kind": f"{found.kind}: not true that {KINDS[found.kind]}",
            "detail": found.detail,
            "expected": found.expected,
            "found": found.found,
        }
    )
