"""Signed notes, keys, checkpoints and cosignatures, against published vectors and a second library."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from coordinator.crypto.keys import SigningKey, encode_base64url
from coordinator.crypto.log.checkpoint import (
    Checkpoint,
    check_origin,
    is_split_view,
    log_key,
    read_checkpoint,
    sign_checkpoint,
    verify_checkpoint,
)
from coordinator.crypto.log.note import (
    Algorithm,
    BadNote,
    Note,
    NoteSignature,
    VerifierKey,
    cosign,
    read_note,
    read_signatures,
    sign_note,
)
from tests.harness.cases import every

# The reference implementation's own tests: golang.org/x/mod/sumdb/note, note_test.go.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SECRET = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6Ry"
    "yBwJnAM=\n"
)
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvM"
    "c+QQ=\n"
)
# The note of C2SP signed-note, and the checkpoint with cosignature of C2SP tlog-cosignature.
POEM = """Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
"""  # noqa: E501
SOFA = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""  # noqa: E501
KEY = SigningKey(bytes(range(32)))
WITNESS = SigningKey(bytes(range(1, 33)))
ROOT = hashlib.sha256(b"root").digest()


def test_the_published_note_verifies_and_is_made_again() -> None:
    """The reference implementation's note verifies, and its key makes the same bytes with our code."""
    note = read_note((TEXT + "\n" + PETER_LINE + ENOCH_LINE).encode())
    peter, enoch = VerifierKey.parse(PETER), VerifierKey.parse(ENOCH)

    assert [peter] == [key for key, _ in note.signed_by([peter])]
    assert [peter, enoch] == [key for key, _ in note.signed_by([peter, enoch])]
    assert [] == note.signed_by([])
    assert PETER_LINE == sign_note(SigningKey(PETER_SECRET), "PeterNeumann", TEXT).line
    assert PETER == VerifierKey.of(SigningKey(PETER_SECRET), "PeterNeumann", Algorithm.NOTE).text
    assert TEXT + "\n" + PETER_LINE + ENOCH_LINE == str(note)


def test_keys_of_the_reference_implementation_are_read() -> None:
    """Verifier keys of both kinds that other implementations publish are read and written back."""
    for text in (PETER, ENOCH, "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"):
        assert text == VerifierKey.parse(text).text
    assert (
        Algorithm.COSIGNATURE
        is VerifierKey.parse("remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2").algorithm
    )


def test_any_mangled_key_is_refused() -> None:
    """No part of a verifier key is one, nor is any with a changed character."""
    for start in range(len(PETER)):
        for end in range(start + 1, len(PETER) + 1):
            if (start, end) != (0, len(PETER)):
                with pytest.raises(BadNote):
                    VerifierKey.parse(PETER[start:end])
    for place in range(len(PETER)):
        with pytest.raises(BadNote):
            VerifierKey.parse(PETER[:place] + chr(ord(PETER[place]) + 1) + PETER[place + 1 :])
    for text in (
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "rekor.sigstore.dev+12345678+THIS_IS_NOT_BASE64!",
    ):
        with pytest.raises(BadNote):
            VerifierKey.parse(text)


@every(
    "data",
    [
        TEXT.encode(),
        (TEXT + "\n").encode(),
        (TEXT + "\n" + PETER_LINE[:-1]).encode(),
        ("\x01" + TEXT + "\n" + PETER_LINE).encode(),
        b"\xff" + (TEXT + "\n" + PETER_LINE).encode(),
        (TEXT + "\n" + PETER_LINE.replace("PeterNeumann", "Bad Name")).encode(),
        (TEXT + "\n" + PETER_LINE + "Unexpected line.\n").encode(),
        (TEXT + "\n" + PETER_LINE * 101).encode(),
        (TEXT + "\r\n\n" + PETER_LINE).encode(),
        ("x" * 70_000 + "\n\n" + PETER_LINE).encode(),
    ],
)
def test_a_malformed_note_is_refused(data: bytes) -> None:
    """The reference implementation's malformed notes, and some more, are no notes."""
    with pytest.raises(BadNote):
        read_note(data)


def test_a_wrong_signature_of_a_known_key_spoils_the_note() -> None:
    """A signature under a known name and hash that does not verify is an error, not one signature less."""
    peter = VerifierKey.parse(PETER)
    spoilt = PETER_LINE[:60] + "ABCD" + PETER_LINE[60:]

    with pytest.raises(BadNote, match="wrong signature"):
        read_note((TEXT + "\n" + spoilt).encode()).signed_by([peter])
    with pytest.raises(BadNote, match="wrong signature"):
        read_note((TEXT.replace("you", "they") + "\n" + PETER_LINE).encode()).signed_by([peter])
    assert [] == read_note((TEXT + "\n" + spoilt).encode()).signed_by([VerifierKey.parse(ENOCH)])
    twice = read_note((TEXT + "\n" + PETER_LINE + PETER_LINE).encode())
    assert 1 == len(twice.signed_by([peter]))


def test_the_notes_of_the_specifications_are_read() -> None:
    """A text may have empty lines; a checkpoint's size and root, and a cosignature's time, are read."""
    poem, sofa = read_note(POEM.encode()), read_checkpoint(SOFA.encode())

    assert POEM == str(poem)
    assert poem.text.endswith("\n\ned è subito sera.\n")
    assert "367ba04b" == poem.signatures[0].hash.hex()
    assert SOFA == sofa.text
    assert ("example.com/behind-the-sofa", 20852163) == sofa.checkpoint[:2]
    assert "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=" == base64.b64encode(sofa.checkpoint.root).decode()
    assert [None, 1679315147] == [signature.time for signature in sofa.note.signatures]


