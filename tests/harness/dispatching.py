"""What a dispatcher needs that has no coordinator around it."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from uuid import UUID

from coordinator.application.dispatch.payloads import Payloads
from coordinator.application.ports import Intent, Row, StoredPayload
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.offer_tokens import OfferTokens
from coordinator.wire.answers import Accepted, Answer
from tests.harness.memory_log import MemoryEventLog

TOKENS = OfferTokens(SigningKey(bytes(32)))
PAYLOAD = b"{}"
DIGEST = hashlib.sha256(PAYLOAD).hexdigest()


class SentCommands:
    """Keeps the dispatcher's commands; nothing comes of them."""

    def __init__(self) -> None:
        self.sent: list[Intent] = []

    async def handle(self, intents: Sequence[Intent]) -> list[Answer]:
        self.sent += intents
        return [Accepted(0, {}) for _ in intents]


class Table:
    """open_work and its neighbours as dictionaries, and what the dispatcher asks of them."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, dict[str, Any]]] = {
            name: {} for name in ("open_work", "work_classes", "work_sessions", "standings")
        }

    @contextmanager
    def transaction(self) -> Iterator[Table]:
        yield self

    def put(self, table: str, rows: Sequence[Row]) -> None:
        keys = {"open_work": "job_id", "work_classes": "job_class", "work_sessions": "miner_id"}
        key = operator.itemgetter(*([keys[table]] if table in keys else ("principal", "service")))
        self.rows[table] |= {key(row): dict(row) for row in rows}

    def remove(self, table: str, keys: Collection[str]) -> None:
        for key in keys:
            self.rows[table].pop(key, None)

    def change(self, table: str, rows: Mapping[str, Row]) -> None:
        raise AssertionError("not used")

    def refill(self, tables: Collection[str]) -> AbstractContextManager[None]:
        raise AssertionError("not used")

    def execute(self, statement: str, **params: Any) -> int:
        raise AssertionError("not used")

    def position(self, follower: str) -> int:
        raise AssertionError("not used")

    def move(self, follower: str, before: int, after: int) -> None:
        raise AssertionError("not used")

    def close(self) -> None:
        pass

    def query(self, statement: str, **params: Any) -> list[dict[str, Any]]:
        work = sorted(self.rows["open_work"].values(), key=lambda row: row["position"])
        queued = [row for row in work if row["miner_id"] is None and not row["tried"]]
        in_use = {row["job_class"] for row in work}
        match statement:
            case "dispatch_classes":
                return [row for name, row in self.rows["work_classes"].items() if name in in_use]
            case "dispatch_unused_classes":
                return [row for name, row in self.rows["work_classes"].items() if name not in in_use]
            case "dispatch_sessions":
                return list(self.rows["work_sessions"].values())
            case "dispatch_running":
                return [row for row in work if row["miner_id"] is not None]
            case "dispatch_open_work":
                return [row for row in work if row["job_id"] in params["job_ids"]]
            case "dispatch_retries":
                return [row for row in work if row["miner_id"] is None and row["tried"]]
            case "dispatch_standings":
                return list(self.rows["standings"].values())
            case "dispatch_lanes":
                return queued
            case "dispatch_lane_work":
                lane = {name: params[name] for name in ("job_class", "priority", "client")}
                of_lane = [row for row in queued if lane.items() <= row.items()]
                return [row for row in of_lane if row["position"] > params["position"]][: params["count"]]
        raise AssertionError(statement)


class SamePayload(Payloads):
    def __init__(self) -> None:
        super().__init__(MemoryEventLog())

    async def of(self, job_ids: Collection[UUID]) -> dict[UUID, StoredPayload]:
        return {job: StoredPayload(job, "payload", b"", PAYLOAD) for job in job_ids}
