"""Commands about jobs."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, assert_never, cast
from uuid import UUID

from coordinator.application.background import Turns
from coordinator.application.commands.handler import Handler, Prepared, StateOf, log_unavailable
from coordinator.application.commands.ids import Ids
from coordinator.application.commands.names import Names
from coordinator.application.payloads.bodies import body_of_blob, store_failed
from coordinator.application.payloads.large_documents import LargeDocuments, rough_json
from coordinator.application.payloads.private import PrivatePayloads
from coordinator.application.payloads.references import References
from coordinator.application.payloads.schemas import PayloadSchemas
from coordinator.application.payloads.service_versions import ServiceVersions, States
from coordinator.application.ports import BlobSink, Intent, LogUnavailable, StoredPayload
from coordinator.crypto.canonical import CanonicalError, canonical_json
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.offer_tokens import OfferTokens
from coordinator.crypto.receipt import receipt_id, sign_receipt
from coordinator.crypto.refs import blob_refs_of_canonical
from coordinator.crypto.signature import VerificationFailed
from coordinator.crypto.statement import StatementVerifier
from coordinator.domain.decision import Context, Decision
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import (
    STATE_NAMES,
    AttemptCommand,
    AttemptContext,
    AttemptEnded,
    Canceled,
    Completed,
    CompletionContext,
    Expired,
    Failed,
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
    JobSubmitted,
    KnownJob,
    Queued,
    Running,
    SubmitContext,
    WorkDone,
    answer,
    check_result,
    decide,
    job_stream,
    no_service,
)
from coordinator.domain.matching import wanted
from coordinator.domain.messages import Command, Millis
from coordinator.domain.miner import MinerState, miner_stream
from coordinator.domain.service import RegisteredService, service_stream
from coordinator.wire.answers import Accepted, Answer, Refused

MAX_INLINE_BYTES = 64 * 1024
"""Payloads and results up to this size are rows in the payloads table; larger ones are blobs."""
_CLAIMED = "claimed"
"""The member of a claim's answer with the job's state, between `answer` and `extend`."""
MAX_STATEMENT_MEMBERS = 32
MAX_BLOBS = 512  # references per payload or result, because the owner of each is looked up


class PreparedSubmit(NamedTuple):
    """The details of a submit that don't depend on states."""

    payload_digest: str
    fingerprint: str
    refs: frozenset[str]
    """The blobs that the payload refers to."""
    checked: int | None
    """The version of the service whose schema the payload fits; None for a repeat, which is not checked."""
    reference_fault: Refusal | None = None
    """The fault of these references, if any. Raised in the decision, because a repeat is answered anyway."""


class PreparedResult(NamedTuple):
    """The details of a result that don't depend on states."""

    refs: frozenset[str] = frozenset()
    proven: bool = False
    """Whether the statement proves the result. Not looked at for a repeat, and for a breach of the schema."""
    breach: Refusal | None = None
    """The breach of the output schema, if any."""
    reference_fault: Refusal | None = None


Details = PreparedSubmit | PreparedResult | None


class Place(NamedTuple):
    """The place of a result in its job, by the states before its batch."""

    kind: Literal["due", "repeat", "ended"]
    """See `check_result`."""
    state: KnownJob
    miner: MinerState


Lease = Place | Refusal | None
"""The place of a result, or its refusal; None for other commands."""
_UNPROVEN = Refusal(Code.UNAVAILABLE, "concurrent commands change this; send it again")


