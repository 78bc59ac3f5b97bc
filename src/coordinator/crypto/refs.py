"""References to blobs inside payloads and results: strings `blob:<64 lowercase hex digits of SHA-256>`."""

import re
from collections.abc import Mapping
from typing import Any, Final

BLOB_REF: Final = re.compile(r"blob:([0-9a-f]{64})")
"""Use with `fullmatch`; group 1 is the digest."""
SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")
_IN_CANONICAL: Final = re.compile(rb'(?<=[:,\[])"(blob:[0-9a-f]{64})"(?!:)')
"""A string value that is a reference: a quote within a string follows a backslash, a key precedes a colon."""


class BlobRefError(ValueError):
    """Not a blob reference: expected `blob:` and 64 lowercase hexadecimal digits."""


def blob_ref(sha256: str) -> str:
    """The reference to the blob with this SHA-256 (64 lowercase hex digits). Raises BlobRefError."""
    if SHA256_HEX.fullmatch(sha256) is None:
        raise BlobRefError(f"not a SHA-256 in 64 lowercase hexadecimal digits: {sha256[:80]!r}")
    return f"blob:{sha256}"


def parse_blob_ref(ref: str) -> str:
    """The SHA-256 (64 lowercase hex digits) in a reference. Raises BlobRefError."""
    match = BLOB_REF.fullmatch(ref)
    if match is None:
        raise BlobRefError(f"expected blob: and 64 lowercase hexadecimal digits, not {ref[:80]!r}")
    return match[1]


def blob_refs(value: Any) -> set[str]:
    """All references (with `blob:`) among the string values of a JSON value; keys do not count.

    A string that merely contains a reference is not a reference.
    """
    found: set[str] = set()
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            # The cheap length test first: nearly all other strings need no regular expression.
            if len(item) == 69 and BLOB_REF.fullmatch(item):
                found.add(item)
        elif isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, list | tuple):
            waiting.extend(item)
    return found


def blob_refs_of_canonical(body: bytes) -> set[str]:
    """Like `blob_refs`, from the canonical bytes of an object or array: far faster than a walk through it."""
    return {found.decode() for found in _IN_CANONICAL.findall(body)}
