"""Ports for the edge's unit tests: a gateway that answers as it is told, queues that tell what happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from typing import Any, cast
from uuid import UUID

import httpx
from fastapi import FastAPI

from coordinator.application.dispatch.claims import take_within
from coordinator.application.followers.event_feed import EventFeed
from coordinator.application.keys.keyring import Keyring
from coordinator.application.keys.sessions import Sessions
from coordinator.application.live.events import Live, LiveEvents
from coordinator.application.live.lease_holders import LeaseHolders
from coordinator.application.live.progress_hub import ProgressHub
from coordinator.application.live.revocation import Revocations
from coordinator.application.matches.live_miners import LiveMiners
from coordinator.application.ports import Intent, TakenOffer, Waiter
from coordinator.application.receipts.receipts import Receipts
from coordinator.application.receipts.signing_keys import SigningKeys
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.webhooks import WebhookKeys
from coordinator.domain.matching.needs import Capabilities
from coordinator.domain.messages import Principal
from coordinator.domain.miner import MinerRegistered, Online, miner_stream
from coordinator.edge import EdgeContext, EdgeLimits, create_app
from coordinator.edge.middleware.used_signatures import UsedSignatures
from coordinator.edge.state.tables.rows import JobRow
from coordinator.runtime.edge import edge_settings
from coordinator.runtime.settings import load_settings
from coordinator.wire.answers import Accepted, Answer
from coordinator.wire.heartbeat import Heartbeat
from coordinator.wire.offers import Offer

ALICE, BOB, RIG, ADMIN = (
    "alice:secret-of-alice",
    "bob:secret-of-bob",
    "rig:secret-of-rig",
    "root:secret-of-root",
)
JOB = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
SESSION = "session-1"
WITHOUT_KEY = {
    "/.well-known/coordinator/keys",
    "/health",
    "/health/live",
    "/health/ready",
    "/health/startup",
    "/errors",
    "/errors/{code}",
    # Hashes and signatures: what a monitor of the log reads. The log's entries need a key.
    "/checkpoint",
    "/tile/{level}/{number}",
    "/v1/log",
    "/v1/proofs/inclusion",
    "/v1/proofs/consistency",
}
"""All that strangers may ask for. An endpoint that is added here says why in its own description."""


def registered(miner_id: str = "rig", session_id: str = SESSION) -> MinerRegistered:
    return MinerRegistered(
        at=0,
        by="rig",
        miner_id=miner_id,
        session_id=session_id,
        capabilities=Capabilities(services=("checksum",)),
        profile="a-profile",
        concurrency=1,
        public_key="k" * 43,
    )


def an_offer(attempt: int = 1) -> Offer:
    return Offer(
        job_id=JOB,
        attempt=attempt,
        service="checksum",
        payload={"text": "hello"},
        payload_salt="ab" * 16,
        payload_digest="a" * 64,
        timeout_seconds=300,
        expires_at=1_700_000_000_000,
    )


def a_job_row(**columns: Any) -> dict[str, Any]:
    """A row of the read model, of a job of alice's."""
    row = JobRow(
        job_id=str(JOB),
        client="alice",
        service="checksum",
        service_version=1,
        state="QUEUED",
        constraints_json="{}",
        priority=0,
        attempt=1,
        max_attempts=3,
        miner_id=None,
        requested_at=0,
        started_at=None,
        finished_at=None,
        expires_at=900_000,
        error_code=None,
        error_message=None,
        hold=None,
        payload_digest="a" * 64,
        result_digest=None,
        units=None,
        price=None,
        position=1,
        payload_erased=None,
        result_erased=None,
    )
    return {**asdict(row), **columns}


