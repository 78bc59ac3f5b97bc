"""The context of endpoints: the ports of the application, the edge's settings, and the state of the app.

`runtime.bootstrap` makes one for each app. An endpoint gets it as a parameter `context: Context`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, NamedTuple, Protocol
from uuid import UUID

from fastapi import Depends
from starlette.requests import HTTPConnection

from coordinator.application.batches.batches import JobBatches
from coordinator.application.figures.attention import Disk
from coordinator.application.figures.window import WindowFigures
from coordinator.application.keys.keyring import Keyring
from coordinator.application.keys.sessions import Sessions
from coordinator.application.live.events import Live
from coordinator.application.matches.live_miners import LiveMiners
from coordinator.application.matches.queued_jobs import QueuedJobs
from coordinator.application.metrics import CoordinatorMetrics, DiskMetrics, OpenOffers
from coordinator.application.payloads.schemas import PayloadSchemas
from coordinator.application.ports import (
    Database,
    DeadLetters,
    EventLog,
    Gateway,
    StoredPayload,
    TableChecks,
    Watermarks,
    WorkQueues,
)
from coordinator.application.proof.passports import Passports
from coordinator.application.proof.proofs import Proofs
from coordinator.application.quotas.quotas import Quotas
from coordinator.application.receipts.receipts import Receipts
from coordinator.application.search.jobs import JobSearch
from coordinator.blobs import BlobStore
from coordinator.crypto.webhooks import WebhookKeys
from coordinator.domain.job import is_final
from coordinator.domain.matching.reasons import Offered
from coordinator.edge.state.backlog import Backlog
from coordinator.edge.state.blob_owners import BlobOwners
from coordinator.edge.state.http_metrics import HttpMetrics
from coordinator.edge.state.job_watch import JobWatch
from coordinator.edge.state.offerings import Offerings
from coordinator.edge.state.open_connections import OpenConnections
from coordinator.edge.state.parked_polls import ParkedPolls, ParkedSession, Seen
from coordinator.edge.state.shared import Shared
from coordinator.edge.state.tables.ended_sessions import EndedSessions
from coordinator.edge.state.tables.money import MoneyReads
from coordinator.edge.state.tables.read_models import ReadModels
from coordinator.edge.state.tables.settlements import SettlementReads
from coordinator.edge.state.tables.webhooks import WebhookReads
from coordinator.settlement.evm.claims import ClaimBook, ClaimTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """The edge's settings, under the names in `.env.example`."""

    allow_origins: tuple[str, ...]
    fetch_allow_hosts: tuple[str, ...]
    hmac_window_seconds: int
    job_ttl_seconds: int
    max_blob_bytes: int
    metrics_public: bool
    money_unit: str
    offer_timeout_seconds: float
    openai_timeout_seconds: int
    settlement: str
    settlement_sink: str
    claims: ClaimTerms | None
    """The contract from which payees claim; None if the sink has none."""
    ui_base_path: str
    ui_enabled: bool
    ui_read_only: bool
    ui_session_hours: int


class ShownSetting(NamedTuple):
    """A setting as people may see it: of a secret only whether it is set."""

    name: str
    value: str
    secret: bool
    default: bool


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """Time limits of a request, in seconds."""

    body_seconds: float = 20
    """For a whole JSON body to arrive."""
    chunk_seconds: float = 60
    """For the next bytes of an upload to arrive."""
    grace_seconds: float = 30
    """For which a sender may be late in all, while it is slower than `bytes_per_second`."""
    bytes_per_second: int = 4096
    """The least rate of a sender, by the time that we wait for it."""
    at_least_seconds: float = 5
    """For the read models to reach the position of `X-At-Least`."""
    wait_seconds: float = 30
    """The longest wait for a job's result."""
    parked_seconds: float = 5
    """Between signs of life of a miner whose poll waits."""
    watch_seconds: float = 5
    """Between checks of awaited jobs while no follower moves."""


@dataclass(frozen=True, slots=True)
class Spent:
    """The use of a budget: requests counted in the current window, against their limit."""

    limit: int
    count: int
    window: int
    """Seconds."""
    reset: float
    """Seconds until the window ends and the whole budget is available again."""

    @property
    def allowed(self) -> bool:
        return self.count <= self.limit


class RateLimiter(Protocol):
    """Limits how often keys may call."""

    async def spend(self, role: str, name: str) -> Spent | None:
        """Count a request; None if this role is not limited."""

    async def failures(self, address: str, name: str, *, count: bool) -> Spent | None:
        """Failed authentications of this address under this name ("" without a key); `count` adds one.

        None if failures are not limited.
        """

    async def delay(self, address: str) -> None:
        """Wait before a failure of this address over the limit is answered."""

    async def is_first_use(self, token: str, seconds: int) -> bool | None:
        """Whether no process has seen this token for so many seconds; None without a shared store."""

    async def close(self) -> None:
        """Give back the connections. May be called twice."""


class SignatureRegister(Protocol):
    """The used signatures of requests: each is valid once."""

    def use(self, name: str, timestamp: float, window: int, signature: str) -> bool:
        """Whether this is the signature's first use. Raises Problem if there are too many to remember."""


async def _nowhere(sessions: Collection[ParkedSession]) -> None:
    """Nobody counts the silence of miners."""


