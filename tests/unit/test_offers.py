"""How offers are packed into messages."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from pydantic_core import from_json

from coordinator.broker.connection import Broker
from coordinator.broker.offers import RabbitWorkQueues
from coordinator.wire.limits import MAX_BODY_BYTES
from coordinator.wire.offers import Offer
from tests.harness.keys import SIGNER


class Published:
    """What a broker was given."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def on_reconnect(self, callback: object) -> None:
        pass

    async def publish(self, exchange: str, key: str, body: bytes, properties: object, **_: Any) -> str:
        self.bodies.append(body)
        return "confirmed"


def an_offer(text: str) -> Offer:
    return Offer(
        job_id=UUID(int=1),
        attempt=1,
        service="checksum",
        payload={"text": text},
        payload_salt="00" * 16,
        payload_digest="a" * 64,
        timeout_seconds=60,
        expires_at=1,
    )


async def test_no_message_is_larger_than_a_mebibyte() -> None:
    """A bundle that just fits is one message; with one byte more, two."""
    empty = len(an_offer("").model_dump_json(exclude_none=True))
    fits = MAX_BODY_BYTES - 2 * empty - len(b"[,]")
    for surplus, messages in ((0, 1), (1, 2)):
        broker = Published()
        queues = RabbitWorkQueues(cast("Broker", broker), SIGNER)
        bundle = [an_offer("x" * 1000), an_offer("y" * (fits - 1000 + surplus))]
        assert [] == await queues.publish("p", [bundle])
        assert messages == len(broker.bodies)
        assert max(map(len, broker.bodies)) <= MAX_BODY_BYTES
        assert 2 == sum(len(from_json(body)) for body in broker.bodies)
