"""The HTTP application: all routers, and the middleware around them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import cache
from typing import Final

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator import __version__
from coordinator.application.background import BackgroundTask
from coordinator.domain.errors import Code
from coordinator.domain.messages import READS_ALL
from coordinator.edge import services
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard import pages as dashboard
from coordinator.edge.dashboard.routing import not_found_page
from coordinator.edge.http.credentials import allow
from coordinator.edge.http.problems import ALWAYS, install_problem_handlers, refusals
from coordinator.edge.http.reads.reading import POSITION_HEADER
from coordinator.edge.live import client_socket, events_stream, miner_socket
from coordinator.edge.middleware.access_log import REQUEST_ID_HEADER, AccessLog, UnexpectedErrors
from coordinator.edge.middleware.authentication import Authentication
from coordinator.edge.middleware.head_requests import HeadRequests
from coordinator.edge.middleware.rate_limits import RATE_HEADERS
from coordinator.edge.openai import ROUTERS as OPENAI_ROUTERS
from coordinator.edge.openai.errors import OpenAIErrors
from coordinator.edge.openai.runs import JOB_HEADER
from coordinator.edge.openapi.document import serve_document
from coordinator.edge.pages import docs, errors
from coordinator.edge.pages import proof as proof_page
from coordinator.edge.routes import (
    admin,
    batches,
    blobs,
    dead_letters,
    erasures,
    health,
    jobs,
    keys,
    matches,
    metrics,
    miners,
    results,
    webhooks,
)
from coordinator.edge.routes.mining import attempts, polling
from coordinator.edge.routes.mining import results as mining_results
from coordinator.edge.routes.parties import accounts, quotas, settlements
from coordinator.edge.routes.proof import log, passports, signing_keys
from coordinator.edge.routes.registry import changes, entries
from coordinator.edge.routing.direct_answers import DirectAnswers
from coordinator.edge.routing.routes_by_path import RoutesByPath
from coordinator.edge.server.websocket_denials import answer_unknown_sockets

PREFIX: Final = "/v1"
ROUTERS: Final = (
    batches.router,  # before the jobs: none has an id like "batches"
    jobs.router,
    results.router,
    passports.router,
    matches.jobs,
    blobs.router,
    polling.router,
    mining_results.router,
    miners.router,
    matches.miners,
    attempts.router,
    entries.router,
    changes.router,
    admin.router,
    erasures.router,
    events_stream.router,
    keys.router,
    quotas.router,
    dead_letters.router,
    webhooks.router,
    accounts.router,
    settlements.router,
    services.router,
)
"""Under PREFIX, in the order in which paths are tried."""


class _Application(FastAPI):
    """FastAPI, whose own outermost layers are inside of ours: there they cost no direct answer.

    `UnexpectedErrors` answers what the outermost one of them would.
    """

    def build_middleware_stack(self) -> ASGIApp:
        ours, self.user_middleware = self.user_middleware, []
        try:
            outermost = super().build_middleware_stack()
        finally:
            self.user_middleware = ours
        assert isinstance(outermost, ServerErrorMiddleware)
        app = outermost.app
        for layer in reversed(ours):
            app = layer.cls(app, *layer.args, **layer.kwargs)
        return app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        scope["app"] = self
        await self.middleware_stack(scope, receive, send)


def create_app(context: EdgeContext) -> FastAPI:
    """The application over these ports. Nothing runs until it is served."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        releasing = BackgroundTask("edge-stop")
        releasing.start(lambda: _release_connections(context))
        yield
        await releasing.stop()
        await context.job_watch.stop()
        if context.rates is not None:
            await context.rates.close()

    app = _Application(
        title="coordinator",
        version=__version__,
        # FastAPI's own pages load scripts from elsewhere; ours is in `pages.docs`.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        generate_unique_id_function=_operation_id,
        lifespan=lifespan,
    )
    app.state.context = context
    app.router.routes += _common_routes().routes
    has_pages = context.settings.ui_enabled and context.sessions is not None
    if has_pages:
        app.router.routes += _dashboard_routes().routes
    _include_metrics(app, public=context.settings.metrics_public)
    app.router.routes += [client_socket.route, miner_socket.route]
    answer_unknown_sockets(app)
    if has_pages:
        install_problem_handlers(app, not_found_page)
    else:
        install_problem_handlers(app)
    app.add_middleware(DirectAnswers, routes=common_routes_by_path())
    app.add_middleware(HeadRequests)
    app.add_middleware(Authentication)
    app.add_middleware(UnexpectedErrors)
    if context.settings.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=context.settings.allow_origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
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
    app.add_middleware(AccessLog)
    serve_document(app)
    return app


@cache
def _common_routes() -> APIRouter:
    """The routes that no setting changes.

    Applications of one process share them: FastAPI reads the annotations of every parameter again for each
    inclusion of a router, which takes longer than the rest of an application.
    """
    routes = APIRouter(generate_unique_id_function=_operation_id)
    for router in ROUTERS:
        routes.include_router(router, prefix=PREFIX, responses=refusals(*ALWAYS))
    for router in OPENAI_ROUTERS:  # their errors have a shape of their own
        routes.include_router(router, prefix=PREFIX)
    routes.include_router(health.router)
    routes.include_router(signing_keys.router)
    routes.include_router(log.router)
    routes.include_router(log.proofs, prefix=PREFIX)
    routes.include_router(errors.router, responses=refusals(Code.INVALID_PAYLOAD))
    routes.include_router(docs.router)
    routes.include_router(proof_page.router)
    return routes


@cache
def _dashboard_routes() -> APIRouter:
    """The pages, which applications of one process share, too."""
    routes = APIRouter()
    for router in dashboard.ROUTERS:
        routes.include_router(router)
    return routes


@cache
def common_routes_by_path() -> RoutesByPath:
    """The routes that are answered directly; shared like them."""
    return RoutesByPath(_common_routes().routes)


def _include_metrics(app: FastAPI, *, public: bool) -> None:
    if public:
        app.include_router(metrics.router)
        return
    refused = refusals(Code.FORBIDDEN, *(code for code in ALWAYS if code is not Code.INVALID_PAYLOAD))
    app.include_router(metrics.router, dependencies=[Depends(allow(*READS_ALL))], responses=refused)


async def _release_connections(context: EdgeContext) -> None:
    """Answer waiting requests, and end live connections, once the server begins to stop."""
    await context.stopping.wait()
    context.live.revocations.stop()
    context.parked_polls.stop()
    await context.job_watch.stop()


def _operation_id(route: APIRoute) -> str:
    return route.name
