"""Webhooks by hand: the real follower, queue and deliverer over a database, with a clock that a test sets.

Only the network is played: `Receivers` answers as a test says, and keeps what it was sent.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, NamedTuple
from uuid import UUID

import pytest
import standardwebhooks
from standardwebhooks import webhooks as library

from coordinator.application.ports import Intent, NewEvent, Recorded
from coordinator.application.webhooks.deliverer import Deliverer
from coordinator.application.webhooks.follower import WebhookFollower
from coordinator.application.webhooks.post import Answered
from coordinator.application.webhooks.schedule import Bounds
from coordinator.application.webhooks.sending import Sending
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.webhooks import WebhookKeys, purpose_of_callback, purpose_of_webhook
from coordinator.domain.decision import fold
from coordinator.domain.job import JobSubmitted
from coordinator.domain.messages import Event
from coordinator.domain.webhook import (
    WebhookContext,
    WebhookCreated,
    WebhookDisable,
    decide,
)
from coordinator.edge.state.final_jobs import job_data
from coordinator.edge.state.tables.webhooks import DeliveryRow, WebhookReads
from coordinator.projections.projector import Projector
from coordinator.wire.answers import Accepted, Answer
from tests.contract.test_followers import Stores
from tests.harness.metadata import METADATA

KEYS = WebhookKeys(SigningKey(bytes(32)))
OK = Answered(200, "", 3)
DOWN = Answered(None, "can't connect", 7)
ALICE_HOOK, BOB_HOOK, ADMIN_HOOK = (UUID(int=number) for number in (0xA, 0xB, 0xC))


class Sent(NamedTuple):
    """What a receiver was sent, and when."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    at: int

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Receivers:
    """Answers by URL; 200 where nothing else is said."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self.sent: list[Sent] = []
        self.answers: dict[str, Callable[[], Answered]] = {}
        self.held: dict[str, asyncio.Event] = {}
        """Receivers that answer once the event is set."""
        self.open: defaultdict[str, int] = defaultdict(int)
        self.most_open: defaultdict[str, int] = defaultdict(int)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answered:
        self.sent.append(Sent(url, headers, body, self._stores.now))
        self.open[url] += 1
        self.most_open[url] = max(self.most_open[url], self.open[url])
        try:
            if url in self.held:
                await self.held[url].wait()
        finally:
            self.open[url] -= 1
        return self.answers.get(url, lambda: OK)()

    def to(self, url: str) -> list[Sent]:
        return [sent for sent in self.sent if sent.url == url]


class _Reached:
    """Watermarks of a projector that a test drives: it has always come far enough."""

    async def reached(self, follower: str, position: int, timeout: float) -> bool:
        return True

    def hurry(self, follower: str, position: int) -> None: ...

    def of(self, follower: str) -> int:
        return 0


class Telling:
    """The parts, driven step by step."""

    def __init__(self, stores: Stores, bounds: Bounds | None = None, log_hours: int = 168) -> None:
        self.stores = stores
        self.receivers = Receivers(stores)
        sending = Sending(KEYS, self.state_of, job_data(stores.database, _Reached()))
        self.deliverer = Deliverer(
            stores.database,
            stores.clock,
            sending,
            self.receivers.post,
            self._handle,
            bounds=bounds,
            log_hours=log_hours,
            chance=lambda: 0.0,
        )
        self.follower = WebhookFollower(self.deliverer, stores.clock)
        self.projector = Projector()
        self.reads = WebhookReads(stores.database)
        self._versions = stores.versions
        with stores.database.transaction() as tables:
            self.follower.take_over(tables)

    # --- the log --------------------------------------------------------------------------------------------
    def append(self, *events: Event) -> list[Recorded]:
        """Append events, each to its noun's stream."""
        new = []
        for event in events:
            stream = next(value for name in ("job_id", "webhook_id") if (value := getattr(event, name, None)))
            self._versions[stream] = self._versions.get(stream, 0) + 1
            new.append(NewEvent(stream, self._versions[stream], event, METADATA))
        return list(self.stores.log.append(new).events)

    def hook(
        self, webhook_id: UUID, owner: str, url: str, *events: str, role: str = "client"
    ) -> WebhookCreated:
        """The event of a new webhook."""
        return WebhookCreated.model_validate(
            {
                "at": self.stores.now,
                "by": owner,
                "webhook_id": webhook_id,
                "owner": owner,
                "role": role,
                "host": "x",
                "sealed_url": KEYS.seal(purpose_of_webhook(webhook_id), url),
                "events": events or ("job.completed", "job.failed", "job.canceled", "job.expired"),
                "label": "",
            }
        )

    def with_callback(self, event: JobSubmitted, url: str) -> JobSubmitted:
        return event.model_copy(update={"callback": KEYS.seal(purpose_of_callback(event.job_id), url)})

    async def state_of(self, stream: UUID) -> Any:
        found = self.stores.log.load([stream]).get(stream, [])
        return fold([recorded.event for recorded in found])

    async def _handle(self, intents: Sequence[Intent]) -> list[Answer]:
        answers: list[Answer] = []
        for intent in intents:
            assert isinstance(intent.command, WebhookDisable)
            stream = intent.command.webhook_id
            context = WebhookContext(self.stores.now, intent.principal, stream)
            decision = decide(await self.state_of(stream), intent.command, context)
            appended = self.append(*(event for _, event in decision))
            answers.append(Accepted(appended[-1].position if appended else 0, {}))
        return answers

    # --- steps ----------------------------------------------------------------------------------------------
    async def follow(self) -> None:
        """Both followers go to the end of the log."""
        for follower in (self.projector, self.follower):
            with self.stores.database.transaction() as tables:
                position = tables.position(follower.name)
                events = self.stores.log.read(position, 10_000)
                if not events:
                    continue
                await follower.act(events)
                follower.apply(tables, events)
                tables.move(follower.name, position, events[-1].position)
        with self.stores.database.transaction() as tables:
            stored = tables.position(self.follower.name)
        await self.follower.tick(stored)

    async def deliver(self) -> None:
        """Send what is due, until nothing more is."""
        while True:
            before = len(self.receivers.sent)
            await self.deliverer.round()
            await self.deliverer.settle()
            await self.follow()
            if len(self.receivers.sent) == before:
                return

    async def until(self, seconds: float) -> None:
        """Let so much time pass, with a look at the queue every second that something is due in."""
        end = self.stores.now + int(seconds * 1000)
        await self.deliver()
        while (due := self._next()) is not None and due <= end:
            self.stores.pass_time(max(0, due - self.stores.now) / 1000)
            await self.deliver()
        self.stores.pass_time((end - self.stores.now) / 1000)

    def _next(self) -> int | None:
        with self.stores.database.transaction() as tables:
            rows = tables.query("webhooks_queues")
        return min((row["due_at"] for row in rows), default=None)

    async def rows(self, webhook_id: UUID) -> list[DeliveryRow]:
        """The log of deliveries, newest first."""
        return await self.reads.deliveries(str(webhook_id))


def verify(
    monkeypatch: pytest.MonkeyPatch, secret: str, sent: Sent, *, generation_at: int | None = None
) -> dict[str, Any]:
    """The body, verified by Standard Webhooks' own library at the moment of the try."""
    at = (sent.at if generation_at is None else generation_at) / 1000

    class Then(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(at, tz or UTC)

    monkeypatch.setattr(library, "datetime", Then)
    verified: dict[str, Any] = standardwebhooks.Webhook(secret).verify(sent.body, dict(sent.headers))
    return verified
