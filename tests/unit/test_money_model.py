"""Money, by its handler and the rules of accounts and jobs: histories at random, against a small model.

A history is a list of steps of a `World`. A new kind of command is one method in `World.STEPS`, its effect on
balances one line of `World.expected`, and its own promise, if it has any, some lines of `check` or `finish`.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import functools
import hashlib
import json
import random
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple, cast, get_args
from uuid import UUID

import pytest

from coordinator.application.commands.cache import ABSENT, CachedState
from coordinator.application.commands.decided import Decided
from coordinator.application.commands.handler import Prepared
from coordinator.application.commands.handlers.accounts import AccountCommands
from coordinator.application.commands.handlers.settlements import SettlementCommands
from coordinator.application.ports import Intent
from coordinator.audit.checks import check_statements
from coordinator.audit.jobs import Statement
from coordinator.audit.money import Money
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.settlement import payment_leaf, payments_root
from coordinator.crypto.statement import sign_statement
from coordinator.domain import account, job, miner, settlement
from coordinator.domain.account import (
    FEES,
    OUTSIDE,
    PAYMENTS_STREAM,
    SETTLEMENT,
    Account,
    AccountBill,
    AccountCarried,
    AccountCommand,
    AccountHeld,
    AccountPosted,
    Contested,
    PaymentBilled,
    PaymentsSettled,
    SettledJob,
    Terms,
    account_stream,
    books,
    payment_stream,
)
from coordinator.domain.decision import EVOLVE, Context, Decision, StreamEvent
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job.price import in_micros
from coordinator.domain.matching.units import UNIT_TYPES
from coordinator.domain.messages import EVENTS, SYSTEM, Principal, Role, principal_of
from coordinator.domain.service import RegisteredService
from coordinator.domain.settlement import BatchPlan, SettlementCommand, SinkTerms
from tests.harness import deciding as made
from tests.harness.bank import Bank
from tests.harness.deciding import ADMIN, SECOND, T0
from tests.harness.length import FULL
from tests.harness.metadata import METADATA

CLIENTS = ("alice", "bob", "both")
MINERS = ("rig", "node@farm", "both")
"""One principal submits jobs and runs some."""
PAYEES = (*CLIENTS, "rig", "farm")
ADDRESSES = ("bank-1", "bank-2", "bank-3", "house-1", None)
"""The sink can't pay the fourth one."""
SHARDS = 100 if FULL else 2
HISTORIES = 1000 if FULL else 120
"""Of each shard."""
STEPS = 90
HOUR = 3600 * SECOND
MOVES = (*(0, 1, SECOND, SECOND, 20 * SECOND, 200 * SECOND, -5 * SECOND) * 5, HOUR, -HOUR)
"""The clock goes on, stands, jumps over the time for disputes, and is set back."""

MINERS_KEY = SigningKey(bytes(32))
"""Of all miners: keys of others have tests of their own."""
spec = functools.cache(made.a_spec)


@functools.cache
def online(miner_id: str) -> miner.Online:
    return miner.Online(made.registered(miner_id=miner_id, public_key=MINERS_KEY.key_id))


EARNINGS = {("payment", True), ("refund", False), ("payout", False), ("payout_returned", True)}
"""Kinds of entries, and whether they credit, that change how much of a balance was earned."""


class Ledger(NamedTuple):
    """The entries and settlements that the events tell."""

    sums: Counter[str]
    """Of the entries, by posting."""
    settlements: list[PaymentsSettled]
    settled: dict[UUID, tuple[int, SettledJob]]
    """By job: the position of its settlement, and its part of it."""
    times: Counter[UUID]
    """By job: how often it is in a settlement."""
    billed: dict[UUID, PaymentBilled]
    """The paid work on cancelled jobs."""
    lapsed: Counter[UUID]
    """By job: how often its kept hold ended in vain."""

    @property
    def paid(self) -> list[UUID]:
        paid = [job_id for job_id, (_, settled) in self.settled.items() if settled.payment is not None]
        return [*paid, *self.billed]

    @property
    def kept(self) -> list[UUID]:
        """Jobs that were cancelled at work, and whose holds have waited, or wait, for statements."""
        return [job_id for job_id, (_, settled) in self.settled.items() if settled.kept is not None]

    @property
    def waiting(self) -> list[UUID]:
        return [job_id for job_id in self.kept if job_id not in self.billed and not self.lapsed[job_id]]


