"""Passports verify offline; every spoilt one is refused by the check that names its fault."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from coordinator.audit.passport.reading import BadPassport, read_passport
from coordinator.audit.passport.trust import Trust, trust_of
from coordinator.audit.passport.verify import CHECKS, Given, Verdict, verify_passport
from coordinator.audit.passport.words import proven, unproven
from coordinator.crypto.receipt import sign_receipt
from tests.harness import passports
from tests.harness.cases import every
from tests.harness.decided_log import COORDINATOR
from tests.harness.passports import (
    LOG_KEY,
    MINER_KEYS,
    OTHER_WITNESS_KEY,
    SPOILT,
    STRANGER,
    WITNESS_KEY,
    Document,
    Passes,
)

TRUST = trust_of([COORDINATOR.key_id], [WITNESS_KEY.text], {"node1@farm": MINER_KEYS["node1@farm"]})
ALL = ["checkpoint", "witnesses", "inclusion", "stream", "events", "history", "statement", "receipt"]


@pytest.fixture(scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory) -> Passes:
    return passports.make(tmp_path_factory.mktemp("log"))


def verified(document: Document, trust: Trust = TRUST, **given: Any) -> Verdict:
    passport = read_passport(json.dumps(document).encode())
    return verify_passport(passport, trust, Given(**given))


def red(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.ok]


# --- good ones ---------------------------------------------------------------------------------------------
def test_a_good_passport_is_green(passes: Passes) -> None:
    """Every check of a job that was retried is good, and says what it found."""
    verdict = verified(passes.retried)
    assert [(name, True) for name in (*ALL, "miner_keys")] == [(c.name, c.ok) for c in verdict.checks]
    assert set(ALL) < set(CHECKS)
    told = {check.name: check.detail for check in verdict.checks}
    size = verdict.checkpoint.size if verdict.checkpoint else 0
    assert f"example.com/log, size {size}, signed by {COORDINATOR.key_id}" == told["checkpoint"]
    assert "cosigned by 1 of 1 witnesses: witness.example/1" == told["witnesses"]
    assert "10 events, each at its index" == told["inclusion"]
    assert (
        "COMPLETED after 2 claimed attempt(s), by the rules of attempts, leases and prices" == told["history"]
    )
    assert f"signed by node1@farm with {MINER_KEYS['node1@farm']}" == told["statement"]
    assert f"signed by {COORDINATOR.key_id}, attested 1 time(s)" == told["receipt"]


@every("name", ["failed", "canceled", "expired", "claimless"])
def test_every_end_of_a_job_has_a_passport(passes: Passes, name: str) -> None:
    """Jobs that failed, were canceled or expired have passports without a receipt; a claimless one has it."""
    document = getattr(passes, name)
    verdict = verified(document, TRUST._replace(miners={}))
    assert [] == red(verdict)
    assert (name == "claimless") == (document["receipt"] is not None)
    assert verdict.history is not None
    expected = {"claimless": ("COMPLETED", 1), "failed": ("FAILED", 3)}.get(name, (name.upper(), 0))
    assert expected == (verdict.history.state, len(verdict.history.holds))


def test_unusual_texts_and_large_states_verify(passes: Passes) -> None:
    """A leaf may have the digest of its state, and texts any character; both are what was signed."""
    assert len(passes.unusual["relied_on"][1]["state"].encode()) > 60_000
    assert [] == red(verified(passes.unusual, TRUST._replace(witnesses=())))
    large = copy.deepcopy(passes.unusual)
    large["relied_on"][1]["state"] = large["relied_on"][1]["state"].replace("üü", "üu", 1)
    assert ["inclusion"] == red(verified(large, TRUST._replace(witnesses=())))


def test_a_receipt_by_a_later_key_names_the_key_of_its_time(passes: Passes) -> None:
    """Both keys must be trusted: one signed the log, the other the receipt, which names the first."""
    metadata = passes.rotated["receipt"]["metadata"]
    assert COORDINATOR.key_id == metadata["recorded_under"]
    assert [] == red(verified(passes.rotated, trust_of([COORDINATOR.key_id, STRANGER.key_id])))
    assert ["receipt"] == red(verified(passes.rotated, TRUST))
    unnamed = copy.deepcopy(passes.rotated)
    del unnamed["receipt"]["metadata"]["recorded_under"]
    unnamed["receipt"] = sign_receipt(STRANGER, unnamed["receipt"])
    assert ["receipt"] == red(verified(unnamed, trust_of([COORDINATOR.key_id, STRANGER.key_id])))


def test_payload_and_result_are_compared_by_their_salts(passes: Passes) -> None:
    """Whoever has the payload and the result can check them; other ones, and no salts, are refused."""
    payload, result = {"audio": "0.wav"}, {"text": "0"}
    assert [] == red(verified(passes.retried, payload=payload, result=result))
    assert ["payload", "result"] == red(verified(passes.retried, payload=result, result=payload))
    unsalted = {**passes.retried, "salts": None}
    assert ["payload"] == red(verified(unsalted, payload=payload))
    assert ["result"] == red(verified(passes.failed, TRUST._replace(miners={}), result=result))


# --- spoilt ones -------------------------------------------------------------------------------------------
@every("name", list(SPOILT))
def test_a_spoilt_passport_is_refused(passes: Passes, name: str) -> None:
    """Each change of a passport turns the checks red that name it, even if the log's owner helped."""
    expected = SPOILT[name].red
    found = red(verified(passports.spoil(name, passes), TRUST._replace(witnesses=(), miners={})))
    assert set(expected) <= set(found), found
    good = {"checkpoint", "inclusion"} - set(expected)
    if name.endswith("signed by the log's owner"):
        assert not good & set(found), "the log's owner signed it"


