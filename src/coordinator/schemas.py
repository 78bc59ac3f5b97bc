"""`python -m coordinator.schemas [--check]`: write `schemas/` from the code, or say whether it is up to date.

- `commands/<type>.json`, `events/<topic>.json`: JSON Schema 2020-12 of each command and event;
- `documents/<name>.json`: of what travels besides (heartbeats, offers, statements, receipts);
- `asyncapi.json`: the AMQP side; `openapi.json`: the HTTP side.

Nothing is read but the code, so that the same code gives the same bytes everywhere.
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, RootModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from coordinator.application.keyring import Keyring
from coordinator.application.ports import Heartbeat, Offer
from coordinator.application.progress import ProgressReport
from coordinator.crypto.receipt import Receipt
from coordinator.crypto.statement import SignedStatement
from coordinator.domain.aggregates import COMMANDS, EVENTS
from coordinator.edge.live_client import AnyClientRequest
from coordinator.edge.live_messages import AnyClientMessage

DEFAULT_FOLDER = Path("schemas")
REGENERATE = "make schemas"
DOCUMENTS: Mapping[str, type[BaseModel]] = {
    "heartbeat": Heartbeat,
    "live_message": AnyClientMessage,
    "live_request": AnyClientRequest,
    "offer": Offer,
    "progress": ProgressReport,
    "receipt": Receipt,
    "statement": SignedStatement,
}
SEE_ALSO = {
    ("JobComplete", "statement"): "The miner's signed statement; its shape is in documents/statement.json.",
    ("JobCompleted", "receipt"): "The signed receipt; its shape is in documents/receipt.json.",
}
"""What the code types as any object, because it is checked elsewhere."""


class Described(GenerateJsonSchema):
    """JSON Schema with the docstrings of fields as their descriptions, and without made-up titles."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        made = super().model_schema(schema)
        if "description" in made:
            made["description"] = _one_line(made["description"])
        model: type[BaseModel] = schema["cls"]
        docs = field_docs(model)
        for name, member in made.get("properties", {}).items():
            text = docs.get(name) or SEE_ALSO.get((model.__name__, name))
            if text:
                member.setdefault("description", text)
        return made

    def dict_schema(self, schema: core_schema.DictSchema) -> dict[str, Any]:
        made = super().dict_schema(schema)
        if "patternProperties" in made:  # the names are restricted: others are refused
            made["additionalProperties"] = False
        return made


@functools.cache
def field_docs(model: type[BaseModel]) -> Mapping[str, str]:
    """The docstrings below a model's fields, its base classes' included."""
    docs: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls is BaseModel or issubclass(RootModel, cls):
            continue
        if cls.__pydantic_generic_metadata__["origin"] is not None:
            continue  # made by a subscript: it has no source
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in zip(definition.body, definition.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                docs[field.target.id] = _one_line(text.value.value)
    return docs


def json_schema(model: type[BaseModel], kind: str, name: str) -> dict[str, Any]:
    """One model's schema, a document of its own."""
    made = model.model_json_schema(schema_generator=Described)
    if kind == "command":
        made["x-senders"] = sorted(COMMANDS[name].senders)
    return {"$schema": Described.schema_dialect, "$id": f"urn:coordinator:{kind}:{name}", **made}


def openapi() -> dict[str, Any]:
    """The HTTP edge's OpenAPI document. The ports are never used: describing an endpoint calls none."""
    from coordinator.edge.app import create_app
    from coordinator.edge.context import EdgeContext
    from coordinator.settings import Settings

    unused = cast("Any", None)
    # Constructed, not loaded: the document must not depend on this machine's environment.
    settings = Settings.model_construct()
    context = EdgeContext(
        front=unused,
        log=unused,
        database=unused,
        queues=unused,
        keyring=Keyring({}),
        blobs=unused,
        settings=settings,
        watermarks=unused,
        live=unused,
        health=dict,
    )
    return create_app(context).openapi()


def generate() -> dict[str, str]:
    """Every file below the folder, by its path there."""
    from coordinator.broker.asyncapi import asyncapi

    documents = {
        **{f"commands/{t}.json": json_schema(m, "command", t) for t, m in COMMANDS.items()},
        **{f"events/{t}.json": json_schema(m, "event", t) for t, m in EVENTS.items()},
        **{f"documents/{n}.json": json_schema(m, "document", n) for n, m in DOCUMENTS.items()},
        "asyncapi.json": asyncapi(Described),
        "openapi.json": openapi(),
    }
    return {
        path: json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
        for path, document in sorted(documents.items())
    }


def differences(folder: Path) -> Iterator[str]:
    """What in the folder is not what the code says, one line a file."""
    wanted = generate()
    there = {str(file.relative_to(folder)) for file in folder.rglob("*.json")}
    for path in sorted(wanted.keys() | there):
        if path not in there:
            yield f"{path} is missing"
        elif path not in wanted:
            yield f"{path} describes nothing that is there any more"
        elif (folder / path).read_text(encoding="utf-8") != wanted[path]:
            yield f"{path} is not what the code says"


def write(folder: Path) -> int:
    """Write the folder anew; the number of files."""
    wanted = generate()
    for file in folder.rglob("*.json"):
        if str(file.relative_to(folder)) not in wanted:
            file.unlink()
    for path, text in wanted.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return len(wanted)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m coordinator.schemas", description="Write schemas/ anew.")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    options = parser.parse_args(arguments)
    if not options.check:
        sys.stdout.write(f"{write(options.folder)} files in {options.folder}\n")
        return 0
    found = list(differences(options.folder))
    sys.stderr.write("".join(f"{line}\n" for line in found))
    if found:
        sys.stderr.write(f"Run `{REGENERATE}` and commit what it writes.\n")
    return 1 if found else 0


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