class Settler:
    """The list of one settler: ended jobs in their order, as far as it has read the log."""

    def __init__(self) -> None:
        self.seen = 0
        self.due: deque[tuple[UUID, int]] = deque()
        self.settled = 0
        """Its list begins after this position."""

    def read(self, world: World, until: int) -> None:
        self.due += [(j, at) for at, j in world.ended if self.seen < at <= until]
        self.seen = max(self.seen, until)

    def take_over(self, world: World, stored: int) -> None:
        """At this stored position: the log says how far jobs are settled, and is read from there on."""
        settlements = world.ledger.settlements
        self.seen = stored
        after = settlements[-1].until if settlements else 0
        self.due = deque((j, at) for at, j in world.ended if after < at <= stored)
        self.settled = after


class Broken:
    """A handler whose answers fail."""

    def answer(self, prepared: Prepared[Any], state: Any) -> dict[str, Any]:
        return {"fault": 1 // 0}


class Submits:
    """Handles submits by the rules alone: schemas and payloads have tests of their own."""

    def __init__(self, keeps_accounts: bool) -> None:
        self.keeps_accounts = keeps_accounts

    def prepare(self, job_id: UUID, client: Principal, budget: int | None) -> Prepared[Any]:
        intent = Intent(made.submit(budget=budget), client)
        writes = (account_stream(client.name),)
        return Prepared(intent, cast("Any", self), job_id, None, writes=writes)

    def decide(self, prepared: Prepared[Any], state_of: Any, now: int) -> Decision:
        command, client = cast("job.JobSubmit", prepared.intent.command), prepared.intent.principal
        context = made.context_of(
            command,
            now,
            client,
            job_id=prepared.stream,
            accounts=self.keeps_accounts,
            account=state_of(account_stream(client.name)),
            service=RegisteredService(spec(max_units="20"), 1),
        )
        return job.decide(state_of(prepared.stream), command, context)

    def answer(self, prepared: Prepared[Any], state: Any) -> dict[str, Any]:
        return job.answer(state, cast("job.JobSubmit", prepared.intent.command))


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
        self.versions: Counter[UUID] = Counter()
        self.log: Decision = []
        self.entries: dict[str, list[account.AccountEvent]] = defaultdict(list)
        self.jobs: list[UUID] = []
        self.ledger = Ledger(Counter(), [], {}, Counter(), {}, Counter())
        self.ended: list[tuple[int, UUID]] = []
        """The jobs that have ended, with the positions of their ends, in their order."""
        self.settlers = [Settler(), Settler()]
        self.merged = 0
        self.overlaps = 0
        """Settlements of a list of which a part was settled before."""
        self.early = 0
        """Holds that the system wanted to end before their time."""
        self.again = 0
        """Those that it ended again."""
        self.money = 0
        """All deposits without all withdrawals and payouts, by the answers alone."""
        self.terms = Terms(
            chance.choice((0, 1, 250, 250, 3333, 3333, 10_000)),
            chance.choice((0, 1000, 60_000, 600_000)),
            chance.choice((0, 30_000, 30_000)),
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
        self.handler = AccountCommands(self._states, self._settled, self.terms, bank)
        self.settlements = SettlementCommands(self._states, self.sink, self._plan, self._reached)
        self.batch: Batch | None = None
        self.closes: list[tuple[int, settlement.SettlementClosed]] = []
        """With their positions."""
        self.payments: list[tuple[int, bytes]] = []
        """Position and leaf of each."""
        self.paid_out: Counter[str] = Counter()
        self.returned: Counter[str] = Counter()
        self.delayed: list[Prepared[Any]] = []
        """Commands of the system that wait between their preparation and their decision."""

    @property
    def held(self) -> dict[UUID, int]:
        """What was set aside for each job."""
        return {j: self.states[j].job.hold for j in self.jobs if self.states[j].job.hold}

    def account(self, party: str) -> Account:
        return self.states.get(account_stream(party)) or Account(party)

    def append(self, decision: Decision) -> None:
        before = len(self.log)
        self.log += decision
        for position, (stream, event) in enumerate(decision, before + 1):
            self.states[stream] = EVOLVE[event.noun](self.states.get(stream), event)
            self.versions[stream] += 1
            if account.is_account_event(event):
                self.entries[event.party].append(event)
            if isinstance(event, AccountCarried):
                assert event.number == self.versions[stream]
            if isinstance(event, account.AccountPosted):
                self.ledger.sums[event.posting] += event.amount
            elif isinstance(event, PaymentsSettled):
                self._follow_settlement(position, event, decision)
            elif isinstance(event, PaymentBilled):
                self._follow_bill(position, event)
            elif isinstance(event, account.PaymentLapsed):
                assert event.job_id in self.ledger.waiting
                assert (event.amount, event.credit, event.hold) == (0, 0, self.held[event.job_id])
                self.ledger.lapsed[event.job_id] += 1
            elif job.ends_job(event):
                self.ended.append((position, stream))
            elif settlement.is_settlement_event(event):
                self._follow_batch(position, event)

    def _follow_settlement(self, position: int, event: PaymentsSettled, decision: Decision) -> None:
        """It has exactly the jobs that ended in its range, in their order, and one entry for each party."""
        before = self.ledger.settlements[-1] if self.ledger.settlements else None
        assert (event.number, event.after) == ((before.number + 1, before.until) if before else (1, 0))
        ended = [j for at, j in self.ended if event.after < at <= event.until and j in self.held]
        assert [payment.job_id for payment in event.payments] == [j for j in ended if self.price(j)]
        kept = [j for j in ended if self.at_work(j)] if self.terms.partial_millis else []
        assert [one.job_id for one in event.kept] == kept
        assert event.kept_until == (event.at + self.terms.partial_millis if kept else None)
        unpaid_ids = [j for j in ended if not self.price(j) and j not in kept]
        assert [unpaid.job_id for unpaid in event.unpaid] == unpaid_ids
        assert (event.until, ended[-1]) in self.ended
        entries = [e for _, e in decision if isinstance(e, account.AccountPosted | account.AccountReleased)]
        sides = [(e.party, isinstance(e, account.AccountPosted) and e.amount > 0) for e in entries]
        clients = {(self.states[j].job.client, False) for j in ended if j not in kept}
        credited = {(p.miner, True) for p in event.payments if p.amount > p.fee}
        fees = {(FEES, True) for p in event.payments if p.fee}
        assert Counter(sides) == Counter(clients | credited | fees)
        self.ledger.settlements.append(event)
        self.ledger.times.update(event.jobs)
        for payment in event.payments:
            self.ledger.settled[payment.job_id] = (
                position,
                SettledJob(payment, payment.client, event.available_at),
            )
            self.payments.append((position, payment_leaf(payment.model_dump())))
        for unpaid in event.unpaid:
            self.ledger.settled[unpaid.job_id] = position, SettledJob(None, unpaid.client, event.available_at)

        for one in event.kept:
            started = self.at_work(one.job_id)
            assert started is not None
            assert (one.miner, one.attempt) == (principal_of(started.miner_id), started.attempt)
            assert (one.client, one.hold) == (self.states[one.job_id].job.client, self.held[one.job_id])
            part = SettledJob(None, one.client, event.available_at, one, event.kept_until or 0)
            self.ledger.settled[one.job_id] = position, part

    def _follow_bill(self, position: int, event: PaymentBilled) -> None:
        """It pays what its statement is worth, to the miner at work, within the hold that it ends."""
        assert event.job_id in self.ledger.waiting
        started = self.at_work(event.job_id)
        assert started is not None
        assert (event.miner, event.attempt) == (principal_of(started.miner_id), started.attempt)
        assert (event.client, event.hold) == (self.states[event.job_id].job.client, self.held[event.job_id])
        said = event.statement
        assert event.amount == self.worth(event.job_id, said["stopped_at_ms"] - said["started_at_ms"]) > 0
        assert (event.fee, event.credit) == (self.fee(event.amount), event.amount - self.fee(event.amount))
        self.ledger.billed[event.job_id] = event
        self.payments.append((position, payment_leaf(event.model_dump())))

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

    async def _settled(self, job_id: UUID) -> SettledJob | None:
        """By a table that may be behind."""
        position, settled = self.ledger.settled.get(job_id, (0, None))
        return settled if position <= len(self.log) - self.chance.choice((0, 0, 0, 1, 10)) else None

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
                        credits = self._credits(event)
                        assert sum(credits.values()) == event.amount
                        pending |= {j: (amount, event.available_at or 0) for j, amount in credits.items()}
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

    def _credits(self, entry: AccountPosted) -> dict[UUID, int]:
        """By job: the parts of a credit for the payments of a settlement, or for work on a cancelled job."""
        if entry.posting.startswith("partial/"):
            assert entry.job_id is not None
            return {entry.job_id: entry.amount}
        settled = self.ledger.settlements[int(entry.posting.removeprefix("payments/")) - 1]
        if entry.party == FEES:
            return {payment.job_id: payment.fee for payment in settled.payments if payment.fee}
        return {p.job_id: p.amount - p.fee for p in settled.payments if p.miner == entry.party}

    # --- steps ----------------------------------------------------------------------------------------------
    def submit(self) -> None:
        """Some submits in one batch of the bus, with transfers in between."""
        states = {stream: self._cached(stream) for stream in map(account_stream, (*PAYEES, OUTSIDE))}
        batch = Decided(states)
        spent: Counter[str] = Counter()
        jobs: list[UUID] = []
        sizes = [1] if self.chance.random() < 0.4 else range(self.chance.randrange(2, 6))
        for _ in sizes:
            if self.chance.random() < 0.2:
                self._transfer_in(batch, spent)
            else:
                self._submit_in(batch, spent, jobs)
        self._check_holds(batch)
        self.append([StreamEvent(new.stream, new.event) for new in batch.events])
        self.jobs += jobs
        for stream, (state, version, _) in batch.states.items():
            assert (self.states.get(stream), self.versions[stream]) == (state, version)

    def _cached(self, stream: UUID) -> CachedState:
        state, version = self.states.get(stream), self.versions[stream]
        return ABSENT if state is None else CachedState(state, version, 0)

    def _submit_in(self, batch: Decided, spent: Counter[str], jobs: list[UUID]) -> None:
        job_id = UUID(int=len(self.jobs) + len(jobs) + 1)
        client = Principal(self.chance.choice(CLIENTS[: self.chance.choice((1, 3))]), Role.CLIENT)
        budget = self.chance.choice((None, None, 1, 1500, 10_000_000))
        submits = Submits(keeps_accounts=self.chance.random() < 0.95)
        before = self.available(client.name) - spent[client.name]
        worst = (budget or 40_000) if submits.keeps_accounts else 0  # 20 seconds at 0.002
        prepared = submits.prepare(job_id, client, budget)
        batch.states[job_id] = ABSENT
        try:
            decision = submits.decide(prepared, batch.state, self.now)
        except Refusal as refused:
            refusal = refused
        else:
            assert before >= worst
            self._take(batch, prepared, decision)
            spent[client.name] += worst
            jobs.append(job_id)
            return
        self.refusals[refusal.code] += 1
        assert (refusal.code, before < worst) == (Code.INSUFFICIENT_FUNDS, True)
        assert f"{worst - before} is missing" in refusal.detail

    def _transfer_in(self, batch: Decided, spent: Counter[str]) -> None:
        kind = self.chance.choice((account.AccountDeposit, account.AccountWithdraw))
        party, amount = self.chance.choice(CLIENTS), self.chance.choice((1, 40_000))
        command = kind(party=party, amount=amount, business_id=f"in-{len(self.log)}-{len(batch.events)}")
        prepared = self.prepare(command, ADMIN)
        batch.states[prepared.stream] = ABSENT
        is_deposit = kind is account.AccountDeposit
        decision: Decision = []
        with contextlib.suppress(Refusal):
            decision = prepared.handler.decide(prepared, batch.state, self.now)
        assert bool(decision) == (is_deposit or self.available(party) - spent[party] >= amount)
        if not decision:
            return
        self._take(batch, prepared, decision)
        spent[party] += -amount if is_deposit else amount
        self.money += amount if is_deposit else -amount

    def _take(self, batch: Decided, prepared: Prepared[Any], decision: Decision) -> None:
        """Sometimes its answer fails, and it changes nothing; then it is sent again."""
        if self.chance.random() < 0.1:
            known = copy.deepcopy(batch)
            with pytest.raises(ZeroDivisionError):
                batch.take(prepared._replace(handler=cast("Any", Broken())), decision, lambda _: METADATA)
            assert batch == known
        batch.take(prepared, decision, lambda _: METADATA)

    def _check_holds(self, batch: Decided) -> None:
        """Neighbours are one hold, except for one that has the whole state of its account behind it."""
        of: dict[UUID, list[Any]] = defaultdict(list)
        for new in batch.events:
            of[new.stream].append(new.event)
        for events in of.values():
            holds = [isinstance(event, AccountHeld) for event in events]
            for place in range(len(events) - 1):
                if holds[place] and holds[place + 1]:
                    assert isinstance(events[place + 2], AccountCarried)
            self.merged += sum(event.jobs > 1 for event in events if isinstance(event, AccountHeld))

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
        """One of two settlers reads on, or is started, and settles the first ones of its list."""
        settler = self.chance.choice(self.settlers)
        if self.chance.random() < 0.1:
            settler.take_over(self, max(0, len(self.log) - self.chance.choice((0, 1, 20))))
        settler.read(self, self.chance.choice((len(self.log), len(self.log), len(self.log) - 10)))
        if settler.due:
            self._settle_first(settler, self.chance.choice((1, 2, 100, 100)))

    def _settle_first(self, settler: Settler, count: int) -> None:
        jobs = tuple(settler.due)[:count]
        if len(settler.due) > count and self.chance.random() < 0.1:
            self._pass_over(jobs[-1], settler.due[count])
        command = account.AccountSettle(after=settler.settled, jobs=jobs)
        if self.chance.random() < 0.1:
            self.delayed.append(self.prepare(command, SYSTEM))
            return  # it was not answered: the settler keeps its list
        known = [j in self.ledger.settled for j, _ in jobs if j in self.held]
        settlements = len(self.ledger.settlements)
        assert self.send(command, SYSTEM)
        assert len(self.ledger.settlements) - settlements == (not all(known))
        self.overlaps += len(set(known)) == 2
        assert all(j in self.ledger.settled for j, _ in jobs if j in self.held)
        for _ in jobs:
            settler.due.popleft()
        settler.settled = self.ledger.settlements[-1].until if self.ledger.settlements else 0

    def _pass_over(self, earlier: tuple[UUID, int], later: tuple[UUID, int]) -> None:
        """The command before it was refused, or is under way: this one waits for it."""
        reached = self.ledger.settlements[-1].until if self.ledger.settlements else 0
        command = account.AccountSettle(after=earlier[1], jobs=(later,))
        accepted = self.send(command, SYSTEM)
        assert accepted == (earlier[1] <= reached)

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
        billed = list(self.ledger.billed) if self.chance.random() < 0.2 else []
        job_id = self.chance.choice(billed or self.ledger.paid or self.jobs)
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

    def stop(self) -> None:
        """A job is cancelled at work; often that is settled soon, and its miner sends its statement."""
        running = [j for j in self.jobs if isinstance(self.states[j], job.Running)]
        if running:
            cancel = made.cancel().model_copy(update={"job_id": self.chance.choice(running)})
            self.append(job.decide(self.states[cancel.job_id], cancel, Context(self.now, ADMIN)))
            for step in (self.settle, self.settle, self.bill, self.lapse)[: self.chance.randrange(5)]:
                step()

    def bill(self) -> None:
        """A miner, mostly the one that was at work, asks for its pay; the table may be behind."""
        waiting = self.ledger.waiting if self.chance.random() < 0.6 else []
        stopped = waiting or self.ledger.kept or [j for j in self.jobs if self.at_work(j)] or self.jobs
        if not stopped:
            return
        job_id = self.chance.choice(stopped if self.chance.random() < 0.9 else self.jobs)
        miner_id, attempt = self.chance.choice(MINERS), self.chance.choice((1, 2))
        started = self.at_work(job_id)
        if started is not None and self.chance.random() < 0.8:
            miner_id, attempt = started.miner_id, started.attempt
        seen = self.seen(job_id)
        stated = self.chance.choice((0, 1, seen // 2, seen, seen + 1, seen + HOUR))
        command = self._bill_of(job_id, miner_id, attempt, stated)
        by = Principal(principal_of(miner_id), Role.MINER)
        is_its = started is not None and (miner_id, attempt) == (started.miner_id, started.attempt)
        if is_its and self.terms.partial_millis and self.chance.random() < 0.1:
            self.delayed.append(self.prepare(command, by))
            return
        was, unknown = self.states.get(payment_stream(job_id)), self.refusals[Code.JOB_NOT_FOUND]
        accepted = self.send(command, by)
        now = self.states.get(payment_stream(job_id))
        if not is_its or job_id not in self.ledger.kept:
            assert not accepted
            assert now == was
        elif was is not None:
            assert now == was
            assert not accepted or was.billed
        elif now is None:
            assert self.refusals[Code.JOB_NOT_FOUND] > unknown
        else:
            assert bool(now.billed) == bool(self.worth(job_id, stated))

    def _bill_of(self, job_id: UUID, miner_id: str, attempt: int, stated: int) -> AccountBill:
        stopped_at = T0 + self.chance.randrange(HOUR)  # by the miner's clock
        statement = {
            "version": "1 partial",
            "job_id": str(job_id),
            "attempt": attempt,
            "miner_id": miner_id,
            "session_id": made.SESSION,
            "service": "whisper",
            "payload_digest": made.PAYLOAD_DIGEST,
            "started_at_ms": stopped_at - stated,
            "stopped_at_ms": stopped_at,
        }
        return AccountBill(
            job_id=job_id,
            attempt=attempt,
            miner_id=miner_id,
            session_id=made.SESSION,
            statement=sign_statement(MINERS_KEY, statement),
        )

    def lapse(self) -> None:
        """The system ends a hold: too early, in time, again, or one that does not wait."""
        some = self.ledger.waiting if self.chance.random() < 0.6 else self.ledger.kept
        if not self.jobs:
            return
        job_id = self.chance.choice(some or self.jobs)
        command = account.AccountLapse(job_id=job_id)
        if self.chance.random() < 0.1:
            with contextlib.suppress(Refusal):
                self.delayed.append(self.prepare(command, SYSTEM))
            return
        was, unknown = self.states.get(payment_stream(job_id)), self.refusals[Code.JOB_NOT_FOUND]
        accepted = self.send(command, SYSTEM)
        now = self.states.get(payment_stream(job_id))
        if job_id not in self.ledger.kept:
            assert not accepted
            assert now == was
        elif was is not None:
            assert now == was
            self.again += accepted
        elif self.now < self.ledger.settled[job_id][1].kept_until:
            assert (accepted, now) == (False, None)
            self.early += 1
        else:
            assert now is not None or self.refusals[Code.JOB_NOT_FOUND] > unknown

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
        if isinstance(command, account.AccountSettle):
            known = all(j in self.ledger.settled for j, _ in command.jobs if j in self.held)
            assert known == (not decision)
        elif isinstance(command, AccountBill | account.AccountLapse):
            assert command.job_id in self.ledger.waiting or not decision
        else:
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
        carried[PAYMENTS_STREAM] = max(
            (n for n, (stream, _) in enumerate(self.log) if stream == PAYMENTS_STREAM), default=0
        )
        for number, (stream, event) in enumerate(self.log):
            if number < carried.get(stream, 0):
                continue  # a long history is read from there on, and of settlements the last one
            again = EVENTS[event.topic].model_validate_json(event.model_dump_json(), strict=True)
            self.states[stream] = EVOLVE[event.noun](self.states.get(stream), again)
        assert self.states == known

    STEPS: ClassVar = (
        *(submit, *[work] * 8, settle, transfer, argue, argue, stop, stop, bill, lapse),
        *(submit, *[work] * 8, settle, transfer, argue, argue, stop, stop, bill, lapse),
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
        assert all(count == 1 for count in self.ledger.times.values())
        waiting = self.ledger.waiting
        of = [j for j in self.held if j not in self.ledger.settled or j in waiting]
        assert sum(a.held for a in accounts) == sum(self.held[j] for j in of)
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
        """Every job ends and is settled, kept holds end, and more batches are paid: each completed job was
        paid once, and nothing is held."""
        for job_id in self.jobs:
            if not job.is_final(self.states[job_id]):
                cancel = made.cancel().model_copy(update={"job_id": job_id})
                self.append(job.decide(self.states[job_id], cancel, Context(self.now, ADMIN)))
        for settler in self.settlers:
            settler.read(self, len(self.log))
        while due := [settler for settler in self.settlers if settler.due]:
            self._settle_first(self.chance.choice(due), 3)
        self.check()
        self._end_kept()
        self.now += 2 * HOUR
        for _ in range(self.chance.choice((0, 10, 40))):
            self.chance.choice((self.close, self.pay, self.pay, self.pay, self.delay, self.arrive))()
            self.check()
        assert [a for a in self.states.values() if isinstance(a, Account) and a.held] == []
        for job_id in self.jobs:
            price = self.price(job_id)
            assert self.ledger.times[job_id] == (job_id in self.held)
            payment = self.ledger.settled[job_id][1].payment if job_id in self.held else None
            assert (payment is not None) == (price > 0)
            if payment is not None:
                done = self.states[job_id].completed
                assert (payment.miner, payment.attempt) == (principal_of(done.miner_id), done.attempt)
                assert (payment.amount, payment.fee) == (price, self.fee(price))
                assert (payment.client, payment.hold) == (self.states[job_id].job.client, self.held[job_id])
                assert (payment.units, payment.unit_type) == (
                    done.units,
                    UNIT_TYPES[self.states[job_id].job.unit],
                )
        balances = {s.party: s.balance for s in self.states.values() if isinstance(s, Account)}
        assert {p: b for p, b in balances.items() if b} == {p: b for p, b in self.expected().items() if b}
        self.audit()

    def _end_kept(self) -> None:
        """A statement comes for some, the others have their time. The table is there in the end."""
        while waiting := self.ledger.waiting:
            job_id = self.chance.choice(waiting)
            started = self.at_work(job_id)
            assert started is not None
            command: Any = account.AccountLapse(job_id=job_id)
            by = SYSTEM
            if self.chance.random() < 0.5:
                command = self._bill_of(job_id, started.miner_id, started.attempt, self.seen(job_id))
                by = Principal(principal_of(started.miner_id), Role.MINER)
            else:
                self.now = max(self.now, self.ledger.settled[job_id][1].kept_until)
            self.send(command, by)
            self.check()
        ends = {j: (j in self.ledger.billed) + self.ledger.lapsed[j] for j in self.ledger.kept}
        assert ends == dict.fromkeys(self.ledger.kept, 1)

    def at_work(self, job_id: UUID) -> job.JobStarted | None:
        """The claim of the attempt that a cancellation ended."""
        events = [event for stream, event in self.log if stream == job_id]
        if len(events) < 2 or not isinstance(events[-1], job.JobCanceled):
            return None
        return events[-2] if isinstance(events[-2], job.JobStarted) else None

    def seen(self, job_id: UUID) -> int:
        """The time between claim and cancellation; less than nothing if the clock was set back."""
        started = self.at_work(job_id)
        return 0 if started is None else self.states[job_id].canceled_at - started.at

    def worth(self, job_id: UUID, stated: int) -> int:
        """What so much work costs: 0.002 for each second that was stated and seen, within limit and hold."""
        most = int(Fraction(self.states[job_id].job.max_units) * 1000)
        return min(2 * max(0, min(stated, self.seen(job_id), most)), self.held[job_id])

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
            price, contested = self.price(job_id), self.states.get(payment_stream(job_id))
            if billed := self.ledger.billed.get(job_id):
                assert not price
                said = billed.statement
                price = self.worth(job_id, said["stopped_at_ms"] - said["started_at_ms"])
                miner_id = said["miner_id"]
            elif price:
                miner_id = self.states[job_id].completed.miner_id
            if price and (contested is None or contested.status != "REFUNDED"):
                balances.update({self.states[job_id].job.client: -price})
                balances.update({principal_of(miner_id): price - self.fee(price)})
                balances.update({FEES: self.fee(price)})
        balances.subtract(self.paid_out)
        balances.update({OUTSIDE: self.paid_out.total()})
        for party, amount in self.batch.left if self.batch else ():
            balances.update({party: -amount, SETTLEMENT: amount})
        return balances

    def audit(self) -> None:
        """The auditor, which shares no code with the rules, finds nothing, and has the same accounts."""
        money, submitted = Money(), {}
        at_work: dict[UUID, dict[str, Any]] = {}
        statements: list[Statement] = []
        stored = self.chance.randrange(len(self.log))
        for position, (stream, event) in enumerate(self.log, 1):
            if position == stored:  # it goes on another day
                money = Money.load(json.loads(json.dumps(money.dump())))
            data = json.loads(event.model_dump_json())
            if isinstance(event, job.JobSubmitted):
                submitted[event.job_id] = data
                money.submitted(data)
            elif job.ends_job(event):
                completed = isinstance(event, job.JobCompleted)
                claim = at_work.get(stream) if isinstance(event, job.JobCanceled) else None
                money.job_ended(submitted[stream], data, position, completed=completed, stopped=claim)
            elif isinstance(event, job.JobStarted):
                at_work[stream] = data
            elif event.noun == "job":
                at_work.pop(stream, None)
            elif signed := money.follow(str(stream), event.topic, data, position):
                statements.append(Statement(position, *signed))
        money.finish()
        assert len(statements) == len(self.ledger.billed)
        assert check_statements(statements) is None
        assert money.kept == {}
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
    completed job is paid once, so is each payout, the hold of each job that was cancelled at work ends once,
    by a statement or its time, and an audit is clean."""
    seen: Counter[str] = Counter()
    for seed in range(shard * HISTORIES, (shard + 1) * HISTORIES):
        world = World(random.Random(seed))
        for party in CLIENTS:
            world.append(
                world.decide(account.AccountDeposit(party=party, amount=200_000, business_id="a"), ADMIN)
            )
            world.money += 200_000
        for party in PAYEES:
            world.say_where(party)
        for _ in range(STEPS):
            world.step()
        world.finish()
        seen["paid"] += len(world.ledger.paid)
        seen["refunds"] += sum(1 for p in world.ledger.sums if p.startswith("refund"))
        seen["billed"] += len(world.ledger.billed)
        seen["lapsed"] += world.ledger.lapsed.total()
        billed = [world.states[payment_stream(job_id)] for job_id in world.ledger.billed]
        seen["contested bills"] += sum(state.status != "PAID" or state.dismissed for state in billed)
        seen["cut bills"] += sum(
            event.statement["stopped_at_ms"] - event.statement["started_at_ms"] > world.seen(job_id)
            for job_id, event in world.ledger.billed.items()
        )
        seen["early lapses"] += world.early
        seen["lapses again"] += world.again
        contested = [state for state in world.states.values() if isinstance(state, Contested)]
        seen["disputed"] += sum(state.status == "DISPUTED" for state in contested)
        seen["dismissed"] += sum(state.dismissed for state in contested)
        seen["merged holds"] += world.merged
        seen["stale lists"] += world.overlaps
        seen["of many jobs"] += sum(len(one.jobs) > 2 for one in world.ledger.settlements)
        seen["batches"] += len(world.closes)
        seen["paid out"] += bool(world.paid_out)
        seen["returned"] += bool(world.returned)
        seen["in transit"] += world.account(SETTLEMENT).balance > 0
        seen.update(world.refusals)
    # The histories come to what they are about.
    assert seen["paid"] > HISTORIES
    assert seen["refunds"] > HISTORIES // 10
    assert min(seen["disputed"], seen["dismissed"]) > 0
    assert min(seen["merged holds"], seen["stale lists"], seen["of many jobs"]) > HISTORIES // 10
    assert min(seen["billed"], seen["lapsed"]) > HISTORIES // 10
    assert min(seen["contested bills"], seen["cut bills"]) > 0
    assert min(seen["early lapses"], seen["lapses again"]) > HISTORIES // 20
    assert seen["batches"] > HISTORIES // 5
    assert min(seen["paid out"], seen["returned"], seen["in transit"]) > HISTORIES // 40
    assert Code.BATCH_NOT_FOUND in seen
    assert {Code.INSUFFICIENT_FUNDS, Code.IDEMPOTENCY_MISMATCH, Code.CONFLICT_STATE} <= seen.keys()
