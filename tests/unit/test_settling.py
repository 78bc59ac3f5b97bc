"""The settlement of many jobs: what each party gets, which jobs are in it, and how large it is."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from coordinator.crypto.log.leaf import MAX_STATE_BYTES, leaf, read_leaf
from coordinator.domain import account
from coordinator.domain.account import (
    FEES,
    MAX_SETTLED,
    PAYMENTS_STREAM,
    Account,
    AccountPosted,
    AccountReleased,
    EndedJob,
    Payment,
    PaymentsSettled,
    SettledJob,
    Settlements,
    Terms,
    Unpaid,
)
from coordinator.domain.account.events import MAX_AMOUNT
from coordinator.domain.decision import EVOLVE, Decision
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import SYSTEM, CannotFollow, Principal
from coordinator.storage.log.mapping import encode
from tests.harness.cases import every
from tests.harness.deciding import ADMIN, ALICE, BOB, OTHER_RIG, RIG, T0

TERMS = Terms(fee_bps=1000, window_millis=60_000)


def ended(number: int, client: str = "alice", miner: str | None = "rig", price: int = 100) -> EndedJob:
    """A job that ended at position 10 * number, and for which 300 was set aside."""
    job = EndedJob(UUID(int=number), 10 * number, client, 300)
    if miner is None:
        return job
    return job._replace(miner=miner, price=price, units="1.000", unit_type="gpu_seconds")


def settle(state: Settlements | None, *jobs: EndedJob, terms: Terms = TERMS) -> Decision:
    parties = {job.client for job in jobs} | {job.miner for job in jobs if job.miner} | {FEES}
    held = {job.client for job in jobs}
    accounts = {p: Account(p, 10_000, 300 * len(jobs)) if p in held else None for p in parties}
    command = account.AccountSettle(after=0, jobs=tuple((job.job_id, job.position) for job in jobs))
    return account.decide(state, command, account.SettleContext(T0, SYSTEM, jobs, accounts, terms))


def moved(decision: Decision) -> dict[str, Any]:
    """By party: the amount, and the ended holds."""
    found: dict[str, Any] = {}
    for _, event in decision:
        if isinstance(event, AccountPosted):
            found[f"{event.party} {'+' if event.amount > 0 else '-'}"] = event.amount, event.released
        elif isinstance(event, AccountReleased):
            found[f"{event.party} -"] = 0, event.amount
    return found


def entries(decision: Decision) -> list[AccountPosted]:
    return [event for _, event in decision if isinstance(event, AccountPosted)]


def settlement_of(decision: Decision) -> PaymentsSettled:
    """The last event of a decision, which has no other one in its stream."""
    [settled] = [event for stream, event in decision if stream == PAYMENTS_STREAM]
    assert decision[-1].event is settled
    assert isinstance(settled, PaymentsSettled)
    return settled


def test_a_settlement_has_one_entry_for_each_client_each_miner_and_the_fees() -> None:
    """The sums of its jobs; a client whose jobs cost nothing gets its holds back without an entry."""
    decision = settle(
        None, ended(1), ended(2, miner="farm"), ended(3, miner=None), ended(4), ended(5, "bob", None)
    )
    assert moved(decision) == {
        "alice -": (-300, 1200),
        "bob -": (0, 300),
        "rig +": (180, 0),
        "farm +": (90, 0),
        "@fees +": (30, 0),
    }
    settled = settlement_of(decision)
    assert (settled.number, settled.after, settled.until) == (1, 0, 50)
    assert [payment.job_id.int for payment in settled.payments] == [1, 2, 4]
    assert [unpaid.job_id.int for unpaid in settled.unpaid] == [3, 5]
    assert {entry.posting for entry in entries(decision)} == {"payments/1"}
    assert {e.available_at for e in entries(decision) if e.amount > 0} == {settled.available_at}


def test_one_that_is_client_and_miner_has_an_entry_for_each() -> None:
    """The money that it pays is never set off against what it earns."""
    decision = settle(None, ended(1, "both", "both"), ended(2, "both", "rig"))
    assert moved(decision) == {"both -": (-200, 600), "both +": (90, 0), "rig +": (90, 0), "@fees +": (20, 0)}


@every(
    "price, fee_bps, paid",
    [
        (0, 1000, None),
        (1, 1000, (1, 0)),
        (9, 1000, (9, 0)),
        (10, 1000, (10, 1)),
        (300, 10_000, (300, 300)),
        (301, 0, (300, 0)),
    ],
)
def test_a_payment_is_the_price_within_the_hold(
    price: int, fee_bps: int, paid: tuple[int, int] | None
) -> None:
    """The fee is rounded down; a price of nothing is no payment, and none of it has an entry of zero."""
    decision = settle(None, ended(1, price=price), terms=Terms(fee_bps, 0))
    settled = settlement_of(decision)
    assert [(payment.amount, payment.fee) for payment in settled.payments] == ([paid] if paid else [])
    assert len(settled.unpaid) == (paid is None)
    assert 0 not in [entry.amount for entry in entries(decision)]


def test_settled_jobs_are_left_out_of_the_next_settlement() -> None:
    """By the positions of their ends: a list may be stale, and a command may come twice."""
    state = Settlements(number=4, until=20)
    jobs = [ended(number) for number in (1, 2, 3)]
    settled = settlement_of(settle(state, *jobs))
    assert [job.int for job in settled.jobs] == [3]
    assert (settled.number, settled.after, settled.until) == (5, 20, 30)
    assert settle(EVOLVE["payments"](state, settled), *jobs) == []


def test_jobs_without_a_hold_are_in_no_settlement() -> None:
    """They were submitted before accounts were kept."""
    free = ended(2)._replace(hold=0)
    assert settle(None, free) == []
    settled = settlement_of(settle(None, ended(1), free))
    assert ([job.int for job in settled.jobs], settled.until) == ([1], 10)


def test_a_log_that_the_rules_would_not_write_stops_its_reader() -> None:
    """A settlement follows the one before by its number and its range; a reader may begin at any one."""
    first = settlement_of(settle(None, ended(1)))
    second = settlement_of(settle(Settlements(1, 10), ended(2)))
    state = EVOLVE["payments"](None, first)
    assert EVOLVE["payments"](state, second) == EVOLVE["payments"](None, second) == Settlements(2, 20)
    for event in (first, *(second.model_copy(update=u) for u in ({"number": 3}, {"after": 9}))):
        with pytest.raises(CannotFollow):
            EVOLVE["payments"](state, event)


@every(
    "topic, status, allowed",
    [
        ("Disputed", None, True),
        ("Disputed", "DISPUTED", False),
        ("Disputed", "PAID", False),
        ("Disputed", "REFUNDED", False),
        ("Dismissed", None, False),
        ("Dismissed", "DISPUTED", True),
        ("Dismissed", "PAID", False),
        ("Dismissed", "REFUNDED", False),
        ("Refunded", None, True),
        ("Refunded", "DISPUTED", True),
        ("Refunded", "PAID", True),
        ("Refunded", "REFUNDED", False),
    ],
)
def test_what_may_become_of_a_payment(topic: str, status: Any, allowed: bool) -> None:
    """One dispute, one dismissal, one refund. It is paid again by a dismissal only."""
    facts: dict[str, Any] = {"at": T0, "by": "root", "job_id": UUID(int=1), "client": "alice", "reason": ""}
    facts |= {"miner": "rig", "amount": 100, "credit": 90, "available_at": T0}
    facts |= {"disputed": False} if topic == "Refunded" else {}
    event = getattr(account, f"Payment{topic}")(**facts)
    dismissed = status == "PAID"
    state = None if status is None else account.Contested(UUID(int=1), status, dismissed)
    if allowed:
        after: Any = {"Dismissed": "PAID"}.get(topic, topic.upper())
        dismissed = dismissed or topic == "Dismissed"
        assert EVOLVE["payment"](state, event) == account.Contested(UUID(int=1), after, dismissed)
    else:
        with pytest.raises(CannotFollow):
            EVOLVE["payment"](state, event)


@every("command", [account.AccountDispute, account.AccountDismiss, account.AccountRefund])
def test_a_job_without_a_payment_has_nothing_to_dispute(command: Any) -> None:
    """One that is not settled, or is another client's, is not found; one that cost nothing is told so."""

    def code(settled: SettledJob | None, principal: Any) -> Code:
        context = account.PaymentContext(T0, principal, settled, None, None, None)
        with pytest.raises(Refusal) as refused:
            account.decide(None, command(job_id=UUID(int=1)), context)
        return refused.value.code

    assert code(None, ADMIN) == Code.JOB_NOT_FOUND
    free = SettledJob(None, "alice", T0)
    assert code(free, BOB) == Code.JOB_NOT_FOUND
    assert code(free, ALICE) == code(free, ADMIN) == Code.CONFLICT_STATE