class JobCommands(Handler[Details]):
    """Digests payloads and results, checks references and statements, and signs receipts."""

    noun = "job"
    routine: ClassVar[tuple[type[Command], ...]] = (AttemptCommand, JobSubmit)
    extended: ClassVar[tuple[type[Command], ...]] = (JobStart,)

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
        private: PrivatePayloads | None = None,
    ) -> None:
        """`key` signs the receipts, and keys the tokens of offers. `private` completes the answers to claims
        of private jobs."""
        self._tokens = OfferTokens(key)
        self._private = private
        self._key = key
        self._secret = fingerprint_secret(key)
        self._names = names
        self._blobs = blobs
        self._references = references
        self._schemas = schemas
        self._ids = ids
        self._states = states
        self._services = services
        self._large = LargeDocuments()

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
                prepared.append(Refused(refusal.code, refusal.detail))
            except LogUnavailable:
                unavailable = log_unavailable()
                prepared.append(Refused(unavailable.code, unavailable.detail))
        return await self._with_bodies_stored(await self._with_reference_faults(prepared))

    async def prepare_one(self, intent: Intent) -> Prepared[Details]:
        [prepared] = await self.prepare([intent])
        if isinstance(prepared, Refused):
            raise Refusal(prepared.code, prepared.detail)
        return prepared

    async def _prepare(self, intent: Intent, lease: Lease, verifier: StatementVerifier) -> Prepared[Details]:
        command = cast("JobCommand", intent.command)
        match command:
            case JobSubmit():
                return await self._submit(intent, command)
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

    # --- a submit -------------------------------------------------------------------------------------------
    async def _submit(self, intent: Intent, command: JobSubmit) -> Prepared[Details]:
        service = await self._names.canonical(command.service)
        if service != command.service:
            command = command.model_copy(update={"service": service})
            intent = intent._replace(command=command)
        # The message id stands in for a missing idempotency key, so that a second delivery is a repeat. The
        # two can't collide: an idempotency key has no control characters.
        key = command.idempotency_key
        if key is None and intent.message_id:
            key = f"\x1fmessage\x1f{intent.message_id}"
        stream = job_stream(intent.principal.name, key) if key is not None else self._ids.uuid7()
        rough = rough_json(command.payload)
        checked, fault = await self._check_payload(command, rough)
        is_repeat = False
        # A repeat is answered whatever the registry says by now, and stores nothing.
        if key is not None and (fault is not None or len(rough) > MAX_INLINE_BYTES):
            is_repeat = (await self._states((stream,), fresh=True))[stream] is not None
        if fault is not None and not is_repeat:
            raise fault
        body = await self._large.run(len(rough), _canonical, command.payload)
        salt = self._ids.salt()
        # The class as the client sent it: a repeat is the same request, whatever the list price is by then.
        job_class = wanted(service, command.constraints).job_class
        details = PreparedSubmit(
            payload_digest=hashlib.sha256(salt + body).hexdigest(),
            fingerprint=self._fingerprint(stream, command, job_class, body),
            refs=_refs(body),
            checked=checked,
        )
        return Prepared(
            intent,
            self,
            stream,
            details,
            reads=(service_stream(service),),
            payload=None if is_repeat else StoredPayload(stream, "payload", salt, body),
            assume_new=not is_repeat,
        )

    async def _check_payload(self, command: JobSubmit, rough: bytes) -> tuple[int | None, Refusal | None]:
        """The version of the service whose schema the payload fits, or the payload's fault.

        A fault by the entry in memory is looked for once more in a fresh one. Raises LogUnavailable.
        """
        stream = service_stream(command.service)
        seen: RegisteredService | None = None
        fault: Refusal | None = None
        for fresh in (False, True):
            service = (await self._states((stream,), fresh=fresh))[stream]
            if not isinstance(service, RegisteredService) or service.retired:
                fault = no_service(command.service)
                continue
            if service is seen:
                break
            seen = service
            fault = await self._large.run(len(rough), self._schemas.check, service, command.payload, rough)
            if fault is None:
                return service.version, None
        return None, fault

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
            leases.append(Place(kind, state, miner))
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
        _verify(verifier, command)
        body = await self._large.run(len(rough), _canonical, command.result)
        salt = bytes.fromhex(command.result_salt)
        if hashlib.sha256(salt + body).hexdigest() != command.statement["result_digest"]:
            raise Refusal(
                Code.INVALID_STATEMENT,
                "result_digest is not the SHA-256 of result_salt and the result's canonical JSON",
            )
        # The decision compares the statement, too; a large body is not stored before.
        if len(body) > MAX_INLINE_BYTES and (fault := _check_statement(lease.state, command, lease.miner)):
            raise fault
        return Prepared(
            intent,
            self,
            job_id,
            PreparedResult(_refs(body), proven=True),
            reads,
            payload=StoredPayload(job_id, "result", salt, body),
        )

    async def _breach(self, job: JobSubmitted, result: dict[str, Any], rough: bytes) -> Refusal | None:
        """The breach of the output schema of the version that the job was submitted under."""
        service = await self._services.of(job.service, job.service_version)
        if service is None:
            return None
        return await self._large.run(len(rough), self._schemas.check_result, service, result, rough)

    # --- blobs ----------------------------------------------------------------------------------------------
    async def _with_reference_faults(
        self, prepared: list[Prepared[Details] | Refused]
    ) -> list[Prepared[Details] | Refused]:
        """The same commands, with the faults of their references to blobs."""
        referring: list[tuple[int, Prepared[Details], PreparedSubmit | PreparedResult]] = [
            (place, p, p.details)
            for place, p in enumerate(prepared)
            if isinstance(p, Prepared) and p.details is not None and p.details.refs
        ]
        if not referring:
            return prepared
        try:
            faults = await self._references.faults([(p.intent, details.refs) for _, p, details in referring])
        except LogUnavailable:
            faults = [log_unavailable()] * len(referring)
        for (place, p, details), fault in zip(referring, faults, strict=True):
            prepared[place] = p._replace(details=details._replace(reference_fault=fault))
        return prepared

    async def _with_bodies_stored(
        self, prepared: list[Prepared[Details] | Refused]
    ) -> list[Prepared[Details] | Refused]:
        """The same commands, with large bodies in the blob store. The last step, so that a refusal before it
        leaves no blob."""
        for place, one in enumerate(prepared):
            if isinstance(one, Refused) or one.payload is None or len(one.payload.body) <= MAX_INLINE_BYTES:
                continue
            if one.details is not None and one.details.reference_fault is not None:
                prepared[place] = one._replace(payload=None)  # refused, unless it is a repeat
                continue
            try:
                prepared[place] = one._replace(payload=await self._stored(one.payload))
            except Refusal as refusal:
                prepared[place] = Refused(refusal.code, refusal.detail)
        return prepared

    async def _stored(self, payload: StoredPayload) -> StoredPayload:
        """The payload as a row that names the blob with the body."""

        async def whole() -> AsyncIterator[bytes]:
            yield payload.body

        try:
            info = await self._blobs.put(whole(), expected_sha256=None, max_bytes=len(payload.body))
        except Exception as error:  # any failure of the store concerns this command only
            raise store_failed(error) from None
        return payload._replace(body=body_of_blob(info.sha256))

    def _fingerprint(self, stream: UUID, command: JobSubmit, job_class: str, body: bytes) -> str:
        """Tells a repeat from another request with the same idempotency key, and readers of the log nothing.

        Keyed, because a plain digest in an event would let any reader test guesses of a short payload.
        """
        request = f"{job_class}\n{command.ttl_seconds}\n{command.priority}\n{command.max_attempts}\n"
        message = stream.bytes + request.encode() + body
        return hmac.digest(self._secret, message, "sha256").hex()[:32]

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
                is_new = fault is None and state is None and service is not None
                if is_new and service.version != details.checked:  # revised a moment ago
                    fault = self._schemas.check(service, command.payload, rough_json(command.payload))
                list_price = None if service is None else service.spec.list_price()
                return decide(
                    state,
                    command,
                    SubmitContext(
                        now,
                        principal,
                        prepared.stream,
                        service,
                        wanted(command.service, command.constraints, list_price),
                        details.payload_digest,
                        details.fingerprint,
                        fault,
                    ),
                )
            case JobComplete():
                assert isinstance(details, PreparedResult)
                miner = state_of(prepared.reads[0])
                if details.proven:
                    fault = _check_statement(state, command, miner) or details.reference_fault
                else:
                    fault = _UNPROVEN
                offered = self._offered(state, command, miner)
                return decide(
                    state,
                    command,
                    CompletionContext(now, principal, miner, offered, self._seal, fault, details.breach),
                )
            case JobStart() | JobFail():
                miner = state_of(prepared.reads[0])
                offered = self._offered(state, command, miner)
                return decide(state, command, AttemptContext(now, principal, miner, offered))
            case JobRelease() | JobCancel() | JobLose() | JobExpire():
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
        body = answer(state, cast("JobCommand", prepared.intent.command))
        if self._private and isinstance(prepared.intent.command, JobStart) and isinstance(state, Running):
            body[_CLAIMED] = state
        return body

    async def extend(self, prepared: Prepared[Details], answer: Accepted) -> Answer:
        """The answer to a claim, with the payload of a private job."""
        body = dict(answer.body)
        claimed = body.pop(_CLAIMED, None)
        if self._private is not None and isinstance(claimed, Running):
            command = cast("JobStart", prepared.intent.command)
            try:
                body |= await self._private.of_claim(claimed, sealed=command.sealed)
            except LogUnavailable:
                # The claim is in the log; its repeat gets the payload.
                return Refused(Code.UNAVAILABLE, "the payload is out of reach; send the claim again")
        return Accepted(answer.position, body)

    def _seal(self, work: WorkDone) -> dict[str, Any]:
        """The signed receipt of this work."""
        return sign_receipt(
            self._key,
            {
                "version": "1.0",
                "receipt_id": receipt_id(work.job_id, work.attempt),
                "job_id": work.job_id,
                "provider": work.miner_id,
                "client": work.client,
                "units": work.units,
                "unit_type": "gpu_seconds",
                "price": work.price,
                "started_at": work.started_at // 1000,
                "completed_at": work.completed_at // 1000,
                "metadata": {
                    "attempt": work.attempt,
                    "service": work.service,
                    "payload_digest": work.payload_digest,
                    "result_digest": work.result_digest,
                    "statement": dict(work.statement),
                    **({} if work.measured_units is None else {"measured_units": work.measured_units}),
                },
            },
        )