def test_every_value_of_a_passport_counts(passes: Passes) -> None:
    """No text and no number of a passport can be changed without a red check, or a refusal of the file."""
    unnoticed, count = [], 0
    for name, document in passports.every_value_changed(passes.retried):
        count += 1
        try:
            if verified(document, TRUST._replace(miners={})).ok:
                unnoticed.append(name)
        except BadPassport:
            continue
    assert [] == unnoticed
    assert count > 150


# --- keys --------------------------------------------------------------------------------------------------
def test_only_the_keys_of_the_verifier_count(passes: Passes) -> None:
    """A trusted key that is another one, another log's key, and another miner's key are refused."""
    stranger = trust_of([STRANGER.key_id])
    assert ["checkpoint", "receipt"] == red(verified(passes.retried, stranger))
    assert [] == red(verified(passes.retried, trust_of([LOG_KEY.text])))
    moved = LOG_KEY.text.replace("example.com/log", "example.com/other")
    with pytest.raises(ValueError, match="hash does not fit"):
        trust_of([moved])
    miners = trust_of([COORDINATOR.key_id], miners={"rig": STRANGER.key_id})
    assert ["miner_keys"] == red(verified(passes.retried, miners))
    unknown = trust_of([COORDINATOR.key_id], miners={"rig2": STRANGER.key_id})
    assert ["miner_keys"] == red(verified(passes.retried, unknown))


def test_witnesses_are_counted(passes: Passes) -> None:
    """A quorum of the named witnesses must have signed; a wrong cosignature is worse than none."""
    both = [WITNESS_KEY.text, OTHER_WITNESS_KEY.text]
    one = verified(passes.retried, trust_of([COORDINATOR.key_id], both))
    assert [] == red(one)
    assert "cosigned by 1 of 2 witnesses: witness.example/1" == one.checks[1].detail
    assert ["witnesses"] == red(verified(passes.retried, trust_of([COORDINATOR.key_id], both, quorum=2)))
    text = passes.retried["checkpoint"]
    *lines, last = text.removesuffix("\n").split("\n")
    changed = last[:-10] + ("A" if last[-10] != "A" else "B") + last[-9:]
    spoilt = {**passes.retried, "checkpoint": "\n".join([*lines, changed, ""])}
    assert ["witnesses"] == red(verified(spoilt, trust_of([COORDINATOR.key_id], both)))
    with pytest.raises(ValueError, match="quorum of 3"):
        trust_of([COORDINATOR.key_id], both, quorum=3)
    with pytest.raises(ValueError, match="not a witness's key"):
        trust_of([COORDINATOR.key_id], [LOG_KEY.text])


