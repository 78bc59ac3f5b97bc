"""Ed25519 keys and signatures, and base64url without padding.

A public key is its own name: `key_id` is its 32 bytes in base64url, 43 characters.
docs/decisions/ed25519-from-libsodium.md says why we use PyNaCl, which is libsodium.
"""

import base64
import errno
import os
import re
import secrets
import stat
from functools import lru_cache
from pathlib import Path
from typing import Final, Self

from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_sign,
    crypto_sign_ed25519_sk_to_curve25519,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError

from coordinator.private_files import make_folder, sync_folder

ALGORITHM: Final = "Ed25519"
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
_CHECKED_KEYS: Final = 4096
"""Checked public keys in memory, some 200 bytes each: more than one coordinator has miners."""


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

    __slots__ = ("_key_id", "_secret")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise KeyFileError(f"an Ed25519 seed has {KEY_BYTES} bytes")
        public, self._secret = crypto_sign_seed_keypair(seed)
        self._key_id = encode_base64url(public)

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
        # Without waiting: the open of a pipe would wait for a writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            # The mode of the open file: nobody can swap the file between the check and the read.
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise KeyFileError(f"{path} is not a file")
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
        return crypto_sign(message, self._secret)[:SIGNATURE_BYTES]

    def exchange_secret(self) -> bytes:
        """The private key for X25519 that belongs to this key; see `crypto.sealing`."""
        return crypto_sign_ed25519_sk_to_curve25519(self._secret)

    def __repr__(self) -> str:
        return f"SigningKey(key_id={self._key_id!r})"


def verify(key_id: str, signature: bytes, message: bytes) -> bool:
    """Whether this key signed this message. False for a malformed or unsafe key or signature, too."""
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, _public_key(key_id))
    except (BadSignatureError, EncodingError):
        return False
    return True


def check_key_id(key_id: str) -> None:
    """Raise EncodingError unless this is a usable public key; for keys at registration."""
    _public_key(key_id)


@lru_cache(maxsize=_CHECKED_KEYS)
def _public_key(key_id: str) -> bytes:
    data = decode_base64url(key_id, KEY_BYTES)
    if not crypto_core_ed25519_is_valid_point(data):
        # Under a key of small order one signature fits many messages, so it would prove nothing about them.
        raise EncodingError("not an Ed25519 public key of full order; create a new key")
    return data


def _create_exclusively(path: Path, content: bytes) -> None:
    """Create a file with mode 0600, complete and durable or not at all; leave an existing one alone."""
    make_folder(path.parent)
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
    # Results signed with a key that a power cut takes away could never be attributed again.
    sync_folder(path.parent)


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
