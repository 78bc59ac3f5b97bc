"""Dead letters on RabbitMQ: counted, read in place, sent again by an admin, and dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pamqp.commands import Basic

from coordinator.broker.connection import Broker
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Role
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data import admin, overview
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.wire.topology import DEAD_EXCHANGE
from tests.harness.waiting import eventually
from tests.integration.edge_bench import an_edge

ROOT = Viewer("root", Role.ADMIN)


async def bury(broker: Broker, body: Any, *, code: str, principal: str, kind: str = "job.submit") -> None:
    """Put a message aside as the inbox does."""
    headers: dict[str, Any] = {
        "reason": "the log was out of reach",
        "code": code,
        "routing_key": kind,
        "principal": principal,
        "message_id": uuid4().hex,
    }
    properties = Basic.Properties(message_type=kind, delivery_mode=2, headers=headers)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert await broker.publish(DEAD_EXCHANGE, kind, content, properties, mandatory=True) == "confirmed"


async def test_dead_letters_are_read_and_sent_again(tmp_path: Path, database_url: str, amqp_url: str) -> None:
    """A proved sender's commands are sent again as its own, once; an unproved one's are not."""
    job = {"service": "checksum", "payload": {"text": "late"}}
    async with an_edge(tmp_path, database_url=database_url, amqp_url=amqp_url) as edge:
        context: EdgeContext = edge.app.state.context
        broker = Broker(amqp_url)
        await broker.start()
        await bury(
            broker, [job, {**job, "service": "nothing_like_it"}], code="UNAVAILABLE", principal="alice"
        )
        await bury(broker, job, code="UNAUTHORIZED_KEY", principal="bob")
        await bury(broker, b"not JSON", code="INVALID_PAYLOAD", principal="alice")
        await broker.stop()

        async def arrived() -> admin.DeadLetters | None:
            found = await admin.dead_letters(context, ROOT)
            return found if found is not None and found.total == 3 else None

        found = await eventually(arrived, timeout=30)
        assert found is not None
        assert [(letter.code, letter.principal, letter.proved) for letter in found.letters] == [
            ("UNAVAILABLE", "alice", True),
            ("UNAUTHORIZED_KEY", "bob", False),
            ("INVALID_PAYLOAD", "alice", True),
        ]
        assert found.letters[0].reason == "the log was out of reach"

        async def attended() -> list[str] | None:
            lines = (await overview.load(context, ROOT)).attention
            return [line.sentence for line in lines if line.subject == "dead letters"] or None

        told = await eventually(attended, timeout=30)
        assert told == ["3 messages could not be handled and are kept aside."]

        done = await admin.replay(context, ROOT, found.letters[0].id)
        assert done == admin.Replayed(accepted=1, refused={"SERVICE_NOT_FOUND": 1}, dropped=True)
        await edge.reached(edge.coordinator.feed.head)
        assert [item["state"] for item in (await edge.alice.get("/v1/jobs")).json()["items"]] == ["QUEUED"]
        assert await admin.replay(context, ROOT, found.letters[0].id) is None
        for letter, code in ((found.letters[1], Code.FORBIDDEN), (found.letters[2], Code.INVALID_PAYLOAD)):
            with pytest.raises(Refusal) as refused:
                await admin.replay(context, ROOT, letter.id)
            assert refused.value.code is code
        left = await admin.dead_letters(context, ROOT)
        assert left is not None
        assert left.total == 2