def test_without_a_trusted_key_a_passport_is_only_whole(passes: Passes) -> None:
    """With no key the checks are green, and the words say that anybody may have made it."""
    trust = trust_of(None)
    verdict = verified(passes.retried, trust)
    assert [] == red(verdict)
    assert any("you named no trusted key" in told for told in unproven(verdict, trust, Given()))


# --- words -------------------------------------------------------------------------------------------------
def test_the_words_say_what_is_proven_by_whom_and_what_is_not(passes: Passes) -> None:
    """A good passport is told in sentences; a spoilt one proves nothing."""
    trust = trust_of([COORDINATOR.key_id], [WITNESS_KEY.text, OTHER_WITNESS_KEY.text])
    verdict = verified(passes.retried, trust)
    passport = read_passport(json.dumps(passes.retried).encode())
    told = proven(passport, verdict, trust)
    assert verdict.checkpoint is not None
    submitted = json.loads(passes.retried["events"][0]["state"])
    completed = json.loads(passes.retried["events"][-1]["state"])
    assert told[0] == (
        f"The log of example.com/log contains these 10 events (checkpoint of size {verdict.checkpoint.size}, "
        f"signed by {COORDINATOR.key_id}, cosigned by 1 of 2 witnesses)."
    )
    assert any(line.startswith("By the log, attempt 1 was held by rig alone from ") for line in told)
    assert (
        f"The miner node1@farm signed with {MINER_KEYS['node1@farm']} that it made the result of digest "
        f"{completed['result_digest']} from the payload of digest {submitted['payload_digest']}."
    ) in told
    doubts = unproven(verdict, trust, Given())
    for doubt in (
        "that the result is any good, or was computed at all",
        "that the price was paid",
        "the request's content: the log has its digest only",
        f"that {MINER_KEYS['rig']} is the key of rig: only the log says so",
    ):
        assert doubt in doubts
    spoilt = verified(passports.spoil("an event changed", passes), trust)
    assert [] == proven(passport, spoilt, trust)


# --- files -------------------------------------------------------------------------------------------------
@every(
    ("content", "why"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no passport"),
        (b"{}", "no passport"),
        (b'{"format":"coordinator passport 2"}', "expected 'coordinator passport 1'"),
        (b'{"format":"coordinator passport 1"}', "job_id"),
        (b'{"format":"coordinator passport 1","format":"coordinator passport 1"}', "twice"),
    ],
)
def test_other_files_are_no_passports(content: bytes, why: str) -> None:
    """Whatever is not a passport is refused with words."""
    with pytest.raises(BadPassport, match=why):
        read_passport(content)


def test_members_have_their_types(passes: Passes) -> None:
    """An unknown member, a number as text and an odd hash are refused, each with its name."""
    changes: dict[str, Any] = {"surplus": 1, "events": [], "job_id": passes.retried["job_id"] + "0"}
    for where, value in changes.items():
        with pytest.raises(BadPassport, match=where):
            read_passport(json.dumps({**passes.retried, where: value}).encode())
    for member, value in {"position": "1", "path": ["ab"], "index": -1}.items():
        document = copy.deepcopy(passes.retried)
        document["events"][0][member] = value
        with pytest.raises(BadPassport, match=member):
            read_passport(json.dumps(document).encode())


def test_a_passport_holds_neither_payload_nor_result(passes: Passes) -> None:
    """Not even with salts, which it has only when they were asked for."""
    text = json.dumps(passes.retried)
    assert "0.wav" not in text
    assert '{\\"text\\"' not in text
    assert {"payload", "result"} == set(passes.retried["salts"])
