"""Changes of the schemas of events and commands: the check tells those that break readers from the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coordinator.dev import compatibility
from coordinator.dev.compatibility import current, incompatible
from tests.harness.cases import every

GOLDEN = Path(__file__).parents[1] / "golden"
RELEASES = sorted(GOLDEN.glob("schemas-*.json"))

OLD: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
        "mode": {"enum": ["a", "b"]},
        "kind": {"const": "x"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "free": {},
        "tree": {"$ref": "#/$defs/Tree"},
    },
    "$defs": {
        "Tree": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"below": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
        }
    },
}

WIDER: dict[str, dict[str, Any]] = {
    "the same": {},
    "other words": {"title": "A thing", "properties": {"name": {"description": "Its name."}}},
    "an optional member more": {"properties": {"size": {"type": "integer"}}},
    "no longer required": {"required": []},
    "longer texts": {"properties": {"name": {"maxLength": 40}}},
    "a wider range": {"properties": {"count": {"minimum": 0, "maximum": 10}}},
    "any number": {"properties": {"count": {"type": "number"}}},
    "a value more": {"properties": {"mode": {"enum": ["a", "b", "c"]}}},
    "any text for listed values": {"properties": {"mode": {"enum": None, "type": "string", "minLength": 1}}},
    "another type as well": {
        "properties": {"note": {"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "integer"}]}}
    },
    "open": {"additionalProperties": True},
}

NARROWER: dict[str, tuple[dict[str, Any], str]] = {
    "a member gone": ({"properties": {"count": None}}, "t.count: is no longer taken"),
    "required now": ({"required": ["name", "mode"]}, "t.mode: is required now"),
    "shorter texts": ({"properties": {"name": {"maxLength": 10}}}, "t.name: maxLength is 10, and was 20"),
    "a first bound": ({"properties": {"name": {"minLength": 1}}}, "t.name: minLength is 1, and was not set"),
    "a tighter range": ({"properties": {"count": {"minimum": 2}}}, "t.count: minimum is 2, and was 1"),
    "another type": ({"properties": {"name": {"type": "integer"}}}, "t.name: can no longer be string"),
    "a type where any was": (
        {"properties": {"free": {"type": "string"}}},
        "t.free: should be string now, and could be anything",
    ),
    "a value gone": ({"properties": {"mode": {"enum": ["a"]}}}, 't.mode: no longer takes ["b"]'),
    "listed values where any text was": (
        {"properties": {"name": {"enum": ["a"]}}},
        't.name: takes only ["a"] now',
    ),
    "another constant": ({"properties": {"kind": {"const": "y"}}}, 't.kind: no longer takes ["x"]'),
    "null no longer": (
        {"properties": {"note": {"anyOf": [{"type": "string"}]}}},
        "t.note: can no longer be null",
    ),
    "other items": (
        {"properties": {"tags": {"items": {"type": "integer"}}}},
        "t.tags[]: can no longer be string",
    ),
    "a pattern": (
        {"properties": {"name": {"pattern": "^a"}}},
        "t.name: pattern is '^a', and was None",
    ),
    "inside a definition": (
        {"$defs": {"Tree": {"properties": {"below": {"maxItems": 2}}}}},
        "t.tree.below: maxItems is 2, and was not set",
    ),
}


def changed(schema: Any, change: Any) -> Any:
    """The schema with this change merged into it; None removes a member."""
    if not isinstance(change, dict) or not isinstance(schema, dict):
        return change
    merged = {**schema, **{name: changed(schema.get(name), value) for name, value in change.items()}}
    return {name: value for name, value in merged.items() if value is not None or name == "default"}


def reasons(new: dict[str, Any], old: dict[str, Any] = OLD) -> list[str]:
    return list(incompatible({"events": {"t": old}, "commands": {}}, {"events": {"t": new}, "commands": {}}))


@every("name", WIDER)
def test_wider_shapes_pass(name: str) -> None:
    """A shape that takes everything that the old one took is compatible."""
    assert [] == reasons(changed(OLD, WIDER[name]))


@every("name", NARROWER)
def test_narrower_shapes_are_named(name: str) -> None:
    """A shape that refuses what the old one took is named with the member and the difference."""
    change, reason = NARROWER[name]
    assert [reason] == reasons(changed(OLD, change))


def test_an_open_object_may_hold_the_new_member_in_another_shape() -> None:
    """A new member of an object that took any members is a restriction of it."""
    old = {"type": "object", "properties": {}}
    new = {"type": "object", "properties": {"size": {"type": "integer"}}}
    assert ["t.size: should be integer now, and could be anything"] == reasons(new, old)


def test_topics_may_not_vanish() -> None:
    """A topic that is gone needs an upcaster, a command stays, and so does the right to send it."""
    old = {"events": {"e.v1": OLD}, "commands": {"c": {"x-senders": ["client", "miner"]}, "d": {}}}
    new = {"events": {}, "commands": {"c": {"x-senders": ["client"]}}}
    assert [
        "e.v1: is gone, and no upcaster reads it",
        "c: miner may no longer send it",
        "d: is gone",
    ] == list(incompatible(old, new))
    assert [] == list(incompatible({**old, "commands": {}}, new, upcast={"e.v1"}))


def test_this_version_reads_what_every_release_wrote() -> None:
    """No event or command of a released version became invalid."""
    for release in RELEASES:
        assert [] == list(incompatible(json.loads(release.read_text("utf-8")), current())), release.name


def test_the_newest_file_is_this_version_s() -> None:
    """The schemas of the version that is not released yet are written down with each change of them."""
    hint = f"run `python -m coordinator.dev.compatibility --write tests/golden/{RELEASES[-1].name}`"
    assert json.loads(RELEASES[-1].read_text("utf-8")) == current(), hint


def test_the_command_exits_with_1_and_the_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m coordinator.dev.compatibility FILE` names each break and says what to do."""
    file = tmp_path / "released.json"
    assert 0 == compatibility.main(["--write", str(file)])
    assert 0 == compatibility.main([str(file)])
    released = json.loads(file.read_text("utf-8"))
    released["events"]["job.paused.v1"] = {}
    file.write_text(json.dumps(released))

    assert 1 == compatibility.main([str(file)])

    said = capsys.readouterr().err.splitlines()
    assert ["job.paused.v1: is gone, and no upcaster reads it"] == said[:1]
    assert "topic version" in said[1]
