"""The rules of settlements: the jobs that have ended are paid, and their holds end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coordinator.domain.account.books import Books
from coordinator.domain.account.commands import AccountBill, AccountLapse, AccountSettle
from coordinator.domain.account.contexts import BillContext, SettleContext, Terms
from coordinator.domain.account.events import (
    FEES,
    Kept,
    Payment,
    PaymentBilled,
    PaymentLapsed,
    PaymentsSettled,
    Unpaid,
)
from coordinator.domain.account.state import (
    PAYMENTS_STREAM,
    PaymentState,
    SettlementsState,
    payment_stream,
)
from coordinator.domain.decision import Decision
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Millis

BASIS_POINTS = 10_000
MOMENTS = 64
"""Pending credits become available at one of so many moments within a window: they bound the state."""


def settle(state: SettlementsState, command: AccountSettle, context: SettleContext) -> Decision:
    """The settlement of the jobs that ended since the last one. Raises Refusal."""
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


def bill(state: PaymentState, command: AccountBill | AccountLapse, context: BillContext) -> Decision:
    """The pay of work on a cancelled job, or the end of its hold. Raises Refusal."""
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
