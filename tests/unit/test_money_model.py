"""Money, by its handler and the rules of accounts and jobs: histories at random, against a small model.

A history is a list of steps of a `World`. A new kind of command is one method in `World.STEPS`, its effect on
balances one line of `World.expected`, and its own promise, if it has any, some lines of `check` or `finish`.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast, get_args
from uuid import UUID

import pytest

from coordinator.application.commands.handler import Prepared
from coordinator.application.commands.handlers.accounts import AccountCommands
from coordinator.application.commands.handlers.settlements import SettlementCommands
from coordinator.application.ports import Intent
from coordinator.audit.money import Money
from coordinator.crypto.settlement import payment_leaf, payments_root
from coordinator.domain import account, job, settlement
from coordinator.domain.account import (
    FEES,
    OUTSIDE,
    SETTLEMENT,
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
from coordinator.domain.settlement import BatchPlan, SettlementCommand, SinkTerms
from tests.harness import deciding as made
from tests.harness.bank import Bank
from tests.harness.deciding import ADMIN, SECOND, T0
from tests.harness.length import FULL

CLIENTS = ("alice", "bob", "both")
MINERS = ("rig", "node@farm", "both")
"""One principal submits jobs and runs some."""
PAYEES = (*CLIENTS, "rig", "farm")
ADDRESSES = ("bank-1", "bank-2", "bank-3", "house-1", None)
"""The sink can't pay the fourth one."""
SHARDS = 100 if FULL else 2
HISTORIES = 1000 if FULL else 120
"""Of each shard."""
STEPS = 50
HOUR = 3600 * SECOND
MOVES = (*(0, 1, SECOND, SECOND, 20 * SECOND, 200 * SECOND, -5 * SECOND) * 5, HOUR, -HOUR)
"""The clock goes on, stands, jumps over the time for disputes, and is set back."""

online = functools.cache(made.online)
spec = functools.cache(made.a_spec)


EARNINGS = {("payment", True), ("refund", False), ("payout", False), ("payout_returned", True)}
"""Kinds of entries, and whether they credit, that change how much of a balance was earned."""


class Ledger(NamedTuple):
    """The entries that the events tell, by posting."""

    sums: Counter[str]
    paid: Counter[UUID]


