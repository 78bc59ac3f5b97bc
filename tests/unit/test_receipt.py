"""Receipts verify here and at AITBC, and every altered one is caught with a code that says why."""

import copy
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from coordinator.crypto.canonical import CanonicalError
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.receipt import (
    Attested,
    Promise,
    Receipt,
    attest_receipt,
    receipt_id,
    sign_promises,
    sign_receipt,
    verify_receipt,
)
from coordinator.crypto.signature import VerificationFailed
from coordinator.crypto.statement import (
    SignedStatement,
    Statement,
    sign_statement,
    sign_statements,
    verify_statement,
)
from tests.harness.aitbc import aitbc_accepts, aitbc_signature
from tests.harness.cases import every

COORDINATOR = SigningKey(bytes(range(32)))
ATTESTER = SigningKey(bytes(range(1, 33)))
MINER = SigningKey(bytes(range(2, 34)))
STRANGER = SigningKey(bytes(range(3, 35)))
JOB = "01890a5d-ac96-774b-bcce-b302099a8057"
TRUSTED = {COORDINATOR.key_id}
MINER_KEYS = {"miner-1": MINER.key_id}


def a_statement(**changes: Any) -> dict[str, Any]:
    return {
        "version": "1",
        "job_id": JOB,
        "attempt": 2,
        "miner_id": "miner-1",
        "session_id": "session-1",
        "service": "checksum",
        "payload_digest": "a" * 64,
        "result_digest": "b" * 64,
        "started_at_ms": 1_700_000_000_250,
        "completed_at_ms": 1_700_000_001_750,
        **changes,
    }


def a_receipt(statement: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "version": "1.0",
        "receipt_id": receipt_id(JOB, 2),
        "job_id": JOB,
        "provider": "miner-1",
        "client": "Jürgen",
        "units": "1.5",
        "unit_type": "gpu_seconds",
        "price": None,
        "started_at": 1_700_000_000,
        "completed_at": 1_700_000_001,
        "metadata": {
            "attempt": 2,
            "service": "checksum",
            "payload_digest": "a" * 64,
            "result_digest": "b" * 64,
            "statement": sign_statement(MINER, a_statement()) if statement is None else statement,
        },
        **changes,
    }


def failure(check: Callable[[], object]) -> str:
    with pytest.raises(VerificationFailed) as caught:
        check()
    assert caught.value.detail
    return caught.value.code


# --- receipts here and at AITBC -----------------------------------------------------------------------------
def test_aitbc_accepts_our_receipts() -> None:
    """Signed, and also attested, and also after a trip through JSON, a receipt of ours verifies there."""
    signed = sign_receipt(COORDINATOR, a_receipt())
    attested = attest_receipt(ATTESTER, signed)

    assert aitbc_accepts(json.loads(json.dumps(signed)))
    assert aitbc_accepts(json.loads(json.dumps(attested)))
    assert not aitbc_accepts({**signed, "units": "1.6"})


def test_we_accept_receipts_made_by_aitbc() -> None:
    """Floats, nulls, additional fields and a missing statement are fine in a receipt made elsewhere."""
    foreign: dict[str, Any] = {
        "version": "1.0",
        "receipt_id": "rcpt-1",
        "job_id": "job-1",
        "provider": "provider-1",
        "client": "client-1",
        "units": 1.9,
        "unit_type": "gpu_seconds",
        "price": 1e-05,
        "model": None,
        "started_at": 1_700_000_000,
        "completed_at": 1_700_000_002,
        "metadata": {"payload": {"seed": 2**63, "values": [None, 0.1, {"é": None}]}, "result": {}},
    }
    foreign["signature"] = aitbc_signature(bytes(range(32)), foreign)
    foreign["attestations"] = [aitbc_signature(bytes(range(1, 33)), foreign)]

    verified = verify_receipt(json.loads(json.dumps(foreign)), TRUSTED)

    assert (verified.key_trusted, verified.statement, verified.job_id) == (True, None, "job-1")
    assert (Attested(ATTESTER.key_id, covers_signature=False),) == verified.attestations
    assert failure(lambda: verify_receipt({**foreign, "units": 2.0}, TRUSTED)) == "RECEIPT_SIGNATURE"
    assert failure(lambda: verify_receipt(foreign, TRUSTED, MINER_KEYS)) == "STATEMENT_MISSING"


# --- our own ----------------------------------------------------------------------------------------