def test_the_time_of_a_published_cosignature() -> None:
    """The Unix seconds of a cosignature come from its first eight bytes."""
    line = (
        "— remora.n621.de ZGhGuQAAAABm/qTPeyKXD+R2rzyQsxPiP8mXum7qq/iF0u4vanlqJyocWODBt97w9uL+8qT7S5gx"
        "EHWWOworDcFiEBYJXORmnFBOBA==\n"
    )
    assert [1727964367] == [signature.time for signature in read_signatures(line)]


def test_a_second_library_verifies_our_signatures() -> None:
    """`cryptography` verifies the signature and the cosignature over the bytes that C2SP names."""
    signed = sign_checkpoint(KEY, Checkpoint("example.com/log", 20, ROOT))
    cosigned = cosign(WITNESS, "witness.example/w1", signed.note.text, 1679315147)
    body = f"example.com/log\n20\n{base64.b64encode(ROOT).decode()}\n".encode()
    own = VerifierKey.of(KEY, "example.com/log", Algorithm.NOTE)
    witness = VerifierKey.of(WITNESS, "witness.example/w1", Algorithm.COSIGNATURE)

    Ed25519PublicKey.from_public_bytes(own.public).verify(signed.note.signatures[0].signature, body)
    assert (1679315147).to_bytes(8, "big") == cosigned.signature[:8]
    Ed25519PublicKey.from_public_bytes(witness.public).verify(
        cosigned.signature[8:], b"cosignature/v1\ntime 1679315147\n" + body
    )
    for key, algorithm in ((own, b"\x01"), (witness, b"\x04")):
        named = hashlib.sha256(key.name.encode() + b"\n" + algorithm + key.public).digest()
        assert named[:4] == key.hash


def test_a_checkpoint_is_verified_with_its_cosignatures() -> None:
    """A checkpoint needs its log's signature; cosignatures of known witnesses are listed."""
    signed = sign_checkpoint(KEY, Checkpoint("example.com/log", 20, ROOT))
    cosigned = cosign(WITNESS, "w1", signed.note.text, 5)
    whole = read_checkpoint(str(signed.note.with_signatures([cosigned, cosigned])).encode())
    own, witness = log_key(KEY, "example.com/log"), VerifierKey.of(WITNESS, "w1", Algorithm.COSIGNATURE)

    verified = verify_checkpoint(whole, [own], [witness])
    assert (signed.checkpoint, own) == verified[:2]
    assert [(witness, 5)] == [(key, found.time) for key, found in verified.cosignatures]
    assert [] == verify_checkpoint(whole, [own], [log_key(WITNESS, "w1")]).cosignatures
    for keys in ([], [log_key(WITNESS, "example.com/log")], [log_key(KEY, "another.com/log")]):
        with pytest.raises(BadNote):
            verify_checkpoint(whole, keys)
    later = NoteSignature("w1", cosigned.hash, (6).to_bytes(8, "big") + cosigned.signature[8:])
    with pytest.raises(BadNote):
        verify_checkpoint(whole._replace(note=signed.note.with_signatures([later])), [own], [witness])


@every(
    "text",
    [
        "",
        "a\n1\n",
        "a\n01\n" + base64.b64encode(ROOT).decode() + "\n",
        "a\n-1\n" + base64.b64encode(ROOT).decode() + "\n",
        "a\n1\n" + base64.b64encode(ROOT[:31]).decode() + "\n",
        "a\n1\n" + base64.b64encode(ROOT).decode(),
        "a\n1\n" + base64.b64encode(ROOT).decode() + "\n\n",
        "\n1\n" + base64.b64encode(ROOT).decode() + "\n",
        "a\n9223372036854775808\n" + base64.b64encode(ROOT).decode() + "\n",
        "a\n1\n" + base64.b64encode(ROOT).decode().replace("=", "") + "\n",
    ],
)
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    """Sizes have no leading zeros, roots 32 bytes, and no line is empty."""
    with pytest.raises(BadNote):
        Checkpoint.parse(text)


@every("origin", ["", "a b", "a+b", "{", "cosignature/v1", "é", "a\n", "x" * 256, "-a"])
def test_an_origin_that_no_log_of_ours_can_have(origin: str) -> None:
    """An origin is a plain name; nothing else that the key signs begins like it."""
    with pytest.raises(BadNote):
        check_origin(origin)


def test_a_split_view_is_two_roots_of_one_size() -> None:
    """Two checkpoints of one log and size with different roots prove that the log showed two histories."""
    one = Checkpoint("a", 5, ROOT)

    assert is_split_view(one, one._replace(root=bytes(32)))
    assert not is_split_view(one, one)
    assert not is_split_view(one, one._replace(root=bytes(32), size=6))
    assert not is_split_view(one, one._replace(root=bytes(32), origin="b"))
    assert (
        "AAAA" in Note("a\n", ()).with_signatures([NoteSignature("a", bytes(4), bytes(3))]).signatures[0].line
    )
    assert 43 == len(encode_base64url(VerifierKey.parse(PETER).public))


def test_a_key_that_is_not_utf8() -> None:
    """A verifier key of an argument with other bytes than UTF-8 is refused as any other malformed key."""
    text = VerifierKey.of(SigningKey(bytes(32)), "example.com/log", Algorithm.NOTE).text
    with pytest.raises(BadNote):
        VerifierKey.parse(text.replace("log", "l\udcffg", 1))
