"""Between an edge and the bus: everything about a command that needs no aggregate.

Which stream it belongs to, which other streams it looks up, its digests, the check of its signature, and the
rows that are stored beside the log. Whatever is wrong here is refused before it costs a batch anything.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import struct
import time
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple
from uuid import UUID

from coordinator.application.commands.names import Names
from coordinator.application.commands.parsing import Intent, check_sender
from coordinator.application.commands.payload_bodies import stand_in, store_failed
from coordinator.application.ports import BlobSink, LogUnavailable, StoredPayload
from coordinator.crypto.api_keys import KeySecrets, digest_of, new_salt
from coordinator.crypto.canonical import CanonicalError, canonical_json
from coordinator.crypto.keys import EncodingError, SigningKey, check_key_id
from coordinator.crypto.refs import blob_refs
from coordinator.crypto.signature import VerificationFailed
from coordinator.crypto.statement import StatementVerifier
from coordinator.domain.aggregates import job_stream, key_stream
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import (
    AttemptCommand,
    JobCancel,
    JobComplete,
    JobExpire,
    JobFail,
    JobLose,
    JobStart,
    JobSubmit,
)
from coordinator.domain.key import KeyCreate, KeyRevoke, KeyRotate
from coordinator.domain.matching import Wanted, wanted
from coordinator.domain.messages import Command
from coordinator.domain.miner import MinerDrain, MinerLeave, MinerLose, MinerRegister, miner_stream
from coordinator.domain.name import name_stream
from coordinator.domain.service import (
    ServiceRegister,
    ServiceRetire,
    ServiceRevise,
    ServiceSpec,
    names_of,
    service_stream,
)

MAX_INLINE_BYTES = 64 * 1024
"""Payloads and results up to this size are rows in the payloads table; larger ones are blobs."""
SALT_BYTES = 16
MAX_BLOBS = 512  # that a payload or a result may refer to; who owns each is looked up
VERIFY_AT_ONCE = 50
"""Signatures that are checked before others have their turn. Not in a thread: each check lets go of the
interpreter's lock, and under load waits far longer for it to come back than the check takes."""


class Prepared(NamedTuple):
    """A command that is ready to be decided."""

    intent: Intent
    stream: UUID
    lookups: tuple[UUID, ...] = ()
    """Other streams that the decision looks at, read only."""
    payload: StoredPayload | None = None
    """Stored in the transaction of the events that the command leads to."""
    wanted: Wanted | None = None
    payload_digest: str = ""
    fingerprint: str = ""
    names: tuple[str, ...] = ()
    """Names of the registry that the decision may change; `name_stream` of each is among `lookups`."""
    blobs: frozenset[str] = frozenset()
    """Blobs that the payload or result refers to; the sender must own them."""
    key_salt: str = ""
    key_digest: str = ""
    """Of the secret that a key is given; the secret itself is derived again where it is needed."""

    @property
    def command(self) -> Command:
        return self.intent.command


