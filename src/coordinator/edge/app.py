"""The HTTP application: every router, and what stands around them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from coordinator import __version__
from coordinator.application.commands.payload_schemas import PayloadSchemas
from coordinator.domain.messages import Role
from coordinator.edge import services
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.job_watch import JobWatch
from coordinator.edge.http.problems import install_problem_handlers
from coordinator.edge.http.reading import POSITION_HEADER
from coordinator.edge.live import client_socket, events_stream, miner_socket
from coordinator.edge.middleware.access_log import REQUEST_ID_HEADER, AccessLog, UnexpectedErrors
from coordinator.edge.middleware.authentication import Authentication
from coordinator.edge.middleware.credentials import allow
from coordinator.edge.middleware.http_metrics import HttpMetrics
from coordinator.edge.middleware.rate_limits import RATE_HEADERS
from coordinator.edge.openai import ROUTERS as OPENAI_ROUTERS
from coordinator.edge.openai.errors import OpenAIErrors
from coordinator.edge.openai.runs import JOB_HEADER
from coordinator.edge.openai.served_models import ServedModels
from coordinator.edge.openapi.document import describe
from coordinator.edge.pages import docs, errors
from coordinator.edge.routes import (
    admin,
    attempts,
    blobs,
    health,
    jobs,
    keys,
    metrics,
    miners,
    polling,
    progress,
    registry,
    registry_changes,
    results,
)
from coordinator.edge.routes.metrics import Backlogs
from coordinator.edge.server.websocket_denials import answer_unknown_sockets

PREFIX: Final = "/v1"
ROUTERS: Final = (
    jobs.router,
    results.router,
    *OPENAI_ROUTERS,
    blobs.router,
    polling.router,
    miners.router,
    attempts.router,
    progress.router,
    registry.router,
    registry_changes.router,
    admin.router,
    events_stream.router,
    keys.router,
    services.router,
)
"""Under PREFIX, in the order in which paths are tried."""


def create_app(context: EdgeContext) -> FastAPI:
    """The application over these ports. Nothing runs until it is served."""
    watch = JobWatch(context)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        letting_go = asyncio.create_task(_let_go(context, watch))
        yield
        letting_go.cancel()
        await asyncio.gather(letting_go, return_exceptions=True)
        await watch.stop()
        if context.rates is not None:
            await context.rates.close()

    app = FastAPI(
        title="coordinator",
        version=__version__,
        # FastAPI's own pages load scripts from elsewhere; ours is in `docs`.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        generate_unique_id_function=_operation_id,
        lifespan=lifespan,
    )
    app.state.context = context
    app.state.job_watch = watch
    app.state.payload_schemas = PayloadSchemas(context.settings.fetch_allow_hosts)
    app.state.offered = ServedModels(context)
    app.state.http_meter = HttpMetrics()
    app.state.backlogs = Backlogs()
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX)
    app.include_router(health.router)
    guards = [] if context.settings.metrics_public else [Depends(allow(Role.ADMIN))]
    app.include_router(metrics.router, dependencies=guards)
    app.include_router(errors.router)
    app.include_router(docs.router)
    app.router.routes += [client_socket.route, miner_socket.route]
    answer_unknown_sockets(app)
    install_problem_handlers(app)
    app.add_middleware(Authentication)
    app.add_middleware(UnexpectedErrors)
    if context.settings.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=context.settings.allow_origins,
            allow_methods=["GET", "HEAD", "POST", "PUT"],
            allow_headers=["*"],
            expose_headers=[
                POSITION_HEADER,
                REQUEST_ID_HEADER,
                JOB_HEADER,
                "Location",
                "Retry-After",
                *RATE_HEADERS,
            ],
        )
    app.add_middleware(OpenAIErrors)
    app.add_middleware(AccessLog, meter=app.state.http_meter)
    describe(app)
    return app


async def _let_go(context: EdgeContext, watch: JobWatch) -> None:
    """Answer who waits, and let go who watches, once the server begins to stop."""
    await context.stopping.wait()
    context.live.revocations.stop()
    await watch.stop()


def _operation_id(route: APIRoute) -> str:
    return route.name
