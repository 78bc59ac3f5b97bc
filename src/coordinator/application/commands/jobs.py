"""Commands about jobs."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar, NamedTuple, assert_never, cast
from uuid import UUID

from coordinator.application.commands.handler import Handler, Prepared, StateOf, log_unavailable
from coordinator.application.commands.ids import Ids
from coordinator.application.commands.names import Names
from coordinator.application.payloads.bodies import body_of_blob, possible_blob, store_failed
from coordinator.application.payloads.references import Need, References
from coordinator.application.payloads.schemas import PayloadSchemas
from coordinator.application.ports import BlobSink, Intent, LogUnavailable, StoredPayload
from coordinator.application.quotas.quotas import Quotas
from coordinator.crypto.canonical import CanonicalError, canonical_json
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.receipt import receipt_id, sign_receipt
from coordinator.crypto.refs import blob_refs
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
    Queued,
    Running,
    SubmitContext,
    WorkDone,
    answer,
    decide,
    job_stream,
)
from coordinator.domain.matching import Wanted, wanted
from coordinator.domain.messages import Command, Millis
from coordinator.domain.miner import MinerState, miner_stream
from coordinator.domain.service import service_stream
from coordinator.wire.answers import Refused

MAX_INLINE_BYTES = 64 * 1024
"""Payloads and results up to this size are rows in the payloads table; larger ones are blobs."""
MAX_BLOBS = 512  # references per payload or result, because the owner of each is looked up
VERIFY_AT_ONCE = 50
"""Signatures that are checked before other tasks get their turn. Not in a thread: each check releases the
interpreter's lock, and under load waits far longer for the lock than the check takes."""


class PreparedSubmit(NamedTuple):
    """The details of a submit that don't depend on states."""

    wanted: Wanted
    payload_digest: str
    fingerprint: str
    refs: frozenset[str]
    """The blobs that the payload refers to."""
    reference_fault: Refusal | None = None
    """The fault of these references, if any. Raised in the decision, because a repeat is answered anyway."""
    size: int = 0
    """The length of the payload's canonical JSON."""


class PreparedResult(NamedTuple):
    """The details of a result that don't depend on states."""

    refs: frozenset[str]
    reference_fault: Refusal | None = None
    size: int = 0
    """The length of the result's canonical JSON."""


Details = PreparedSubmit | PreparedResult | None


