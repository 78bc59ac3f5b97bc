"""The leaf of an event: written in ten lines of plain Python, as another language would, and read back."""

from __future__ import annotations

import hashlib

import pytest

from coordinator.crypto.log.leaf import BadLeaf, Leaf, StateDigest, hash_of, leaf, read_leaf
from tests.harness.cases import every

STREAM = "018f4c5e-7d30-7c3a-9a4f-000000000001"
METADATA = b'{"command_id":"c1","traceparent":"00-1-2-00"}'
STATE = '{"at":1,"by":"alice","name":"é"}'.encode()


def test_the_bytes_of_a_leaf() -> None:
    """A leaf is seven lines; its hash is SHA-256 over a zero byte and the leaf."""
    expected = (
        b"coordinator leaf 1\n17\n018f4c5e-7d30-7c3a-9a4f-000000000001\n2\njob.submitted.v1\n"
        + METADATA
        + b"\n"
        + STATE
        + b"\n"
    )
    parts = 17, STREAM, 2, "job.submitted.v1", METADATA, STATE

    assert expected == leaf(*parts)
    assert hashlib.sha256(b"\x00" + expected).digest() == hash_of(*parts)
    assert Leaf(*parts) == read_leaf(expected)


def test_a_large_state_stands_in_the_leaf_by_its_digest() -> None:
    """A state of more than 60,000 bytes is named by its SHA-256 and length: every leaf fits a bundle."""
    state = b'{"a":"' + b"x" * 59_992 + b'"}'
    assert read_leaf(leaf(1, STREAM, 1, "a.b.v1", METADATA, state)).state == state
    state = state[:-2] + b'y"}'
    digest = StateDigest(hashlib.sha256(state).hexdigest(), 60_001)
    found = leaf(1, STREAM, 1, "a.b.v1", METADATA, state)

    assert found.endswith(b"\nsha256 " + digest.sha256.encode() + b" 60001\n")
    assert digest == read_leaf(found).state
    assert digest.fits(state)
    assert not digest.fits(state[:-1])


@every("metadata, state", [(METADATA, b"{\n}"), (b"{\n}", STATE), (METADATA, b"[]"), (METADATA, b"")])
def test_bytes_that_would_make_a_leaf_ambiguous_are_refused(metadata: bytes, state: bytes) -> None:
    """Stored JSON has no line feed, and a state is an object: no leaf can be read in two ways."""
    with pytest.raises(BadLeaf):
        leaf(1, STREAM, 1, "a.b.v1", metadata, state)


def test_a_leaf_too_large_for_a_bundle_is_refused() -> None:
    """A leaf has at most 65,535 bytes."""
    with pytest.raises(BadLeaf, match="65535"):
        leaf(1, STREAM, 1, "a.b.v1", b'{"a":"' + b"x" * 65_500 + b'"}', STATE)


GOOD = leaf(17, STREAM, 2, "job.submitted.v1", METADATA, STATE)


@every(
    "content",
    [
        b"",
        GOOD[:-1],
        GOOD + b"\n",
        GOOD.replace(b"leaf 1", b"leaf 2"),
        GOOD.replace(b"\n17\n", b"\n017\n"),
        GOOD.replace(b"\n17\n", b"\n-17\n"),
        GOOD.replace(b"018f", b"018F"),
        GOOD.replace(b"job.submitted.v1", b"job"),
        GOOD.replace(STATE, b"sha256 00 1"),
        GOOD + b"x" * 70_000,
    ],
)
def test_a_malformed_leaf_is_not_read(content: bytes) -> None:
    """A leaf has exactly one spelling."""
    with pytest.raises(BadLeaf):
        read_leaf(content)
