"""The holder of an API key, in tests."""

from __future__ import annotations

from coordinator.application.keys.keyring import Keyring
from coordinator.domain.messages import Principal, Role


def holder_of(keyring: Keyring, key: str, *roles: Role) -> Principal | None:
    """The principal that this `name:secret` proves, in one of `roles` (any where none is given)."""
    return next((g.principal for g in keyring.grants(key) if not roles or g.principal.role in roles), None)
