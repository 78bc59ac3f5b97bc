"""`python -m coordinator.dev.compatibility FILE`: can this version read what a released version wrote?

FILE holds the schemas of the events and commands of a release (`--write` makes it). Every document that was
valid then has to be valid now: an event in the log is never edited, and a client or miner is not upgraded
with the coordinator. A topic may go only if an upcaster reads it. A changed shape is a new topic version.

The check is cautious: a keyword of JSON Schema that it does not understand must not change at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from coordinator.dev.schemas import json_schema
from coordinator.domain.registry import COMMANDS, EVENTS
from coordinator.storage.log.upcasters import UPCASTERS

Schema = Mapping[str, Any]
Schemas = Mapping[str, Mapping[str, Schema]]
"""`events` and `commands`: their schemas by topic."""

_ANNOTATIONS: Final = frozenset(
    {"$schema", "$id", "$defs", "title", "description", "default", "examples", "deprecated", "discriminator"}
)
_LEAST: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_MOST: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_UNDERSTOOD: Final = _ANNOTATIONS | {
    *("$ref", "anyOf", "oneOf", "type", "enum", "const", "properties", "required", "additionalProperties"),
    *("items", "x-senders", *_LEAST, *_MOST),
}


def current() -> Schemas:
    """The schemas of this version."""
    return {
        "events": {topic: json_schema(model, "event", topic) for topic, model in EVENTS.items()},
        "commands": {topic: json_schema(model, "command", topic) for topic, model in COMMANDS.items()},
    }


def incompatible(released: Schemas, now: Schemas, upcast: Collection[str] = ()) -> Iterator[str]:
    """The reasons why a message of the released version may be invalid now, one line each.

    `upcast`: the topics of events that upcasters read.
    """
    for kind in ("events", "commands"):
        for topic, old in sorted(released[kind].items()):
            new = now[kind].get(topic)
            if kind == "events" and topic in upcast:
                continue
            if new is None:
                yield f"{topic}: is gone" + (", and no upcaster reads it" if kind == "events" else "")
                continue
            for sender in sorted(set(old.get("x-senders", ())) - set(new.get("x-senders", ()))):
                yield f"{topic}: {sender} may no longer send it"
            yield from _Comparison(old, new).narrowed(old, new, topic)


class _Comparison:
    """One old and one new document, whose definitions their references name."""

    def __init__(self, old: Schema, new: Schema) -> None:
        self._old = old
        self._new = new
        self._under_way: set[tuple[str, str]] = set()

    def narrowed(self, old: Schema | bool, new: Schema | bool, where: str) -> Iterator[str]:
        """The reasons why a value that fits `old` may not fit `new`."""
        if new is True or new == {} or old is False:
            return
        if old is True:
            old = {}
        if new is False:
            yield f"{where}: is no longer taken"
            return
        references = str(old.get("$ref")), str(new.get("$ref"))
        if "$ref" in old or "$ref" in new:
            if references in self._under_way:  # a definition that refers to itself
                return
            self._under_way.add(references)
        try:
            yield from self._narrowed(_resolve(self._old, old), _resolve(self._new, new), where)
        finally:
            self._under_way.discard(references)

    def _narrowed(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        old_choices, new_choices = _choices(old), _choices(new)
        if old_choices or new_choices:
            for choice in old_choices or [old]:
                reasons = [list(self.narrowed(choice, other, where)) for other in new_choices or [new]]
                if all(reasons):
                    yield min(reasons, key=len)[0]
            return
        yield from _types(old, new, where)
        yield from _values(old, new, where)
        yield from _bounds(old, new, where)
        for name in sorted((old.keys() | new.keys()) - _UNDERSTOOD):
            if name in new and old.get(name) != new[name]:
                yield f"{where}: {name} is {new[name]!r}, and was {old.get(name)!r}"
        if "items" in new:
            yield from self.narrowed(old.get("items", True), new["items"], f"{where}[]")
        yield from self._members(old, new, where)

    def _members(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        had, has = old.get("properties", {}), new.get("properties", {})
        others, other = old.get("additionalProperties", True), new.get("additionalProperties", True)
        for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
            yield f"{where}.{name}: is required now"
        for name, schema in sorted(had.items()):
            yield from self.narrowed(schema, has.get(name, other), f"{where}.{name}")
        if others is not False:
            for name in sorted(has.keys() - had.keys()):
                yield from self.narrowed(others, has[name], f"{where}.{name}")
            yield from self.narrowed(others, other, f"{where}.*")


def _resolve(document: Schema, schema: Schema) -> Schema:
    while "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        schema = {**document["$defs"][name], **{k: v for k, v in schema.items() if k != "$ref"}}
    return schema


def _choices(schema: Schema) -> list[Schema]:
    return [*schema.get("anyOf", ()), *schema.get("oneOf", ())]


def _types(old: Schema, new: Schema, where: str) -> Iterator[str]:
    if "type" not in new:
        return
    taken = _named(new["type"])
    if "number" in taken:
        taken |= {"integer"}
    was = _named(old["type"]) if "type" in old else _types_of_values(old)
    if was is None:
        yield f"{where}: should be {' or '.join(sorted(taken))} now, and could be anything"
    elif was - taken:
        yield f"{where}: can no longer be {' or '.join(sorted(was - taken))}"


def _named(types: str | list[str]) -> set[str]:
    return {types} if isinstance(types, str) else set(types)


_TYPES: Final = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def _types_of_values(schema: Schema) -> set[str] | None:
    values = _allowed(schema)
    return None if values is None else {_TYPES[type(value)] for value in values}


def _allowed(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if "enum" in schema else None


def _values(old: Schema, new: Schema, where: str) -> Iterator[str]:
    was, taken = _allowed(old), _allowed(new)
    if taken is None:
        return
    if was is None:
        yield f"{where}: takes only {json.dumps(taken)} now"
    elif lost := [value for value in was if value not in taken]:
        yield f"{where}: no longer takes {json.dumps(lost)}"


def _bounds(old: Schema, new: Schema, where: str) -> Iterator[str]:
    if _allowed(old) is not None:
        return  # values that the new schema lists, or takes by their type
    for names, tighter in ((_LEAST, 1), (_MOST, -1)):
        for name in names:
            if name not in new:
                continue
            before = old.get(name, 0 if name.startswith("min") and name != "minimum" else None)
            if before is None or (new[name] - before) * tighter > 0:
                yield f"{where}: {name} is {new[name]}, and was {old.get(name, 'not set')}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m coordinator.dev.compatibility",
        description="Compare the schemas of events and commands with those of a release.",
    )
    parser.add_argument("--write", action="store_true", help="write the schemas of this version to the file")
    parser.add_argument("file", type=Path)
    options = parser.parse_args(arguments)
    now = current()
    if options.write:
        text = json.dumps(now, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        options.file.write_text(text + "\n", encoding="utf-8")
        return 0
    found = list(incompatible(json.loads(options.file.read_text(encoding="utf-8")), now, UPCASTERS))
    sys.stderr.write("".join(f"{line}\n" for line in found))
    if found:
        sys.stderr.write("Give the new shape a new topic version, and write an upcaster for the old one.\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
