"""The rules of settlement batches: money leaves each payee once, and returns from a part that was refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from coordinator.crypto.settlement import NO_BATCH, batch_digest
from coordinator.domain import account, settlement
from coordinator.domain.account import OUTSIDE, SETTLEMENT, Account, account_stream
from coordinator.domain.decision import EVOLVE, Decision
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import SYSTEM, CannotFollow
from coordinator.domain.settlement import BatchPlan, SinkTerms, settlement_stream
from tests.harness.deciding import ADMIN, JOB_ID, T0

FILE = SinkTerms("file", needs_address=False, fault_of=lambda address: None, minimum=10)
CHAIN = SinkTerms("chain", needs_address=True, fault_of=lambda a: None if a[0] == "x" else "bad", minimum=10)
ROOT = "c" * 64
FIRST, SECOND_HASH = "1" * 64, "2" * 64


class World:
    """The streams of one history."""

    def __init__(self, **earned: int) -> None:
        self.states: dict[UUID, Any] = {}
        self.events: list[Any] = []
        for party, amount in earned.items():
            self.earn(party, amount)

    def append(self, decision: Decision) -> None:
        for stream, event in decision:
            self.states[stream] = EVOLVE[event.noun](self.states.get(stream), event)
            self.events.append(event)

    def account(self, party: str) -> Account:
        return self.states.get(account_stream(party)) or Account(party)

    def entry(self, party: str, amount: int, kind: str, **facts: Any) -> None:
        """An entry whose other side does not matter."""
        books = account.books.Books(T0, "root", {party: self.states.get(account_stream(party))})
        books.post(party, amount, posting=f"{kind}/{len(self.events)}", kind=kind, **facts)
        self.append(books.events)

    def earn(self, party: str, amount: int, **facts: Any) -> None:
        self.entry(party, amount, "payment", job_id=JOB_ID, attempt=1, **facts)

    def close(self, number: int = 1, sink: SinkTerms = FILE, **changed: Any) -> Decision:
        before = self.states.get(settlement_stream(number - 1))
        after = before.closed.until if before else 0
        parties = changed.pop("parties", ("farm", "rig"))
        plan = BatchPlan(number, after, after + 10, 2, ROOT, parties)._replace(**changed)
        accounts = {party: self.states.get(account_stream(party)) for party in (*plan.parties, SETTLEMENT)}
        context = settlement.CloseContext(T0, SYSTEM, plan, before, accounts, sink)
        command = settlement.SettlementClose(number=number)
        return settlement.decide(self.states.get(settlement_stream(number)), command, context)

    def of_part(self, command: Any) -> Decision:
        state = self.states.get(settlement_stream(command.number))
        parties = [SETTLEMENT, OUTSIDE, *(p.party for p in (state.in_part if state else ()))]
        accounts: Mapping[str, Any] = {p: self.states.get(account_stream(p)) for p in parties}
        return settlement.decide(state, command, settlement.PartContext(T0, SYSTEM, accounts))

    def send(self, command: Any) -> list[Any]:
        """Decide, append, and decide again: the repeat has no effect, or is refused."""
        decision = self.of_part(command)
        self.append(decision)
        return [event for _, event in decision]

    def prepare(self, part: int = 0, count: int = 2, hash: str = FIRST, nonce: int | None = 1) -> Any:
        return settlement.SettlementPrepare(
            number=1, part=part, count=count, hash=hash, nonce=nonce, body="eA=="
        )

    def balances(self) -> dict[str, int]:
        found = {s.party: s.balance for s in self.states.values() if isinstance(s, Account)}
        return {party: balance for party, balance in sorted(found.items()) if balance}

    @property
    def batch(self) -> Any:
        return self.states[settlement_stream(1)]


def refused(code: Code, work: Any, *arguments: Any) -> str:
    with pytest.raises(Refusal) as refusal:
        work(*arguments)
    assert refusal.value.code == code
    return refusal.value.detail


def test_a_batch_moves_its_money_into_transit_and_out() -> None:
    """The payees' money is in transit from the close on, and outside from the confirmation on."""
    world = World(rig=100, farm=50)
    world.append(world.close())
    assert world.balances() == {SETTLEMENT: 150}
    closed = world.batch.closed
    assert [(p.party, p.amount) for p in closed.payouts] == [("farm", 50), ("rig", 100)]
    assert (closed.total, closed.previous, closed.digest) == (
        150,
        NO_BATCH,
        batch_digest(closed.model_dump()),
    )
    world.send(world.prepare())
    world.send(settlement.SettlementSubmit(number=1, part=0, hash=FIRST))
    [*entries, confirmed] = world.send(settlement.SettlementConfirm(number=1, part=0, confirmations=3))
    assert [(e.party, e.amount, e.kind) for e in entries] == [
        (SETTLEMENT, -150, "payout_confirmed"),
        (OUTSIDE, 150, "payout_confirmed"),
    ]
    assert (confirmed.hash, confirmed.confirmations) == (FIRST, 3)
    assert (world.batch.status, world.batch.in_transit, world.balances()) == ("SETTLED", 0, {OUTSIDE: 150})


