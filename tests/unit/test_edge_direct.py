"""Requests are answered directly, exactly as FastAPI would answer them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from coordinator.edge.app import common_routes_by_path
from coordinator.edge.routing.routes_by_path import RoutesByPath
from tests.unit.edge_fakes import ALICE, JOB, an_app, browsing

STREAMS = {"/v1/events", "/v1/jobs/{job_id}/events", "/v1/jobs/{job_id}/progress"}
"""A GET of these has no end here."""
VARYING = {"x-request-id", "date"}
NO_BODY: dict[str, Any] = {}
VARIANTS: tuple[tuple[str, dict[str, str], dict[str, Any]], ...] = (
    (str(JOB), {}, NO_BODY),
    (str(JOB), {"X-Api-Key": ALICE}, NO_BODY),
    (str(JOB), {"X-Api-Key": ALICE, "X-At-Least": "soon"}, NO_BODY),
    (str(JOB), {"X-Api-Key": ALICE, "X-At-Least": "999999"}, NO_BODY),
    (str(JOB), {"X-Api-Key": ALICE}, {"params": {"limit": "many", "wait": "long", "at_least": "-1"}}),
    (str(JOB), {"X-Api-Key": ALICE}, {"params": {"unknown": "1"}}),
    ("not-a-uuid", {"X-Api-Key": ALICE}, NO_BODY),
    ("a/b", {"X-Api-Key": ALICE}, NO_BODY),
)


def the_long_way(app: FastAPI) -> FastAPI:
    """The same application, all of whose requests FastAPI answers."""
    [layer] = [layer for layer in app.user_middleware if "routes" in layer.kwargs]
    layer.kwargs["routes"] = RoutesByPath([])
    return app


async def test_answers_are_those_of_the_framework() -> None:
    """Status, headers and body of every endpoint: with a key and without, for good and for bad requests."""
    direct, framework = an_app(), the_long_way(an_app())
    asked = 0
    async with browsing(direct) as one, browsing(framework) as other:
        for path, item in direct.openapi()["paths"].items():
            for method in {"get", "post", "put", "delete"} & item.keys():
                if method == "get" and path in STREAMS:
                    continue
                for value, headers, sent in VARIANTS:
                    url = re.sub(r"\{[^}]*\}", value, path)
                    answers = [
                        await http.request(method, url, headers=headers, **sent) for http in (one, other)
                    ]
                    found, expected = (
                        (
                            answer.status_code,
                            {k: v for k, v in answer.headers.items() if k not in VARYING},
                            re.sub(r'"request_id": ?"[^"]*"', "", answer.text),
                        )
                        for answer in answers
                    )
                    assert expected == found, (method, url, headers, sent)
                    asked += 1
    assert asked > 400


def test_every_endpoint_is_answered_directly() -> None:
    """None of ours uses more of the framework than is known at the start."""
    every = [direct for routes in common_routes_by_path().by_form.values() for direct in routes]
    assert [] == [(direct.methods, direct.route) for direct in every if direct.call is None]
    assert len(every) > 50


def test_the_first_of_several_routes_answers() -> None:
    """A fixed path before one with a parameter, and the other way round; an open one keeps its place."""
    router = APIRouter()

    async def answer() -> Response:
        return Response()

    for name in ("/a/b/{id}", "/a/b/c", "/a/{rest:path}", "/a/x/c", "/d/e/c", "/d/e/{id}"):
        router.add_api_route(name, answer, name=name, methods=["GET"])
    routes = RoutesByPath(router.routes)

    def first(path: str) -> str | None:
        found = routes.find("GET", path)
        return None if found is None else str(found[0].route.name)  # type: ignore[attr-defined]

    assert "/a/b/{id}" == first("/a/b/c")
    assert "/a/{rest:path}" == first("/a/x/c")
    assert "/d/e/c" == first("/d/e/c")
    assert "/d/e/{id}" == first("/d/e/f")
    assert None is first("/d/e/f/g")
    assert None is routes.find("PUT", "/d/e/f")


@pytest.mark.parametrize("kind", ["sync", "generator", "response", "model"])
def test_what_is_not_known_is_left_to_the_framework(kind: str) -> None:
    """Threads, dependencies that are undone, answers that the framework makes: they work as it has them."""
    router = APIRouter()

    def in_a_thread() -> int:
        return 1

    async def undone() -> Any:
        yield 1

    async def with_headers(response: Response) -> int:
        response.headers["X-Extra"] = "1"
        return 1

    async def answer(request: Request, found: int) -> Response:
        return Response(str(found))

    async def model(request: Request) -> dict[str, str]:
        return {"path": request.url.path}

    needed: Any = {"sync": in_a_thread, "generator": undone, "response": with_headers}.get(kind)
    if needed is None:
        router.add_api_route("/one/two", model)
    else:
        router.add_api_route("/one/two", answer, dependencies=[Depends(needed)])
    assert None is RoutesByPath(router.routes).find("GET", "/one/two")
