"""The miner's signed statement: the job and attempt, and the digests of payload and result.

Statements that are ready at the same time may share one signature; see `shared_signature`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError

from coordinator.crypto.canonical import MAX_SAFE_INTEGER, CanonicalError, canonical, canonical_of_checked
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.shared_signature import Digest, InclusionProof, message_in_tree, sign_together
from coordinator.crypto.signature import (
    SIGNATURE_MEMBER,
    Signature,
    StrictModel,
    VerificationFailed,
    matches,
    sign,
)
from coordinator.validation import first_invalid_field

STATEMENT_VERSION: Final = "1"
PARTIAL_VERSION: Final = "1 partial"
MAX_SHARED: Final = 16
"""The most statements under one signature of ours: more lengthen the path and save little."""
_KIND: Final = "statements"

Name = Annotated[str, Field(min_length=1, max_length=256)]
Attempt = Annotated[int, Field(ge=1, le=MAX_SAFE_INTEGER)]
Instant = Annotated[int, Field(ge=0, le=MAX_SAFE_INTEGER)]


UnitName = Annotated[str, Field(pattern=r"^[a-z][a-z_]{0,31}$")]
Quantity = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,9})?$")]


def _given(units: object) -> object:
    if units is None:
        raise ValueError("can't be null; leave it out")
    return units


class Statement(StrictModel):
    """A miner's statement about one attempt. Times are Unix milliseconds by the miner's clock."""

    version: Literal["1"] = "1"
    job_id: Name
    attempt: Attempt
    miner_id: Name
    session_id: Name
    service: Name
    payload_digest: Digest
    result_digest: Digest
    started_at_ms: Instant
    completed_at_ms: Instant
    units: Annotated[dict[UnitName, Quantity] | None, Field(max_length=8), BeforeValidator(_given)] = None
    """The numbers of the units that jobs may be billed by besides time (`image`, `output_token`), as decimal
    texts; left out if there are none."""


class StatementSignature(Signature):
    """A signature over the statement alone, or over the root of a tree with the statement."""

    tree: InclusionProof | None = None


class SignedStatement(Statement):
    """A statement and the miner's signature over the canonical bytes of everything but `signature`."""

    signature: StatementSignature


class PartialStatement(StrictModel):
    """A miner's statement about the work on a job that was cancelled meanwhile: no result, time alone.

    It has another version than a statement of a result, so that neither can stand for the other.
    """

    version: Literal["1 partial"] = "1 partial"
    job_id: Name
    attempt: Attempt
    miner_id: Name
    session_id: Name
    service: Name
    payload_digest: Digest
    started_at_ms: Instant
    stopped_at_ms: Instant


class SignedPartialStatement(PartialStatement):
    """A partial statement, and the signature over the canonical bytes of everything but `signature`."""

    signature: Signature


def sign_statement(key: SigningKey, statement: Statement | Mapping[str, Any]) -> dict[str, Any]:
    """A `SignedStatement` as a dictionary. Raises CanonicalError for a statement that cannot be signed."""
    content = _content(
        statement.model_dump(exclude_none=True) if isinstance(statement, Statement) else statement
    )
    return {**content, SIGNATURE_MEMBER: sign(key, canonical(content))}


def sign_statements(key: SigningKey, statements: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`SignedStatement`s under one signature; a single one is signed as by `sign_statement`.

    Raises CanonicalError if any statement cannot be signed.
    """
    if len(statements) == 1:
        return [sign_statement(key, statements[0])]
    contents = [_content(statement) for statement in statements]
    return sign_together(key, _KIND, [(content, canonical(content)) for content in contents])


def verify_statement(signed: Mapping[str, Any], key_id: str) -> None:
    """Check a miner's signed statement against the key that the miner registered.

    Raises VerificationFailed: STATEMENT_MALFORMED, STATEMENT_KEY (signed with another key),
    STATEMENT_SIGNATURE.
    """
    StatementVerifier().verify(signed, key_id)


class StatementVerifier:
    """Checks statements that arrive together; a shared signature is checked once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, bytes], bool] = {}

    def verify(self, signed: Mapping[str, Any], key_id: str) -> None:
        """See `verify_statement`."""
        try:
            SignedStatement.__pydantic_validator__.validate_python(signed)
            message = canonical_of_checked(_content(signed))
        except ValidationError as error:
            raise VerificationFailed(
                "STATEMENT_MALFORMED", first_invalid_field(error).text("statement")
            ) from None
        except CanonicalError as error:
            raise VerificationFailed("STATEMENT_MALFORMED", str(error)) from None
        signature = signed[SIGNATURE_MEMBER]
        if signature["key_id"] != key_id:
            raise VerificationFailed("STATEMENT_KEY", f"signed with {signature['key_id']}, expected {key_id}")
        if (tree := signature.get("tree")) is not None:
            message = _signed_of(message, tree)
        checked = (key_id, signature["sig"], message)
        if checked not in self._known:
            self._known[checked] = matches(key_id, signature["sig"], message)
        if not self._known[checked]:
            raise VerificationFailed(
                "STATEMENT_SIGNATURE", "the miner's signature does not match the statement"
            )


def _signed_of(statement: bytes, tree: Mapping[str, Any]) -> bytes:
    """The signed bytes that follow from the inclusion proof. Raises VerificationFailed for an invalid one."""
    message = message_in_tree(_KIND, statement, tree)
    if message is None:
        raise VerificationFailed("STATEMENT_SIGNATURE", "the path does not fit index and size")
    return message


def _content(statement: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in statement.items() if name != SIGNATURE_MEMBER}


def verify_partial_statement(signed: Mapping[str, Any], key_id: str) -> None:
    """Check a partial statement against the key that the miner registered. Raises as `verify_statement`."""
    try:
        SignedPartialStatement.__pydantic_validator__.validate_python(signed)
        message = canonical(_content(signed))
    except ValidationError as error:
        fault = first_invalid_field(error).text("statement")
        raise VerificationFailed("STATEMENT_MALFORMED", fault) from None
    except CanonicalError as error:
        raise VerificationFailed("STATEMENT_MALFORMED", str(error)) from None
    signature = signed[SIGNATURE_MEMBER]
    if signature["key_id"] != key_id:
        raise VerificationFailed("STATEMENT_KEY", f"signed with {signature['key_id']}, expected {key_id}")
    if not matches(key_id, signature["sig"], message):
        raise VerificationFailed("STATEMENT_SIGNATURE", "the miner's signature does not match the statement")
