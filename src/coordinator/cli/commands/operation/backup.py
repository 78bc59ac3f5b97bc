"""`coordinator backup` and `coordinator restore`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.commands.log import read_moment
from coordinator.cli.errors import CommandError, Exit, usage
from coordinator.cli.options import DataDir, Json
from coordinator.cli.settings import settings_with
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from rich.progress import Progress

    from coordinator.runtime.backup.restoring import Restored
    from coordinator.runtime.settings import Settings

NO_KEY = (
    "The private signing key is not in the backup, on purpose: keep signing.key (or RECEIPT_SIGNING_KEY_HEX) "
    "and the retired keys somewhere else. Without them API keys end, and receipts get another signature."
)


def backup(
    to: Annotated[Path, typer.Argument(metavar="TO", help="A folder; one that exists gets what came since.")],
    blobs: Annotated[
        bool,
        typer.Option("--blobs/--no-blobs", help="With uploads; not if their store has copies of its own."),
    ] = True,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Back up the log, payloads, uploads and checkpoints, while the coordinator runs.

    A second run into the same folder adds what came since. It holds payloads, so keep it as private as the
    coordinator; it holds no private key.
    """
    from coordinator.runtime.backup.making import make_backup

    settings = settings_with(data_dir)
    with _refusals(to), terminal.progress(quiet=as_json) as bars:
        made = make_backup(settings, to, with_blobs=blobs, progress=_bars(bars))
    manifest = made.manifest
    if as_json:
        shown = manifest.model_dump(mode="json", exclude={"parts", "migrations"})
        shown |= {"folder": str(to), "position": manifest.position, "events": manifest.events}
        shown |= {"at": terminal.moment(manifest.at), "parts": len(manifest.parts), "private_key": False}
        shown |= {"added_events": made.added_events, "added_blobs": made.added_blobs}
        terminal.document(shown)
    else:
        terminal.write(
            f"{manifest.events} events up to position {manifest.position} ({made.added_events} new), "
            f"{manifest.blobs} blobs ({made.added_blobs} new); {terminal.plain(to)}"
        )
        for digest in manifest.missing_blobs:
            terminal.note(
                f"The blob {digest} is not in the blob store, or damaged there: it is not backed up."
            )
        terminal.note(NO_KEY)


