"""Money, by the bus and the rules of accounts and jobs: histories at random, against a model of few lines."""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from typing import Any, NamedTuple
from uuid import UUID

from coordinator.domain import account, job
from coordinator.domain.account import (
    FEES,
    OUTSIDE,
    Account,
    AccountCommand,
    EndedJob,
    Terms,
    account_stream,
    payment_stream,
)
from coordinator.domain.account.state import Paid
from coordinator.domain.decision import EVOLVE, Context, Decision
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job.price import in_micros
from coordinator.domain.messages import SYSTEM, Principal, Role, principal_of
from coordinator.domain.service import RegisteredService
from tests.harness import deciding as made
from tests.harness.deciding import ADMIN, SECOND, T0

CLIENTS = ("alice", "bob", "both")
MINERS = ("rig", "node@farm", "both")
"""One principal submits jobs and runs some."""
HISTORIES = 100_000 if os.environ.get("TEST_LENGTH") == "full" else 1000
STEPS = 40


class Ledger(NamedTuple):
    """The entries that the events tell, by posting."""

    sums: Counter[str]
    paid: Counter[UUID]


class World:
    """The streams of one history, and the commands that come to them."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.now = T0
        self.states: dict[UUID, Any] = {}
        self.jobs: list[UUID] = []
        self.ledger = Ledger(Counter(), Counter())
        self.money = 0
        """All deposits without all withdrawals, by the answers alone."""
        self.terms = Terms(chance.choice((0, 1, 250, 3333, 10_000)), chance.choice((0, 1000, 60_000)))
        self.refusals: Counter[str] = Counter()

    def account(self, party: str) -> Account:
        return self.states.get(account_stream(party)) or Account(party)

    def append(self, decision: Decision) -> None:
        for stream, event in decision:
            self.states[stream] = EVOLVE[event.noun](self.states.get(stream), event)
            if isinstance(event, account.AccountPosted):
                self.ledger.sums[event.posting] += event.amount
            elif isinstance(event, account.PaymentSettled):
                self.ledger.paid[event.job_id] += 1

    def send(self, command: AccountCommand, principal: Principal = ADMIN) -> bool:
        """Decide and append; whether it was accepted. Often twice: a crash lost the answer."""
        for _ in range(self.chance.choice((1, 1, 2))):
            try:
                decision = self._decide(command, principal)
            except Refusal as refusal:
                self.refusals[refusal.code] += 1
                return False
            self.append(decision)
        return True

    def _decide(self, command: AccountCommand, principal: Principal) -> Decision:
        state_of = self.states.get
        match command:
            case account.AccountDeposit() | account.AccountWithdraw():
                stream = account.transfer_stream(command.party, command.business_id)
                accounts = state_of(account_stream(command.party)), state_of(account_stream(OUTSIDE))
                context: Any = account.TransferContext(self.now, principal, *accounts)
            case account.AccountSettle():
                stream = payment_stream(command.job_id)
                ended: Any = self._ended(command.job_id)
                context = account.SettleContext(
                    self.now,
                    principal,
                    ended,
                    *self._three(ended and ended.client, ended and ended.miner),
                    self.terms,
                )
            case account.AccountSetPayoutAddress():
                raise AssertionError("no history has one")
            case _:
                stream = payment_stream(command.job_id)
                paid = state_of(stream)
                settled: Any = paid.settled if isinstance(paid, Paid) else None
                context = account.PaymentContext(
                    self.now, principal, *self._three(settled and settled.client, settled and settled.miner)
                )
        return account.decide(state_of(stream), command, context)

    def _three(self, client: str | None, miner: str | None) -> tuple[Any, Any, Any]:
        parties = (client, miner, FEES)
        return tuple(None if p is None else self.states.get(account_stream(p)) for p in parties)  # type: ignore[return-value]

    def _ended(self, job_id: UUID) -> EndedJob | None:
        state = self.states[job_id]
        if not job.is_final(state):
            return None
        if not isinstance(state, job.Completed):
            return EndedJob(job_id, state.job.client, state.job.hold or 0)
        done = state.completed
        miner, price = principal_of(done.miner_id), in_micros(done.price)
        return EndedJob(job_id, state.job.client, state.job.hold or 0, miner, price, done.attempt)

    # --- steps ----------------------------------------------------------------------------------------------
    def submit(self) -> None:
        job_id = UUID(int=len(self.jobs) + 1)
        client = Principal(self.chance.choice(CLIENTS), Role.CLIENT)
        budget = self.chance.choice((None, None, 1, 1500, 10_000_000))
        before = self.account(client.name).available(self.now)
        context = made.context_of(
            made.submit(),
            self.now,
            client,
            job_id=job_id,
            accounts=True,
            account=self.states.get(account_stream(client.name)),
            service=RegisteredService(made.a_spec(max_units="20"), 1),
        )
        worst = budget or 40_000  # 20 seconds at 0.002
        try:
            decision = job.decide(None, made.submit(budget=budget), context)
        except Refusal as refused:
            refusal = refused
        else:
            assert before >= worst
            self.append(decision)
            self.jobs.append(job_id)
            return
        assert (refusal.code, before < worst) == (Code.INSUFFICIENT_FUNDS, True)
        assert f"{worst - before} is missing" in refusal.detail

    def work(self) -> None:
        """The next event of some open job; also results of stale attempts and of other miners."""
        if not self.jobs:
            return
        job_id = self.chance.choice(self.jobs)
        miner = self.chance.choice(MINERS)
        attempt = self.chance.choice((1, 1, 1, 2, 3))
        state = self.states[job_id]
        if isinstance(state, job.Running) and self.chance.random() < 0.7:
            miner, attempt = state.started.miner_id, state.attempt
        begun = self.now - self.chance.randrange(30) * SECOND
        command: Any = self.chance.choice(
            (
                made.start(attempt, miner_id=miner),
                made.start(attempt, miner_id=miner),
                made.complete(attempt, miner_id=miner, begun=begun, ended=self.now),
                made.complete(attempt, miner_id=miner, begun=begun, ended=self.now),
                made.fail(attempt, miner_id=miner),
                made.lose(attempt),
                made.cancel(),
                made.expire(),
            )
        )
        command = command.model_copy(update={"job_id": job_id})
        by = Principal(principal_of(miner), Role.MINER) if isinstance(command, job.AttemptCommand) else SYSTEM
        context = made.context_of(command, self.now, by, miner=made.online(miner_id=miner))
        if isinstance(command, job.JobCancel):
            context = Context(self.now, ADMIN)
        with contextlib.suppress(Refusal):  # a job's own rules have tests of their own
            self.append(job.decide(self.states[job_id], command, context))

    def settle(self) -> None:
        for job_id in self.chance.sample(self.jobs, len(self.jobs) // 2 + 1 if self.jobs else 0):
            self.send(account.AccountSettle(job_id=job_id), SYSTEM)

    def transfer(self) -> None:
        kind = self.chance.choice((account.AccountDeposit, account.AccountWithdraw))
        party = self.chance.choice((*CLIENTS, "rig", "farm"))
        amount = self.chance.choice((1, 999, 40_000, 200_000))
        command = kind(party=party, amount=amount, business_id=f"id-{self.chance.randrange(12)}")
        stream = account.transfer_stream(party, command.business_id)
        known, before = self.states.get(stream), self.account(party).available(self.now)
        accepted = self.send(command)
        if known is not None:
            topic = "deposit" if kind is account.AccountDeposit else "withdrawal"
            assert accepted == ((known.kind, known.amount) == (topic, amount))
        elif kind is account.AccountDeposit:
            assert accepted
            self.money += amount
        else:
            assert accepted == (before >= amount)
            self.money -= amount if accepted else 0

    def argue(self) -> None:
        if not self.jobs:
            return
        job_id, client = self.chance.choice(self.jobs), Principal(self.chance.choice(CLIENTS), Role.CLIENT)
        command, by = self.chance.choice(
            (
                (account.AccountDispute(job_id=job_id), client),
                (account.AccountDispute(job_id=job_id), ADMIN),
                (account.AccountDismiss(job_id=job_id), ADMIN),
                (account.AccountRefund(job_id=job_id), ADMIN),
            )
        )
        owner = self.states[job_id].job.client
        accepted = self.send(command, by)
        assert not (accepted and by is client and client.name != owner)

    def step(self) -> None:
        # The clock goes on, stands, and is set back.
        self.now += self.chance.choice((0, 1, SECOND, SECOND, 20 * SECOND, 200 * SECOND, -5 * SECOND))
        steps = (
            self.submit,
            self.submit,
            self.work,
            self.work,
            self.work,
            self.settle,
            self.transfer,
            self.argue,
        )
        self.chance.choice(steps)()
        self.check()

    # --- what always holds ----------------------------------------------------------------------------------
    def check(self) -> None:
        accounts = [s for s in self.states.values() if isinstance(s, Account)]
        assert not any(self.ledger.sums.values()), self.ledger.sums
        assert sum(a.balance for a in accounts) == 0
        assert -self.account(OUTSIDE).balance == self.money
        for one in accounts:
            if one.party != OUTSIDE:
                assert one.balance >= one.held + one.disputed, one
                assert one.available(self.now) >= 0, one
                assert min((one.held, one.disputed, *(a for _, a in one.pending))) >= 0, one
        assert all(count == 1 for count in self.ledger.paid.values())
        held = sum(self.states[j].job.hold for j in self.jobs if self.states.get(payment_stream(j)) is None)
        assert sum(a.held for a in accounts) == held

    def finish(self) -> None:
        """Every job ends and is settled: each completed one was paid once, and nothing is held."""
        for job_id in self.jobs:
            if not job.is_final(self.states[job_id]):
                cancel = made.cancel().model_copy(update={"job_id": job_id})
                self.append(job.decide(self.states[job_id], cancel, Context(self.now, ADMIN)))
            assert self.send(account.AccountSettle(job_id=job_id), SYSTEM)
        self.check()
        assert [a for a in self.states.values() if isinstance(a, Account) and a.held] == []
        for job_id in self.jobs:
            state: Any = self.states[job_id]
            completed = isinstance(state, job.Completed)
            price: int = min(in_micros(state.completed.price), state.job.hold or 0) if completed else 0
            assert self.ledger.paid[job_id] == (price > 0)
            if price:
                settled = self.states[payment_stream(job_id)].settled
                assert settled.miner == principal_of(state.completed.miner_id)
                assert (settled.amount, settled.fee) == (price, price * self.terms.fee_bps // 10_000)


def test_any_history_keeps_every_sum() -> None:
    """Submits, retries, losses, cancels, expiries, disputes, refunds and transfers in any order, often sent
    twice, with clocks set back: sums are zero, no balance is below its holds, each completed job is paid
    once."""
    seen: Counter[str] = Counter()
    for seed in range(HISTORIES):
        world = World(random.Random(seed))
        for party in CLIENTS:
            world.append(
                world._decide(account.AccountDeposit(party=party, amount=100_000, business_id="a"), ADMIN)
            )
            world.money += 100_000
        for _ in range(STEPS):
            world.step()
        world.finish()
        seen["paid"] += len(world.ledger.paid)
        seen["refunds"] += sum(1 for p in world.ledger.sums if p.startswith("refund"))
        seen["disputed"] += sum(isinstance(s, Paid) and s.status == "DISPUTED" for s in world.states.values())
        seen.update(world.refusals)
    # The histories come to what they are about.
    assert seen["paid"] > HISTORIES // 2
    assert seen["refunds"] > HISTORIES // 20
    assert seen["disputed"] > 0
    assert {Code.INSUFFICIENT_FUNDS, Code.IDEMPOTENCY_MISMATCH, Code.CONFLICT_STATE} <= seen.keys()
