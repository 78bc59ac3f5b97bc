"""Signatures in receipts and statements: their shape, signing, checking."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from coordinator.crypto.keys import (
    ALGORITHM,
    SIGNATURE_BYTES,
    EncodingError,
    SigningKey,
    decode_base64url,
    encode_base64url,
    verify,
)

SIGNATURE_MEMBER: Final = "signature"


class VerificationFailed(ValueError):
    """A signature or its content is invalid. `code` is stable, `detail` is for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class StrictModel(BaseModel):
    """A signed document: unknown members are refused, values are not converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Signature(StrictModel):
    """`key_id` (32 bytes) and `sig` (64 bytes) are base64url without padding."""

    alg: Literal["Ed25519"] = "Ed25519"
    key_id: str = Field(pattern=r"^[A-Za-z0-9_-]{43}$")
    sig: str = Field(pattern=r"^[A-Za-z0-9_-]{86}$")


def sign(key: SigningKey, message: bytes) -> dict[str, str]:
    """A `Signature` of these bytes, as a dictionary."""
    return {"alg": ALGORITHM, "key_id": key.key_id, "sig": encode_base64url(key.sign(message))}


def matches(key_id: str, signature: str, message: bytes) -> bool:
    """Whether this signature (base64url) over these bytes is by this key. False for malformed ones."""
    try:
        return verify(key_id, decode_base64url(signature, SIGNATURE_BYTES), message)
    except EncodingError:
        return False
