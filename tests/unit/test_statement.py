"""Statements that share a signature, and the miner's gathering of them."""

import asyncio
from typing import Any

import pytest

from coordinator.crypto.canonical import CanonicalError, canonical
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.shared_signature import tree_message
from coordinator.crypto.signature import VerificationFailed
from coordinator.crypto.statement import (
    MAX_SHARED,
    SignedStatement,
    StatementVerifier,
    sign_statement,
    sign_statements,
    verify_statement,
)
from coordinator.miner.signing import StatementSigner

MINER = SigningKey(bytes(range(32)))
STRANGER = SigningKey(bytes(range(1, 33)))


def a_statement(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "version": "1",
        "job_id": f"job-{number}",
        "attempt": 1,
        "miner_id": "miner-1",
        "session_id": "session-1",
        "service": "checksum",
        "payload_digest": "a" * 64,
        "result_digest": "b" * 64,
        "started_at_ms": 1,
        "completed_at_ms": 2,
        **changes,
    }


def failure(signed: Any, key: SigningKey = MINER) -> str:
    with pytest.raises(VerificationFailed) as caught:
        verify_statement(signed, key.key_id)
    return caught.value.code


@pytest.mark.parametrize("count", [1, 2, 3, 7, MAX_SHARED])
def test_each_of_several_proves_itself_alone(count: int) -> None:
    """Statements under one signature verify one by one, are in the published shape, and share `sig`."""
    signed = sign_statements(MINER, [a_statement(n) for n in range(count)])
    for number, one in enumerate(signed):
        verify_statement(one, MINER.key_id)
        assert a_statement(number) == {name: value for name, value in one.items() if name != "signature"}
        assert one == SignedStatement.model_validate(one).model_dump(exclude_none=True)
    assert len({one["signature"]["sig"] for one in signed}) == 1


def test_one_alone_is_signed_as_ever() -> None:
    """A batch of one has no tree: older verifiers read it."""
    assert [sign_statement(MINER, a_statement())] == sign_statements(MINER, [a_statement()])


def test_what_a_tree_is_signed_as_is_canonical() -> None:
    """Written by hand for its cost; the bytes are those that the protocol page says."""
    root = bytes(range(224, 256))
    told = {"statements": 16, "version": "1", "root": root.hex()}
    assert canonical(told) == tree_message("statements", root, 16)


def test_a_shared_signature_covers_nothing_else() -> None:
    """A changed statement, a place or path that is not its own, and another key are refused."""
    first, second, third = sign_statements(MINER, [a_statement(n) for n in range(3)])

    def with_tree(signed: dict[str, Any], **changes: Any) -> dict[str, Any]:
        tree = {**signed["signature"]["tree"], **changes}
        return {**signed, "signature": {**signed["signature"], "tree": tree}}

    assert failure({**first, "attempt": 2}) == "STATEMENT_SIGNATURE"
    assert failure({**first, "signature": second["signature"]}) == "STATEMENT_SIGNATURE"
    assert failure(with_tree(first, index=1)) == "STATEMENT_SIGNATURE"
    assert failure(with_tree(first, index=3)) == "STATEMENT_SIGNATURE"
    assert failure(with_tree(first, size=4)) == "STATEMENT_SIGNATURE"
    assert failure(with_tree(third, path=[])) == "STATEMENT_SIGNATURE"
    assert failure(with_tree(first, path=["A" * 64] * 2)) == "STATEMENT_MALFORMED"
    assert failure(with_tree(first, path=["a" * 64] * 21)) == "STATEMENT_MALFORMED"
    assert failure(with_tree(first, size=2**40)) == "STATEMENT_MALFORMED"
    assert failure(with_tree(first, index=True)) == "STATEMENT_MALFORMED"
    assert failure(with_tree(first, more=1)) == "STATEMENT_MALFORMED"
    assert failure(first, STRANGER) == "STATEMENT_KEY"
    without = {name: value for name, value in first["signature"].items() if name != "tree"}
    assert failure({**first, "signature": without}) == "STATEMENT_SIGNATURE"


def test_a_signature_that_several_share_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One verifier remembers what it has checked, the failures too."""
    from coordinator.crypto import statement

    checked = 0
    really = statement.__dict__["matches"]

    def counting(*arguments: Any) -> bool:
        nonlocal checked
        checked += 1
        return bool(really(*arguments))

    monkeypatch.setattr(statement, "matches", counting)
    verifier = StatementVerifier()
    for one in sign_statements(MINER, [a_statement(n) for n in range(16)]):
        verifier.verify(one, MINER.key_id)
    assert checked == 1
    for one in sign_statements(STRANGER, [a_statement(n) for n in range(16)]):
        forged = {**one, "signature": {**one["signature"], "key_id": MINER.key_id}}
        with pytest.raises(VerificationFailed):
            verifier.verify(forged, MINER.key_id)
    assert checked == 2


async def test_what_is_ready_together_is_signed_together() -> None:
    """Statements of one round of the event loop share signatures, up to the limit; one alone has its own."""
    signer = StatementSigner(MINER)
    alone = await signer.sign(a_statement())
    together = await asyncio.gather(*(signer.sign(a_statement(n)) for n in range(MAX_SHARED + 2)))
    for one in (alone, *together):
        verify_statement(one, MINER.key_id)
    assert "tree" not in alone["signature"]
    assert [MAX_SHARED] * MAX_SHARED + [2, 2] == [one["signature"]["tree"]["size"] for one in together]


async def test_one_that_cannot_be_signed_fails_alone() -> None:
    """Its neighbours are signed all the same, and one whose caller has gone disturbs nobody."""
    signer = StatementSigner(MINER)
    gone = asyncio.ensure_future(signer.sign(a_statement(9)))
    good = asyncio.ensure_future(signer.sign(a_statement(1)))
    bad = asyncio.ensure_future(signer.sign(a_statement(2, attempt=1.5)))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(CanonicalError):
        await bad
    verify_statement(await good, MINER.key_id)
