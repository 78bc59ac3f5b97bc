"""The sink `webhook`, with a receiver over HTTP: one id for the same bytes, no refusal after a doubt."""

from __future__ import annotations

from pathlib import Path

import standardwebhooks

from coordinator.application.ports import Final, SinkBatch, SinkHistory, SinkRefused, Submitted, Unknown
from coordinator.application.webhooks.post import HttpPost
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.webhooks import WebhookKeys
from coordinator.domain.settlement import Payout
from coordinator.settlement.webhook import GENERATION, SINK_ID, WebhookSink
from tests.harness.receiver import Got, Receiver, answer
from tests.integration.settlement_bench import settling

KEYS = WebhookKeys(SigningKey(b"1" * 32))
BATCH = SinkBatch(7, "ab" * 32, 1_700_000_000_000, (Payout(party="rig", address="", amount=5),), 0)
HISTORY = SinkHistory({}, None)
DOWN, NEVER = answer("503 Service Unavailable"), answer("422 Unprocessable Content")


def a_sink(receiver: Receiver) -> WebhookSink:
    """A new process."""
    return WebhookSink(f"{receiver.url}/batches", KEYS, HttpPost(5, allow_private=True))


async def test_a_batch_comes_signed_and_under_one_id(tmp_path: Path) -> None:
    """In a whole coordinator: a receiver that is down twice takes the third try; the bytes are the same."""
    answers = [DOWN, DOWN]
    async with Receiver(lambda got: answers.pop(0) if answers else answer()) as receiver:
        async with settling(tmp_path, a_sink(receiver)) as bench:
            await bench.earn()
            owed = await bench.balance("rig")
            await bench.close()
            await bench.run(bench.sender())
            assert await bench.balance("@outside") == owed - 10**9
        assert len({(got.id, got.body) for got in receiver.got}) == 1
        assert len(receiver.got) == 3
        message = receiver.got[-1].message
        assert message["type"] == "settlement.closed"
        assert message["data"]["number"] == 1
        assert message["data"]["payouts"] == [{"party": "rig", "address": "", "amount": owed}]
        secret = KEYS.secret(SINK_ID, GENERATION)
        standardwebhooks.Webhook(secret).verify(receiver.got[-1].body, dict(receiver.got[-1].headers))


async def test_a_refusal_counts_only_where_no_answer_was_lost() -> None:
    """At the first try it is one; after a lost answer, or in a new process, the receiver may have it."""
    answers: list[bytes] = [NEVER]
    async with Receiver(lambda got: answers[0]) as receiver:
        sink = a_sink(receiver)
        payment = await sink.prepare(BATCH, HISTORY)
        assert await sink.submit(payment) == SinkRefused("the receiver refused it")
        assert isinstance(await sink.poll(payment), SinkRefused)
        assert len(receiver.got) == 1  # the poll after a submit asks nothing twice
        assert isinstance(await sink.poll(payment), SinkRefused)
        assert len(receiver.got) == 2

        answers[0] = DOWN
        assert isinstance(await sink.submit(payment), Unknown)
        answers[0] = NEVER
        for process in (sink, a_sink(receiver)):
            told = await process.submit(payment)
            assert isinstance(told, Unknown)
            assert "confirm or refuse the batch" in told.reason


async def test_what_was_accepted_stays_accepted() -> None:
    """A process that knows it asks no more; a new one sends the same bytes again, and is told so."""

    def once(got: Got) -> bytes:
        return answer("202 Accepted")

    async with Receiver(once) as receiver:
        sink = a_sink(receiver)
        payment = await sink.prepare(BATCH, HISTORY)
        assert await sink.submit(payment) == Submitted()
        assert await sink.poll(payment) == Final()
        assert len(receiver.got) == 1
        assert await a_sink(receiver).poll(payment) == Final()
        assert len({(got.id, got.body) for got in receiver.got}) == 1
        assert (await a_sink(receiver).prepare(BATCH, HISTORY)) == payment  # the bytes follow from the batch


async def test_a_receiver_that_is_not_there_is_no_refusal() -> None:
    """Neither is one that breaks off, or sends the sender elsewhere."""
    async with Receiver(lambda got: answer("302 Found", Location="/elsewhere")) as receiver:
        sink = a_sink(receiver)
        payment = await sink.prepare(BATCH, HISTORY)
        told = await sink.submit(payment)
        assert told == Unknown("the receiver did not take it: HTTP 302")
    told = await sink.submit(payment)
    assert told == Unknown("the receiver did not take it: can't connect")
