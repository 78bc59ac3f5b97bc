"""The handler of commands about jobs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar, assert_never, cast

from coordinator.application.background import Turns
from coordinator.application.commands.handler import Handler, Prepared, StateOf, log_unavailable
from coordinator.application.commands.handlers.jobs.again import EarlierJobs
from coordinator.application.commands.handlers.jobs.bodies import (
    MAX_INLINE_BYTES,
    LargeBodies,
    canonical_body,
    references_of,
)
from coordinator.application.commands.handlers.jobs.callbacks import CallbackUrls
from coordinator.application.commands.handlers.jobs.details import (
    Details,
    Lease,
    Place,
    PreparedResult,
    PreparedSubmit,
)
from coordinator.application.commands.handlers.jobs.promises import with_promises
from coordinator.application.commands.handlers.jobs.shown import counted_by
from coordinator.application.commands.handlers.jobs.statements import statement_fault, verify_statement
from coordinator.application.commands.handlers.jobs.submits import Submits
from coordinator.application.commands.handlers.names import Names
from coordinator.application.commands.ids import Ids
from coordinator.application.matches.live_miners import LiveMiners
from coordinator.application.payloads.large_documents import LARGE_BYTES, LargeDocuments, rough_json
from coordinator.application.payloads.private import PrivatePayloads
from coordinator.application.payloads.references import References
from coordinator.application.payloads.schemas import PayloadSchemas
from coordinator.application.payloads.service_versions import ServiceVersions, States
from coordinator.application.ports import BlobSink, Intent, LogUnavailable, StoredPayload
from coordinator.application.quotas.quotas import Quotas
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.offer_tokens import OfferTokens
from coordinator.crypto.statement import StatementVerifier
from coordinator.crypto.webhooks import WebhookKeys
from coordinator.domain.decision import Context, Decision
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import (
    STATE_NAMES,
    AttemptCommand,
    AttemptContext,
    Completed,
    CompletionContext,
    JobCancel,
    JobCommand,
    JobComplete,
    JobExpire,
    JobFail,
    JobLose,
    JobRelease,
    JobStart,
    JobState,
    JobSubmit,
    JobSubmitAgain,
    JobSubmitted,
    Queued,
    Running,
    SubmitContext,
    answer,
    check_result,
    decide,
    not_offered,
)
from coordinator.domain.matching.needs import wanted
from coordinator.domain.messages import Command, Millis
from coordinator.domain.miner import MinerState, miner_stream
from coordinator.wire.answers import Accepted, Answer, Refused

_STATE = "job"
"""The member of an answer with the job's state, between `answer` and `extend`."""
_UNPROVEN = Refusal(Code.UNAVAILABLE, "concurrent commands change this; send it again")


