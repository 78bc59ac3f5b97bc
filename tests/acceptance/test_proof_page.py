"""The page that verifies passports in a browser: good and spoilt ones, from a file, and for everybody."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from importlib import resources
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from coordinator.audit.passport.reading import read_passport
from coordinator.audit.passport.trust import trust_of
from coordinator.audit.passport.verify import CHECKS, Given, verify_passport
from coordinator.audit.passport.words import proven
from coordinator.crypto.keys import EncodingError, check_key_id, encode_base64url
from coordinator.edge.pages import passport_page
from tests.acceptance.cli_process import call, dev
from tests.harness import passports
from tests.harness.browser import ProofPage, chromium
from tests.harness.decided_log import COORDINATOR
from tests.harness.passports import (
    LOG_KEY,
    MINER_KEYS,
    OTHER_WITNESS_KEY,
    SPOILT,
    STRANGER,
    WITNESS_KEY,
    Passes,
)

SMALL_ORDER = [
    encode_base64url(bytes.fromhex(first + middle * 30 + last))
    for first, middle, last in (
        ("00", "00", "00"),
        ("01", "00", "00"),
        ("01", "00", "80"),
        ("ec", "ff", "7f"),
    )
]
"""Public keys under which one signature fits many messages."""


@pytest.fixture(scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory) -> Passes:
    return passports.make(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[ProofPage]:
    """The page as `coordinator passport page` writes it, opened from a disk."""
    ran = call(tmp_path, "passport", "page", "--output", "proof.html", "--json")
    written = sha256((tmp_path / "proof.html").read_bytes()).hexdigest()
    assert {"file": "proof.html", "sha256": written} == ran.json()
    opened = browser.new_page()
    page = ProofPage(opened, tmp_path)
    opened.goto((tmp_path / "proof.html").as_uri())
    yield page
    # Whatever a test did: nothing was loaded or sent, and nothing went wrong.
    assert [] == page.complaints
    assert {"file"} == {url.partition(":")[0] for url in page.requests}
    opened.close()


def test_good_passports_are_green(page: ProofPage, passes: Passes) -> None:
    """Every check is green, and the words are those of the command line, for each end of a job."""
    page.fill(
        trusted=COORDINATOR.key_id,
        witnesses=f"{WITNESS_KEY.text}\n{OTHER_WITNESS_KEY.text}",
        miners=f"node1@farm={MINER_KEYS['node1@farm']}",
    )
    page.give("payload", {"audio": "0.wav"})
    page.give("result", {"text": "0"})
    told = page.verify(passes.retried)
    assert ("good", dict.fromkeys(CHECKS, True)) == (told.kind, dict(told.checks)), told.details
    trust = trust_of(
        [COORDINATOR.key_id],
        [WITNESS_KEY.text, OTHER_WITNESS_KEY.text],
        {"node1@farm": MINER_KEYS["node1@farm"]},
    )
    passport = read_passport(json.dumps(passes.retried).encode())
    given = Given({"audio": "0.wav"}, {"text": "0"})
    assert proven(passport, verify_passport(passport, trust, given), trust) == told.proven
    assert "that the price was paid" in told.unproven

    page.page.reload()
    page.fill(trusted=LOG_KEY.text)
    for document in passes.by_one_key():
        told = page.verify(document)
        assert "good" == told.kind, told.details
    assert {"receipt"} == {name for name, good in page.verify(passes.rotated).checks.items() if not good}
    page.fill(trusted=f"{LOG_KEY.text} {STRANGER.key_id}")
    told = page.verify(passes.rotated)
    assert "good" == told.kind, told.details


def test_spoilt_passports_are_red(page: ProofPage, passes: Passes) -> None:
    """Every spoilt passport of the list turns the same checks red as on the command line."""
    page.fill(trusted=COORDINATOR.key_id)
    for name, spoilt in SPOILT.items():
        told = page.verify(passports.spoil(name, passes))
        red = {check for check, good in told.checks.items() if not good}
        assert ("bad", []) == (told.kind, told.proven), name
        assert set(spoilt.red) <= red, (name, told.details)
        for check in told.checks:
            assert told.details[check]


def test_every_member_of_a_passport_counts(page: ProofPage, passes: Passes) -> None:
    """No member can be changed without turning the page red; of members in lists, the first one is."""
    page.fill(trusted=COORDINATOR.key_id, witnesses=WITNESS_KEY.text)
    tried: dict[str, str] = {}
    for name, document in passports.every_value_changed(passes.retried):
        member = re.sub(r"[0-9]+", "0", name)
        if member not in tried:
            tried[member] = page.verify(document).kind
    assert dict.fromkeys(tried, "bad") == tried
    assert len(tried) > 40


def test_only_named_keys_make_a_passport_green(page: ProofPage, passes: Passes) -> None:
    """Without a key it is only whole; a wrong key of anybody, or a wrong document, is red."""
    told = page.verify(passes.retried)
    assert ("open", True) == (told.kind, all(told.checks.values()))
    assert any("you named no trusted key" in doubt for doubt in told.unproven)
    for fields, red in (
        ({"trusted": STRANGER.key_id}, {"checkpoint", "receipt"}),
        ({"trusted": COORDINATOR.key_id, "witnesses": OTHER_WITNESS_KEY.text}, {"witnesses"}),
        ({"witnesses": "", "miners": f"rig={STRANGER.key_id}"}, {"miner_keys"}),
    ):
        page.fill(**fields)
        told = page.verify(passes.retried)
        assert red == {check for check, good in told.checks.items() if not good}, told.details
    page.fill(miners="")
    page.give("payload", {"audio": "another.wav"})
    told = page.verify(passes.retried)
    assert {"payload"} == {check for check, good in told.checks.items() if not good}
    for fields in (
        {"trusted": "x"},
        *({"trusted": key} for key in SMALL_ORDER),
        {"trusted": "", "witnesses": LOG_KEY.text},
    ):
        page.fill(**fields)
        told = page.verify(passes.retried)
        assert ("bad", {}) == (told.kind, told.checks)
        assert told.verdict.startswith("Not checked: ")


def test_the_page_knows_every_key_that_is_unsafe() -> None:
    """The keys of small order in the page's list are those that libsodium refuses."""
    text = (resources.files(passport_page) / "forms.js").read_text()
    listed = re.findall(r'"([0-9a-f]{64})"', text)
    assert 2 == len(listed)
    for key in (*SMALL_ORDER, *(encode_base64url(bytes.fromhex(one)) for one in listed)):
        with pytest.raises(EncodingError):
            check_key_id(key)


