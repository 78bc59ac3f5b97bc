"""Sessions of people in a browser: signed texts that name an API key, and never hold its secret.

A session is stateless: every process with the same signing key reads it. It is bound to one secret of one
key, so it ends when that secret does: by revocation, rotation without grace, expiry, or removal from the
settings. See docs/decisions/sessions-name-keys.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeVar
from uuid import UUID

from coordinator.application.keys.keyring import Grant, Keyring
from coordinator.crypto.keys import SigningKey, encode_base64url
from coordinator.domain.messages import Millis, Role

MAX_TEXT: Final = 1024
"""Characters of a session's text; longer ones are not read."""
LINK_SECONDS: Final = 24 * 3600
"""How long a link to log in is valid; it is valid once."""
MAX_REMEMBERED: Final = 10_000
"""Ended sessions, and links, that a process remembers."""
_LABEL: Final = b"coordinator session 1"
_ID_BYTES: Final = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PersonSession:
    """A person's session."""

    id: str
    """New at each log-in."""
    name: str
    role: Role
    key_id: UUID | None
    """The key; None for one of the settings."""
    generation: int
    mark: str
    """For a key of the settings: an HMAC of its secret, which tells whether it is still there."""
    expires_at: Millis


class Sessions:
    """Opens, reads and ends sessions. Used on the event loop only."""

    def __init__(
        self, secret: bytes, keyring: Keyring, now: Callable[[], Millis], life_seconds: int = 12 * 3600
    ) -> None:
        """`secret`: 32 bytes that all processes of one coordinator share."""
        self._secret = secret
        self._keyring = keyring
        self._now = now
        self._life = life_seconds * 1000
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._links: OrderedDict[str, PersonSession] = OrderedDict()

    @staticmethod
    def secret_of(key: SigningKey) -> bytes:
        """The shared secret, derived from the key that signs receipts."""
        return hashlib.sha256(_LABEL + b"\n" + key.sign(_LABEL)).digest()

    # --- sessions ------------------------------------------------------------------------------------------
    def open(self, key: str, grant: Grant) -> PersonSession:
        """A new session for this `name:secret`, which has proved this grant."""
        mark = "" if grant.key_id is not None else self._mark(key.partition(":")[2])
        return PersonSession(
            id=_new_id(),
            name=grant.principal.name,
            role=grant.principal.role,
            key_id=grant.key_id,
            generation=grant.generation,
            mark=mark,
            expires_at=self._now() + self._life,
        )

    def text_of(self, session: PersonSession) -> str:
        """The session as a signed text, for a cookie."""
        fields = [
            session.id,
            session.name,
            session.role.value,
            session.key_id.hex if session.key_id else "",
            session.generation,
            session.mark,
            session.expires_at,
        ]
        body = encode_base64url(json.dumps(fields, separators=(",", ":")).encode())
        return f"{body}.{self._sign('session', body)}"

    def read(self, text: str) -> tuple[PersonSession, Grant] | None:
        """The session in a text, and what its key grants now; None if it is over, or not ours."""
        session = self._parsed(text)
        if session is None or self.has_ended(session):
            return None
        grant = self._grant(session)
        return None if grant is None else (session, grant)

    def end(self, session: PersonSession) -> None:
        """End a session in this process. The table `ended_sessions` tells the others."""
        _remember(self._ended, session.id, None)

    def has_ended(self, session: PersonSession) -> bool:
        """Whether its time is over, or this process has ended it."""
        return session.expires_at <= self._now() or session.id in self._ended

    # --- links that log in ---------------------------------------------------------------------------------
    def link(self, key: str, role: Role) -> str | None:
        """A token that opens one session for this key of the settings, once; None if there is no such key."""
        grant = next((g for g in self._keyring.grants(key) if g.principal.role is role), None)
        if grant is None:
            return None
        token = encode_base64url(secrets.token_bytes(24))
        session = replace(self.open(key, grant), expires_at=self._now() + LINK_SECONDS * 1000)
        _remember(self._links, _digest(token), session)
        return token

    def follow(self, token: str) -> PersonSession | None:
        """The session that a token opens; None if it was used, or is not ours."""
        asked = self._links.pop(_digest(token), None)
        if asked is None or asked.expires_at <= self._now():
            return None
        return replace(asked, id=_new_id(), expires_at=self._now() + self._life)

    # --- forms ---------------------------------------------------------------------------------------------
    def form_token(self, session_id: str) -> str:
        """The token that every form of this session sends."""
        return self._sign("form", session_id)

    def is_form_token(self, session_id: str, token: str) -> bool:
        """Whether a form of this session sent this token."""
        return hmac.compare_digest(self.form_token(session_id).encode(), token.encode(errors="replace"))

    # --- inside --------------------------------------------------------------------------------------------
    def _parsed(self, text: str) -> PersonSession | None:
        body, _, signature = text.partition(".")
        if len(text) > MAX_TEXT or not hmac.compare_digest(
            self._sign("session", body).encode(), signature.encode(errors="replace")
        ):
            return None
        try:
            fields = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            session_id, name, role, key_id, generation, mark, expires_at = fields
            return PersonSession(
                session_id,
                name,
                Role(role),
                UUID(hex=key_id) if key_id else None,
                int(generation),
                mark,
                int(expires_at),
            )
        except (ValueError, TypeError, binascii.Error):  # signed by another version of us
            return None

    def _grant(self, session: PersonSession) -> Grant | None:
        if session.key_id is not None:
            return self._keyring.granted(session.name, session.key_id, session.generation)
        for grant in self._keyring.marked(session.name, session.mark, self._mark):
            if grant.principal.role is session.role:
                return grant
        return None

    def _mark(self, secret: str) -> str:
        return self._sign("secret", secret)[:32]

    def _sign(self, purpose: str, text: str) -> str:
        message = f"{purpose}\n{text}".encode(errors="replace")
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()


def _new_id() -> str:
    return secrets.token_hex(_ID_BYTES)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _remember(kept: OrderedDict[str, T], key: str, value: T) -> None:
    kept[key] = value
    while len(kept) > MAX_REMEMBERED:
        kept.popitem(last=False)
