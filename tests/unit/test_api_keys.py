"""The secrets of keys that are made at run time: derived by who has the signing key, and by nobody else."""

import hashlib
import re
from uuid import UUID

from coordinator.crypto.api_keys import KeySecrets, digest_of, new_salt
from coordinator.crypto.keys import SigningKey

ONE, OTHER = UUID(int=1), UUID(int=2)
SALT = "0f" * 16
SEED = "5a" * 32
SECRETS = KeySecrets.of(SigningKey.from_hex(SEED))


def test_a_secret_is_the_same_everywhere() -> None:
    """Every process with the same signing key, and every version of us, derives the same secret."""
    again = KeySecrets.of(SigningKey.from_hex(SEED))
    assert SECRETS.secret(ONE, SALT) == again.secret(ONE, SALT)
    assert "zzeDCm0w5a73GEUaZOKnCc33RA6tWgJUJIaW2TDymn8" == SECRETS.secret(ONE, SALT)


def test_a_secret_fits_a_header() -> None:
    """256 bits as 43 characters that need no escaping anywhere."""
    for secret in (SECRETS.secret(ONE, SALT), SECRETS.hmac_secret(ONE, SALT)):
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", secret)


def test_each_secret_is_its_own() -> None:
    """Another key, another salt, another master, the other use: another secret."""
    others = KeySecrets.of(SigningKey.from_hex("5b" * 32))
    all_of_them = {
        SECRETS.secret(ONE, SALT),
        SECRETS.secret(OTHER, SALT),
        SECRETS.secret(ONE, "0e" * 16),
        SECRETS.hmac_secret(ONE, SALT),
        others.secret(ONE, SALT),
        others.hmac_secret(ONE, SALT),
    }
    assert 6 == len(all_of_them)


def test_salts_are_new_each_time() -> None:
    """Two rotations never give the same secret."""
    salts = {new_salt() for _ in range(100)}
    assert 100 == len(salts)
    assert all(re.fullmatch(r"[0-9a-f]{32}", salt) for salt in salts)


def test_the_digest_is_sha256_over_salt_and_secret() -> None:
    """What an event holds; the same secret under another salt has another digest."""
    assert hashlib.sha256(bytes.fromhex(SALT) + b"secret").hexdigest() == digest_of(SALT, b"secret")
    assert digest_of(SALT, b"secret") != digest_of("0e" * 16, b"secret")
