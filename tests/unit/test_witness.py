"""A witness: what it co-signs, and the status of every refusal in C2SP tlog-witness."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator.crypto.keys import SigningKey
from coordinator.crypto.log.checkpoint import Checkpoint, SignedCheckpoint, log_key, sign_checkpoint
from coordinator.crypto.log.note import BadNote, VerifierKey, read_signatures
from coordinator.crypto.log.tiles import Tile, TreeEdge, consistency_path
from coordinator.crypto.merkle import EMPTY_ROOT, leaf_hash, root_of
from coordinator.wire.witnessing import MAX_REQUEST_BYTES, AddCheckpoint, BadRequest, read_size
from coordinator.witness.logs import BadLogs, read_logs
from coordinator.witness.state import WitnessState
from coordinator.witness.witness import Witness, WitnessAnswer
from tests.harness.cases import every

LOG, OWN = SigningKey(bytes(range(32))), SigningKey(bytes(range(1, 33)))
ORIGIN = "example.com/log"
HASHES = [leaf_hash(b"%d" % n) for n in range(300)]
TILES: dict[Tile, bytes] = TreeEdge().extend(HASHES)
# The request of C2SP tlog-witness.
EXAMPLE = """old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
"""  # noqa: E501


def signed(
    size: int, root: bytes | None = None, key: SigningKey = LOG, origin: str = ORIGIN
) -> SignedCheckpoint:
    return sign_checkpoint(key, Checkpoint(origin, size, root_of(HASHES[:size]) if root is None else root))


def asks(old: int, size: int, checkpoint: SignedCheckpoint | None = None) -> bytes:
    path = consistency_path(TILES, old, size) if old <= size else []
    return AddCheckpoint(old, path, checkpoint or signed(size)).encode()


@pytest.fixture
def made(tmp_path: Path) -> Callable[[], Witness]:
    """Makes the witness, each time from its folder."""
    logs = read_logs(["# ours", "", log_key(LOG, ORIGIN).text])
    return lambda: Witness(OWN, "w1", logs, WitnessState(tmp_path / "logs"), now=lambda: 1700000000.9)


def cosigned(witness: Witness, answer: WitnessAnswer, checkpoint: SignedCheckpoint) -> int | None:
    """The time of the cosignature in an answer, which must be right."""
    assert 200 == answer.status, answer
    note = checkpoint.note.with_signatures(read_signatures(answer.body))
    [(_, signature)] = note.signed_by([witness.verifier_key])
    return signature.time


def test_a_growing_log_is_cosigned(made: Callable[[], Witness]) -> None:
    """Each checkpoint that begins with the one before is co-signed; the state outlives the process."""
    witness = made()
    assert 1700000000 == cosigned(witness, witness.add_checkpoint(asks(0, 10)), signed(10))
    assert 1700000000 == cosigned(witness, witness.add_checkpoint(asks(10, 270)), signed(270))
    witness = made()
    assert WitnessAnswer(409, "270\n", "text/x.tlog.size") == witness.add_checkpoint(asks(0, 300))
    assert 1700000000 == cosigned(witness, witness.add_checkpoint(asks(270, 270)), signed(270))
    assert 1700000000 == cosigned(witness, witness.add_checkpoint(asks(270, 300)), signed(300))


def test_an_empty_log_is_cosigned(made: Callable[[], Witness]) -> None:
    """A tree without leaves has the empty root, and any tree begins with it."""
    witness, empty = made(), signed(0, EMPTY_ROOT)
    cosigned(witness, witness.add_checkpoint(asks(0, 0, empty)), empty)
    assert 409 == witness.add_checkpoint(asks(0, 0, signed(0, bytes(32)))).status
    cosigned(witness, witness.add_checkpoint(asks(0, 3)), signed(3))


def test_refusals_have_the_status_of_the_specification(made: Callable[[], Witness]) -> None:
    """Unknown logs 404, foreign signatures 403, wrong sizes 400 and 409, other histories 422."""
    witness = made()
    witness.add_checkpoint(asks(0, 100))
    split = signed(100, bytes(32))
    rewritten = signed(200, bytes(32))
    proof = consistency_path(TILES, 100, 200)
    cases = [
        (404, asks(0, 5, signed(5, origin="another"))),
        (403, asks(100, 200, signed(200, key=OWN))),
        (400, asks(201, 200, signed(200))),
        (400, b"old 1"),
        (409, asks(0, 200)),
        (409, asks(50, 60)),
        (409, AddCheckpoint(100, [], split).encode()),
        (422, AddCheckpoint(100, proof, rewritten).encode()),
        (422, AddCheckpoint(100, proof[:-1], signed(200)).encode()),
        (422, AddCheckpoint(100, [*proof, bytes(32)], signed(200)).encode()),
    ]

    assert [status for status, _ in cases] == [witness.add_checkpoint(body).status for _, body in cases]
    assert 200 == witness.add_checkpoint(AddCheckpoint(100, proof, signed(200)).encode()).status


def test_the_first_request_of_a_log_proves_nothing(made: Callable[[], Witness]) -> None:
    """A log that the witness has never seen sends an empty proof from size 0."""
    witness = made()
    assert 422 == witness.add_checkpoint(AddCheckpoint(0, [bytes(32)], signed(5)).encode()).status
    assert 200 == witness.add_checkpoint(AddCheckpoint(0, [], signed(5)).encode()).status


def test_of_two_requests_at_once_one_is_signed(made: Callable[[], Witness]) -> None:
    """Reading, checking and storing is one step: the later of two requests from one size gets a conflict."""
    witness = made()
    witness.add_checkpoint(asks(0, 10))
    answers: list[int] = []
    bodies = [asks(10, size) for size in range(11, 31)]
    threads = [
        threading.Thread(target=lambda body=body: answers.append(witness.add_checkpoint(body).status))
        for body in bodies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [200, *[409] * 19] == sorted(answers)


def test_a_damaged_state_signs_nothing(made: Callable[[], Witness], tmp_path: Path) -> None:
    """A witness that can't read what it signed last answers 500, and goes on with other logs."""
    witness = made()
    witness.add_checkpoint(asks(0, 10))
    [file] = (tmp_path / "logs").iterdir()
    file.write_text("x")

    assert 500 == witness.add_checkpoint(asks(10, 20)).status
    assert "x" == file.read_text()


