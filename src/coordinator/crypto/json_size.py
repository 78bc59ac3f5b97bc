"""The number of values in a JSON text, from its bytes: far faster than a walk through the parsed value."""

from __future__ import annotations


def has_more_values(text: bytes, values: int, containers: int | None = None) -> bool:
    """Whether a JSON text has more than so many values, or more than so many arrays and objects.

    Counted are commas and opening brackets outside of strings; a text that is not JSON gives any answer.
    """
    if containers is None:
        containers = values
    if len(text) <= min(values, containers):
        return False
    if _few(text, values, containers):
        return False
    return not _few(outside_strings(text), values, containers)


def outside_strings(text: bytes) -> bytes:
    """A JSON text without its strings."""
    # Without escapes, quotes only begin and end strings.
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(plain.split(b'"')[::2])


def _few(text: bytes, values: int, containers: int) -> bool:
    opened = text.count(b"[") + text.count(b"{")
    return opened <= containers and opened + text.count(b",") <= values
