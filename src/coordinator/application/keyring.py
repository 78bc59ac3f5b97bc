"""API keys: who is speaking, and how it proves it.

A key is `name:secret`. Over HTTP the key itself is sent; over AMQP, where messages lie in queues, a message
names its principal and carries an HMAC-SHA256 under the secret, so that no secret is ever in a message.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable, Mapping

from coordinator.crypto.mac import sign_message
from coordinator.domain.messages import NAME, Principal, Role

MIN_SECRET_LENGTH = 8
_SECRET = rf"[ -~]{{{MIN_SECRET_LENGTH},}}"  # printable ASCII, as an HTTP header keeps nothing else whole


class BadKey(ValueError):
    """A key in the settings is not `name:secret`. The message names the setting, never the secret."""


class Keyring:
    """The keys that are valid now."""

    def __init__(self, keys: Mapping[Role, Iterable[str]]) -> None:
        """`keys`: `name:secret` strings by role. Raises BadKey."""
        self._secrets: dict[str, list[tuple[Principal, str]]] = {}
        for role, entries in keys.items():
            for entry in entries:
                name, _, secret = entry.partition(":")
                if not re.fullmatch(NAME, name) or not re.fullmatch(_SECRET, secret):
                    raise BadKey(
                        f"{role.value.upper()}_API_KEYS: each must be name:secret, with a name of letters, "
                        f"digits, - and _, and a secret of {MIN_SECRET_LENGTH} ASCII characters or more"
                    )
                self._secrets.setdefault(name, []).append((Principal(name, role), secret))

    def by_key(self, key: str, *roles: Role) -> Principal | None:
        """The principal that this `name:secret` proves, in one of `roles` (any where none is given)."""
        name, _, secret = key.partition(":")
        return self._find(name, roles, lambda known: _equal(known, secret))

    def by_signature(self, name: str, signature: str, message: bytes, *roles: Role) -> Principal | None:
        """The principal that this message's signature proves."""

        def matches(known: str) -> bool:
            return _equal(sign_message(known, message), signature.lower())

        return self._find(name, roles, matches)

    def _find(self, name: str, roles: tuple[Role, ...], matches: Callable[[str], bool]) -> Principal | None:
        found: Principal | None = None
        for principal, known in self._secrets.get(name, ()):
            if (not roles or principal.role in roles) and matches(known):
                found = found or principal
        return found


def _equal(known: str, given: str) -> bool:
    """In a time that does not tell how much of it is right; whatever an edge decoded may be `given`."""
    return hmac.compare_digest(known.encode(), given.encode(errors="surrogatepass"))