class FakeGateway:
    """Answers with `answer(intent)`; has the states that it is given."""

    def __init__(self) -> None:
        self.intents: list[Intent] = []
        self.beats: list[Heartbeat] = []
        self.states: dict[UUID, Any] = {miner_stream("rig"): Online(registered())}
        self.unreadable: dict[UUID, Exception] = {}
        """What asking for these states raises."""
        self.answer: Callable[[Intent], Answer] = lambda _: Accepted(7, {"job_id": str(JOB)})
        self.hold: asyncio.Event | None = None
        """Where it is set, answers wait for it."""
        self.asked = asyncio.Event()

    async def handle(self, intents: Sequence[Intent]) -> list[Answer]:
        self.intents += intents
        self.asked.set()
        if self.hold is not None:
            await self.hold.wait()
        return [self.answer(intent) for intent in intents]

    async def heartbeat(self, principal: Principal, beats: Sequence[Heartbeat]) -> list[Answer]:
        self.beats += beats
        return [Accepted(7, {"state": "ONLINE", "cancel": []}) for _ in beats]

    async def state(self, stream: UUID) -> Any:
        if stream in self.unreadable:
            raise self.unreadable[stream]
        return self.states.get(stream)

    async def canonical(self, service: str) -> str:
        return service


class FakeTaken:
    def __init__(self, offer: Offer, settled: list[str]) -> None:
        self.offer = offer
        self._settled = settled

    async def done(self) -> None:
        self._settled.append("done")

    async def back(self) -> None:
        self._settled.append("back")


class FakeQueues:
    """Gives these offers; later takers wait until they are ended."""

    system = "fake"
    shortest_wait = 0.0

    def __init__(self, *offers: Offer) -> None:
        self.offers = list(offers)
        self.settled: list[str] = []
        self.profiles: list[str] = []
        self.waiting = asyncio.Event()
        self.waiter: Waiter | None = None

    async def ensure(self, profile: str) -> None:
        raise AssertionError("the edge makes no queues")

    async def publish(self, profile: str, bundles: Sequence[Sequence[Offer]]) -> list[Offer]:
        raise AssertionError("the edge publishes nothing")

    def on_reset(self, callback: Callable[[], None]) -> None:
        raise AssertionError("the edge knows nothing of brokers")

    def at_hand(self, profile: str, most: int) -> Sequence[TakenOffer]:
        taken, self.offers = self.offers[:most], self.offers[most:]
        return [FakeTaken(offer, self.settled) for offer in taken]

    def wait(self, profile: str, waiter: Waiter) -> None:
        self.profiles.append(profile)
        if self.offers:
            waiter.set_result(FakeTaken(self.offers.pop(0), self.settled))
        else:
            self.waiter = waiter
            self.waiting.set()

    def arrive(self) -> None:
        """An offer comes for the taker that waits."""
        assert self.waiter is not None
        self.waiter.set_result(FakeTaken(an_offer(), self.settled))

    def leave(self, profile: str, waiter: Waiter) -> None:
        self.waiter = None

    async def take(self, profile: str, wait: float) -> TakenOffer | None:
        return await take_within(self, profile, wait)


class FakeWatermarks:
    """At `position`, until `move` says otherwise."""

    def __init__(self, position: int = 0) -> None:
        self.position = position
        self.asked: list[tuple[str, int, float]] = []
        self.waiting = asyncio.Event()
        self._moved = asyncio.Event()

    def of(self, follower: str) -> int:
        assert follower == "projector"
        return self.position

    def move(self, position: int) -> None:
        self.position = position
        woken, self._moved = self._moved, asyncio.Event()
        woken.set()

    def hurry(self, follower: str, position: int) -> None:
        assert follower == "projector"

    async def reached(self, follower: str, position: int, timeout: float) -> bool:
        self.asked.append((follower, position, timeout))
        self.waiting.set()
        try:
            async with asyncio.timeout(timeout):
                while self.position < position:
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True


class FakeTables:
    def __init__(self, answers: Mapping[str, Callable[..., list[dict[str, Any]]]]) -> None:
        self._answers = answers

    def query(self, statement: str, **params: Any) -> list[dict[str, Any]]:
        return self._answers[statement](**params)

    def execute(self, statement: str, **params: Any) -> int:
        return len(self._answers[statement](**params))


