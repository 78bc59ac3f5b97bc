"""The edge of a whole coordinator, in both modes (what one answers the other must, too), and a broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.broker.connection import Broker
from coordinator.broker.topology import declare_topology
from tests.integration.edge_bench import Bench, Catalogue, an_edge, few_services


@pytest.fixture
def catalogue() -> Catalogue:
    """The services that edges register."""
    return few_services


@pytest.fixture(params=["embedded", "standard"])
async def any_edge(
    request: pytest.FixtureRequest, tmp_path: Path, catalogue: Catalogue
) -> AsyncIterator[Bench]:
    """Without servers, and on the session's Postgres and RabbitMQ."""
    urls = {}
    if request.param == "standard":
        urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    async with an_edge(tmp_path, catalogue=catalogue, **urls) as bench:
        yield bench


@pytest.fixture
async def edge(tmp_path: Path, catalogue: Catalogue) -> AsyncIterator[Bench]:
    """Without servers: for what no adapter changes."""
    async with an_edge(tmp_path, catalogue=catalogue) as bench:
        yield bench


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[Broker]:
    """Connected to a virtual host of the test's own that has our exchanges and queues."""
    broker = Broker(amqp_url)
    await broker.start()
    await declare_topology(broker.connection)
    yield broker
    await broker.stop()
