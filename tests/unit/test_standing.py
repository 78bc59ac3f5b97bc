"""Slots are earned, and lost, by what a principal's miners do: a network in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from coordinator.application.dispatch.dispatcher import Dispatcher
from coordinator.application.dispatch.local_queues import LocalHints, LocalWorkQueues
from coordinator.application.dispatch.standing import NEWCOMER_SLOTS, Standing
from coordinator.application.ports import Clock, Intent, Recorded
from coordinator.domain import standing
from coordinator.domain.decision import Context
from coordinator.domain.job import JobCompleted, JobFailed, JobLose, JobRequeued
from coordinator.domain.matching.needs import Capabilities, Constraints
from coordinator.domain.messages import SYSTEM, Event, principal_of
from coordinator.domain.miner import MinerRegistered
from coordinator.domain.standing import StandingQuarantine, StandingRelease
from coordinator.wire.answers import Accepted, Answer
from tests.harness import deciding
from tests.harness.cases import every
from tests.harness.dispatching import DIGEST, TOKENS, SamePayload, Table
from tests.harness.metadata import STORED_METADATA

STEP = 0.05
OFFER_TIMEOUT = 2.0
MAX_ATTEMPTS = 3
Manner = Literal["works", "fails", "hoards", "releases", "loses", "ignores", "alternates", "cheats on bob"]


@dataclass
class Miner:
    """`seconds`: the time of one job. A job of the client `mallory` fails everywhere."""

    name: str
    manner: Manner = "works"
    concurrency: int = 4
    seconds: float = 0.1
    registered: MinerRegistered = field(init=False)
    running: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By job: the attempt, and the moment at which it is done."""
    turns: int = 0
    drops: set[str] = field(default_factory=set)

    @property
    def session(self) -> str:
        return self.registered.session_id


