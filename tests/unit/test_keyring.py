"""API keys: what proves who is speaking, and what never shows a secret."""

import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.application.keys.keyring import MIN_SECRET_LENGTH, BadKey, Keyring
from coordinator.crypto.mac import message_to_sign, sign_message
from coordinator.domain.messages import Principal, Role
from tests.harness.cases import every
from tests.harness.keys import holder_of

ALICE, RIG, ROOT = (
    Principal("alice", Role.CLIENT),
    Principal("rig", Role.MINER),
    Principal("root", Role.ADMIN),
)
OLD, NEW = "old-secret-of-alice", "new:secret=of,alice"  # a colon may be in a secret
RING = Keyring(
    {
        Role.CLIENT: [f"alice:{OLD}", f"alice:{NEW}", "bob:secret-of-bob"],
        Role.MINER: ["rig:secret-of-rig"],
        Role.ADMIN: ["root:secret-of-root"],
    }
)
MESSAGE = message_to_sign("job.submit", "m-1", "reply", "c-1", b"{}")


# --- the key itself (HTTP) ---------------------------------------------------------------------------------
@every(
    ("key", "principal"),
    [
        (f"alice:{OLD}", ALICE),
        (f"alice:{NEW}", ALICE),  # two keys of one name: one is being replaced by the other
        ("bob:secret-of-bob", Principal("bob", Role.CLIENT)),
        ("rig:secret-of-rig", RIG),
        ("root:secret-of-root", ROOT),
        ("alice:secret-of-bob", None),
        (f"alice:{OLD}x", None),
        (f"alice:{OLD[:-1]}", None),
        (f"alice:{OLD.upper()}", None),
        (f"Alice:{OLD}", None),
        (f" alice:{OLD}", None),
        (f"alice:{OLD} ", None),
        (f"alice: {OLD}", None),
        (f"carol:{OLD}", None),
        (OLD, None),
        ("alice", None),
        ("alice:", None),
        (":", None),
        ("", None),
        (f":{OLD}", None),
        ("alice:größer", None),
        ("alice:\udc80\ud800", None),  # what a lenient decoder makes of a hostile header
        ("\udc80:secret", None),
        ("alice:" + "a" * 100_000, None),
        (f"alice:{OLD}\0", None),
    ],
)
def test_a_key_proves_the_name_that_it_belongs_to(key: str, principal: Principal | None) -> None:
    """The whole key, and nothing but it, is its principal's; whatever else is sent is nobody's."""
    assert principal == holder_of(RING, key)


@pytest.mark.parametrize("role", [Role.CLIENT, Role.MINER, Role.ADMIN])
def test_a_key_counts_in_its_role_only(role: Role) -> None:
    """A route for one role takes no key of another."""
    for key, principal in (
        (f"alice:{NEW}", ALICE),
        ("rig:secret-of-rig", RIG),
        ("root:secret-of-root", ROOT),
    ):
        assert (principal if role == principal.role else None) == holder_of(RING, key, role)
        assert principal == holder_of(RING, key, role, principal.role)
        assert None is holder_of(RING, key, Role.SYSTEM)


def test_one_name_may_have_keys_in_two_roles() -> None:
    """Each key gives the role that it is listed under."""
    ring = Keyring({Role.CLIENT: ["ann:client-secret"], Role.ADMIN: ["ann:admin-secret"]})
    assert Principal("ann", Role.CLIENT) == holder_of(ring, "ann:client-secret")
    assert Principal("ann", Role.ADMIN) == holder_of(ring, "ann:admin-secret")
    assert None is holder_of(ring, "ann:client-secret", Role.ADMIN)
    both = Keyring({Role.CLIENT: ["ann:one-secret"], Role.ADMIN: ["ann:one-secret"]})
    assert Principal("ann", Role.CLIENT) == holder_of(both, "ann:one-secret", Role.CLIENT)
    assert Principal("ann", Role.ADMIN) == holder_of(both, "ann:one-secret", Role.ADMIN)


# --- a message's signature (AMQP) --------------------------------------------------------------------------
@pytest.mark.parametrize("secret", [OLD, NEW])
def test_a_signature_proves_the_principal_that_a_message_names(secret: str) -> None:
    """Either key of a name signs for it, in either letter case of the digits."""
    signature = sign_message(secret, MESSAGE)
    assert ALICE == RING.by_signature("alice", signature, MESSAGE)
    assert ALICE == RING.by_signature("alice", signature.upper(), MESSAGE, Role.CLIENT)
    assert None is RING.by_signature("alice", signature, MESSAGE, Role.MINER)
    assert None is RING.by_signature("bob", signature, MESSAGE)
    assert None is RING.by_signature("nobody", signature, MESSAGE)


