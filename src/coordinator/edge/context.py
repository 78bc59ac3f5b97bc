"""What the edge needs from the rest: the ports, wired by `bootstrap`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends
from starlette.requests import HTTPConnection

from coordinator.application.keys.keyring import Keyring
from coordinator.application.live.events import Live
from coordinator.application.metrics import CoordinatorMetrics
from coordinator.application.ports import Database, EventLog, Gateway, Row, Watermarks, WorkQueues
from coordinator.blobs import BlobStore
from coordinator.edge.middleware.rate_limits import RateLimits
from coordinator.edge.middleware.replays import UsedSignatures

T = TypeVar("T")
_THREADS = ThreadPoolExecutor(32, thread_name_prefix="edge")
PROJECTOR = "projector"
"""The follower that fills the read models."""


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """How long a request may keep us busy, in seconds."""

    body_seconds: float = 20
    """For a whole JSON body to arrive."""
    chunk_seconds: float = 60
    """For the next bytes of an upload to arrive."""
    at_least_seconds: float = 5
    """For the read models to reach a position that a read asks for."""
    wait_seconds: float = 30
    """The longest wait for a job's result."""
    watch_seconds: float = 5
    """Between looks at the jobs that are waited for where no follower moves."""


class EdgeSettings(Protocol):
    """The settings that the edge reads; .env.example explains each."""

    @property
    def hmac_window_seconds(self) -> int: ...
    @property
    def job_ttl_seconds(self) -> int: ...
    @property
    def openai_timeout_seconds(self) -> int: ...
    @property
    def heartbeat_interval_seconds(self) -> float: ...
    @property
    def heartbeat_timeout_seconds(self) -> float: ...
    @property
    def offer_timeout_seconds(self) -> float: ...
    @property
    def max_blob_bytes(self) -> int: ...
    @property
    def metrics_public(self) -> bool: ...
    @property
    def allow_origins(self) -> Collection[str]: ...
    @property
    def fetch_allow_hosts(self) -> Collection[str]: ...


@dataclass(frozen=True, slots=True)
class EdgeContext:
    """The ports that the endpoints use."""

    gateway: Gateway
    log: EventLog
    database: Database
    queues: WorkQueues
    keyring: Keyring
    blobs: BlobStore
    settings: EdgeSettings
    watermarks: Watermarks
    live: Live
    health: Callable[[], Mapping[str, Any]]
    """`{"live": bool, "ready": bool, "reasons": [str], …}`, at once and without I/O: it is called on the
    event loop, and whoever can reach the port sees it. Whatever else it holds (the public signing key) is
    shown too."""
    metrics: Callable[[], CoordinatorMetrics] = CoordinatorMetrics
    """What the parts count, at once and without I/O."""
    limits: EdgeLimits = field(default_factory=EdgeLimits)
    rates: RateLimits | None = None
    """How often keys may call; None for as often as they like."""
    replays: UsedSignatures = field(default_factory=UsedSignatures)
    """The signatures of requests that were used."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server begins to stop: what waits is answered then, with what there is."""

    async def read(self, statement: str, **params: Any) -> list[dict[str, Any]]:
        """The rows of a named statement, in a transaction of its own. Raises LogUnavailable."""

        def query() -> list[dict[str, Any]]:
            with self.database.transaction() as tables:
                return tables.query(statement, **params)

        return await in_thread(query)

    async def put(self, table: str, row: Row) -> None:
        """Insert or replace one row. Raises LogUnavailable."""

        def write() -> None:
            with self.database.transaction() as tables:
                tables.put(table, [row])

        await in_thread(write)


async def in_thread(call: Callable[[], T]) -> T:
    """Run something that blocks, beside the event loop.

    In threads of the edge's own: uploads and whatever else waits on the framework's hold up no read. A caller
    that is cancelled does not wait for the end.
    """
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)


async def context_of(connection: HTTPConnection) -> EdgeContext:
    """The context of the app that serves this connection (a request or a websocket)."""
    context: EdgeContext = connection.app.state.context
    return context


Context = Annotated[EdgeContext, Depends(context_of)]


def monotonic() -> float:
    """Seconds for waiting, on the clock of the event loop."""
    return asyncio.get_running_loop().time()
