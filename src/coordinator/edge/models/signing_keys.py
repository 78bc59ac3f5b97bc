"""The coordinator's public keys."""

from __future__ import annotations

from typing import Literal

from coordinator.edge.models.base import View


class SigningKeyView(View):
    """A key that signs receipts and promises, now or once. A key that was taken back has several periods."""

    key_id: str
    """The Ed25519 public key itself: 32 bytes, base64url without padding."""
    alg: Literal["Ed25519"] = "Ed25519"
    state: Literal["current", "retired"]
    after: int
    """It signed for the events after this position of the log …"""
    until: int | None
    """… up to this one; null while it is in force."""


class SigningKeysView(View):
    keys: list[SigningKeyView]
    """The oldest first; the last one is in force."""
    attestation_key_id: str | None
    """The key of the attestations in receipts; null if there are none."""
