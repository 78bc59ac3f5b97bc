"""The parts of a process that keep accounts and settle batches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from coordinator.application.commands.handlers.accounts import AccountCommands
from coordinator.application.commands.handlers.settlements import APPLIED_SECONDS, SettlementCommands
from coordinator.application.followers.follower import Follower
from coordinator.application.followers.watermarks import LocalWatermarks
from coordinator.application.health import Part
from coordinator.application.money.payments import Payments
from coordinator.application.money.plans import BatchPlans
from coordinator.application.money.sender import Pace, SettlementSender
from coordinator.application.money.settlements import SETTLEMENTS, SettlementFollower
from coordinator.application.money.settler import Settler
from coordinator.application.payloads.service_versions import States
from coordinator.application.ports import (
    Clock,
    Database,
    EventLog,
    Intent,
    Leadership,
    SettlementSink,
)
from coordinator.application.quotas.follower import PROJECTOR
from coordinator.crypto.webhooks import WebhookKeys
from coordinator.domain.settlement import BatchPlan, SinkTerms
from coordinator.runtime.money.sinks import open_sink, terms_of
from coordinator.runtime.settings import Settings
from coordinator.wire.answers import Answer

Send = Callable[[Sequence[Intent]], Awaitable[list[Answer]]]


@dataclass(frozen=True, slots=True)
class Money:
    """What `bootstrap` needs besides the gateway."""

    settings: Settings
    event_log: EventLog
    payments: Payments
    clock: Clock
    states: States
    watermarks: LocalWatermarks
    sink: SettlementSink | None
    terms: SinkTerms | None
    plans: BatchPlans | None

    @classmethod
    def of(
        cls,
        settings: Settings,
        event_log: EventLog,
        database: Database,
        clock: Clock,
        states: States,
        watermarks: LocalWatermarks,
        keys: WebhookKeys,
    ) -> Money:
        """Raises BadSettings."""
        sink = open_sink(settings, keys)
        terms = None if sink is None else terms_of(sink, settings)
        plans = None if terms is None else BatchPlans(database, clock, terms)
        return cls(
            settings, event_log, Payments(event_log, database), clock, states, watermarks, sink, terms, plans
        )

    def handlers(self) -> tuple[AccountCommands, SettlementCommands]:
        """Of accounts, and of batches."""
        reached = partial(self.watermarks.reached, SETTLEMENTS)
        plan = None if self.plans is None else self._plan
        return (
            AccountCommands(self.states, self.payments.of, self.settings.terms, self.sink),
            SettlementCommands(self.states, self.terms, plan, reached),
        )

    async def _plan(self) -> BatchPlan:
        """The plan of the next batch, with all that the accounts show by now."""
        assert self.plans is not None
        await self.watermarks.reached(SETTLEMENTS, self.watermarks.of(PROJECTOR), APPLIED_SECONDS)
        return await self.plans.plan()

    def followers(self, send: Send) -> list[Follower]:
        """Those that money needs; none where no accounts are kept."""
        found: list[Follower] = []
        if self.settings.terms is not None:
            found.append(Settler(self.event_log, send, self.clock))
        if self.sink is not None:
            found.append(SettlementFollower())
        return found

    def sender(self, send: Send, leadership: Leadership, part: Callable[[], Part]) -> SettlementSender | None:
        """What sends batches; None where nobody is paid out."""
        if self.sink is None or self.plans is None:
            return None
        settings = self.settings
        pace = Pace(settings.settlement_every_seconds, settings.settlement_amount)
        return SettlementSender(
            self.sink, self.plans, self.states, send, leadership, self.clock, pace, part()
        )
