"""Commands about entries of the registry."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from coordinator.application.commands.handler import Handler, Prepared, StateOf, log_unavailable
from coordinator.application.commands.names import Names
from coordinator.application.payloads.schemas import check_spec
from coordinator.application.ports import Intent, LogUnavailable
from coordinator.domain.decision import Context, Decision
from coordinator.domain.messages import Command, Millis
from coordinator.domain.name import name_stream
from coordinator.domain.service import (
    EntryContext,
    ServiceCommand,
    ServiceRegister,
    ServiceRetire,
    ServiceState,
    answer,
    decide,
    names_of,
    service_stream,
)

EntryNames = tuple[str, ...]


class ServiceCommands(Handler[EntryNames]):
    """Finds an entry's current and new names, because the decision also appends to their streams."""

    noun = "service"
    routine: ClassVar[tuple[type[Command], ...]] = (ServiceRegister,)

    def __init__(self, names: Names) -> None:
        self._names = names

    async def prepare_one(self, intent: Intent) -> Prepared[EntryNames]:
        command = cast("ServiceCommand", intent.command)
        if isinstance(command, ServiceRetire):
            return Prepared(intent, self, service_stream(command.service), ())
        try:
            had = await self._names.of(command.spec.id)
        except LogUnavailable:
            raise log_unavailable() from None
        names = tuple(dict.fromkeys((*names_of(command.spec), *had)))
        streams = tuple(map(name_stream, names))
        return Prepared(intent, self, service_stream(command.spec.id), names, writes=streams)

    def decide(self, prepared: Prepared[EntryNames], state_of: StateOf, now: Millis) -> Decision:
        state: ServiceState = state_of(prepared.stream)
        command, principal = cast("ServiceCommand", prepared.intent.command), prepared.intent.principal
        if isinstance(command, ServiceRetire):
            return decide(state, command, Context(now, principal))
        # Each start registers the whole catalogue; the schemas of registered entries were checked before.
        known = state is not None and state.spec == command.spec
        names = {name: state_of(name_stream(name)) for name in prepared.details}
        fault = None if known else check_spec(command.spec)
        return decide(state, command, EntryContext(now, principal, names, fault))

    def answer(self, prepared: Prepared[EntryNames], state: ServiceState) -> dict[str, Any]:
        return answer(state, cast("ServiceCommand", prepared.intent.command))
