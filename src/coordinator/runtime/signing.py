"""The coordinator's own key: it signs receipts, and the messages to miners and clients."""

from __future__ import annotations

from coordinator.crypto.keys import SigningKey
from coordinator.private_files import private_folder
from coordinator.runtime.settings import Settings
from coordinator.storage.connections.data_directory import KNOWN_NAMES

SIGNING_KEY_FILE = "signing.key"


def signing_key(settings: Settings) -> SigningKey:
    """RECEIPT_SIGNING_KEY_HEX, or a key file in the data directory, made at the first start."""
    if settings.receipt_signing_key_hex is not None:
        return SigningKey.from_hex(settings.receipt_signing_key_hex.get_secret_value())
    private_folder(settings.data_dir, known=KNOWN_NAMES)
    return SigningKey.load_or_create(settings.data_dir / SIGNING_KEY_FILE)
