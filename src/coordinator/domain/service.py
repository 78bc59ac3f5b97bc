"""Service: a versioned entry of the registry.

register -> version 1 --revise--> version 2 … --retire--> retired (takes no new jobs) --revise--> live again
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal as Exact
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeGuard, assert_never, cast, get_args
from uuid import UUID

from pydantic import FailFast, Field, StrictBool, model_validator

from coordinator.domain.decision import Context, Decision, evolves, on
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.matching.needs import Constraints
from coordinator.domain.matching.units import CountedUnit, PriceUnit, ShownBy, is_counted
from coordinator.domain.messages import (
    CannotFollow,
    Command,
    Decimal,
    Event,
    Message,
    Millis,
    Principal,
    Role,
    ServiceId,
    Text,
    stream_id,
)
from coordinator.domain.name import NameState
from coordinator.domain.name import changes as name_changes

Category = Literal[
    "ai_ml",
    "media_processing",
    "scientific_computing",
    "data_analytics",
    "gaming_entertainment",
    "development_tools",
]
CATEGORIES: tuple[Category, ...] = get_args(Category)


class Pricing(Message):
    """The list price of one `unit`. GPU time is billed by the second, whatever its unit."""

    unit: PriceUnit
    amount: Decimal
    currency: str = "credits"
    shown: Annotated[tuple[ShownBy, ...], Field(max_length=8)] = ()
    """How a result shows the number of its units, where they are counted: the sum of these numbers. No job is
    billed for more. Without it the miner's signed number counts, up to `max_units`."""

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.shown and not is_counted(self.unit):
            raise ValueError(
                f"shown: the {self.unit} is a unit of time, which the coordinator measures; leave it out"
            )
        return self


class Requirements(Message):
    minimum: Constraints = Constraints()
    recommended: Constraints = Constraints()


class UnitsBy(Message):
    """Units for each one of a payload's member."""

    member: Annotated[str, Field(min_length=1, max_length=100)]
    """A member at the top of the payload. A number counts as itself, others count by their length."""
    minus: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """The member with the beginning, if `member` is the end of a range; both ends belong to it."""
    default: Annotated[int, Field(strict=True, ge=0, le=1_000_000_000)] | None = None
    """The number for a payload without the member."""
    times: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Another member whose number multiplies this one's; a payload without it counts once."""
    units: Decimal


class UnitsByPayload(Message):
    """A limit that follows from the payload: `fixed`, and `each` of its terms."""

    fixed: Decimal = "0"
    each: Annotated[tuple[UnitsBy, ...], Field(min_length=1, max_length=8)]


class ServiceSpec(Message):
    """The content of a registry entry."""

    id: ServiceId
    name: Annotated[str, Field(min_length=1, max_length=100)]
    category: Category
    description: Text
    input_schema: dict[str, Any]
    """JSON Schema 2020-12 of a job's payload."""
    output_schema: dict[str, Any]
    requirements: Requirements = Requirements()
    pricing: Pricing
    capabilities: Annotated[tuple[str, ...], FailFast()] = ()
    tags: Annotated[tuple[str, ...], FailFast()] = ()
    aliases: Annotated[tuple[ServiceId, ...], Field(max_length=32), FailFast()] = ()
    max_concurrent: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 100
    timeout_seconds: Annotated[int, Field(strict=True, ge=60, le=604_800)] = 3600
    max_units: Decimal | UnitsByPayload | None = None
    """The most units that one job is billed for: counted ones in the unit of `pricing`, or GPU seconds, never
    more than `timeout_seconds`. Where accounts are kept, a job of counted units without it needs a budget."""
    private: StrictBool = False
    """Offers withhold the payloads of its jobs; the answer to a claim brings them."""

    def list_price(self) -> str:
        """The price of one billed unit as a decimal string: that of a second for GPU time."""
        return _per_unit(self.pricing.unit, self.pricing.amount)

    def price(self) -> tuple[str, CountedUnit | None]:
        """The list price, and its unit."""
        return self.list_price(), self.unit()

    def unit(self) -> CountedUnit | None:
        """The counted unit that jobs are billed by; None for GPU seconds."""
        unit = self.pricing.unit
        return None if unit in SECONDS_IN else cast("CountedUnit", unit)


SECONDS_IN: dict[str, int] = {"second": 1, "minute": 60, "hour": 3600}


@functools.lru_cache(1024)
def _per_unit(unit: str, amount: str) -> str:
    seconds = SECONDS_IN.get(unit, 1)
    return amount if seconds == 1 else format((Exact(amount) / seconds).quantize(Exact("0.000000001")), "f")


# --- commands ----------------------------------------------------------------------------------------------
class ServiceRegister(Command, topic="service.register", senders={Role.ADMIN, Role.SYSTEM}):
    spec: ServiceSpec


class ServiceRevise(Command, topic="service.revise", senders={Role.ADMIN}):
    spec: ServiceSpec


class ServiceRetire(Command, topic="service.retire", senders={Role.ADMIN}):
    service: ServiceId


ServiceCommand = ServiceRegister | ServiceRevise | ServiceRetire
"""Every command about a registry entry."""


