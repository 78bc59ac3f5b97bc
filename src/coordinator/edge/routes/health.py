"""Health, for probes and people; without a key and outside /v1, where orchestrators expect it."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import Response

from coordinator.edge.context import Context
from coordinator.edge.http.reads.reading import reply
from coordinator.edge.models.health import HealthView

router = APIRouter(tags=["health"])

_FAILING: Final[dict[int | str, dict[str, Any]]] = {
    503: {"model": HealthView, "description": "Not healthy; `reasons` lists the problems."}
}


@router.get("/health", response_model=HealthView, summary="Check health", responses=_FAILING)
async def health(context: Context) -> Response:
    return _answer(context.health(), "live", "ready")


@router.get(
    "/health/live",
    response_model=HealthView,
    summary="Check whether the process works",
    description="Restart the process if this fails.",
    responses=_FAILING,
)
async def live(context: Context) -> Response:
    return _answer(context.health(), "live")


@router.get(
    "/health/startup",
    response_model=HealthView,
    summary="Check whether the start is over",
    description="The port answers once the start is over, and so this succeeds from the first answer on. "
    "Give a start the time that migrations may take.",
)
async def startup(context: Context) -> Response:
    return _answer(context.health())


@router.get(
    "/health/ready",
    response_model=HealthView,
    summary="Check whether the process should get requests",
    responses=_FAILING,
)
async def ready(context: Context) -> Response:
    return _answer(context.health(), "ready")


def _answer(report: Any, *aspects: str) -> Response:
    ok = all(report.get(aspect, True) for aspect in aspects)
    view = {**report, "status": "ok" if ok else "failing", "reasons": list(report.get("reasons", ()))}
    return reply(HealthView.model_validate(view), status=200 if ok else 503)
