"""Restores a backup into an empty database, whole or up to a moment.

One transaction: an interrupted restore leaves nothing but blobs, and the next one goes on from there. The
tables that follow from the log are then derived; if that is interrupted, the coordinator derives them itself.

The log has signed one history for good. A restore to a smaller log than one that was signed, or of which
nobody knows what was signed after it, is refused, unless an operator begins a new log identity over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coordinator.application.ports import Row
from coordinator.application.quotas.usage import blob_charge
from coordinator.blobs import BlobNotFound, BlobStore, DigestMismatch
from coordinator.blobs.local import LocalBlobStore
from coordinator.crypto.log.checkpoint import SignedCheckpoint, check_origin
from coordinator.domain.job import JobCompleted, JobSubmitted
from coordinator.domain.messages import SYSTEM, principal_of
from coordinator.runtime.backup.erasures import read_erasures
from coordinator.runtime.backup.fork import Identity, check_history
from coordinator.runtime.backup.survey import Erasure, Moment, Survey, items_of, survey
from coordinator.runtime.backup.tables import (
    BATCHES,
    CHECKPOINTS,
    COSIGNATURES,
    DELIVERIES,
    ORIGINS,
    OWNERS,
    PENDING,
    RECEIVERS,
    REFS,
    UPLOADS,
    USAGE,
    row_of,
)
from coordinator.runtime.bootstrap import SYSTEM_CLOCK, blob_store, checkpoint_memory
from coordinator.runtime.log_transfer import Filling, LogNotEmpty, target_of
from coordinator.runtime.projections import rebuild_all
from coordinator.runtime.settings import Settings
from coordinator.storage.backup.folder import BackupFolder, BadBackup
from coordinator.storage.log.mapping import decode
from coordinator.storage.transfer.export_file import EventRow, ExportHeader, TableRow, TableStart
from coordinator.storage.transfer.source import PAYLOADS
from coordinator.storage.transfer.target import PUBLISHER

MAX_BLOB_BYTES = 2**63 - 1
Progress = Callable[[str], Callable[[int, int], None]]
Content = tuple[str, str]
"""A job's id, and "payload" or "result"."""
_KEPT = (REFS, OWNERS, UPLOADS, PENDING, BATCHES, DELIVERIES, RECEIVERS)
"""Tables whose rows are chosen at the end."""
_CONTENT_OF = {JobSubmitted.topic: "payload", JobCompleted.topic: "result"}


class Restored(NamedTuple):
    """What a restore has written, or would have."""

    survey: Survey
    payloads: int
    blobs: int
    missing_blobs: Sequence[str]
    erased: int
    """Payloads and results that were not restored, because they are erased."""
    repeated: int
    """Erasures that the restored log does not have; the next start repeats them."""
    origin: str
    former_origin: str


def restore_backup(
    settings: Settings,
    source: Path,
    moment: Moment,
    identity: Identity,
    *,
    erasures: Path | None,
    check_only: bool,
    progress: Progress,
) -> Restored:
    """Restore the backup in this folder. `erasures`: a file of erasures, besides those that it knows.

    `check_only` reads and verifies everything, and writes nothing. Raises BadBackup, HistorySigned,
    LogNotEmpty, DataDirectoryInUse, LogUnavailable, BlobError, BadNote for an invalid new origin.
    """
    if identity.continue_as is not None:
        check_origin(identity.continue_as)
    folder = BackupFolder(source)
    folder.manifest()  # an error before a data directory is made
    remembered = None if check_only else checkpoint_memory(settings).load()
    of_this_log = None if remembered is None else remembered.checkpoint
    found = survey(folder, moment, of_this_log, progress("verifying"))
    known = [*found.erasures, *(() if erasures is None else read_erasures(erasures))]
    selection = _Selection(found, known)
    if check_only:
        return asyncio.run(_check(folder, found, selection, progress))
    left = check_history(found, remembered, identity)
    with target_of(settings) as target:
        if not target.empty():
            raise LogNotEmpty(LogNotEmpty.__doc__)
        filling = Filling(target)
        filling.take(
            ExportHeader(found.manifest.log_id, found.manifest.program, True, found.manifest.migrations)
        )
        steps = progress("restoring")
        for number, part in enumerate(found.parts()):
            steps(number, len(found.parts()))
            for item in selection.items(items_of(folder, found.manifest, part)):
                filling.take(item)
        filling.finish()
        _write(filling, ORIGINS, _origins(found, identity, left))
        for table in _KEPT:
            _write(filling, table, selection.rows(table))
        _write(filling, USAGE, selection.usage())
        _write(filling, "positions", [{"follower": PUBLISHER, "position": found.position}])
        filling.finish()
        copied, missing = asyncio.run(
            _copy(folder, blob_store(settings), selection.digests(), progress("blobs"))
        )
    rebuild_all(settings, progress("deriving"))
    origin = identity.continue_as or found.origin
    return Restored(
        found,
        selection.payloads,
        copied,
        missing,
        selection.erased,
        len(selection.rows(PENDING)),
        origin,
        found.origin if identity.continue_as else "",
    )