class FakeDatabase:
    """Answers each named statement with a function of its parameters."""

    def __init__(self, **answers: Callable[..., list[dict[str, Any]]]) -> None:
        self.answers: dict[str, Callable[..., list[dict[str, Any]]]] = {
            "read_retired_services": list,
            # No session was ended by another process; the sessions of one process are told of its own ends.
            **dict.fromkeys(("sessions_is_ended", "sessions_end", "sessions_forget"), lambda **_: []),
            **answers,
        }

    @contextmanager
    def transaction(self) -> Iterator[FakeTables]:
        yield FakeTables(self.answers)

    def close(self) -> None:
        pass


class FakeLog:
    def __init__(self, head: int = 0) -> None:
        self._head = head

    def head(self) -> int:
        return self._head


def a_live(gateway: FakeGateway, log: Any) -> Live:
    """Live ports over this gateway's states and this log; nothing runs."""
    hub, lease_holders = ProgressHub(), LeaseHolders(gateway.state)
    return Live(
        LiveEvents(EventFeed(log), log, hub, lease_holders), hub, lease_holders, Revocations(Keyring({}))
    )


def a_context(**ports: Any) -> EdgeContext:
    """A context of fakes; what a test does not give, its endpoints do not touch."""
    settings = load_settings(
        client_api_keys=f"{ALICE},{BOB}",
        miner_api_keys=RIG,
        admin_api_keys=ADMIN,
        **ports.pop("settings", {}),
    )
    given: dict[str, Any] = {
        "gateway": FakeGateway(),
        "log": FakeLog(),
        "database": FakeDatabase(),
        "miners": LiveMiners(cast("Any", ports.get("database", FakeDatabase()))),
        "queues": FakeQueues(),
        "keyring": settings.keyring,
        "receipts": Receipts(cast("Any", ports.get("log", FakeLog())), SigningKeys(SigningKey(bytes(32)))),
        "blobs": cast("Any", None),
        "webhook_keys": WebhookKeys(SigningKey(bytes(32))),
        "settings": edge_settings(settings),
        "watermarks": FakeWatermarks(),
        "live": a_live(ports.get("gateway", FakeGateway()), cast("Any", ports.get("log", FakeLog()))),
        "health": lambda: {"live": True, "ready": True, "reasons": []},
        "limits": EdgeLimits(),
        "used_signatures": UsedSignatures(),
        "sessions": Sessions(
            bytes(32), ports.get("keyring", settings.keyring), lambda: time.time_ns() // 1_000_000
        ),
        **ports,
    }
    return EdgeContext(**given)


def browsing(app: FastAPI, key: str | None = None) -> httpx.AsyncClient:
    """An HTTP client of this app, without a network."""
    headers = {"X-Api-Key": key} if key else {}
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://edge", headers=headers, timeout=None)


@cache
def _one_app() -> FastAPI:
    return create_app(a_context())


def an_app(**ports: Any) -> FastAPI:
    """An app over these ports. Making one takes a fifth of a second, so it is one app with other ports."""
    app = _one_app()
    app.state.context = a_context(**ports)
    return app


class Conversation:
    """One request, message by message, for what an HTTP client does not let a test do."""

    def __init__(
        self, app: FastAPI, method: str, path: str, key: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (name.lower().encode(), value.encode())
                for name, value in {"X-Api-Key": key, **(headers or {})}.items()
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self._app = app
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.started = asyncio.Event()

    def say(self, body: bytes, *, more: bool = False) -> None:
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def hang_up(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    def begin(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._run())

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    async def _run(self) -> None:
        async def send(message: dict[str, Any]) -> None:
            self.sent.append(message)
            self.started.set()

        await self._app(self._scope, self._incoming.get, cast("Any", send))
