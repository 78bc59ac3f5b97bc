"""The rules of money: holds, payments, refunds and transfers.

Every decision that moves money appends the entries of one posting, which sum to zero, each to the stream of
its account. A repeat of an applied command gives no events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never, cast

from coordinator.domain.account.books import Books, held
from coordinator.domain.account.commands import (
    AccountBill,
    AccountCommand,
    AccountDeposit,
    AccountDismiss,
    AccountDispute,
    AccountLapse,
    AccountRefund,
    AccountSetPayoutAddress,
    AccountSettle,
    AccountWithdraw,
)
from coordinator.domain.account.contexts import (
    AddressContext,
    BillContext,
    PaymentContext,
    SettleContext,
    SettledJob,
    Terms,
    TransferContext,
)
from coordinator.domain.account.events import (
    FEES,
    MAX_TOTAL,
    OUTSIDE,
    SETTLEMENT,
    Kept,
    Payment,
    PaymentBilled,
    PaymentDismissed,
    PaymentDisputed,
    PaymentLapsed,
    PaymentRefunded,
    PaymentsSettled,
    TransferMade,
    Unpaid,
)
from coordinator.domain.account.state import (
    PAYMENTS_STREAM,
    Account,
    AccountState,
    Contested,
    PaymentState,
    Settlements,
    SettlementsState,
    TransferState,
    payment_stream,
    transfer_stream,
)
from coordinator.domain.decision import Decision
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Millis, Principal, Role

BASIS_POINTS = 10_000
MOMENTS = 64
"""Pending credits become available at one of so many moments within a window: they bound the state."""


def hold(state: AccountState, party: str, amount: int, now: Millis, principal: Principal) -> Decision:
    """The hold for a new job; none for an amount of 0. Raises Refusal: INSUFFICIENT_FUNDS."""
    if amount == 0:
        return []
    available = (state or Account(party)).available(now)
    if available < amount:
        raise _insufficient(party, available, amount)
    return held(state, party, amount, now, principal.name)


def decide(
    state: TransferState | SettlementsState | PaymentState | AccountState,
    command: AccountCommand,
    context: TransferContext | SettleContext | BillContext | PaymentContext | AddressContext,
) -> Decision:
    """The events that `command` leads to; none for a repeat. Raises `Refusal`.

    `state`: that of the transfer, for a deposit and a withdrawal; that of all settlements, for the next one;
    that of the account, for its payout address; else that of the job's payment.
    """
    match command:
        case AccountDeposit() | AccountWithdraw():
            assert isinstance(context, TransferContext)
            return _transfer(cast("TransferState", state), command, context)
        case AccountSettle():
            assert isinstance(context, SettleContext)
            return _settle(cast("SettlementsState", state), command, context)
        case AccountBill() | AccountLapse():
            assert isinstance(context, BillContext)
            return _bill(cast("PaymentState", state), command, context)
        case AccountDispute() | AccountDismiss() | AccountRefund():
            assert isinstance(context, PaymentContext)
            return _change(cast("PaymentState", state), command, context)
        case AccountSetPayoutAddress():
            assert isinstance(context, AddressContext)
            return _address(cast("AccountState", state), command, context)
        case _:
            assert_never(command)


def _transfer(
    state: TransferState, command: AccountDeposit | AccountWithdraw, context: TransferContext
) -> Decision:
    is_deposit = isinstance(command, AccountDeposit)
    kind = "deposit" if is_deposit else "withdrawal"
    if state is not None:
        if (state.kind, state.amount) != (kind, command.amount):
            raise Refusal(
                Code.IDEMPOTENCY_MISMATCH,
                f"business_id: {command.business_id} is a {state.kind} of {state.amount}; use another id",
            )
        return []
    if command.party == OUTSIDE:
        raise Refusal(Code.INVALID_PAYLOAD, f"party: {OUTSIDE} is the other side of every transfer")
    if command.party == SETTLEMENT:
        raise Refusal(Code.INVALID_PAYLOAD, f"party: {SETTLEMENT} is money in transit; its batch ends it")
    accounts = {command.party: context.account, OUTSIDE: context.outside}
    books = Books(context.now, context.principal.name, accounts)
    if is_deposit and command.amount - books.of(OUTSIDE).balance > MAX_TOTAL:
        raise Refusal(Code.INVALID_PAYLOAD, f"amount: all accounts together may hold {MAX_TOTAL} at most")
    if not is_deposit and (available := books.available(command.party)) < command.amount:
        raise _insufficient(command.party, available, command.amount)
    amount = command.amount if is_deposit else -command.amount
    stream = transfer_stream(command.party, command.business_id)
    facts: dict[str, Any] = {"posting": f"{kind}/{command.party}/{command.business_id}", "kind": kind}
    books.post(command.party, amount, reason=command.reason, **facts)
    books.post(OUTSIDE, -amount, reason=command.reason, **facts)
    made = TransferMade(
        at=context.now,
        by=context.principal.name,
        party=command.party,
        business_id=command.business_id,
        kind=kind,
        amount=command.amount,
        reason=command.reason,
    )
    return books.also(stream, made)


def _settle(state: SettlementsState, command: AccountSettle, context: SettleContext) -> Decision:
    number, after = (0, 0) if state is None else (state.number, state.until)
    if command.after > after:
        raise Refusal(Code.CONFLICT_STATE, "jobs that ended before these are not settled; settle them first")
    # A job that ended before is settled: two coordinators, or a command that is sent again.
    jobs = [job for job in context.jobs if job.position > after and job.hold]
    if not jobs:
        return []
    terms = context.terms
    available_at = _available_at(terms, context.now)
    payments: list[Payment] = []
    unpaid: list[Unpaid] = []
    kept: list[Kept] = []
    facts: dict[str, Any]
    debits: dict[str, _Debit] = {}
    credits: dict[str, int] = {}
    for job in jobs:
        if job.stopped is not None and terms.partial_millis:
            facts = {"job_id": job.job_id, "client": job.client, "attempt": job.attempt, "hold": job.hold}
            kept.append(Kept(**facts, miner=job.stopped))
            continue
        debit = debits.setdefault(job.client, _Debit())
        debit.jobs += 1
        debit.holds += job.hold
        # 1. Never more than was set aside; the rest returns with it.
        amount = min(job.price, job.hold)
        if job.miner is None or amount == 0:
            unpaid.append(Unpaid(job_id=job.job_id, client=job.client, hold=job.hold))
            continue
        # 2. The fee is rounded down: the miner gets the rest.
        fee = amount * terms.fee_bps // BASIS_POINTS
        debit.amount += amount
        credits[job.miner] = credits.get(job.miner, 0) + amount - fee
        payments.append(
            Payment(
                job_id=job.job_id,
                client=job.client,
                miner=job.miner,
                attempt=job.attempt,
                hold=job.hold,
                amount=amount,
                fee=fee,
                units=job.units,
                unit_type=job.unit_type,
            )
        )
    # 3. One entry for each client, each miner and the fees.
    fees = sum(payment.fee for payment in payments)
    books = Books(context.now, context.principal.name, dict(context.accounts))
    facts = {"posting": f"payments/{number + 1}", "kind": "payment"}
    for party, debit in debits.items():
        if debit.amount:
            books.post(party, -debit.amount, released=debit.holds, **facts)
        else:
            books.release(party, debit.jobs, debit.holds)
    for party, amount in (*credits.items(), (FEES, fees)):
        if amount:
            books.post(party, amount, available_at=available_at, **facts)
    settled = PaymentsSettled(
        at=context.now,
        by=context.principal.name,
        number=number + 1,
        after=after,
        until=jobs[-1].position,
        available_at=available_at,
        payments=tuple(payments),
        unpaid=tuple(unpaid),
        kept=tuple(kept),
        kept_until=context.now + terms.partial_millis if kept else None,
    )
    return books.also(PAYMENTS_STREAM, settled)


def _available_at(terms: Terms, now: Millis) -> Millis:
    step = max(1, terms.window_millis // MOMENTS)
    return -(-(now + terms.window_millis) // step) * step


@dataclass(slots=True)
class _Debit:
    """The part of one client in a settlement."""

    jobs: int = 0
    holds: int = 0
    amount: int = 0


def _bill(state: PaymentState, command: AccountBill | AccountLapse, context: BillContext) -> Decision:
    settled, work, now = context.settled, context.work, context.now
    if settled is None:
        raise Refusal(Code.JOB_NOT_FOUND, "no such job is settled; a job is settled a moment after its end")
    kept = settled.kept
    if kept is None:
        raise Refusal(Code.CONFLICT_STATE, "nothing is held for work on this job")
    if isinstance(command, AccountLapse):
        if state is not None:
            return []
        if now < settled.kept_until:
            raise Refusal(Code.CONFLICT_STATE, "the hold still waits for a partial statement")
    elif (command.attempt, context.principal.name) != (kept.attempt, kept.miner) or work is None:
        raise Refusal(Code.STALE_ATTEMPT, "not the attempt that was cancelled")
    elif state is not None:
        if state.billed is None:
            raise Refusal(Code.CONFLICT_STATE, "the hold has ended: the statement came too late")
        return []
    # Never more than was set aside.
    amount = 0 if work is None else min(work.price, kept.hold)
    fee = amount * context.terms.fee_bps // BASIS_POINTS
    available_at = _available_at(context.terms, now)
    accounts = {kept.miner: context.miner, FEES: context.fees, kept.client: context.client}
    books = Books(now, context.principal.name, accounts)
    facts: dict[str, Any] = {
        "at": now,
        "by": context.principal.name,
        "job_id": kept.job_id,
        "client": kept.client,
        "miner": kept.miner,
        "amount": amount,
        "credit": amount - fee,
        "available_at": available_at,
        "hold": kept.hold,
    }
    stream = payment_stream(kept.job_id)
    if work is None or not amount or isinstance(command, AccountLapse):
        books.release(kept.client, 1, kept.hold)
        return books.also(stream, PaymentLapsed(**facts))
    paid: dict[str, Any] = {"attempt": kept.attempt, "units": work.units, "unit_type": work.unit_type}
    entry = {"posting": f"partial/{kept.job_id}", "kind": "payment", "job_id": kept.job_id, **paid}
    books.post(kept.client, -amount, released=kept.hold, **entry)
    for party, part in ((kept.miner, amount - fee), (FEES, fee)):
        if part:
            books.post(party, part, available_at=available_at, **entry)
    billed = PaymentBilled(**facts, **paid, fee=fee, statement=command.statement)
    return books.also(stream, billed)


def _change(
    state: PaymentState, command: AccountDispute | AccountDismiss | AccountRefund, context: PaymentContext
) -> Decision:
    settled = context.settled
    # A client learns nothing of another client's job.
    if settled is None or not _may_see(settled, context.principal):
        raise Refusal(Code.JOB_NOT_FOUND, "no payment of such a job; a job is paid a moment after its end")
    payment: Payment | PaymentBilled | None = settled.payment
    available_at = settled.available_at
    if state is not None and state.billed is not None:
        payment, available_at = state.billed, state.billed.available_at
    if payment is None:
        raise Refusal(Code.CONFLICT_STATE, "the job cost nothing, or nothing yet")
    common: dict[str, Any] = {
        "at": context.now,
        "by": context.principal.name,
        "job_id": payment.job_id,
        "client": payment.client,
        "miner": payment.miner,
        "amount": payment.amount,
        "credit": payment.amount - payment.fee,
        "available_at": available_at,
        "reason": command.reason,
    }
    accounts = {payment.miner: context.miner, FEES: context.fees, payment.client: context.client}
    books = Books(context.now, context.principal.name, accounts)
    stream, earned = payment_stream(payment.job_id), payment.amount - payment.fee
    status = "PAID" if state is None else state.status
    match command:
        case AccountDispute():
            if status == "DISPUTED":
                return []
            if status != "PAID" or (state is not None and state.dismissed):
                raise Refusal(Code.CONFLICT_STATE, "the payment was refunded, or its dispute dismissed")
            if context.now >= available_at:
                raise Refusal(
                    Code.CONFLICT_STATE, "the time for a dispute is over; ask an admin for a refund"
                )
            if earned and not books.is_pending(payment.miner, earned, available_at):
                raise Refusal(Code.CONFLICT_STATE, "the credit is not pending; ask an admin for a refund")
            if earned:
                books.dispute(payment.miner, payment.job_id, earned, available_at)
            return books.also(stream, PaymentDisputed(**common))
        case AccountDismiss():
            if status != "DISPUTED":
                if state is not None and state.dismissed:
                    return []
                raise Refusal(Code.CONFLICT_STATE, "the payment is not disputed")
            if earned:
                books.dismiss(payment.miner, payment.job_id, earned, available_at)
            return books.also(stream, PaymentDismissed(**common))
        case AccountRefund():
            if status == "REFUNDED":
                return []
            disputed = status == "DISPUTED"
            _refund(payment, available_at, command.reason, books, disputed=disputed)
            return books.also(stream, PaymentRefunded(**common, disputed=disputed))
        case _:
            assert_never(command)


def _refund(
    payment: Payment | PaymentBilled, available_at: Millis, reason: str, books: Books, *, disputed: bool
) -> None:
    facts: dict[str, Any] = {
        "posting": f"refund/{payment.job_id}",
        "kind": "refund",
        "job_id": payment.job_id,
        "attempt": payment.attempt,
        "units": payment.units,
        "unit_type": payment.unit_type,
        "reason": reason,
    }
    for party, amount in ((payment.miner, payment.amount - payment.fee), (FEES, payment.fee)):
        if not amount:
            continue
        frozen = amount if disputed and party == payment.miner else 0
        # It comes from the part of the balance that it went to: pending, disputed, or available.
        is_pending = not frozen and books.is_pending(party, amount, available_at)
        if not frozen and not is_pending and (available := books.available(party)) < amount:
            raise _insufficient(party, available, amount)
        until = available_at if is_pending else None
        books.post(party, -amount, unfrozen=frozen, available_at=until, **facts)
    books.post(payment.client, payment.amount, **facts)


def _address(state: AccountState, command: AccountSetPayoutAddress, context: AddressContext) -> Decision:
    party = context.principal.name
    before = state or Account(party)
    address = command.address or ""
    if (before.payout_sink, before.payout_address) == (context.sink, address):
        return []
    if not address and not before.payout_address:
        return []
    books = Books(context.now, party, {party: state})
    books.set_payout_address(party, context.sink, address)
    return books.events


def _may_see(settled: SettledJob, principal: Principal) -> bool:
    return principal.role is not Role.CLIENT or principal.name == settled.client


def _insufficient(party: str, available: int, needed: int) -> Refusal:
    return Refusal(
        Code.INSUFFICIENT_FUNDS,
        f"{party} has {max(available, 0)} available and needs {needed}: {needed - available} is missing",
    )


def answer(
    state: TransferState | SettlementsState | PaymentState | AccountState, command: AccountCommand
) -> dict[str, Any]:
    """The body of an accepted (or repeated) command's answer, from the state after it."""
    match state:
        case None | Account():
            if isinstance(command, AccountSettle):
                return {"number": 0, "until": 0}
            account = state or Account("")
            return {"sink": account.payout_sink, "address": account.payout_address or None}
        case TransferMade():
            return {
                "party": state.party,
                "kind": state.kind,
                "amount": state.amount,
                "business_id": state.business_id,
            }
        case Settlements():
            return {"number": state.number, "until": state.until}
        case Contested():
            return {"job_id": str(state.job_id), "payment": state.status}
        case _:
            assert_never(state)