@every(
    "jobs",
    [
        [],
        [(UUID(int=1), -1)],
        [(UUID(int=1), 1.5)],
        [(UUID(int=1), 2**53)],
        [("job", 1)],
        [(UUID(int=1),)],
        [(UUID(int=n), n) for n in range(MAX_SETTLED + 1)],
    ],
)
def test_a_settlement_command_has_bounded_jobs(jobs: list[Any]) -> None:
    """Each with the position of its end."""
    with pytest.raises(ValidationError):
        account.AccountSettle.model_validate({"jobs": jobs})


@every("paid, kept_jobs", [(MAX_SETTLED, 0), (0, 0), (0, MAX_SETTLED)])
def test_the_largest_settlement_fits_a_leaf_whole(paid: int, kept_jobs: int) -> None:
    """With the longest names and amounts, so that an entry of the log can be read without the database."""
    longest, most = "n" * 63, MAX_AMOUNT
    payment = Payment(
        job_id=UUID(int=2**128 - 1),
        client=longest,
        miner=longest,
        attempt=1_000_000,
        hold=most,
        amount=most,
        fee=most,
        units="9" * 12 + "." + "9" * 9,
        unit_type="u" * 32,
    )
    unpaid = Unpaid(job_id=payment.job_id, client=longest, hold=most)
    kept = account.Kept(job_id=payment.job_id, client=longest, miner=longest, attempt=1_000_000, hold=most)
    settled = PaymentsSettled(
        at=2**53 - 1,
        by=longest,
        number=2**53 - 1,
        after=2**53 - 1,
        until=2**53 - 1,
        available_at=2**53 - 1,
        payments=(payment,) * paid,
        unpaid=(unpaid,) * (MAX_SETTLED - paid - kept_jobs),
        kept=(kept,) * kept_jobs,
        kept_until=2**53 - 1,
    )
    topic, state = encode(settled)
    assert len(state) <= MAX_STATE_BYTES
    found = read_leaf(leaf(2**53, str(PAYMENTS_STREAM), 2**31, topic, b"{}" + b" " * 400, state))
    assert found.state == state


