"""Keys that come from the log: valid as long as the log says, and of no use to who reads the log alone."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from coordinator.application.keys.keyring import Keyring
from coordinator.crypto.api_keys import KeySecrets, digest_of
from coordinator.crypto.mac import sign_message
from coordinator.domain.key import Active, KeyCreated, Secret
from coordinator.domain.messages import Millis, Principal, Role
from tests.harness.keys import holder_of

ALICE = Principal("alice", Role.CLIENT)
ID, OTHER_ID = UUID(int=1), UUID(int=2)
SECRETS = KeySecrets(b"a master secret of thirty-two b.")
T0 = 1_700_000_000_000
MESSAGE = b"a message"


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> Millis:
        return self.now


def salt(generation: int) -> str:
    return f"{generation:032x}"


def secret_of(generation: int = 1, key_id: UUID = ID) -> str:
    return SECRETS.secret(key_id, salt(generation))


def a_key(*untils: Millis | None, key_id: UUID = ID, **changes: Any) -> Active:
    """A key with one secret for each end; None for the newest."""
    fields = {
        "role": "client",
        "label": "",
        "expires_at": None,
        "signed": False,
        "salt": salt(1),
        "digest": "0" * 64,
    }
    created = KeyCreated(at=T0, by="root", key_id=key_id, name="alice", **{**fields, **changes})
    return Active(
        created,
        tuple(
            Secret(n, salt(n), digest_of(salt(n), secret_of(n, key_id).encode()), until)
            for n, until in enumerate(untils or (None,), start=1)
        ),
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ring(clock: Clock) -> Keyring:
    return Keyring({Role.CLIENT: ["alice:from-the-settings"]}, secrets=SECRETS, now=clock)


def both(ring: Keyring, secret: str) -> tuple[Principal | None, Principal | None]:
    """Who one is with this secret, over HTTP and over AMQP."""
    by_key = holder_of(ring, f"alice:{secret}")
    return by_key, ring.by_signature("alice", sign_message(secret, MESSAGE), MESSAGE)


def test_a_key_comes_and_goes(ring: Keyring) -> None:
    """It opens both ways in, beside the keys of its name in the settings, until it is taken away."""
    assert (None, None) == both(ring, secret_of())
    ring.put(a_key())
    assert (ALICE, ALICE) == both(ring, secret_of())
    assert (ALICE, ALICE) == both(ring, "from-the-settings")
    ring.remove("alice", ID)
    ring.remove("alice", ID)
    ring.remove("nobody", ID)
    assert (None, None) == both(ring, secret_of())
    assert (ALICE, ALICE) == both(ring, "from-the-settings")


def test_several_keys_have_one_name(ring: Keyring) -> None:
    """Each has its own secrets; taking one away leaves the other."""
    ring.put(a_key())
    ring.put(a_key(key_id=OTHER_ID, role="admin"))
    assert Principal("alice", Role.ADMIN) == holder_of(ring, f"alice:{secret_of(key_id=OTHER_ID)}")
    assert None is holder_of(ring, f"alice:{secret_of(key_id=OTHER_ID)}", Role.CLIENT)
    ring.remove("alice", OTHER_ID)
    assert (ALICE, ALICE) == both(ring, secret_of())
    assert None is holder_of(ring, f"alice:{secret_of(key_id=OTHER_ID)}")


def test_old_secrets_end_with_their_grace(ring: Keyring, clock: Clock) -> None:
    """To the millisecond; the newest stays."""
    ring.put(a_key(T0 + 60_000, None))
    clock.now = T0 + 59_999
    assert [(ALICE, ALICE)] * 2 == [both(ring, secret_of(n)) for n in (1, 2)]
    clock.now = T0 + 60_000
    assert [(None, None), (ALICE, ALICE)] == [both(ring, secret_of(n)) for n in (1, 2)]


def test_a_key_ends_at_its_time(ring: Keyring, clock: Clock) -> None:
    """All its secrets do, without anybody doing anything."""
    ring.put(a_key(T0 + 60_000, None, expires_at=T0 + 10_000))
    clock.now = T0 + 10_000
    assert [(None, None)] * 2 == [both(ring, secret_of(n)) for n in (1, 2)]


def test_what_the_log_says_proves_nothing(ring: Keyring) -> None:
    """Salt and digest are in events: neither is a secret, and neither signs."""
    ring.put(a_key())
    known = digest_of(salt(1), secret_of().encode())
    for guess in (known, salt(1), bytes.fromhex(salt(1)).decode("latin-1"), ""):
        assert (None, None) == both(ring, guess)


def test_another_signing_key_can_check_and_not_sign(clock: Clock) -> None:
    """A process that lost the master still lets keys in over HTTP; what needs the secret itself is shut."""
    stranger = Keyring({}, secrets=KeySecrets(b"some other master"), now=clock)
    stranger.put(a_key())
    assert (ALICE, None) == both(stranger, secret_of())
    stranger.put(a_key(signed=True))
    [grant] = stranger.grants(f"alice:{secret_of()}")
    assert (None, True) == (grant.hmac_secret, grant.locked)


def test_a_key_may_have_a_second_secret(ring: Keyring) -> None:
    """It is in the grant, for the edge to check with; nothing that is printed shows it."""
    ring.put(a_key(signed=True))
    [grant] = ring.grants(f"alice:{secret_of()}")
    assert SECRETS.hmac_secret(ID, salt(1)) == grant.hmac_secret
    assert SECRETS.hmac_secret(ID, salt(1)) not in repr(grant)
    assert not grant.locked
    assert None is holder_of(ring, f"alice:{grant.hmac_secret}")


def test_a_grant_ends_with_its_key(ring: Keyring, clock: Clock) -> None:
    """Who keeps a connection open is told of changes, and asks whether its grant still holds."""
    told: list[bool] = []
    ring.put(a_key(expires_at=T0 + 10_000))
    [grant] = ring.grants(f"alice:{secret_of()}")
    [fixed] = ring.grants("alice:from-the-settings")
    ring.on_change(lambda: told.append(ring.holds(grant)))
    ring.put(a_key(key_id=OTHER_ID))
    ring.remove("alice", ID)
    assert [True, False] == told
    ring.put(a_key(expires_at=T0 + 10_000))
    clock.now = T0 + 10_000
    assert (False, True) == (ring.holds(grant), ring.holds(fixed))


def test_a_grant_ends_with_its_secret(ring: Keyring, clock: Clock) -> None:
    """A connection that was opened with an old secret does not outlive its grace."""
    ring.put(a_key())
    [grant] = ring.grants(f"alice:{secret_of()}")
    ring.put(a_key(T0 + 60_000, None))
    assert ring.holds(grant)
    clock.now = T0 + 60_000
    assert not ring.holds(grant)


def test_hostile_keys_are_simply_wrong(ring: Keyring) -> None:
    """Whatever bytes an edge made a string of."""
    ring.put(a_key())
    for secret in ("\udc80\ud800", "é", "\0", "a" * 100_000):
        assert None is holder_of(ring, f"alice:{secret}")
