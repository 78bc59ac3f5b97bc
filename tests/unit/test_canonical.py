"""The signed form is AITBC's, the digested form is RFC 8785, and neither takes what readers disagree on."""

import hashlib
import json
import os
import stat
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.crypto.canonical import (
    MAX_JSON_DEPTH,
    MAX_SIGNED_DEPTH,
    CanonicalError,
    canonical,
    canonical_json,
    canonical_lenient,
    salted_digest,
    sha256_file,
)
from coordinator.crypto.keys import (
    EncodingError,
    KeyFileError,
    SigningKey,
    check_key_id,
    decode_base64url,
    encode_base64url,
    verify,
)
from coordinator.crypto.refs import BlobRefError, blob_ref, blob_refs, parse_blob_ref
from tests.harness.cases import every
from tests.harness.length import examples

SAFE = 2**53 - 1
ascii_text = st.text(st.characters(min_codepoint=1, max_codepoint=0x7E))
any_text = st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]))
names = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
integers = st.integers(-SAFE, SAFE)


def signed_values(text: st.SearchStrategy[str], *, nulls: bool) -> st.SearchStrategy[Any]:
    """Values that may be signed; with `nulls`, objects may have null members."""
    leaves = st.booleans() | integers | text
    members = leaves | st.none() if nulls else leaves
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner) | st.dictionaries(names, inner | members),
        max_leaves=20,
    )


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


# --- what is signed ---------------------------------------------------------------------------------


def test_signed_form_is_the_one_aitbc_describes() -> None:
    """Nulls go, keys are sorted, separators are compact and everything outside ASCII is escaped."""
    value = {"b": [1, "é", {"z": None, "y": True}], "a": None, "A": 'q"\\\n', "10": -5, "9": "\U0001f600"}

    expected = b'{"10":-5,"9":"\\ud83d\\ude00","A":"q\\"\\\\\\n","b":[1,"\\u00e9",{"y":true}]}'  # by hand
    assert expected == canonical(value)


@settings(max_examples=examples(100))
@given(signed_values(any_text, nulls=True))
def test_signed_form_equals_what_a_plain_reading_of_the_format_gives(value: Any) -> None:
    """Whatever can be signed has the bytes that AITBC's verifier recomputes, also after a JSON round trip."""

    def drop(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: drop(member) for key, member in item.items() if member is not None}
        return [drop(element) for element in item if element is not None] if isinstance(item, list) else item

    expected = json.dumps(drop(value), sort_keys=True, separators=(",", ":")).encode()
    assert expected == canonical(value)
    assert expected == canonical(json.loads(json.dumps(value)))
    assert expected == canonical_lenient(value)


@settings(max_examples=examples(100))
@given(signed_values(ascii_text, nulls=False))
def test_signed_form_of_ascii_text_is_rfc_8785_too(value: Any) -> None:
    """Without nulls and outside characters, any RFC 8785 library makes the bytes that we sign."""
    assert canonical_json(value) == canonical(value)


@every(
    ("value", "complaint"),
    [
        ({"units": 1.5}, "units: floats are not signed"),
        ({"a": [{"b": float("nan")}]}, "a: b: floats"),
        ([1, None], "an array holds null"),
        ({"a": SAFE + 1}, "beyond ±(2^53 - 1)"),
        ({"a": -SAFE - 1}, "beyond ±(2^53 - 1)"),
        ([10**30], "beyond ±(2^53 - 1)"),
        ({"a": "x\x00y"}, "NUL"),
        ({"a": ["\ud800"]}, "lone surrogate"),
        ({"é": 1}, "printable ASCII"),
        ({"tab\t": 1}, "printable ASCII"),
        ({"del\x7f": 1}, "printable ASCII"),
        ({1: "x"}, "keys must be strings"),
        ({None: "x"}, "keys must be strings"),
        ({"a": {1, 2}}, "set is not JSON"),
        ({"a": b"bytes"}, "bytes is not JSON"),
        ({"first": None, "second": {"deep": 0.5}}, "second: deep: floats"),
        ([{"first": None}, 0.5], "floats"),
    ],
)
def test_signing_refuses_what_readers_disagree_on(value: Any, complaint: str) -> None:
    """Floats, unsafe integers, NUL, lone surrogates and strange keys are refused with what to do instead."""
    with pytest.raises(CanonicalError) as caught:
        canonical(value)

    assert complaint in str(caught.value)


def test_depth_is_bounded() -> None:
    """Nesting is allowed up to the limit and refused one level beyond, in every form."""
    assert b"[" * MAX_SIGNED_DEPTH in canonical(nested(MAX_SIGNED_DEPTH))
    assert b"[" * MAX_JSON_DEPTH in canonical_json(nested(MAX_JSON_DEPTH))
    for function, limit in ((canonical, MAX_SIGNED_DEPTH), (canonical_json, MAX_JSON_DEPTH)):
        with pytest.raises(CanonicalError, match="deeper"):
            function(nested(limit + 1))
    with pytest.raises(CanonicalError, match="too deep"):
        canonical_lenient(nested(100_000))


