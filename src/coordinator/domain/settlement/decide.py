"""The rules of settlement batches.

A close moves each payee's money to `@settlement`, a confirmation moves it from there to `@outside`, and a
refusal back to the payees; each is one posting that sums to zero. A repeat of an applied command gives no
events.
"""

from __future__ import annotations

from typing import Any, assert_never

from coordinator.crypto.settlement import NO_BATCH, batch_digest
from coordinator.domain.account import OUTSIDE, SETTLEMENT, Account
from coordinator.domain.account.books import Books
from coordinator.domain.decision import Decision, on
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.settlement.commands import (
    SettlementClose,
    SettlementCommand,
    SettlementConfirm,
    SettlementPrepare,
    SettlementRefuse,
    SettlementRevert,
    SettlementSubmit,
)
from coordinator.domain.settlement.contexts import CloseContext, PartContext, SinkTerms
from coordinator.domain.settlement.events import (
    MAX_PAYOUTS,
    Payout,
    SettlementClosed,
    SettlementConfirmed,
    SettlementPrepared,
    SettlementRefused,
    SettlementReverted,
    SettlementSubmitted,
)
from coordinator.domain.settlement.state import Settlement, SettlementState, hashes, settlement_stream


def decide(
    state: SettlementState, command: SettlementCommand, context: CloseContext | PartContext
) -> Decision:
    """The events that `command` leads to; none for a repeat. Raises `Refusal`."""
    match command:
        case SettlementClose():
            assert isinstance(context, CloseContext)
            return _close(state, context)
        case (
            SettlementPrepare()
            | SettlementSubmit()
            | SettlementRevert()
            | SettlementConfirm()
            | SettlementRefuse()
        ):
            assert isinstance(context, PartContext)
            if state is None:
                raise Refusal(Code.BATCH_NOT_FOUND, f"no settlement batch has the number {command.number}")
            return _of_part(state, command, context)
        case _:
            assert_never(command)


# --- close -------------------------------------------------------------------------------------------------
def _close(state: SettlementState, context: CloseContext) -> Decision:
    # 1. Two coordinators close one batch: the second one finds its stream taken.
    if state is not None:
        return []
    plan, before, sink = context.plan, context.before, context.sink
    if before is None and plan.number > 1:
        raise Refusal(Code.CONFLICT_STATE, f"there is no batch {plan.number - 1} yet; send it again later")
    # 2. One batch at a time: one that is stuck holds back no more money than its own.
    if before is not None and before.status != "SETTLED":
        raise Refusal(
            Code.CONFLICT_STATE,
            f"batch {before.closed.number} is {before.status}; close the next one after it",
        )
    reached = 0 if before is None else before.closed.until
    if plan.after != reached or plan.until < reached:
        raise Refusal(Code.UNAVAILABLE, "the tables are behind the log; send it again later")
    # 3. The payees, as far as their accounts allow now.
    payouts: list[Payout] = []
    for party in plan.parties:
        account = context.accounts[party]
        address = None if account is None else payable_address(account, sink)
        if account is None or address is None:
            continue
        amount = account.payable(context.now) // sink.quantum * sink.quantum
        if amount >= max(1, sink.minimum):
            payouts.append(Payout(party=party, address=address, amount=amount))
    payouts = payouts[:MAX_PAYOUTS]
    if not payouts:
        raise Refusal(Code.CONFLICT_STATE, "nothing is to be paid out; close a batch once miners have earned")
    # 4. Their money is in transit.
    books = Books(context.now, context.principal.name, dict(context.accounts))
    facts: dict[str, Any] = {"posting": f"settlement/{plan.number}", "kind": "payout"}
    for payout in payouts:
        books.post(payout.party, -payout.amount, **facts)
    total = sum(payout.amount for payout in payouts)
    books.post(SETTLEMENT, total, **facts)
    batch: dict[str, Any] = {
        "number": plan.number,
        "sink": sink.name,
        "after": plan.after,
        "until": plan.until,
        "receipts": plan.receipts,
        "receipts_root": plan.receipts_root,
        "payouts": [payout.model_dump() for payout in payouts],
        "total": total,
        "previous": NO_BATCH if before is None else before.closed.digest,
    }
    closed = SettlementClosed(
        at=context.now,
        by=context.principal.name,
        **{**batch, "payouts": tuple(payouts)},
        digest=batch_digest(batch),
    )
    return books.also(settlement_stream(plan.number), closed)


