"""Signed notes and verifier keys (C2SP signed-note), and cosignatures (C2SP tlog-cosignature), by Ed25519."""

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Final, NamedTuple, Self

from coordinator.crypto.keys import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    SigningKey,
    check_key_id,
    decode_base64url,
    encode_base64url,
    verify,
)

MAX_NOTE_BYTES: Final = 64 * 1024
MAX_SIGNATURES: Final = 100
HASH_BYTES: Final = 4
_DASH: Final = "\u2014 "
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_HASH: Final = re.compile(r"[0-9a-f]{8}")
_TIME: Final = struct.Struct(">Q")
_MAX_TIME: Final = 2**63 - 1


class BadNote(ValueError):
    """A note, a signature or a verifier key is malformed, or a signature is wrong; the text says which."""


class Algorithm(IntEnum):
    """What a key signs: the byte in its id."""

    NOTE = 0x01
    """The text of a note."""
    COSIGNATURE = 0x04
    """The text of a checkpoint, with the time at which a witness saw it."""


def check_name(name: str) -> str:
    """The same name. Raises BadNote unless a key may have it."""
    if not name or "+" in name or any(c.isspace() or c < " " for c in name):
        raise BadNote("a key's name is not empty, without spaces and plus signs")
    if any("\ud800" <= c <= "\udfff" for c in name):  # of an argument that is not UTF-8
        raise BadNote("a key's name is UTF-8 text")
    return name


@dataclass(frozen=True)
class VerifierKey:
    """A named public key. Its text, `name+hash+base64`, is the form in which keys are given to verifiers."""

    name: str
    algorithm: Algorithm
    public: bytes
    """32 bytes."""

    @classmethod
    def of(cls, key: SigningKey, name: str, algorithm: Algorithm) -> Self:
        """The public part of a key under this name. Raises BadNote for a bad name."""
        return cls(check_name(name), algorithm, decode_base64url(key.key_id))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key with this text. Raises BadNote, also for a public key that is unsafe to use."""
        parts = text.split("+", 2)
        if len(parts) != 3 or not _HASH.fullmatch(parts[1]):
            raise BadNote("a verifier key is name+hash+base64")
        material = _base64(parts[2])
        if len(material) != 1 + KEY_BYTES or material[0] not in list(Algorithm):
            raise BadNote("the verifier key's algorithm is unknown, or it has the wrong length")
        key = cls(check_name(parts[0]), Algorithm(material[0]), material[1:])
        if key.hash.hex() != parts[1]:
            raise BadNote("the verifier key's hash does not fit its name and key")
        try:
            check_key_id(key.key_id)
        except ValueError as error:
            raise BadNote(f"unusable verifier key: {error}") from None
        return key

    @cached_property
    def hash(self) -> bytes:
        """The 4 bytes by which a signature names its key."""
        named = self.name.encode() + b"\n" + bytes([self.algorithm]) + self.public
        return hashlib.sha256(named).digest()[:HASH_BYTES]

    @property
    def key_id(self) -> str:
        """The public key as everywhere else: base64url."""
        return encode_base64url(self.public)

    @property
    def text(self) -> str:
        """`name+hash+base64`."""
        return f"{self.name}+{self.hash.hex()}+{_encode(bytes([self.algorithm]) + self.public)}"

    def __str__(self) -> str:
        return self.text


class NoteSignature(NamedTuple):
    """One signature line."""

    name: str
    hash: bytes
    signature: bytes

    @property
    def line(self) -> str:
        """The line, with its newline."""
        return f"{_DASH}{self.name} {_encode(self.hash + self.signature)}\n"

    @property
    def time(self) -> int | None:
        """The Unix seconds of a cosignature; None for a signature of another length."""
        if len(self.signature) != _TIME.size + SIGNATURE_BYTES:
            return None
        (seconds,) = _TIME.unpack_from(self.signature)
        return int(seconds) if seconds <= _MAX_TIME else None


class Note(NamedTuple):
    """A text, which ends in a newline, and its signatures."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def __str__(self) -> str:
        return self.text + "\n" + "".join(s.line for s in self.signatures)

    def signed_by(self, keys: Collection[VerifierKey]) -> list[tuple[VerifierKey, NoteSignature]]:
        """The signatures of these keys, each key once. Signatures of other keys are ignored.

        Raises BadNote for a wrong signature under the name and hash of one of the keys.
        """
        known: dict[tuple[str, bytes], VerifierKey] = {}
        for key in keys:
            if known.setdefault((key.name, key.hash), key) != key:
                raise BadNote(f"two keys are named {key.name}+{key.hash.hex()}")
        found, seen = [], set()
        for signature in self.signatures:
            named = (signature.name, signature.hash)
            signer = known.get(named)
            if signer is None or named in seen:
                continue
            seen.add(named)
            if not _verifies(signer, signature, self.text):
                raise BadNote(f"wrong signature of {signer.name}+{signer.hash.hex()}")
            found.append((signer, signature))
        return found

    def with_signatures(self, more: Iterable[NoteSignature]) -> Self:
        """The note with these signatures as well, none twice."""
        return self._replace(signatures=tuple(dict.fromkeys((*self.signatures, *more))))


