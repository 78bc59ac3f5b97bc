"""The queue of messages to receivers over both databases: fair, and complete whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest

from coordinator.application.webhooks.queues import Due
from coordinator.application.webhooks.schedule import Bounds
from tests.contract.test_followers import Stores, stores
from tests.contract.test_webhooks import A, B, a_job, telling
from tests.harness.telling import ALICE_HOOK, BOB_HOOK, DOWN, OK, Telling
from tests.harness.waiting import eventually

__all__ = ["stores", "telling"]


async def test_a_dead_receiver_delays_nobody(stores: Stores) -> None:
    """Forty receivers of a client hang, with a thousand messages: another client's go through at once."""
    telling = Telling(stores, Bounds(total=8, of_owner=4, of_receiver=2))
    hang = asyncio.Event()
    hooks = [UUID(int=100 + number) for number in range(40)]
    for number, hook in enumerate(hooks):
        telling.append(telling.hook(hook, "alice", f"https://dead{number}.example/"))
        telling.receivers.held[f"https://dead{number}.example/"] = hang
    telling.append(telling.hook(BOB_HOOK, "bob", B))
    for _ in range(25):
        a_job(telling)
    await telling.follow()
    await telling.deliverer.start()
    await eventually(lambda: sum(telling.receivers.open.values()) == 4, "alice's places are taken")
    for _ in range(12):
        a_job(telling, "bob")
    await telling.follow()
    await eventually(lambda: len(telling.receivers.to(B)) == 12, "bob is told of all his jobs")
    assert 4 == sum(telling.receivers.open.values())
    assert 2 >= max(telling.receivers.most_open[f"https://dead{number}.example/"] for number in range(40))
    telling.deliverer.stand_by()
    hang.set()
    await telling.deliverer.stop()


async def test_a_look_at_the_queue_before_the_commit(telling: Telling) -> None:
    """A tick between the writing of a message and its commit loses nothing."""
    telling.append(telling.hook(ALICE_HOOK, "alice", A))
    await telling.follow()
    a_job(telling)
    log, follower = telling.stores.log, telling.follower
    for name in ("projector", "webhooks"):
        with telling.stores.database.transaction() as tables:
            position = tables.position(name)
            events = log.read(position, 100)
            if name == "projector":
                telling.projector.apply(tables, events)
            else:
                follower.apply(tables, events)
                await follower.tick(position)
                assert telling.deliverer.metrics().under_way == 0
            tables.move(name, position, events[-1].position)
    await follower.tick(events[-1].position)
    await telling.deliver()
    assert 1 == len(telling.receivers.to(A))


async def test_a_message_during_a_look_at_the_queue(
    telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that is stored while the table is read goes at once, whatever waits for a later try."""
    telling.append(telling.hook(ALICE_HOOK, "alice", A))
    telling.receivers.answers[A] = lambda: DOWN if len(telling.receivers.sent) < 3 else OK
    a_job(telling)
    await telling.follow()
    await telling.until(5)  # the next try of the first one is in five minutes
    read = telling.deliverer._read_due
    jobs: list[UUID] = []

    def read_slowly(asked: Any) -> Any:
        found = read(asked)
        if not jobs:
            jobs.append(a_job(telling))
            asyncio.run_coroutine_threadsafe(telling.follow(), loop).result()
        return found

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(telling.deliverer, "_read_due", read_slowly)
    telling.deliverer.note([Due(str(ALICE_HOOK), "alice", telling.stores.now)])
    for _ in range(2):
        await telling.deliver()
    assert [str(jobs[0])] == [json.loads(s.body)["data"]["job_id"] for s in telling.receivers.sent[2:]]