# --- what is digested -------------------------------------------------------------------------------


def test_digested_form_matches_the_examples_of_rfc_8785() -> None:
    """The two objects printed in RFC 8785, sections 3.2.2 and 3.2.3, come out as printed there."""
    numbers = json.loads(
        r"""{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
             "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"""
    )
    sorting = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }

    assert (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    ).encode() == canonical_json(numbers)
    assert list(json.loads(canonical_json(sorting))) == [
        "\r",
        "1",
        "\u0080",
        "\u00f6",
        "\u20ac",
        "\U0001f600",
        "\ufb33",
    ]


@every(
    ("bits", "text"),
    [
        (0x0000000000000000, "0"),
        (0x8000000000000000, "0"),
        (0x0000000000000001, "5e-324"),
        (0x8000000000000001, "-5e-324"),
        (0x7FEFFFFFFFFFFFFF, "1.7976931348623157e+308"),
        (0x4340000000000000, "9007199254740992"),
        (0x4430000000000000, "295147905179352830000"),
        (0x44B52D02C7E14AF5, "9.999999999999997e+22"),
        (0x44B52D02C7E14AF6, "1e+23"),
        (0x444B1AE4D6E2EF4E, "999999999999999700000"),
        (0x444B1AE4D6E2EF50, "1e+21"),
        (0x3EB0C6F7A0B5ED8C, "9.999999999999997e-7"),
        (0x3EB0C6F7A0B5ED8D, "0.000001"),
        (0x41B3DE4355555553, "333333333.3333332"),
        (0xBECBF647612F3696, "-0.0000033333333333333333"),
    ],
)
def test_floats_are_written_as_ecmascript_writes_them(bits: int, text: str) -> None:
    """The number samples of RFC 8785, appendix B, so that a result digest is the same in every language."""
    (value,) = struct.unpack(">d", struct.pack(">Q", bits))

    assert f"[{text}]".encode() == canonical_json([value])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_written_floats_read_back_as_the_same_number(value: float) -> None:
    """No precision is lost, whichever layout a float gets."""
    assert [value] == [float(number) for number in json.loads(canonical_json([value]))]


def test_equal_json_has_equal_digests() -> None:
    """Order of members, 1 against 1.0 and ways of escaping do not matter; null, big integers and text do."""
    texts = ['{"a": 1, "b": "\\u00e9"}', '{"b": "é", "a": 1.0}', '{"b":"é","a":1e0}']
    assert len({canonical_json(json.loads(text)) for text in texts}) == 1
    different = [{}, {"a": None}, {"a": 2**64}, {"a": 2**64 + 1}, {"a": str(2**64)}, {"a": False}, {"a": 0}]
    assert len(different) == len({canonical_json(value) for value in different})


@every(
    "value",
    [
        [float("nan")],
        {"a": float("inf")},
        ["\x00"],
        {"\x00": 1},
        ["\udfff"],
        {"\ud83d": 1.0},
        {1: 2},
        {"a": object()},
    ],
)
def test_digesting_refuses_what_no_store_keeps(value: Any) -> None:
    """NaN, infinity, NUL, lone surrogates and things that are not JSON have no digest."""
    with pytest.raises(CanonicalError):
        canonical_json(value)


def test_a_string_that_spells_an_escape_is_just_text() -> None:
    """A backslash followed by u0000 is six ordinary characters, not a NUL."""
    assert b'{"a":"\\\\u0000"}' == canonical({"a": "\\u0000"}) == canonical_json({"a": "\\u0000"})


def test_salted_digest_is_sha256_of_salt_and_canonical_bytes() -> None:
    """Anyone with salt and payload can recompute it; another salt gives another digest."""
    payload = {"text": "é", "n": 1.5}
    message = b"0123456789abcdef" + '{"n":1.5,"text":"é"}'.encode()

    assert hashlib.sha256(message).hexdigest() == salted_digest(b"0123456789abcdef", payload)
    assert salted_digest(b"another salt 123", payload) != salted_digest(b"0123456789abcdef", payload)


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    """A file has the SHA-256 of what is in it."""
    content = os.urandom(300_000)
    (tmp_path / "file").write_bytes(content)

    assert hashlib.sha256(content).hexdigest() == sha256_file(tmp_path / "file")


# --- keys -------------------------------------------------------------------------------------------


def test_signatures_match_rfc_8032() -> None:
    """The second test vector of RFC 8032, section 7.1: seed, public key and signature of one byte."""
    key = SigningKey.from_hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb\n")
    signature = key.sign(b"\x72")

    assert (
        decode_base64url(key.key_id, 32).hex()
    ) == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert signature.hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert verify(key.key_id, signature, b"\x72")
    assert not verify(key.key_id, signature, b"\x73")
    assert not verify(SigningKey.generate().key_id, signature, b"\x72")


