"""The first reading of a backup: everything is whole, and what a restore has to know before it writes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from coordinator.crypto.keys import decode_base64url
from coordinator.crypto.log.checkpoint import Checkpoint, SignedCheckpoint, read_checkpoint, verify_checkpoint
from coordinator.crypto.log.leaf import BadLeaf, hash_of
from coordinator.crypto.log.note import Algorithm, BadNote, VerifierKey
from coordinator.crypto.log.tiles import TreeEdge
from coordinator.crypto.merkle import HASH_BYTES
from coordinator.domain.content import ContentErased
from coordinator.domain.signing_key import SigningKeyIntroduced
from coordinator.runtime.backup.tables import CHECKPOINTS, ORIGINS, row_of
from coordinator.storage.backup.folder import BackupFolder, BackupPart, BadBackup, Manifest
from coordinator.storage.log.mapping import UnreadableEvent, decode
from coordinator.storage.migrate import read_migrations
from coordinator.storage.transfer.export_file import (
    BadExport,
    EventRow,
    ExportHeader,
    Item,
    TableRow,
    TableStart,
    read_export,
)


class Moment(NamedTuple):
    """Up to where a log is restored; with neither, up to its end."""

    position: int | None = None
    millis: int | None = None
    """Unix milliseconds: up to the first event after this time."""


class Erasure(NamedTuple):
    """Content that an event of the log says is erased."""

    position: int
    jobs: Collection[str]
    kinds: Collection[str]
    by: str
    reason: str


@dataclass
class Survey:
    """What the backup has, and what it will be after the restore."""

    manifest: Manifest
    position: int = 0
    """The last one that is restored."""
    at: int = 0
    """The moment of that event."""
    size: int = 0
    """The number of events up to it."""
    erasures: list[Erasure] = field(default_factory=list)
    """All that the backup knows of, in the order of the log; later ones, too."""
    origins: list[Mapping[str, Any]] = field(default_factory=list)
    """The log's names, the last one counts."""
    newest: dict[str, SignedCheckpoint] = field(default_factory=dict)
    """By origin: the largest checkpoint that the backup has."""
    signing_keys: list[str] = field(default_factory=list)
    compared: int = 0
    """The checkpoints whose roots are those of the events."""

    remembered_differs: bool = False
    """Whether the checkpoint outside of the database is of other events than the backup's."""

    @property
    def origin(self) -> str:
        """The log's name; empty if nothing was ever signed."""
        return str(self.origins[-1]["origin"]) if self.origins else ""

    def parts(self) -> list[BackupPart]:
        """The parts with the events that are restored."""
        return [part for part in self.manifest.parts if part.after < self.position or part.after == 0]


