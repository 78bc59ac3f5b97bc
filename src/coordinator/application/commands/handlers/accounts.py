"""Commands about money."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, NamedTuple, assert_never, cast
from uuid import UUID

from coordinator.application.commands.handler import Handler, Prepared, StateOf, log_unavailable
from coordinator.application.commands.handlers.jobs.statements import verified_partial
from coordinator.application.payloads.service_versions import States
from coordinator.application.ports import Intent, LogUnavailable, SettlementSink
from coordinator.domain.account import (
    FEES,
    OUTSIDE,
    PAYMENTS_STREAM,
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
    AddressContext,
    BillContext,
    EndedJob,
    PaymentContext,
    SettleContext,
    SettledJob,
    StoppedWork,
    Terms,
    TransferContext,
    account_stream,
    answer,
    decide,
    payment_stream,
    transfer_stream,
)
from coordinator.domain.decision import Decision
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import Canceled, Completed, JobState, is_final
from coordinator.domain.job.price import bill, in_micros
from coordinator.domain.matching.units import UNIT_TYPES
from coordinator.domain.messages import Command, Millis, principal_of
from coordinator.wire.answers import Refused


class Bill(NamedTuple):
    """The facts for the pay of work on a cancelled job."""

    settled: SettledJob | None
    work: StoppedWork | None


Details = tuple[EndedJob, ...] | Bill | SettledJob | None
Settled = Callable[[UUID], Awaitable[SettledJob | None]]
"""The settlement of a job by its id; None if there is none yet, or none known. Raises LogUnavailable."""


class AccountCommands(Handler[Details]):
    """Finds the job and the accounts that a command is about."""

    noun = "account"
    routine: ClassVar[tuple[type[Command], ...]] = (AccountSettle, AccountLapse)

    def __init__(
        self, states: States, settled: Settled, terms: Terms | None, sink: SettlementSink | None = None
    ) -> None:
        """`terms`: None where no accounts are kept; all commands are refused then. `sink`: None for none."""
        self._states = states
        self._settled = settled
        self._terms = terms
        self._sink = sink

    async def prepare(self, intents: Sequence[Intent]) -> list[Prepared[Details] | Refused]:
        try:
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
                jobs = await self._ended(command.jobs)
                parties = dict.fromkeys([job.client for job in jobs])
                parties |= dict.fromkeys([job.miner for job in jobs if job.miner is not None])
                return self._prepared(intent, PAYMENTS_STREAM, jobs, *parties, FEES)
            case AccountBill():
                work = await self._stopped(intent, command)
                settled = await self._settled(command.job_id)
                about = Bill(settled, work)
                return self._prepared(intent, payment_stream(command.job_id), about, *_parties(settled))
            case AccountLapse() | AccountDispute() | AccountDismiss() | AccountRefund():
                settled = await self._settled(command.job_id)
                details = Bill(settled, None) if isinstance(command, AccountLapse) else settled
                return self._prepared(intent, payment_stream(command.job_id), details, *_parties(settled))
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

    async def _stopped(self, intent: Intent, command: AccountBill) -> StoppedWork:
        """The work that a partial statement is about. Raises Refusal."""
        if self._terms is None or not self._terms.partial_millis:
            raise Refusal(Code.CONFLICT_STATE, "work on cancelled jobs is not paid here")
        if not intent.principal.owns_miner(command.miner_id):
            raise Refusal(Code.FORBIDDEN, f"{intent.principal.name} can't speak for miner {command.miner_id}")
        state: JobState = (await self._states((command.job_id,)))[command.job_id]
        if not isinstance(state, Canceled):
            state = (await self._states((command.job_id,), fresh=True))[command.job_id]
        started = state.started if isinstance(state, Canceled) else None
        named = (command.attempt, command.miner_id, command.session_id)
        if started is None or named != (started.attempt, started.miner_id, started.session_id):
            raise Refusal(Code.STALE_ATTEMPT, "not the attempt that was cancelled")
        assert isinstance(state, Canceled)
        said = verified_partial(command.statement, state.job, started)
        # The miner is paid for what it signed, and for no more than the coordinator saw in time.
        stated, seen = said["stopped_at_ms"] - said["started_at_ms"], state.canceled_at - started.at
        owed = bill(max(0, min(stated, seen)), started.unit_price, state.job.max_units)
        return StoppedWork(owed.units, UNIT_TYPES[state.job.unit], in_micros(owed.price))

    async def _ended(self, jobs: Sequence[tuple[UUID, int]]) -> tuple[EndedJob, ...]:
        """These jobs, which are final, in one query. Raises Refusal."""
        ids = [job_id for job_id, _ in jobs]
        states = await self._states(ids)
        stale = [job_id for job_id in ids if not is_final(states[job_id])]
        if stale:
            states |= await self._states(stale, fresh=True)
        return tuple([_ended(states[job_id], job_id, position) for job_id, position in jobs])

    def decide(self, prepared: Prepared[Details], state_of: StateOf, now: Millis) -> Decision:
        command, principal = cast("AccountCommand", prepared.intent.command), prepared.intent.principal
        details, terms = prepared.details, self._terms
        assert terms is not None
        state = state_of(prepared.stream)
        context: TransferContext | SettleContext | BillContext | PaymentContext | AddressContext
        match command:
            case AccountDeposit() | AccountWithdraw():
                account, outside = account_stream(command.party), account_stream(OUTSIDE)
                context = TransferContext(now, principal, state_of(account), state_of(outside))
            case AccountSettle():
                assert isinstance(details, tuple)
                jobs = cast("tuple[EndedJob, ...]", details)
                names = {job.client for job in jobs} | {job.miner for job in jobs if job.miner is not None}
                accounts = {party: state_of(account_stream(party)) for party in (*names, FEES)}
                context = SettleContext(now, principal, jobs, accounts, terms)
            case AccountBill() | AccountLapse():
                assert isinstance(details, Bill)
                known, work = details
                accounts_of = _accounts(known, state_of)
                context = BillContext(now, principal, known, work, *accounts_of, terms)
            case AccountDispute() | AccountDismiss() | AccountRefund():
                settled = details if isinstance(details, SettledJob) else None
                context = PaymentContext(now, principal, settled, *_accounts(settled, state_of))
            case AccountSetPayoutAddress():
                assert self._sink is not None
                context = AddressContext(now, principal, self._sink.name)
            case _:
                assert_never(command)
        return decide(state, command, context)

    def answer(self, prepared: Prepared[Details], state: Any) -> dict[str, Any]:
        return answer(state, cast("AccountCommand", prepared.intent.command))


def _parties(settled: SettledJob | None) -> tuple[str, ...]:
    """Whose accounts a decision about this job's payment may append to."""
    of = None if settled is None else settled.payment or settled.kept
    return () if of is None else (of.client, of.miner, FEES)


def _accounts(settled: SettledJob | None, state_of: StateOf) -> tuple[Any, Any, Any]:
    parties = _parties(settled)
    if not parties:
        return None, None, None
    client, miner, fees = [state_of(account_stream(party)) for party in parties]
    return client, miner, fees


def _ended(state: JobState, job_id: UUID, position: int) -> EndedJob:
    if not is_final(state):
        raise Refusal(Code.CONFLICT_STATE, "the job is not final; it is paid once it has completed")
    assert state is not None
    job, held = state.job, state.job.hold or 0
    if isinstance(state, Canceled) and state.started is not None and job.unit is None:
        started = state.started
        stopped = principal_of(started.miner_id)
        return EndedJob(job_id, position, job.client, held, attempt=started.attempt, stopped=stopped)
    if not isinstance(state, Completed):
        return EndedJob(job_id, position, job.client, held)
    done = state.completed
    return EndedJob(
        job_id,
        position,
        job.client,
        held,
        principal_of(done.miner_id),
        in_micros(done.price),
        done.attempt,
        done.units,
        UNIT_TYPES[job.unit],
    )