# --- work on cancelled jobs ---------------------------------------------------------------------------------
PARTIAL = TERMS._replace(partial_millis=30_000)
WORK = account.StoppedWork("0.100", "gpu_seconds", 100)
KEPT = account.Kept(job_id=UUID(int=1), client="alice", miner="rig", attempt=2, hold=300)
SETTLED = SettledJob(None, "alice", T0, KEPT, T0 + 30_000)
BILL = account.AccountBill(
    job_id=KEPT.job_id, attempt=2, miner_id="rig", session_id="session-1", statement={"version": "1 partial"}
)
LAPSE = account.AccountLapse(job_id=KEPT.job_id)


def stop(
    command: account.AccountBill | account.AccountLapse = BILL,
    state: account.Contested | None = None,
    *,
    now: int = T0,
    by: Principal = RIG,
    settled: SettledJob | None = SETTLED,
    work: account.StoppedWork | None = WORK,
    terms: Terms = PARTIAL,
) -> Decision:
    """A bill by default. The client has 10,000, of which 300 are held."""
    is_bill = isinstance(command, account.AccountBill)
    principal, found = (by, work) if is_bill else (SYSTEM, None)
    accounts = Account("alice", 10_000, 300), None, None
    return account.decide(
        state, command, account.BillContext(now, principal, settled, found, *accounts, terms)
    )


