"""The rules of money: holds, payments, refunds and transfers.

Every decision that moves money appends the entries of one posting, which sum to zero, each to the stream of
its account. A repeat of an applied command gives no events.
"""

from __future__ import annotations

from typing import Any, assert_never, cast
from uuid import UUID

from coordinator.domain.account.books import Books
from coordinator.domain.account.commands import (
    AccountCommand,
    AccountDeposit,
    AccountDismiss,
    AccountDispute,
    AccountRefund,
    AccountSetPayoutAddress,
    AccountSettle,
    AccountWithdraw,
)
from coordinator.domain.account.contexts import (
    AddressContext,
    PaymentContext,
    SettleContext,
    TransferContext,
)
from coordinator.domain.account.events import (
    FEES,
    MAX_TOTAL,
    OUTSIDE,
    SETTLEMENT,
    PaymentDismissed,
    PaymentDisputed,
    PaymentRefunded,
    PaymentReleased,
    PaymentSettled,
    TransferMade,
)
from coordinator.domain.account.state import (
    Account,
    AccountState,
    Paid,
    PaymentState,
    TransferState,
    Unpaid,
    payment_stream,
    transfer_stream,
)
from coordinator.domain.decision import Decision
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Millis, Principal, Role

BASIS_POINTS = 10_000
MOMENTS = 64
"""Pending credits become available at one of so many moments within a window: they bound the state."""


def hold(
    state: AccountState, party: str, job_id: UUID, amount: int, now: Millis, principal: Principal
) -> Decision:
    """The hold for a new job; none for an amount of 0. Raises Refusal: INSUFFICIENT_FUNDS."""
    if amount == 0:
        return []
    available = (state or Account(party)).available(now)
    if available < amount:
        raise _insufficient(party, available, amount)
    books = Books(now, principal.name, {party: state})
    books.hold(party, job_id, amount)
    return books.events


def decide(
    state: TransferState | PaymentState | AccountState,
    command: AccountCommand,
    context: TransferContext | SettleContext | PaymentContext | AddressContext,
) -> Decision:
    """The events that `command` leads to; none for a repeat. Raises `Refusal`.

    `state`: that of the transfer, for a deposit and a withdrawal; that of the account, for its payout
    address; else that of the job's payment.
    """
    match command:
        case AccountDeposit() | AccountWithdraw():
            assert isinstance(context, TransferContext)
            return _transfer(cast("TransferState", state), command, context)
        case AccountSettle():
            assert isinstance(context, SettleContext)
            return _settle(cast("PaymentState", state), command, context)
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


