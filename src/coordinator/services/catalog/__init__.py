"""The catalogue: the registry entries that come with the coordinator, as data. One JSON file per category.

A file holds a list of entries, each with the fields of `domain.service.ServiceSpec`. The entry of a service
with models names their file (`module`, in `coordinator.services`) and has `input_examples` and
`output_examples`; its schemas are generated from the models. To add a service, add an entry with examples of
payload and result: the tests check its schemas against them.
"""

import functools
import json
from collections.abc import Iterator
from importlib import import_module, resources
from typing import Any, Final

from coordinator.services.base import KnownService
from coordinator.services.json_schema import input_schema, output_schema

_MODELS: Final = "coordinator.services"
_FILLED: Final = {"input_examples": "input_schema", "output_examples": "output_schema"}


def load_catalog() -> list[dict[str, Any]]:
    """Every entry, sorted by id; the caller may change them.

    Raises ValueError if two entries share an id or an alias, an entry is in another category's file, or its
    module belongs to another service.
    """
    entries: list[dict[str, Any]] = []
    taken: set[str] = set()
    for file in resources.files(__name__).iterdir():
        if not file.name.endswith(".json"):
            continue
        # Read again for every caller: a deep copy of a cached list is slower.
        for entry in json.loads(file.read_text(encoding="utf-8")):
            if f"{entry['category']}.json" != file.name:
                raise ValueError(f"{entry['id']} is of category {entry['category']}, but in {file.name}")
            names = {entry["id"], *entry["aliases"]}
            if names & taken:
                raise ValueError(f"{file.name}: {', '.join(sorted(names & taken))} is taken")
            taken |= names
            entries.append(dict(_with_schemas(entry)) if "module" in entry else entry)
    return sorted(entries, key=lambda entry: str(entry["id"]))


def _with_schemas(entry: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The entry's fields, with schemas instead of the module and the examples."""
    schemas = json.loads(_schemas(entry["module"], entry["id"]))
    for name, value in entry.items():
        if name in _FILLED:
            yield _FILLED[name], {**schemas[_FILLED[name]], "examples": value}
        elif name != "module":
            yield name, value


@functools.cache
def _schemas(module: str, service_id: str) -> str:
    """Both schemas of a service, as JSON text: parsing it costs a hundredth of generating them."""
    service: KnownService[Any, Any] = import_module(f"{_MODELS}.{module}").SERVICE
    if service.id != service_id:
        raise ValueError(f"{service_id} names the module of {service.id}")
    return json.dumps({"input_schema": input_schema(service), "output_schema": output_schema(service)})