def refused(**facts: Any) -> Code:
    with pytest.raises(Refusal) as refusal:
        stop(**facts)
    return refusal.value.code


def contested(decision: Decision) -> account.Contested:
    """The state of the payment after a decision."""
    stream, event = decision[-1]
    assert stream == account.payment_stream(KEPT.job_id)
    state: account.Contested = EVOLVE["payment"](None, event)
    return state


def test_the_hold_of_a_job_that_was_cancelled_at_work_is_kept() -> None:
    """It waits for the statement; without the setting it ends with the others."""
    stopped = ended(2, miner=None)._replace(stopped="rig", attempt=2)
    queued = ended(3, miner=None)
    decision = settle(None, ended(1), stopped, queued, terms=PARTIAL)
    settled = settlement_of(decision)
    assert settled.kept == (account.Kept(**{**KEPT.model_dump(), "job_id": UUID(int=2)}),)
    assert (settled.kept_until, settled.until) == (T0 + 30_000, 30)
    assert [unpaid.job_id.int for unpaid in settled.unpaid] == [3]
    assert [job.int for job in settled.jobs] == [1, 3, 2]
    assert moved(decision)["alice -"] == (-100, 600)

    free = settlement_of(settle(None, stopped))
    assert (free.kept, free.kept_until, [one.job_id.int for one in free.unpaid]) == ((), None, [2])


def test_a_settlement_of_kept_holds_alone_moves_nothing() -> None:
    """It is in the log all the same: it says how far jobs are settled."""
    [(stream, event)] = settle(None, ended(1, miner=None)._replace(stopped="rig"), terms=PARTIAL)
    assert isinstance(event, PaymentsSettled)
    assert (stream, event.until, len(event.kept)) == (PAYMENTS_STREAM, 10, 1)


@every(
    "price, fee_bps, paid",
    [
        (1, 1000, (1, 0)),
        (100, 1000, (100, 10)),
        (300, 10_000, (300, 300)),
        (301, 0, (300, 0)),
    ],
)
def test_work_is_paid_within_the_hold_which_ends(price: int, fee_bps: int, paid: tuple[int, int]) -> None:
    """As a payment of a completed job is: by one entry for each party, and the same fee."""
    amount, fee = paid
    decision = stop(work=WORK._replace(price=price), terms=Terms(fee_bps, 60_000, 30_000))
    expected: dict[str, Any] = {"alice -": (-amount, 300), "rig +": (amount - fee, 0), "@fees +": (fee, 0)}
    assert moved(decision) == {party: one for party, one in expected.items() if one[0]}
    assert sum(entry.amount for entry in entries(decision)) == 0
    assert {entry.posting for entry in entries(decision)} == {f"partial/{KEPT.job_id}"}
    event = decision[-1].event
    assert isinstance(event, account.PaymentBilled)
    assert (event.amount, event.credit, event.fee, event.hold) == (amount, amount - fee, fee, 300)
    assert (event.units, event.unit_type, event.attempt) == ("0.100", "gpu_seconds", 2)
    assert event.statement == BILL.statement
    credits = {entry.available_at for entry in entries(decision) if entry.amount > 0}
    assert credits == {event.available_at}
    assert T0 + 60_000 <= event.available_at < T0 + 61_000


def test_work_that_costs_nothing_ends_the_hold() -> None:
    decision = stop(work=WORK._replace(price=0))
    assert moved(decision) == {"alice -": (0, 300)}
    assert contested(decision).status == "RELEASED"


def test_a_hold_ends_by_its_time_and_not_before() -> None:
    """Once it is over, it needs no statement; a statement that comes before the system's command counts."""
    with pytest.raises(Refusal) as early:
        stop(LAPSE, now=T0 + 29_999)
    assert early.value.code == Code.CONFLICT_STATE
    decision = stop(LAPSE, now=T0 + 30_000)
    assert moved(decision) == {"alice -": (0, 300)}
    assert contested(decision) == account.Contested(KEPT.job_id, "RELEASED")
    assert contested(stop(BILL, now=T0 + 30_001)).billed is not None