class Network:
    """Miners, jobs, and a dispatcher with its table."""

    def __init__(self, *miners: Miner) -> None:
        self.now = 100.0
        self.events: list[Recorded] = []
        self.ids = itertools.count(1)
        self.attempts: dict[str, int] = {}
        self.clients: dict[str, str] = {}
        self.done: dict[str, str] = {}
        """By final job: the miner that completed it, or FAILED."""
        self.charged: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.states: dict[UUID, Any] = {}
        self.acted = 0
        self.table = Table()
        self.queues = LocalWorkQueues()
        self.take_over()
        self.miners = list(miners)
        for miner in miners:
            self.register(miner)

    def take_over(self) -> None:
        clock = Clock(now=lambda: int(self.now * 1000), monotonic=lambda: self.now)
        self.dispatcher = Dispatcher(
            SamePayload(), self.table, self.queues, LocalHints(), clock, OFFER_TIMEOUT, TOKENS, self.handle
        )
        self.dispatcher.take_over(self.table)

    def standing(self, principal: str) -> Standing:
        return self.dispatcher.work.fleet.standing(principal, "whisper")

    def happened(self, event: Event) -> None:
        position = len(self.events) + 1
        stream = getattr(event, "job_id", UUID(int=0))
        self.events.append(Recorded(position, stream, position, event, b"", STORED_METADATA, str(stream)))

    def register(self, miner: Miner) -> None:
        # A bad one declares less, so that work would come to it first.
        services = ("whisper",) if miner.manner != "works" else ("whisper", "checksum")
        miner.registered = deciding.registered(
            f"session-{next(self.ids)}",
            miner.name,
            capabilities=Capabilities(services=services),
            concurrency=miner.concurrency,
        )
        self.happened(miner.registered)

    def submit(self, count: int, client: str = "alice") -> list[str]:
        jobs = [UUID(int=next(self.ids)) for _ in range(count)]
        wants = {"client": client, "payload_digest": DIGEST, "constraints": Constraints()}
        for job in jobs:
            self.happened(deciding.submitted(job_id=job, job_class="any", **wants))
            self.attempts[str(job)] = 1
            self.clients[str(job)] = client
        return [str(job) for job in jobs]

    async def handle(self, intents: Sequence[Intent]) -> list[Answer]:
        for intent in intents:
            command = intent.command
            if isinstance(command, JobLose):
                holder = next((m for m in self.miners if str(command.job_id) in m.running), None)
                if holder:
                    self.end(holder, str(command.job_id), "lost", command.error_code)
            elif isinstance(command, StandingQuarantine | StandingRelease):
                stream = standing.standing_stream(command.principal, command.service)
                state = self.states.get(stream)
                for _, event in standing.decide(state, command, Context(0, SYSTEM)):
                    assert standing.is_standing_event(event)
                    self.states[stream] = standing.evolve(state, event)
                    self.happened(event)
        return [Accepted(0, {}) for _ in intents]

    def end(self, miner: Miner, job: str, outcome: str, code: str = "BROKEN") -> None:
        attempt, _ = miner.running.pop(job)
        about = {"job_id": UUID(job), "client": self.clients[job], "at": int(self.now * 1000)}
        if outcome == "completed":
            self.done[job] = miner.name
            self.happened(deciding.completed(attempt=attempt).model_copy(update=about))
            assert isinstance(self.events[-1].event, JobCompleted)
            return
        self.failures[miner.name] += 1
        ended = deciding.attempt_ended(outcome, attempt, miner.session, miner.name, error_code=code)
        self.happened(ended.model_copy(update=about))
        self.charged[job] += outcome != "released"
        if self.charged[job] >= MAX_ATTEMPTS:
            self.done[job] = "FAILED"
            self.happened(JobFailed(**about, by="x", attempt=attempt, error_code=code, error_message=""))
        else:
            self.attempts[job] = attempt + 1
            self.happened(JobRequeued(**about, by="x", attempt=attempt + 1))

    async def act(self, miner: Miner) -> None:
        for job, (_, due) in list(miner.running.items()):
            if self.now >= due:
                self.end(miner, job, self.outcome(miner, job))
        while len(miner.running) < miner.concurrency:
            taken = await self.queues.take(miner.registered.profile, 0)
            if taken is None:
                return
            await taken.done()
            job, attempt = str(taken.offer.job_id), taken.offer.attempt
            held = any(job in other.running for other in self.miners)
            if (
                job in miner.drops
                or miner.manner == "ignores"
                or held
                or job in self.done
                or self.attempts[job] != attempt
            ):
                continue
            at_once = miner.manner in ("fails", "releases")
            due = self.now + (0 if at_once else miner.seconds)
            miner.running[job] = (attempt, due if miner.manner != "hoards" else float("inf"))
            started = deciding.started(attempt, miner.session, miner.name, at=int(self.now * 1000))
            self.happened(started.model_copy(update={"job_id": UUID(job), "client": self.clients[job]}))

    def outcome(self, miner: Miner, job: str) -> str:
        miner.turns += 1
        if self.clients[job] == "mallory":
            return "failed"
        match miner.manner:
            case "fails":
                return "failed"
            case "releases":
                return "released"
            case "loses":
                return "lost"
            case "alternates":
                return "failed" if miner.turns % 2 else "completed"
            case "cheats on bob":
                return "failed" if self.clients[job] == "bob" else "completed"
            case _:
                return "completed"

    async def step(self) -> None:
        for miner in self.miners:
            await self.act(miner)
        new = self.events[self.acted :]
        if new:
            self.acted = len(self.events)
            await self.dispatcher.act(new)
        await self.dispatcher.tick(self.acted)
        await asyncio.sleep(0)  # the dispatcher's commands
        self.dispatcher.gather()
        self.dispatcher.apply(self.table, new)
        self.now += STEP

    async def run(self, jobs: Sequence[str], limit: float = 600.0) -> float:
        """Until these are final; the time that it took."""
        begun = self.now
        while not all(job in self.done for job in jobs):
            await self.step()
            assert self.now - begun < limit, f"{sum(j not in self.done for j in jobs)} jobs are left"
        return self.now - begun

    async def rest(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            await self.step()

    def quarantines(self) -> Counter[str]:
        events = [recorded.event for recorded in self.events]
        return Counter(e.principal for e in events if isinstance(e, standing.StandingQuarantined))


BAD: tuple[Manner, ...] = ("fails", "hoards", "releases", "loses", "ignores")


@every("manners", [("fails", "hoards"), *((manner,) for manner in BAD)])
async def test_bad_miners_cost_the_honest_one_less_than_its_time_again(manners: Sequence[Manner]) -> None:
    """200 jobs beside them: the honest one completes all of them, within twice its time alone."""
    alone = await (network := Network(Miner("honest"))).run(network.submit(200))
    bad = [Miner(f"bad{n}", manner, concurrency=1024) for n, manner in enumerate(manners)]
    network = Network(*bad, Miner("honest"))
    jobs = network.submit(200)
    beside = await network.run(jobs)
    assert {"honest": 200} == Counter(network.done[job] for job in jobs)
    assert beside < 2 * alone
    assert not network.quarantines()["honest"]

    # They go on, and get ever less.
    for _ in range(8):
        await network.rest(5)
        await network.run(network.submit(50))
    assert all(network.quarantines()[miner.name] for miner in bad), network.quarantines()
    wasted = network.failures.total()
    await network.run(network.submit(100))
    assert network.failures.total() - wasted <= 2 * len(bad)

    # They mend their ways.
    for miner in bad:
        miner.manner = "works"
        miner.running = {job: (attempt, 0.0) for job, (attempt, _) in miner.running.items()}
    by: Counter[str] = Counter()
    for _ in range(20):
        await network.rest(5)
        jobs = network.submit(50)
        await network.run(jobs)
        by.update(network.done[job] for job in jobs)
    assert all(by[miner.name] > 50 for miner in bad), by
    assert all(network.standing(miner.name).quarantine == "" for miner in bad)


async def test_a_newcomer_reaches_its_concurrency_within_seconds_of_work() -> None:
    """Beside others it begins with few slots, and doubles them with each round of completed jobs."""
    network = Network(Miner("old", concurrency=2), Miner("new", concurrency=8))
    assert NEWCOMER_SLOTS == network.standing("new").slots
    jobs = network.submit(400)
    seen: list[int] = []
    while len(network.miners[1].running) < 8:
        await network.step()
        seen.append(len(network.miners[1].running))
        assert network.now < 102
    assert max(seen[:3]) <= NEWCOMER_SLOTS
    await network.run(jobs)
    assert network.standing("new").slots == 8


async def test_failures_never_bring_more_work() -> None:
    """A miner that fails at once holds no more offers and jobs at a time than a newcomer."""
    network = Network(Miner("bad", "fails", concurrency=64), Miner("honest"))
    network.submit(500)
    for _ in range(100):
        await network.step()
        assert network.standing("bad").outstanding <= NEWCOMER_SLOTS
    assert network.failures["bad"] <= 8


async def test_standing_is_the_principals_whatever_its_nodes_and_sessions() -> None:
    """New miner ids, new sessions and other capabilities under the same key begin where the old ones were."""
    nodes = [Miner(f"node{n}@bad", "fails", concurrency=64) for n in range(8)]
    network = Network(*nodes, Miner("honest"))
    for round_ in range(5):
        jobs = network.submit(100)
        await network.run(jobs)
        assert {"honest": 100} == Counter(network.done[job] for job in jobs)
        for node in nodes:
            node.name = f"again{round_}-{node.name}"
            network.register(node)
    assert network.quarantines()["bad"]
    assert network.failures.total() <= 16


async def test_a_takeover_forgets_no_standing_and_no_failed_attempt() -> None:
    """Another process leads: quarantine, counts and the miners that had a job are in the tables."""
    bad = Miner("bad", "fails", concurrency=64)
    network = Network(bad, Miner("honest"))
    for _ in range(5):
        await network.run(network.submit(200))
    before = network.standing("bad").row()
    assert "probes" == before["quarantine"]
    network.take_over()
    assert before == network.standing("bad").row()

    network = Network(bad, Miner("honest", seconds=1000.0))
    [job] = network.submit(1)
    while not network.failures["bad"]:
        await network.step()
    await network.rest(0.2)
    network.take_over()
    await network.rest(5.0)
    assert 1 == network.failures["bad"]
    assert job in network.miners[1].running


async def test_a_poisonous_client_puts_no_honest_miner_in_quarantine() -> None:
    """Jobs that fail everywhere count against nobody; the miners' other work goes on."""
    network = Network(*(Miner(f"honest{n}") for n in range(3)))
    poison, good = network.submit(300, "mallory"), network.submit(300, "alice")
    await network.run([*poison, *good])
    assert {"FAILED"} == {network.done[job] for job in poison}
    assert "FAILED" not in {network.done[job] for job in good}
    assert not network.quarantines()
    assert {0} == {network.standing(f"honest{n}").failed for n in range(3)}


async def test_a_client_that_favours_one_miner_cannot_bring_the_others_into_quarantine() -> None:
    """One client, one vote: its jobs fail at all miners but one, and these still work for others."""
    crony = Miner("crony", "works")
    victim = Miner("victim", "cheats on bob")
    network = Network(crony, victim)
    for _ in range(10):
        await network.run(
            [*network.submit(30, "bob"), *network.submit(30, "alice"), *network.submit(30, "carol")]
        )
    assert not network.quarantines()["victim"]
    assert network.standing("victim").completed


async def test_failing_every_other_job_leads_into_quarantine() -> None:
    """Good outcomes between the bad ones don't save a miner that fails half of its jobs."""
    network = Network(Miner("bad", "alternates", concurrency=16), Miner("honest"))
    for _ in range(5):
        jobs = network.submit(200)
        await network.run(jobs)
    assert network.quarantines()["bad"]
    assert "FAILED" not in network.done.values()


async def test_the_only_miner_of_a_service_is_not_held_back() -> None:
    """Nobody else could do the work: failures, losses and cooldowns keep no job from it."""
    network = Network(Miner("only", "alternates", concurrency=8))
    took = await network.run(network.submit(100), limit=60.0)
    assert took < 30
    assert not network.quarantines()


async def test_a_probe_of_a_quarantine_by_hand_never_comes() -> None:
    """An admin's quarantine holds until an admin ends it, for one service or for all."""
    for service in ("whisper", None):
        network = Network(Miner("bad"), Miner("honest"))
        what = {"at": 0, "by": "root", "principal": "bad", "service": service, "reason": ""}
        network.happened(standing.StandingQuarantined(**what, probes=False))
        jobs = network.submit(100)
        await network.run(jobs)
        await network.rest(30)
        assert {"honest": 100} == Counter(network.done[job] for job in jobs)
        network.take_over()
        await network.run(jobs := network.submit(100))
        assert {"honest": 100} == Counter(network.done[job] for job in jobs)
        network.happened(standing.StandingReleased(**what))
        await network.run(jobs := network.submit(400))
        assert network.quarantines()["bad"] == 1
        assert Counter(network.done[job] for job in jobs)["bad"] > 50


async def test_jobs_that_nobody_claims_come_behind_all_others() -> None:
    """A miner that drops some jobs without a word, such as after a restore, still gets the others."""
    network = Network(Miner("only", concurrency=2))
    dropped = network.submit(20)
    network.miners[0].drops = set(dropped)
    await network.rest(4 * 10 * OFFER_TIMEOUT)
    took = await network.run(network.submit(100), limit=60.0)
    assert took < 20
    network.miners[0].drops = set()
    await network.run(dropped, limit=60.0)


async def test_equals_take_turns() -> None:
    """Principals with equal abilities get equal shares of sparse work."""
    network = Network(*(Miner(f"m{n}") for n in range(4)))
    for _ in range(100):
        await network.run(network.submit(1))
    shares = Counter(principal_of(name) for name in network.done.values())
    assert {25} == set(shares.values()), shares