class Preparation:
    """Prepares commands. `secret` keys the fingerprints of requests; it never leaves the process."""

    def __init__(self, blobs: BlobSink, secret: bytes, names: Names, keys: KeySecrets | None = None) -> None:
        """Without `keys` no API keys are made."""
        self._blobs = blobs
        self._names = names
        self._secret = secret
        self._keys = keys
        self._salts = _Salts()

    async def prepare(self, intents: Sequence[Intent]) -> list[Prepared | Refusal]:
        """Each command prepared, or why it is refused; in the same order."""
        signed = [i.command for i in intents if isinstance(i.command, JobComplete)]
        faults = await _verify_all(signed)
        prepared: list[Prepared | Refusal] = []
        for intent in intents:
            try:
                check_sender(intent.command, intent.principal)
                if isinstance(intent.command, JobComplete) and (fault := faults.get(id(intent.command))):
                    raise fault
                match intent.command:
                    case JobSubmit():
                        ready = self._submit(intent, await self._by_id(intent.command))
                    case ServiceRegister() | ServiceRevise():
                        ready = await self._entry(intent, intent.command.spec)
                    case _:
                        ready = self._prepare(intent)
                if len(ready.blobs) > MAX_BLOBS:
                    raise Refusal(Code.TOO_LARGE, f"it refers to more than {MAX_BLOBS} blobs")
                if ready.payload and len(ready.payload.body) > MAX_INLINE_BYTES:
                    ready = ready._replace(payload=await self._as_blob(ready.payload))
                prepared.append(ready)
            except Refusal as refusal:
                prepared.append(refusal)
        return prepared

    def _prepare(self, intent: Intent) -> Prepared:
        match intent.command:
            case JobComplete():
                return self._complete(intent, intent.command)
            case JobStart() | JobFail():
                return Prepared(intent, intent.command.job_id, (miner_stream(intent.command.miner_id),))
            case AttemptCommand() | JobCancel() | JobLose() | JobExpire():
                return Prepared(intent, intent.command.job_id)
            case MinerRegister():
                _check_key(intent.command.public_key)
                return Prepared(intent, miner_stream(intent.command.miner_id))
            case MinerDrain() | MinerLeave() | MinerLose():
                return Prepared(intent, miner_stream(intent.command.miner_id))
            case ServiceRetire():
                return Prepared(intent, service_stream(intent.command.service))
            case KeyCreate():
                key = intent.command.idempotency_key
                made = key_stream(intent.principal.name, key) if key is not None else _uuid7()
                return self._with_secret(intent, made)
            case KeyRotate():
                return self._with_secret(intent, intent.command.key_id)
            case KeyRevoke():
                return Prepared(intent, intent.command.key_id)
        raise Refusal(Code.UNKNOWN_COMMAND, f"{intent.command.topic} can't be sent")

    async def _by_id(self, command: JobSubmit) -> JobSubmit:
        """The same submit, with the service's id where it was named by an alias."""
        try:
            service = await self._names.canonical(command.service)
        except LogUnavailable:
            raise Refusal(Code.UNAVAILABLE, "the log is out of reach; send it again later") from None
        return command if service == command.service else command.model_copy(update={"service": service})

    async def _entry(self, intent: Intent, spec: ServiceSpec) -> Prepared:
        try:
            had = await self._names.of(spec.id)
        except LogUnavailable:
            raise Refusal(Code.UNAVAILABLE, "the log is out of reach; send it again later") from None
        names = tuple(dict.fromkeys((*names_of(spec), *had)))
        return Prepared(intent, service_stream(spec.id), tuple(map(name_stream, names)), names=names)

    def _submit(self, intent: Intent, command: JobSubmit) -> Prepared:
        body = _canonical(command.payload)
        salt = self._salts.next()
        # A message without a key of its own is known by its id, so that a second delivery is a repeat. The
        # two kinds of key can't collide: a key has no control characters.
        key = command.idempotency_key
        if key is None and intent.message_id:
            key = f"\x1fmessage\x1f{intent.message_id}"
        stream = job_stream(intent.principal.name, key) if key is not None else _uuid7()
        wants = wanted(command.service, command.constraints)
        return Prepared(
            intent if command is intent.command else intent._replace(command=command),
            stream,
            (service_stream(command.service),),
            payload=StoredPayload(stream, "payload", salt, body),
            wanted=wants,
            payload_digest=hashlib.sha256(salt + body).hexdigest(),
            fingerprint=self._fingerprint(stream, command, wants.job_class, body),
            blobs=_refs(command.payload, body),
        )

    def _complete(self, intent: Intent, command: JobComplete) -> Prepared:
        body = _canonical(command.result)
        salt = bytes.fromhex(command.result_salt)
        if hashlib.sha256(salt + body).hexdigest() != command.statement["result_digest"]:
            raise Refusal(
                Code.INVALID_STATEMENT,
                "result_digest is not the SHA-256 of result_salt and the result's canonical JSON",
            )
        return Prepared(
            intent,
            command.job_id,
            (miner_stream(command.miner_id),),
            payload=StoredPayload(command.job_id, "result", salt, body),
            blobs=_refs(command.result, body),
        )

    def _with_secret(self, intent: Intent, key_id: UUID) -> Prepared:
        if self._keys is None:
            raise Refusal(Code.UNKNOWN_COMMAND, "no keys are made here")
        salt = new_salt()
        digest = digest_of(salt, self._keys.secret(key_id, salt).encode())
        return Prepared(intent, key_id, key_salt=salt, key_digest=digest)

    def _fingerprint(self, stream: UUID, command: JobSubmit, job_class: str, body: bytes) -> str:
        """Tells a repeated request from another one with the same key, and tells a reader of the log nothing.

        Keyed, because a plain digest in an event would let anybody test guesses of a short payload.
        """
        request = f"{job_class}\n{command.ttl_seconds}\n{command.priority}\n{command.max_attempts}\n"
        message = stream.bytes + request.encode() + body
        return hmac.digest(self._secret, message, "sha256").hex()[:32]

    async def _as_blob(self, payload: StoredPayload) -> StoredPayload:
        async def whole() -> AsyncIterator[bytes]:
            yield payload.body

        try:
            info = await self._blobs.put(whole(), expected_sha256=None, max_bytes=len(payload.body))
        except Exception as error:  # whatever the store raises concerns this command alone
            raise store_failed(error) from None
        return payload._replace(body=stand_in(info.sha256))


