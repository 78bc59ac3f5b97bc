"""Sessions of the dashboard: who gets one, what its cookie is, and what ends it."""

from __future__ import annotations

import dataclasses
from typing import Any
from uuid import UUID

import pytest

from coordinator.application.keys.keyring import Keyring
from coordinator.application.keys.sessions import LINK_SECONDS, Sessions
from coordinator.crypto.api_keys import digest_of
from coordinator.crypto.keys import SigningKey
from coordinator.domain.key import Active, KeyCreated, Secret
from coordinator.domain.messages import Role
from coordinator.edge import create_app
from coordinator.edge.middleware import rate_limits
from tests.harness.cases import every
from tests.unit.dashboard_fakes import COOKIE, a_browser, field, log_in
from tests.unit.edge_fakes import ADMIN, ALICE, RIG, FakeDatabase, a_context, an_app

NOW = 1_700_000_000_000
SALT = "ab" * 16


def key_from_log(name: str = "eve", role: str = "client", secret: str = "secret-of-eve") -> Active:
    created = KeyCreated.model_validate(
        {
            "at": NOW,
            "by": "root",
            "key_id": UUID(int=7),
            "name": name,
            "role": role,
            "label": "",
            "expires_at": None,
            "signed": False,
            "salt": SALT,
            "digest": digest_of(SALT, secret.encode()),
        }
    )
    return Active(created, (Secret(1, SALT, created.digest, None),))


class Clock:
    now = NOW

    def __call__(self) -> int:
        return self.now


def sessions_with(keyring: Keyring, clock: Clock | None = None) -> Sessions:
    return Sessions(bytes(32), keyring, clock or Clock(), life_seconds=3600)


# --- the form ----------------------------------------------------------------------------------------------
async def test_a_key_opens_a_session() -> None:
    """The cookie is for this host, this browser and no script; it holds neither the key nor its secret."""
    async with a_browser(an_app()) as browser:
        answer = await log_in(browser)
        assert (303, "/") == (answer.status_code, answer.headers["location"])
        [cookie] = [c for c in answer.headers.get_list("set-cookie") if c.startswith(f"{COOKIE}=")]
        assert {"HttpOnly", "Path=/", "SameSite=lax"} == {part.strip() for part in cookie.split(";")[1:]}
        assert ADMIN not in cookie
        assert "secret-of-root" not in cookie
        assert 303 == (await browser.get("/login")).status_code  # who is signed in needs no form


async def test_over_https_the_cookie_is_bound_to_the_host() -> None:
    """Secure, and with the prefix that keeps other hosts of the domain and other schemes from setting it."""
    async with a_browser(an_app(), "https://edge") as browser:
        answer = await log_in(browser)
    [cookie] = [c for c in answer.headers.get_list("set-cookie") if COOKIE in c]
    assert cookie.startswith(f"__Host-{COOKIE}=")
    assert "Secure" in cookie


@every(
    ("key", "status", "told"),
    [
        ("root:wrong-secret", 401, "Invalid API key"),
        ("nobody:secret-of-root", 401, "Invalid API key"),
        ("", 401, "Invalid API key"),
        ("root:" + "x" * 5000, 401, "Invalid API key"),
        (RIG, 403, "A miner&#39;s key sees no pages"),
    ],
)
async def test_other_keys_open_nothing(key: str, status: int, told: str) -> None:
    """The form comes back with the reason, and without what was typed."""
    async with a_browser(an_app()) as browser:
        answer = await log_in(browser, key)
    assert status == answer.status_code
    assert told in answer.text
    assert COOKIE + "=" not in str(answer.headers)
    assert not key or key not in answer.text


async def test_keys_that_must_sign_open_nothing() -> None:
    """A key whose requests must be signed proves nothing alone, also not at the form."""
    app = an_app(settings={"hmac_secret": "a-secret-for-signatures"})
    async with a_browser(app) as browser:
        answer = await log_in(browser)
    assert (401, True) == (answer.status_code, "must be signed" in answer.text)


async def test_guessing_is_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures at the form count like failures of the API, by address and name."""
    monkeypatch.setattr(rate_limits, "DELAY_SECONDS", 0)
    context = a_context(rates=rate_limits.RateLimits({"failures": 2}, 60))
    async with a_browser(create_app(context)) as browser:
        for _ in range(2):
            assert 401 == (await log_in(browser, "root:wrong-secret")).status_code
        answer = await log_in(browser)
    assert 429 == answer.status_code
    assert "retry-after" in answer.headers


async def test_a_session_is_new_at_each_log_in() -> None:
    """No id from before a log-in is a session's after it: what an attacker plants is worth nothing."""
    app, seen = an_app(), set()
    async with a_browser(app) as browser:
        form = await browser.get("/login")
        planted = browser.cookies["coordinator_log_in"]
    for _ in range(2):
        async with a_browser(app, Cookie=f"{COOKIE}=planted; coordinator_log_in={planted}") as browser:
            sent = {"form_token": field(form.text, "form_token"), "key": ADMIN}
            answer = await browser.post("/login", data=sent)
        [cookie] = [c for c in answer.headers.get_list("set-cookie") if c.startswith(f"{COOKIE}=")]
        session = app.state.context.sessions.read(cookie.split(";")[0].partition("=")[2])[0]
        seen.add(session.id)
    assert 2 == len(seen - {planted, "planted"})


