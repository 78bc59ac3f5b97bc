"""An aggregate that nothing else knows: `budget`, with a command whose decision appends to two streams.

`budget` is what would be a file in `domain/`, `budgets` the handler in `application/commands/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from coordinator.application.commands.handler import Handler
from coordinator.domain.decision import EVOLVE
from coordinator.domain.messages import COMMANDS, EVENTS
from coordinator.storage.log.upcasters import UPCASTERS


@contextmanager
def registered() -> Iterator[Handler[None]]:
    """The example's handler; its commands and events are registered meanwhile, and for no other test."""
    before = [(registry, dict(registry)) for registry in (COMMANDS, EVENTS, EVOLVE, UPCASTERS)]
    from tests.harness.example import budget
    from tests.harness.example.budgets import BudgetCommands

    # The import registers them the first time only.
    COMMANDS[budget.BudgetMove.topic] = budget.BudgetMove
    EVENTS.update({event.topic: event for event in (budget.BudgetMovedIn, budget.BudgetMovedOut)})
    EVOLVE["budget"] = budget.evolve
    try:
        yield BudgetCommands()
    finally:
        for registry, entries in before:
            registry.clear()
            registry.update(entries)  # type: ignore[arg-type]
