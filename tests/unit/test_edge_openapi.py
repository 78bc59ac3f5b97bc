"""The OpenAPI document says all there is: bodies, answers, problems, headers, keys.

Nearly every test here is about every operation, so that an endpoint that is added without its description
fails, and is not forgotten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from coordinator.domain.errors import Code
from coordinator.domain.job import JobSubmit
from coordinator.domain.json_schema import DescribedJsonSchema
from coordinator.domain.matching.needs import Constraints
from coordinator.edge.http.bodies import SCHEMA_REF
from coordinator.edge.http.problems import STATUS_OF
from coordinator.edge.openai.errors import TAG as OPENAI
from coordinator.edge.openapi.document import TAGS, has_position
from tests.harness.cases import every
from tests.unit.edge_fakes import ADMIN, WITHOUT_KEY, an_app, browsing

GOLDEN_IDS = Path(__file__).parents[1] / "golden" / "operations-0.1.txt"
PROBLEM = "application/problem+json"
LETTER = "0123456789abcdef0123"


@cache
def document() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(an_app().openapi()))
    return made


def operations(*, of_openai: bool | None = None) -> list[tuple[str, str]]:
    return [
        (method, path)
        for path, those in document()["paths"].items()
        for method, operation in those.items()
        if of_openai in (None, OPENAI in operation["tags"])
    ]


def operation_of(method: str, path: str) -> dict[str, Any]:
    operation: dict[str, Any] = document()["paths"][path][method]
    return operation


def with_body() -> list[tuple[str, str]]:
    return [(method, path) for method, path in operations() if "requestBody" in operation_of(method, path)]


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def whole(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with what it refers to, as a document of its own."""
    return {"components": document()["components"], **schema}


@cache
def validator(ref: str) -> jsonschema_rs.Validator:
    """Of the schema that the document has under this reference."""
    return jsonschema_rs.validator_for(whole({"$ref": ref}))


every_operation = every(("method", "path"), operations)
every_openai_operation = every(("method", "path"), lambda: operations(of_openai=True))
every_own_operation = every(("method", "path"), lambda: operations(of_openai=False))
every_body = every(("method", "path"), with_body)


# --- the document ------------------------------------------------------------------------------------------
async def test_the_document_is_served() -> None:
    """/openapi.json is open to all, and is what the schemas folder has."""
    async with browsing(an_app()) as http:
        assert (await http.get("/openapi.json")).json() == document()


def test_the_document_is_valid() -> None:
    """It is OpenAPI 3.1, says the validator that other tools build on."""
    validate(document(), cls=OpenAPIV31SpecValidator)


def test_every_reference_leads_somewhere() -> None:
    """Bodies are described by us and answers by FastAPI; they leave no loose end, and nothing unused."""
    components = document()["components"]
    found = {node["$ref"] for node in walk(document()) if isinstance(node.get("$ref"), str)}
    there = {f"#/components/{kind}/{name}" for kind in ("schemas", "headers") for name in components[kind]}
    assert there == found
    assert not [node for node in walk(document()) if "$defs" in node]


def test_operation_ids_are_unique_and_stay() -> None:
    """Generators of clients name their functions by them: one that was released is never renamed."""
    ids = [operation_of(method, path)["operationId"] for method, path in operations()]
    assert len(ids) == len(set(ids))
    assert all(name.isidentifier() for name in ids)
    told = {f"{method.upper()} {path} {i}" for (method, path), i in zip(operations(), ids, strict=True)}
    assert set(GOLDEN_IDS.read_text().splitlines()) <= told


def test_tags_come_in_the_order_of_the_page() -> None:
    """Each tag in use is described, and in the place that a newcomer should find it in."""
    used = {tag for method, path in operations() for tag in operation_of(method, path)["tags"]}
    told = {tag["name"]: tag["description"] for tag in document()["tags"]}
    assert used <= TAGS.keys(), "describe the tag in edge/openapi/document.py"
    assert told == {name: text for name, text in TAGS.items() if name in used}


