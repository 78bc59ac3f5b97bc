"""The command bus: group commit.

Whatever commands wait are decided together and appended in one transaction. At one command this adds no
wait; at a thousand it costs one fsync. Nobody is answered before the commit. While one batch is written the
next is decided, if they have nothing to do with each other.

One batch goes through these steps:
1. Load the streams that it needs and that are not cached, in one query; a submit's own is taken for new.
2. Decide each command on the states that the commands before it in the batch lead to. A refusal, or an
   unexpected exception, fails its own command only.
3. A refusal decided from a cached state is decided again if that state turns out to be stale.
4. Append all events and payloads at once. On a version conflict, drop from the cache what moved and go back
   to 1 with the whole batch; one by one only after MAX_TRIES.
5. Answer, keep the new states, and hand the events to the followers of this process.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import structlog

from coordinator.application.cache import ABSENT, Entry, StateCache
from coordinator.application.deciding import Deciding
from coordinator.application.figures import BusFigures
from coordinator.application.intents import Accepted, Answer, Refused
from coordinator.application.ports import (
    Appended,
    Clock,
    EventLog,
    LogUnavailable,
    NewEvent,
    Recorded,
    StoredPayload,
    VersionConflict,
)
from coordinator.application.preparation import Prepared
from coordinator.crypto.refs import blob_refs
from coordinator.domain.aggregates import AGGREGATE_OF, NAME
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobComplete, JobSubmit
from coordinator.domain.messages import Event
from coordinator.domain.name import NameEvent, name_stream

MAX_BATCH = 200  # commands a transaction; more only makes the ones before wait longer
MAX_AT_ONCE = 2  # batches: while one is written, the next is decided
MAX_TRIES = 3
_UNAVAILABLE = Refused(Code.UNAVAILABLE, "the log is out of reach; send it again later")
_INTERNAL = Refused(Code.INTERNAL, "this is our fault and nothing was recorded; it may be sent again")

log = structlog.get_logger("bus")


@dataclass(slots=True)
class BusStats:
    """Counted since the start; `batch_sizes[n]` is how many batches had up to 2**n commands."""

    commands: int = 0
    batches: int = 0
    events: int = 0
    refused: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    """By code."""
    topics: dict[str, int] = field(default_factory=dict)
    """Events by topic."""
    commits: int = 0
    conflicts: int = 0
    singled_out: int = 0
    commit_seconds: float = 0.0
    slowest_commit_seconds: float = 0.0
    batch_sizes: list[int] = field(default_factory=lambda: [0] * 12)


@dataclass(slots=True, eq=False)
class _Ticket:
    """One call of `submit`: its answers are due together."""

    answers: list[Answer | None]
    missing: int
    done: asyncio.Future[None]


class _Waiting(NamedTuple):
    prepared: Prepared
    ticket: _Ticket
    place: int


class _Scope(NamedTuple):
    """The streams of a batch's commands."""

    reads: frozenset[UUID]
    writes: frozenset[UUID]

    @classmethod
    def of(cls, batch: Iterable[Prepared]) -> _Scope:
        reads: set[UUID] = set()
        writes: set[UUID] = set()
        for prepared in batch:
            (writes if prepared.names else reads).update(prepared.lookups)
            writes.add(prepared.stream)
        return cls(frozenset(reads), frozenset(writes))

    def meets(self, other: _Scope) -> bool:
        """Whether one of them may write what the other one reads or writes."""
        return not (
            self.writes.isdisjoint(other.writes)
            and self.writes.isdisjoint(other.reads)
            and self.reads.isdisjoint(other.writes)
        )


@dataclass(slots=True)
class _Decided:
    """What one pass over a batch came to."""

    events: list[NewEvent]
    payloads: list[StoredPayload]
    answers: list[Answer | int]
    """An answer that is ready, or the index of the last event of the command."""
    bodies: list[dict[str, Any]]
    touched: dict[UUID, tuple[Any, int]]
    """The new state and version of each stream that got events."""
    refused_on: set[UUID]
    """Streams whose states a refusal was decided from."""