# --- events ------------------------------------------------------------------------------------------------
class ServiceRegistered(Event, topic="service.registered.v1"):
    spec: ServiceSpec


class ServiceRevised(Event, topic="service.revised.v1"):
    spec: ServiceSpec
    version: int


class ServiceRetired(Event, topic="service.retired.v1"):
    service: ServiceId


ServiceEvent = ServiceRegistered | ServiceRevised | ServiceRetired
"""Every event of a registry entry."""


def is_service_event(event: Event) -> TypeGuard[ServiceEvent]:
    """Whether this is an event of a registry entry."""
    return isinstance(event, ServiceEvent)


# --- state -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class RegisteredService:
    spec: ServiceSpec
    version: int
    retired: bool = False
    by: str = ""
    """The principal of the last change."""

    @property
    def names(self) -> tuple[str, ...]:
        """See `names_of`."""
        return names_of(self.spec)


ServiceState = RegisteredService | None

initial: ServiceState = None


@functools.lru_cache(4096)
def service_stream(service: str) -> UUID:
    """The id of this registry entry's stream."""
    return stream_id("service", service)


@evolves("service")
def evolve(state: ServiceState, event: ServiceEvent) -> ServiceState:
    """The state after one event. Raises CannotFollow for a log that the decisions would not write."""
    match event:
        case ServiceRegistered():
            if state is None:
                return RegisteredService(event.spec, version=1, by=event.by)
        case ServiceRevised():
            if state is not None:
                return RegisteredService(event.spec, event.version, by=event.by)
        case ServiceRetired():
            if state is not None:
                return RegisteredService(state.spec, state.version, retired=True, by=event.by)
        case _:
            assert_never(event)
    raise CannotFollow(state, event)


class EntryContext(NamedTuple):
    """The facts for a command that brings a new version of an entry."""

    now: Millis
    principal: Principal
    names: Mapping[str, NameState]
    """The new and the former names of the entry. Never stale: the decision appends to the streams of the
    names that it changes."""
    fault: Refusal | None = None
    """The fault of the entry's schemas, if any."""


def decide(state: ServiceState, command: ServiceCommand, context: EntryContext | Context) -> Decision:
    """The events that `command` leads to; none for a repeat. Raises `Refusal`.

    The events of the entry's names come first, each in the name's own stream.
    """
    common: dict[str, Any] = {"at": context.now, "by": context.principal.name}
    match command:
        case ServiceRegister():
            assert isinstance(context, EntryContext)
            if state is None:
                if context.fault:
                    raise context.fault
                registered = ServiceRegistered(**common, spec=command.spec)
                names = _named(state, command.spec, context, common)
                return [*names, *on(service_stream(command.spec.id), [registered])]
            if state.spec == command.spec and not state.retired:
                return _named(state, command.spec, context, common)
            by_us = context.principal.role is Role.SYSTEM and state.by == context.principal.name
            if by_us and not state.retired:
                # A newer catalogue replaces an entry that no admin has changed.
                return _revised(state, command.spec, context, common)
            raise Refusal(Code.CONFLICT_STATE, f"{command.spec.id} is registered already; revise it instead")
        case ServiceRevise():
            assert isinstance(context, EntryContext)
            if state is None:
                raise _not_found(command.spec.id)
            if state.spec == command.spec and not state.retired:
                return []
            return _revised(state, command.spec, context, common)
        case ServiceRetire():
            if state is None:
                raise _not_found(command.service)
            retired = [] if state.retired else [ServiceRetired(**common, service=command.service)]
            return on(service_stream(command.service), retired)
        case _:
            assert_never(command)


def names_of(spec: ServiceSpec) -> tuple[str, ...]:
    """The names of an entry: its id and its aliases, each once."""
    return tuple(dict.fromkeys((spec.id, *spec.aliases)))


def _revised(
    state: RegisteredService, spec: ServiceSpec, context: EntryContext, common: dict[str, Any]
) -> Decision:
    if context.fault:
        raise context.fault
    revised = ServiceRevised(**common, spec=spec, version=state.version + 1)
    return [*_named(state, spec, context, common), *on(service_stream(spec.id), [revised])]


def _named(state: ServiceState, spec: ServiceSpec, context: EntryContext, common: dict[str, Any]) -> Decision:
    """The events after which the entry has the names of `spec` and no others."""
    wanted = names_of(spec)
    had = () if state is None else state.names
    if not context.names.keys() >= {*wanted, *had}:
        # Another command has revised the entry since its former names were looked up.
        raise Refusal(Code.UNAVAILABLE, "concurrent commands change this; send it again")
    return name_changes(spec.id, wanted, context.names, common)


def answer(state: ServiceState, command: ServiceCommand) -> dict[str, Any]:
    """The body of an accepted (or repeated) command's answer, from the state after it."""
    assert state is not None
    return {"service": state.spec.id, "version": state.version, "retired": state.retired}


def _not_found(service: str) -> Refusal:
    return Refusal(Code.SERVICE_NOT_FOUND, f"no service {service}")