def test_other_files_are_refused_with_words(page: ProofPage, passes: Passes) -> None:
    """What is not a passport is not checked, and nothing of an earlier one stays on the page."""
    page.fill(trusted=COORDINATOR.key_id)
    assert "good" == page.verify(passes.retried).kind
    twice = json.dumps(passes.retried).replace("{", '{"format": "coordinator passport 1",', 1).encode()
    for content, why in (
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "no passport"),
        (b"{}", "no passport"),
        (twice, "a member twice"),
        (json.dumps({**passes.retried, "more": 1}).encode(), "unknown"),
        (json.dumps({**passes.retried, "events": []}).encode(), "no events"),
    ):
        told = page.verify(content)
        assert ("bad", {}, []) == (told.kind, told.checks, told.proven), content[:40]
        assert why in told.verdict


def test_the_page_is_for_everybody(page: ProofPage, passes: Passes) -> None:
    """By drop and by keyboard; fields have labels, outcomes are announced, both colour schemes read well."""
    page.fill(trusted=COORDINATOR.key_id)
    page.page.evaluate(
        """(text) => {
            const data = new DataTransfer();
            data.items.add(new File([text], 'dropped.json'));
            document.getElementById('drop').dispatchEvent(
                new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        json.dumps(passes.retried),
    )
    assert "good" == page.told().kind
    assert "dropped.json" == page.page.text_content("#name")
    page.page.focus("#file")
    reached = ["file"]
    for _ in range(6):
        page.page.keyboard.press("Tab")
        reached.append(page.page.evaluate("() => document.activeElement.id"))
    assert ["file", "trusted", "witnesses", "quorum", "miners", "payload", "result"] == reached
    unlabelled = (
        "() => [...document.querySelectorAll('input, textarea')].filter((f) => !f.labels.length).length"
    )
    assert 0 == page.page.evaluate(unlabelled)
    assert ("polite", "status") == (
        page.page.get_attribute("#verdict", "aria-live"),
        page.page.get_attribute("#verdict", "role"),
    )
    assert "✓ good: checkpoint" in (page.page.text_content("#checks li") or "")
    for scheme in ("light", "dark"):
        page.page.emulate_media(color_scheme=scheme)
        for chosen in ("body", "#verdict", "#checks .mark", "#checks .detail", "textarea"):
            assert page.page.evaluate(_CONTRAST, chosen) >= 4.5, (scheme, chosen)


def test_a_coordinator_serves_the_page(browser: Browser, passes: Passes, tmp_path: Path) -> None:
    """At /proof, without a key; its policy lets it run, and it asks that server for nothing more."""
    with dev(tmp_path) as coordinator:
        opened = browser.new_page()
        page = ProofPage(opened, tmp_path)
        answer = opened.goto(f"{coordinator.url}/proof")
        assert answer is not None
        assert 200 == answer.status
        assert "script-src 'sha256-" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        page.fill(trusted=COORDINATOR.key_id)
        assert "good" == page.verify(passes.retried).kind
        asked = [url for url in page.requests if not url.endswith("/favicon.ico")]
        assert [f"{coordinator.url}/proof"] == asked
        assert [] == page.complaints
        opened.close()


_CONTRAST = """(chosen) => {
    const element = document.querySelector(chosen);
    const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
    const light = (colour) => {
        const [r, g, b] = numbers(colour).map((c) => c / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    let behind = element;
    while (numbers(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
    const colours = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
    const [one, other] = colours.map(light);
    return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
}"""