def payable_address(account: Account, sink: SinkTerms) -> str | None:
    """Where the sink pays this account; empty where it needs no address, None for nowhere."""
    address = account.payout_address
    if address and account.payout_sink == sink.name and sink.fault_of(address) is None:
        return address
    return None if sink.needs_address else ""


# --- parts -------------------------------------------------------------------------------------------------
def _of_part(
    state: Settlement,
    command: SettlementPrepare | SettlementSubmit | SettlementRevert | SettlementConfirm | SettlementRefuse,
    context: PartContext,
) -> Decision:
    number, part = command.number, command.part
    common: dict[str, Any] = {"at": context.now, "by": context.principal.name, "number": number, "part": part}
    stream, posting = settlement_stream(number), f"settlement/{number}/{part}"
    facts: dict[str, Any]
    if part != state.part or state.status == "SETTLED":
        raise Refusal(
            Code.CONFLICT_STATE,
            f"part {part} of batch {number} is over or not begun; look at the batch again",
        )
    match command:
        case SettlementPrepare():
            return on(stream, _prepared(state, command, common))
        case SettlementSubmit():
            if state.submitted == command.hash:
                return []
            if state.status != "PREPARED" or command.hash not in hashes(state):
                raise Refusal(Code.CONFLICT_STATE, "these bytes were not prepared; prepare them first")
            return on(stream, [SettlementSubmitted(**common, hash=command.hash)])
        case SettlementRevert():
            if state.submitted is None:
                return []
            return on(stream, [SettlementReverted(**common)])
        case SettlementConfirm():
            if not state.prepared:
                raise Refusal(Code.CONFLICT_STATE, "nothing was sent; the part is prepared first")
            confirmed = command.hash or state.submitted or state.prepared[-1].hash
            if confirmed not in hashes(state):
                raise Refusal(Code.CONFLICT_STATE, "these bytes were not prepared for this part")
            books = Books(context.now, context.principal.name, dict(context.accounts))
            facts = {"posting": posting, "kind": "payout_confirmed"}
            total = sum(payout.amount for payout in state.in_part)
            books.post(SETTLEMENT, -total, **facts)
            books.post(OUTSIDE, total, **facts)
            event = SettlementConfirmed(**common, hash=confirmed, confirmations=command.confirmations)
            return books.also(stream, event)
        case SettlementRefuse():
            books = Books(context.now, context.principal.name, dict(context.accounts))
            facts = {"posting": posting, "kind": "payout_returned", "reason": command.reason}
            books.post(SETTLEMENT, -sum(payout.amount for payout in state.in_part), **facts)
            for payout in state.in_part:
                books.post(payout.party, payout.amount, **facts)
            return books.also(stream, SettlementRefused(**common, reason=command.reason))
        case _:
            assert_never(command)


def _prepared(
    state: Settlement, command: SettlementPrepare, common: dict[str, Any]
) -> list[SettlementPrepared]:
    if command.hash in hashes(state):
        return []
    if command.count > len(state.closed.payouts) - state.first:
        raise Refusal(Code.INVALID_PAYLOAD, "count: more than the payouts that are left")
    if state.prepared:
        # Only bytes of which the sink takes one at most may take the place of others.
        last = state.prepared[-1]
        if command.nonce is None or (command.nonce, command.count) != (last.nonce, last.count):
            raise Refusal(
                Code.CONFLICT_STATE,
                "other bytes were prepared for this part; send those, or replace them under the same nonce",
            )
    return [
        SettlementPrepared(
            **common,
            count=command.count,
            nonce=command.nonce,
            hash=command.hash,
            body=command.body,
            payout_root=command.payout_root,
        )
    ]


def answer(state: SettlementState, command: SettlementCommand) -> dict[str, Any]:
    """The body of an accepted (or repeated) command's answer, from the state after it."""
    assert state is not None
    return {
        "number": state.closed.number,
        "state": state.status,
        "payouts": len(state.closed.payouts),
        "total": state.closed.total,
        "confirmed": state.confirmed,
        "refused": state.refused,
    }
