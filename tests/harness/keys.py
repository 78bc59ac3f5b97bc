"""The holder of an API key, and the key of a coordinator, in tests."""

from __future__ import annotations

from coordinator.application.keys.keyring import Keyring
from coordinator.crypto.keys import SigningKey
from coordinator.domain.messages import Principal, Role
from coordinator.wire.signed_messages import MessageSigner

SIGNER = MessageSigner(SigningKey.from_hex("5a" * 32))


def holder_of(keyring: Keyring, key: str, *roles: Role) -> Principal | None:
    """The principal that this `name:secret` proves, in one of `roles` (any where none is given)."""
    return next((g.principal for g in keyring.grants(key) if not roles or g.principal.role in roles), None)