@every(
    "path", ["//evil.example/", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/\n/x", ""]
)
async def test_no_log_in_leads_elsewhere(path: str) -> None:
    """`next` is a path of ours, or the overview."""
    async with a_browser(an_app()) as browser:
        assert "/" == (await log_in(browser, next=path)).headers["location"]
        assert "/" == (await browser.get("/login", params={"next": path})).headers["location"]


async def test_a_path_in_any_script_is_followed() -> None:
    """htmx gets it in a header, which has no letters beyond Latin-1."""
    async with a_browser(an_app()) as browser:
        await log_in(browser)
        answer = await browser.get("/login", params={"next": "/日?q=a%20b"}, headers={"HX-Request": "true"})
    assert (204, "/%E6%97%A5?q=a%20b") == (answer.status_code, answer.headers["hx-redirect"])


async def test_strangers_are_sent_to_the_form_and_back() -> None:
    """A page asks for a log-in and is shown after it; a live stream and a form just end."""
    async with a_browser(an_app()) as browser:
        sent = await browser.get("/jobs?q=state:failed")
        assert (303, "/login?next=%2Fjobs%3Fq%3Dstate%3Afailed") == (
            sent.status_code,
            sent.headers["location"],
        )
        stream = await browser.get("/ui/live/overview", headers={"Accept": "text/event-stream"})
        assert 401 == stream.status_code
        posted = await browser.post("/jobs/01890a5d-ac96-774b-bcce-b302099a8057/cancel")
        assert (303, "/login") == (posted.status_code, posted.headers["location"])
        answer = await log_in(browser, next="/jobs?q=state:failed")
        assert "/jobs?q=state:failed" == answer.headers["location"]


async def test_a_session_is_no_key_of_the_api() -> None:
    """The cookie opens pages and nothing else, so other sites get nothing out of a browser that has one."""
    async with a_browser(an_app()) as browser:
        await log_in(browser)
        for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("GET", "/metrics")):
            assert 401 == (await browser.request(method, path)).status_code


async def test_a_log_out_ends_the_session_itself() -> None:
    """The browser forgets the cookie, and a copy of it opens nothing any more."""
    app = an_app()
    async with a_browser(app) as browser:
        await log_in(browser)
        copy = browser.cookies[COOKIE]
        token = app.state.context.sessions.form_token(app.state.context.sessions.read(copy)[0].id)
        refused = await browser.post("/logout", data={"form_token": "another"})
        assert (403, True) == (refused.status_code, COOKIE in browser.cookies)
        answer = await browser.post("/logout", data={"form_token": token})
        assert (303, "/login", False) == (
            answer.status_code,
            answer.headers["location"],
            COOKIE in browser.cookies,
        )
    async with a_browser(app, Cookie=f"{COOKIE}={copy}") as other:
        assert "/login" == (await other.get("/")).headers["location"]


async def test_a_log_out_counts_at_every_process() -> None:
    """Two processes with one database: what one has ended opens nothing at the other, at once."""
    ended: dict[str, int] = {}

    def note(session_id: str, expires_at: int) -> list[dict[str, Any]]:
        ended[session_id] = expires_at
        return []

    def forget(now: int) -> list[dict[str, Any]]:
        for one in [one for one, at in ended.items() if at <= now]:
            del ended[one]
        return []

    database = FakeDatabase(
        sessions_end=note,
        sessions_forget=forget,
        sessions_is_ended=lambda session_id: [{"found": 1}] if session_id in ended else [],
    )
    one, other = (an_app(database=database) for _ in range(2))
    async with a_browser(one) as browser:
        await log_in(browser)
        copy = browser.cookies[COOKIE]
        ended["long ago"] = 1
        async with a_browser(other, Cookie=f"{COOKIE}={copy}") as elsewhere:
            assert 200 == (await elsewhere.get("/admin/settings")).status_code
            sessions = one.state.context.sessions
            token = sessions.form_token(sessions.read(copy)[0].id)
            await browser.post("/logout", data={"form_token": token})
            assert "/login" == (await elsewhere.get("/")).headers["location"]
            stream = await elsewhere.get("/ui/live/overview", headers={"Accept": "text/event-stream"})
            assert 401 == stream.status_code
            # And to the form, not in a circle.
            assert 200 == (await elsewhere.get("/login")).status_code
    assert 1 == len(ended)
    assert "long ago" not in ended