@pytest.mark.parametrize(
    "fields",
    [
        ("job.cancel", "m-1", "reply", "c-1", b"{}"),
        ("job.submit", "m-2", "reply", "c-1", b"{}"),
        ("job.submit", "m-1", "other", "c-1", b"{}"),
        ("job.submit", "m-1", "reply", "c-2", b"{}"),
        ("job.submit", "m-1", "reply", "c-1", b"{} "),
    ],
    ids=["type", "message id", "reply to", "correlation id", "body"],
)
def test_a_signature_covers_every_property_and_the_body(fields: Any) -> None:
    """A signature taken from one message proves no other."""
    signature = sign_message(OLD, MESSAGE)
    assert None is RING.by_signature("alice", signature, message_to_sign(*fields))


def test_a_line_break_in_a_property_is_never_signed() -> None:
    """With one, two different messages would be signed alike."""
    with pytest.raises(ValueError, match="line breaks"):
        message_to_sign("job.submit", "m-1", "", "reply\nc-1", b"{}")


@every("signature", ["", "0" * 64, "zz", "é" * 64, "\ud800" * 64, "0" * 100_000])
def test_a_signature_that_is_none_proves_nothing(signature: str) -> None:
    """Hostile headers are simply wrong."""
    assert None is RING.by_signature("alice", signature, MESSAGE)


def test_the_signature_is_hmac_sha256_over_four_lines_and_the_body() -> None:
    """As the protocol page says it, for those who write a miner in another language."""
    assert b"job.submit\nm-1\nreply\nc-1\n{}" == MESSAGE
    assert hmac.new(OLD.encode(), MESSAGE, "sha256").hexdigest() == sign_message(OLD, MESSAGE)
    assert b"job.submit\n\n\n\n{}" == message_to_sign("job.submit", "", "", "", b"{}")


# --- constant time -----------------------------------------------------------------------------------------
def test_secrets_are_compared_in_constant_time_and_every_key_of_a_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each comparison is hmac's, and the first right key does not end the search early."""
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def spy(known: bytes, given: bytes) -> bool:
        compared.append((known, given))
        return compare(known, given)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    holder_of(RING, f"alice:{OLD}")
    assert [(OLD.encode(), OLD.encode()), (NEW.encode(), OLD.encode())] == compared
    compared.clear()
    RING.by_signature("alice", sign_message(NEW, MESSAGE), MESSAGE)
    assert 2 == len(compared)


# --- bad keys ----------------------------------------------------------------------------------------------
@every("role", [Role.CLIENT, Role.MINER, Role.ADMIN])
@every(
    "key",
    [
        "",
        "alice",
        "hunter2hunter2",
        ":hunter2hunter2",
        "alice:",
        "alice:hunter2",  # one character too few
        "al ice:hunter2hunter2",
        "al.ice:hunter2hunter2",
        "alice\n:hunter2hunter2",
        "-alice:hunter2hunter2",
        "jürgen:hunter2hunter2",
        "alice:hunter2ü-hunter2",
        "alice:hunter2\nhunter2",
        "alice:hunter2\udc80hunter2",
        "a" * 64 + ":hunter2hunter2",
    ],
)
def test_a_bad_key_names_the_setting_and_never_the_secret(role: Role, key: str) -> None:
    """One line says which setting, and what a key looks like."""
    with pytest.raises(BadKey) as bad:
        Keyring({role: ["fine:fine-secret", key]})
    text = str(bad.value)
    assert text.startswith(f"{role.value.upper()}_API_KEYS: each must be name:secret")
    assert "\n" not in text
    assert "hunter" not in text
    assert "alice" not in text


def test_a_ring_shows_no_secret() -> None:
    """Neither printed nor in a traceback's repr."""
    for text in (repr(RING), str(RING), f"{RING}"):
        assert "secret" not in text


def test_an_empty_ring_knows_nobody() -> None:
    """No keys, no principals; also not an empty one."""
    ring = Keyring({})
    for key in ("", ":", "alice:", f"alice:{OLD}"):
        assert None is holder_of(ring, key)
    assert None is ring.by_signature("", sign_message("", MESSAGE), MESSAGE)


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", fullmatch=True)
SECRETS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=MIN_SECRET_LENGTH)


@given(NAMES, SECRETS, st.text(st.characters()))
def test_every_good_key_is_known_and_no_other(name: str, secret: str, other: str) -> None:
    """Whatever name and secret an operator chooses, that key is let in, and any other string is not."""
    ring = Keyring({Role.MINER: [f"{name}:{secret}"]})
    assert Principal(name, Role.MINER) == holder_of(ring, f"{name}:{secret}")
    assert (other == secret) == (holder_of(ring, f"{name}:{other}") is not None)
    assert None is ring.by_signature(name, other, MESSAGE)
    assert Principal(name, Role.MINER) == ring.by_signature(name, sign_message(secret, MESSAGE), MESSAGE)