@every("key_id", ["", "A" * 42, "A" * 43, "é" * 43, "A" * 42 + "=", "*" * 43])
def test_verifying_with_a_malformed_key_is_false_and_not_an_error(key_id: str) -> None:
    """Whatever a stranger sends as key or signature, the answer is no."""
    assert not verify(key_id, b"\x00" * 64, b"message")
    assert not verify(SigningKey.generate().key_id, b"short", b"message")


def test_keys_of_small_order_are_refused() -> None:
    """A key under which one signature fits every message cannot be registered and verifies nothing."""
    identity = (1).to_bytes(32, "little")
    forged = identity + bytes(32)
    key_id = encode_base64url(identity)

    assert not verify(key_id, forged, b"any message at all")
    # The y coordinates of the eight points of small order, also in the encodings that exceed the prime.
    prime, y8 = 2**255 - 19, 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7
    for y in (0, 1, prime - 1, prime, prime + 1, y8, prime - y8):
        for sign in (0, 1 << 255):
            with pytest.raises(EncodingError, match="full order"):
                check_key_id(encode_base64url((y | sign).to_bytes(32, "little")))


@given(st.binary(max_size=100))
def test_base64url_reads_back(data: bytes) -> None:
    """Encoding has no padding, and decoding gives the bytes back."""
    text = encode_base64url(data)

    assert "=" not in text
    assert data == decode_base64url(text, len(data))


@every("text", ["QQ==", "QQ=", "Q", "QR", "Q+", "Q/", "QQ\n", " QQ", "Qé"])
def test_base64url_has_one_spelling(text: str) -> None:
    """Padding, the other alphabet, white space and loose last bits are refused."""
    with pytest.raises(EncodingError):
        decode_base64url(text)


def test_base64url_checks_the_length() -> None:
    """A key of 31 bytes is not a key."""
    with pytest.raises(EncodingError, match="expected 32 bytes"):
        decode_base64url(encode_base64url(bytes(31)), 32)


def test_a_key_never_shows_its_secret() -> None:
    """Neither repr, str nor an error quotes the seed."""
    seed = "ab" * 32
    key = SigningKey.from_hex(seed)

    assert f"SigningKey(key_id='{key.key_id}')" == repr(key) == str(key)
    with pytest.raises(KeyFileError) as caught:
        SigningKey.from_hex(seed + "00")
    assert seed not in str(caught.value)


def test_a_key_file_is_private_and_stays_the_same(tmp_path: Path) -> None:
    """The first use makes file and folder for the owner only; later uses read the same key."""
    path = tmp_path / "keys" / "miner.key"
    first = SigningKey.load_or_create(path)

    assert first.key_id == SigningKey.load_or_create(path).key_id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [path] == list(path.parent.iterdir())


def test_processes_that_start_at_once_share_one_key(tmp_path: Path) -> None:
    """Of many simultaneous creations one wins, and everybody uses its key."""
    path = tmp_path / "key"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: SigningKey.load_or_create(path).key_id, range(32)))

    assert len(set(made)) == 1
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """The error names the file and the command that helps."""
    path = tmp_path / "key"
    SigningKey.load_or_create(path)
    path.chmod(mode)

    with pytest.raises(KeyFileError, match="chmod 600"):
        SigningKey.load_or_create(path)


def test_a_key_file_without_a_key_is_refused_and_kept(tmp_path: Path) -> None:
    """A damaged file is never overwritten: it may be the only copy of something."""
    path = tmp_path / "key"
    path.write_text("not a key")
    path.chmod(0o600)

    with pytest.raises(KeyFileError, match="holds no key"):
        SigningKey.load_or_create(path)
    assert path.read_text() == "not a key"


# --- references to blobs ----------------------------------------------------------------------------


def test_references_are_found_wherever_they_are_whole_strings() -> None:
    """Members, elements and nested ones count; keys, text around a reference and other cases do not."""
    first, second = blob_ref("a" * 64), blob_ref("0123456789abcdef" * 4)
    value = {
        "input": first,
        "more": [{"x": [second, first]}],
        blob_ref("b" * 64): 1,
        "text": f"see {first}",
        "upper": "blob:" + "A" * 64,
        "short": "blob:abc",
        "line": "blob:" + "a" * 63 + "\n",
    }

    assert {first, second} == blob_refs(value)


@every(
    "ref",
    [
        "",
        "blob:",
        "a" * 64,
        "blob:" + "A" * 64,
        "blob:" + "a" * 64 + "\n",
        "blob:../../etc/passwd",
        "BLOB:" + "a" * 64,
    ],
)
def test_only_exact_references_parse(ref: str) -> None:
    """Anything but `blob:` and 64 lowercase hex digits is refused."""
    with pytest.raises(BlobRefError):
        parse_blob_ref(ref)


def test_a_reference_reads_back() -> None:
    """A digest becomes a reference and back; a path does not become one."""
    assert parse_blob_ref(blob_ref("a" * 64)) == "a" * 64
    with pytest.raises(BlobRefError):
        blob_ref("../../etc/passwd")
