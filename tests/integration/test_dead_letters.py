"""Dead letters on RabbitMQ: counted, read in place, sent again by an admin, and dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from pamqp.commands import Basic

from coordinator.broker.connection import Broker
from coordinator.crypto.keys import SigningKey
from coordinator.domain.messages import Role
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data import admin, overview
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.runtime.settings import Settings
from coordinator.runtime.signing import signing_key
from coordinator.wire.signed_messages import DEAD_PREFIX, MessageSigner, dead_letter
from coordinator.wire.topology import DEAD_EXCHANGE
from tests.harness.waiting import eventually
from tests.integration.edge_bench import an_edge

ROOT = Viewer("root", Role.ADMIN)


async def bury(
    broker: Broker, body: Any, *, code: str, principal: str, signer: MessageSigner, role: str = "client"
) -> None:
    """Put a message aside as the inbox does."""
    kind = "job.submit"
    headers: dict[str, Any] = {
        "reason": "the log was out of reach",
        "code": code,
        "routing_key": kind,
        "principal": principal,
        "role": role,
        "message_id": uuid4().hex,
    }
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    ours = signer.headers(dead_letter(kind, *headers.values()), content, 0)
    headers |= {f"{DEAD_PREFIX}{name}": value for name, value in ours.items()}
    properties = Basic.Properties(message_type=kind, delivery_mode=2, headers=headers)
    assert await broker.publish(DEAD_EXCHANGE, kind, content, properties, mandatory=True) == "confirmed"


async def test_dead_letters_are_read_and_sent_again(tmp_path: Path, database_url: str, amqp_url: str) -> None:
    """A proved sender's commands are sent again as its own, once; an unproved or forged one's are not."""
    job = {"service": "checksum", "payload": {"text": "late"}}
    async with an_edge(tmp_path, database_url=database_url, amqp_url=amqp_url) as edge:
        context: EdgeContext = edge.app.state.context
        broker = Broker(amqp_url)
        await broker.start()
        ours = MessageSigner(signing_key(Settings(data_dir=tmp_path, _env_file=None)))
        stranger = MessageSigner(SigningKey.generate())
        mixed = [job, {**job, "service": "nothing_like_it"}]
        await bury(broker, job, code="UNAVAILABLE", principal="alice", signer=ours)
        await bury(broker, mixed, code="UNAVAILABLE", principal="alice", signer=ours)
        await bury(broker, job, code="UNAUTHORIZED_KEY", principal="bob", signer=ours, role="")
        await bury(broker, job, code="UNAVAILABLE", principal="bob", signer=stranger)
        await bury(broker, b"not JSON", code="INVALID_PAYLOAD", principal="alice", signer=ours)
        await broker.stop()

        async def arrived() -> admin.DeadLetters | None:
            found = await admin.dead_letters(context, ROOT)
            return found if found is not None and found.total == 5 else None

        found = await eventually(arrived, timeout=30)
        assert found is not None
        assert [(letter.code, letter.principal, letter.proved) for letter in found.letters] == [
            ("UNAVAILABLE", "alice", True),
            ("UNAVAILABLE", "alice", True),
            ("UNAUTHORIZED_KEY", "bob", False),
            ("UNAVAILABLE", "bob", False),
            ("INVALID_PAYLOAD", "alice", True),
        ]
        assert found.letters[0].reason == "the log was out of reach"

        async def attended() -> list[str] | None:
            lines = (await overview.load(context, ROOT)).attention
            return [line.sentence for line in lines if line.subject == "dead letters"] or None

        told = await eventually(attended, timeout=30)
        assert told == ["5 messages could not be handled and are kept aside."]

        good, mixed_one, unproved, forged, broken = (letter.id for letter in found.letters)

        async def again(letter: str) -> admin.Replayed | None:
            return await admin.replay(context, ROOT, letter)

        assert admin.Replayed(accepted=1, refused={}, dropped=True) == await again(good)
        assert await again(good) is None
        partly = admin.Replayed(accepted=1, refused={"SERVICE_NOT_FOUND": 1}, dropped=False)
        assert [partly, partly] == [await again(mixed_one), await again(mixed_one)]
        await edge.reached(edge.coordinator.feed.head)
        assert ["QUEUED"] * 2 == [job["state"] for job in (await edge.alice.get("/v1/jobs")).json()["items"]]
        for letter, code in (
            (unproved, "UNAUTHORIZED_KEY"),
            (forged, "UNAUTHORIZED_KEY"),
            (broken, "INVALID_PAYLOAD"),
        ):
            assert admin.Replayed(accepted=0, refused={code: 1}, dropped=False) == await again(letter)
        assert [] == (await edge.bob.get("/v1/jobs")).json()["items"]
        left = await admin.dead_letters(context, ROOT)
        assert left is not None
        assert 4 == left.total
