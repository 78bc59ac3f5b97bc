"""Makes a backup, or adds to one what came since, while the coordinator runs.

The database is read in one snapshot; its rows name the blobs, which were stored before them. So a part is one
moment of the log, with everything that it needs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import UUID

from coordinator import __version__
from coordinator.blobs import BlobNotFound, BlobStore, DigestMismatch
from coordinator.blobs.local import LocalBlobStore
from coordinator.crypto.log.leaf import hash_of
from coordinator.domain.job import JobCompleted, JobSubmitted
from coordinator.domain.signing_key import SigningKeyIntroduced
from coordinator.runtime.backup.tables import CHECKPOINTS, COSIGNATURES, IDENTITY, OWNERS, REFS, WHOLE
from coordinator.runtime.bootstrap import blob_store
from coordinator.runtime.log_reader import open_log
from coordinator.runtime.log_transfer import database_of
from coordinator.runtime.settings import Settings
from coordinator.storage.backup.folder import BackupFolder, BackupPart, BadBackup, Manifest
from coordinator.storage.log.mapping import decode
from coordinator.storage.migrate import read_migrations
from coordinator.storage.transfer.export_file import EventRow, ExportHeader, ExportWriter
from coordinator.storage.transfer.source import PAYLOADS, TransferSource, open_source

MAX_BLOB_BYTES = 2**63 - 1
JOBS_AT_ONCE = 500
LATE_COSIGNATURES_MS = 24 * 3600 * 1000
"""Cosignatures of so long before the last part are written again: a witness may be late."""
Progress = Callable[[str], Callable[[int, int], None]]
"""A bar by its label: `progress("blobs")(done, total)`."""


class Made(NamedTuple):
    """What a backup has now, and what the last run added."""

    manifest: Manifest
    added_events: int
    added_blobs: int


class _Added(NamedTuple):
    position: int
    events: int
    rows: int
    last_leaf: str
    signed_to: int
    signing_key_id: str
    digests: set[str]


def make_backup(settings: Settings, to: Path, *, with_blobs: bool, progress: Progress) -> Made:
    """Make or continue the backup in this folder.

    Raises NoLog, BackupBusy, LogUnavailable, BlobError, OSError (a full disk, for one), and BadBackup for a
    folder that has the backup of another log or history, or of another version's tables.
    """
    open_log(settings).close()  # an error without a log
    folder, mode = BackupFolder(to), settings.mode
    with folder.writing():
        before = folder.manifest() if (to / "backup.json").exists() else None
        path = folder.new_part(1 if before is None else len(before.parts) + 1)
        at = time.time_ns() // 1_000_000
        try:
            with open_source(database_of(settings)) as source:
                log_id, migrations = _log_id(source), tuple(m.name for m in read_migrations())
                if before is not None:
                    folder.check_sizes(before)
                    _check_continues(source, before, log_id, migrations)
                header = ExportHeader(
                    log_id, __version__, False, migrations, 0 if before is None else before.position
                )
                added = _write_part(path, header, source, before, progress("events"))
        except OSError as error:
            path.unlink(missing_ok=True)
            error.filename = error.filename or str(to)  # a write that fails names no file
            raise
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        copied, missing = set[str](), list[str]()
        if with_blobs:
            copied, missing = asyncio.run(
                _copy(blob_store(settings), LocalBlobStore(folder.blobs), added.digests, progress("blobs"))
            )
            missing = _still_missing(settings, missing)
        part = BackupPart(
            file=folder.finish_part(path),
            after=header.after,
            position=added.position,
            events=added.events,
            rows=added.rows,
            bytes=(path.with_name(path.name.removesuffix(".new"))).stat().st_size,
            at=at,
        )
        count, size = _size_of(folder.blobs) if with_blobs else (0, 0)
        manifest = Manifest(
            log_id=log_id,
            program=__version__,
            mode=mode,
            migrations=migrations,
            parts=(*(() if before is None else before.parts), part),
            last_leaf=added.last_leaf,
            signed_to=added.signed_to,
            with_blobs=with_blobs,
            blobs=count,
            blob_bytes=size,
            missing_blobs=tuple(sorted(missing)),
            signing_key_id=added.signing_key_id,
        )
        folder.store(manifest)
        return Made(manifest, added.events, len(copied))


def _log_id(source: TransferSource) -> str:
    return "".join(str(log_id) for _, log_id in source.rows(IDENTITY, ["singleton", "log_id"]))


def _check_continues(
    source: TransferSource, before: Manifest, log_id: str, migrations: Sequence[str]
) -> None:
    """Raise BadBackup unless the log goes on where the backup ends."""
    if before.log_id != log_id:
        raise BadBackup("it is the backup of another log: name a new folder")
    if before.migrations != tuple(migrations):
        raise BadBackup(f"its tables are those of version {before.program}: name a new folder")
    if not before.position:
        return
    last = next(source.events(before.position - 1), None)
    if last is None or last.position != before.position or _leaf_of(last) != before.last_leaf:
        raise BadBackup(
            f"the log has another event, or none, at position {before.position}, where this backup ends: the "
            "log was restored since. Name a new folder, and keep this one"
        )


def _leaf_of(row: EventRow) -> str:
    return hash_of(row.position, str(row.stream), row.version, row.topic, row.metadata, row.state).hex()


def _write_part(
    path: Path,
    header: ExportHeader,
    source: TransferSource,
    before: Manifest | None,
    progress: Callable[[int, int], None],
) -> _Added:
    head, columns = source.head(), source.columns()
    last_leaf = "" if before is None else before.last_leaf
    signing_key_id = "" if before is None else before.signing_key_id
    changed: dict[Literal["payload", "result"], list[UUID]] = {"payload": [], "result": []}
    row = None
    with ExportWriter(path, header) as writer:
        for number, row in enumerate(source.events(header.after)):
            writer.event(row)
            match row.topic:
                case JobSubmitted.topic:
                    changed["payload"].append(row.stream)
                case JobCompleted.topic:
                    changed["result"].append(row.stream)
                case SigningKeyIntroduced.topic:
                    introduced = decode(row.topic, row.state)
                    assert isinstance(introduced, SigningKeyIntroduced)
                    signing_key_id = introduced.key_id
            if number % 1000 == 0:
                progress(row.position - header.after, head - header.after)
        if row is not None:
            last_leaf = _leaf_of(row)
        signed_to = _write_log_tables(writer, source, columns, before)
        writer.table(PAYLOADS, columns[PAYLOADS])
        for values in _payloads(source, columns[PAYLOADS], changed, whole=not header.after):
            writer.row(values)
        digests: set[str] = set()
        for table in WHOLE:
            writer.table(table, columns[table])
            place = columns[table].index("digest") if table in (OWNERS, REFS) else None
            for values in source.rows(table, columns[table]):
                writer.row(values)
                if place is not None:
                    digests.add(str(values[place]))
        writer.finish()
        position = max(header.after, writer.position)
        return _Added(position, writer.events, writer.rows, last_leaf, signed_to, signing_key_id, digests)


def _write_log_tables(
    writer: ExportWriter, source: TransferSource, columns: dict[str, Sequence[str]], before: Manifest | None
) -> int:
    """The checkpoints that no part has yet, and their cosignatures; the position of the last one."""
    signed_to = 0 if before is None else before.signed_to
    names = columns[CHECKPOINTS]
    place, last = names.index("position"), signed_to
    writer.table(CHECKPOINTS, names)
    for values in source.rows(CHECKPOINTS, names, beyond=("position", signed_to)):
        writer.row(values)
        last = max(last, int(values[place]))
    writer.table(COSIGNATURES, columns[COSIGNATURES])
    since = -1 if before is None else before.at - LATE_COSIGNATURES_MS
    for values in source.rows(COSIGNATURES, columns[COSIGNATURES], beyond=("at", since)):
        writer.row(values)
    return last


def _payloads(
    source: TransferSource,
    columns: Sequence[str],
    changed: dict[Literal["payload", "result"], list[UUID]],
    *,
    whole: bool,
) -> Iterator[Sequence[Any]]:
    if whole:
        yield from source.rows(PAYLOADS, columns)
        return
    for kind, jobs in changed.items():
        for start in range(0, len(jobs), JOBS_AT_ONCE):
            yield from source.payloads(columns, kind, jobs[start : start + JOBS_AT_ONCE])


async def _copy(
    source: BlobStore, target: BlobStore, digests: set[str], progress: Callable[[int, int], None]
) -> tuple[set[str], list[str]]:
    """Copy the blobs that the target lacks: those copied, and those that the source does not have whole."""
    copied, missing = set[str](), list[str]()
    for number, digest in enumerate(sorted(digests)):
        progress(number, len(digests))
        if await target.stat(digest) is not None:
            continue
        try:
            await target.put(source.get(digest), expected_sha256=digest, max_bytes=MAX_BLOB_BYTES)
            copied.add(digest)
        except (BlobNotFound, DigestMismatch):
            missing.append(digest)
    return copied, missing


def _still_missing(settings: Settings, missing: list[str]) -> list[str]:
    """Those of these that the database still names: the others were removed while the backup ran."""
    if not missing:
        return []
    with open_source(database_of(settings)) as source:
        named = {str(d) for table in (OWNERS, REFS) for (d,) in source.rows(table, ["digest"])}
    return [digest for digest in missing if digest in named]


def _size_of(folder: Path) -> tuple[int, int]:
    """The number of blobs in a local store, and their bytes."""
    sizes = [file.stat().st_size for file in folder.glob("[0-9a-f][0-9a-f]/*")]
    return len(sizes), sum(sizes)