def _write(filling: Filling, table: str, rows: Sequence[Row]) -> None:
    if rows:
        columns = list(rows[0])
        filling.take(TableStart(table, columns))
        for row in rows:
            filling.take(TableRow([row[name] for name in columns]))


def _origins(found: Survey, identity: Identity, left: SignedCheckpoint | None) -> list[Row]:
    rows: list[Row] = list(found.origins)
    if identity.continue_as is not None:
        rows.append(
            {
                "number": len(rows) + 1,
                "origin": identity.continue_as,
                "at": SYSTEM_CLOCK.now(),
                "left_origin": found.origin if left is None else left.checkpoint.origin,
                "left_size": 0 if left is None else left.checkpoint.size,
                "reason": identity.reason,
            }
        )
    return rows


class _Selection:
    """The events and rows that are restored: those of the moment, without what is erased by now."""

    def __init__(self, found: Survey, erasures: Sequence[Erasure]) -> None:
        self._found = found
        self._erased: dict[Content, Erasure] = {
            (job, kind): erasure for erasure in erasures for job in erasure.jobs for kind in erasure.kinds
        }
        in_the_log = [e for e in found.erasures if e.position <= found.position]
        self._known = {(job, kind) for e in in_the_log for job in e.jobs for kind in e.kinds}
        """What the restored log itself says is erased."""
        self._there: set[Content] = set()
        """Of `_erased`, what the restored log has."""
        self._later: set[Content] = set()
        """Content of events after the moment."""
        self._cosigned: set[tuple[Any, ...]] = set()
        self._rows: dict[str, dict[str, Row]] = {table: {} for table in _KEPT}
        self._uploaders: dict[str, set[str]] = {}
        """Of jobs with erased content: the names whose uploads it may refer to."""
        self._erased_refs: set[tuple[str, str]] = set()
        """The blobs that content refers to which somebody had erased, with the job."""
        self.payloads = 0
        self.erased = 0

    def items(self, items: Iterator[Any]) -> Iterator[Any]:
        """Of a part, what goes into the database as it is. The other rows are kept for `rows`."""
        table = TableStart("", ())
        for item in items:
            match item:
                case EventRow():
                    if self._take_event(item):
                        yield item
                case TableStart():
                    table = item
                    if table.name in (PAYLOADS, CHECKPOINTS, COSIGNATURES):
                        yield item
                    if table.name in (DELIVERIES, RECEIVERS):
                        self._rows[table.name].clear()  # the newest part counts: old messages are forgotten
                case TableRow():
                    row = row_of(table, item)
                    if self._take_row(table.name, row):
                        yield item

    def rows(self, table: str) -> list[Row]:
        """The rows of a table, at the end."""
        if table == PENDING:
            kept = [row for key, row in self._rows[PENDING].items() if key not in self._pending()]
            return kept + [
                {"key": f"{job}/{kind}", "by_name": erasure.by, "reason": erasure.reason}
                for (job, kind), erasure in sorted(self._erased.items(), key=lambda e: e[0])
                if f"{job}/{kind}" in self._pending()
            ]
        if table == OWNERS:
            gone = self._gone_uploads()
            return [row for key, row in self._rows[OWNERS].items() if key not in gone]
        return list(self._rows[table].values())

    def digests(self) -> set[str]:
        """The blobs that are needed."""
        return {str(row["digest"]) for table in (OWNERS, REFS) for row in self.rows(table)}

    def usage(self) -> list[Row]:
        """The bytes of uploads by name; those of payloads follow from the log."""
        sums: dict[str, int] = {}
        for row in self.rows(OWNERS):
            sums[row["principal"]] = sums.get(row["principal"], 0) + blob_charge(row["size"])
        return [{"name": name, "payload_bytes": 0, "blob_bytes": sums[name]} for name in sorted(sums)]

    def _take_event(self, row: EventRow) -> bool:
        restored = row.position <= self._found.position
        kind = _CONTENT_OF.get(row.topic)
        if kind is None:
            return restored
        content = (str(row.stream), kind)
        if not restored:
            self._later.add(content)
        elif content in self._erased:
            self._there.add(content)
            event = decode(row.topic, row.state)
            assert isinstance(event, JobSubmitted | JobCompleted)
            names = self._uploaders.setdefault(content[0], set())
            names.add(event.client)
            if isinstance(event, JobCompleted):
                names.add(principal_of(event.miner_id))
        return restored

    def _take_row(self, table: str, row: dict[str, Any]) -> bool:
        match table:
            case "payloads":
                content = (row["job_id"], row["kind"])
                if content in self._erased:
                    self.erased += content not in self._later
                    return False
                self.payloads += content not in self._later
                return content not in self._later
            case "checkpoints":
                return bool(row["size"] <= self._found.size)
            case "cosignatures":
                key = (row["origin"], row["size"], row["witness"])
                if row["size"] > self._found.size or key in self._cosigned:
                    return False
                self._cosigned.add(key)
                return True
            case "blob_refs":
                content = (row["job_id"], row["kind"])
                erasure = self._erased.get(content)
                if erasure is not None:
                    if (
                        erasure.by != SYSTEM.name
                    ):  # by age alone, an upload stays as long as its own setting says
                        self._erased_refs.add((row["digest"], row["job_id"]))
                elif content not in self._later:
                    self._rows[REFS][row["key"]] = row
            case "job_batches":
                if row["position"] <= self._found.position:  # else it was asked for after the moment
                    self._rows[BATCHES][row["batch_id"]] = row
            case "webhook_deliveries":
                if row["position"] <= self._found.position:
                    self._rows[DELIVERIES][row["delivery_id"]] = row
            case "webhook_health":
                self._rows[RECEIVERS][row["webhook_id"]] = row
            case "blob_owners" | "erased_uploads" | "restored_erasures":
                self._rows[table][row["key"]] = row
        return False

    def _pending(self) -> set[str]:
        """The keys of the erasures that the restored log does not have."""
        return {f"{job}/{kind}" for job, kind in self._there - self._known}

    def _gone_uploads(self) -> set[str]:
        """The uploads that go with erased content: nothing else needs them."""
        needed = {row["digest"] for row in self._rows[REFS].values()}
        return {
            f"{digest}/{name}"
            for digest, job_id in self._erased_refs
            if digest not in needed
            for name in self._uploaders.get(job_id, ())
        }


