"""The registry: services, their versions, and checks of payloads."""

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
    """JSON Schema 2020-12 of a service's payload and result."""

    service: str
    version: int
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]


class ServiceRequirements(View):
    """A service's needs of a miner, minimum and recommended, and its limits."""

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
    """A category, and the number of its services that take jobs."""

    id: str
    services: int


class CategoryPage(View):
    items: list[CategoryView]
    next_cursor: str | None


class ValidateRequest(BaseModel):
    """A payload, and its service (an id or an alias)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    service: ServiceId
    payload: dict[str, Any]

    @classmethod
    def of(cls, fields: dict[str, Any]) -> ValidateRequest:
        """Raises Refusal."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None


class FaultView(View):
    """One fault of a payload: its place, the keyword of the schema, and a text without values."""

    place: str
    keyword: str
    message: str


class ValidateAnswer(View):
    """Whether the service's current version accepts this payload."""

    valid: bool
    service: str
    version: int
    faults: list[FaultView]
