"""Money, by its handler and the rules of accounts and jobs: histories at random, against a small model.

A history is a list of steps of a `World`. A new kind of command is one method in `World.STEPS`, its effect on
balances one line of `World.expected`, and its own promise, if it has any, some lines of `check` or `finish`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

import pytest

from coordinator.application.commands.handlers.accounts import AccountCommands
from coordinator.application.ports import Intent
from coordinator.audit.money import Money
from coordinator.domain import account, job
from coordinator.domain.account import (
    FEES,
    OUTSIDE,
    Account,
    AccountCarried,
    AccountCommand,
    Terms,
    account_stream,
    books,
    payment_stream,
)
from coordinator.domain.account.state import Paid
from coordinator.domain.decision import EVOLVE, Context, Decision
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job.price import in_micros
from coordinator.domain.messages import EVENTS, SYSTEM, Principal, Role, principal_of
from coordinator.domain.service import RegisteredService
from tests.harness import deciding as made
from tests.harness.deciding import ADMIN, SECOND, T0
from tests.harness.length import FULL

CLIENTS = ("alice", "bob", "both")
MINERS = ("rig", "node@farm", "both")
"""One principal submits jobs and runs some."""
SHARDS = 100 if FULL else 2
HISTORIES = 1000 if FULL else 150
"""Of each shard."""
STEPS = 40
HOUR = 3600 * SECOND
MOVES = (*(0, 1, SECOND, SECOND, 20 * SECOND, 200 * SECOND, -5 * SECOND) * 5, HOUR, -HOUR)
"""The clock goes on, stands, jumps over the time for disputes, and is set back."""

online = functools.cache(made.online)
spec = functools.cache(made.a_spec)


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
        self.log: Decision = []
        self.entries: dict[str, list[account.AccountEvent]] = defaultdict(list)
        self.jobs: list[UUID] = []
        self.ledger = Ledger(Counter(), Counter())
        self.money = 0
        """All deposits without all withdrawals, by the answers alone."""
        self.terms = Terms(chance.choice((0, 1, 250, 3333, 10_000)), chance.choice((0, 1000, 60_000)))
        self.refusals: Counter[str] = Counter()
        self.handler = AccountCommands(self._states, self.terms)

    def account(self, party: str) -> Account:
        return self.states.get(account_stream(party)) or Account(party)

    def append(self, decision: Decision) -> None:
        self.log += decision
        for stream, event in decision:
            self.states[stream] = EVOLVE[event.noun](self.states.get(stream), event)
            if account.is_account_event(event):
                self.entries[event.party].append(event)
            if isinstance(event, account.AccountPosted):
                self.ledger.sums[event.posting] += event.amount
            elif isinstance(event, account.PaymentSettled):
                self.ledger.paid[event.job_id] += 1

    def send(self, command: AccountCommand, principal: Principal = ADMIN) -> bool:
        """Decide and append; whether it was accepted. Often twice: a crash lost the answer."""
        for _ in range(self.chance.choice((1, 1, 2))):
            try:
                decision = self.decide(command, principal)
            except Refusal as refusal:
                self.refusals[refusal.code] += 1
                return False
            self.append(decision)
        return True

    def decide(self, command: AccountCommand, principal: Principal) -> Decision:
        """By the handler itself, on the states of now."""
        preparing = self.handler.prepare_one(Intent(command, principal))
        try:
            preparing.send(None)
        except StopIteration as done:
            prepared = done.value
        decision = self.handler.decide(prepared, self.states.get, self.now)
        assert {stream for stream, _ in decision} <= {prepared.stream, *prepared.writes}
        return decision

    async def _states(self, streams: Sequence[UUID], *, fresh: bool = False) -> dict[UUID, Any]:
        return {stream: self.states.get(stream) for stream in streams}

    def available(self, party: str) -> int:
        """What a job or a withdrawal may take: all money without holds, disputed and pending credits.

        A credit that was available at an event of its account stays so, whatever the clock says later.
        """
        total, frozen, pending = 0, dict[Any, int](), dict[Any, tuple[int, int]]()
        for event in self.entries[party]:
            match event:
                case account.AccountHeld():
                    total -= event.amount
                case account.AccountReleased():
                    total += event.amount
                case account.AccountPosted():
                    total += event.amount + event.released
                    if event.kind == "payment" and event.amount > 0:
                        pending[event.job_id] = event.amount, event.available_at or 0
                    elif event.kind == "refund" and event.amount < 0:
                        pending.pop(event.job_id, None)
                        frozen.pop(event.job_id, None)
                case account.AccountDisputed():
                    frozen[event.job_id] = pending.pop(event.job_id)[0]
                case account.AccountDismissed():
                    pending[event.job_id] = frozen.pop(event.job_id), event.available_at
            pending = {j: (amount, until) for j, (amount, until) in pending.items() if until > event.at}
        waiting = sum(amount for amount, until in pending.values() if until > self.now)
        return total - sum(frozen.values()) - waiting

    # --- steps ----------------------------------------------------------------------------------------------
    def submit(self) -> None:
        job_id = UUID(int=len(self.jobs) + 1)
        client = Principal(self.chance.choice(CLIENTS), Role.CLIENT)
        budget = self.chance.choice((None, None, 1, 1500, 10_000_000))
        before = self.available(client.name)
        context = made.context_of(
            made.submit(),
            self.now,
            client,
            job_id=job_id,
            accounts=True,
            account=self.states.get(account_stream(client.name)),
            service=RegisteredService(spec(max_units="20"), 1),
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
        is_open = [j for j in self.jobs if not job.is_final(self.states[j])]
        job_id = self.chance.choice((is_open or self.jobs) if self.chance.random() < 0.8 else self.jobs)
        miner = self.chance.choice(MINERS)
        attempt = self.chance.choice((1, 1, 1, 2, 3))
        state = self.states[job_id]
        if isinstance(state, job.Running) and self.chance.random() < 0.7:
            miner, attempt = state.started.miner_id, state.attempt
        begun = self.now - self.chance.randrange(30) * SECOND
        command: Any = self.chance.choice(
            (
                *[made.start(attempt, miner_id=miner)] * 2,
                *[made.complete(attempt, miner_id=miner, begun=begun, ended=self.now)] * 4,
                made.fail(attempt, miner_id=miner),
                made.lose(attempt),
                made.cancel(),
                made.expire(),
            )
        )
        command = command.model_copy(update={"job_id": job_id})
        by = Principal(principal_of(miner), Role.MINER) if isinstance(command, job.AttemptCommand) else SYSTEM
        context = made.context_of(command, self.now, by, miner=online(miner_id=miner))
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
        known, before = self.states.get(stream), self.available(party)
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
        paid = [j for j in self.jobs if isinstance(self.states.get(payment_stream(j)), Paid)]
        job_id = self.chance.choice(paid or self.jobs)
        client = Principal(self.chance.choice((*CLIENTS, self.states[job_id].job.client)), Role.CLIENT)
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

    def restart(self) -> None:
        """Another process takes over, which knows the log alone."""
        known, self.states = self.states, {}
        carried = {s: n for n, (s, event) in enumerate(self.log) if isinstance(event, AccountCarried)}
        for number, (stream, event) in enumerate(self.log):
            if number < carried.get(stream, 0):
                continue  # a long history is read from there on
            again = EVENTS[event.topic].model_validate_json(event.model_dump_json(), strict=True)
            self.states[stream] = EVOLVE[event.noun](self.states.get(stream), again)
        assert self.states == known

    STEPS: ClassVar = (
        *(submit, submit, work, work, work, settle, transfer, argue),
        *(submit, submit, work, work, work, settle, transfer, argue, restart),
    )

    def step(self) -> None:
        self.now += self.chance.choice(MOVES)
        self.chance.choice(self.STEPS)(self)
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
                assert one.available(self.now) == self.available(one.party) >= 0, one
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
            price = self.price(job_id)
            assert self.ledger.paid[job_id] == (price > 0)
            if price:
                settled, done = self.states[payment_stream(job_id)].settled, self.states[job_id].completed
                assert (settled.miner, settled.attempt) == (principal_of(done.miner_id), done.attempt)
                assert (settled.amount, settled.fee) == (price, self.fee(price))
        balances = {s.party: s.balance for s in self.states.values() if isinstance(s, Account)}
        assert {p: b for p, b in balances.items() if b} == {p: b for p, b in self.expected().items() if b}
        self.audit()

    def price(self, job_id: UUID) -> int:
        """What a job costs: the price of its receipt, within its hold."""
        state: Any = self.states[job_id]
        completed = isinstance(state, job.Completed)
        return min(in_micros(state.completed.price), state.job.hold or 0) if completed else 0

    def fee(self, price: int) -> int:
        return price * self.terms.fee_bps // 10_000

    def expected(self) -> Counter[str]:
        """All balances, from transfers, receipts and refunds alone."""
        balances: Counter[str] = Counter()
        for made_one in (s for s in self.states.values() if isinstance(s, account.TransferMade)):
            amount = made_one.amount if made_one.kind == "deposit" else -made_one.amount
            balances.update({made_one.party: amount})
            balances.update({OUTSIDE: -amount})
        for job_id in self.jobs:
            price, payment = self.price(job_id), self.states[payment_stream(job_id)]
            if price and payment.status != "REFUNDED":
                balances.update({self.states[job_id].job.client: -price})
                balances.update(
                    {principal_of(self.states[job_id].completed.miner_id): price - self.fee(price)}
                )
                balances.update({FEES: self.fee(price)})
        return balances

    def audit(self) -> None:
        """The auditor, which shares no code with the rules, finds nothing, and has the same accounts."""
        money, submitted = Money(), {}
        for stream, event in self.log:
            data = json.loads(event.model_dump_json())
            if isinstance(event, job.JobSubmitted):
                submitted[event.job_id] = data
                money.submitted(data)
            elif job.ends_job(event):
                money.job_ended(submitted[stream], data, completed=isinstance(event, job.JobCompleted))
            elif event.noun != "job":
                money.follow(str(stream), event.topic, data)
        money.finish()
        accounts = [s for s in self.states.values() if isinstance(s, Account)]
        assert money.accounts == {a.party: [a.balance, a.held, a.disputed] for a in accounts}


@pytest.fixture(autouse=True)
def short_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole state of an account is carried on after few events."""
    monkeypatch.setattr(books, "CARRIED_EVERY", 5)


@pytest.mark.timeout(1800 if FULL else 180)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_any_history_keeps_every_sum(shard: int) -> None:
    """Submits, retries, losses, cancels, expiries, disputes, refunds and transfers in any order, often sent
    twice, with restarts and clocks that jump: sums are zero, no balance is below its holds, each completed
    job is paid once, and an audit is clean."""
    seen: Counter[str] = Counter()
    for seed in range(shard * HISTORIES, (shard + 1) * HISTORIES):
        world = World(random.Random(seed))
        for party in CLIENTS:
            world.append(
                world.decide(account.AccountDeposit(party=party, amount=100_000, business_id="a"), ADMIN)
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
    assert seen["paid"] > HISTORIES
    assert seen["refunds"] > HISTORIES // 10
    assert seen["disputed"] > 0
    assert {Code.INSUFFICIENT_FUNDS, Code.IDEMPOTENCY_MISMATCH, Code.CONFLICT_STATE} <= seen.keys()
