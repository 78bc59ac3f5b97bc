"""API keys by command line, against a real coordinator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from coordinator.edge.models.keys import KeyView, NewSecretAnswer
from tests.acceptance.cli_process import Coordinator, dev

NO_KEY = "0190163d-8694-739b-aea5-966c26f8ad91"


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with dev(tmp_path_factory.mktemp("keys")) as running:
        yield running


def create(coordinator: Coordinator, *arguments: str) -> dict[str, Any]:
    ran = coordinator.run("key", "create", *arguments, "--json")
    assert ran.code == 0, ran.err
    told: dict[str, Any] = ran.json()
    assert NewSecretAnswer.model_validate(told)
    return told


def works(coordinator: Coordinator, key: str, **variables: str) -> int:
    """The exit code of a command with this key."""
    return coordinator.run("job", "list", "--json", COORDINATOR_API_KEY=key, **variables).code


def test_a_key_from_its_making_to_its_end(coordinator: Coordinator) -> None:
    """Created it works, rotated with grace both secrets do, revoked none; the list says so."""
    made = create(coordinator, "carol", "--label", "laptop", "--expires-in", "90d")
    assert ("carol", "client", 1) == (made["name"], made["role"], made["generation"])
    rotated = coordinator.run("key", "rotate", made["key_id"], "--grace", "1h", "--json").json()
    assert (2, [0, 0]) == (rotated["generation"], [works(coordinator, k["key"]) for k in (made, rotated)])
    last = coordinator.run("key", "rotate", made["key_id"], "--generation", "2", "--json").json()
    assert [5, 5, 0] == [works(coordinator, k["key"]) for k in (made, rotated, last)]
    revoked = coordinator.run("key", "revoke", made["key_id"], "--reason", "left")
    assert (0, True) == (revoked.code, "REVOKED" in revoked.out)
    assert 5 == works(coordinator, last["key"])
    assert [] == coordinator.run("key", "list", "--name", "carol", "--json").json()["items"]
    [item] = coordinator.run("key", "list", "--name", "carol", "--revoked", "--json").json()["items"]
    shown = KeyView.model_validate(item)
    assert ("REVOKED", "laptop", 3, "left") == (shown.state, shown.label, shown.generation, shown.reason)
    table = coordinator.run("key", "list", "--revoked").out
    assert table.splitlines()[0].split()[:3] == ["NAME", "ROLE", "STATE"]
    assert "carol" in table


def test_people_are_told_that_a_secret_is_shown_once(coordinator: Coordinator) -> None:
    """The key is on stdout, to be piped; what there is to know about it on stderr."""
    ran = coordinator.run("key", "create", "dave", "--role", "miner")
    assert 0 == ran.code
    assert "dave:" in ran.out
    assert "never shown again" in ran.err
    assert "dave:" not in ran.err


def test_a_signed_key_needs_its_second_secret(coordinator: Coordinator) -> None:
    """COORDINATOR_HMAC_SECRET signs whatever the command line sends."""
    made = create(coordinator, "erin", "--signed")
    assert 5 == works(coordinator, made["key"])
    assert 0 == works(coordinator, made["key"], COORDINATOR_HMAC_SECRET=made["hmac_secret"])


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("revoke", NO_KEY), 4, "KEY_NOT_FOUND"),
        (("rotate", NO_KEY), 4, "KEY_NOT_FOUND"),
        (("create", "a.b"), 3, "INVALID_PAYLOAD"),
        (("create", "a", "--role", "root"), 2, "USAGE"),
        (("create", "a", "--expires-in", "soon"), 2, "USAGE"),
        (("rotate", NO_KEY, "--grace", "-1"), 2, "USAGE"),
    ],
)
def test_what_makes_no_sense(
    coordinator: Coordinator, arguments: tuple[str, ...], code: int, expected: str
) -> None:
    """Each mistake has its exit code, and its line on stderr."""
    ran = coordinator.run("key", *arguments, "--json")
    assert (code, "") == (ran.code, ran.out)
    assert expected == json.loads(ran.err)["code"]


def test_keys_are_for_admins(coordinator: Coordinator) -> None:
    """Another's key gets nowhere."""
    made = create(coordinator, "frank")
    ran = coordinator.run("key", "list", "--json", COORDINATOR_API_KEY=made["key"])
    assert (5, "FORBIDDEN") == (ran.code, json.loads(ran.err)["code"])


def test_limits_are_set_shown_and_listed(coordinator: Coordinator) -> None:
    """An admin sets limits of a name and sees all names; the name sees its own, and who set them."""
    key = create(coordinator, "erin")["key"]
    limits = ("--queued-jobs", "1", "--stored-bytes", "2G", "--miners", "unlimited", "--max-priority", "3")
    told = coordinator.run("quota", "set", "erin", *limits, "--reason", "a trial", "--json").json()
    assert ("erin", 1, 2 * 2**30, "unlimited", 3) == (
        told["name"],
        *(told["own_limits"][limit] for limit in ("queued_jobs", "stored_bytes", "miners", "max_priority")),
    )
    submit = ("job", "submit", "checksum", "--payload", '{"text": "hello"}')
    assert 0 == coordinator.run(*submit, COORDINATOR_API_KEY=key).code
    refused = coordinator.run(*submit, COORDINATOR_API_KEY=key)
    assert (3, True) == (refused.code, refused.err.startswith("QUEUE_FULL: erin has 1 queued jobs of 1"))
    rows = coordinator.run("quota", "show", COORDINATOR_API_KEY=key).out.splitlines()
    assert [["queued_jobs", "1", "1", "own"]] == [r.split() for r in rows if "queued_jobs" in r]
    assert [["commands_per_minute", "-", "unlimited", "settings"]] == [
        r.split() for r in rows if "commands_per_minute" in r
    ]
    shown = coordinator.run("quota", "show", "erin", "--json").json()
    assert (1, 3) == (shown["used"]["queued_jobs"], shown["limits"]["max_priority"])
    assert "erin" in coordinator.run("quota", "list").out
    assert 0 == coordinator.run("quota", "set", "erin", "--queued-jobs", "default").code
    assert 0 == coordinator.run(*submit, COORDINATOR_API_KEY=key).code
    for wrong in (("--miners", "-1"), ("--queued-jobs", "2G"), ("--max-priority", "unlimited"), ()):
        assert 2 == coordinator.run("quota", "set", "erin", *wrong).code
    assert 5 == coordinator.run("quota", "list", COORDINATOR_API_KEY=key).code
