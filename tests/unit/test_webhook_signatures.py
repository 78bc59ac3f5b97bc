"""Signatures of messages, and sealed URLs: what outsiders verify, and what they can't read."""

from __future__ import annotations

import base64
import time
from uuid import UUID, uuid4

import pytest
import standardwebhooks
from nacl.signing import VerifyKey

from coordinator.crypto.keys import SigningKey
from coordinator.crypto.webhooks import CannotUnseal, WebhookKeys, purpose_of_webhook

OLD, NEW = SigningKey(bytes(32)), SigningKey(b"1" * 32)
HOOK = UUID(int=7)
BODY = '{"type":"job.completed","data":{"text":"Grüße"}}'.encode()


def signed(keys: WebhookKeys, *generations: int) -> dict[str, str]:
    return keys.sign(HOOK, generations or (1,), "msg_1", int(time.time()), BODY)


def verifies(secret: str, headers: dict[str, str], body: bytes = BODY) -> bool:
    """By Standard Webhooks' own library."""
    try:
        standardwebhooks.Webhook(secret).verify(body, headers)
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


def test_the_official_library_verifies() -> None:
    """With this webhook's secret of this generation, this body, id and time, and with no other."""
    keys = WebhookKeys(OLD)
    headers, secret = signed(keys), keys.secret(HOOK, 1)
    assert verifies(secret, headers)
    assert not verifies(keys.secret(HOOK, 2), headers)
    assert not verifies(keys.secret(UUID(int=8), 1), headers)
    assert not verifies(secret, headers, BODY + b" ")
    assert not verifies(secret, {**headers, "webhook-id": "msg_2"})
    assert not verifies(secret, {**headers, "webhook-timestamp": str(int(time.time()) - 1)})


def test_the_public_key_verifies() -> None:
    """`v1a` signatures are Ed25519 over the same bytes, under the `whpk_` key."""
    keys = WebhookKeys(OLD)
    headers = signed(keys)
    public = VerifyKey(base64.b64decode(keys.public_key(HOOK, 1).removeprefix("whpk_")))
    [signature] = [s for s in headers["webhook-signature"].split(" ") if s.startswith("v1a,")]
    message = f"msg_1.{headers['webhook-timestamp']}.".encode() + BODY
    public.verify(message, base64.b64decode(signature.removeprefix("v1a,")))


def test_a_secret_outlives_the_signing_key() -> None:
    """After a change of the signing key both secrets verify, as long as the retired key is held."""
    before = WebhookKeys(OLD).secret(HOOK, 1)
    both = WebhookKeys(NEW, [OLD])
    after = both.secret(HOOK, 1)
    assert before != after
    assert [True, True] == [verifies(secret, signed(both)) for secret in (before, after)]
    assert [False, True] == [verifies(secret, signed(WebhookKeys(NEW))) for secret in (before, after)]
    assert 4 == signed(WebhookKeys(OLD), 2, 1)["webhook-signature"].count(",")


def test_a_secret_has_the_form_of_the_specification() -> None:
    """`whsec_` and the base64 of 32 bytes, different for each webhook."""
    keys = WebhookKeys(OLD)
    secrets = {keys.secret(uuid4(), generation) for generation in (1, 2) for _ in range(50)}
    assert 100 == len(secrets)
    assert {32} == {len(base64.b64decode(s.removeprefix("whsec_"), validate=True)) for s in secrets}


def test_a_sealed_url_is_read_by_its_coordinator_alone() -> None:
    """For its purpose, unchanged, with the key that sealed it, also after a rotation."""
    keys, url = WebhookKeys(OLD), "https://hooks.example.org/T0/secret?x=1"
    purpose = purpose_of_webhook(HOOK)
    sealed = keys.seal(purpose, url)
    assert "example" not in sealed
    assert sealed != keys.seal(purpose, url)
    assert url == keys.unseal(purpose, sealed) == WebhookKeys(NEW, [OLD]).unseal(purpose, sealed)
    changed = sealed[:-2] + ("AA" if not sealed.endswith("AA") else "BB")
    for other, text, why in (
        (WebhookKeys(NEW), sealed, "gone"),
        (keys, changed, "not sealed"),
        (keys, "k1", "gone"),
        (keys, sealed.partition(".")[2], "gone"),
    ):
        with pytest.raises(CannotUnseal, match=why):
            other.unseal(purpose, text)
    with pytest.raises(CannotUnseal, match="not sealed"):
        keys.unseal(purpose_of_webhook(UUID(int=8)), sealed)


def test_no_repr_shows_a_secret() -> None:
    """A log line with the keys in it gives nothing away."""
    keys = WebhookKeys(OLD)
    assert keys.secret(HOOK, 1) not in repr(keys)
    assert bytes(32).hex() not in repr(keys)
