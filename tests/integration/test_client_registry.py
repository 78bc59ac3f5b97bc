"""The SDK's registry against a whole coordinator, in both modes."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from coordinator.client import (
    AsyncCoordinator,
    Conflict,
    Coordinator,
    NotAuthorised,
    NotFound,
    RequestRefused,
)
from tests.integration.edge_bench import Bench, key_of
from tests.integration.test_edge_server import serving

SPEC: dict[str, Any] = {
    "id": "word_count",
    "name": "Word count",
    "category": "development_tools",
    "description": "Counts the words of a text.",
    "input_schema": {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
    "output_schema": {"type": "object", "properties": {"words": {"type": "integer"}}},
    "pricing": {"unit": "second", "amount": "0.0001"},
    "tags": ["words"],
    "aliases": ["wc"],
}


def client(bench: Bench, name: str) -> AsyncCoordinator:
    return AsyncCoordinator("http://edge", key_of(name), transport=httpx.ASGITransport(bench.app))


async def test_a_service_from_its_registration_to_its_retirement(any_edge: Bench) -> None:
    """Each change is read at once, by id and alias; a repeat changes nothing; jobs are taken meanwhile."""
    async with client(any_edge, "root") as root, client(any_edge, "alice") as alice:
        made = await root.registry.register(SPEC)
        assert ("word_count", 1, False) == (made.service, made.version, made.retired)
        assert made == await root.registry.register(SPEC)
        shown = await root.registry.show("wc")
        assert {**SPEC, "pricing": shown.pricing} == {name: shown.spec()[name] for name in SPEC}
        assert ["word_count"] == [entry.id async for entry in root.registry.list(tag="words")]

        await alice.submit("wc", {"text": "one two"})
        with pytest.raises(RequestRefused, match="lacks the member text"):
            await alice.submit("wc", {})

        changed = shown.spec() | {"description": "Counts words.", "aliases": []}
        assert (
            2
            == (await root.registry.revise(changed)).version
            == (await root.registry.revise(changed)).version
        )
        assert "Counts words." == (await root.registry.show("word_count")).description
        assert shown == await root.registry.show("word_count", version=1)

        assert (await root.registry.retire("word_count")).retired
        assert [] == [entry async for entry in root.registry.list(tag="words")]
        assert [True] == [entry.retired async for entry in root.registry.list(tag="words", retired=True)]
        with pytest.raises(RequestRefused):
            await alice.submit("word_count", {"text": "one"})
        history = [(v.change, v.version, v.by) async for v in root.registry.versions("word_count")]
        assert [("registered", 1, "root"), ("revised", 2, "root"), ("retired", 2, "root")] == history


async def test_what_the_registry_refuses(any_edge: Bench) -> None:
    """Others' names, what is not there or no entry, and keys that are no admin's have their exceptions."""
    async with client(any_edge, "root") as root, client(any_edge, "alice") as alice:
        with pytest.raises(NotAuthorised):
            await alice.registry.register(SPEC)
        with pytest.raises(Conflict):
            await root.registry.register(SPEC | {"aliases": ["whisper"]})
        for asked in (
            root.registry.show("word_count"),
            root.registry.show("../../jobs"),
            root.registry.revise(SPEC),
            root.registry.retire("word_count"),
        ):
            with pytest.raises((NotFound, RequestRefused)) as refused:
                await asked
            assert refused.value.status in (404, 422)
        for spoilt in (
            {},
            {"id": "word_count"},
            SPEC | {"input_schema": {"type": "thing"}},
            SPEC | {"more": 1},
        ):
            with pytest.raises(RequestRefused):
                await root.registry.register(spoilt)


async def test_the_blocking_registry(any_edge: Bench) -> None:
    """Programs that are not asynchronous have the same, typed alike."""

    def work(port: int) -> tuple[list[str], int, int]:
        with Coordinator(f"http://127.0.0.1:{port}", key_of("root")) as root:
            root.registry.register(SPEC)
            version = root.registry.revise(SPEC | {"description": "Counts."}).version
            found = [entry.id for entry in root.registry.list(category="development_tools")]
            root.registry.retire("word_count")
            return found, version, len(list(root.registry.versions("word_count")))

    async with serving(any_edge.app) as port:
        found, version, changes = await asyncio.to_thread(work, port)
    assert "word_count" in found
    assert (2, 3) == (version, changes)
