"""Receipts in the format of AITBC receipt 1.0, and the miner's statement inside them.

The signatures:
- the miner signs a statement: the job and attempt, and the digests of payload and result;
- the coordinator signs the receipt, which holds that statement in `metadata.statement`;
- the coordinator promises a receipt as soon as the result is in the log: the receipt's content without the
  statement, under a signature that it may share with other promises (`shared_signature`);
- an optional attestation is a second signature by the coordinator over the same bytes (`sig`, which AITBC
  verifies) and over the receipt with its signature (`receipt_sig`, which AITBC ignores).

The functions take and return plain dictionaries: a receipt is made once per job, and all readers want JSON.
The models describe its shape and parse receipts from outside.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from coordinator.crypto.canonical import CanonicalError, canonical, canonical_lenient
from coordinator.crypto.keys import ALGORITHM, SigningKey, encode_base64url
from coordinator.crypto.shared_signature import (
    Digest,
    InclusionProof,
    TreeSignature,
    message_in_tree,
    sign_together,
)
from coordinator.crypto.signature import Signature, StrictModel, VerificationFailed, matches, sign
from coordinator.crypto.statement import (
    MAX_SHARED,
    Attempt,
    Instant,
    Name,
    SignedStatement,
    verify_statement,
)
from coordinator.validation import first_invalid_field

STATEMENT_MEMBER: Final = "statement"
"""The member of a receipt's metadata that holds the miner's signed statement."""
_PROMISES: Final = "promises"
_UNSIGNED: Final = frozenset({"signature", "attestations"})

DecimalText = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?$")]


class Attestation(Signature):
    """`sig` signs the same bytes as the receipt's signature, `receipt_sig` the receipt with its signature."""

    receipt_sig: str = Field(pattern=r"^[A-Za-z0-9_-]{86}$")


class PromiseMetadata(StrictModel):
    """Our additions to AITBC's fields. Receipts hold digests only, never payloads or results."""

    attempt: Attempt
    service: Name
    payload_digest: Digest
    result_digest: Digest
    measured_units: DecimalText | None = None
    """The units of the whole attempt, if the job's limit cut them."""


class ReceiptMetadata(PromiseMetadata):
    """With the miner's statement."""

    statement: SignedStatement | None = None
    recorded_under: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{43}$")
    """The coordinator's key when the job was completed, if it signs no more and another key signed this."""


class _Content(StrictModel):
    """The members that a receipt and its promise share. Quantities are decimal strings, times Unix seconds.

    `provider` and `client` are principals' names, never API keys. The signature leaves out null members.
    """

    version: Literal["1.0"] = "1.0"
    receipt_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    job_id: Name
    provider: Name
    client: Name
    units: DecimalText
    unit_type: Name = "gpu_seconds"
    price: DecimalText | None = None
    started_at: Instant
    completed_at: Instant


class Receipt(_Content):
    """A receipt for work done."""

    metadata: ReceiptMetadata
    signature: Signature | None = None
    attestations: list[Attestation] = Field(default_factory=list)


class Promise(_Content):
    """The signed promise of a receipt: its content, without the miner's statement."""

    metadata: PromiseMetadata
    signature: TreeSignature


@dataclass(frozen=True, slots=True)
class Attested:
    """A verified attestation; one made by AITBC does not cover the receipt's signature."""

    key_id: str
    covers_signature: bool


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """The verified facts of a receipt, and the keys behind them.

    `key_trusted` is False if the caller named no trusted keys: the receipt is intact, but anybody may have
    made it. The same holds for `miner_key_trusted`. `statement` is None in promises and in receipts made
    elsewhere.
    """

    receipt_id: str
    job_id: str
    key_id: str
    key_trusted: bool
    statement: Mapping[str, Any] | None
    miner_key_id: str | None
    miner_key_trusted: bool
    attestations: tuple[Attested, ...]
    is_promise: bool = False
    """Whether this is the promise of a receipt, and not the receipt."""


