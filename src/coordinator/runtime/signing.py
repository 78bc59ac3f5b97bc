"""The coordinator's own keys: the one in force signs receipts, and the messages to miners and clients."""

from __future__ import annotations

import asyncio

from coordinator.application.ports import Gateway, Intent, LogUnavailable
from coordinator.application.receipts.signing_keys import SigningKeys
from coordinator.crypto.keys import SigningKey
from coordinator.domain.messages import SYSTEM
from coordinator.domain.signing_key import SigningKeyIntroduce
from coordinator.private_files import private_folder
from coordinator.runtime.settings import Settings
from coordinator.storage.connections.data_directory import KNOWN_NAMES
from coordinator.wire.answers import Refused

SIGNING_KEY_FILE = "signing.key"
START_SECONDS = 60.0  # for the key to get into the log


def signing_key(settings: Settings) -> SigningKey:
    """RECEIPT_SIGNING_KEY_HEX, or a key file in the data directory, made at the first start."""
    if settings.receipt_signing_key_hex is not None:
        return SigningKey.from_hex(settings.receipt_signing_key_hex.get_secret_value())
    private_folder(settings.data_dir, known=KNOWN_NAMES)
    return SigningKey.load_or_create(settings.data_dir / SIGNING_KEY_FILE)


def signing_keys(settings: Settings) -> SigningKeys:
    """`signing_key`, and the retired ones: RECEIPT_RETIRED_KEYS_HEX, and a key file that it has replaced."""
    current = signing_key(settings)
    retired = [SigningKey.from_hex(key.get_secret_value()) for key in settings.receipt_retired_keys_hex]
    file = settings.data_dir / SIGNING_KEY_FILE
    if settings.receipt_signing_key_hex is not None and file.exists():
        retired.append(SigningKey.load_or_create(file))
    return SigningKeys(current, retired)


def attestation_key(settings: Settings) -> SigningKey | None:
    """RECEIPT_ATTESTATION_KEY_HEX."""
    key = settings.receipt_attestation_key_hex
    return None if key is None else SigningKey.from_hex(key.get_secret_value())


class SigningKeyIntroduction:
    """Records the key before anything is signed with it. A service whose whole work is its start."""

    def __init__(self, gateway: Gateway, key_id: str) -> None:
        self._gateway = gateway
        self._key_id = key_id

    async def start(self) -> None:
        """Raises LogUnavailable."""
        async with asyncio.timeout(START_SECONDS):
            [answer] = await self._gateway.handle([Intent(SigningKeyIntroduce(key_id=self._key_id), SYSTEM)])
        if isinstance(answer, Refused):
            raise LogUnavailable(f"the signing key could not be recorded: {answer.detail}")

    async def stop(self) -> None:
        return None
