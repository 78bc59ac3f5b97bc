"""The page Services: the registry, with the miners that run each service and the jobs that wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLine:
    service: str
    version: int
    retired: bool
    category: str
    name: str
    description: str
    list_price: str
    unit: str
    miners: int
    """Online, that run it."""
    queued: int | None
    """Jobs that wait for it; None for clients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceList:
    services: tuple[ServiceLine, ...]
    categories: dict[str, int]
    next_cursor: str | None


async def load(
    context: EdgeContext, viewer: Viewer, category: str = "", cursor: str | None = None, limit: int = 100
) -> ServiceList:
    """A page of the registry by id; an empty category for all. Raises Refusal."""
    raise NotImplementedError


async def entry(context: EdgeContext, viewer: Viewer, service: str) -> dict[str, Any]:
    """One entry, whole, with its schemas and examples; by id or alias. Raises Refusal."""
    raise NotImplementedError