def receipt_id(job_id: str, attempt: int) -> str:
    """The id of an attempt's receipt, 32 hex digits; the same attempt always has the same one."""
    return hashlib.sha256(f"coordinator receipt 1\n{job_id}\n{attempt}".encode()).hexdigest()[:32]


def sign_receipt(key: SigningKey, receipt: Receipt | Mapping[str, Any]) -> dict[str, Any]:
    """The receipt as a dictionary without nulls, signed; earlier signatures and attestations are replaced.

    Raises CanonicalError for a receipt that cannot be signed.
    """
    content = receipt.model_dump(exclude_none=True) if isinstance(receipt, Receipt) else receipt
    signed = {name: value for name, value in content.items() if name not in _UNSIGNED and value is not None}
    signed["signature"] = sign(key, canonical(signed))
    signed["attestations"] = []
    return signed


def sign_promises(key: SigningKey, contents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`Promise`s as dictionaries: receipts without statement and signature, up to MAX_SHARED a signature.

    Raises CanonicalError if any of them cannot be signed.
    """
    documents = [(content, canonical(content)) for content in contents]
    return [
        promise
        for first in range(0, len(documents), MAX_SHARED)
        for promise in sign_together(key, _PROMISES, documents[first : first + MAX_SHARED])
    ]


def attest_receipt(key: SigningKey, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """A signed receipt with one more attestation, by this key."""
    attestation = {
        **sign(key, canonical(_without(receipt, _UNSIGNED))),
        "receipt_sig": encode_base64url(key.sign(canonical(_without(receipt, {"attestations"})))),
    }
    return {**receipt, "attestations": [*receipt.get("attestations", ()), attestation]}


def verify_receipt(
    receipt: Mapping[str, Any],
    trusted: Collection[str] | None,
    miner_keys: Mapping[str, str] | None = None,
) -> VerifiedReceipt:
    """Check a receipt, ours or one made by AITBC, or the promise of one, with public keys alone.

    `trusted` holds the key ids whose signatures count. None takes the key that the receipt itself names:
    that proves that the receipt is intact and nothing about its author (`key_trusted` is False then).
    `miner_keys` maps a miner's name to its key id. With it, the receipt must hold that miner's statement.
    Without it, a statement is optional and is checked with the key that it names. A promise has none.

    Raises VerificationFailed: RECEIPT_MALFORMED, RECEIPT_ALGORITHM, RECEIPT_KEY, RECEIPT_SIGNATURE,
    ATTESTATION_SIGNATURE, STATEMENT_MISSING, STATEMENT_MINER, STATEMENT_MISMATCH, and those of
    `verify_statement`.
    """
    # 1. The signature and its key. Receipts made elsewhere may hold floats, hence the lenient form; for ours
    #    the bytes are the same.
    named, signature, tree = _signature_of(receipt)
    if trusted is not None and named not in trusted:
        raise VerificationFailed("RECEIPT_KEY", f"signed with {named}, which is not among the trusted keys")
    message = _signed_bytes(receipt, _UNSIGNED)
    signed = message if tree is None else message_in_tree(_PROMISES, message, tree)
    if signed is None or not matches(named, signature, signed):
        raise VerificationFailed("RECEIPT_SIGNATURE", "the signature does not match the receipt")

    # 2. Attestations: one that does not match is worse than none.
    attested = _verify_attestations(receipt, message)

    # 3. The miner's statement, which the receipt must repeat faithfully.
    statement, miner_key = _verify_inner_statement(receipt, miner_keys)

    return VerifiedReceipt(
        receipt_id=_text_member(receipt, "receipt_id"),
        job_id=_text_member(receipt, "job_id"),
        key_id=named,
        key_trusted=trusted is not None,
        statement=statement,
        miner_key_id=miner_key,
        miner_key_trusted=miner_key is not None and miner_keys is not None,
        attestations=attested,
        is_promise=tree is not None,
    )


def _signature_of(receipt: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any] | None]:
    """Key, signature, and the inclusion proof of a promise. Raises VerificationFailed."""
    signature = receipt.get("signature")
    if not isinstance(signature, Mapping):
        raise VerificationFailed("RECEIPT_MALFORMED", "the receipt is not signed")
    algorithm = signature.get("alg")
    if algorithm != ALGORITHM:
        # Anything else may be too large, or too deep, to be shown.
        shown = repr(algorithm) if isinstance(algorithm, str) else type(algorithm).__name__
        raise VerificationFailed("RECEIPT_ALGORITHM", f"expected {ALGORITHM}, not {shown}")
    tree = signature.get("tree")
    if tree is not None:
        try:
            InclusionProof.model_validate(tree)
        except ValidationError as error:
            where = first_invalid_field(error).text("signature.tree")
            raise VerificationFailed("RECEIPT_MALFORMED", where) from None
    return _text_member(signature, "key_id"), _text_member(signature, "sig"), tree


def _verify_attestations(receipt: Mapping[str, Any], message: bytes) -> tuple[Attested, ...]:
    attestations = receipt.get("attestations")
    if attestations is None:
        return ()
    if not isinstance(attestations, list) or not all(isinstance(item, Mapping) for item in attestations):
        raise VerificationFailed("RECEIPT_MALFORMED", "attestations must be a list of objects")
    found = []
    whole: bytes | None = None
    for attestation in attestations:
        key_id, over_receipt = _text_member(attestation, "key_id"), attestation.get("receipt_sig")
        good = attestation.get("alg") == ALGORITHM and matches(
            key_id, _text_member(attestation, "sig"), message
        )
        if good and over_receipt is not None:
            whole = whole or _signed_bytes(receipt, {"attestations"})
            good = isinstance(over_receipt, str) and matches(key_id, over_receipt, whole)
        if not good:
            raise VerificationFailed("ATTESTATION_SIGNATURE", f"the attestation by {key_id} does not match")
        found.append(Attested(key_id, over_receipt is not None))
    return tuple(found)


def _verify_inner_statement(
    receipt: Mapping[str, Any], miner_keys: Mapping[str, str] | None
) -> tuple[Mapping[str, Any] | None, str | None]:
    metadata = receipt.get("metadata")
    statement = metadata.get(STATEMENT_MEMBER) if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping) or statement is None:
        if miner_keys is not None:
            raise VerificationFailed(
                "STATEMENT_MISSING", "it holds no statement by the miner; a promise never does"
            )
        return None, None
    if not isinstance(statement, Mapping) or not isinstance(statement.get("signature"), Mapping):
        raise VerificationFailed("STATEMENT_MALFORMED", "expected a signed statement")

    if miner_keys is None:
        key_id = _text_member(statement["signature"], "key_id")
    else:
        miner = _text_member(statement, "miner_id")
        if miner not in miner_keys:
            raise VerificationFailed("STATEMENT_MINER", f"no key is known for the miner {miner!r}")
        key_id = miner_keys[miner]
    verify_statement(statement, key_id)

    expected = {
        "job_id": (receipt.get("job_id"), statement["job_id"]),
        "provider": (receipt.get("provider"), statement["miner_id"]),
        "receipt_id": (
            receipt.get("receipt_id"),
            receipt_id(statement["job_id"], statement["attempt"]),
        ),
        **{
            f"metadata.{name}": (metadata.get(name), statement[name])
            for name in ("attempt", "service", "payload_digest", "result_digest")
        },
    }
    for name, (said, stated) in expected.items():
        # Compare the type as well: True == 1 and 1.0 == 1 in Python, but not in the signed bytes.
        if said != stated or type(said) is not type(stated):
            raise VerificationFailed(
                "STATEMENT_MISMATCH", f"{name} is {said!r}, but the miner states {stated!r}"
            )
    return statement, key_id


def _signed_bytes(receipt: Mapping[str, Any], without: Collection[str]) -> bytes:
    """The signed bytes of a receipt without these members. Raises VerificationFailed."""
    try:
        return canonical_lenient(_without(receipt, without))
    except CanonicalError as error:
        raise VerificationFailed("RECEIPT_MALFORMED", str(error)) from None


def _without(content: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}


def _text_member(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str):
        raise VerificationFailed("RECEIPT_MALFORMED", f"{name} must be a string")
    return value