def test_a_receipt_verifies_with_public_keys_alone() -> None:
    """The answer names the keys, says they are trusted, and gives the miner's statement."""
    receipt = attest_receipt(ATTESTER, sign_receipt(COORDINATOR, a_receipt()))

    verified = verify_receipt(receipt, TRUSTED, MINER_KEYS)

    assert (receipt_id(JOB, 2), JOB) == (verified.receipt_id, verified.job_id)
    assert (COORDINATOR.key_id, True) == (verified.key_id, verified.key_trusted)
    assert (MINER.key_id, True) == (verified.miner_key_id, verified.miner_key_trusted)
    assert receipt["metadata"]["statement"] == verified.statement
    assert (Attested(ATTESTER.key_id, covers_signature=True),) == verified.attestations


def test_no_key_is_trusted_only_because_the_receipt_names_it() -> None:
    """A stranger's receipt is refused; asked to trust whatever it names, the answer says that we did."""
    receipt = sign_receipt(STRANGER, a_receipt())

    assert failure(lambda: verify_receipt(receipt, TRUSTED, MINER_KEYS)) == "RECEIPT_KEY"
    assert failure(lambda: verify_receipt(receipt, set(), MINER_KEYS)) == "RECEIPT_KEY"
    unpinned = verify_receipt(receipt, None)
    assert (unpinned.key_trusted, unpinned.miner_key_trusted) == (False, False)


def test_what_no_signature_can_cover_is_told_as_malformed() -> None:
    """Also where it stands in the part that an attestation alone covers: the verifier says what is wrong."""
    receipt = attest_receipt(ATTESTER, sign_receipt(COORDINATOR, a_receipt()))
    receipt["signature"]["more"] = float("nan")

    assert failure(lambda: verify_receipt(receipt, TRUSTED, MINER_KEYS)) == "RECEIPT_MALFORMED"


def test_models_and_dictionaries_sign_alike() -> None:
    """The parsed forms give the same signatures as plain dictionaries, and parse what was signed."""
    statement = sign_statement(MINER, Statement.model_validate(a_statement()))
    assert sign_statement(MINER, a_statement()) == statement
    receipt = sign_receipt(COORDINATOR, Receipt.model_validate(a_receipt()))

    assert sign_receipt(COORDINATOR, a_receipt()) == receipt
    assert MINER.key_id == SignedStatement.model_validate(statement).signature.key_id
    assert receipt == Receipt.model_validate(receipt).model_dump(exclude_none=True)
    assert "price" not in receipt


def test_signing_again_replaces_the_signature() -> None:
    """A receipt never carries a signature or attestations from before a change."""
    once = attest_receipt(ATTESTER, sign_receipt(STRANGER, a_receipt()))

    assert sign_receipt(COORDINATOR, a_receipt()) == sign_receipt(COORDINATOR, once)
    assert sign_statement(MINER, a_statement()) == sign_statement(
        MINER, sign_statement(STRANGER, a_statement())
    )


def test_one_attempt_has_one_receipt_id() -> None:
    """The id depends on job and attempt only, and on both."""
    assert len(receipt_id("job", 11)) == 32
    assert receipt_id("job", 11) == receipt_id("job", 11)
    assert len({receipt_id("job", 11), receipt_id("job", 1), receipt_id("job1", 1)}) == 3


def test_floats_are_never_signed() -> None:
    """Quantities are decimal strings; a float is refused before it gets a signature."""
    with pytest.raises(CanonicalError, match="units"):
        sign_receipt(COORDINATOR, a_receipt(units=1.5))


@every("field", sorted(set(a_receipt()) - {"price"}))
def test_every_field_is_covered_by_the_signature(field: str) -> None:
    """Whatever is changed, removed or added after signing, the receipt fails."""
    receipt = sign_receipt(COORDINATOR, a_receipt())
    codes = {"RECEIPT_SIGNATURE"}

    assert failure(lambda: verify_receipt({**receipt, field: "changed"}, TRUSTED, MINER_KEYS)) in codes
    without = {name: value for name, value in receipt.items() if name != field}
    assert failure(lambda: verify_receipt(without, TRUSTED, MINER_KEYS)) in codes
    assert failure(lambda: verify_receipt({**receipt, "added": 1}, TRUSTED, MINER_KEYS)) in codes


