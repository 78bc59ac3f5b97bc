"""An audit: the replay in this process, the checks of single events in others, and the report.

The first divergence counts. Once one is known, nothing later is read, and what was under way before it is
waited for.
"""

from __future__ import annotations

import base64
import gzip
import json
import multiprocessing
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from coordinator.audit.chain import Chain, Seen
from coordinator.audit.checks import Checked, check_events, check_statements
from coordinator.audit.entries import Differing, Divergence, Entry, LogSource, StoredCheckpoint
from coordinator.audit.jobs import Statement
from coordinator.audit.replay import SIGNING_KEY, Replay
from coordinator.audit.rows import RowChecks
from coordinator.crypto.log.checkpoint import read_checkpoint
from coordinator.crypto.log.note import BadNote
from coordinator.crypto.log.tiles import TreeEdge

T = TypeVar("T")
PIECE: Final = 1000
"""Events of one check in another process."""
PIECE_BYTES: Final = 4_000_000
SIGNED_PIECE: Final = 500
UNDER_WAY: Final = 8
"""Pieces that may be under way: they bound the memory."""
STATE_FORMAT: Final = "coordinator audit 4"


class BadAuditState(Exception):
    """The file is not the state of an earlier audit of this log."""


class AuditReport(NamedTuple):
    """The outcome of an audit."""

    divergence: Divergence | None
    events: int
    """Of this audit; `from_position` says what an earlier one had seen."""
    position: int
    """The last good position."""
    from_position: int
    seconds: float
    open_jobs: int
    signatures: int
    """Verified statements of miners."""
    checkpoints: int
    """Verified checkpoints."""
    checkpoint: Seen | None
    """The newest of them."""
    rows: int
    """Compared rows of read models."""
    keys_trusted: bool
    """Whether the caller named the coordinator's keys; otherwise the log names them, which proves less."""

    def document(self) -> dict[str, Any]:
        """For programs."""
        seen = self.checkpoint
        return {
            **self._asdict(),
            "seconds": round(self.seconds, 3),
            "divergence": None if self.divergence is None else self.divergence._asdict(),
            "checkpoint": seen
            and {"origin": seen.origin, "size": seen.size, "root": base64.b64encode(seen.root).decode()},
        }


class AuditOptions(NamedTuple):
    """What to check, and with what."""

    trusted: Sequence[str] | None = None
    signatures: bool = True
    rows: bool = True
    content: bool = True
    """Whether payloads and results should be there unless they were erased; a log's copy may have none."""
    state: Path | None = None
    """A file from which to go on, and in which the audit is kept if it is clean."""
    processes: int | None = None
    """Of the checks: None for as many as there are processors, 0 for none, in this process."""