# --- every operation ---------------------------------------------------------------------------------------
@every_operation
def test_an_operation_is_introduced(method: str, path: str) -> None:
    """One tag, a summary of a few words, no description that says it again, and what its parameters mean."""
    operation = operation_of(method, path)
    [_] = operation["tags"]
    assert 5 <= len(operation["summary"]) <= 60
    assert not operation["summary"].endswith(".")
    assert operation.get("description") != operation["summary"]
    for parameter in operation.get("parameters", ()):
        # What the path names, its name says.
        assert parameter["in"] == "path" or parameter.get("description"), parameter["name"]


@every_operation
def test_an_operation_says_who_may_use_it(method: str, path: str) -> None:
    """By keys of a scheme that the document has, or by none, which is rare and meant."""
    operation = operation_of(method, path)
    schemes = document()["components"]["securitySchemes"]
    named = [scheme for way in operation["security"] for scheme in way]
    assert set(named) <= schemes.keys()
    assert bool(named) == (path not in WITHOUT_KEY)


@every_operation
def test_an_operation_says_what_it_answers(method: str, path: str) -> None:
    """A success has a schema with members or a type; only 204 and answers to HEAD have no body."""
    responses = operation_of(method, path)["responses"]
    successes = {status: r for status, r in responses.items() if status[0] == "2"}
    assert successes
    for status, response in successes.items():
        assert response["description"]
        if status == "204" or method == "head":
            assert "content" not in response
            continue
        assert response["content"]
        for media_type, content in response["content"].items():
            schema = content["schema"]
            assert schema, f"{media_type} has an empty schema: give the endpoint a response_model"
            resolved = document()["components"]["schemas"].get(
                schema.get("$ref", "").rpartition("/")[2], schema
            )
            assert resolved.get("type") or resolved.get("oneOf") or resolved.get("anyOf")
            assert resolved.get("type") != "object" or resolved.get("properties")


@every_openai_operation
def test_an_operation_of_openai_says_how_it_fails(method: str, path: str) -> None:
    """Errors in OpenAI's shape and under its statuses, each with an example."""
    errors = {s: r for s, r in operation_of(method, path)["responses"].items() if s[0] in "45"}
    assert {"401", "403", "429", "500", "503"} <= errors.keys()
    assert ("400" in errors) == (method == "post")
    assert "422" not in errors
    validate_error = validator("#/components/schemas/OpenAIError").validate
    for response in errors.values():
        [(media_type, content)] = response["content"].items()
        assert ("application/json", "#/components/schemas/OpenAIError") == (
            media_type,
            content["schema"]["$ref"],
        )
        for code, example in content["examples"].items():
            assert code == example["value"]["error"]["code"]
            validate_error(example["value"])