class JobCommands(Handler[Details]):
    """Digests payloads and results, checks references and statements, and promises receipts."""

    noun = "job"
    routine: ClassVar[tuple[type[Command], ...]] = (AttemptCommand, JobSubmit)
    extended: ClassVar[tuple[type[Command], ...]] = (JobStart, JobComplete)

    def __init__(
        self,
        key: SigningKey,
        names: Names,
        blobs: BlobSink,
        references: References,
        schemas: PayloadSchemas,
        ids: Ids,
        states: States,
        services: ServiceVersions,
        quotas: Quotas,
        private: PrivatePayloads | None = None,
        miners: LiveMiners | None = None,
        *,
        earlier: EarlierJobs,
        callbacks: CallbackUrls | None = None,
        accounts: bool = False,
    ) -> None:
        """`key` signs the promises of receipts, and keys the tokens of offers. `private` completes the
        answers to claims of private jobs. `miners`: without them every job waits for a miner. `accounts`:
        whether the worst case of a job is set aside from its client's account."""
        self._accounts = accounts
        self._earlier = earlier
        self._quotas = quotas
        self._tokens = OfferTokens(key)
        self._private = private
        self._key = key
        self._job_blobs = LargeBodies(blobs, references)
        self._schemas = schemas
        self._states = states
        self._services = services
        self._large = LargeDocuments()
        callbacks = callbacks or CallbackUrls(WebhookKeys(key))
        self._submits = Submits(
            self, key, names, schemas, ids, states, quotas, miners, self._large, callbacks, accounts=accounts
        )

    # --- before the decision --------------------------------------------------------------------------------
    async def prepare(self, intents: Sequence[Intent]) -> list[Prepared[Details] | Refused]:
        """Commands that arrive together share a verifier, as statements may share a signature, and one query
        for the blobs that they refer to. Signatures are not checked in a thread: each check releases the
        interpreter's lock, and under load waits far longer for the lock than the check takes."""
        verifier = StatementVerifier()
        prepared: list[Prepared[Details] | Refused] = []
        leases = iter(await self._leases([i for i in intents if isinstance(i.command, JobComplete)]))
        turns = Turns()
        for intent in intents:
            lease: Lease = None
            if isinstance(intent.command, JobComplete):
                lease = next(leases)
            if turns.over():
                await asyncio.sleep(0)
            try:
                prepared.append(await self._prepare(intent, lease, verifier))
            except Refusal as refusal:
                prepared.append(Refused(refusal.code, refusal.detail, refusal.retry_after))
            except LogUnavailable:
                unavailable = log_unavailable()
                prepared.append(Refused(unavailable.code, unavailable.detail))
        return await self._job_blobs.settle(prepared)

    async def prepare_one(self, intent: Intent) -> Prepared[Details]:
        [prepared] = await self.prepare([intent])
        if isinstance(prepared, Refused):
            raise Refusal(prepared.code, prepared.detail, retry_after=prepared.retry_after)
        return prepared

    async def _prepare(self, intent: Intent, lease: Lease, verifier: StatementVerifier) -> Prepared[Details]:
        command = cast("JobCommand", intent.command)
        match command:
            case JobSubmit():
                return await self._submits.prepare(intent, command)
            case JobSubmitAgain():
                again = await self._earlier.request(intent, command)
                submit = await self._submits.prepare(again, cast("JobSubmit", again.command))
                assert isinstance(submit.details, PreparedSubmit)
                return submit._replace(details=submit.details._replace(by=intent.principal.name))
            case JobComplete():
                if isinstance(lease, Refusal):
                    raise lease
                return await self._complete(intent, command, lease, verifier)
            case JobStart() | JobFail():
                return Prepared(intent, self, command.job_id, None, reads=(miner_stream(command.miner_id),))
            case JobRelease() | JobCancel() | JobLose() | JobExpire():
                return Prepared(intent, self, command.job_id, None)
            case _:
                assert_never(command)

    # --- a result -------------------------------------------------------------------------------------------
    async def _leases(self, intents: Sequence[Intent]) -> list[Lease]:
        """The place of each result in its job, or its refusal: a comparison of states, before any digest.

        A refusal by states in memory is decided once more by fresh ones; one query for all of them.
        """
        if not intents:
            return []
        try:
            leases = await self._compared(intents, fresh=False)
            doubtful = [place for place, lease in enumerate(leases) if isinstance(lease, Refusal)]
            if doubtful:
                again = await self._compared([intents[place] for place in doubtful], fresh=True)
                for place, lease in zip(doubtful, again, strict=True):
                    leases[place] = lease
        except LogUnavailable:
            return [log_unavailable()] * len(intents)
        return leases

    async def _compared(self, intents: Sequence[Intent], *, fresh: bool) -> list[Lease]:
        commands = [cast("JobComplete", intent.command) for intent in intents]
        streams = [c.job_id for c in commands]
        streams += dict.fromkeys(miner_stream(c.miner_id) for c in commands)
        states = await self._states(streams, fresh=fresh)
        leases: list[Lease] = []
        turns = Turns()
        for intent, command in zip(intents, commands, strict=True):
            found, miner = states[command.job_id], states[miner_stream(command.miner_id)]
            state: JobState = found if type(found) in STATE_NAMES else None
            if turns.over():
                await asyncio.sleep(0)
            try:
                kind = check_result(state, command, intent.principal, miner)
            except Refusal as refusal:
                leases.append(refusal)
                continue
            assert state is not None
            offered_to: str | None = None
            if kind == "due" and isinstance(state, Queued):
                if miner is None or not self._offered(state, command, miner):
                    leases.append(not_offered())
                    continue
                offered_to = miner.registered.profile
            leases.append(Place(kind, state, miner, offered_to))
        return leases

    async def _complete(
        self, intent: Intent, command: JobComplete, lease: Lease, verifier: StatementVerifier
    ) -> Prepared[Details]:
        assert isinstance(lease, Place)
        job_id, reads = command.job_id, (miner_stream(command.miner_id),)
        if lease.kind == "repeat":
            return Prepared(intent, self, job_id, PreparedResult(), reads)
        rough = rough_json(command.result)
        if breach := await self._breach(lease.state.job, command.result, rough):
            return Prepared(intent, self, job_id, PreparedResult(breach=breach), reads)
        if lease.kind == "ended":  # the decision says why it is too late
            return Prepared(intent, self, job_id, PreparedResult(), reads)
        verify_statement(verifier, command)
        body = await canonical_body(self._large, command.result, rough)
        salt = bytes.fromhex(command.result_salt)
        if hashlib.sha256(salt + body).hexdigest() != command.statement["result_digest"]:
            raise Refusal(
                Code.INVALID_STATEMENT,
                "result_digest is not the SHA-256 of result_salt and the result's canonical JSON",
            )
        # The decision compares the statement, too; a large body is not stored before.
        if len(body) > MAX_INLINE_BYTES and (fault := statement_fault(lease.state, command, lease.miner)):
            raise fault
        refs, counted = references_of(body), await counted_by(self._services, lease.state.job, command.result)
        details = PreparedResult(refs, True, size=len(body), offered_to=lease.offered_to, counted=counted)
        payload = StoredPayload(job_id, "result", salt, body)
        return Prepared(intent, self, job_id, details, reads, payload=payload)

    async def _breach(self, job: JobSubmitted, result: dict[str, Any], rough: bytes) -> Refusal | None:
        """The breach of the output schema of the version that the job was submitted under."""
        service = await self._services.of(job.service, job.service_version)
        if service is None:
            return None
        if len(rough) < LARGE_BYTES:
            return self._schemas.check_result(service, result, rough)
        return await self._large.run(self._schemas.check_result, service, result, rough)

    # --- the decision ---------------------------------------------------------------------------------------
    def decide(self, prepared: Prepared[Details], state_of: StateOf, now: Millis) -> Decision:
        found = state_of(prepared.stream)
        # The id may be that of another noun's stream; to the sender that is an unknown job.
        state: JobState = found if type(found) in STATE_NAMES else None
        command, principal = cast("JobCommand", prepared.intent.command), prepared.intent.principal
        details = prepared.details
        match command:
            case JobSubmit():
                assert isinstance(details, PreparedSubmit)
                service = state_of(prepared.reads[0])
                fault = details.reference_fault
                is_new = fault is details.unmatched is None and state is None and service is not None
                if state is not None and state.job.at != now:
                    # A repeat uses nothing, and its first submit is counted by then.
                    self._quotas.catch_up()
                    self._quotas.job_decided(principal.name, prepared.stream)
                if is_new:
                    size, priority = details.size, command.priority
                    fault = self._quotas.reserve_job(principal, prepared.stream, size, priority)
                if is_new and fault is None and service.version != details.checked:  # revised a moment ago
                    fault = self._schemas.check(service, command.payload, rough_json(command.payload))
                    if fault is not None:
                        self._quotas.job_decided(principal.name, prepared.stream)
                wants = details.wanted
                if service is not None and service.version != details.checked:
                    wants = wanted(command.service, command.constraints, *service.spec.price())
                return decide(
                    state,
                    command,
                    SubmitContext(
                        now,
                        principal,
                        prepared.stream,
                        service,
                        wants,
                        details.payload_digest,
                        details.fingerprint,
                        fault,
                        details.unmatched,
                        details.size,
                        details.callback,
                        self._accounts,
                        state_of(prepared.writes[0]) if prepared.writes else None,
                        details.by,
                    ),
                )
            case JobComplete():
                assert isinstance(details, PreparedResult)
                miner = state_of(prepared.reads[0])
                if details.proven:
                    fault = statement_fault(state, command, miner) or details.reference_fault
                else:
                    fault = _UNPROVEN
                # The token names job, attempt and profile: it need not be computed again for the same ones.
                offered = (
                    miner is not None and details.offered_to == miner.registered.profile
                ) or self._offered(state, command, miner)
                return decide(
                    state,
                    command,
                    CompletionContext(
                        now, principal, miner, offered, fault, details.size, details.breach, details.shown
                    ),
                )
            case JobStart() | JobFail():
                miner = state_of(prepared.reads[0])
                offered = self._offered(state, command, miner)
                return decide(state, command, AttemptContext(now, principal, miner, offered))
            case JobSubmitAgain() | JobRelease() | JobCancel() | JobLose() | JobExpire():
                return decide(state, command, Context(now, principal))
            case _:
                assert_never(command)

    def _offered(self, state: JobState, command: AttemptCommand, miner: MinerState) -> bool:
        """Whether the command may claim. Computed for a queued job only: the lease proves any other."""
        if not isinstance(state, Queued) or miner is None:
            return False
        return self._tokens.fits(
            command.token, str(command.job_id), command.attempt, miner.registered.profile
        )

    def answer(self, prepared: Prepared[Details], state: JobState) -> dict[str, Any] | Refused:
        details = prepared.details
        if isinstance(details, PreparedResult) and details.breach is not None:
            return Refused(details.breach.code, f"{details.breach.detail}; the attempt has failed")
        command = cast("JobCommand", prepared.intent.command)
        body = answer(state, command)
        if isinstance(state, Completed):
            if isinstance(command, JobComplete):
                body[_STATE] = state
        elif self._private and isinstance(command, JobStart) and isinstance(state, Running):
            body[_STATE] = state
        return body

    async def extend_together(self, answered: Sequence[tuple[Prepared[Details], Accepted]]) -> list[Answer]:
        """The answers to results, with the promises of their receipts; and those to claims, see `extend`."""
        extended: list[Answer] = [accepted for _, accepted in answered]
        completed: dict[int, tuple[Accepted, Completed]] = {}
        for place, (prepared, (position, body)) in enumerate(answered):
            state = body.get(_STATE)
            if isinstance(state, Completed):
                kept = {name: value for name, value in body.items() if name != _STATE}
                completed[place] = Accepted(position, kept), state
            elif state is not None:
                extended[place] = await self._extended(prepared, answered[place][1])
        for place, accepted in zip(
            completed, with_promises(self._key, list(completed.values())), strict=True
        ):
            extended[place] = accepted
        return extended

    async def extend(self, prepared: Prepared[Details], answer: Accepted) -> Answer:
        """The answer to a claim, with the payload of a private job."""
        body = dict(answer.body)
        claimed = body.pop(_STATE, None)
        if self._private is not None and isinstance(claimed, Running):
            command = cast("JobStart", prepared.intent.command)
            try:
                body |= await self._private.of_claim(claimed, sealed=command.sealed)
            except LogUnavailable:
                # The claim is in the log; its repeat gets the payload.
                return Refused(Code.UNAVAILABLE, "the payload is out of reach; send the claim again")
        return Accepted(answer.position, body)

    def refused(self, prepared: Prepared[Details]) -> None:
        """A refused job uses nothing; a first submit with the same key is counted by then."""
        if isinstance(prepared.intent.command, JobSubmit):
            self._quotas.catch_up()
            self._quotas.job_decided(prepared.intent.principal.name, prepared.stream)
