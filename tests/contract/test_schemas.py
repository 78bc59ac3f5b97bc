"""The generated documents: up to date, valid, and saying what the program does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema
from pydantic import ValidationError

from coordinator.broker import topology
from coordinator.dev import schemas
from coordinator.domain.errors import Code
from coordinator.domain.registry import COMMANDS, EVENTS
from coordinator.wire.topology import COMMANDS_QUEUE, HEARTBEATS_QUEUE, control_queue_name, work_queue_name
from tests.harness.cases import every

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "schemas"


generate = schemas.generate


@pytest.fixture(scope="module", autouse=True)
def generated_once() -> Iterator[None]:
    """The documents of all tests are one generation, which takes most of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schemas, "generate", cache(generate))
        yield


@pytest.fixture(scope="module")
def asyncapi() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / "asyncapi.json").read_text())
    return document


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / "openapi.json").read_text())
    return document


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def look_up(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    for part in reference.removeprefix("#/").split("/"):
        node = node[part.replace("~1", "/").replace("~0", "~")]
    return node


def test_they_are_what_the_code_says() -> None:
    """The files in schemas/ are the ones that the code gives now; if not: run `make schemas`."""
    found = list(schemas.differences(FOLDER))

    assert not found, f"run `{schemas.REGENERATE}` and commit the changes: {found}"


def test_check_reports_drift_and_names_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` fails on a changed, a missing and a superfluous file, and says how to put it right."""
    assert schemas.main([str(tmp_path)]) == 0
    assert schemas.main(["--check", str(tmp_path)]) == 0
    (tmp_path / "openapi.json").write_text("{}")
    (tmp_path / "asyncapi.json").unlink()
    (tmp_path / "commands" / "job.dance.json").write_text("{}")

    assert schemas.main(["--check", str(tmp_path)]) == 1

    said = capsys.readouterr().err
    assert said.splitlines() == [
        "asyncapi.json is missing",
        "commands/job.dance.json is obsolete",
        "openapi.json differs from the code",
        "Run `make schemas` and commit the changes.",
    ]
    assert schemas.main([str(tmp_path)]) == 0
    assert schemas.main(["--check", str(tmp_path)]) == 0


def test_the_environment_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code gives the same documents, whatever the settings of the machine are."""
    before = schemas.generate()
    monkeypatch.setenv("JOB_TTL_SECONDS", "60")
    monkeypatch.setenv("ALLOW_ORIGINS", "https://example.org")

    assert generate() == before


@every("path", lambda: sorted(path for path in schemas.generate() if path.count("/") == 1))
def test_each_is_a_json_schema(path: str) -> None:
    """Each model's file is valid JSON Schema 2020-12, with an id of its own and a title."""
    document = json.loads((FOLDER / path).read_text())

    jsonschema_rs.meta.validate(document)

    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    kind, _, name = path.removesuffix(".json").partition("/")
    assert document["$id"] == f"urn:coordinator:{kind.removesuffix('s')}:{name}"
    assert document["title"]
    for reference in references(document):
        look_up(document, reference)


def test_a_command_s_schema_says_what_the_program_says() -> None:
    """A valid command passes both the schema and the program; one with a slip passes neither."""
    good = {
        "job_id": "0190163d-8694-739b-aea5-966c26f8ad91",
        "attempt": 1,
        "miner_id": "node1@miner-1",
        "session_id": "session-1",
        "error_code": "OUT_OF_MEMORY",
        "metrics": {"gpu_milliseconds": 12},
    }
    slips: list[dict[str, Any]] = [
        {"attempt": 0},
        {"miner_id": "a@b@c"},
        {"session_id": "short"},
        {"error_code": "lower"},
        {"metrics": {"Not A Name": 1}},
        {"unknown": 1},
    ]
    schema = jsonschema_rs.validator_for(json.loads((FOLDER / "commands/job.fail.json").read_text()))

    assert schema.is_valid(good)
    COMMANDS["job.fail"].model_validate(good)
    for slip in slips:
        assert not schema.is_valid({**good, **slip}), slip
        with pytest.raises(ValidationError):
            COMMANDS["job.fail"].model_validate({**good, **slip})


def test_docstrings_become_descriptions() -> None:
    """A field's docstring is its description in the schema, also if a base class has the field."""
    event = json.loads((FOLDER / "events/job.started.v1.json").read_text())["properties"]

    assert event["miner_key"]["description"] == "The key that must sign this attempt's statement."
    assert event["client"]["description"].startswith("The owner of the job")
    assert event["at"]["description"] == "The moment of the decision."


def test_asyncapi_is_well_formed(asyncapi: dict[str, Any]) -> None:
    """It parses as AsyncAPI 3, every reference leads somewhere, and all parameters are declared."""
    # FastStream's model of the standard wants an `ack` of those who send, too; the standard does not.
    operations = {n: {**o, "bindings": None} for n, o in asyncapi["operations"].items()}
    ApplicationSchema.model_validate({**asyncapi, "operations": operations})
    assert asyncapi["asyncapi"] == "3.0.0"
    for reference in references(asyncapi):
        look_up(asyncapi, reference)
    for channel in asyncapi["channels"].values():
        named = {part.split("}")[0] for part in (channel["address"] or "").split("{")[1:]}
        assert named == channel.get("parameters", {}).keys()
    for operation in asyncapi["operations"].values():
        channel = operation["channel"]["$ref"]
        assert all(m["$ref"].startswith(f"{channel}/messages/") for m in operation["messages"])
    for name, schema in asyncapi["components"]["schemas"].items():
        assert jsonschema_rs.meta.is_valid(
            {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
        ), name


def test_asyncapi_covers_the_topology(asyncapi: dict[str, Any]) -> None:
    """Its exchanges and queues are the declared ones, and all of them."""
    bindings = [channel["bindings"]["amqp"] for channel in asyncapi["channels"].values()]
    exchanges = {b["exchange"]["name"]: b["exchange"]["type"] for b in bindings if "exchange" in b}
    queues = {b["queue"]["name"] for b in bindings if "queue" in b}

    # Dead letters, offers and hints are described by their queues.
    described = {topology.COMMANDS, topology.EVENTS, topology.PROGRESS}
    assert exchanges == {exchange.name: exchange.kind for exchange in described}
    declared = {queue.name for queue in topology.QUEUES} | {HEARTBEATS_QUEUE}
    made_on_demand = {work_queue_name("{profile}"), control_queue_name("{miner_id}")}
    assert queues == declared - {COMMANDS_QUEUE} | made_on_demand


def test_asyncapi_has_every_message(asyncapi: dict[str, Any]) -> None:
    """Every event, every command that may come through a queue, and every refusal code is there."""
    messages = asyncapi["components"]["messages"]
    internal = {
        "account.lapse",
        "account.settle",
        "job.lose",
        "job.expire",
        "miner.lose",
        "settlement.prepare",
        "settlement.revert",
        "settlement.submit",
        "signing_key.introduce",
        "webhook.disable",
    }

    assert EVENTS.keys() <= messages.keys()
    # Their answers hold a secret.
    over_http_only = {"key.create", "key.rotate", "webhook.create", "webhook.rotate"}
    assert {t for t in COMMANDS if t in messages} == COMMANDS.keys() - internal - over_http_only
    assert asyncapi["components"]["schemas"]["Refused"]["properties"]["code"]["enum"] == [
        c.value for c in Code
    ]


def test_openapi_is_well_formed(openapi: dict[str, Any]) -> None:
    """OpenAPI 3.1, every reference leads somewhere, operation ids are unique, schemas are schemas."""
    assert openapi["openapi"].startswith("3.1")
    for reference in references(openapi):
        look_up(openapi, reference)
    operations = [o for path in openapi["paths"].values() for o in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all(operation["summary"] and operation["responses"] for operation in operations)
    for schema in openapi["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
