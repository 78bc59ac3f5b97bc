"""Ed25519 keys and signatures, and base64url without padding.

A public key is its own name: `key_id` is its 32 bytes in base64url, 43 characters.
docs/decisions/ed25519-from-cryptography.md says why we use `cryptography` and not the package ed25519.
"""

import base64
import errno
import hashlib
import os
import re
import secrets
from functools import lru_cache
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM: Final = "Ed25519"
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
_PARSED_KEYS: Final = 4096
"""Parsed public keys in memory, some 100 bytes each: more than one coordinator has miners."""


class EncodingError(ValueError):
    """Not base64url without padding, or not of the expected length."""


class KeyFileError(ValueError):
    """A key or its file cannot be used; the message says what to do."""


def encode_base64url(data: bytes) -> str:
    """Base64url without padding (RFC 4648, section 5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64url(text: str, length: int | None = None) -> bytes:
    """The bytes of unpadded base64url; `length` is the expected number of bytes.

    Raises EncodingError for padding, other alphabets, wrong lengths, and spellings that `encode_base64url`
    would not produce; otherwise one signature would have several texts.
    """
    if _BASE64URL.fullmatch(text) is None or len(text) % 4 == 1:
        raise EncodingError("expected base64url without padding")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_base64url(data) != text:
        raise EncodingError("expected base64url whose unused last bits are zero")
    if length is not None and len(data) != length:
        raise EncodingError(f"expected {length} bytes in base64url, got {len(data)}")
    return data


class SigningKey:
    """An Ed25519 private key. Its repr and str show only the public part."""

    __slots__ = ("_key", "_key_id")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise KeyFileError(f"an Ed25519 seed has {KEY_BYTES} bytes")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._key_id = encode_base64url(self._key.public_key().public_bytes_raw())

    @classmethod
    def from_hex(cls, seed: str) -> Self:
        """A key from its seed in 64 hexadecimal digits. Raises KeyFileError, which never quotes the seed."""
        text = seed.strip()
        if re.fullmatch(r"[0-9a-fA-F]{64}", text) is None:
            raise KeyFileError("a signing key is a seed of 64 hexadecimal digits (32 bytes)")
        return cls(bytes.fromhex(text))

    @classmethod
    def generate(cls) -> Self:
        """A new key from the operating system's random numbers."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """The key in a file (hex seed and a newline), which is created on first use with mode 0600.

        Missing parent directories are created with mode 0700. Two processes that start at once get the same
        key. Raises KeyFileError if group or others may read the file, or if it holds no key.
        """
        try:
            return cls._load(path)
        except FileNotFoundError:
            _create_exclusively(path, secrets.token_hex(KEY_BYTES).encode("ascii") + b"\n")
            # Read it back instead of using it directly: another process may have been first.
            return cls._load(path)

    @classmethod
    def _load(cls, path: Path) -> Self:
        with path.open("rb") as file:
            # The mode of the open file: nobody can swap the file between the check and the read.
            mode = os.fstat(file.fileno()).st_mode
            if os.name == "posix" and mode & 0o077:
                raise KeyFileError(
                    f"{path} may be read by others (mode {mode & 0o777:04o}): run `chmod 600` on it, and "
                    "replace the key if anyone else could have read it"
                )
            content = file.read(1024)
        try:
            return cls.from_hex(content.decode("ascii", "replace"))
        except KeyFileError as error:
            raise KeyFileError(f"{path} holds no key: {error}") from None

    @property
    def key_id(self) -> str:
        """The public key in base64url, 43 characters."""
        return self._key_id

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of a message."""
        return self._key.sign(message)

    def exchange_seed(self) -> bytes:
        """The private key for X25519 that belongs to this key; see `crypto.sealing`."""
        return hashlib.sha512(self._key.private_bytes_raw()).digest()[:KEY_BYTES]

    def __repr__(self) -> str:
        return f"SigningKey(key_id={self._key_id!r})"


def verify(key_id: str, signature: bytes, message: bytes) -> bool:
    """Whether this key signed this message. False for a malformed or unsafe key or signature, too."""
    try:
        _public_key(key_id).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def check_key_id(key_id: str) -> None:
    """Raise EncodingError unless this is a usable public key; for keys at registration."""
    _public_key(key_id)


@lru_cache(maxsize=_PARSED_KEYS)
def _public_key(key_id: str) -> Ed25519PublicKey:
    data = decode_base64url(key_id, KEY_BYTES)
    if int.from_bytes(data, "little") & ((1 << 255) - 1) in _SMALL_ORDER:
        # One signature by such a key fits many messages, so it proves nothing about any of them.
        raise EncodingError("this public key has small order; create a new key")
    try:
        return Ed25519PublicKey.from_public_bytes(data)
    except ValueError as error:
        raise EncodingError(f"not an Ed25519 public key: {error}") from None


_P: Final = 2**255 - 19
# y coordinates of the eight points of small order, also in the encodings that exceed the prime
# (the two of order eight are the roots of the curve's 8-torsion polynomial; see RFC 8032, section 5.1).
_Y8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7
_SMALL_ORDER: Final = frozenset({0, 1, _P - 1, _P, _P + 1, _Y8, _P - _Y8})


def _create_exclusively(path: Path, content: bytes) -> None:
    """Create a file with mode 0600, complete or not at all; leave an existing one alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    _write_new(temporary, content)
    try:
        # A hard link, unlike a rename, fails if the name is taken.
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # On a file system without hard links the creation is exclusive, but not atomic.
        _write_new(path, content)
    finally:
        temporary.unlink(missing_ok=True)


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
