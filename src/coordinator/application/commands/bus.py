"""The command bus: group commit.

All waiting commands are decided together and appended in one transaction. A single command does not wait; a
thousand cost one fsync. Answers follow the commit. The next batch is decided while one is written, if neither
writes a stream of the other (`CommandBatches`).

The steps of a batch:
1. Load the streams that are needed and not cached, in one query. The stream of a new job is assumed empty.
2. Decide each command on the states after the commands before it in the batch. A decision may append to
   several streams; some events are merged with their neighbours (`domain.decision.MERGES`). A refusal or an
   unexpected exception fails its own command only.
3. Check the states behind refusals. If a cached one was stale, go back to 1.
4. Append all events and payloads at once. On a version conflict, drop the stale states from the cache and go
   back to 1 with the whole batch; after MAX_TRIES, process the commands one by one.
5. Answer, cache the new states, and hand the events to the followers of this process.

The bus knows no noun by name: everything particular to a command is in its handler.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from coordinator.application.commands.batching import AnyPrepared, Batch, CommandBatches
from coordinator.application.commands.cache import ABSENT, CachedState, StateCache
from coordinator.application.commands.decided import Decided
from coordinator.application.commands.ids import Ids
from coordinator.application.metrics import COMMIT_SECONDS, BusMetrics, Histogram
from coordinator.application.one_thread import OneThread
from coordinator.application.ports import (
    Appended,
    Clock,
    EventLog,
    Intent,
    LogUnavailable,
    Recorded,
    StoredPayload,
    VersionConflict,
)
from coordinator.application.telemetry.spans import record_commit
from coordinator.domain.decision import fold
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Metadata, read_traceparent
from coordinator.telemetry import tracing
from coordinator.wire.answers import Accepted, Answer, Refused

MAX_TRIES = 3
OnCommitted = Callable[[Appended, Sequence[StoredPayload]], None]
"""The appended events, and the payloads stored with them."""
_UNAVAILABLE = Refused(Code.UNAVAILABLE, "the log is out of reach; send it again later")
_INTERNAL = Refused(Code.INTERNAL, "internal error: this is our fault; nothing was recorded; send it again")

log = structlog.get_logger("bus")


@dataclass(slots=True)
class BusStats:
    """Counts since the start; `batch_sizes` as in `BusMetrics`."""

    commands: int = 0
    batches: int = 0
    events: int = 0
    refused: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    """By code."""
    topics: Counter[str] = field(default_factory=Counter)
    """Events by topic."""
    conflicts: int = 0
    singled_out: int = 0
    commits: Histogram = field(default_factory=lambda: Histogram(COMMIT_SECONDS))
    slowest_commit_seconds: float = 0.0
    batch_sizes: list[int] = field(default_factory=lambda: [0] * 12)


class CommandBus:
    """Decides and appends. One instance per process; any task may call `submit`."""

    def __init__(
        self,
        event_log: EventLog,
        clock: Clock,
        cache: StateCache,
        ids: Ids,
    ) -> None:
        self._log = event_log
        self._clock = clock
        self._ids = ids
        self._committed_callbacks: list[OnCommitted] = []
        self._batches = CommandBatches(self._answer, _UNAVAILABLE)
        self._thread = OneThread("log-writer")
        self.cache = cache
        self.stats = BusStats()

    def on_committed(self, callback: OnCommitted) -> None:
        """Call back on the event loop after each commit, in log order, before its commands are answered."""
        self._committed_callbacks.append(callback)

    async def start(self) -> None:
        await self._batches.start()

    async def stop(self) -> None:
        """Process the waiting commands, then stop. May be called twice, or without a start."""
        await self._batches.stop()
        self._thread.stop()

    async def submit(self, commands: Sequence[AnyPrepared]) -> list[Answer]:
        """Decide these commands, in this order; returns their answers, after the commit."""
        return await self._batches.submit(commands)

    async def state(self, stream: UUID) -> Any:
        """The state of one aggregate, fresh from the log; None if there is none."""
        entry = self.cache.get(stream)
        if entry is not None:
            # Not in the writer's thread: a read must not delay all commands.
            versions = await asyncio.to_thread(self._log.versions, [stream])
            if versions.get(stream, 0) == entry.version:
                return entry.state
            self.cache.drop([stream])
        loaded = await asyncio.to_thread(self._log.load, [stream])
        return _fold(loaded.get(stream)).state

    async def states(self, streams: Sequence[UUID], *, fresh: bool = False) -> dict[UUID, Any]:
        """The states of several aggregates, in one query; None for one that does not exist.

        Unless they have to be `fresh`, those in memory cost nothing, and may be of a moment ago. The others
        are kept, so that the batch of a command does not read them again. Raises LogUnavailable.
        """
        entries = {stream: self.cache.get(stream) for stream in streams}
        if not fresh and None not in entries.values():  # the most frequent case
            return {stream: entry.state for stream, entry in entries.items() if entry is not None}
        if fresh and (kept := [stream for stream, entry in entries.items() if entry is not None]):
            versions = await asyncio.to_thread(self._log.versions, kept)
            for stream in kept:
                entry = entries[stream]
                if entry is not None and versions.get(stream, 0) != entry.version:
                    self.cache.drop([stream])
                    entries[stream] = None
        missing = [stream for stream, entry in entries.items() if entry is None]
        if missing:
            with self.cache.reading(missing) as told:
                loaded = await asyncio.to_thread(self._log.load, missing)
            for stream in missing:
                entry = entries[stream] = _fold(loaded.get(stream))
                if entry is not ABSENT and entry.version >= told[stream] and self.cache.get(stream) is None:
                    self.cache.put(stream, entry)
        return {stream: entry.state for stream, entry in entries.items() if entry is not None}

    def known(self, stream: UUID) -> tuple[Any, int] | None:
        """An aggregate's state in memory, and the position of its last event; None if it is not in memory.

        An event of another process counts from when this process's feed has it (`forget`).
        """
        entry = self.cache.get(stream)
        return None if entry is None else (entry.state, entry.position)

    def forget(self, events: Sequence[Recorded]) -> None:
        """Drop the cached states that are older than these events of another process."""
        for recorded in events:
            self.cache.note(recorded.stream, recorded.version)

    def metrics(self) -> BusMetrics:
        """The counts since the start."""
        stats = self.stats
        return BusMetrics(
            commands=stats.commands,
            refusals=dict(stats.refusals),
            events=dict(stats.topics),
            batches=stats.batches,
            batch_sizes=tuple(stats.batch_sizes),
            conflicts=stats.conflicts,
            singled_out=stats.singled_out,
            commits=stats.commits,
            slowest_commit_seconds=stats.slowest_commit_seconds,
            waiting=len(self._batches),
            cached=len(self.cache),
        )

    # --- one batch ------------------------------------------------------------------------------------------
    async def _answer(self, batch: Batch) -> Sequence[Answer]:
        size = len(batch.commands)
        try:
            answers: Sequence[Answer] = await self._process(batch)
        except Exception:
            log.exception("a batch failed", commands=size)
            answers = [_INTERNAL] * size
        refusals = [a.code for a in answers if isinstance(a, Refused)]
        stats = self.stats
        stats.batches += 1
        stats.commands += size
        stats.refused += len(refusals)
        stats.refusals.update(refusals)
        stats.batch_sizes[min(11, (size - 1).bit_length())] += 1
        return answers

    async def _process(self, batch: Batch) -> list[Answer]:
        commands, streams = batch.commands, batch.streams
        tracer = tracing.tracer()
        began_ns = 0 if tracer is None else time.time_ns()
        new = {p.stream for p in commands if p.assume_new}
        try:
            for _ in range(MAX_TRIES):
                known = await self._load(streams, new)
                new = set()
                try:
                    decided = self._decide(commands, known)
                    if decided.refused_on and await self._drop_stale(decided.refused_on & streams, known):
                        continue
                    appended = await self._thread.call(self._append, decided) if decided.events else None
                    if tracer is not None:
                        record_commit(tracer, [p.intent for p in commands], len(decided.events), began_ns)
                    return self._committed(decided, appended)
                except VersionConflict:
                    self.stats.conflicts += 1
                    await self._drop_stale(streams, known)
        except LogUnavailable as error:
            # The outcome of a commit in flight is unknown, and so are the states of these streams.
            self.cache.drop(streams)
            log.warning("the log is out of reach", error=str(error), commands=len(commands))
            return [_UNAVAILABLE] * len(commands)
        if len(commands) == 1:
            return [Refused(Code.UNAVAILABLE, "concurrent commands change this; send it again")]
        self.stats.singled_out += len(commands)
        return [answer for prepared in commands for answer in await self._process(Batch.of([prepared]))]

    async def _load(
        self, streams: Collection[UUID], assumed_new: Collection[UUID] = ()
    ) -> dict[UUID, CachedState]:
        known: dict[UUID, CachedState] = {}
        missing = []
        for stream in streams:
            entry = self.cache.get(stream)
            if entry is not None:
                known[stream] = entry
            elif stream in assumed_new:
                known[stream] = ABSENT
            else:
                missing.append(stream)
        if missing:
            with self.cache.reading(missing) as told:
                loaded = await self._thread.call(self._log.load, missing)
            for stream in missing:
                entry = known[stream] = _fold(loaded.get(stream))
                if entry is not ABSENT and entry.version >= told[stream]:
                    self.cache.put(stream, entry)
        return known

    def _decide(self, commands: Sequence[AnyPrepared], known: dict[UUID, CachedState]) -> Decided:
        decided = Decided(dict(known))
        now = self._clock.now()
        for prepared in commands:
            stream, handler, command = prepared.stream, prepared.handler, prepared.intent.command
            try:
                decided.take(prepared, handler.decide(prepared, decided.state, now), self._metadata)
            except Refusal as refusal:
                decided.refused_on.update((stream, *prepared.reads, *prepared.writes))
                decided.answers.append(Refused(refusal.code, refusal.detail, refusal.retry_after))
            except Exception:
                log.exception("a decision failed", command=command.topic, stream=str(stream))
                decided.answers.append(_INTERNAL)
        return decided

    def _metadata(self, intent: Intent) -> Metadata:
        return Metadata(
            intent.message_id or str(self._ids.uuid7()),
            intent.span
            or read_traceparent(intent.command.traceparent)
            or intent.traceparent
            or self._ids.traceparent(),
        )

    def _append(self, decided: Decided) -> Appended:
        """In the writer's thread, one after the other, so that announcements follow the order of commits."""
        begun = time.perf_counter()
        appended = self._log.append(decided.events, decided.payloads)
        took = time.perf_counter() - begun
        self.stats.commits.observe(took)
        self.stats.slowest_commit_seconds = max(took, self.stats.slowest_commit_seconds)
        return appended

    def _committed(self, decided: Decided, appended: Appended | None) -> list[Answer]:
        recorded = appended.events if appended else ()
        if appended is not None:
            self.stats.events += len(recorded)
            self.stats.topics.update([e.event.topic for e in recorded])
            for stream, last in decided.last.items():
                state, version, _ = decided.states[stream]
                self.cache.put(stream, CachedState(state, version, recorded[last].position))
            for callback in self._committed_callbacks:
                callback(appended, decided.payloads)
        return [
            answer
            if isinstance(answer, Refused)
            else Accepted(
                answer.position if answer.event is None else recorded[answer.event].position, answer.body
            )
            for answer in decided.answers
        ]

    async def _drop_stale(self, streams: Collection[UUID], known: dict[UUID, CachedState]) -> bool:
        """Drop the cached states that another process made stale; returns whether there were any."""
        versions = await self._thread.call(self._log.versions, list(streams))
        moved = [s for s in streams if versions.get(s, 0) != known[s].version]
        self.cache.drop(moved)
        return bool(moved)


def _fold(events: Sequence[Recorded] | None) -> CachedState:
    if not events:
        return ABSENT
    return CachedState(fold(e.event for e in events), events[-1].version, events[-1].position)