async def test_a_link_logs_in_once() -> None:
    """The link of `coordinator dev` opens a session, and then leads to the form."""
    app = an_app()
    token = app.state.context.sessions.link(ADMIN, Role.ADMIN)
    async with a_browser(app) as browser:
        answer = await browser.get("/", params={"token": token})
        assert (303, "/", True) == (answer.status_code, answer.headers["location"], COOKIE in browser.cookies)
    async with a_browser(app) as other:
        for used in (token, "made-up", "x" * 2000):
            answer = await other.get("/", params={"token": used})
            assert ("/login?used=1", False) == (answer.headers["location"], COOKIE in other.cookies)
        assert "was used before" in (await other.get("/login?used=1")).text


# --- sessions ----------------------------------------------------------------------------------------------
def test_another_process_reads_a_session() -> None:
    """Two coordinators behind one address need no shared memory: the same signing key is enough."""
    key = SigningKey(bytes(range(32)))
    keys = {Role.CLIENT: [ALICE]}
    one, other = (Sessions(Sessions.secret_of(key), Keyring(keys), Clock()) for _ in range(2))
    session = one.open(ALICE, Keyring(keys).grants(ALICE)[0])
    found = other.read(one.text_of(session))
    assert found is not None
    assert (session, "alice") == (found[0], found[1].principal.name)
    assert other.is_form_token(session.id, one.form_token(session.id))
    stranger = Sessions(Sessions.secret_of(SigningKey(bytes(32))), Keyring(keys), Clock())
    assert stranger.read(one.text_of(session)) is None


def test_a_changed_session_is_none() -> None:
    """No character of the text can be another one, and no text without our signature counts."""
    keyring = Keyring({Role.CLIENT: [ALICE]})
    sessions = sessions_with(keyring)
    text = sessions.text_of(sessions.open(ALICE, keyring.grants(ALICE)[0]))
    assert sessions.read(text) is not None
    for place in range(len(text)):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        assert sessions.read(changed) is None, place
    for odd in ("", ".", text + "x", text * 9, "\udcff.", text.partition(".")[0]):
        assert sessions.read(odd) is None


def test_a_session_ends_with_its_time() -> None:
    """After UI_SESSION_HOURS it opens nothing, whatever the browser keeps."""
    clock = Clock()
    keyring = Keyring({Role.CLIENT: [ALICE]})
    sessions = sessions_with(keyring, clock)
    text = sessions.text_of(sessions.open(ALICE, keyring.grants(ALICE)[0]))
    clock.now = NOW + 3_600_000 - 1
    assert sessions.read(text) is not None
    clock.now += 1
    assert sessions.read(text) is None
    token = sessions.link(ALICE, Role.CLIENT)
    assert token is not None
    clock.now += LINK_SECONDS * 1000
    assert sessions.follow(token) is None


def test_a_session_ends_with_its_key() -> None:
    """Revoked, rotated without grace, or out of the settings: the key's sessions end with it."""
    keyring = Keyring({}, now=Clock())
    keyring.put(key_from_log())
    sessions = sessions_with(keyring)
    text = sessions.text_of(sessions.open("eve:secret-of-eve", keyring.grants("eve:secret-of-eve")[0]))
    assert sessions.read(text) is not None
    rotated = key_from_log(secret="another-secret")
    keyring.put(
        dataclasses.replace(rotated, secrets=(dataclasses.replace(rotated.secrets[0], generation=2),))
    )
    assert sessions.read(text) is None
    keyring.put(key_from_log())
    assert sessions.read(text) is not None
    keyring.remove("eve", UUID(int=7))
    assert sessions.read(text) is None

    before = Keyring({Role.CLIENT: [ALICE], Role.ADMIN: [ADMIN]})
    text = sessions_with(before).text_of(sessions_with(before).open(ALICE, before.grants(ALICE)[0]))
    for keys in ([], ["alice:another-secret"]):
        assert sessions_with(Keyring({Role.CLIENT: keys})).read(text) is None
    # The same secret in another role is not what the session was opened with.
    assert sessions_with(Keyring({Role.ADMIN: [ALICE]})).read(text) is None
    assert sessions_with(Keyring({Role.CLIENT: ["bob:secret-of-bob", ALICE]})).read(text) is not None


@pytest.mark.parametrize(("role", "seen"), [(Role.ADMIN, True), (Role.CLIENT, False)])
def test_a_link_is_of_a_key_in_the_settings(role: Role, seen: bool) -> None:
    """There is no link for a key that does not exist, or not in that role."""
    sessions = sessions_with(Keyring({Role.ADMIN: [ADMIN]}))
    assert seen == (sessions.link(ADMIN, role) is not None)
