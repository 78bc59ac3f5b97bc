"""The registry: services and their versions, and whether a payload would do for one."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import ServiceId
from coordinator.domain.service import Pricing, Requirements, ServiceSpec
from coordinator.edge.models.base import CommandAnswer, Moment, View
from coordinator.validation import describe_invalid


class ServiceSummary(View):
    id: str
    name: str
    category: str
    description: str
    pricing: Pricing
    tags: tuple[str, ...]
    aliases: tuple[str, ...]
    version: int
    retired: bool


class ServiceAnswer(CommandAnswer):
    """A registry entry was changed."""

    service: str
    version: int
    retired: bool


class ServicePage(View):
    items: list[ServiceSummary]
    next_cursor: str | None


class ServiceView(ServiceSpec):
    """A registry entry as it is now."""

    version: int
    retired: bool


class ServiceSchema(View):
    """JSON Schema 2020-12 of what a service takes and gives."""

    service: str
    version: int
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]


class ServiceRequirements(View):
    """What a miner needs for a service, at least and better; and how a job may be bounded."""

    service: str
    version: int
    requirements: Requirements
    capabilities: tuple[str, ...]
    max_concurrent: int
    timeout_seconds: int


class ServicePricing(View):
    """The list price; a miner may ask for less or more."""

    service: str
    version: int
    pricing: Pricing


class ServiceVersion(View):
    version: int
    change: Literal["registered", "revised", "retired"]
    at: Moment
    by: str
    position: int


class ServiceVersionPage(View):
    items: list[ServiceVersion]
    next_cursor: str | None


class CategoryView(View):
    """A kind of service, and how many of them take jobs."""

    id: str
    services: int


class CategoryPage(View):
    items: list[CategoryView]
    next_cursor: str | None


class ValidateAsk(BaseModel):
    """A payload, and the service that it is for (an id or an alias)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    service: ServiceId
    payload: dict[str, Any]

    @classmethod
    def of(cls, fields: dict[str, Any]) -> ValidateAsk:
        """Raises Refusal."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None


class FaultView(View):
    """One thing that is wrong with a payload: where, by which keyword of the schema, and what; no values."""

    place: str
    keyword: str
    message: str


class ValidateAnswer(View):
    """Whether a service would take this payload as it is now."""

    valid: bool
    service: str
    version: int
    faults: list[FaultView]
