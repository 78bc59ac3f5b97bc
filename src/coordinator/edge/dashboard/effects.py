"""What a person changes by a page: the next page shows it."""

from __future__ import annotations

from coordinator.application.ports import Intent
from coordinator.domain.messages import Command
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.http.commands import accepted, decide
from coordinator.edge.state.tables.read_models import PROJECTOR
from coordinator.wire.answers import Accepted


async def take_effect(context: EdgeContext, viewer: Viewer, command: Command) -> Accepted:
    """Decide a viewer's command, and wait until the tables that pages read have its effect. Raises Refusal.

    After `at_least_seconds` it returns nevertheless: the command is accepted, and a page may be behind.
    """
    answer = accepted(await decide(context, Intent(command, viewer.principal)))
    context.watermarks.hurry(PROJECTOR, answer.position)
    await context.watermarks.reached(PROJECTOR, answer.position, context.limits.at_least_seconds)
    return answer