def fingerprint_secret(key: SigningKey) -> bytes:
    """A secret derived from the signing key (deterministic: repeats must be known after a restart)."""
    return hashlib.sha256(b"coordinator fingerprint 1\n" + key.sign(b"coordinator fingerprint 1")).digest()


def _verify(verifier: StatementVerifier, command: JobComplete) -> None:
    """Refuse a statement that the key in it did not sign. The decision checks that the key is the miner's."""
    if len(command.statement) > MAX_STATEMENT_MEMBERS:
        raise Refusal(Code.INVALID_STATEMENT, f"the statement has more than {MAX_STATEMENT_MEMBERS} members")
    try:
        verifier.verify(command.statement, str(command.statement.get("signature", {}).get("key_id")))
    except VerificationFailed as failure:
        raise Refusal(Code.INVALID_STATEMENT, failure.detail) from None
    except AttributeError:
        raise Refusal(Code.INVALID_STATEMENT, "signature must be an object") from None


def _check_statement(state: JobState, command: JobComplete, miner: MinerState) -> Refusal | None:
    """The fault of a (validly signed) statement that is by another key, or about other work."""
    expected_key: str | None
    match state:
        case Running():
            expected_key = state.started.miner_key
        case Queued():
            expected_key = None if miner is None else miner.registered.public_key
        case None | AttemptEnded() | Completed() | Failed() | Canceled() | Expired():
            return None  # nothing to prove: the decision answers or refuses without the statement
        case _:
            assert_never(state)
    said = command.statement
    if said["signature"]["key_id"] != expected_key:
        return Refusal(Code.INVALID_STATEMENT, "the statement is not signed with the miner's registered key")
    expected = {
        "job_id": str(state.job.job_id),
        "attempt": command.attempt,
        "miner_id": command.miner_id,
        "session_id": command.session_id,
        "service": state.job.service,
        "payload_digest": state.job.payload_digest,
    }
    wrong = [name for name, value in expected.items() if said[name] != value]
    if wrong:
        return Refusal(Code.INVALID_STATEMENT, f"the statement's {', '.join(wrong)} must match the attempt")
    return None


def _refs(body: bytes) -> frozenset[str]:
    """The blobs that a payload or result refers to; most bodies skip the search. Raises Refusal."""
    refs = frozenset(blob_refs_of_canonical(body)) if b'"blob:' in body else frozenset()
    if len(refs) > MAX_BLOBS:
        raise Refusal(Code.TOO_LARGE, f"too many references to blobs; the limit is {MAX_BLOBS}")
    return refs


def _canonical(value: dict[str, object]) -> bytes:
    try:
        return canonical_json(value)
    except CanonicalError as error:
        raise Refusal(Code.INVALID_PAYLOAD, str(error)) from None
