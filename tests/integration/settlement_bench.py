"""A coordinator whose miners earn money, and senders of its batches that a test steps and breaks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from coordinator.application.health import Part
from coordinator.application.money.plans import BatchPlans
from coordinator.application.money.sender import Pace, SettlementSender
from coordinator.application.ports import Clock, Intent, SettlementSink
from coordinator.audit.run import AuditOptions, audit
from coordinator.audit.sources.database import open_postgres, open_sqlite
from coordinator.projections.derived.rebuilding import differences as derived_differences
from coordinator.projections.projector import differences
from coordinator.runtime.bootstrap import SYSTEM_CLOCK
from coordinator.runtime.money import parts
from coordinator.runtime.money.sinks import terms_of
from coordinator.storage.connections.data_directory import DATABASE_FILE
from tests.harness.waiting import eventually
from tests.integration.edge_bench import SERVICE, Bench, an_edge

PRICE = "0.5"
JOB: dict[str, Any] = {"service": SERVICE, "payload": {"text": "hello"}, "constraints": {"max_price": PRICE}}
RESULT = {"sha256": "0" * 64, "bytes": 5}
FAST = Pace(poll_seconds=0.01, retry_seconds=0.02, sure_seconds=0)


class Killed(BaseException):
    """A process died here."""


class SettlementBench:
    """`edge` is the coordinator; it sends nothing by itself."""

    def __init__(self, edge: Bench, sink: SettlementSink) -> None:
        self.edge = edge
        self.sink = sink
        self.part = Part("settlement", essential=False, monotonic=SYSTEM_CLOCK.monotonic)

    async def earn(self, name: str = "rig", jobs: int = 1) -> None:
        """Jobs that this miner does; they are paid."""
        for _ in range(jobs):
            await self.edge.submit(self.edge.alice, **JOB)
            offer = await self.edge.poll(name)
            answer = await self.edge.complete(offer, RESULT, name)
            assert answer.status_code == 200, answer.text

        async def settled() -> bool:
            return bool((await self.account("alice"))["held"] == 0)

        await eventually(settled, "the jobs are paid")
        await self.caught_up()

    async def account(self, party: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.edge.admin.get(f"/v1/admin/accounts/{party}")).json()
        return found

    async def balance(self, party: str) -> int:
        await self.caught_up()
        return int((await self.account(party))["balance"])

    async def caught_up(self) -> None:
        """The tables have all events."""
        coordinator = self.edge.coordinator
        head = await asyncio.to_thread(coordinator.adapters.log.head)
        await self.edge.reached(head)
        assert await coordinator.watermarks.reached("settlements", head, 30)

    def sender(
        self,
        *,
        sink: SettlementSink | None = None,
        pace: Pace = FAST,
        clock: Clock = SYSTEM_CLOCK,
        step: Callable[[str], None] = lambda what: None,
    ) -> SettlementSender:
        """One more process that sends. `step` is told of each append and each question to the sink, before
        and after it; what it raises kills the process there."""
        coordinator, used = self.edge.coordinator, sink or self.sink

        async def send(intents: Sequence[Intent]) -> list[Any]:
            name = intents[0].command.topic
            step(f"before {name}")
            answers = await coordinator.gateway.handle(intents)
            step(f"after {name}")
            return answers

        return SettlementSender(
            Stepped(used, step),
            BatchPlans(coordinator.adapters.database, SYSTEM_CLOCK, terms_of(used, coordinator.settings)),
            coordinator.bus.states,
            send,
            coordinator.adapters.leadership,
            clock,
            pace,
            self.part,
        )

    async def close(self) -> int:
        """Close a batch; its number."""
        await self.caught_up()
        answer = await self.edge.admin.post("/v1/admin/settlements", json={})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["number"])

    async def run(self, sender: SettlementSender, rounds: int = 60) -> None:
        """Let it work until the open batch is settled."""
        for _ in range(rounds):
            await sender.round()
            await self.caught_up()
            if not await self.open():
                return
        raise AssertionError(f"not settled: {self.part.problem}")

    async def open(self) -> list[dict[str, Any]]:
        return [b for b in await self.batches() if b["state"] != "SETTLED"]

    async def batches(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.edge.admin.get("/v1/settlements")).json()["items"]
        return found

    async def sum(self) -> int:
        """Of all balances."""
        accounts = (await self.edge.admin.get("/v1/admin/accounts")).json()["items"]
        return sum(account["balance"] for account in accounts)

    async def kinds(self) -> Counter[str]:
        """How many entries of each kind `@settlement` has."""
        entries = (await self.edge.admin.get("/v1/admin/accounts/@settlement/entries?limit=200")).json()
        return Counter(entry["kind"] for entry in entries["items"])


class Stepped:
    """A sink that tells of each question, before and after it."""

    def __init__(self, sink: SettlementSink, step: Callable[[str], None]) -> None:
        self._sink = sink
        self._step = step

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._sink, name)
        if name not in ("prepare", "submit", "poll"):
            return found

        async def asked(*arguments: Any) -> Any:
            self._step(f"before {name}")
            answer = await found(*arguments)
            self._step(f"after {name}")
            return answer

        return asked


@asynccontextmanager
async def settling(directory: Path, sink: SettlementSink, **settings: Any) -> AsyncIterator[SettlementBench]:
    """A coordinator over this sink, with two miners at work and a client with money. Audited at the end."""
    terms = {"settlement": "on", "settlement_sink": "file", "settlement_minimum": 1, "fee_bps": 333}
    terms |= {"dispute_window_seconds": 0, **settings}
    with (
        patch.object(parts, "open_sink", lambda settings, keys: sink),
        patch.object(parts.Money, "sender", lambda *arguments: None),
    ):
        async with an_edge(directory, **terms) as edge:
            deposit = {"amount": 10**9, "business_id": "d1"}
            answer = await edge.admin.post("/v1/admin/accounts/alice/deposits", json=deposit)
            await edge.reached(answer.json()["position"])
            for name in ("rig", "other-rig"):
                await edge.register(name, capabilities={"services": [SERVICE], "price": PRICE})
            bench = SettlementBench(edge, sink)
            yield bench
            await bench.caught_up()
            assert await bench.sum() == 0
            adapters = edge.coordinator.adapters
            assert list(differences(adapters.log, adapters.reads)) == []
            assert list(derived_differences(adapters.log, adapters.database)) == []
    url = settings.get("database_url")
    database = open_postgres(url) if url else open_sqlite(directory / DATABASE_FILE)
    with database as source:
        assert audit(source, AuditOptions(processes=0), lambda done, total: None).divergence is None
