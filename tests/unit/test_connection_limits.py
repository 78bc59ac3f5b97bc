"""The limits of connections: their shares, their counts, and their lines in the log."""

from __future__ import annotations

import resource

import pytest
from structlog.testing import capture_logs

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Principal, Role
from coordinator.edge.state.open_connections import ConnectionLimits, OpenConnections, Refusals
from coordinator.runtime.connection_limits import (
    DESCRIPTORS_OF_A_CONNECTION,
    RESERVED_DESCRIPTORS,
    connection_limits,
)
from coordinator.runtime.settings import load_settings

ALICE, RIG = Principal(name="alice", role=Role.CLIENT), Principal(name="rig", role=Role.MINER)


def limits(**settings: int) -> ConnectionLimits:
    return connection_limits(load_settings(_env_file=None, **settings))


def test_a_limit_that_is_not_set_is_a_share_of_all() -> None:
    """No address and no key takes all connections; a limit that is set is taken as it is."""
    found = limits(max_connections=400)
    assert (
        ConnectionLimits(total=400, per_address=200, per_key=100, streams=200, streams_per_key=100) == found
    )
    own = limits(max_connections=400, max_connections_per_address=0, max_connections_per_key=7, max_streams=9)
    assert (0, 7, 9) == (own.per_address, own.per_key, own.streams)


def test_descriptors_are_kept_for_everything_else() -> None:
    """However many connections are asked for: a connection with a file takes two, and a reserve stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        found = [limits(max_connections=n).total for n in (0, 100_000)] + [limits().total]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [(1024 - RESERVED_DESCRIPTORS) // DESCRIPTORS_OF_A_CONNECTION] * 3 == found


def test_streams_are_counted_by_key_and_given_back() -> None:
    """A client has its own limit, a miner that of requests; a place comes back after an error, too."""
    opened = OpenConnections(ConnectionLimits(streams_per_key=1, per_key=2, streams=3))
    with opened.stream(ALICE):
        with pytest.raises(Refusal) as refused, opened.stream(ALICE):
            pass
        assert Code.RATE_LIMITED == refused.value.code
        with opened.stream(RIG), opened.stream(RIG):
            with pytest.raises(Refusal) as full, opened.stream(RIG):
                pass
            assert Code.UNAVAILABLE == full.value.code
    with pytest.raises(ZeroDivisionError), opened.stream(ALICE):
        raise ZeroDivisionError
    with opened.stream(ALICE):
        assert 1 == opened.streams
    assert 0 == opened.streams


def test_refusals_are_one_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each limit; the next line says how many there were since."""
    now = 1000.0
    monkeypatch.setattr("coordinator.edge.state.open_connections.time.monotonic", lambda: now)
    refusals = Refusals()
    with capture_logs() as logs:
        for _ in range(500):
            refusals.note("MAX_CONNECTIONS")
        refusals.note("MAX_STREAMS")
        now += 61
        refusals.note("MAX_CONNECTIONS")
    assert [("MAX_CONNECTIONS", 1), ("MAX_STREAMS", 1), ("MAX_CONNECTIONS", 500)] == [
        (line["limit"], line["refused"]) for line in logs
    ]
