"""Sealed boxes for holders of Ed25519 keys."""

from __future__ import annotations

import pytest

from coordinator.crypto.keys import EncodingError, SigningKey, encode_base64url
from coordinator.crypto.sealing import NotSealed, exchange_key, seal, unseal
from tests.harness.cases import every

KEY = SigningKey.from_hex("11" * 32)
CONTEXT, CONTENT = b"job\n1", b'{"payload":{"text":"x"}}'


def test_the_holder_opens_a_box() -> None:
    """A box opens with the key and the context that it was made for, and no two boxes are alike."""
    box, again = seal(KEY.key_id, CONTEXT, CONTENT), seal(KEY.key_id, CONTEXT, CONTENT)

    assert unseal(KEY, CONTEXT, box) == unseal(KEY, CONTEXT, again) == CONTENT
    assert box["content"] != again["content"]


@every(
    "change",
    [
        {"alg": "none"},
        {"ephemeral": encode_base64url(bytes(32))},
        {"ephemeral": "short"},
        {"content": ""},
        {"content": "AAAA" * 12},
        {"content": 5},
        {"ephemeral": None},
    ],
)
def test_a_changed_box_stays_shut(change: dict[str, object]) -> None:
    """A box that was changed in any member is refused with one error."""
    with pytest.raises(NotSealed):
        unseal(KEY, CONTEXT, {**seal(KEY.key_id, CONTEXT, CONTENT), **change})


@every("box", [None, 5, [], "text", {}])
def test_what_is_no_box(box: object) -> None:
    """Any other value is refused with the same error."""
    with pytest.raises(NotSealed):
        unseal(KEY, CONTEXT, box)


def test_nobody_else_opens_it() -> None:
    """Another key or another context does not open a box."""
    box = seal(KEY.key_id, CONTEXT, CONTENT)
    for key, context in ((SigningKey.generate(), CONTEXT), (KEY, b"job\n2")):
        with pytest.raises(NotSealed):
            unseal(key, context, box)


@every("key_id", ["", "A" * 43, "_" * 43, encode_base64url((2).to_bytes(32, "little"))])
def test_an_unusable_key(key_id: str) -> None:
    """A key of small order, off the curve or of another form gets no box."""
    with pytest.raises(EncodingError):
        exchange_key(key_id)
