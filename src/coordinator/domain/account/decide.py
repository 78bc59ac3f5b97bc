"""The rules of money: holds, payments, refunds and transfers.

Every decision that moves money appends the entries of one posting, which sum to zero, each to the stream of
its account. A repeat of an applied command gives no events.
"""

from __future__ import annotations

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
    TransferContext,
)
from coordinator.domain.account.events import (
    FEES,
    MAX_TOTAL,
    OUTSIDE,
    SETTLEMENT,
    Payment,
    PaymentBilled,
    PaymentDismissed,
    PaymentDisputed,
    PaymentRefunded,
    TransferMade,
)
from coordinator.domain.account.settling import bill, settle
from coordinator.domain.account.state import (
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
            return settle(cast("SettlementsState", state), command, context)
        case AccountBill() | AccountLapse():
            assert isinstance(context, BillContext)
            return bill(cast("PaymentState", state), command, context)
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