@every(
    ("change", "code"),
    [
        ({"job_id": "another"}, "STATEMENT_MISMATCH"),
        ({"provider": "miner-2"}, "STATEMENT_MISMATCH"),
        ({"receipt_id": "0" * 32}, "STATEMENT_MISMATCH"),
        ({"metadata": {"attempt": 3}}, "STATEMENT_MISMATCH"),
        ({"metadata": {"attempt": "2"}}, "STATEMENT_MISMATCH"),
        ({"metadata": {"service": "video_transcoding"}}, "STATEMENT_MISMATCH"),
        ({"metadata": {"payload_digest": "c" * 64}}, "STATEMENT_MISMATCH"),
        ({"metadata": {"result_digest": "c" * 64}}, "STATEMENT_MISMATCH"),
        ({"metadata": {"statement": None}}, "STATEMENT_MISSING"),
        ({"metadata": {"statement": "text"}}, "STATEMENT_MALFORMED"),
        ({"metadata": {"statement": a_statement()}}, "STATEMENT_MALFORMED"),
        ({"metadata": {"statement": sign_statement(STRANGER, a_statement())}}, "STATEMENT_KEY"),
        (
            {"metadata": {"statement": sign_statement(MINER, a_statement(miner_id="miner-2"))}},
            "STATEMENT_MINER",
        ),
        (
            {"metadata": {"statement": {**sign_statement(MINER, a_statement()), "attempt": 9}}},
            "STATEMENT_SIGNATURE",
        ),
        (
            {"metadata": {"statement": sign_statement(MINER, a_statement(attempt=True))}},
            "STATEMENT_MALFORMED",
        ),
        ({"metadata": {"statement": sign_statement(MINER, a_statement(attempt=0))}}, "STATEMENT_MALFORMED"),
        ({"metadata": {"statement": sign_statement(MINER, a_statement(more=1))}}, "STATEMENT_MALFORMED"),
    ],
)
def test_the_coordinator_cannot_put_words_into_the_miners_mouth(change: dict[str, Any], code: str) -> None:
    """Even correctly signed by the coordinator, a receipt must repeat what that miner stated."""
    receipt = a_receipt()
    metadata = {**receipt["metadata"], **change.get("metadata", {})}

    signed = sign_receipt(COORDINATOR, {**receipt, **change, "metadata": metadata})

    assert code == failure(lambda: verify_receipt(signed, TRUSTED, MINER_KEYS))


@every(
    ("signature", "code"),
    [
        (None, "RECEIPT_MALFORMED"),
        ("text", "RECEIPT_MALFORMED"),
        ({}, "RECEIPT_ALGORITHM"),
        ({"alg": "none"}, "RECEIPT_ALGORITHM"),
        ({"alg": "Ed25519"}, "RECEIPT_MALFORMED"),
        ({"alg": "Ed25519", "key_id": 1, "sig": "x"}, "RECEIPT_MALFORMED"),
        ({"alg": "Ed25519", "key_id": COORDINATOR.key_id, "sig": "x"}, "RECEIPT_SIGNATURE"),
        ({"alg": "Ed25519", "key_id": COORDINATOR.key_id, "sig": "A" * 86}, "RECEIPT_SIGNATURE"),
    ],
)
def test_malformed_signatures_are_refused_with_a_code(signature: Any, code: str) -> None:
    """No shape of signature makes the verifier crash or pass."""
    receipt = {**sign_receipt(COORDINATOR, a_receipt()), "signature": signature}

    assert code == failure(lambda: verify_receipt(receipt, TRUSTED, MINER_KEYS))


def test_an_attestation_covers_the_signature() -> None:
    """An attestation moved to another receipt, or onto another signature of the same one, fails."""
    attested = attest_receipt(ATTESTER, sign_receipt(COORDINATOR, a_receipt()))
    resigned = {**sign_receipt(STRANGER, a_receipt()), "attestations": attested["attestations"]}
    other = {**sign_receipt(COORDINATOR, a_receipt(units="2")), "attestations": attested["attestations"]}
    broken = copy.deepcopy(attested)
    broken["attestations"][0]["receipt_sig"] = 7

    for receipt in (resigned, other, broken):
        assert failure(partial(verify_receipt, receipt, None)) == "ATTESTATION_SIGNATURE"
    assert failure(lambda: verify_receipt({**attested, "attestations": ["x"]}, None)) == "RECEIPT_MALFORMED"


def test_a_statement_verifies_only_with_the_key_the_miner_registered() -> None:
    """Another miner's key, a changed statement and a malformed one are told apart."""
    signed = sign_statement(MINER, a_statement())

    verify_statement(signed, MINER.key_id)
    assert failure(lambda: verify_statement(signed, STRANGER.key_id)) == "STATEMENT_KEY"
    changed = {**signed, "result_digest": "c" * 64}
    assert failure(lambda: verify_statement(changed, MINER.key_id)) == "STATEMENT_SIGNATURE"
    assert failure(lambda: verify_statement({}, MINER.key_id)) == "STATEMENT_MALFORMED"
    assert (
        failure(lambda: verify_statement({**signed, "job_id": "\x00"}, MINER.key_id)) == "STATEMENT_MALFORMED"
    )


# --- promises ---------------------------------------------------------------------------------------
def promises(count: int) -> list[dict[str, Any]]:
    contents = []
    for number in range(count):
        content = a_receipt(price=f"{number}.5", client="alice")
        del content["metadata"]["statement"]
        contents.append(content)
    return sign_promises(COORDINATOR, contents)


