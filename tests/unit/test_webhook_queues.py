"""The fair queue of receivers, the schedule of tries, and which URLs may be told at all."""

from __future__ import annotations

import pytest

from coordinator.application.webhooks.queues import Due, Queues
from coordinator.application.webhooks.schedule import DELAYS, Bounds, next_due
from coordinator.wire.http.urls import UnsafeUrl, check_receiver_url
from tests.harness.cases import every

BOUNDS = Bounds(total=8, of_owner=4, of_receiver=2)


def queues(*receivers: str, due_at: int = 0) -> Queues:
    """Receivers `owner/name`, each with messages."""
    made = Queues()
    for receiver in receivers:
        made.note(Due(receiver, receiver.partition("/")[0], due_at))
    return made


def picked(made: Queues, now: int = 0, *, begin: bool = True) -> dict[str, int]:
    """How many messages each may send; they are under way then."""
    found = {pick.receiver.webhook_id: pick.room for pick in made.picks(now, BOUNDS)}
    if begin:
        for name, room in found.items():
            for _ in range(room):
                made.begin(made.receivers[name])
    return found


def test_an_owner_with_many_receivers_leaves_room() -> None:
    """One name's hundred receivers have four places of eight; another's come at once."""
    made = queues(*(f"alice/{number:03}" for number in range(100)), "bob/1")
    assert {"bob/1": 2, "alice/000": 2, "alice/001": 2} == picked(made)
    assert {} == picked(made)
    made.end(made.receivers["alice/000"])
    assert {"alice/002": 1} == picked(made)


def test_receivers_of_an_owner_take_turns() -> None:
    """The one that was served longest ago comes first."""
    made = queues("alice/1", "alice/2", "alice/3")
    order = []
    for _ in range(6):
        found = picked(made)
        order += sorted(found)
        for name, room in found.items():
            for _ in range(room):
                made.end(made.receivers[name])
    assert ["alice/1", "alice/2", "alice/1", "alice/3", "alice/2", "alice/3"] == order[:6]


def test_failing_receivers_share_a_half() -> None:
    """One message each, and half of all places together, whoever owns them."""
    made = queues(*(f"owner{number}/dead" for number in range(10)), "zoe/good")
    for number in range(10):
        made.receivers[f"owner{number}/dead"].failures = 1
    found = picked(made)
    assert (4, 2) == (sum(room for name, room in found.items() if name.endswith("dead")), found["zoe/good"])
    assert {1} == {room for name, room in found.items() if name.endswith("dead")}


def test_nothing_is_sent_before_it_is_due() -> None:
    """The earliest message counts; what is due tells when to look again."""
    made = queues("alice/1", due_at=1000)
    made.note(Due("alice/1", "alice", 2000))
    assert ({}, 1000) == (picked(made, 999), made.next_at())
    assert {"alice/1": 2} == picked(made, 1000)


def test_idle_receivers_are_forgotten() -> None:
    """Memory follows from what is due."""
    made = queues("alice/1", "alice/2")
    made.receivers["alice/1"].due_at = None
    made.forget_idle()
    assert {"alice/2"} == set(made.receivers)


def test_the_schedule() -> None:
    """Ten tries over three days, each a little later by chance; a receiver may ask for an hour at most."""
    assert [
        None if due is None else due // 1000 for tries in range(1, 11) for due in [next_due(0, tries, 0)]
    ] == [
        *DELAYS[1:],
        None,
    ]
    assert 75 * 3600 < sum(DELAYS) < 76 * 3600
    assert (5500, 60_000, 3_600_000) == (
        next_due(0, 1, 1.0),
        next_due(0, 1, 0.0, 60),
        next_due(0, 1, 0.0, 10**9),
    )


PRIVATE = [
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0177.0.0.1/",
    "https://0/",
    "https://127.0.0.1./",
    "https://localhost/",
    "https://LOCALHOST/",
    "https://a.localhost/",
    "https://metadata.google.internal/",
    "https://169.254.169.254/latest/meta-data/",
    "https://10.0.0.1/",
    "https://172.16.0.1/",
    "https://192.168.1.1/",
    "https://100.64.0.1/",
    "https://0.0.0.0/",
    "https://255.255.255.255/",
    "https://224.0.0.1/",
    "https://198.18.0.1/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[fe80::1]/",
    "https://[fd00:ec2::254]/",
    "https://[fc00::1]/",
    "https://[ff02::1]/",
    "https://[2002:7f00:1::]/",
    "https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
    "https://printer/",
    "https://nas.local/",
    "https://router.lan/",
    "https://host.docker.internal/",
    "https://kubernetes.default.svc.internal/",
]
HOSTILE = [
    "http://hooks.example.org/",
    "ftp://hooks.example.org/",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "gopher://hooks.example.org/",
    "https://user:password@hooks.example.org/",
    "https://hooks.example.org@127.0.0.1/",
    "https://hooks.example.org\\@127.0.0.1/",
    "https://127.0.0.1#@hooks.example.org/",
    "https://hooks.example.org/\r\nX-Api-Key: alice",
    "https://hooks.example.org/\n",
    "https://hooks.example.org/a b",
    "https://hooks.example.org:22/",
    "https://hooks.example.org:25/",
    "https://hooks.example.org:6667/",
    "https://hooks.example.org:0/",
    "https://hooks.example.org:99999/",
    "https://höoks.example.org/",
    "https://hooks.example.org/ö",
    "https://①②⑦.⓪.⓪.①/",
    "https:///hooks.example.org/",
    "https://[::1%25eth0]/",
    "https://",
    "",
    " https://hooks.example.org/",
    "https://hooks.example.org/" + "x" * 2048,
]


@every("url", [*PRIVATE, *HOSTILE])
def test_urls_that_are_refused(url: str) -> None:
    """Private addresses in all notations, other protocols, and texts that two parsers read differently."""
    with pytest.raises(UnsafeUrl) as caught:
        check_receiver_url(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org/coordinator?token=a%20b",
        "https://hooks.example.org:8443",
        "https://1.1.1.1/",
        "https://[2606:4700:4700::1111]:8443/x",
        "HTTPS://HOOKS.EXAMPLE.ORG/",
    ],
)
def test_urls_that_are_taken(url: str) -> None:
    """Public hosts over https."""
    assert not check_receiver_url(url).allowed


def test_private_ones_where_the_operator_wants_them() -> None:
    """WEBHOOK_ALLOW_PRIVATE takes any address, and http; never another protocol or a disguised host."""
    for url in (*PRIVATE, "http://127.0.0.1:9000/x"):
        assert check_receiver_url(url, allow_private=True).allowed
    for url in HOSTILE[1:8]:
        with pytest.raises(UnsafeUrl):
            check_receiver_url(url, allow_private=True)
