"""Old versions of events become the newest one while they are read. Stored events are never edited.

When an event changes its shape, give the new shape a new topic (`job.submitted.v2`), remove the old class
from the domain, and write here how the old JSON becomes the new:

    @upcaster("job.submitted.v1")
    def _submitted_names_its_region(old: Json) -> tuple[str, Json]:
        return "job.submitted.v2", {**old, "region": None}

Upcasters chain: v1 becomes v2, which becomes v3. They run before validation, on plain JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Upcaster = Callable[[Json], tuple[str, Json]]

UPCASTERS: dict[str, Upcaster] = {}
"""By the old topic."""


def upcaster(topic: str) -> Callable[[Upcaster], Upcaster]:
    """Register a function for an old topic. Raises ValueError if the topic has one already."""
    if topic in UPCASTERS:
        raise ValueError(f"{topic} has an upcaster already")

    def register(function: Upcaster) -> Upcaster:
        UPCASTERS[topic] = function
        return function

    return register


def upcast(topic: str, data: Json) -> tuple[str, Json]:
    """The newest topic of this event, and its JSON."""
    seen = {topic}
    while topic in UPCASTERS:
        topic, data = UPCASTERS[topic](data)
        if topic in seen:
            raise ValueError(f"the upcasters of {topic} form a circle")
        seen.add(topic)
    return topic, data
