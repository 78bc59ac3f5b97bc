"""The registry over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.application.intents import Accepted, Intent
from coordinator.catalog import load_catalog
from coordinator.domain.messages import Principal, Role
from coordinator.domain.service import ServiceRetire
from coordinator.edge.models import ServiceView
from tests.integration.edge_bench import SERVICE, Bench, an_edge

NOT_THERE: list[str] = ["no_such", "whisper", "a" * 63]

NO_IDS: list[str] = ["%2e%2e", "Checksum", "a%00", "a" * 64, "checksum%0a", "a-b", "ｃhecksum"]


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Bench]:
    async with an_edge(tmp_path) as bench:
        yield bench


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
    [answer] = await edge.coordinator.front.handle(
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
