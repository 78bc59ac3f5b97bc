"""No queued job is lost, whatever happens in whichever order while the table is behind."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from coordinator.application.dispatch.dispatcher import Dispatcher
from coordinator.application.dispatch.local_queues import LocalHints, LocalWorkQueues
from coordinator.application.ports import Clock, Recorded
from coordinator.domain.job import (
    JobCanceled,
    JobFailed,
    JobRequeued,
)
from coordinator.domain.messages import Event
from tests.harness import deciding
from tests.harness.cases import every
from tests.harness.dispatching import DIGEST, TOKENS, SamePayload, SentCommands, Table
from tests.harness.metadata import STORED_METADATA

LANE_HEAD = 4  # as many as fit in memory: small, so that most jobs are in the table alone
SEEDS = 60
STEPS = 150
ROUNDS = 100  # more than enough for everything to come to its end
MINERS: dict[str, dict[str, Any]] = {"small": {"cuda": "11.8"}, "large": {}}
CLIENTS = ("alice", "bob")
OFFER_TIMEOUT = 10.0


class World:
    """What is true of the jobs, a dispatcher that follows, and a table that is written at some later time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.log: list[Recorded] = []
        self.queued: dict[str, int] = {}
        """Attempts, by job."""
        self.running: dict[str, tuple[int, str]] = {}
        """Attempts and miners, by job."""
        self.table = Table()
        self.stored = 0
        """The position of the table."""
        self.known_stored = 0
        """… as far as the dispatcher was told."""
        self.storing: list[Recorded] | None = None
        self.acted = 0
        self.queues = LocalWorkQueues()
        self.take_over()
        self.profiles: dict[str, str] = {}
        for miner_id, able in MINERS.items():
            slots = self.random.choice((1, LANE_HEAD, 3 * LANE_HEAD))
            abilities = deciding.capabilities(**able)
            registered = deciding.registered(
                f"session-{miner_id}", miner_id, capabilities=abilities, concurrency=slots
            )
            self.profiles[miner_id] = registered.profile
            self.happened(registered)

    # --- the log --------------------------------------------------------------------------------------------
    def happened(self, event: Event) -> None:
        position = len(self.log) + 1
        stream = getattr(event, "job_id", UUID(int=0))
        self.log.append(Recorded(position, stream, position, event, b"", STORED_METADATA, str(stream)))

    def submit(self) -> None:
        for _ in range(self.random.choice((1, 1, 3, 2 * LANE_HEAD))):
            job_id = UUID(int=self.random.getrandbits(128))
            client, priority = self.random.choice(CLIENTS), self.random.choice((0, 0, 5))
            what = {"client": client, "priority": priority, "payload_digest": DIGEST}
            self.happened(deciding.submitted(job_id=job_id, **what))
            self.queued[str(job_id)] = 1

    async def claim(self) -> bool:
        """A miner takes an offer, and the job if it is still to be had; whether there was one."""
        miner_id = self.random.choice(list(MINERS))
        taken = await self.queues.take(self.profiles[miner_id], 0)
        if taken:
            await taken.done()
            self.start(str(taken.offer.job_id), taken.offer.attempt, miner_id)
        return taken is not None

    def start(self, job_id: str, attempt: int, miner_id: str) -> None:
        if self.queued.get(job_id) == attempt:
            del self.queued[job_id]
            self.running[job_id] = attempt, miner_id
            self.happened(deciding.started(attempt, f"session-{miner_id}", miner_id, job_id=UUID(job_id)))

    def start_unoffered(self) -> None:
        """From an offer that a leader before this one made."""
        if self.queued:
            job_id = self.random.choice(list(self.queued))
            self.start(job_id, self.queued[job_id], self.random.choice(list(MINERS)))

    def end(self) -> None:
        """A running job is done, or fails, or is lost and queued anew."""
        if self.running:
            self.end_one(
                self.random.choice(list(self.running)), self.random.choice(("done", "failed", "lost"))
            )

    def end_one(self, job_id: str, how: str) -> None:
        attempt, miner_id = self.running.pop(job_id)
        common = {"at": deciding.T0, "by": miner_id, "job_id": UUID(job_id), "client": "alice"}
        if how == "done":
            self.happened(deciding.completed(attempt=attempt).model_copy(update={"job_id": UUID(job_id)}))
            return
        ended = deciding.attempt_ended("lost", attempt, f"session-{miner_id}", miner_id, job_id=UUID(job_id))
        self.happened(ended)
        if how == "failed":
            self.happened(JobFailed(**common, attempt=attempt, error_code="LEASE_LOST", error_message=""))
        else:
            self.happened(JobRequeued(**common, attempt=attempt + 1))
            self.queued[job_id] = attempt + 1

    def cancel(self) -> None:
        open_jobs = [*self.queued, *self.running]
        if open_jobs:
            job_id = self.random.choice(open_jobs)
            attempt = self.queued.pop(job_id, None) or self.running.pop(job_id)[0]
            common = {"at": deciding.T0, "by": "alice", "job_id": UUID(job_id), "client": "alice"}
            self.happened(JobCanceled(**common, attempt=attempt, reason=""))

    def pass_time(self) -> None:
        self.now += self.random.choice((0.3, 1.5, OFFER_TIMEOUT + 1))

    # --- the dispatcher -------------------------------------------------------------------------------------
    def take_over(self) -> None:
        """Another process leads: it knows what the table has, and not what is under way to it."""
        clock = Clock(now=lambda: deciding.T0, monotonic=lambda: self.now)
        self.dispatcher = Dispatcher(
            SamePayload(),
            self.table,
            self.queues,
            LocalHints(),
            clock,
            OFFER_TIMEOUT,
            TOKENS,
            SentCommands().handle,
        )
        self.dispatcher.take_over(self.table)
        self.acted = self.known_stored = self.stored
        self.storing = None

    async def act(self) -> None:
        """Take in some of what happened."""
        upto = self.random.randint(self.acted, len(self.log))
        if upto > self.acted:
            await self.dispatcher.act(self.log[self.acted : upto])
            self.acted = upto

    async def tick(self) -> None:
        await self.dispatcher.tick(self.known_stored)

    def begin_to_store(self) -> None:
        if self.storing is None and self.acted > self.stored:
            self.known_stored = self.stored
            self.storing = self.log[self.stored : self.acted]
            self.dispatcher.gather()

    def commit(self) -> None:
        if self.storing:
            self.dispatcher.apply(self.table, self.storing)
            self.stored = self.storing[-1].position
            self.storing = None

    def hear_of_commit(self) -> None:
        self.known_stored = self.stored

    async def settle(self) -> None:
        """All that happened is taken in and stored, and nobody's offer is late."""
        self.commit()
        if self.acted < len(self.log):
            await self.dispatcher.act(self.log[self.acted :])
            self.acted = len(self.log)
        self.begin_to_store()
        self.commit()
        self.hear_of_commit()
        await self.tick()