def audit(source: LogSource, options: AuditOptions, progress: Callable[[int, int], None]) -> AuditReport:
    """Audit this log. `progress(done, total)`. Raises BadAuditState, and the errors of the source."""
    begun = time.monotonic()
    state = _read_state(options.state)
    tables = source.tables if options.rows else None
    row_checks = None if tables is None else RowChecks(tables, content=options.content)
    replay = Replay(row_checks, options.trusted)
    edge, after, seen = TreeEdge(), 0, None
    keys: list[str] = []
    if state is not None:
        try:
            replay.load(state["replay"])
            after = state["chain"]["size"]
            edge = TreeEdge(after, [base64.b64decode(tile) for tile in state["chain"]["partial"]])
            seen, keys = state["chain"]["checkpoint"], list(state["chain"]["keys"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _no_state(options.state, error) from None
    checkpoints = list(source.checkpoints())
    early = _no_sizes(checkpoints) or _rolled_back(seen, checkpoints, replay.position)
    chain = Chain(iter(checkpoints), options.trusted, source.tables, edge, after)
    for key in keys:
        chain.key_in_force(key)
    run = _Run(source, options, replay, chain, progress)
    start = replay.position, replay.events
    divergence = early or run.all()
    report = AuditReport(
        divergence=divergence,
        events=replay.events - start[1],
        position=min(replay.position, divergence.position - 1) if divergence else replay.position,
        from_position=start[0],
        seconds=time.monotonic() - begun,
        open_jobs=len(replay.jobs),
        signatures=run.verified,
        checkpoints=chain.verified,
        checkpoint=chain.last,
        rows=0 if row_checks is None else row_checks.compared,
        keys_trusted=options.trusted is not None,
    )
    if divergence is None and options.state is not None:
        _write_state(options.state, {"format": STATE_FORMAT, "replay": replay.dump(), "chain": chain.dump()})
    return report


class _Here(Executor):
    """Does the work at once, in this process."""

    def submit(self, work: Callable[..., T], /, *arguments: Any, **options: Any) -> Future[T]:
        done: Future[T] = Future()
        done.set_result(work(*arguments, **options))
        return done


def _pool(processes: int | None) -> Executor:
    if processes == 0:
        return _Here()
    # Not by fork: this process has threads and connections.
    context = multiprocessing.get_context("forkserver")
    return ProcessPoolExecutor(processes or os.cpu_count() or 1, mp_context=context)


class _Run:
    def __init__(
        self,
        source: LogSource,
        options: AuditOptions,
        replay: Replay,
        chain: Chain,
        progress: Callable[[int, int], None],
    ) -> None:
        self._source = source
        self._options = options
        self._replay = replay
        self._chain = chain
        self._progress = progress
        self._statements: list[Statement] = []
        self._events_under_way: deque[tuple[list[Entry], Future[Checked]]] = deque()
        self._signed_under_way: deque[tuple[int, Future[Divergence | None]]] = deque()
        self._found: list[Divergence] = []
        self.verified = 0

    def all(self) -> Divergence | None:
        """The first divergence of the whole log."""
        with _pool(self._options.processes) as pool:
            entries = self._source.entries(self._replay.position)
            while not self._found and (piece := self._piece(entries)):
                self._take(pool, piece)
                self._collect(UNDER_WAY)
                self._progress(self._source.done(), self._source.total or 0)
            self._verify(pool)
            self._collect(0)
        if not self._found:
            # If the log was cut off, its tables differ as a consequence.
            ended = (
                self._chain.finish(self._replay.position)
                or self._replay.finish()
                or self._replay.missing_content()
            )
            self._found += [ended] if ended is not None else []
        return _first(self._found, self._chain.broken)

    def _piece(self, entries: Iterator[Entry]) -> list[Entry]:
        piece, size = list[Entry](), 0
        try:
            for entry in islice(entries, PIECE):
                piece.append(entry)
                size += len(entry.state) + len(entry.metadata)
                if size > PIECE_BYTES:
                    break
        except Differing as error:  # `piece` has the events before it
            self._found.append(error.divergence)
        return piece

    def _take(self, pool: Executor, piece: list[Entry]) -> None:
        self._events_under_way.append((piece, pool.submit(check_events, piece)))
        for entry in piece:
            statement, divergence = self._replay.take(entry)
            if statement is not None and self._options.signatures:
                self._statements.append(statement)
            if divergence is not None:
                self._found.append(divergence)
                break
        if len(self._statements) >= SIGNED_PIECE:
            self._verify(pool)

    def _verify(self, pool: Executor) -> None:
        if self._statements:
            statements, self._statements = self._statements, []
            future = pool.submit(check_statements, statements)
            self._signed_under_way.append((len(statements), future))

    def _collect(self, most: int) -> None:
        """Take the outcomes of pieces until at most so many are under way."""
        while len(self._events_under_way) > most:
            piece, future = self._events_under_way.popleft()
            self._checked(piece, future.result())
        while len(self._signed_under_way) > most:
            count, signed = self._signed_under_way.popleft()
            divergence = signed.result()
            self.verified += count
            if divergence is not None:
                self._found.append(divergence)

    def _checked(self, piece: list[Entry], checked: Checked) -> None:
        if checked.divergence is not None:
            self._found.append(checked.divergence)
        known = len(checked.hashes) // 32
        for entry in piece:
            if entry.topic == SIGNING_KEY and entry.state:
                self._chain.key_in_force(_key_id(entry.state))
        if any(d.kind in ("leaf", "root", "missing", "inserted", "checkpoint") for d in self._found):
            return  # the tree does not go on
        divergence = self._chain.extend([entry.position for entry in piece[:known]], checked.hashes)
        if divergence is not None:
            self._found.append(divergence)


def _first(found: Sequence[Divergence], broken: int | None) -> Divergence | None:
    """The first divergence. A wrong root says only that there is one up to the position `broken`."""
    exact = min(
        (d for d in found if d.kind != "root" or broken is None),
        default=None,
        key=lambda d: (d.position, _rank(d.kind)),
    )
    if broken is None or (exact is not None and exact.position <= broken):
        return exact
    return min((d for d in found if d.kind == "root"), default=exact, key=lambda d: d.position)


def _rank(kind: str) -> int:
    """Of several divergences of one event, the first by this names the fault; the others follow from it."""
    if kind in ("event", "metadata"):
        return 0
    if kind in ("inserted", "missing", "leaf"):
        return 1
    return 3 if kind == "row" else 2


def _key_id(state: bytes) -> str:
    try:
        return str(json.loads(state)["key_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""  # the check of its form names it


def _rolled_back(
    seen: Sequence[Any] | None, checkpoints: Sequence[StoredCheckpoint], position: int
) -> Divergence | None:
    """Whether the log has lost the last checkpoint that an earlier audit saw, or has another of its size."""
    if seen is None:
        return None
    origin, size, root = seen
    for note in (c.note for c in checkpoints if (c.origin, c.size) == (origin, size)):
        try:
            found = read_checkpoint(note.encode()).checkpoint.root.hex()
        except BadNote as error:
            return Divergence(position, "checkpoint", f"the checkpoint of size {size}: {error}")
        if found != root:
            detail = f"an earlier audit saw another root of the first {size} events"
            return Divergence(position, "root", detail, root, found)
    newest = max((c.size for c in checkpoints if c.origin == origin), default=0)
    if newest >= size:
        return None
    detail = f"an earlier audit saw a later checkpoint of {origin}"
    return Divergence(position, "rollback", detail, size, newest)


def _no_sizes(checkpoints: Sequence[StoredCheckpoint]) -> Divergence | None:
    """Whether there is a checkpoint with a size that no log has."""
    if all(checkpoint.size >= 0 for checkpoint in checkpoints):
        return None
    return Divergence(0, "checkpoint", "a checkpoint is stored with a size that no log has")


def _no_state(path: Path | None, error: Exception) -> BadAuditState:
    return BadAuditState(f"{path}: no state of an audit ({type(error).__name__}); remove it")


def _read_state(path: Path | None) -> dict[str, Any] | None:
    if path is None or not path.exists():
        return None
    try:
        state = json.loads(gzip.decompress(path.read_bytes()))
        if state["format"] != STATE_FORMAT:
            raise BadAuditState(f"{path}: written by another version; remove it to audit from the beginning")
    except (OSError, ValueError, EOFError, zlib.error, KeyError, TypeError, RecursionError) as error:
        raise _no_state(path, error) from None
    return dict(state)


def _write_state(path: Path, state: dict[str, Any]) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(gzip.compress(json.dumps(state, separators=(",", ":")).encode(), 3))
    new.replace(path)
