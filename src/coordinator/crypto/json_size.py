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
    # Characters within strings don't count. Without escapes, quotes only begin and end strings.
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 4 * values + 4:  # a member has two strings at most
        return True
    return not _few(b"".join(plain.split(b'"')[::2]), values, containers)


def _few(text: bytes, values: int, containers: int) -> bool:
    opened = text.count(b"[") + text.count(b"{")
    return opened <= containers and opened + text.count(b",") <= values