def test_a_refused_part_returns_its_money_alone() -> None:
    """One transfer after the other: the refused one is back, earned as before, and the others are paid."""
    world = World(rig=100, farm=50)
    world.append(world.close())
    world.send(world.prepare(count=1))
    refuse = settlement.SettlementRefuse(number=1, part=0, reason="the address is blocked")
    events = world.send(refuse)
    assert [(e.party, e.amount) for e in events[:-1]] == [(SETTLEMENT, -50), ("farm", 50)]
    assert world.account("farm").payable(T0) == 50
    world.send(world.prepare(part=1, count=1, hash=SECOND_HASH))
    world.send(settlement.SettlementConfirm(number=1, part=1, hash=SECOND_HASH))
    assert world.balances() == {OUTSIDE: 100, "farm": 50}
    assert (world.batch.status, world.batch.confirmed, world.batch.refused) == ("SETTLED", 100, 50)
    refused(Code.CONFLICT_STATE, world.of_part, refuse)


def test_two_coordinators_close_a_batch_once() -> None:
    """The second close of the same number gives nothing; the next one waits for the first to be settled."""
    world = World(rig=100)
    world.append(world.close())
    assert world.close() == []
    world.earn("rig", 70)
    assert "batch 1 is OPEN" in refused(Code.CONFLICT_STATE, world.close, 2)
    world.send(world.prepare(count=1))
    world.send(settlement.SettlementConfirm(number=1, part=0))
    world.append(world.close(2))
    second = world.states[settlement_stream(2)].closed
    assert (second.previous, second.after, second.until, second.total) == (
        world.batch.closed.digest,
        10,
        20,
        70,
    )


def test_a_stale_plan_is_refused() -> None:
    """A plan by tables that lag behind the log would leave a gap, or cover an event twice."""
    world = World(rig=100)
    world.append(world.close())
    world.send(world.prepare(count=1))
    world.send(settlement.SettlementConfirm(number=1, part=0))
    world.earn("rig", 70)
    for after, until in ((0, 20), (9, 20), (11, 20), (10, 9)):
        with pytest.raises(Refusal) as refusal:
            world.close(2, after=after, until=until)
        assert refusal.value.code == Code.UNAVAILABLE
    refused(Code.CONFLICT_STATE, lambda: World(rig=100).close(2))


def test_only_money_that_is_earned_and_available_is_paid() -> None:
    """Held, pending and disputed money stays, and so do deposits and small amounts."""
    world = World(rig=100)
    world.earn("rig", 40, available_at=T0 + 1)
    world.entry("rig", 500, "deposit")
    assert (world.account("rig").available(T0), world.account("rig").payable(T0)) == (600, 100)
    world.entry("farm", 900, "deposit")
    world.earn("farm", 9)
    world.append(world.close(parties=("farm", "rig", "unknown")))
    assert [(p.party, p.amount) for p in world.batch.closed.payouts] == [("rig", 100)]
    assert world.account("rig").payable(T0 + 1) == 40


@pytest.mark.parametrize(
    ("entries", "payable"),
    [
        ([(-30, "refund")], 70),
        ([(-100, "withdrawal"), (80, "deposit")], 0),
        ([(-60, "payment"), (500, "deposit")], 40),
        ([(500, "deposit"), (-550, "payment")], 50),
        ([(30, "refund")], 100),
    ],
)
def test_money_that_is_spent_is_not_earned_any_more(entries: list[tuple[int, str]], payable: int) -> None:
    """A deposit never becomes a payout, in whatever order money comes and goes."""
    world = World(rig=100)
    for amount, kind in entries:
        world.entry("rig", amount, kind)
    assert world.account("rig").payable(T0) == payable


def test_a_chain_pays_valid_addresses_of_its_own() -> None:
    """Without an address, with one of another sink or an invalid one, a party is left for later."""
    world = World(rig=100, farm=100, attic=100, shed=100)
    for party, sink, address in (("rig", "chain", "x1"), ("farm", "other", "x2"), ("attic", "chain", "y3")):
        books = account.books.Books(T0, party, {party: world.account(party)})
        books.set_payout_address(party, sink, address)
        world.append(books.events)
    world.append(world.close(sink=CHAIN, parties=("rig", "farm", "attic", "shed")))
    assert [(p.party, p.address) for p in world.batch.closed.payouts] == [("rig", "x1")]


