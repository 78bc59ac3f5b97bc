"""Commands about money."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, assert_never, cast
from uuid import UUID

from coordinator.application.commands.handler import Handler, Prepared, StateOf, log_unavailable
from coordinator.application.payloads.service_versions import States
from coordinator.application.ports import Intent, LogUnavailable, SettlementSink
from coordinator.domain.account import (
    FEES,
    OUTSIDE,
    AccountCommand,
    AccountDeposit,
    AccountDismiss,
    AccountDispute,
    AccountRefund,
    AccountSetPayoutAddress,
    AccountSettle,
    AccountWithdraw,
    AddressContext,
    EndedJob,
    PaymentContext,
    PaymentState,
    SettleContext,
    Terms,
    TransferContext,
    account_stream,
    answer,
    decide,
    payment_stream,
    transfer_stream,
)
from coordinator.domain.account.state import Paid
from coordinator.domain.decision import Decision
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import STATE_NAMES, Completed, JobState, is_final
from coordinator.domain.job.price import in_micros
from coordinator.domain.matching.units import UNIT_TYPES
from coordinator.domain.messages import Command, Millis, principal_of
from coordinator.wire.answers import Refused


class Parties(NamedTuple):
    """The two parties of a job's payment."""

    client: str
    miner: str | None


Details = EndedJob | Parties | None


class AccountCommands(Handler[Details]):
    """Finds the job and the accounts that a command is about."""

    noun = "account"
    routine: ClassVar[tuple[type[Command], ...]] = (AccountSettle,)

    def __init__(self, states: States, terms: Terms | None, sink: SettlementSink | None = None) -> None:
        """`terms`: None where no accounts are kept; all commands are refused then. `sink`: None for none."""
        self._states = states
        self._terms = terms
        self._sink = sink

    async def prepare(self, intents: Sequence[Intent]) -> list[Prepared[Details] | Refused]:
        """Jobs that are settled together are read in one query."""
        jobs = [i.command.job_id for i in intents if isinstance(i.command, AccountSettle)]
        try:
            if len(jobs) > 1:
                await self._states(jobs)
            return await super().prepare(intents)
        except LogUnavailable:
            unavailable = log_unavailable()
            return [Refused(unavailable.code, unavailable.detail)] * len(intents)

    async def prepare_one(self, intent: Intent) -> Prepared[Details]:
        if self._terms is None:
            raise Refusal(Code.CONFLICT_STATE, "no accounts are kept here; the operator sets SETTLEMENT=on")
        command = cast("AccountCommand", intent.command)
        match command:
            case AccountDeposit() | AccountWithdraw():
                stream = transfer_stream(command.party, command.business_id)
                return self._prepared(intent, stream, None, command.party, OUTSIDE)
            case AccountSettle():
                job = await self._ended(command.job_id)
                parties = () if job is None else (job.client, *((job.miner, FEES) if job.miner else ()))
                # A job is settled twice after a crash alone: the log's conflict reveals it then.
                settle = self._prepared(intent, payment_stream(command.job_id), job, *parties)
                return settle._replace(assume_new=True)
            case AccountDispute() | AccountDismiss() | AccountRefund():
                stream = payment_stream(command.job_id)
                payment = await self._payment(stream)
                if not isinstance(payment, Paid):
                    return self._prepared(intent, stream, None)
                settled = payment.settled
                who = Parties(settled.client, settled.miner)
                return self._prepared(intent, stream, who, settled.client, settled.miner, FEES)
            case AccountSetPayoutAddress():
                self._check_address(command.address)
                return Prepared(intent, self, account_stream(intent.principal.name), None)
            case _:
                assert_never(command)

    def _check_address(self, address: str | None) -> None:
        """Raise Refusal unless the sink could pay this address."""
        if self._sink is None:
            raise Refusal(Code.CONFLICT_STATE, "this coordinator pays nobody out: it has no settlement sink")
        fault = None if address is None else self._sink.address_fault(address)
        if fault is not None:
            raise Refusal(Code.INVALID_PAYLOAD, f"address: {fault}")

    def _prepared(self, intent: Intent, stream: UUID, details: Details, *parties: str) -> Prepared[Details]:
        writes = tuple(account_stream(party) for party in dict.fromkeys(parties))
        return Prepared(intent, self, stream, details, writes=writes)

    async def _ended(self, job_id: UUID) -> EndedJob | None:
        """The job, if it is final."""
        for fresh in (False, True):
            state: JobState = (await self._states((job_id,), fresh=fresh))[job_id]
            if type(state) in STATE_NAMES and is_final(state):
                break
        else:
            return None
        assert state is not None
        job, held = state.job, state.job.hold or 0
        if not isinstance(state, Completed):
            return EndedJob(job_id, job.client, held)
        done = state.completed
        return EndedJob(
            job_id,
            job.client,
            held,
            principal_of(done.miner_id),
            in_micros(done.price),
            done.attempt,
            done.units,
            UNIT_TYPES[job.unit],
        )

    async def _payment(self, stream: UUID) -> PaymentState:
        found: PaymentState = (await self._states((stream,)))[stream]
        return found if found is not None else (await self._states((stream,), fresh=True))[stream]

    def decide(self, prepared: Prepared[Details], state_of: StateOf, now: Millis) -> Decision:
        command, principal = cast("AccountCommand", prepared.intent.command), prepared.intent.principal
        details, terms = prepared.details, self._terms
        assert terms is not None
        state = state_of(prepared.stream)
        context: TransferContext | SettleContext | PaymentContext | AddressContext
        match command:
            case AccountDeposit() | AccountWithdraw():
                account, outside = account_stream(command.party), account_stream(OUTSIDE)
                context = TransferContext(now, principal, state_of(account), state_of(outside))
            case AccountSettle():
                job = details if isinstance(details, EndedJob) else None
                client, miner, fees = self._accounts(job, state_of)
                context = SettleContext(now, principal, job, client, miner, fees, terms)
            case AccountDispute() | AccountDismiss() | AccountRefund():
                who = details if isinstance(details, Parties) else None
                context = PaymentContext(now, principal, *self._accounts(who, state_of))
            case AccountSetPayoutAddress():
                assert self._sink is not None
                context = AddressContext(now, principal, self._sink.name)
            case _:
                assert_never(command)
        return decide(state, command, context)

    def _accounts(self, who: EndedJob | Parties | None, state_of: StateOf) -> tuple[Any, Any, Any]:
        if who is None:
            return None, None, None
        client = state_of(account_stream(who.client))
        if who.miner is None:
            return client, None, None
        return client, state_of(account_stream(who.miner)), state_of(account_stream(FEES))

    def answer(self, prepared: Prepared[Details], state: Any) -> dict[str, Any]:
        return answer(state, cast("AccountCommand", prepared.intent.command))
