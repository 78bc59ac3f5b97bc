"""A registered schema can't keep a validator busy, and refers to nothing elsewhere."""

from __future__ import annotations

import time
from typing import Any

import pytest

from coordinator.application.payloads.schema_bounds import Unbounded, check_bounded
from coordinator.application.payloads.schemas import check_spec, compile_schema
from coordinator.domain.errors import Code
from coordinator.domain.service import ServiceSpec
from coordinator.services.catalog import load_catalog
from tests.harness.cases import every
from tests.harness.deciding import a_spec

DOUBLING = {
    "$ref": "#/$defs/n40",
    "$defs": {
        "n0": {"type": "object"},
        **{f"n{i}": {"allOf": [{"$ref": f"#/$defs/n{i - 1}"}] * 2} for i in range(1, 41)},
    },
}
UNBOUNDED: dict[str, Any] = {
    "remote": {"$ref": "https://example.com/schema.json"},
    "file": {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
    "itself": {"$ref": "#"},
    "a circle": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"not": {"$ref": "#/$defs/a"}}},
    },
    "a tree": {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}},
    "doubling": DOUBLING,
    "dynamic": {"$dynamicRef": "#x"},
    "another id": {"properties": {"a": {"$id": "https://example.com/"}}},
    "nowhere": {"$ref": "#/$defs/none"},
    "no text": {"$ref": 1},
    "many parts": {"anyOf": [{"const": n} for n in range(20_001)]},
    "large": {"description": "x" * 300_000},
}
UNUSABLE: dict[str, Any] = {
    "no type": {"type": "text"},
    "no pattern": {"pattern": "("},
    "look-around": {"pattern": "(?=a)(?!b)c"},
    "back reference": {"pattern": r"(a)\1"},
    "a large pattern": {"pattern": "(?:[a-z]{1,1000}){1000}"},
    "no bound": {"maxLength": -1},
}


@every("what", UNBOUNDED)
def test_what_is_not_bounded_is_refused(what: str) -> None:
    """Remote and circular references, and what unfolds without end."""
    with pytest.raises(Unbounded):
        check_bounded(UNBOUNDED[what])


@every("what", [*UNBOUNDED, *UNUSABLE])
@every("side", ["input_schema", "output_schema"])
def test_an_entry_with_it_is_not_registered(what: str, side: str) -> None:
    """Nor with what is no JSON Schema 2020-12, on either side."""
    refusal = check_spec(a_spec(**{side: {**UNBOUNDED, **UNUSABLE}[what]}))

    assert refusal is not None
    assert refusal.code is Code.INVALID_PAYLOAD
    assert refusal.detail.startswith(side)


def test_the_catalogue_is_bounded() -> None:
    """Every schema that we ship is within the limits that we set for others."""
    assert [] == [e["id"] for e in load_catalog() if check_spec(ServiceSpec.model_validate(e))]


def test_patterns_take_linear_time() -> None:
    """What makes other engines hang is decided at once."""
    validator = compile_schema({"pattern": "^(a+)+$"})
    begun = time.monotonic()

    assert not validator.is_valid("a" * 50_000 + "!")
    assert time.monotonic() - begun < 5
