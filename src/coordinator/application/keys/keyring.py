"""The keyring: the valid API keys, and the principals that they prove.

A key is `name:secret`. HTTP requests carry the key itself. AMQP messages, which stay in queues, carry the
principal's name and an HMAC-SHA256 under the secret, so that no message ever holds a secret.

Keys come from the settings and from the log (`application.keys.follower` adds and removes them). Used on the
event loop only.
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
_SECRET = rf"[ -~]{{{MIN_SECRET_LENGTH},}}"  # printable ASCII, because HTTP headers corrupt anything else

log = structlog.get_logger("keys")


class BadKey(ValueError):
    """A key in the settings is not `name:secret`. The message names the setting, never the secret."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The rights of a proven key."""

    principal: Principal
    key_id: UUID | None = None
    """None for a key from the settings."""
    generation: int = 0
    """The generation of the secret that was used."""
    hmac_secret: str | None = field(default=None, repr=False)
    """If set, HTTP requests must also be signed with it."""
    locked: bool = False
    """Whether requests must be signed with a secret that this process does not have: all are refused."""


class _Entry(Protocol):
    """One secret of one name."""

    @property
    def grant(self) -> Grant: ...

    @property
    def until(self) -> Millis | None: ...

    def is_proved_by(self, secret: str) -> bool: ...

    def has_signed(self, signature: str, message: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class _SettingsEntry:
    """A secret from the settings."""

    grant: Grant
    secret: str = field(repr=False)
    until: Millis | None = None

    def is_proved_by(self, secret: str) -> bool:
        return _equal(self.secret, secret)

    def has_signed(self, signature: str, message: bytes) -> bool:
        return _equal(sign_message(self.secret, message), signature)


@dataclass(frozen=True, slots=True)
class _LogEntry:
    """A secret whose salted digest is in the log; `secret` is None if this process can't derive it."""

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

        `hmac_secret`: must sign all requests with these keys. `secrets`: derives the secrets of keys from the
        log; without it those keys work over HTTP and can't sign.
        """
        self._secrets = secrets
        self._now = now
        self._from_settings: dict[str, list[_SettingsEntry]] = {}
        self._from_log: dict[str, dict[UUID, list[_Entry]]] = {}
        """By name and key id."""
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
                self._from_settings.setdefault(name, []).append(_SettingsEntry(grant, secret))

    # --- authentication ------------------------------------------------------------------------------------
    def grants(self, key: str) -> tuple[Grant, ...]:
        """The grants of this `name:secret`; more than one if two roles share it."""
        name, _, secret = key.partition(":")
        return self._find(name, lambda entry: entry.is_proved_by(secret))

    def by_signature(self, name: str, signature: str, message: bytes, *roles: Role) -> Principal | None:
        """The principal that this message's signature proves; None if it proves none of these roles."""
        signature = signature.lower()
        return _first(self._find(name, lambda entry: entry.has_signed(signature, message)), roles)

    def valid(self, name: str) -> tuple[Grant, ...]:
        """The grants of this name that are valid now, for a sender whom RabbitMQ has authenticated."""
        return self._find(name, lambda entry: True)

    def names(self) -> set[str]:
        """All names with a key that was not revoked."""
        return {*self._from_settings, *self._from_log}

    def holds(self, grant: Grant) -> bool:
        """Whether a grant is still valid, for connections that outlive a request."""
        if grant.key_id is None:
            return True
        entries = self._from_log.get(grant.principal.name, {}).get(grant.key_id, ())
        now = self._now()
        return any(e.grant == grant and (e.until is None or e.until > now) for e in entries)

    def granted(self, name: str, key_id: UUID, generation: int) -> Grant | None:
        """What this secret of a key from the log grants now; None if it has ended."""
        now = self._now()
        for entry in self._from_log.get(name, {}).get(key_id, ()):
            if entry.grant.generation == generation and (entry.until is None or entry.until > now):
                return entry.grant
        return None

    def marked(self, name: str, mark: str, mark_of: Callable[[str], str]) -> list[Grant]:
        """The grants of this name's secrets in the settings that have this mark, for readers without them."""
        return [
            entry.grant for entry in self._from_settings.get(name, ()) if _equal(mark_of(entry.secret), mark)
        ]

    # --- keys from the log ---------------------------------------------------------------------------------
    def put(self, key: Active) -> None:
        """Add a key, or replace its secrets."""
        key_id, name = key.created.key_id, key.created.name
        self._from_log.setdefault(name, {})[key_id] = [self._entry(key, secret) for secret in key.secrets]
        self._changed()

    def remove(self, name: str, key_id: UUID) -> None:
        """Remove a key, if it is there."""
        keys = self._from_log.get(name, {})
        keys.pop(key_id, None)
        if not keys:
            self._from_log.pop(name, None)
        self._changed()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back after each change, so that open connections can ask `holds` again."""
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
                    "another signing key made this API key: it works over HTTP and can't sign",
                    key_id=str(created.key_id),
                    name=created.name,
                )
                derived = None
        if created.signed and self._secrets is not None and derived is not None:
            hmac_secret = self._secrets.hmac_secret(created.key_id, secret.salt)
        locked = created.signed and hmac_secret is None
        ends = [end for end in (secret.until, created.expires_at) if end is not None]
        grant = Grant(key.principal, created.key_id, secret.generation, hmac_secret, locked)
        return _LogEntry(grant, secret.salt, secret.digest, min(ends, default=None), derived)

    # --- lookup --------------------------------------------------------------------------------------------
    def _find(self, name: str, matches: Callable[[_Entry], bool]) -> tuple[Grant, ...]:
        # Compare with every secret of the name, so that the time tells nothing.
        found = [entry for entry in self._entries(name) if matches(entry)]
        if not found:
            return ()
        now = self._now()
        return tuple(entry.grant for entry in found if entry.until is None or entry.until > now)

    def _entries(self, name: str) -> Iterator[_Entry]:
        yield from self._from_settings.get(name, ())
        for entries in self._from_log.get(name, {}).values():
            yield from entries


def _first(grants: tuple[Grant, ...], roles: tuple[Role, ...]) -> Principal | None:
    return next((g.principal for g in grants if not roles or g.principal.role in roles), None)


def _equal(known: str, given: str) -> bool:
    """Compare in constant time; `given` may be any decoded text."""
    return hmac.compare_digest(known.encode(), given.encode(errors="surrogatepass"))
