"""The HTTP edge of a coordinator process. Imported late: a process without it loads no web framework."""

from __future__ import annotations

from fastapi import FastAPI

from coordinator.edge.app import create_app
from coordinator.edge.context import EdgeContext
from coordinator.edge.middleware.rate_limits import RateLimits, redis_storage
from coordinator.runtime.coordinator import CoordinatorProcess


def edge_of(coordinator: CoordinatorProcess) -> FastAPI:
    """The application that serves this coordinator, made anew at each call."""
    settings = coordinator.settings
    redis_url = settings.rate_limit_redis_url
    rates = RateLimits(
        settings.rate_limits,
        settings.rate_limit_window_seconds,
        None if redis_url is None else lambda: redis_storage(redis_url.get_secret_value()),
    )
    return create_app(
        EdgeContext(
            gateway=coordinator.gateway,
            log=coordinator.adapters.log,
            database=coordinator.adapters.reads,
            queues=coordinator.adapters.queues,
            keyring=coordinator.keyring,
            blobs=coordinator.blobs,
            settings=settings,
            watermarks=coordinator.watermarks,
            live=coordinator.live,
            health=coordinator.health,
            metrics=coordinator.metrics,
            rates=rates,
            stopping=coordinator.stopping,
        )
    )
