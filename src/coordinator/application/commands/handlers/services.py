"""Commands about entries of the registry."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, cast

from coordinator.application.commands.handler import Handler, Prepared, StateOf, log_unavailable
from coordinator.application.commands.handlers.names import Names
from coordinator.application.payloads.large_documents import LargeDocuments
from coordinator.application.payloads.schemas import check_spec
from coordinator.application.ports import Intent, LogUnavailable
from coordinator.domain.decision import Context, Decision
from coordinator.domain.errors import Refusal
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


class EntryDetails(NamedTuple):
    """The details of a new version of an entry."""

    names: tuple[str, ...] = ()
    fault: Refusal | None = None
    """The fault of its schemas, if any."""


class ServiceCommands(Handler[EntryDetails]):
    """Checks an entry's schemas, and finds its current and new names, because the decision also appends to
    their streams."""

    noun = "service"
    routine: ClassVar[tuple[type[Command], ...]] = (ServiceRegister,)

    def __init__(self, names: Names) -> None:
        self._names = names
        self._large = LargeDocuments()

    async def prepare_one(self, intent: Intent) -> Prepared[EntryDetails]:
        command = cast("ServiceCommand", intent.command)
        if isinstance(command, ServiceRetire):
            return Prepared(intent, self, service_stream(command.service), EntryDetails())
        try:
            entry = await self._names.entry(command.spec.id)
        except LogUnavailable:
            raise log_unavailable() from None
        had = () if entry is None else entry.names
        names = tuple(dict.fromkeys((*names_of(command.spec), *had)))
        streams = tuple(map(name_stream, names))
        fault = None
        # Each start registers the whole catalogue; the schemas of registered entries were checked before.
        if entry is None or entry.spec != command.spec:
            fault = await self._large.run(check_spec, command.spec)
        details = EntryDetails(names, fault)
        return Prepared(intent, self, service_stream(command.spec.id), details, writes=streams)

    def decide(self, prepared: Prepared[EntryDetails], state_of: StateOf, now: Millis) -> Decision:
        state: ServiceState = state_of(prepared.stream)
        command, principal = cast("ServiceCommand", prepared.intent.command), prepared.intent.principal
        if isinstance(command, ServiceRetire):
            return decide(state, command, Context(now, principal))
        names = {name: state_of(name_stream(name)) for name in prepared.details.names}
        return decide(state, command, EntryContext(now, principal, names, prepared.details.fault))

    def answer(self, prepared: Prepared[EntryDetails], state: ServiceState) -> dict[str, Any]:
        return answer(state, cast("ServiceCommand", prepared.intent.command))