@dataclass(frozen=True, kw_only=True)
class EdgeContext:
    """The ports of the endpoints, and below them their shared state. Used on the event loop."""

    gateway: Gateway
    log: EventLog
    miners: LiveMiners
    """The live miners by profile."""
    database: Database
    queues: WorkQueues
    keyring: Keyring
    receipts: Receipts
    blobs: BlobStore
    webhook_keys: WebhookKeys
    watermarks: Watermarks
    live: Live
    used_signatures: SignatureRegister
    settings: EdgeSettings
    health: Callable[[], Mapping[str, Any]]
    """`{"live": bool, "ready": bool, "reasons": [str], …}`, at once and without I/O, because it is called on
    the event loop. All members are public, also further ones (the public signing key)."""
    seen: Seen = _nowhere
    """Notes signs of life of sessions whose polls wait."""
    known: Callable[[UUID], tuple[Any, int] | None] = lambda _: None
    """A stream's state in this process's memory, and the position of its last event; without I/O."""
    recent_result: Callable[[UUID], StoredPayload | None] = lambda _: None
    """A completed job's result, if this process committed it lately; nothing of such a job was erased."""
    metrics: Callable[[], CoordinatorMetrics] = CoordinatorMetrics
    """The metrics of the application's parts, at once and without I/O."""
    disks: Callable[[], Mapping[str, DiskMetrics]] = dict
    """The disks that this process writes to. Asks the system: call it in a thread."""
    limits: EdgeLimits = field(default_factory=EdgeLimits)
    offered: Callable[[str], Offered | None] = lambda job_id: None
    """A job's offer on a work queue, at once; None also in processes that make no offers."""
    batches: JobBatches | None = None
    """None: nobody carries them out."""
    window: Callable[[], WindowFigures | None] = lambda: None
    """The figures of the last hour, at once; None: nobody counts."""
    offers: Callable[[], OpenOffers | None] = lambda: None
    """The offers on the work queues, at once; None in processes that make none."""
    disk: Callable[[], Disk | None] = lambda: None
    """The disk with the data directory. Blocks: call it in a thread."""
    dead_letters: DeadLetters | None = None
    """None in a mode without a broker."""
    table_checks: TableChecks | None = None
    """None: nobody compares the tables with the log."""
    shown_settings: Callable[[], Sequence[ShownSetting]] = lambda: ()
    """The settings without secrets."""
    sign: Callable[[bytes], dict[str, str]] | None = None
    """The coordinator's signature; None: no statements of accounts."""
    quotas: Quotas | None = None
    """None: no limits of names."""
    proofs: Proofs | None = None
    """None: no Merkle tree."""
    sessions: Sessions | None = None
    """None: no dashboard."""
    rates: RateLimiter | None = None
    """None: no limits."""
    open_connections: OpenConnections = field(default_factory=OpenConnections)
    """The requests under way and open streams of each key, with their limits."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server begins to stop: waiting requests are then answered with the current state."""

    @cached_property
    def passports(self) -> Passports | None:
        """Passports of jobs; None without a Merkle tree."""
        return None if self.proofs is None else Passports(self.log, self.proofs, self.receipts)

    @cached_property
    def reads(self) -> ReadModels:
        """The tables, read in typed rows."""
        return ReadModels(self.database)

    @cached_property
    def settlement_reads(self) -> SettlementReads:
        """Settlement batches and their payouts."""
        return SettlementReads(self.database, self.watermarks)

    @cached_property
    def claim_book(self) -> ClaimBook | None:
        """The claims of payees; None if the sink has none."""
        return None if self.settings.claims is None else ClaimBook(self.settings.claims)

    @cached_property
    def webhook_reads(self) -> WebhookReads:
        """Webhooks and the log of deliveries."""
        return WebhookReads(self.database)

    @cached_property
    def money_reads(self) -> MoneyReads:
        """Accounts and entries, as pages show them."""
        return MoneyReads(self.database)

    @cached_property
    def ended_sessions(self) -> EndedSessions:
        """The sessions that a log-out has ended."""
        return EndedSessions(self.database)

    @cached_property
    def blob_owners(self) -> BlobOwners:
        """The owners of blobs."""
        return BlobOwners(self.database)

    @cached_property
    def job_watch(self) -> JobWatch:
        """Tells waiting requests that their job is final."""

        def known_end(job_id: UUID) -> bool | None:
            known = self.known(job_id)
            return None if known is None else is_final(known[0])

        watch = JobWatch(self.reads, self.watermarks, self.limits.watch_seconds, known_end)

        def note_end(job_id: UUID) -> None:
            # Any other end is in the tables only, which the watch asks.
            if watch.is_watching and known_end(job_id) is not None:
                watch.note_end(job_id)

        self.live.events.on_end(note_end)
        return watch

    @cached_property
    def parked_polls(self) -> ParkedPolls:
        """The polls that wait for work."""
        polls = ParkedPolls(self.seen, self.limits.parked_seconds)
        self.live.events.on_miner(polls.end_polls_of)
        return polls

    @cached_property
    def backlog(self) -> Backlog:
        """The jobs that wait for a miner, counted every few seconds."""
        return Backlog(self.reads)

    @cached_property
    def queued_jobs(self) -> QueuedJobs:
        """The classes of the jobs that wait for a miner."""
        return QueuedJobs(self.database)

    @cached_property
    def search(self) -> JobSearch:
        """Searches for jobs."""
        return JobSearch(self.database, self.gateway.canonical)

    @cached_property
    def shared(self) -> Shared:
        """The answers that many viewers share."""
        return Shared()

    @cached_property
    def offerings(self) -> Offerings:
        """The capabilities of live miners."""
        return Offerings(self.reads)

    @cached_property
    def payload_schemas(self) -> PayloadSchemas:
        """The services' schemas, compiled."""
        return PayloadSchemas(self.settings.fetch_allow_hosts)

    @cached_property
    def http_metrics(self) -> HttpMetrics:
        """Counters of requests."""
        return HttpMetrics()


async def context_of(connection: HTTPConnection) -> EdgeContext:
    """The context of the app that serves this connection (a request or a websocket)."""
    context: EdgeContext = connection.app.state.context
    return context


Context = Annotated[EdgeContext, Depends(context_of)]
