"""The registry over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import jsonschema_rs
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from coordinator.application.ports import Intent
from coordinator.domain.messages import Principal, Role
from coordinator.domain.service import ServiceRetire
from coordinator.edge.models.services import ServiceView
from coordinator.services.catalog import load_catalog
from coordinator.wire.answers import Accepted
from tests.harness.cases import every
from tests.integration.edge_bench import SERVICE, Bench, Catalogue, whole_catalogue

NOT_THERE: list[str] = ["no_such", "a" * 63]

NO_IDS: list[str] = ["%2e%2e", "Checksum", "a%00", "a" * 64, "checksum%0a", "a-b", "ｃhecksum"]


@pytest.fixture
def catalogue() -> Catalogue:
    return whole_catalogue


async def test_the_registry_shows_the_whole_catalogue(edge: Bench) -> None:
    """Every role sees every entry once, following the cursors, and each entry in full by its id."""
    expected = {entry["id"]: entry for entry in load_catalog()}
    for reader in (edge.alice, edge.rig, edge.admin):
        seen = []
        params: dict[str, str] = {"limit": "1"}
        while True:
            page = (await reader.get("/v1/registry/services", params=params)).json()
            seen += [item["id"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            params["cursor"] = page["next_cursor"]
        assert seen == sorted(expected)
    for service, entry in expected.items():
        shown = (await edge.alice.get(f"/v1/registry/services/{service}")).json()
        assert ServiceView.model_validate(shown).version == 1
        assert shown["input_schema"] == entry["input_schema"]
        assert shown["retired"] is False


async def test_the_registry_is_filtered_by_category(edge: Bench) -> None:
    """A category shows its own entries; one that does not exist is refused."""
    category = next(entry["category"] for entry in load_catalog() if entry["id"] == SERVICE)
    page = (await edge.alice.get("/v1/registry/services", params={"category": category})).json()
    assert SERVICE in [item["id"] for item in page["items"]]
    assert {item["category"] for item in page["items"]} == {category}
    wrong = await edge.alice.get("/v1/registry/services?category=everything")
    assert (wrong.status_code, wrong.json()["code"]) == (422, "INVALID_PAYLOAD")


async def test_a_retired_service_leaves_the_list_and_can_still_be_shown(edge: Bench) -> None:
    """Old jobs name it, so it is shown by id, and in lists that ask for it."""
    [answer] = await edge.coordinator.gateway.handle(
        [Intent(ServiceRetire(service=SERVICE), Principal("root", Role.ADMIN))]
    )
    assert isinstance(answer, Accepted)
    await edge.reached(answer.position)
    shown = await edge.alice.get(f"/v1/registry/services/{SERVICE}")
    assert shown.json()["retired"] is True
    for params, there in (({}, False), ({"include_retired": "true"}, True)):
        page = (await edge.alice.get("/v1/registry/services", params=params)).json()
        assert (SERVICE in [item["id"] for item in page["items"]]) is there


async def test_a_service_that_is_not_there_is_not_found(edge: Bench) -> None:
    """404 SERVICE_NOT_FOUND."""
    for service in NOT_THERE:
        answer = await edge.alice.get(f"/v1/registry/services/{service}")
        assert (answer.status_code, answer.json()["code"]) == (404, "SERVICE_NOT_FOUND")


async def test_a_name_that_is_no_id_is_refused(edge: Bench) -> None:
    """Ids are lower-case words: anything else is refused before it is looked up."""
    for service in NO_IDS:
        answer = await edge.alice.get(f"/v1/registry/services/{service}")
        assert answer.status_code in (404, 422)
        assert answer.headers["content-type"] == "application/problem+json"


SPEC: dict[str, Any] = {
    "id": "word_count",
    "name": "Word count",
    "category": "development_tools",
    "description": "Counts words.",
    "input_schema": {
        "type": "object",
        "additionalProperties": False,
        "required": ["text"],
        "properties": {"text": {"type": "string"}, "file": {"$ref": "#/$defs/file"}},
        "examples": [{"text": "one two"}],
        "$defs": {"file": {"type": "string", "format": "uri"}},
    },
    "output_schema": {"type": "object", "properties": {"words": {"type": "integer"}}},
    "pricing": {"unit": "second", "amount": "0.5"},
    "tags": ["text"],
    "aliases": ["wc"],
}


async def register(edge: Bench, **changes: Any) -> httpx.Response:
    answer = await edge.admin.post("/v1/registry/services", json={**SPEC, **changes})
    if answer.status_code == 201:
        await edge.reached(answer.json()["position"])
    return answer


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_a_registered_service_takes_jobs_at_once(any_edge: Bench) -> None:
    """Registered, it is listed, its payloads are checked by its own schema, and a miner can take its jobs."""
    edge = any_edge
    made = await register(edge)
    assert (made.status_code, made.headers["location"]) == (201, "/v1/registry/services/word_count")
    assert {"service": "word_count", "version": 1, "retired": False}.items() <= made.json().items()
    assert (await register(edge)).json() == made.json()
    page = (await edge.bob.get("/v1/registry/services?tag=text&category=development_tools")).json()
    assert "word_count" in [item["id"] for item in page["items"]]

    wrong = await edge.alice.post("/v1/jobs", json={"service": "word_count", "payload": {"text": 1}})
    assert code_of(wrong) == (422, "INVALID_PAYLOAD")
    unsafe = {"text": "", "file": "http://127.0.0.1/"}
    refused = await edge.alice.post("/v1/jobs", json={"service": "word_count", "payload": unsafe})
    assert "file can't be fetched" in refused.json()["detail"]

    await edge.register(capabilities={"services": ["word_count"]})
    job = await edge.submit(edge.alice, service="word_count", payload={"text": "one two"})
    offer = await edge.poll()
    assert (offer["job_id"], offer["service"]) == (job["job_id"], "word_count")
    done = await edge.complete(offer, {"words": 2})
    assert done.json()["promise"]["metadata"]["service"] == "word_count"


async def test_an_alias_is_the_service_that_it_names(any_edge: Bench) -> None:
    """A job for an alias is one of the service, in its row, offer and receipt; lists find it by both."""
    edge = any_edge
    await register(edge)
    await edge.register(capabilities={"services": ["word_count"]})
    body = {"service": "wc", "payload": {"text": "x"}, "idempotency_key": "one"}
    first = await edge.alice.post("/v1/jobs", json=body)
    again = await edge.alice.post("/v1/jobs", json={**body, "service": "word_count"})
    assert first.json()["job_id"] == again.json()["job_id"]
    done = await edge.complete(await edge.poll(), {"words": 1})
    assert done.json()["promise"]["metadata"]["service"] == "word_count"
    for name in ("wc", "word_count"):
        page = (await edge.alice.get("/v1/jobs", params={"service": name})).json()
        assert [item["service"] for item in page["items"]] == ["word_count"]
        assert (await edge.alice.get(f"/v1/registry/services/{name}")).json()["id"] == "word_count"


async def test_no_two_services_share_a_name(any_edge: Bench) -> None:
    """Not an id with an alias, not two aliases, not a moment later, and not at the same moment."""
    edge = any_edge
    await register(edge)
    for changes in ({"id": "wc"}, {"id": "other"}, {"id": "other", "aliases": ["word_count"]}):
        assert code_of(await register(edge, **changes)) == (409, "CONFLICT_STATE")
    racers = [register(edge, id=f"racer_{n}", aliases=["prize"]) for n in range(6)]
    answers = await asyncio.gather(*racers)
    assert sorted(a.status_code for a in answers) == [201] + [409] * 5

    freed = await edge.admin.put("/v1/registry/services/word_count", json={**SPEC, "aliases": ["words"]})
    assert freed.status_code == 200
    assert (await register(edge, id="other", aliases=["wc"])).status_code == 201
    shown = await edge.alice.get("/v1/registry/services/wc")
    assert shown.json()["id"] == "other"
    assert code_of(await register(edge, id="third", aliases=["words"])) == (409, "CONFLICT_STATE")


async def test_versions_stay_readable(any_edge: Bench) -> None:
    """A revision is the next version; a job says under which it was accepted; each can be read as it was."""
    edge = any_edge
    await register(edge)
    before = await edge.submit(edge.alice, service="word_count", payload={"text": "x"})
    strict = {**SPEC["input_schema"], "properties": {"text": {"type": "string", "maxLength": 3}}}
    revised = await edge.admin.put(
        "/v1/registry/services/word_count",
        json={**SPEC, "input_schema": strict, "pricing": {"unit": "second", "amount": "0.7"}},
    )
    assert revised.json()["version"] == 2
    await edge.reached(revised.json()["position"])
    long = await edge.alice.post("/v1/jobs", json={"service": "word_count", "payload": {"text": "long"}})
    assert code_of(long) == (422, "INVALID_PAYLOAD")
    after = await edge.submit(edge.alice, service="wc", payload={"text": "x"})
    for job, version in ((before, 1), (after, 2)):
        assert (await edge.alice.get(f"/v1/jobs/{job['job_id']}")).json()["service_version"] == version
    retired = await edge.admin.post("/v1/registry/services/word_count/retire")
    await edge.reached(retired.json()["position"])
    assert code_of(await edge.alice.post("/v1/jobs", json={"service": "wc", "payload": {"text": "x"}})) == (
        404,
        "SERVICE_NOT_FOUND",
    )

    prices = {}
    for version in (1, 2):
        part = await edge.alice.get(f"/v1/registry/services/word_count/pricing?version={version}")
        prices[version] = part.json()["pricing"]["amount"]
    assert prices == {1: "0.5", 2: "0.7"}
    history = (await edge.alice.get("/v1/registry/services/wc/versions")).json()["items"]
    assert [(item["version"], item["change"], item["by"]) for item in history] == [
        (1, "registered", "root"),
        (2, "revised", "root"),
        (2, "retired", "root"),
    ]
    none = await edge.alice.get("/v1/registry/services/word_count?version=3")
    assert code_of(none) == (404, "SERVICE_NOT_FOUND")


async def test_parts_of_an_entry(edge: Bench) -> None:
    """Schema, requirements, price and categories by themselves."""
    entry = (await edge.alice.get("/v1/registry/services/whisper")).json()
    of = "/v1/registry/services/speech_recognition"
    schema = (await edge.alice.get(f"{of}/schema")).json()
    assert schema["input_schema"] == entry["input_schema"]
    assert schema["service"] == "speech_recognition"
    needs = (await edge.alice.get(f"{of}/requirements")).json()
    assert (needs["requirements"], needs["timeout_seconds"]) == (
        entry["requirements"],
        entry["timeout_seconds"],
    )
    assert (await edge.alice.get(f"{of}/pricing")).json()["pricing"] == entry["pricing"]
    counted = (await edge.alice.get("/v1/registry/categories")).json()["items"]
    assert sum(item["services"] for item in counted) == len(load_catalog())


async def test_every_service_has_an_openapi_document(edge: Bench) -> None:
    """It is valid, its references lead somewhere, and its example is a submit that is accepted."""
    await register(edge)
    for service in ["word_count", *(entry["id"] for entry in load_catalog())]:
        document = (await edge.alice.get(f"/v1/registry/services/{service}/openapi")).json()
        validate(document, cls=OpenAPIV31SpecValidator)
        content = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
        whole = {**content["schema"], "components": document["components"]}
        assert jsonschema_rs.validator_for(whole).is_valid(content["example"])
        assert not jsonschema_rs.validator_for(whole).is_valid({"service": service, "payload": 1})


async def test_a_payload_is_checked_without_a_job(any_edge: Bench) -> None:
    """All that is wrong with it, with its places, and without its values; nothing is submitted."""
    edge = any_edge
    secret = "a-secret-value"
    payload = {"audio_url": "http://10.0.0.7/a.wav", "task": secret, "beam_size": 99, secret: 1}
    answer = await edge.alice.post(
        "/v1/registry/services/validate", json={"service": "whisper", "payload": payload}
    )
    told = answer.json()
    assert (told["valid"], told["service"], told["version"]) == (False, "speech_recognition", 1)
    found = {(fault["place"], fault["keyword"]) for fault in told["faults"]}
    assert found == {
        ("audio_url", "format"),
        ("task", "enum"),
        ("beam_size", "maximum"),
        ("", "additionalProperties"),
    }
    assert secret not in answer.text
    assert "10.0.0.7" not in answer.text
    good = {"service": "whisper", "payload": {"audio_url": "https://example.com/a.wav"}}
    assert (await edge.alice.post("/v1/registry/services/validate", json=good)).json()["valid"] is True
    assert (await edge.alice.get("/v1/jobs")).json()["items"] == []
    none = await edge.alice.post("/v1/registry/services/validate", json={**good, "service": "none"})
    assert code_of(none) == (404, "SERVICE_NOT_FOUND")
    many = {"service": "checksum", "payload": {str(n): n for n in range(5000)}}
    assert len((await edge.alice.post("/v1/registry/services/validate", json=many)).json()["faults"]) <= 100


@every(
    "changes",
    [
        {"input_schema": {"type": "nonsense"}},
        {"input_schema": {"$ref": "https://example.com/schema.json"}},
        {"output_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}},
        {"input_schema": {"pattern": "(?=a)b"}},
        {"category": "everything"},
        {"id": "Word Count"},
        {"timeout_seconds": 1},
        {"aliases": [f"alias_{n}" for n in range(33)]},
        {"pricing": {"unit": "second", "amount": "-1"}},
        {"unknown": 1},
    ],
)
async def test_a_wrong_entry_is_refused(edge: Bench, changes: dict[str, Any]) -> None:
    """Schemas that are none or not bounded, and fields out of bounds."""
    assert code_of(await register(edge, **changes)) == (422, "INVALID_PAYLOAD")


async def test_only_admins_change_the_registry(edge: Bench) -> None:
    """Clients and miners read it."""
    await register(edge)
    for stranger in (edge.alice, edge.rig):
        for method, path in (
            ("POST", "/v1/registry/services"),
            ("PUT", "/v1/registry/services/word_count"),
            ("POST", "/v1/registry/services/word_count/retire"),
        ):
            answer = await stranger.request(method, path, json=SPEC)
            assert code_of(answer) == (403, "FORBIDDEN")
    other = await edge.admin.put("/v1/registry/services/word_count", json={**SPEC, "id": "other"})
    assert code_of(other) == (422, "INVALID_PAYLOAD")
    for method, path in (
        ("PUT", "/v1/registry/services/none"),
        ("POST", "/v1/registry/services/none/retire"),
    ):
        body = {**SPEC, "id": "none"} if method == "PUT" else {}
        answer = await edge.admin.request(method, path, json=body)
        assert code_of(answer) == (404, "SERVICE_NOT_FOUND")