@every("count", [1, 2, 3, 16, 17, 40])
def test_each_promise_verifies_by_itself(count: int) -> None:
    """With the coordinator's public key alone, whatever it shares its signature with; the model agrees."""
    made = promises(count)
    for number, promise in enumerate(made):
        verified = verify_receipt(json.loads(json.dumps(promise)), TRUSTED)
        assert (JOB, True, None) == (verified.job_id, verified.is_promise, verified.statement)
        assert f"{number}.5" == promise["price"]
        Promise.model_validate(promise)
    signatures = {promise["signature"]["sig"] for promise in made}
    assert -(-count // 16) == len(signatures)


def spoilt(path: str, value: Any) -> dict[str, Any]:
    promise = copy.deepcopy(promises(5)[2])
    *parents, last = path.split(".")
    place = promise
    for name in parents:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return promise


@every(
    ("path", "value", "code"),
    [
        ("price", "1000000", "RECEIPT_SIGNATURE"),
        ("client", "mallory", "RECEIPT_SIGNATURE"),
        ("metadata.attempt", 1, "RECEIPT_SIGNATURE"),
        ("metadata.more", "x", "RECEIPT_SIGNATURE"),
        ("signature.tree.index", 1, "RECEIPT_SIGNATURE"),
        ("signature.tree.size", 4, "RECEIPT_SIGNATURE"),
        ("signature.tree.path", [], "RECEIPT_SIGNATURE"),
        ("signature.tree.path", ["ab" * 32] * 3, "RECEIPT_SIGNATURE"),
        ("signature.tree.path", ["ab" * 32] * 30, "RECEIPT_MALFORMED"),
        ("signature.tree.path", ["zz" * 32], "RECEIPT_MALFORMED"),
        ("signature.tree.index", -1, "RECEIPT_MALFORMED"),
        ("signature.tree.index", 2**40, "RECEIPT_MALFORMED"),
        ("signature.tree.more", 1, "RECEIPT_MALFORMED"),
        ("signature.tree", [], "RECEIPT_MALFORMED"),
        ("signature.tree", "tree", "RECEIPT_MALFORMED"),
        ("signature.tree", None, "RECEIPT_SIGNATURE"),
        ("signature.key_id", STRANGER.key_id, "RECEIPT_KEY"),
        ("signature.sig", "A" * 86, "RECEIPT_SIGNATURE"),
        ("signature.alg", "none", "RECEIPT_ALGORITHM"),
        ("signature", None, "RECEIPT_MALFORMED"),
    ],
)
def test_a_spoilt_promise_is_refused(path: str, value: Any, code: str) -> None:
    """Whatever was changed, in the facts or in the proof."""
    assert code == failure(partial(verify_receipt, spoilt(path, value), TRUSTED))


def test_a_promise_is_no_receipt_and_no_statement() -> None:
    """Its signature fits no receipt of the same facts, and a tree of statements makes no promise."""
    promise = promises(1)[0]
    receipt = {**promise, "signature": {k: v for k, v in promise["signature"].items() if k != "tree"}}
    assert "RECEIPT_SIGNATURE" == failure(partial(verify_receipt, receipt, TRUSTED))
    first, _ = sign_statements(COORDINATOR, [{**a_receipt(price="1")}, a_statement()])
    assert "RECEIPT_SIGNATURE" == failure(partial(verify_receipt, first, TRUSTED))
    signed = sign_receipt(COORDINATOR, a_receipt())
    signed["signature"]["tree"] = {"index": 0, "size": 1, "path": []}
    assert "RECEIPT_SIGNATURE" == failure(partial(verify_receipt, signed, TRUSTED))


def test_a_promise_has_no_statement_to_check() -> None:
    """With miners' keys, its receipt is asked for."""
    assert "STATEMENT_MISSING" == failure(partial(verify_receipt, promises(2)[0], TRUSTED, MINER_KEYS))


def a_deep_list() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


@every("algorithm", lambda: [10**5000, a_deep_list(), None, "\ud800"])
def test_an_algorithm_that_cannot_be_shown(algorithm: Any) -> None:
    """A value that is too large or too deep for a message is refused with a code, as any other."""
    signed = sign_receipt(COORDINATOR, a_receipt())
    spoilt_receipt = {**signed, "signature": {**signed["signature"], "alg": algorithm}}
    assert "RECEIPT_ALGORITHM" == failure(partial(verify_receipt, spoilt_receipt, TRUSTED))


@every("attestations", [False, 0, "", {}])
def test_attestations_are_a_list(attestations: Any) -> None:
    """An empty value that is no list is malformed, and not the same as none."""
    signed = {**sign_receipt(COORDINATOR, a_receipt()), "attestations": attestations}
    assert "RECEIPT_MALFORMED" == failure(partial(verify_receipt, signed, TRUSTED))