def _settle(state: PaymentState, command: AccountSettle, context: SettleContext) -> Decision:
    if state is not None:
        return []
    job = context.job
    if job is None:
        raise Refusal(Code.CONFLICT_STATE, "the job is not final; it is paid once it has completed")
    if job.hold == 0:
        raise Refusal(Code.CONFLICT_STATE, "nothing is held for this job")
    if context.client is None or context.client.held < job.hold:
        # Another process has settled it: the payment that was assumed absent is looked up then.
        raise Refusal(Code.CONFLICT_STATE, "the job's hold has ended; send it again")
    common: dict[str, Any] = {"at": context.now, "by": context.principal.name, "job_id": job.job_id}
    stream = payment_stream(job.job_id)
    # 1. Never more than was set aside; the rest returns with it.
    amount = min(job.price, job.hold)
    if job.miner is None or amount == 0:
        books = Books(context.now, context.principal.name, {job.client: context.client})
        books.release(job.client, job.job_id, job.hold)
        return books.also(stream, PaymentReleased(**common, client=job.client, hold=job.hold))
    terms = context.terms
    # 2. The fee is rounded down: the miner gets the rest.
    fee = amount * terms.fee_bps // BASIS_POINTS
    step = max(1, terms.window_millis // MOMENTS)
    available_at = -(-(context.now + terms.window_millis) // step) * step
    accounts = {job.miner: context.miner, FEES: context.fees, job.client: context.client}
    books = Books(context.now, context.principal.name, accounts)
    facts: dict[str, Any] = {
        "posting": f"payment/{job.job_id}",
        "kind": "payment",
        "job_id": job.job_id,
        "attempt": job.attempt,
        "units": job.units,
        "unit_type": job.unit_type,
    }
    books.post(job.client, -amount, released=job.hold, **facts)
    if amount > fee:
        books.post(job.miner, amount - fee, available_at=available_at, **facts)
    if fee:
        books.post(FEES, fee, available_at=available_at, **facts)
    settled = PaymentSettled(
        **common,
        client=job.client,
        miner=job.miner,
        attempt=job.attempt,
        hold=job.hold,
        amount=amount,
        fee=fee,
        available_at=available_at,
        units=job.units,
        unit_type=job.unit_type,
    )
    return books.also(stream, settled)


def _change(
    state: PaymentState, command: AccountDispute | AccountDismiss | AccountRefund, context: PaymentContext
) -> Decision:
    # A client learns nothing of another client's job.
    if state is None or not _may_see(state, context.principal):
        raise Refusal(Code.JOB_NOT_FOUND, "no payment of such a job; a job is paid a moment after its end")
    if isinstance(state, Unpaid):
        raise Refusal(Code.CONFLICT_STATE, "the job cost nothing")
    settled = state.settled
    common: dict[str, Any] = {
        "at": context.now,
        "by": context.principal.name,
        "job_id": settled.job_id,
        "client": settled.client,
        "reason": command.reason,
    }
    accounts = {settled.miner: context.miner, FEES: context.fees, settled.client: context.client}
    books = Books(context.now, context.principal.name, accounts)
    stream, earned = payment_stream(settled.job_id), settled.amount - settled.fee
    match command:
        case AccountDispute():
            if state.status == "DISPUTED":
                return []
            if state.status == "REFUNDED" or state.dismissed:
                raise Refusal(Code.CONFLICT_STATE, "the payment was refunded, or its dispute dismissed")
            if context.now >= settled.available_at:
                raise Refusal(
                    Code.CONFLICT_STATE, "the time for a dispute is over; ask an admin for a refund"
                )
            if earned and not books.is_pending(settled.miner, earned, settled.available_at):
                raise Refusal(Code.CONFLICT_STATE, "the credit is not pending; ask an admin for a refund")
            if earned:
                books.dispute(settled.miner, settled.job_id, earned, settled.available_at)
            return books.also(stream, PaymentDisputed(**common))
        case AccountDismiss():
            if state.status != "DISPUTED":
                if state.dismissed:
                    return []
                raise Refusal(Code.CONFLICT_STATE, "the payment is not disputed")
            if earned:
                books.dismiss(settled.miner, settled.job_id, earned, settled.available_at)
            return books.also(stream, PaymentDismissed(**common))
        case AccountRefund():
            if state.status == "REFUNDED":
                return []
            return _refund(state, common, books)
        case _:
            assert_never(command)


def _refund(state: Paid, common: dict[str, Any], books: Books) -> Decision:
    settled, disputed = state.settled, state.status == "DISPUTED"
    facts: dict[str, Any] = {
        "posting": f"refund/{settled.job_id}",
        "kind": "refund",
        "job_id": settled.job_id,
        "attempt": settled.attempt,
        "units": settled.units,
        "unit_type": settled.unit_type,
        "reason": common["reason"],
    }
    for party, amount in ((settled.miner, settled.amount - settled.fee), (FEES, settled.fee)):
        if not amount:
            continue
        frozen = amount if disputed and party == settled.miner else 0
        # It comes from the part of the balance that it went to: pending, disputed, or available.
        is_pending = not frozen and books.is_pending(party, amount, settled.available_at)
        if not frozen and not is_pending and (available := books.available(party)) < amount:
            raise _insufficient(party, available, amount)
        until = settled.available_at if is_pending else None
        books.post(party, -amount, unfrozen=frozen, available_at=until, **facts)
    books.post(settled.client, settled.amount, **facts)
    return books.also(payment_stream(settled.job_id), PaymentRefunded(**common))


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


def _may_see(state: Paid | Unpaid, principal: Principal) -> bool:
    client = state.settled.client if isinstance(state, Paid) else state.released.client
    return principal.role is not Role.CLIENT or principal.name == client


def _insufficient(party: str, available: int, needed: int) -> Refusal:
    return Refusal(
        Code.INSUFFICIENT_FUNDS,
        f"{party} has {max(available, 0)} available and needs {needed}: {needed - available} is missing",
    )


def answer(state: TransferState | PaymentState | AccountState, command: AccountCommand) -> dict[str, Any]:
    """The body of an accepted (or repeated) command's answer, from the state after it."""
    if isinstance(command, AccountSetPayoutAddress):
        account = cast("AccountState", state) or Account("")
        return {"sink": account.payout_sink, "address": account.payout_address or None}
    assert state is not None
    match state:
        case Account():
            raise AssertionError("an account's own command is the one above")
        case TransferMade():
            return {
                "party": state.party,
                "kind": state.kind,
                "amount": state.amount,
                "business_id": state.business_id,
            }
        case Paid():
            return {"job_id": str(state.settled.job_id), "payment": state.status}
        case Unpaid():
            return {"job_id": str(state.released.job_id), "payment": "RELEASED"}
        case _:
            assert_never(state)