async def _check(folder: BackupFolder, found: Survey, selection: _Selection, progress: Progress) -> Restored:
    for part in found.parts():
        for _ in selection.items(items_of(folder, found.manifest, part)):
            pass
    digests, missing = selection.digests(), list[str]()
    show = progress("blobs")
    if found.manifest.with_blobs:
        store = LocalBlobStore(folder.blobs)
        for number, digest in enumerate(sorted(digests)):
            show(number, len(digests))
            try:
                async for _piece in store.get(digest):
                    pass
            except BlobNotFound:
                _check_missing(found, digest)
                missing.append(digest)
            except DigestMismatch as error:
                raise BadBackup(str(error)) from None
    return Restored(
        found,
        selection.payloads,
        len(digests) - len(missing) if found.manifest.with_blobs else 0,
        missing,
        selection.erased,
        len(selection.rows(PENDING)),
        found.origin,
        "",
    )


async def _copy(
    folder: BackupFolder, target: BlobStore, digests: set[str], progress: Callable[[int, int], None]
) -> tuple[int, list[str]]:
    """Copy these blobs into the store, each with its digest; their number, and those that nobody has."""
    manifest, copied, missing = folder.manifest(), 0, list[str]()
    source = LocalBlobStore(folder.blobs) if manifest.with_blobs else None
    for number, digest in enumerate(sorted(digests)):
        progress(number, len(digests))
        if source is None:
            if await target.stat(digest) is None:
                missing.append(digest)
            continue
        try:
            await target.put(source.get(digest), expected_sha256=digest, max_bytes=MAX_BLOB_BYTES)
            copied += 1
        except BlobNotFound:
            if digest not in manifest.missing_blobs:
                raise BadBackup(f"the blob {digest} is missing") from None
            missing.append(digest)
        except DigestMismatch as error:
            raise BadBackup(str(error)) from None
    return copied, missing


def _check_missing(found: Survey, digest: str) -> None:
    if digest not in found.manifest.missing_blobs:
        raise BadBackup(f"the blob {digest} is missing")