def test_the_request_of_the_specification_is_read() -> None:
    """The example has an old size, four hashes, and a checkpoint with two signatures."""
    request = AddCheckpoint.parse(EXAMPLE.encode())

    assert (20852014, 4, 20852163, 2) == (
        request.old_size,
        len(request.proof),
        request.signed.checkpoint.size,
        len(request.signed.note.signatures),
    )
    assert EXAMPLE.encode() == request.encode()


@every(
    "body",
    [
        b"",
        b"old 1\n",
        b"old 01\n\n" + signed(5).text.encode(),
        b"new 1\n\n" + signed(5).text.encode(),
        b"old 1\nAAAA\n\n" + signed(5).text.encode(),
        b"old 1\n" + b"A" * 44 + b"\n\n" + signed(5).text.encode(),
        ("old 1\n" + "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n" * 64 + "\n" + signed(5).text).encode(),
        ("old ١\n\n" + signed(5).text).encode(),
        b"old 1\n\n" + signed(5).note.text.encode(),
        b"x" * (MAX_REQUEST_BYTES + 1),
    ],
)
def test_a_malformed_request_is_refused(body: bytes) -> None:
    """Sizes have no leading zeros, hashes 32 bytes, proofs 63 lines, and a signed checkpoint follows."""
    with pytest.raises((BadRequest, BadNote)):
        AddCheckpoint.parse(body)


def test_the_size_in_a_conflict() -> None:
    """A conflict's answer is a decimal number and a newline; anything else is none."""
    found = [read_size(b) for b in (b"12\n", b"0\n", b"12", b"012\n", b"-1\n", b"", b"9" * 30 + b"\n")]
    assert [12, 0, None, None, None, None, None] == found


@every("line", ["x", "a+b+c", VerifierKey.of(OWN, "w", log_key(LOG, "a").algorithm).text + "x"])
def test_a_line_that_is_no_logs_key(line: str) -> None:
    """The file of logs has verifier keys only, and the error names the line."""
    with pytest.raises(BadLogs, match="line 2"):
        read_logs(["", line])


def test_a_witness_has_a_key_of_its_own(tmp_path: Path) -> None:
    """A witness refuses the key of a log that it watches, and a log's file refuses the key of a witness."""
    with pytest.raises(BadNote, match="of its own"):
        Witness(OWN, "w1", {"a": [log_key(OWN, "a")]}, WitnessState(tmp_path))
    witness = Witness(OWN, "w1", {}, WitnessState(tmp_path))
    with pytest.raises(BadLogs, match="key of a witness"):
        read_logs([witness.verifier_key.text])
