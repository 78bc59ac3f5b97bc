"""Values of a JSON text are counted in its bytes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.crypto.canonical import canonical_json
from coordinator.crypto.json_size import has_more_values, outside_strings
from coordinator.crypto.refs import blob_ref, blob_refs, blob_refs_of_canonical
from tests.harness.length import examples

REF = blob_ref("0" * 64)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
HARD = st.sampled_from(
    ['"', "\\", '\\"', ",[{", '","', f'"{REF}"', f'\\"{REF}', REF, f",{REF}", f'["{REF}"]']
)
KEYS = TEXTS | HARD
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS | HARD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


def count(value: Any) -> tuple[int, int]:
    """The commas and brackets of a value: its members beyond the first of each container, and containers."""
    if not isinstance(value, dict | list):
        return 0, 0
    members = list(value.values() if isinstance(value, dict) else value)
    inner = [count(member) for member in members]
    containers = 1 + sum(c for _, c in inner)
    return max(0, len(members) - 1) + 1 + sum(v for v, _ in inner), containers


@settings(max_examples=examples(100))
@given(JSON)
def test_characters_in_strings_do_not_count(value: Any) -> None:
    """The count of the bytes is that of a walk through the value, whatever is in its strings."""
    text = json.dumps(value, ensure_ascii=False).encode()
    values, containers = count(value)
    assert not has_more_values(text, values, containers)
    if containers:
        assert has_more_values(text, values - 1, containers)
        assert has_more_values(text, values, containers - 1)
    assert b'"' not in outside_strings(text)


@settings(max_examples=examples(100))
@given(st.lists(JSON, max_size=4) | st.dictionaries(KEYS, JSON, max_size=4))
def test_references_are_found_in_canonical_bytes(value: Any) -> None:
    """As in the value itself: keys, and texts that merely contain a reference, are none."""
    assert blob_refs(value) == blob_refs_of_canonical(canonical_json(value))