@pytest.fixture(autouse=True)
def short_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.application.dispatch.fair_queue.LANE_HEAD", LANE_HEAD)
    monkeypatch.setattr("coordinator.application.dispatch.fair_queue.MIN_LANE_HEAD", 1)
    monkeypatch.setattr("coordinator.application.dispatch.fair_queue.QUEUE_JOBS", 3 * LANE_HEAD)


@every("seed", range(SEEDS))
async def test_every_queued_job_is_offered_whatever_the_table_lags(seed: int) -> None:
    """Submits, claims, ends, cancels, takeovers and stores in any order: in the end each job had its turn."""
    world = World(seed)
    kinds: list[Callable[[], Awaitable[Any] | None]] = [
        *(world.submit, world.claim, world.start_unoffered, world.end, world.cancel, world.pass_time),
        *(world.act, world.tick, world.begin_to_store, world.commit, world.hear_of_commit, world.take_over),
    ]
    weights = [world.random.choice((1, 3, 9)) for _ in kinds]  # every seed is another kind of day
    weights[-1] = world.random.choice((0, 0, 1))
    for step in world.random.choices(kinds, weights, k=STEPS):
        going = step()
        if going is not None:
            await going

    for _ in range(ROUNDS):
        await world.settle()
        if not world.queued and not world.running:
            break
        world.now += OFFER_TIMEOUT + 1
        for _ in range(ROUNDS):
            await world.claim()
        for job_id in list(world.running):
            world.end_one(job_id, "done")
    assert world.queued == {}
    assert world.table.rows["open_work"] == {}
    metrics = world.dispatcher.work.metrics()
    assert (metrics.offered, metrics.running, len(world.dispatcher.work.fair_queue)) == (0, 0, 0)