@dataclass
class Batch:
    """The last batch, by its events alone."""

    number: int
    left: list[tuple[str, int]]
    """Party and amount of the payouts that are neither paid nor back."""
    part: int = 0
    prepared: list[settlement.SettlementPrepared] = field(default_factory=list)
    submitted: str | None = None

    @property
    def in_part(self) -> list[tuple[str, int]]:
        return self.left[: self.prepared[0].count] if self.prepared else self.left

    def ends(self) -> list[tuple[str, int]]:
        """The payouts of the part that has ended just now."""
        ended = self.in_part
        self.left = self.left[len(ended) :]
        self.part, self.prepared, self.submitted = self.part + 1, [], None
        return ended

    def allows(self, command: Any) -> bool:
        """Whether a command about one part is accepted."""
        if (command.number, command.part) != (self.number, self.part) or not self.left:
            return False
        hashes = [prepared.hash for prepared in self.prepared]
        match command:
            case settlement.SettlementPrepare():
                if not self.prepared or command.hash in hashes:
                    return command.hash in hashes or command.count <= len(self.left)
                last = self.prepared[-1]
                return (
                    command.nonce is not None
                    and (command.nonce, command.count) == (last.nonce, last.count)
                    and command.count <= len(self.left)
                )
            case settlement.SettlementSubmit():
                return command.hash == self.submitted or (self.submitted is None and command.hash in hashes)
            case settlement.SettlementConfirm():
                return bool(hashes) and command.hash in (None, *hashes)
        return True


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
        """All deposits without all withdrawals and payouts, by the answers alone."""
        self.terms = Terms(
            chance.choice((0, 1, 250, 250, 3333, 3333, 10_000)), chance.choice((0, 1000, 60_000))
        )
        self.refusals: Counter[str] = Counter()
        bank = Bank(needs_address=chance.random() < 0.5)
        self.sink = SinkTerms(
            bank.name,
            bank.needs_address,
            bank.address_fault,
            chance.choice((1, 1, 1000, 15_000)),
            chance.choice((1, 1, 7)),
        )
        self.handler = AccountCommands(self._states, self.terms, bank)
        self.settlements = SettlementCommands(self._states, self.sink, self._plan, self._reached)
        self.batch: Batch | None = None
        self.closes: list[tuple[int, settlement.SettlementClosed]] = []
        """With their positions."""
        self.payments: list[tuple[int, bytes]] = []
        """Position and leaf of each."""
        self.paid_out: Counter[str] = Counter()
        self.returned: Counter[str] = Counter()
        self.delayed: list[Prepared[Any]] = []
        """Commands about batches that wait between their preparation and their decision."""

    def account(self, party: str) -> Account:
        return self.states.get(account_stream(party)) or Account(party)

    def append(self, decision: Decision) -> None:
        before = len(self.log)
        self.log += decision
        for position, (stream, event) in enumerate(decision, before + 1):
            self.states[stream] = EVOLVE[event.noun](self.states.get(stream), event)
            if account.is_account_event(event):
                self.entries[event.party].append(event)
            if isinstance(event, account.AccountPosted):
                self.ledger.sums[event.posting] += event.amount
            elif isinstance(event, account.PaymentSettled):
                self.ledger.paid[event.job_id] += 1
                self.payments.append((position, payment_leaf(event.model_dump())))
            elif settlement.is_settlement_event(event):
                self._follow_batch(position, event)

    def _follow_batch(self, position: int, event: settlement.SettlementEvent) -> None:
        if isinstance(event, settlement.SettlementClosed):
            assert self.batch is None or not self.batch.left
            self.batch = Batch(event.number, [(payout.party, payout.amount) for payout in event.payouts])
            self.closes.append((position, event))
            return
        assert self.batch is not None
        match event:
            case settlement.SettlementPrepared():
                self.batch.prepared.append(event)
                self.batch.submitted = None
            case settlement.SettlementSubmitted():
                self.batch.submitted = event.hash
            case settlement.SettlementReverted():
                self.batch.submitted = None
            case settlement.SettlementConfirmed():
                for party, amount in self.batch.ends():
                    self.paid_out[party] += amount
                    self.money -= amount
            case settlement.SettlementRefused():
                for party, amount in self.batch.ends():
                    self.returned[party] += amount

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

    def tell(self, command: SettlementCommand) -> None:
        """The same for a batch: its repeat may be refused, for the part is over, and has no effect."""
        allowed = self._allows(command)
        for attempt in range(self.chance.choice((1, 1, 2))):
            decision: Decision = []
            refused = False
            try:
                decision = self.decide(command, SYSTEM)
            except Refusal as refusal:
                self.refusals[refusal.code] += 1
                refused = True
            assert attempt or refused != allowed, command
            assert not (attempt and decision)
            self.append(decision)

    def _allows(self, command: Any) -> bool:
        return self.batch is not None and self.batch.allows(command)

    def decide(self, command: AccountCommand | SettlementCommand, principal: Principal) -> Decision:
        """By the handler itself, on the states of now."""
        return self.decide_prepared(self.prepare(command, principal))

    def prepare(self, command: AccountCommand | SettlementCommand, principal: Principal) -> Prepared[Any]:
        is_batch = isinstance(command, get_args(SettlementCommand))
        handler: Any = self.settlements if is_batch else self.handler
        preparing = handler.prepare_one(Intent(command, principal))
        try:
            preparing.send(None)
        except StopIteration as done:
            prepared: Prepared[Any] = done.value
        return prepared

    def decide_prepared(self, prepared: Prepared[Any]) -> Decision:
        writes = {prepared.stream, *prepared.writes}
        known = {stream: self.states.get(stream) for stream in (*writes, *prepared.reads)}
        decision = prepared.handler.decide(prepared, known.__getitem__, self.now)
        assert {stream for stream, _ in decision} <= writes
        return decision

    async def _reached(self, position: int, seconds: float) -> bool:
        return True

    async def _plan(self) -> BatchPlan:
        """By tables that may be behind, and whose payees may be too many or too few."""
        until = max(0, len(self.log) - self.chance.choice((0, 0, 0, 1, 20)))
        number, after = 0, 0
        for position, closed in self.closes:
            if position <= until:
                number, after = closed.number, closed.until
        leaves = [leaf for at, leaf in self.payments if after < at <= until]
        parties = self.chance.sample(PAYEES, self.chance.choice((1, len(PAYEES), len(PAYEES))))
        return BatchPlan(number + 1, after, until, len(leaves), payments_root(leaves), tuple(parties))

    async def _states(self, streams: Sequence[UUID], *, fresh: bool = False) -> dict[UUID, Any]:
        return {stream: self.states.get(stream) for stream in streams}

    def available(self, party: str) -> int:
        """What a job or a withdrawal may take: all money without holds, disputed and pending credits.

        A credit that was available at an event of its account stays so, whatever the clock says later.
        """
        return self._funds(party)[0]

    def payable(self, party: str) -> int:
        """What a batch may take of it: money that was earned, and that nobody can dispute any more."""
        available, earned = self._funds(party)
        amount = max(0, min(available, earned)) // self.sink.quantum * self.sink.quantum
        of = self.account(party)
        is_valid = of.payout_address and self.sink.fault_of(of.payout_address) is None
        return amount if amount >= self.sink.minimum and (is_valid or not self.sink.needs_address) else 0

    def _funds(self, party: str) -> tuple[int, int]:
        """The available money, and the available part of what was earned."""
        total, frozen, pending = 0, dict[Any, int](), dict[Any, tuple[int, int]]()
        balance, earned = 0, 0
        for event in self.entries[party]:
            match event:
                case account.AccountHeld():
                    total -= event.amount
                case account.AccountReleased():
                    total += event.amount
                case account.AccountPosted():
                    total += event.amount + event.released
                    balance += event.amount
                    if (event.kind, event.amount > 0) in EARNINGS:
                        earned += event.amount
                    earned = max(0, min(earned, balance))
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
        set_apart = sum(frozen.values()) + waiting
        return total - set_apart, earned - set_apart

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
                *[made.start(attempt, miner_id=miner)] * 5,
                *[made.complete(attempt, miner_id=miner, begun=begun, ended=self.now)] * 7,
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
        party = self.chance.choice(PAYEES)
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

    def say_where(self, party: str | None = None) -> None:
        """A payee says where it is paid."""
        by = Principal(party or self.chance.choice(PAYEES), Role.MINER)
        address = self.chance.choice(ADDRESSES)
        accepted = self.send(account.AccountSetPayoutAddress(address=address), by)
        assert accepted == (address != "house-1")
        if accepted:
            assert self.account(by.name).payout_address == (address or "")

    def close(self) -> None:
        number = len(self.closes) + self.chance.choice((0, 1, 1, 1, 2))
        command = settlement.SettlementClose(number=self.chance.choice((None, number or None)))
        try:
            prepared = self.prepare(command, SYSTEM)
        except Refusal as refusal:
            self.refusals[refusal.code] += 1
        else:
            self._decide_close(prepared)

    def _decide_close(self, prepared: Prepared[Any]) -> None:
        plan = prepared.details.plan
        payable = [(party, self.payable(party)) for party in plan.parties]
        expected = [(party, amount) for party, amount in payable if amount]
        decision: Decision = []
        try:
            decision = self.decide_prepared(prepared)
        except Refusal as refusal:
            self.refusals[refusal.code] += 1
        closed = [event for _, event in decision if isinstance(event, settlement.SettlementClosed)]
        is_next = prepared.stream == settlement.settlement_stream(len(self.closes) + 1)
        reached = self.closes[-1][1].until if self.closes else 0
        is_due = is_next and plan.after == reached and plan.until >= reached
        is_due = is_due and (self.batch is None or not self.batch.left)
        paid = [[(payout.party, payout.amount) for payout in event.payouts] for event in closed]
        assert paid == ([expected] if is_due and expected else [])
        self.append(decision)

    def pay(self) -> None:
        """Any command about a part: of the open one mostly."""
        if self.batch is None or not self.batch.left:
            self.close()
        if self.batch is not None or self.chance.random() < 0.1:
            self.tell(self._of_part())

    def delay(self) -> None:
        """A command is prepared now and decided later: what it was prepared for may have changed."""
        command: Any = self.chance.choice((settlement.SettlementClose(), self._of_part()))
        with contextlib.suppress(Refusal):
            self.delayed.append(self.prepare(command, SYSTEM))

    def arrive(self) -> None:
        if not self.delayed:
            return
        prepared = self.delayed.pop(self.chance.randrange(len(self.delayed)))
        command = prepared.intent.command
        if isinstance(command, settlement.SettlementClose):
            self._decide_close(prepared)
            return
        decision: Decision = []
        try:
            decision = self.decide_prepared(prepared)
        except Refusal as refusal:
            self.refusals[refusal.code] += 1
        assert self._allows(command) or not decision
        self.append(decision)

    def _of_part(self) -> SettlementCommand:
        batch = self.batch or Batch(1, [])
        place = {
            "number": max(1, batch.number + self.chance.choice((0, 0, 0, 0, 0, 0, 0, -1, 1))),
            "part": max(0, batch.part + self.chance.choice((0, 0, 0, 0, 0, 0, 0, -1, 1))),
        }
        body = f"{place} {self.chance.randrange(2)}".encode()
        fresh = hashlib.sha256(body).hexdigest()
        hashes = [*(prepared.hash for prepared in batch.prepared), fresh]
        prepare = settlement.SettlementPrepare(
            **place,
            count=self.chance.choice((1, max(1, len(batch.left)), len(batch.left) + 1)),
            nonce=self.chance.choice((None, 7, 7, 7)),
            hash=fresh,
            body=base64.b64encode(body).decode(),
        )
        some = self.chance.choice(hashes)
        command: Any = self.chance.choice(
            (
                *[prepare] * 3,
                *[settlement.SettlementSubmit(**place, hash=some)] * 2,
                settlement.SettlementRevert(**place),
                *[settlement.SettlementConfirm(**place, hash=self.chance.choice((None, some)))] * 3,
                settlement.SettlementRefuse(**place, reason="lost"),
            )
        )
        return cast("SettlementCommand", command)

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
        *(submit, submit, *[work] * 6, settle, settle, transfer, argue),
        *(submit, submit, *[work] * 6, settle, settle, transfer, argue),
        *(close, close, close, *[pay] * 5, say_where, delay, arrive, restart),
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
                available, earned = self._funds(one.party)
                assert one.available(self.now) == available >= 0, one
                if one.party != SETTLEMENT:
                    assert one.payable(self.now) == max(0, min(available, earned)), one
                assert min((one.held, one.disputed, *(a for _, a in one.pending))) >= 0, one
        assert all(count == 1 for count in self.ledger.paid.values())
        held = sum(self.states[j].job.hold for j in self.jobs if self.states.get(payment_stream(j)) is None)
        assert sum(a.held for a in accounts) == held
        self.check_payouts()

    def check_payouts(self) -> None:
        """The open batch is in transit; each payout ended once, and none was more than its party earned."""
        if not self.closes:
            return
        left = Counter[str]()
        for party, amount in self.batch.left if self.batch else ():
            left[party] += amount
        assert self.account(SETTLEMENT).balance == left.total()
        closed, credited, earned = Counter[str](), Counter[str](), Counter[str]()
        for _, batch in self.closes:
            closed.update({payout.party: payout.amount for payout in batch.payouts})
        assert closed == self.paid_out + self.returned + left
        for party in closed:
            for event in self.entries[party]:
                if isinstance(event, account.AccountPosted):
                    credited[party] += event.amount if event.kind == "payout_returned" else 0
                    earned[party] += max(0, event.amount) if event.kind == "payment" else 0
        assert credited == self.returned
        assert all(self.paid_out[party] + left[party] <= earned[party] for party in closed)

    def finish(self) -> None:
        """Every job ends and is settled, and more batches are paid: each completed job was paid once, and
        nothing is held."""
        for job_id in self.jobs:
            if not job.is_final(self.states[job_id]):
                cancel = made.cancel().model_copy(update={"job_id": job_id})
                self.append(job.decide(self.states[job_id], cancel, Context(self.now, ADMIN)))
            assert self.send(account.AccountSettle(job_id=job_id), SYSTEM)
        self.check()
        self.now += 2 * HOUR
        for _ in range(self.chance.choice((0, 10, 40))):
            self.chance.choice((self.close, self.pay, self.pay, self.pay, self.delay, self.arrive))()
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
        """All balances, from transfers, receipts, refunds and payouts alone."""
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
        balances.subtract(self.paid_out)
        balances.update({OUTSIDE: self.paid_out.total()})
        for party, amount in self.batch.left if self.batch else ():
            balances.update({party: -amount, SETTLEMENT: amount})
        return balances

    def audit(self) -> None:
        """The auditor, which shares no code with the rules, finds nothing, and has the same accounts."""
        money, submitted = Money(), {}
        stored = self.chance.randrange(len(self.log))
        for position, (stream, event) in enumerate(self.log, 1):
            if position == stored:  # it goes on another day
                money = Money.load(json.loads(json.dumps(money.dump())))
            data = json.loads(event.model_dump_json())
            if isinstance(event, job.JobSubmitted):
                submitted[event.job_id] = data
                money.submitted(data)
            elif job.ends_job(event):
                money.job_ended(submitted[stream], data, completed=isinstance(event, job.JobCompleted))
            elif event.noun != "job":
                money.follow(str(stream), event.topic, data, position)
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
    """Submits, retries, losses, cancels, expiries, disputes, refunds, transfers and payouts in any order,
    often sent twice, with restarts and clocks that jump: sums are zero, no balance is below its holds, each
    completed job is paid once, so is each payout, and an audit is clean."""
    seen: Counter[str] = Counter()
    for seed in range(shard * HISTORIES, (shard + 1) * HISTORIES):
        world = World(random.Random(seed))
        for party in CLIENTS:
            world.append(
                world.decide(account.AccountDeposit(party=party, amount=100_000, business_id="a"), ADMIN)
            )
            world.money += 100_000
        for party in PAYEES:
            world.say_where(party)
        for _ in range(STEPS):
            world.step()
        world.finish()
        seen["paid"] += len(world.ledger.paid)
        seen["refunds"] += sum(1 for p in world.ledger.sums if p.startswith("refund"))
        seen["disputed"] += sum(isinstance(s, Paid) and s.status == "DISPUTED" for s in world.states.values())
        seen["batches"] += len(world.closes)
        seen["paid out"] += bool(world.paid_out)
        seen["returned"] += bool(world.returned)
        seen["in transit"] += world.account(SETTLEMENT).balance > 0
        seen.update(world.refusals)
    # The histories come to what they are about.
    assert seen["paid"] > HISTORIES
    assert seen["refunds"] > HISTORIES // 10
    assert seen["disputed"] > 0
    assert seen["batches"] > HISTORIES // 5
    assert min(seen["paid out"], seen["returned"], seen["in transit"]) > HISTORIES // 40
    assert Code.BATCH_NOT_FOUND in seen
    assert {Code.INSUFFICIENT_FUNDS, Code.IDEMPOTENCY_MISMATCH, Code.CONFLICT_STATE} <= seen.keys()
