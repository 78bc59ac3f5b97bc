"""The preparation of a submit: everything that its decision needs besides states."""

from __future__ import annotations

import hashlib
import hmac
from uuid import UUID

from coordinator.application.commands.handler import Handler, Prepared
from coordinator.application.commands.handlers.jobs.bodies import (
    MAX_INLINE_BYTES,
    canonical_body,
    references_of,
)
from coordinator.application.commands.handlers.jobs.callbacks import CallbackUrls
from coordinator.application.commands.handlers.jobs.details import Details, PreparedSubmit
from coordinator.application.commands.handlers.names import Names
from coordinator.application.commands.ids import Ids
from coordinator.application.matches.live_miners import LiveMiners
from coordinator.application.payloads.large_documents import LARGE_BYTES, LargeDocuments, rough_json
from coordinator.application.payloads.schemas import PayloadSchemas
from coordinator.application.payloads.service_versions import States
from coordinator.application.ports import Intent, StoredPayload
from coordinator.application.quotas.quotas import Quotas
from coordinator.crypto.keys import SigningKey
from coordinator.domain.account import account_stream
from coordinator.domain.errors import Refusal
from coordinator.domain.job import JobSubmit, job_stream, no_service
from coordinator.domain.matching.needs import wanted
from coordinator.domain.service import RegisteredService, service_stream


class Submits:
    """Prepares submits for a handler: canonical payloads, their checks and digests, and fingerprints."""

    def __init__(
        self,
        handler: Handler[Details],
        key: SigningKey,
        names: Names,
        schemas: PayloadSchemas,
        ids: Ids,
        states: States,
        quotas: Quotas,
        miners: LiveMiners | None,
        large: LargeDocuments,
        callbacks: CallbackUrls,
        *,
        accounts: bool,
    ) -> None:
        """See `JobCommands`."""
        self._accounts = accounts
        self._handler = handler
        self._keyed = hmac.new(fingerprint_secret(key), digestmod="sha256")
        """Copied for each fingerprint. `hmac.digest` would let go of the interpreter for a few bytes."""
        self._names = names
        self._schemas = schemas
        self._ids = ids
        self._states = states
        self._quotas = quotas
        self._miners = miners
        self._large = large
        self._callbacks = callbacks

    async def prepare(self, intent: Intent, command: JobSubmit) -> Prepared[Details]:
        if command.idempotency_key is None and not intent.message_id:
            # It can't be a repeat, so it is refused before it costs anything.
            no_room = self._quotas.has_room_for_a_job(intent.principal)
            if no_room is not None:
                raise no_room
        service = await self._names.canonical(command.service)
        if service != command.service:
            command = command.model_copy(update={"service": service})
            intent = intent._replace(command=command)
        self._callbacks.check(command.callback_url)
        # The message id stands in for a missing idempotency key, so that a second delivery is a repeat. The
        # two can't collide: an idempotency key has no control characters.
        key = command.idempotency_key
        if key is None and intent.message_id:
            key = f"\x1fmessage\x1f{intent.message_id}"
        stream = job_stream(intent.principal.name, key) if key is not None else self._ids.uuid7()
        rough = rough_json(command.payload)
        entry, fault = await self._check_payload(command, rough)
        is_repeat = False
        # A repeat is answered whatever the registry says by now, and stores nothing.
        if key is not None and (fault is not None or len(rough) > MAX_INLINE_BYTES):
            is_repeat = (await self._states((stream,), fresh=True))[stream] is not None
        if fault is not None and not is_repeat:
            raise fault
        body = await canonical_body(self._large, command.payload, rough)
        salt = self._ids.salt()
        wants = wanted(service, command.constraints, *(() if entry is None else entry.spec.price()))
        unmatched: Refusal | None = None
        if command.when_unmatched == "refuse" and self._miners is not None and entry is not None:
            unmatched = await self._miners.refusal(service, wants.constraints, *entry.spec.price())
        details = PreparedSubmit(
            wanted=wants,
            payload_digest=hashlib.sha256(salt + body).hexdigest(),
            # Of the request alone: a repeat is the same request, whatever the list price is by then.
            fingerprint=self._fingerprint(stream, command, wants.asked, body),
            refs=references_of(body),
            checked=None if entry is None else entry.version,
            size=len(body),
            unmatched=unmatched,
            callback=self._callbacks.sealed(stream, command.callback_url),
        )
        return Prepared(
            intent,
            self._handler,
            stream,
            details,
            reads=(service_stream(service),),
            writes=(account_stream(intent.principal.name),) if self._accounts else (),
            # A job that is refused stores nothing, as a repeat does not.
            payload=None if is_repeat or unmatched else StoredPayload(stream, "payload", salt, body),
            assume_new=not is_repeat,
        )

    async def _check_payload(
        self, command: JobSubmit, rough: bytes
    ) -> tuple[RegisteredService | None, Refusal | None]:
        """The registry entry whose schema the payload fits, or the payload's fault.

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
            if len(rough) < LARGE_BYTES:
                fault = self._schemas.check(service, command.payload, rough)
            else:
                fault = await self._large.run(self._schemas.check, service, command.payload, rough)
            if fault is None:
                return service, None
        return None, fault

    def _fingerprint(self, stream: UUID, command: JobSubmit, job_class: str, body: bytes) -> str:
        """Tells a repeat from another request with the same idempotency key, and readers of the log nothing.

        Keyed, because a plain digest in an event would let any reader test guesses of a short payload.
        """
        request = f"{job_class}\n{command.ttl_seconds}\n{command.priority}\n{command.max_attempts}\n"
        if command.callback_url is not None:
            request += f"{command.callback_url}\n"
        if command.budget is not None:
            request += f"budget {command.budget}\n"
        message = stream.bytes + request.encode() + body
        keyed = self._keyed.copy()
        keyed.update(message)
        return keyed.hexdigest()[:32]


def fingerprint_secret(key: SigningKey) -> bytes:
    """A secret derived from the signing key (deterministic: repeats must be known after a restart)."""
    return hashlib.sha256(b"coordinator fingerprint 1\n" + key.sign(b"coordinator fingerprint 1")).digest()