def survey(
    folder: BackupFolder,
    moment: Moment,
    remembered: Checkpoint | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Read every part, and compare the events with every checkpoint and with the one remembered outside.

    Raises BadBackup. Memory: 32 bytes for each event of a part, and some for each checkpoint.
    """
    manifest = folder.manifest()
    folder.check_sizes(manifest)
    if list(manifest.migrations) != [migration.name for migration in read_migrations()]:
        raise BadBackup(f"its tables are those of version {manifest.program}: restore it with that version")
    if moment.position is not None and moment.position > manifest.position:
        raise BadBackup(f"it ends at position {manifest.position}")
    surveying = _Surveying(manifest, moment, remembered)
    done, total = 0, sum(part.bytes for part in manifest.parts)
    for part in manifest.parts:
        try:
            surveying.take_part(part, items_of(folder, manifest, part))
        except BadBackup as error:  # wherever it is found out, the part is what to replace
            said = str(error)
            raise BadBackup(said if part.file in said else f"{part.file}: {said}") from None
        done += part.bytes
        progress(done, total)
    return surveying.found


def items_of(folder: BackupFolder, manifest: Manifest, part: BackupPart) -> Iterator[Item]:
    """The events and rows of a part, which is as the manifest has it. Raises BadBackup, at once or at "
    "the end."""
    events = rows = 0
    position = part.after
    try:
        for item in read_export(folder.part(part)):
            match item:
                case ExportHeader():
                    if (item.log_id, item.after) != (manifest.log_id, part.after):
                        raise BadBackup(f"{part.file} is of another log, or of another place in it")
                    continue
                case EventRow():
                    events, position = events + 1, item.position
                case TableRow():
                    rows += 1
            yield item
    except BadExport as error:
        raise BadBackup(f"{part.file}: {error}") from None
    except FileNotFoundError:
        raise BadBackup(f"{part.file} is missing") from None
    if (events, rows, position) != (part.events, part.rows, part.position):
        raise BadBackup(f"{part.file} is not the part that the manifest names")


class _Surveying:
    def __init__(self, manifest: Manifest, moment: Moment, remembered: Checkpoint | None) -> None:
        self.found = Survey(manifest)
        self._moment = moment
        self._remembered = remembered
        self._edge = TreeEdge()
        self._over = False
        """Whether the events are beyond the moment."""

    def take_part(self, part: BackupPart, items: Iterator[Item]) -> None:
        hashes = bytearray()
        start, table = self._edge.size, TableStart("", ())
        signed: dict[int, dict[str, bytes]] = {}
        notes: dict[str, tuple[int, str]] = {}
        origins: list[Mapping[str, Any]] = []
        for item in items:
            match item:
                case EventRow():
                    hashes += self._take_event(item)
                case TableStart():
                    table = item
                case TableRow() if table.name == CHECKPOINTS:
                    row = row_of(table, item)
                    signed.setdefault(row["size"], {})[row["origin"]] = row["root"]
                    notes[row["origin"]] = max(notes.get(row["origin"], (0, "")), (row["size"], row["note"]))
                case TableRow() if table.name == ORIGINS:
                    origins.append(row_of(table, item))
                case TableRow():
                    row_of(table, item)
        self.found.origins = sorted(origins, key=lambda row: row["number"])
        self._compare(part, start, hashes, signed)
        for origin, (size, note) in notes.items():
            self._note_newest(origin, size, note)

    def _take_event(self, row: EventRow) -> bytes:
        found = self.found
        try:
            event = decode(row.topic, row.state)
            hashed = hash_of(row.position, str(row.stream), row.version, row.topic, row.metadata, row.state)
        except (UnreadableEvent, BadLeaf) as error:
            raise BadBackup(f"position {row.position}: {error}") from None
        moment = self._moment
        if (moment.position is not None and row.position > moment.position) or (
            moment.millis is not None and event.at > moment.millis
        ):
            self._over = True
        if not self._over:
            found.position, found.at, found.size = row.position, event.at, found.size + 1
        match event:
            case ContentErased():
                jobs = [str(job) for job in event.jobs]
                found.erasures.append(Erasure(row.position, jobs, event.kinds, event.by, event.reason))
            case SigningKeyIntroduced():
                found.signing_keys.append(event.key_id)
        return hashed

    def _compare(
        self, part: BackupPart, start: int, hashes: bytearray, signed: Mapping[int, Mapping[str, bytes]]
    ) -> None:
        """The tree over the events has the root of each checkpoint."""

        def extend(upto: int) -> None:
            done = self._edge.size - start
            piece = hashes[done * HASH_BYTES : (upto - start) * HASH_BYTES]
            self._edge.extend(bytes(piece[i : i + HASH_BYTES]) for i in range(0, len(piece), HASH_BYTES))

        end = start + len(hashes) // HASH_BYTES
        at_memory = () if self._remembered is None else (self._remembered.size,)
        for size in sorted({*signed, *(s for s in at_memory if start < s <= end)}):
            if size < self._edge.size:
                # A checkpoint of before this part: a later one commits to the same events.
                continue
            if size > end:
                break
            extend(size)
            for origin, root in signed.get(size, {}).items():
                if root != self._edge.root():
                    raise BadBackup(
                        f"the first {size} events do not have the root of the checkpoint of {origin}: the "
                        f"events of {part.file} were changed, or the checkpoint is of another history"
                    )
                self.found.compared += 1
            self._compare_remembered()
        extend(end)
        self._compare_remembered()

    def _compare_remembered(self) -> None:
        remembered = self._remembered
        if remembered is not None and remembered.size == self._edge.size:
            self.found.remembered_differs = remembered.root != self._edge.root()

    def _note_newest(self, origin: str, size: int, text: str) -> None:
        try:
            signed = read_checkpoint(text.encode())
            keys = [
                VerifierKey(origin, Algorithm.NOTE, decode_base64url(key)) for key in self.found.signing_keys
            ]
            verify_checkpoint(signed, keys)
        except (BadNote, ValueError) as error:
            raise BadBackup(f"the checkpoint of {size} events of {origin} is invalid: {error}") from None
        known = self.found.newest.get(origin)
        if known is None or known.checkpoint.size < size:
            self.found.newest[origin] = signed
