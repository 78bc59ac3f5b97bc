"""API keys: who is speaking, and how it proves it.

A key is `name:secret`. Over HTTP the key itself is sent; over AMQP, where messages lie in queues, a message
names its principal and carries an HMAC-SHA256 under the secret, so that no secret is ever in a message.

Keys come from the settings, and from the log (`application.keys.follower` puts them here and takes them
away). Used on the event loop only.
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import structlog

from coordinator.crypto.api_keys import KeySecrets, digest_of
from coordinator.crypto.mac import sign_message
from coordinator.domain.key import Active, Secret
from coordinator.domain.messages import NAME, Millis, Principal, Role

MIN_SECRET_LENGTH = 8
_SECRET = rf"[ -~]{{{MIN_SECRET_LENGTH},}}"  # printable ASCII, as an HTTP header keeps nothing else whole

log = structlog.get_logger("keys")


class BadKey(ValueError):
    """A key in the settings is not `name:secret`. The message names the setting, never the secret."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key that was proved gives."""

    principal: Principal
    key_id: UUID | None = None
    """None for a key of the settings."""
    generation: int = 0
    """Of the secret that was shown."""
    hmac_secret: str | None = field(default=None, repr=False)
    """Where it is set, requests over HTTP must be signed with it, too."""
    locked: bool = False
    """Whether requests must be signed and this process can't tell what with: nothing gets through."""


class _Entry(Protocol):
    """One secret of one name."""

    @property
    def grant(self) -> Grant: ...

    @property
    def until(self) -> Millis | None: ...

    def is_proved_by(self, secret: str) -> bool: ...

    def has_signed(self, signature: str, message: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Fixed:
    """A secret of the settings."""

    grant: Grant
    secret: str = field(repr=False)
    until: Millis | None = None

    def is_proved_by(self, secret: str) -> bool:
        return _equal(self.secret, secret)

    def has_signed(self, signature: str, message: bytes) -> bool:
        return _equal(sign_message(self.secret, message), signature)


@dataclass(frozen=True, slots=True)
class _Made:
    """A secret that the log has a salted digest of; `secret` is None where it can't be derived here."""

    grant: Grant
    salt: str
    digest: str
    until: Millis | None
    secret: str | None = field(repr=False)

    def is_proved_by(self, secret: str) -> bool:
        return _equal(self.digest, digest_of(self.salt, secret.encode(errors="surrogatepass")))

    def has_signed(self, signature: str, message: bytes) -> bool:
        return self.secret is not None and _equal(sign_message(self.secret, message), signature)


class Keyring:
    """The keys that are valid now."""

    def __init__(
        self,
        keys: Mapping[Role, Iterable[str]],
        *,
        hmac_secret: str | None = None,
        secrets: KeySecrets | None = None,
        now: Callable[[], Millis] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """`keys`: `name:secret` strings by role. Raises BadKey.

        `hmac_secret`: what requests with these keys must be signed with; `secrets`: derives those of keys
        from the log (without it they open HTTP and sign nothing).
        """
        self._secrets = secrets
        self._now = now
        self._fixed: dict[str, list[_Entry]] = {}
        self._made: dict[str, dict[UUID, list[_Entry]]] = {}
        """By name and id of the key."""
        self._on_change: list[Callable[[], None]] = []
        for role, entries in keys.items():
            for entry in entries:
                name, _, secret = entry.partition(":")
                if not re.fullmatch(NAME, name) or not re.fullmatch(_SECRET, secret):
                    raise BadKey(
                        f"{role.value.upper()}_API_KEYS: each must be name:secret, with a name of letters, "
                        f"digits, - and _, and a secret of {MIN_SECRET_LENGTH} ASCII characters or more"
                    )
                grant = Grant(Principal(name, role), hmac_secret=hmac_secret)
                self._fixed.setdefault(name, []).append(_Fixed(grant, secret))

    # --- who it is -----------------------------------------------------------------------------------------
    def grants(self, key: str) -> tuple[Grant, ...]:
        """What this `name:secret` gives: nothing, or more than one thing where two roles share it."""
        name, _, secret = key.partition(":")
        return self._find(name, lambda entry: entry.is_proved_by(secret))

    def by_signature(self, name: str, signature: str, message: bytes, *roles: Role) -> Principal | None:
        """The principal that this message's signature proves."""
        signature = signature.lower()
        return _first(self._find(name, lambda entry: entry.has_signed(signature, message)), roles)

    def holds(self, grant: Grant) -> bool:
        """Whether what gave this grant is still valid: for connections that outlive a request."""
        if grant.key_id is None:
            return True
        made = self._made.get(grant.principal.name, {}).get(grant.key_id, ())
        now = self._now()
        return any(e.grant == grant and (e.until is None or e.until > now) for e in made)

    # --- keys from the log ---------------------------------------------------------------------------------
    def put(self, key: Active) -> None:
        """A key is there, or has other secrets than before."""
        key_id, name = key.created.key_id, key.created.name
        self._made.setdefault(name, {})[key_id] = [self._entry(key, secret) for secret in key.secrets]
        self._changed()

    def remove(self, name: str, key_id: UUID) -> None:
        """A key is gone; one that is not there is no error."""
        keys = self._made.get(name, {})
        keys.pop(key_id, None)
        if not keys:
            self._made.pop(name, None)
        self._changed()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back after each change: who keeps a connection open asks `holds` then."""
        self._on_change.append(callback)

    def _changed(self) -> None:
        for callback in self._on_change:
            callback()

    def _entry(self, key: Active, secret: Secret) -> _Entry:
        created = key.created
        derived = hmac_secret = None
        if self._secrets is not None:
            derived = self._secrets.secret(created.key_id, secret.salt)
            if not _equal(secret.digest, digest_of(secret.salt, derived.encode())):
                log.error(
                    "another signing key than ours made this API key: it opens HTTP, and can sign nothing",
                    key_id=str(created.key_id),
                    name=created.name,
                )
                derived = None
        if created.signed and self._secrets is not None and derived is not None:
            hmac_secret = self._secrets.hmac_secret(created.key_id, secret.salt)
        locked = created.signed and hmac_secret is None
        ends = [end for end in (secret.until, created.expires_at) if end is not None]
        grant = Grant(key.principal, created.key_id, secret.generation, hmac_secret, locked)
        return _Made(grant, secret.salt, secret.digest, min(ends, default=None), derived)

    # --- looking -------------------------------------------------------------------------------------------
    def _find(self, name: str, matches: Callable[[_Entry], bool]) -> tuple[Grant, ...]:
        # Every secret of the name is compared, whichever fits: how long it takes tells nothing.
        found = [entry for entry in self._entries(name) if matches(entry)]
        if not found:
            return ()
        now = self._now()
        return tuple(entry.grant for entry in found if entry.until is None or entry.until > now)

    def _entries(self, name: str) -> Iterator[_Entry]:
        yield from self._fixed.get(name, ())
        for made in self._made.get(name, {}).values():
            yield from made


def _first(grants: tuple[Grant, ...], roles: tuple[Role, ...]) -> Principal | None:
    return next((g.principal for g in grants if not roles or g.principal.role in roles), None)


def _equal(known: str, given: str) -> bool:
    """In a time that does not tell how much of it is right; whatever an edge decoded may be `given`."""
    return hmac.compare_digest(known.encode(), given.encode(errors="surrogatepass"))
