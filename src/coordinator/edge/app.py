"""The HTTP application: every router, and what stands around them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from coordinator import __version__
from coordinator.edge import attempts, blobs, health, jobs, miners, polling, results, services
from coordinator.edge.bodies import SCHEMA_REF
from coordinator.edge.context import EdgeContext
from coordinator.edge.entrance import REQUEST_ID_HEADER, Entrance
from coordinator.edge.models import ProblemDetails
from coordinator.edge.problems import install_problem_handlers
from coordinator.edge.reading import POSITION_HEADER
from coordinator.edge.waiting import JobWatch

PREFIX: Final = "/v1"
ROUTERS: Final = (
    jobs.router,
    results.router,
    blobs.router,
    polling.router,
    miners.router,
    attempts.router,
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

    app = FastAPI(
        title="coordinator",
        version=__version__,
        description="An event-sourced coordinator for GPU miners.",
        # The documentation pages load scripts from elsewhere; the description itself is all we serve.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        generate_unique_id_function=_operation_id,
        lifespan=lifespan,
    )
    app.state.context = context
    app.state.job_watch = watch
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX)
    app.include_router(health.router)
    install_problem_handlers(app)
    if context.settings.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=context.settings.allow_origins,
            allow_methods=["GET", "HEAD", "POST", "PUT"],
            allow_headers=["*"],
            expose_headers=[POSITION_HEADER, REQUEST_ID_HEADER, "Location", "Retry-After"],
        )
    app.add_middleware(Entrance)
    _describe(app)
    return app


async def _let_go(context: EdgeContext, watch: JobWatch) -> None:
    """Answer who waits for a result once the server begins to stop."""
    await context.stopping.wait()
    await watch.stop()


def _operation_id(route: APIRoute) -> str:
    return route.name


def _describe_position(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        # Blobs and health have no place in the log.
        if status[0] == "2" and not {"blobs", "health"} & set(operation["tags"]):
            response["headers"] = {
                POSITION_HEADER: {
                    "description": "The place in the log that this is as fresh as, or took effect at.",
                    "schema": {"type": "integer"},
                }
            }


def _describe(app: FastAPI) -> None:
    """Let the app's OpenAPI document hold what FastAPI does not see: problems, and parts of bodies."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                separate_input_output_schemas=app.separate_input_output_schemas,
            )
            components = document.setdefault("components", {}).setdefault("schemas", {})
            problem = ProblemDetails.model_json_schema(ref_template=SCHEMA_REF)
            components["ProblemDetails"] = problem
            for operations in document["paths"].values():
                for operation in operations.values():
                    _describe_position(operation)
                    for content in operation.get("requestBody", {}).get("content", {}).values():
                        for name, schema in content["schema"].pop("$defs", {}).items():
                            components.setdefault(name, schema)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
