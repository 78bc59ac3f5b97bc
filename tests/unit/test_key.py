"""The rules of an API key that is made at run time, by example."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from coordinator.domain.errors import Code
from coordinator.domain.key import (
    MAX_GRACE_SECONDS,
    MAX_OLD_SECRETS,
    Active,
    KeyCreate,
    KeyCreated,
    KeyRevoke,
    KeyRevoked,
    KeyRotate,
    KeyRotated,
    Revoked,
)
from coordinator.domain.messages import COMMANDS, Principal, Role
from tests.harness.cases import every
from tests.harness.deciding import SECOND, T0, Decided, given

KEY_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
OTHER_ADMIN = Principal("ops", Role.ADMIN)
CREATE = KeyCreate(name="alice", role="client", label="laptop", idempotency_key="k-1")
REVOKE = KeyRevoke(key_id=KEY_ID, reason="lost")


def secret(generation: int) -> dict[str, str]:
    return {"salt": f"{generation:032x}", "digest": f"{generation:064x}"}


def made(generation: int) -> dict[str, Any]:
    """The facts of a new secret."""
    return {**secret(generation), "key_id": KEY_ID}


def created(**changes: Any) -> KeyCreated:
    usual = {"role": "client", "label": "laptop", "expires_at": None, "signed": False}
    return KeyCreated(at=T0, by="root", key_id=KEY_ID, name="alice", **{**usual, **secret(1), **changes})


def rotated(generation: int, *, at: int = T0 + SECOND, grace: int = 0) -> KeyRotated:
    return KeyRotated(
        at=at,
        by="root",
        key_id=KEY_ID,
        name="alice",
        generation=generation,
        old_until=at + grace * SECOND,
        **secret(generation),
    )


def revoked(at: int = T0 + SECOND, by: str = "root") -> KeyRevoked:
    return KeyRevoked(at=at, by=by, key_id=KEY_ID, name="alice", reason="lost")


def rotate(grace: int = 0, generation: int | None = None) -> KeyRotate:
    return KeyRotate(key_id=KEY_ID, grace_seconds=grace, generation=generation)


def good(decided: Decided, now: int) -> list[int]:
    """The generations whose secrets are valid at this moment."""
    state = decided.state
    assert isinstance(state, Active)
    return [s.generation for s in state.secrets if s.until is None or s.until > now]


# --- create ------------------------------------------------------------------------------------------------
def test_create() -> None:
    """A key begins at generation 1, and its answer says what it is, without anything that proves it."""
    decided = given().when(CREATE, **made(1)).then(created())
    assert {
        "key_id": str(KEY_ID),
        "name": "alice",
        "role": "client",
        "state": "ACTIVE",
        "generation": 1,
        "expires_at": None,
        "signed": False,
    } == decided.answer


def test_a_key_may_end_by_itself() -> None:
    """Its life is counted from the moment of the decision."""
    command = CREATE.model_copy(update={"expires_in_seconds": 60, "signed": True})
    given().when(command, **made(1)).then(created(expires_at=T0 + 60 * SECOND, signed=True))


def test_a_repeated_create_makes_nothing() -> None:
    """The same request under the same idempotency key is the first one, whatever secret came with it."""
    given(created()).when(CREATE, **made(2)).then()
    given(created(), revoked()).when(CREATE, **made(2)).then()


@pytest.mark.parametrize(
    "change",
    [{"name": "bob"}, {"role": "admin"}, {"label": ""}, {"expires_in_seconds": 1}, {"signed": True}],
    ids=str,
)
def test_an_idempotency_key_is_for_one_request(change: dict[str, Any]) -> None:
    """Another request under it is refused, so that nobody takes one key for another."""
    given(created()).when(CREATE.model_copy(update=change), **made(2)).then(Code.IDEMPOTENCY_MISMATCH)


def test_nobody_is_the_coordinator() -> None:
    """Events by `coordinator` are its own: no key gives that name."""
    given().when(CREATE.model_copy(update={"name": "coordinator"}), **made(1)).then(Code.INVALID_PAYLOAD)


@every(
    "fields",
    [
        {"name": "al.ice"},
        {"name": ""},
        {"role": "system"},
        {"role": "root"},
        {"label": "x" * 201},
        {"label": "a\nb"},
        {"expires_in_seconds": 0},
        {"expires_in_seconds": -1},
        {"secret": "mine-is-better"},
        {"salt": "00" * 16},
    ],
)
def test_a_malformed_create_is_refused(fields: dict[str, Any]) -> None:
    """Also one that brings a secret of its own: we make them."""
    with pytest.raises(ValidationError):
        KeyCreate.model_validate({"name": "alice", "role": "client", **fields})


# --- rotate ------------------------------------------------------------------------------------------------
def test_rotation_without_grace_ends_the_old_secret() -> None:
    """At once, at the moment of the decision."""
    decided = given(created()).when(rotate(), **made(2)).then(rotated(2))
    assert [2] == good(decided, T0 + SECOND)
    assert 2 == decided.answer["generation"]


def test_rotation_with_grace_leaves_both_for_a_while() -> None:
    """Until exactly then."""
    decided = given(created()).when(rotate(60), **made(2)).then(rotated(2, grace=60))
    ends = T0 + 61 * SECOND
    assert ([1, 2], [2]) == (good(decided, ends - 1), good(decided, ends))


def test_rotation_changes_neither_name_nor_role_nor_end() -> None:
    """They are the key's, from its creation on."""
    first = created(role="miner", expires_at=T0 + 3600 * SECOND, signed=True)
    state = given(first).when(rotate(60), **made(2)).state
    assert (Principal("alice", Role.MINER), first) == (state.principal, state.created)