class _Salts:
    """Random salts, drawn from the kernel many at a time: each call costs more than the bytes."""

    def __init__(self) -> None:
        self._bytes = b""

    def next(self) -> bytes:
        if not self._bytes:
            self._bytes = os.urandom(SALT_BYTES * 256)
        salt, self._bytes = self._bytes[:SALT_BYTES], self._bytes[SALT_BYTES:]
        return salt


def fingerprint_secret(key: SigningKey) -> bytes:
    """A secret of its own, derived from the signing key (deterministic: a restart must know its repeats)."""
    return hashlib.sha256(b"coordinator fingerprint 1\n" + key.sign(b"coordinator fingerprint 1")).digest()


def _check_key(key_id: str) -> None:
    """Raise Refusal for a key that verifies nothing: all results of its miner would be refused."""
    try:
        check_key_id(key_id)
    except EncodingError as error:
        raise Refusal(Code.INVALID_PAYLOAD, f"public_key: {error}") from None


async def _verify_all(commands: Sequence[JobComplete]) -> dict[int, Refusal]:
    """Which of these carry a statement that its own key did not sign. Whose key it is, is decided later."""
    faults: dict[int, Refusal] = {}
    verifier = StatementVerifier()
    for number, command in enumerate(commands, 1):
        if number % VERIFY_AT_ONCE == 0:
            await asyncio.sleep(0)
        try:
            verifier.verify(command.statement, str(command.statement.get("signature", {}).get("key_id")))
        except VerificationFailed as failure:
            faults[id(command)] = Refusal(Code.INVALID_STATEMENT, failure.detail)
        except AttributeError:
            faults[id(command)] = Refusal(Code.INVALID_STATEMENT, "signature must be an object")
    return faults


def _refs(document: dict[str, object], body: bytes) -> frozenset[str]:
    """The blobs that a document refers to; most refer to none, and are not searched."""
    return frozenset(blob_refs(document)) if b'"blob:' in body else frozenset()


def _canonical(document: dict[str, object]) -> bytes:
    try:
        return canonical_json(document)
    except CanonicalError as error:
        raise Refusal(Code.INVALID_PAYLOAD, str(error)) from None


def _uuid7() -> UUID:
    """RFC 9562, section 5.7: 48 bits of Unix milliseconds, then random bits. Sorts by age."""
    head = struct.pack(">Q", time.time_ns() // 1_000_000)[2:]
    raw = bytearray(head + os.urandom(10))
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return UUID(bytes=bytes(raw))
