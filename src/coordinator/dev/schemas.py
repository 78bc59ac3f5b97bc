"""`python -m coordinator.dev.schemas [--check]`: write `schemas/` from the code, or say if it is up to date.

- `commands/<type>.json`, `events/<topic>.json`: JSON Schema 2020-12 of each command and event;
- `documents/<name>.json`: of other messages and documents (heartbeats, offers, statements, receipts);
- `asyncapi.json`: the AMQP side; `openapi.json`: the HTTP side.

Only the code is read, so that the same code gives the same bytes everywhere.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from coordinator.application.keys.keyring import Keyring
from coordinator.application.live.progress import ProgressReport
from coordinator.crypto.receipt import Promise, Receipt
from coordinator.crypto.statement import SignedStatement
from coordinator.domain.json_schema import DescribedJsonSchema
from coordinator.domain.registry import COMMANDS, EVENTS
from coordinator.edge.live.client_socket import AnyClientRequest
from coordinator.edge.live.messages import AnyClientMessage
from coordinator.wire.heartbeat import Heartbeat
from coordinator.wire.offers import Offer

DEFAULT_FOLDER = Path("schemas")
REGENERATE = "make schemas"
DOCUMENTS: Mapping[str, type[BaseModel]] = {
    "heartbeat": Heartbeat,
    "live_message": AnyClientMessage,
    "live_request": AnyClientRequest,
    "offer": Offer,
    "progress": ProgressReport,
    "promise": Promise,
    "receipt": Receipt,
    "statement": SignedStatement,
}


def json_schema(model: type[BaseModel], kind: str, name: str) -> dict[str, Any]:
    """One model's schema, as a document of its own."""
    made = model.model_json_schema(schema_generator=DescribedJsonSchema)
    if kind == "command":
        made["x-senders"] = sorted(COMMANDS[name].senders)
    return {"$schema": DescribedJsonSchema.schema_dialect, "$id": f"urn:coordinator:{kind}:{name}", **made}


def openapi() -> dict[str, Any]:
    """The HTTP edge's OpenAPI document. The ports are never used: describing an endpoint calls no port."""
    from coordinator.edge.app import create_app
    from coordinator.edge.context import EdgeContext
    from coordinator.runtime.edge import edge_settings
    from coordinator.runtime.settings import Settings

    unused = cast("Any", None)
    # Constructed, not loaded: the document must not depend on this machine's environment.
    settings = edge_settings(Settings.model_construct())
    context = EdgeContext(
        gateway=unused,
        log=unused,
        miners=unused,
        database=unused,
        queues=unused,
        keyring=Keyring({}),
        receipts=unused,
        blobs=unused,
        settings=settings,
        watermarks=unused,
        live=unused,
        used_signatures=unused,
        health=dict,
    )
    return create_app(context).openapi()


def generate() -> dict[str, str]:
    """The text of every file, by its path in the folder."""
    from coordinator.dev.asyncapi import asyncapi

    documents = {
        **{f"commands/{t}.json": json_schema(m, "command", t) for t, m in COMMANDS.items()},
        **{f"events/{t}.json": json_schema(m, "event", t) for t, m in EVENTS.items()},
        **{f"documents/{n}.json": json_schema(m, "document", n) for n, m in DOCUMENTS.items()},
        "asyncapi.json": asyncapi(DescribedJsonSchema),
        "openapi.json": openapi(),
    }
    return {
        path: json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
        for path, document in sorted(documents.items())
    }


def differences(folder: Path) -> Iterator[str]:
    """The differences between the folder and the code, one line per file."""
    wanted = generate()
    present = {str(file.relative_to(folder)) for file in folder.rglob("*.json")}
    for path in sorted(wanted.keys() | present):
        if path not in present:
            yield f"{path} is missing"
        elif path not in wanted:
            yield f"{path} is obsolete"
        elif (folder / path).read_text(encoding="utf-8") != wanted[path]:
            yield f"{path} differs from the code"


def write(folder: Path) -> int:
    """Write all files, remove obsolete ones; returns the number of files."""
    wanted = generate()
    for file in folder.rglob("*.json"):
        if str(file.relative_to(folder)) not in wanted:
            file.unlink()
    for path, text in wanted.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return len(wanted)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m coordinator.dev.schemas", description="Write schemas/ from the code."
    )
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    options = parser.parse_args(arguments)
    if not options.check:
        sys.stdout.write(f"{write(options.folder)} files in {options.folder}\n")
        return 0
    found = list(differences(options.folder))
    sys.stderr.write("".join(f"{line}\n" for line in found))
    if found:
        sys.stderr.write(f"Run `{REGENERATE}` and commit the changes.\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