def test_a_later_rotation_never_lengthens_an_earlier_grace() -> None:
    """And one without grace ends all that came before: the way out once a secret has leaked."""
    history = created(), rotated(2, grace=60)
    longer = given(*history).when(rotate(3600), now=T0 + 2 * SECOND, **made(3))
    assert [2, 3] == good(longer, T0 + 61 * SECOND)
    none = given(*history).when(rotate(), now=T0 + 2 * SECOND, **made(3))
    assert [3] == good(none, T0 + 2 * SECOND)


def test_old_secrets_are_bounded() -> None:
    """Whoever rotates in a loop does not make a key of a thousand secrets."""
    later = (rotated(n, at=T0 + n * SECOND, grace=MAX_GRACE_SECONDS) for n in range(2, 40))
    state = given(created(), *later).state
    assert MAX_OLD_SECRETS + 1 == len(state.secrets)
    assert 39 == state.newest.generation


def test_rotation_may_name_what_it_replaces() -> None:
    """A repeat after a lost answer does not rotate again unseen: it is told where the key is."""
    decided = given(created()).when(rotate(60, generation=1), **made(2)).then(rotated(2, grace=60))
    assert "generation 2" in decided.again(**made(3)).then(Code.CONFLICT_STATE).detail


def test_what_can_not_be_rotated() -> None:
    """No key, a revoked one, and one whose time is up."""
    given().when(rotate(), **made(2)).then(Code.KEY_NOT_FOUND)
    given(created(), revoked()).when(rotate(), **made(2)).then(Code.CONFLICT_STATE)
    short = created(expires_at=T0 + SECOND)
    given(short).when(rotate(), now=T0 + SECOND, **made(2)).then(Code.CONFLICT_STATE)
    given(short).when(rotate(), now=T0 + SECOND - 1, **made(2)).then(rotated(2, at=T0 + SECOND - 1))


# --- revoke ------------------------------------------------------------------------------------------------
def test_revoking_is_for_good() -> None:
    """It ends every secret; a repeat is told the same, by whomever it comes."""
    decided = given(created(), rotated(2, grace=60)).when(REVOKE, now=T0 + 2 * SECOND)
    decided.then(revoked(at=T0 + 2 * SECOND))
    assert Revoked(created(), generation=2) == decided.state
    assert "REVOKED" == decided.answer["state"]
    decided.again(by=OTHER_ADMIN).then()


def test_another_admin_may_revoke() -> None:
    """Keys are the operator's, not of the admin who made them."""
    given(created()).when(REVOKE, by=OTHER_ADMIN).then(revoked(by="ops"))


def test_what_is_not_there_can_not_be_revoked() -> None:
    """Nothing is said of keys in the settings: they have no ids."""
    given().when(REVOKE).then(Code.KEY_NOT_FOUND)


# --- who and how -------------------------------------------------------------------------------------------
def test_only_admins_and_only_over_http() -> None:
    """Answers that hold a secret go through no queue; a revocation may."""
    topics = {"key.create": True, "key.rotate": True, "key.revoke": False}
    assert topics == {t: c.discloses for t, c in COMMANDS.items() if t.startswith("key.")}
    assert all({Role.ADMIN} == COMMANDS[topic].senders for topic in topics)
    assert {"webhook.create", "webhook.rotate"} == {
        t for t, c in COMMANDS.items() if c.discloses and t not in topics
    }