class CommandBus:
    """Decides and appends. One instance a process; `submit` may be called from any task."""

    def __init__(
        self,
        event_log: EventLog,
        deciding: Deciding,
        clock: Clock,
        *,
        unowned_blobs: Callable[[Collection[tuple[str, str]]], set[tuple[str, str]]],
        on_committed: Callable[[Appended, Sequence[StoredPayload]], None],
    ) -> None:
        """`unowned_blobs`: which of these (digest, principal) pairs are not owned (called in a thread).

        `on_committed(appended, payloads)`: called on the event loop after each commit, in log order.
        """
        self._log = event_log
        self._deciding = deciding
        self._clock = clock
        self._unowned_blobs = unowned_blobs
        self._on_committed = on_committed
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="log-writer")
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.cache = StateCache()
        self.stats = BusStats()

    # --- life cycle -----------------------------------------------------------------------------------------
    async def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="command-bus")

    async def stop(self) -> None:
        """Finish what waits, then stop. May be called twice, or without a start."""
        task, self._task = self._task, None
        if task is not None:
            self._stopping = True
            self._wake.set()
            await task
        self._thread.shutdown(wait=True)

    # --- the way in -----------------------------------------------------------------------------------------
    async def submit(self, commands: Sequence[Prepared]) -> list[Answer]:
        """Decide these commands, in this order; returns their answers after the commit."""
        if not commands:
            return []
        if self._stopping:
            return [_UNAVAILABLE] * len(commands)
        ticket = _Ticket([None] * len(commands), len(commands), asyncio.get_running_loop().create_future())
        self._waiting.extend(_Waiting(p, ticket, i) for i, p in enumerate(commands))
        self._wake.set()
        await ticket.done
        return [answer for answer in ticket.answers if answer is not None]

    async def state(self, stream: UUID) -> Any:
        """The state of one aggregate, fresh from the log; None where there is none."""
        entry = self.cache.get(stream)
        if entry is not None:
            # Not in the writer's thread: somebody's look must not hold up everybody's commands.
            versions = await asyncio.to_thread(self._log.versions, [stream])
            if versions.get(stream, 0) == entry.version:
                return entry.state
            self.cache.drop([stream])
        loaded = await asyncio.to_thread(self._log.load, [stream])
        return _fold(loaded.get(stream)).state

    def forget(self, events: Sequence[Recorded]) -> None:
        """Events that another process appended: what is cached of their streams is old."""
        self.cache.drop(e.stream for e in events if self.cache.outdated(e.stream, e.version))

    def figures(self) -> BusFigures:
        """What was counted so far."""
        stats = self.stats
        return BusFigures(
            commands=stats.commands,
            refusals=dict(stats.refusals),
            events=dict(stats.topics),
            batches=stats.batches,
            batch_sizes=tuple(stats.batch_sizes),
            conflicts=stats.conflicts,
            singled_out=stats.singled_out,
            commits=stats.commits,
            commit_seconds=stats.commit_seconds,
            slowest_commit_seconds=stats.slowest_commit_seconds,
            waiting=len(self._waiting),
            cached=len(self.cache),
        )

    # --- the loop -------------------------------------------------------------------------------------------
    async def _run(self) -> None:
        ahead: dict[asyncio.Task[None], _Scope] = {}
        try:
            while self._waiting or not self._stopping:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    while len(ahead) >= MAX_AT_ONCE:
                        await _one_of(ahead)
                    batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
                    scope = _Scope.of(w.prepared for w in batch)
                    while any(scope.meets(other) for other in ahead.values()):
                        await _one_of(ahead)
                    ahead[asyncio.create_task(self._answer(batch))] = scope
        finally:
            while ahead:
                await _one_of(ahead)

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        try:
            answers = await self._process([w.prepared for w in batch])
        except asyncio.CancelledError:
            _hand_out(batch, [_UNAVAILABLE] * len(batch))
            raise
        except Exception:
            log.exception("a batch failed", commands=len(batch))
            answers = [_INTERNAL] * len(batch)
        self.stats.batches += 1
        self.stats.commands += len(batch)
        refusals = [a.code for a in answers if isinstance(a, Refused)]
        self.stats.refused += len(refusals)
        _count(self.stats.refusals, refusals)
        self.stats.batch_sizes[min(11, (len(batch) - 1).bit_length())] += 1
        _hand_out(batch, answers)

    async def _process(self, batch: Sequence[Prepared]) -> list[Answer]:
        streams = {s for p in batch for s in (p.stream, *p.lookups)}
        # A submit's stream is nearly always new: it is taken for that, and a repeat is found by the conflict.
        new = {p.stream for p in batch if isinstance(p.command, JobSubmit)}
        try:
            unowned = await self._unowned(batch)
            for _ in range(MAX_TRIES):
                known = await self._load(streams, new)
                new = set()
                try:
                    decided = self._decide(batch, known, unowned)
                    if decided.refused_on and await self._drop_stale(decided.refused_on & streams, known):
                        continue
                    appended = await self._in_thread(self._append, decided) if decided.events else None
                    return self._committed(decided, appended)
                except VersionConflict:
                    self.stats.conflicts += 1
                    await self._drop_stale(streams, known)
        except LogUnavailable as error:
            # Whether a commit in flight took place is unknown, so nothing cached of these streams is sure.
            self.cache.drop(streams)
            log.warning("the log is out of reach", error=str(error), commands=len(batch))
            return [_UNAVAILABLE] * len(batch)
        if len(batch) == 1:
            return [Refused(Code.UNAVAILABLE, "others change this at the same time; send it again")]
        self.stats.singled_out += len(batch)
        return [answer for prepared in batch for answer in await self._process([prepared])]

    async def _load(self, streams: Collection[UUID], assumed_new: Collection[UUID] = ()) -> dict[UUID, Entry]:
        known: dict[UUID, Entry] = {}
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
            loaded = await self._in_thread(self._log.load, missing)
            for stream in missing:
                known[stream] = _fold(loaded.get(stream))
                if known[stream] is not ABSENT:
                    self.cache.put(stream, known[stream])
        return known

    def _decide(
        self, batch: Sequence[Prepared], known: dict[UUID, Entry], unowned: Mapping[int, Collection[str]]
    ) -> _Decided:
        decided = _Decided([], [], [], [], {}, set())
        now = self._clock.now()

        def state_of(stream: UUID) -> Any:
            touched = decided.touched.get(stream)
            return touched[0] if touched else known[stream].state

        for prepared in batch:
            aggregate = AGGREGATE_OF[prepared.command.topic]
            stream, body = prepared.stream, {}
            state = state_of(stream)
            try:
                lacking = unowned.get(id(prepared), ())
                facts = self._deciding.facts(prepared, state, state_of, now, lacking)
                events = aggregate.decide(state, prepared.command, facts)
                others: list[NameEvent] = []
                if prepared.names:
                    others = [e for e in events if isinstance(e, NameEvent)]
                    events = [e for e in events if not isinstance(e, NameEvent)]
                after = state
                for event in events:
                    after = aggregate.evolve(after, event)
                body = aggregate.answer(after, prepared.command)
            except Refusal as refusal:
                decided.refused_on.update((stream, *prepared.lookups))
                decided.answers.append(Refused(refusal.code, refusal.detail))
            except Exception:
                log.exception("a decision failed", command=prepared.command.topic, stream=str(stream))
                decided.answers.append(_INTERNAL)
            else:
                for other in others:  # before the command's own: what it is answered is the last position
                    place = name_stream(other.name)
                    named = NAME.evolve(state_of(place), other)
                    _append(decided, place, [other], named, known[place])
                self._note(decided, prepared, events, after, known[stream])
            decided.bodies.append(body)
        return decided

    @staticmethod
    def _note(decided: _Decided, prepared: Prepared, events: list[Event], after: Any, before: Entry) -> None:
        stream = prepared.stream
        touched = decided.touched.get(stream)
        if not events:
            # A repeat: its effect is at the stream's end, which may be in this very batch.
            last = next(
                (
                    i
                    for i in range(len(decided.events) - 1, -1, -1)
                    if touched and decided.events[i].stream == stream
                ),
                None,
            )
            decided.answers.append(Accepted(before.position) if last is None else last)
            return
        _append(decided, stream, events, after, before)
        decided.answers.append(len(decided.events) - 1)
        if prepared.payload is not None:
            decided.payloads.append(prepared.payload)

    def _append(self, decided: _Decided) -> Appended:
        """In the writer's thread, one after the other: what is committed first is heard of first."""
        begun = time.perf_counter()
        appended = self._log.append(decided.events, decided.payloads)
        took = time.perf_counter() - begun
        self.stats.commits += 1
        self.stats.commit_seconds += took
        self.stats.slowest_commit_seconds = max(took, self.stats.slowest_commit_seconds)
        return appended

    def _committed(self, decided: _Decided, appended: Appended | None) -> list[Answer]:
        if appended is not None:
            self.stats.events += len(decided.events)
            _count(self.stats.topics, [e.event.topic for e in decided.events])
            last = {r.stream: r.position for r in appended.events}
            for stream, (state, version) in decided.touched.items():
                self.cache.put(stream, Entry(state, version, last[stream]))
            self._on_committed(appended, decided.payloads)
        answers: list[Answer] = []
        for answer, body in zip(decided.answers, decided.bodies, strict=True):
            if isinstance(answer, Refused):
                answers.append(answer)
            elif isinstance(answer, Accepted):
                answers.append(Accepted(answer.position, body))
            else:
                assert appended is not None
                answers.append(Accepted(appended.events[answer].position, body))
        return answers

    async def _drop_stale(self, streams: Collection[UUID], known: dict[UUID, Entry]) -> bool:
        """Drop from the cache what another process moved; whether there was any."""
        versions = await self._in_thread(self._log.versions, list(streams))
        moved = [s for s in streams if versions.get(s, 0) != known[s].version]
        self.cache.drop(moved)
        return bool(moved)

    async def _unowned(self, batch: Sequence[Prepared]) -> dict[int, set[str]]:
        """By the id of the command: which blobs it refers to that its sender may not refer to.

        A sender may refer to what it uploaded; a result also to what its job's payload refers to.
        """
        pairs = {(b, p.intent.principal.name) for p in batch for b in p.blobs}
        if not pairs:
            return {}
        foreign = await asyncio.to_thread(self._unowned_blobs, pairs)
        lacking = {
            id(p): {b for b in p.blobs if (b, p.intent.principal.name) in foreign} for p in batch if p.blobs
        }
        results = {p.stream for p in batch if isinstance(p.command, JobComplete) and lacking.get(id(p))}
        if results:
            payloads = await self._in_thread(self._log.payloads, "payload", results)
            inputs = {job_id: blob_refs(json.loads(payload.body)) for job_id, payload in payloads.items()}
            for prepared in batch:
                if isinstance(prepared.command, JobComplete) and id(prepared) in lacking:
                    lacking[id(prepared)] -= inputs.get(prepared.stream, set())
        return lacking

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _append(decided: _Decided, stream: UUID, events: Sequence[Event], after: Any, before: Entry) -> None:
    touched = decided.touched.get(stream)
    version = touched[1] if touched else before.version
    for event in events:
        version += 1
        decided.events.append(NewEvent(stream, version, event))
    decided.touched[stream] = (after, version)


async def _one_of(tasks: dict[asyncio.Task[None], _Scope]) -> None:
    """Wait until at least one is done, and take it out."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        del tasks[task]


def _count(counts: dict[str, int], keys: Iterable[str]) -> None:
    for key in keys:
        counts[key] = counts.get(key, 0) + 1


def _fold(events: Sequence[Recorded] | None) -> Entry:
    if not events:
        return ABSENT
    state = None
    for recorded in events:
        state = AGGREGATE_OF[recorded.event.topic].evolve(state, recorded.event)
    return Entry(state, events[-1].version, events[-1].position)


def _hand_out(batch: Sequence[_Waiting], answers: Sequence[Answer]) -> None:
    for waiting, answer in zip(batch, answers, strict=True):
        ticket = waiting.ticket
        ticket.answers[waiting.place] = answer
        ticket.missing -= 1
        if not ticket.missing and not ticket.done.done():
            ticket.done.set_result(None)