def read_note(data: bytes) -> Note:
    """A note. Raises BadNote; the signatures are not verified yet."""
    if len(data) > MAX_NOTE_BYTES:
        raise BadNote(f"a note has at most {MAX_NOTE_BYTES} bytes")
    try:
        whole = data.decode()
    except UnicodeDecodeError:
        raise BadNote("a note is UTF-8 text") from None
    if _CONTROL.search(whole):
        raise BadNote("a note has no control characters but newlines")
    before, separator, lines = whole.rpartition("\n\n")
    if not separator:
        raise BadNote("a note is a text, an empty line, and signatures")
    return Note(before + "\n", tuple(read_signatures(lines)))


def read_signatures(lines: str) -> list[NoteSignature]:
    """One or more signature lines. Raises BadNote."""
    if not lines.endswith("\n"):
        raise BadNote("a signature line ends in a newline")
    found = [_read_signature(line) for line in lines[:-1].split("\n")]
    if len(found) > MAX_SIGNATURES:
        raise BadNote(f"a note has at most {MAX_SIGNATURES} signatures")
    return found


def sign_note(key: SigningKey, name: str, text: str) -> NoteSignature:
    """The signature of a text by the key of this name. Raises BadNote for text that no note can have."""
    if not text.endswith("\n") or _CONTROL.search(text):
        raise BadNote("a note's text ends in a newline and has no other control characters")
    return NoteSignature(name, VerifierKey.of(key, name, Algorithm.NOTE).hash, key.sign(text.encode()))


def cosign(key: SigningKey, name: str, text: str, seconds: int) -> NoteSignature:
    """The cosignature of a checkpoint's text at this Unix time."""
    signature = _TIME.pack(seconds) + key.sign(_cosigned(text, seconds))
    return NoteSignature(name, VerifierKey.of(key, name, Algorithm.COSIGNATURE).hash, signature)


def _verifies(key: VerifierKey, signature: NoteSignature, text: str) -> bool:
    if key.algorithm is Algorithm.NOTE:
        return verify(key.key_id, signature.signature, text.encode())
    seconds = signature.time
    if seconds is None:
        return False
    return verify(key.key_id, signature.signature[_TIME.size :], _cosigned(text, seconds))


def _cosigned(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _read_signature(line: str) -> NoteSignature:
    name, separator, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not separator:
        raise BadNote("a signature line is a dash, a name, and base64")
    data = _base64(encoded)
    if len(data) <= HASH_BYTES:
        raise BadNote("a signature is longer than its key's hash")
    return NoteSignature(check_name(name), data[:HASH_BYTES], data[HASH_BYTES:])


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadNote("not base64") from None
    if _encode(data) != text:
        raise BadNote("not base64 in its one spelling")
    return data
