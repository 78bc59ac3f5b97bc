"""The coordinator's own key: it signs receipts, and the messages to miners and clients."""

from __future__ import annotations

from coordinator.crypto.keys import SigningKey
from coordinator.runtime.settings import Settings

SIGNING_KEY_FILE = "signing.key"


def signing_key(settings: Settings) -> SigningKey:
    """RECEIPT_SIGNING_KEY_HEX, or a key file in the data directory, made at the first start."""
    if settings.receipt_signing_key_hex is not None:
        return SigningKey.from_hex(settings.receipt_signing_key_hex.get_secret_value())
    return SigningKey.load_or_create(settings.data_dir / SIGNING_KEY_FILE)