def restore(
    source: Annotated[
        Path, typer.Argument(metavar="FROM", exists=True, file_okay=False, help="A backup's folder.")
    ],
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="POSITION|TIME",
            help="Up to a position, a time (2026-01-31T12:00:00Z), or a time ago (10m, 2h).",
        ),
    ] = None,
    continue_as: Annotated[
        str | None,
        typer.Option("--continue-as", metavar="NEW_ORIGIN", help="Begin a new log identity over it."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, with --continue-as: it is kept.")] = "",
    same_origin: Annotated[
        bool,
        typer.Option("--same-origin", help="You vouch that nothing was signed after the backup."),
    ] = False,
    erasures: Annotated[
        Path | None,
        typer.Option(
            "--erasures",
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="Content erased since. [default: the list beside CHECKPOINT_FILE, if it is there]",
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Verify everything, and write nothing.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Restore a backup into an empty database and data directory, verified, whole or up to a moment.

    Stop every coordinator first. Miners may run on. Content that was erased stays erased.
    """
    from coordinator.crypto.log.note import BadNote
    from coordinator.runtime.backup.erasures import erasure_file
    from coordinator.runtime.backup.fork import Identity
    from coordinator.runtime.backup.restoring import restore_backup
    from coordinator.runtime.backup.survey import Moment

    if continue_as is not None and not reason.strip():
        raise usage("--continue-as needs a reason", 'Write it like --reason "disk lost, backup of Sunday".')
    settings = settings_with(data_dir)
    moment = Moment() if at is None else Moment(*read_moment(at, time.time()))
    listed = erasures
    if listed is None:
        beside = erasure_file(settings)
        listed = beside if beside is not None and beside.is_file() else None
    with _refusals(source), terminal.progress(quiet=as_json) as bars:
        try:
            done = restore_backup(
                settings,
                source,
                moment,
                Identity(continue_as, reason, same_origin),
                erasures=listed,
                check_only=check,
                progress=_bars(bars),
            )
        except BadNote as error:
            raise usage(str(error), "The origin is the first line of each checkpoint.") from None
    warnings = _warnings(done, settings, listed)
    if as_json:
        terminal.document({**_document(done, check=check), "warnings": warnings})
        return
    verb = "would be restored" if check else "are restored"
    terminal.write(
        f"{done.survey.size} events {verb}, up to position {done.survey.position} "
        f"({terminal.moment(done.survey.at)}), with {done.payloads} payloads and results and {done.blobs} "
        f"blobs; {done.survey.compared} checkpoints compared"
    )
    for text in warnings:
        terminal.note(text)


def _document(done: Restored, *, check: bool) -> dict[str, Any]:
    return {
        "restored": not check,
        "position": done.survey.position,
        "at": terminal.moment(done.survey.at),
        "events": done.survey.size,
        "payloads": done.payloads,
        "blobs": done.blobs,
        "missing_blobs": list(done.missing_blobs),
        "erased": done.erased,
        "repeated_erasures": done.repeated,
        "checkpoints_compared": done.survey.compared,
        "origin": done.origin or None,
        "former_origin": done.former_origin or None,
    }


def _warnings(done: Restored, settings: Settings, listed: Path | None) -> list[str]:
    from coordinator.runtime.signing import SIGNING_KEY_FILE

    found = []
    if done.repeated:
        found.append(
            f"{done.repeated} payloads and results were erased after this moment: they are not restored, "
            "and the next start repeats their erasures in the log. Jobs that had not ended are canceled."
        )
    if listed is None and not _nothing_erased(settings):
        found.append(
            "Erasures after the backup are not known here: erase again what was erased since "
            f"{terminal.moment(done.survey.manifest.at)}, or give their list with --erasures."
        )
    if settings.receipt_signing_key_hex is None and not (settings.data_dir / SIGNING_KEY_FILE).is_file():
        found.append(
            f"The signing key {done.survey.manifest.signing_key_id} is not here: put signing.key back, or "
            "set RECEIPT_SIGNING_KEY_HEX, before the first start. A new key would end all API keys that were "
            "made at run time."
        )
    found += [f"The blob {digest} is missing: jobs that need it fail." for digest in done.missing_blobs]
    if done.former_origin:
        found.append(
            f"The log is {done.origin} now, and was {done.former_origin}: give witnesses and auditors its "
            "key (`coordinator checkpoint key`), and remove LOG_ORIGIN."
        )
    return found


def _nothing_erased(settings: Settings) -> bool:
    """Whether the checkpoint is where its list of erasures would be: then there was no erasure."""
    from coordinator.runtime.backup.erasures import SUFFIX, erasure_file

    beside = erasure_file(settings)
    return beside is not None and beside.with_name(beside.name.removesuffix(SUFFIX)).is_file()


def _bars(bars: Progress) -> Callable[[str], Callable[[int, int], None]]:
    return lambda label: terminal.bar(bars, label)


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """The errors of both, as those of commands."""
    from coordinator.blobs import BlobError
    from coordinator.runtime.backup.fork import HistorySigned
    from coordinator.runtime.log_transfer import LogNotEmpty
    from coordinator.storage.backup.folder import BackupBusy, BadBackup
    from coordinator.storage.transfer.export_file import BadExport

    try:
        yield
    except (BadBackup, BadExport) as error:
        hint = "Nothing was changed. Name another folder, or another copy of this one."
        raise CommandError("BAD_BACKUP", f"{folder}: {error}", hint, Exit.UNVERIFIED) from None
    except HistorySigned as error:
        hint = "Nothing was changed. docs/backup.md explains the choices."
        raise CommandError("HISTORY_SIGNED", str(error), hint, Exit.REFUSED) from None
    except BackupBusy as error:
        raise CommandError("BACKUP_BUSY", str(error), "Wait for its end.", Exit.REFUSED) from None
    except LogNotEmpty:
        hint = "Name an empty database, or move coordinator.db* out of the data directory; keep `checkpoint`."
        raise CommandError("LOG_NOT_EMPTY", "there is a log already", hint, Exit.REFUSED) from None
    except BlobError as error:
        raise CommandError(
            error.code, str(error), "Check the blob store and its disk.", Exit.UNREACHABLE
        ) from None
