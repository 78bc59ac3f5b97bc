"""Which registry entry a name means, whatever happens while the log is asked."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from coordinator.application.commands.handlers.names import Names
from coordinator.application.ports import Recorded
from coordinator.domain.name import Held, NameClaimed, NameEvent, NameReleased, name_stream
from tests.harness.metadata import STORED_METADATA


def recorded(event: NameEvent) -> Recorded:
    return Recorded(1, uuid4(), 1, event, b"", STORED_METADATA, "")


@pytest.mark.parametrize("moves_to", ["new", None])
async def test_a_name_that_moves_while_it_is_looked_up_is_not_remembered_as_it_was(
    moves_to: str | None,
) -> None:
    """The one who asked gets what was true then; everybody after that, what is true now."""
    asked, go_on = asyncio.Event(), asyncio.Event()
    held: dict[UUID, Any] = {name_stream("alias"): Held("alias", "old")}

    async def state(stream: UUID) -> Any:
        found = held.get(stream)
        asked.set()
        await go_on.wait()
        return found

    names = Names(state)
    looking = asyncio.create_task(names.canonical("alias"))
    await asked.wait()
    common = {"at": 1, "by": "root", "name": "alias"}
    held.clear()
    names.note([recorded(NameReleased(**common, service="old"))])
    if moves_to is not None:
        held[name_stream("alias")] = Held("alias", moves_to)
        names.note([recorded(NameClaimed(**common, service=moves_to))])
    go_on.set()
    assert "old" == await looking
    assert (moves_to or "alias") == await names.canonical("alias")
