"""The OpenAPI document says all there is: bodies, answers, problems, keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from coordinator.domain.job import JobSubmit
from coordinator.domain.matching import Constraints
from coordinator.edge.bodies import SCHEMA_REF
from tests.unit.edge_fakes import an_app, browsing


@cache
def document() -> dict[str, Any]:
    return an_app().openapi()


def operations() -> list[tuple[str, str]]:
    return [(method, path) for path, those in document()["paths"].items() for method in those]


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


async def test_the_document_is_served_and_pages_are_not() -> None:
    """/openapi.json is open to all; no page that loads scripts from elsewhere is served."""
    async with browsing(an_app()) as http:
        assert (await http.get("/openapi.json")).json() == json.loads(json.dumps(document()))


def test_every_reference_leads_somewhere() -> None:
    """Bodies are described by us and answers by FastAPI; together they leave no loose end."""
    schemas = document()["components"]["schemas"]
    found = {node["$ref"] for node in walk(document()) if isinstance(node.get("$ref"), str)}
    assert found == {f"#/components/schemas/{name}" for name in schemas} & found
    assert not [node for node in walk(document()) if "$defs" in node]


@pytest.mark.parametrize(("method", "path"), operations())
def test_every_operation_is_described(method: str, path: str) -> None:
    """Each has a summary, an id, a key (health aside), and problems in the one shape there is."""
    operation = document()["paths"][path][method]
    assert operation["summary"]
    assert operation["operationId"].isidentifier()
    if path.startswith("/health"):
        assert "security" not in operation
        return
    assert operation["security"] == [{"ApiKey": []}]
    problems = {status: r for status, r in operation["responses"].items() if status[0] in "45"}
    assert {"401", "422"} <= problems.keys()
    for problem in problems.values():
        content = problem["content"]["application/problem+json"]
        assert content["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}
        assert content["examples"]


@pytest.mark.parametrize(("method", "path"), [o for o in operations() if o[0] == "post"])
def test_every_body_is_described_with_an_example(method: str, path: str) -> None:
    """What is read by hand is documented all the same, as an object that takes no unknown members."""
    [content] = document()["paths"][path][method]["requestBody"]["content"].values()
    schema = content["schema"]
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert content["example"].keys() <= schema["properties"].keys()
    assert set(schema.get("required", ())) <= content["example"].keys()
    assert "job_id" not in schema["properties"]


def test_a_body_is_its_command() -> None:
    """The body of a submit is generated from the command, so that the two can't drift apart."""
    body = document()["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    command = JobSubmit.model_json_schema(ref_template=SCHEMA_REF)
    assert body["properties"].keys() == command["properties"].keys()
    assert body["properties"]["priority"] == command["properties"]["priority"]
    assert body["required"] == command["required"]
    told = document()["components"]["schemas"]["Constraints"]
    assert told["properties"].keys() == Constraints.model_fields.keys()
    assert "required" not in told


def test_operation_ids_are_unique() -> None:
    """Generators of clients name their functions by them."""
    ids = [document()["paths"][path][method]["operationId"] for method, path in operations()]
    assert len(ids) == len(set(ids))
