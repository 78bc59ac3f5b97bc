"""The catalogue: registry entries that come with the coordinator, as data. One JSON file per category.

A file holds a list of entries, each with the fields of `domain.service.ServiceSpec`. To add a service, add an
entry with examples of payload and result; the tests check its schemas against them, and that an executor of
ours accepts what its schema accepts.
"""

import json
from importlib import resources
from typing import Any


def load_catalog() -> list[dict[str, Any]]:
    """Every entry, sorted by id. The caller may change what it gets.

    Raises ValueError if two entries share an id or an alias, or an entry is in another category's file.
    """
    entries: list[dict[str, Any]] = []
    taken: set[str] = set()
    for file in resources.files(__name__).iterdir():
        if not file.name.endswith(".json"):
            continue
        # Read anew for every caller: that is faster than to copy what was read before.
        for entry in json.loads(file.read_text(encoding="utf-8")):
            if f"{entry['category']}.json" != file.name:
                raise ValueError(f"{entry['id']} is of category {entry['category']}, but in {file.name}")
            names = {entry["id"], *entry["aliases"]}
            if names & taken:
                raise ValueError(f"{file.name}: {', '.join(sorted(names & taken))} is taken")
            taken |= names
            entries.append(entry)
    return sorted(entries, key=lambda entry: str(entry["id"]))