def test_a_hold_ends_once() -> None:
    """A repeat has no second effect; what comes after the other one changes nothing."""
    billed = contested(stop())
    lapsed = contested(stop(LAPSE, now=T0 + 30_000))
    more = WORK._replace(price=299)
    assert stop(BILL, billed) == stop(BILL, billed, work=more) == []
    assert stop(LAPSE, billed, now=T0 + 30_000) == []
    assert stop(LAPSE, lapsed, now=T0 + 30_000) == []
    with pytest.raises(Refusal) as late:
        stop(BILL, lapsed)
    assert late.value.code == Code.CONFLICT_STATE


def test_only_the_miner_at_work_is_paid() -> None:
    """By the statement of the attempt that was cancelled; other jobs have nothing for it."""
    assert refused(by=OTHER_RIG) == Code.STALE_ATTEMPT
    assert refused(command=BILL.model_copy(update={"attempt": 1})) == Code.STALE_ATTEMPT
    assert refused(work=None) == Code.STALE_ATTEMPT
    for command in (BILL, LAPSE):
        assert refused(command=command, settled=None) == Code.JOB_NOT_FOUND
        assert refused(command=command, settled=SettledJob(None, "alice", T0)) == Code.CONFLICT_STATE
    # A repeat of another miner learns nothing either.
    assert refused(state=contested(stop()), by=OTHER_RIG) == Code.STALE_ATTEMPT


def test_paid_work_is_disputed_and_refunded_as_any_payment() -> None:
    """Until the end that its own event tells, not its settlement; a hold that waits is no payment yet."""
    dispute, refund = account.AccountDispute(job_id=KEPT.job_id), account.AccountRefund(job_id=KEPT.job_id)
    decision = stop(now=T0 + 20_000)
    states: dict[UUID, Any] = {account.account_stream("alice"): Account("alice", 10_000, 300)}
    for stream, event in decision:
        states[stream] = EVOLVE[event.noun](states.get(stream), event)
    accounts = [states[account.account_stream(party)] for party in ("alice", "rig", FEES)]
    state = contested(decision)
    assert state.billed is not None
    until = state.billed.available_at

    def change(command: Any, now: int, before: account.Contested | None = state) -> Decision:
        return account.decide(before, command, account.PaymentContext(now, ADMIN, SETTLED, *accounts))

    [frozen, (_, disputed)] = change(dispute, until - 1)
    assert isinstance(frozen.event, account.AccountDisputed)
    assert isinstance(disputed, account.PaymentDisputed)
    assert (frozen.event.amount, disputed.amount, disputed.credit) == (90, 100, 90)
    assert disputed.available_at == until > SETTLED.available_at
    refunded = change(refund, until + 1)
    assert moved(refunded) == {"alice +": (100, 0), "rig -": (-90, 0), "@fees -": (-10, 0)}
    assert {entry.attempt for entry in entries(refunded)} == {2}
    lapsed = account.Contested(KEPT.job_id, "RELEASED")
    for command, now, before in ((dispute, until, state), (dispute, T0, None), (refund, T0, lapsed)):
        with pytest.raises(Refusal) as refusal:
            change(command, now, before)
        assert refusal.value.code == Code.CONFLICT_STATE


def test_a_log_that_pays_work_twice_stops_its_reader() -> None:
    """A bill and a lapse are the first event of their payment; there is no dispute of what was not paid."""
    ends = [stop()[-1].event, stop(LAPSE, now=T0 + 30_000)[-1].event]
    for first in ends:
        for second in ends:
            with pytest.raises(CannotFollow):
                EVOLVE["payment"](EVOLVE["payment"](None, first), second)
    facts: dict[str, Any] = {
        name: getattr(ends[1], name) for name in account.PaymentDisputed.model_fields if name != "reason"
    }
    disputed = account.PaymentDisputed(**facts, reason="idle")
    with pytest.raises(CannotFollow):
        EVOLVE["payment"](EVOLVE["payment"](None, ends[1]), disputed)