class JobCommands(Handler[Details]):
    """Digests payloads and results, checks references and statements, and signs receipts."""

    noun = "job"
    routine: ClassVar[tuple[type[Command], ...]] = (AttemptCommand, JobSubmit)

    def __init__(
        self,
        key: SigningKey,
        names: Names,
        blobs: BlobSink,
        references: References,
        schemas: PayloadSchemas,
        ids: Ids,
        quotas: Quotas,
    ) -> None:
        """`key` signs the receipts."""
        self._quotas = quotas
        self._key = key
        self._secret = fingerprint_secret(key)
        self._names = names
        self._blobs = blobs
        self._references = references
        self._schemas = schemas
        self._ids = ids

    # --- before the decision --------------------------------------------------------------------------------
    async def prepare(self, intents: Sequence[Intent]) -> list[Prepared[Details] | Refused]:
        """Commands that arrive together share a verifier, as statements may share a signature, and one query
        for the blobs that they refer to."""
        verifier = StatementVerifier()
        prepared: list[Prepared[Details] | Refused] = []
        results = 0
        for intent in intents:
            if isinstance(intent.command, JobComplete):
                results += 1
                if results % VERIFY_AT_ONCE == 0:
                    await asyncio.sleep(0)
            try:
                prepared.append(await self._prepare(intent, verifier))
            except Refusal as refusal:
                prepared.append(Refused(refusal.code, refusal.detail, refusal.retry_after))
        return await self._keeping(await self._with_reference_faults(prepared))

    async def prepare_one(self, intent: Intent) -> Prepared[Details]:
        [prepared] = await self.prepare([intent])
        if isinstance(prepared, Refused):
            raise Refusal(prepared.code, prepared.detail, retry_after=prepared.retry_after)
        return prepared

    async def _prepare(self, intent: Intent, verifier: StatementVerifier) -> Prepared[Details]:
        command = cast("JobCommand", intent.command)
        match command:
            case JobSubmit():
                return await self._submit(intent, command)
            case JobComplete():
                _verify(verifier, command)
                return await self._complete(intent, command)
            case JobStart() | JobFail():
                return Prepared(intent, self, command.job_id, None, reads=(miner_stream(command.miner_id),))
            case JobRelease() | JobCancel() | JobLose() | JobExpire():
                return Prepared(intent, self, command.job_id, None)
            case _:
                assert_never(command)

    async def _submit(self, intent: Intent, command: JobSubmit) -> Prepared[Details]:
        if command.idempotency_key is None and not intent.message_id:
            # It can't be a repeat, so it is refused before it costs anything.
            no_room = self._quotas.has_room_for_a_job(intent.principal)
            if no_room is not None:
                raise no_room
        try:
            service = await self._names.canonical(command.service)
        except LogUnavailable:
            raise log_unavailable() from None
        if service != command.service:
            command = command.model_copy(update={"service": service})
            intent = intent._replace(command=command)
        body = _canonical(command.payload)
        salt = self._ids.salt()
        # The message id stands in for a missing idempotency key, so that a second delivery is a repeat. The
        # two can't collide: an idempotency key has no control characters.
        key = command.idempotency_key
        if key is None and intent.message_id:
            key = f"\x1fmessage\x1f{intent.message_id}"
        stream = job_stream(intent.principal.name, key) if key is not None else self._ids.uuid7()
        wants = wanted(service, command.constraints)
        details = PreparedSubmit(
            wants,
            payload_digest=hashlib.sha256(salt + body).hexdigest(),
            fingerprint=self._fingerprint(stream, command, wants.job_class, body),
            refs=_refs(command.payload, body),
            size=len(body),
        )
        return Prepared(
            intent,
            self,
            stream,
            details,
            reads=(service_stream(service),),
            payload=await self._stored(StoredPayload(stream, "payload", salt, body)),
            assume_new=True,
        )

    async def _complete(self, intent: Intent, command: JobComplete) -> Prepared[Details]:
        body = _canonical(command.result)
        salt = bytes.fromhex(command.result_salt)
        if hashlib.sha256(salt + body).hexdigest() != command.statement["result_digest"]:
            raise Refusal(
                Code.INVALID_STATEMENT,
                "result_digest is not the SHA-256 of result_salt and the result's canonical JSON",
            )
        return Prepared(
            intent,
            self,
            command.job_id,
            PreparedResult(_refs(command.result, body), size=len(body)),
            reads=(miner_stream(command.miner_id),),
            payload=await self._stored(StoredPayload(command.job_id, "result", salt, body)),
        )

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

    async def _keeping(
        self, prepared: list[Prepared[Details] | Refused]
    ) -> list[Prepared[Details] | Refused]:
        """The same commands; the blobs that their payloads and results need are kept from now on."""
        needs: list[Need] = []
        places: list[int] = []
        for place, p in enumerate(prepared):
            if not isinstance(p, Prepared) or p.payload is None or p.details is None:
                continue
            body = possible_blob(p.payload.body)
            if (p.details.refs and p.details.reference_fault is None) or body is not None:
                digests = {ref.removeprefix("blob:") for ref in p.details.refs}
                needs.append(Need(p.stream, p.payload.kind, digests | ({body} if body else set())))
                places.append(place)
        if not needs:
            return prepared
        try:
            await self._references.need(needs)
        except LogUnavailable:
            refusal = log_unavailable()
            for place in places:
                prepared[place] = Refused(refusal.code, refusal.detail)
        return prepared

    async def _stored(self, payload: StoredPayload) -> StoredPayload:
        """The payload as a row; a large body goes into the blob store, and the row names the blob."""
        if len(payload.body) <= MAX_INLINE_BYTES:
            return payload

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
                if state is not None:
                    self._quotas.job_decided(principal.name, prepared.stream)  # a repeat uses nothing
                elif fault is None and service is not None:
                    size, priority = details.size, command.priority
                    fault = self._quotas.reserve_job(principal, prepared.stream, size, priority)
                    if fault is None:
                        fault = self._schemas.check(service, command.payload)
                        if fault is not None:
                            self._quotas.job_decided(principal.name, prepared.stream)
                return decide(
                    state,
                    command,
                    SubmitContext(
                        now,
                        principal,
                        prepared.stream,
                        service,
                        details.wanted,
                        details.payload_digest,
                        details.fingerprint,
                        fault,
                        details.size,
                    ),
                )
            case JobComplete():
                assert isinstance(details, PreparedResult)
                miner = state_of(prepared.reads[0])
                fault = _check_statement(state, command, miner) or details.reference_fault
                return decide(
                    state,
                    command,
                    CompletionContext(now, principal, miner, self._seal, fault, details.size),
                )
            case JobStart() | JobFail():
                return decide(state, command, AttemptContext(now, principal, state_of(prepared.reads[0])))
            case JobRelease() | JobCancel() | JobLose() | JobExpire():
                return decide(state, command, Context(now, principal))
            case _:
                assert_never(command)

    def answer(self, prepared: Prepared[Details], state: JobState) -> dict[str, Any]:
        return answer(state, cast("JobCommand", prepared.intent.command))

    def refused(self, prepared: Prepared[Details]) -> None:
        """A refused job uses nothing."""
        if isinstance(prepared.intent.command, JobSubmit):
            self._quotas.job_decided(prepared.intent.principal.name, prepared.stream)

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
                },
            },
        )


def fingerprint_secret(key: SigningKey) -> bytes:
    """A secret derived from the signing key (deterministic: repeats must be known after a restart)."""
    return hashlib.sha256(b"coordinator fingerprint 1\n" + key.sign(b"coordinator fingerprint 1")).digest()


def _verify(verifier: StatementVerifier, command: JobComplete) -> None:
    """Refuse a statement that the key in it did not sign. The decision checks that the key is the miner's."""
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


def _refs(value: dict[str, object], body: bytes) -> frozenset[str]:
    """The blobs that a payload or result refers to; most bodies skip the search. Raises Refusal."""
    refs = frozenset(blob_refs(value)) if b'"blob:' in body else frozenset()
    if len(refs) > MAX_BLOBS:
        raise Refusal(Code.TOO_LARGE, f"too many references to blobs; the limit is {MAX_BLOBS}")
    return refs


def _canonical(value: dict[str, object]) -> bytes:
    try:
        return canonical_json(value)
    except CanonicalError as error:
        raise Refusal(Code.INVALID_PAYLOAD, str(error)) from None