def test_nothing_to_pay_is_no_batch() -> None:
    """An empty batch would say nothing."""
    refused(Code.CONFLICT_STATE, World(rig=9).close)


def test_other_bytes_never_take_the_place_of_prepared_ones() -> None:
    """Two coordinators prepare: the second sends the first one's bytes. A replacement has the same nonce."""
    world = World(rig=100, farm=50)
    world.append(world.close())
    world.send(world.prepare())
    assert world.send(world.prepare()) == []
    refused(Code.CONFLICT_STATE, world.of_part, world.prepare(hash=SECOND_HASH, nonce=2))
    refused(Code.CONFLICT_STATE, world.of_part, world.prepare(hash=SECOND_HASH, nonce=None))
    refused(Code.CONFLICT_STATE, world.of_part, world.prepare(hash=SECOND_HASH, count=1))
    world.send(world.prepare(hash=SECOND_HASH))
    assert [p.hash for p in world.batch.prepared] == [FIRST, SECOND_HASH]
    # The sink may have taken the older ones.
    world.send(settlement.SettlementConfirm(number=1, part=0, hash=FIRST))
    assert world.batch.status == "SETTLED"


def test_a_fork_sends_the_same_bytes_again() -> None:
    """Submitted, reverted, submitted: the bytes stay the same, and the part is confirmed once."""
    world = World(rig=100, farm=50)
    world.append(world.close())
    world.send(world.prepare())
    submit = settlement.SettlementSubmit(number=1, part=0, hash=FIRST)
    revert = settlement.SettlementRevert(number=1, part=0)
    assert world.send(revert) == []
    for _ in range(2):
        assert len(world.send(submit)) == 1
        assert world.send(submit) == []
        assert len(world.send(revert)) == 1
        assert (world.batch.status, len(world.batch.prepared)) == ("PREPARED", 1)
    world.send(settlement.SettlementConfirm(number=1, part=0))
    refused(Code.CONFLICT_STATE, world.of_part, settlement.SettlementConfirm(number=1, part=0))
    assert world.balances() == {OUTSIDE: 150}


def test_nothing_happens_before_its_time() -> None:
    """No batch, nothing prepared, other bytes, more payouts than there are: refused."""
    world = World(rig=100)
    refused(Code.BATCH_NOT_FOUND, world.of_part, world.prepare())
    world.append(world.close())
    refused(Code.CONFLICT_STATE, world.of_part, settlement.SettlementConfirm(number=1, part=0))
    refused(Code.CONFLICT_STATE, world.of_part, settlement.SettlementSubmit(number=1, part=0, hash=FIRST))
    refused(Code.INVALID_PAYLOAD, world.of_part, world.prepare(count=2))
    refused(Code.CONFLICT_STATE, world.of_part, world.prepare(part=1))
    world.send(world.prepare(count=1))
    confirm = settlement.SettlementConfirm(number=1, part=0, hash=SECOND_HASH)
    refused(Code.CONFLICT_STATE, world.of_part, confirm)


def test_a_log_that_the_rules_would_not_write_stops_its_reader() -> None:
    """A second confirmation, or a part out of turn, can't be folded."""
    world = World(rig=100)
    world.append(world.close())
    world.send(world.prepare(count=1))
    confirmed = world.send(settlement.SettlementConfirm(number=1, part=0))[-1]
    for event in (confirmed, world.batch.closed, confirmed.model_copy(update={"part": 1})):
        with pytest.raises(CannotFollow):
            EVOLVE["settlement"](world.batch, event)


def test_a_payout_address_is_set_once_and_removed() -> None:
    """A repeat gives no event; None removes it."""

    def set_to(state: Any, address: str | None) -> Decision:
        command = account.AccountSetPayoutAddress(address=address)
        return account.decide(state, command, account.AddressContext(T0, ADMIN, "chain"))

    [(stream, event)] = set_to(None, "x1")
    assert stream == account_stream("root")
    state = EVOLVE["account"](None, event)
    assert (state.payout_sink, state.payout_address, state.balance) == ("chain", "x1", 0)
    assert set_to(state, "x1") == []
    state = EVOLVE["account"](state, set_to(state, None)[0].event)
    assert state.payout_address == ""
    assert set_to(state, None) == []
    assert set_to(None, None) == []
