"""A command bus over a log in memory, with the handlers of jobs and services, for unit tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any, cast
from uuid import UUID

from coordinator.application.commands.bus import CommandBus
from coordinator.application.commands.cache import StateCache
from coordinator.application.commands.gateway import CommandGateway
from coordinator.application.commands.handler import Handler, Prepared
from coordinator.application.commands.handlers.accounts import AccountCommands
from coordinator.application.commands.handlers.jobs.again import EarlierJobs
from coordinator.application.commands.handlers.jobs.handler import JobCommands
from coordinator.application.commands.handlers.names import Names
from coordinator.application.commands.handlers.services import ServiceCommands
from coordinator.application.commands.ids import Ids
from coordinator.application.payloads.references import References
from coordinator.application.payloads.schemas import PayloadSchemas
from coordinator.application.payloads.service_versions import ServiceVersions
from coordinator.application.ports import Appended, Clock, Intent, NewEvent, Recorded, StoredPayload
from coordinator.application.quotas.quotas import Quotas
from coordinator.crypto.keys import SigningKey
from coordinator.domain.account import PAYMENTS_STREAM, SettledJob, Terms
from coordinator.domain.job import JobSubmit, JobSubmitted, is_final
from coordinator.domain.messages import Command, Principal, Role
from coordinator.domain.quota import Limits
from coordinator.wire.answers import Answer, Refused
from tests.harness.deciding import a_spec
from tests.harness.memory_log import MemoryEventLog

ALICE = Principal("alice", Role.CLIENT)
BOB = Principal("bob", Role.CLIENT)
CLOCK = Clock(now=lambda: 1_700_000_000_000, monotonic=lambda: 0.0)


class ManualClock:
    """A clock that stands still at `millis`."""

    def __init__(self) -> None:
        self.millis = CLOCK.now()
        self.clock = Clock(now=lambda: self.millis, monotonic=lambda: 0.0)


class WatchedLog(MemoryEventLog):
    """The in-memory log, with a tap on appends: what a test needs to see, and to make fail."""

    def __init__(self) -> None:
        super().__init__()
        self.appends: list[int] = []
        self.loads = 0
        self.before_append: Callable[[], None] = lambda: None

    def append(self, events: Sequence[NewEvent], payloads: Sequence[StoredPayload] = ()) -> Appended:
        self.before_append()
        appended = super().append(events, payloads)
        self.appends.append(len(events))
        return appended

    def load(self, streams: Any) -> dict[Any, list[Recorded]]:
        self.loads += 1
        return super().load(streams)


class NoBlobs:
    def get(self, sha256: str) -> AsyncIterator[bytes]:
        raise AssertionError("nothing here is that large")

    async def put(self, stream: AsyncIterator[bytes], *, expected_sha256: str | None, max_bytes: int) -> Any:
        raise AssertionError("nothing here is that large")


KEY_SEED = bytes(32)
"""Of the key that signs receipts."""


class Bench:
    """A bus over a log, and the gateway before it."""

    def __init__(
        self,
        log: Any,
        unowned: set[tuple[str, str]] | None = None,
        more: Sequence[Handler[Any]] = (),
        limits: Limits | None = None,
        blobs: Any = None,
        terms: Terms | None = None,
    ) -> None:
        """`unowned`: blobs that are not their senders'; `more`: other handlers; `blobs`: a store; `terms`:
        of payments, if accounts are kept."""
        self.quotas = Quotas(limits or Limits(), CLOCK.monotonic)
        self.log = log
        self.unowned = unowned if unowned is not None else set()
        self.clock = ManualClock()
        self.committed: list[Appended] = []
        ids = Ids()
        self.bus = CommandBus(log, self.clock.clock, StateCache(is_final), ids)
        self.bus.on_committed(self._on_committed)
        self.names = Names(self.bus.state)
        references = References(log, blobs or NoBlobs(), lambda pairs: self.unowned & set(pairs))
        key = SigningKey(KEY_SEED)
        handlers: tuple[Handler[Any], ...] = (
            JobCommands(
                key,
                self.names,
                blobs or NoBlobs(),
                references,
                PayloadSchemas(),
                ids,
                self.bus.states,
                ServiceVersions(log, self.bus.states),
                self.quotas,
                earlier=EarlierJobs(self.bus.states, self._payloads_of, blobs or NoBlobs()),
                accounts=terms is not None,
            ),
            AccountCommands(self.bus.states, self._settled, terms),
            ServiceCommands(self.names),
            *more,
        )
        nobody = cast("Any", None)  # no heartbeats come in here
        self.gateway = CommandGateway(self.bus, handlers, nobody, self.names, self.quotas)

    async def _settled(self, job_id: UUID) -> SettledJob | None:
        for recorded in self.log.load([PAYMENTS_STREAM]).get(PAYMENTS_STREAM, ()):
            for payment in recorded.event.payments:
                if payment.job_id == job_id:
                    return SettledJob(payment, payment.client, recorded.event.available_at)
            for kept in recorded.event.kept:
                if kept.job_id == job_id:
                    until = recorded.event.kept_until
                    return SettledJob(None, kept.client, recorded.event.available_at, kept, until)
        return None

    async def _payloads_of(self, job_ids: Collection[UUID]) -> dict[UUID, StoredPayload]:
        found: dict[UUID, StoredPayload] = self.log.payloads("payload", job_ids)
        return found

    def _on_committed(self, appended: Appended, _: Sequence[StoredPayload]) -> None:
        self.committed.append(appended)
        self.names.note(appended.events)
        for recorded in appended.events:
            self.quotas.usage.note(recorded)
            if isinstance(recorded.event, JobSubmitted):
                self.quotas.job_decided(recorded.event.client, recorded.stream)

    async def prepare(self, *commands: Command, by: Principal = ALICE) -> list[Prepared[Any]]:
        prepared = await self.gateway._prepare([Intent(c, by) for c in commands])
        return [p for p in prepared if isinstance(p, Prepared)]

    async def send(self, *commands: Command, by: Principal = ALICE) -> list[Answer]:
        prepared = await self.gateway._prepare([Intent(c, by) for c in commands])
        decided = iter(await self.bus.submit([p for p in prepared if isinstance(p, Prepared)]))
        return [next(decided) if isinstance(p, Prepared) else p for p in prepared]


def submit(key: str, **fields: Any) -> JobSubmit:
    return JobSubmit(**{"service": a_spec().id, "payload": {"text": key}, "idempotency_key": key} | fields)


def codes(answers: list[Answer]) -> list[str]:
    return [a.code.value if isinstance(a, Refused) else "accepted" for a in answers]