@every_own_operation
def test_an_operation_says_how_it_fails(method: str, path: str) -> None:
    """Problems in the one shape there is, each with its codes as examples that lead to their pages."""
    operation = operation_of(method, path)
    problems = {s: r for s, r in operation["responses"].items() if PROBLEM in r.get("content", {})}
    if operation["security"]:
        assert {"401", "500", "503"} <= operation["responses"].keys()
        if operation.get("parameters") or "requestBody" in operation:
            assert "422" in operation["responses"]
    for status in operation["responses"]:
        assert status[0] != "4" or method == "head" or status in problems, f"{status} is no problem"
    validate_problem = validator("#/components/schemas/ProblemDetails").validate
    for status, response in problems.items():
        content = response["content"][PROBLEM]
        assert content["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}
        assert content["examples"]
        for code, example in content["examples"].items():
            value = example["value"]
            assert (value["code"], value["status"], value["type"]) == (code, int(status), f"/errors/{code}")
            assert STATUS_OF[Code(code)] == int(status)
            validate_problem(value)


@every_operation
def test_an_operation_names_its_headers(method: str, path: str) -> None:
    """The request's id on all, the position where there is one, and what programs must act on."""
    operation = operation_of(method, path)
    for status, response in operation["responses"].items():
        headers = response["headers"]
        assert "X-Request-Id" in headers
        openai = OPENAI in operation["tags"] and status[0] in "45"
        problem = PROBLEM in response.get("content", {}) or method == "head" or openai
        assert ("Retry-After" in headers) == (problem and status in ("425", "429", "503"))
        assert ("WWW-Authenticate" in headers) == (status == "401")
        if status[0] == "2" and status != "204":
            assert ("X-Position" in headers) == has_position(path, operation["tags"])
        if method == "post" and status == "201":
            assert "Location" in headers


# --- bodies ------------------------------------------------------------------------------------------------
@every_operation
def test_what_changes_something_says_what_it_takes(method: str, path: str) -> None:
    """Each POST, PUT and PATCH describes its body, also where the body may be left out."""
    assert ("requestBody" in operation_of(method, path)) == (method in ("post", "put", "patch"))


@every_body
def test_a_body_has_an_example_that_fits(method: str, path: str) -> None:
    """Examples are valid against their own schema, and objects take no unknown members."""
    for media_type, content in operation_of(method, path)["requestBody"]["content"].items():
        schema = content["schema"]
        if not media_type.endswith("json"):
            assert schema.get("type") or "$ref" in schema
            continue
        resolved = document()["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)
        if resolved.get("type") == "object":
            assert resolved["additionalProperties"] is False
            assert not re.search(r"\{job_id\}", path) or "job_id" not in resolved["properties"]
        examples = [content["example"]] if "example" in content else []
        examples += [example["value"] for example in content.get("examples", {}).values()]
        assert examples, "give the body an example that works as it is"
        for example in examples:
            jsonschema_rs.validate(whole(schema), example)


def test_a_body_is_its_command() -> None:
    """The body of a submit is generated from the command, so that the two can't drift apart."""
    body = operation_of("post", "/v1/jobs")["requestBody"]["content"]["application/json"]["schema"]
    command = JobSubmit.model_json_schema(ref_template=SCHEMA_REF, schema_generator=DescribedJsonSchema)
    assert body["properties"].keys() == command["properties"].keys()
    assert body["properties"]["priority"] == command["properties"]["priority"]
    assert body["required"] == command["required"]
    told = document()["components"]["schemas"]["Constraints"]
    assert told["properties"].keys() == Constraints.model_fields.keys()
    assert "required" not in told


@every("action", ["replay", "drop"])
@every(
    ("body", "fits"),
    [
        ({"ids": [LETTER]}, True),
        ({"ids": [LETTER], "all": False}, True),
        ({"all": True}, True),
        ({"all": True, "ids": []}, True),
        ({}, False),
        ({"all": False}, False),
        ({"ids": []}, False),
        ({"all": True, "ids": [LETTER]}, False),
        ({"all": 0, "ids": [LETTER]}, False),
        ({"all": "true"}, False),
        ({"all": True, "unproven": 0}, False),
        ({"ids": ["x"]}, False),
    ],
)
async def test_a_choice_of_dead_letters_is_as_described(
    action: str, body: dict[str, Any], fits: bool
) -> None:
    """Some letters or all of them: the document and the endpoint agree on every body."""
    path = f"/v1/admin/dead-letters/{action}"
    described = operation_of("post", path)["requestBody"]
    assert described["required"]
    schema = whole(described["content"]["application/json"]["schema"])
    assert fits == jsonschema_rs.is_valid(schema, body)
    async with browsing(an_app(), ADMIN) as http:
        answer = await http.post(path, json=body)
    assert (200 if fits else 422) == answer.status_code


def test_a_submitted_job_leads_on() -> None:
    """Links say what to do with the job_id of an answer, for the page and for generators of clients."""
    links = operation_of("post", "/v1/jobs")["responses"]["201"]["links"]
    ids = {operation_of(method, path)["operationId"] for method, path in operations()}
    assert {link["operationId"] for link in links.values()} <= ids
    assert "get_result" in {link["operationId"] for link in links.values()}
