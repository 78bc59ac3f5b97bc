"""Who speaks, and what every answer carries."""

from __future__ import annotations

import re

import httpx
import pytest

from coordinator.edge import create_app
from tests.harness.cases import every
from tests.unit.edge_fakes import ADMIN, ALICE, RIG, WITHOUT_KEY, FakeDatabase, a_context, an_app, browsing

GUARDED = [
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057"),
    ("GET", "/v1/jobs/not-even-a-job"),
    ("GET", "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057/passport"),
    ("GET", "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057/result"),
    ("GET", "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057/receipt"),
    ("GET", "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057/receipts"),
    ("GET", "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057/history"),
    ("GET", "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057/match"),
    ("POST", "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057/cancel"),
    ("POST", "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057/erase"),
    ("POST", "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057/retry"),
    ("GET", "/v1/jobs/search"),
    ("GET", "/v1/jobs/batches"),
    ("POST", "/v1/jobs/batches"),
    ("POST", "/v1/jobs/batches/plan"),
    ("GET", "/v1/jobs/batches/01890a5d-ac96-774b-bcce-b302099a8057"),
    ("POST", "/v1/jobs/batches/01890a5d-ac96-774b-bcce-b302099a8057/cancel"),
    ("POST", "/v1/admin/erase"),
    ("GET", f"/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057/blobs/{'a' * 64}"),
    ("PUT", f"/v1/blobs/{'a' * 64}"),
    ("HEAD", f"/v1/blobs/{'a' * 64}"),
    ("POST", "/v1/miners/register"),
    ("POST", "/v1/miners/heartbeat"),
    ("POST", "/v1/miners/poll"),
    ("POST", "/v1/miners/results"),
    ("POST", "/v1/jobs/batch"),
    ("POST", "/v1/miners/drain"),
    ("POST", "/v1/miners/quarantine"),
    ("POST", "/v1/miners/release"),
    ("POST", "/v1/miners/leave"),
    ("GET", "/v1/miners"),
    ("GET", "/v1/miners/rig"),
    ("GET", "/v1/miners/rig/match"),
    ("POST", "/v1/miners/01890a5d-ac96-774b-bcce-b302099a8057/start"),
    ("POST", "/v1/miners/01890a5d-ac96-774b-bcce-b302099a8057/result"),
    ("POST", "/v1/miners/01890a5d-ac96-774b-bcce-b302099a8057/fail"),
    ("POST", "/v1/miners/01890a5d-ac96-774b-bcce-b302099a8057/release"),
    ("POST", "/v1/miners/01890a5d-ac96-774b-bcce-b302099a8057/progress"),
    ("POST", "/v1/miners/01890a5d-ac96-774b-bcce-b302099a8057/bill"),
    ("GET", "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057/events"),
    ("GET", "/v1/events"),
    ("GET", "/v1/registry/services"),
    ("GET", "/v1/registry/services/checksum"),
    ("GET", "/metrics"),
    ("GET", "/tile/entries/000"),
    ("GET", "/v1/admin/dead-letters"),
    ("GET", "/v1/admin/dead-letters/0123456789abcdef0123"),
    ("POST", "/v1/admin/dead-letters/replay"),
    ("POST", "/v1/admin/dead-letters/drop"),
    ("GET", "/v1/admin/quotas"),
    ("GET", "/v1/admin/quotas/alice"),
    ("PUT", "/v1/admin/quotas/alice"),
    ("GET", "/v1/quota"),
    ("GET", "/v1/webhooks"),
    ("POST", "/v1/webhooks"),
    ("GET", "/v1/webhooks/01890a5d-ac96-774b-bcce-b302099a8057"),
    ("PATCH", "/v1/webhooks/01890a5d-ac96-774b-bcce-b302099a8057"),
    ("DELETE", "/v1/webhooks/01890a5d-ac96-774b-bcce-b302099a8057"),
    ("GET", "/v1/webhooks/callbacks/secret"),
    ("POST", "/v1/webhooks/callbacks/rotate"),
    ("POST", "/v1/webhooks/01890a5d-ac96-774b-bcce-b302099a8057/test"),
    ("POST", "/v1/webhooks/callbacks/replay"),
    ("GET", "/v1/webhooks/callbacks/deliveries"),
    ("GET", f"/v1/webhooks/callbacks/deliveries/msg_{'a' * 32}"),
    ("POST", "/v1/admin/alarms"),
    ("GET", "/v1/accounts/me"),
    ("GET", "/v1/accounts/me/entries"),
    ("GET", "/v1/accounts/me/services"),
    ("GET", "/v1/accounts/me/statements"),
    ("GET", "/v1/accounts/me/payout_address"),
    ("PUT", "/v1/accounts/me/payout_address"),
    ("GET", "/v1/accounts/me/settlement_proof"),
    ("GET", "/v1/admin/accounts/alice/settlement_proof"),
    ("GET", "/v1/settlements"),
    ("GET", "/v1/settlements/1"),
    ("POST", "/v1/admin/settlements"),
    ("GET", "/v1/admin/settlements/secret"),
    ("POST", "/v1/admin/settlements/1/confirm"),
    ("POST", "/v1/admin/settlements/1/refuse"),
    ("GET", "/v1/admin/accounts"),
    ("GET", "/v1/admin/accounts/alice"),
    ("GET", "/v1/admin/accounts/alice/entries"),
    ("GET", "/v1/admin/accounts/alice/services"),
    ("GET", "/v1/admin/accounts/alice/statements"),
    ("POST", "/v1/admin/accounts/alice/deposits"),
    ("POST", "/v1/admin/accounts/alice/withdrawals"),
    ("POST", "/v1/admin/jobs/01890a5d-ac96-774b-bcce-b302099a8057/refund"),
    ("POST", "/v1/admin/jobs/01890a5d-ac96-774b-bcce-b302099a8057/dismiss"),
    ("POST", "/v1/jobs/01890a5d-ac96-774b-bcce-b302099a8057/dispute"),
    ("POST", "/v1/quote"),
    ("GET", "/v1/admin/keys"),
    ("POST", "/v1/admin/keys"),
    ("GET", "/v1/admin/keys/01890a5d-ac96-774b-bcce-b302099a8057"),
    ("POST", "/v1/admin/keys/01890a5d-ac96-774b-bcce-b302099a8057/rotate"),
    ("POST", "/v1/admin/keys/01890a5d-ac96-774b-bcce-b302099a8057/revoke"),
    ("GET", "/v1/registry/categories"),
    ("GET", "/v1/registry/services/checksum/schema"),
    ("GET", "/v1/registry/services/checksum/requirements"),
    ("GET", "/v1/registry/services/checksum/pricing"),
    ("GET", "/v1/registry/services/checksum/openapi"),
    ("GET", "/v1/registry/services/checksum/versions"),
    ("POST", "/v1/registry/services/validate"),
    ("POST", "/v1/registry/services"),
    ("PUT", "/v1/registry/services/checksum"),
    ("POST", "/v1/registry/services/checksum/retire"),
    ("GET", "/v1/admin/stats"),
    ("GET", "/v1/admin/jobs"),
    ("GET", "/v1/admin/miners"),
    ("POST", "/v1/services/whisper/transcribe"),
    ("POST", "/v1/services/whisper/translate"),
    ("POST", "/v1/services/stable-diffusion/generate"),
    ("POST", "/v1/services/stable-diffusion/img2img"),
    ("POST", "/v1/services/llm/inference"),
    ("POST", "/v1/services/llm/stream"),
    ("POST", "/v1/services/ffmpeg/transcode"),
    ("POST", "/v1/services/blender/render"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/rerank"),
    ("POST", "/v1/audio/speech"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/audio/translations"),
    ("POST", "/v1/images/generations"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/llama-7b"),
]


def test_the_list_of_guarded_endpoints_is_whole() -> None:
    """Every endpoint asks for a key, but for the few that are meant not to: add new ones to this list."""
    patterns = {(m, re.sub(r"\{[^}]+\}", "[^/]+", p)) for m, p in app_paths() if p not in WITHOUT_KEY}
    for method, pattern in patterns:
        assert any(m == method and re.fullmatch(pattern, path) for m, path in GUARDED), (method, pattern)


def app_paths() -> set[tuple[str, str]]:
    document = an_app().openapi()
    return {(m.upper(), path) for path, operations in document["paths"].items() for m in operations}


WRONG = [
    None,
    "",
    ":",
    "alice",
    "alice:",
    "alice:wrong",
    "alice:secret-of-bob",
    "nobody:secret-of-alice",
    "ALICE:secret-of-alice",
    " alice:secret-of-alice-and-more",
    "alice:secret-of-alice:",
]


# Every endpoint, and every wrong key; endpoints do not read keys by themselves.
@every(
    ("method", "path", "key"),
    [*((*guarded, key) for guarded in GUARDED for key in WRONG[::5]), *((*GUARDED[1], key) for key in WRONG)],
)
async def test_a_wrong_key_gets_nothing(method: str, path: str, key: str | None) -> None:
    """Without a valid key every endpoint answers 401 before it looks at anything else."""
    app = an_app()
    async with browsing(app, key) as http:
        answer = await http.request(method, path, content=b"{" if method == "POST" else None)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("ApiKey")
    if method != "HEAD":
        told = answer.json()
        code = "UNAUTHORIZED_KEY" if "code" in told else "invalid_api_key"
        assert told.get("error", told)["code"] == code
    assert app.state.context.gateway.intents == []


@pytest.mark.parametrize(
    "value",
    [b"alice:\xff\xfe", "alice:sécret".encode(), b"alice:" + b"x" * 5000, "ａlice:secret-of-alice".encode()],
)
async def test_a_strange_key_is_just_a_wrong_one(value: bytes) -> None:
    """Bytes that are no UTF-8, look-alike letters and endless keys answer 401 and no 500."""
    async with browsing(an_app()) as http:
        answer = await http.get("/v1/jobs", headers=httpx.Headers([(b"X-Api-Key", value)]))
    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED_KEY")


async def test_two_keys_are_no_key() -> None:
    """Two headers could be read differently by a proxy before us: refused, even if both are valid."""
    async with browsing(an_app()) as http:
        answer = await http.get("/v1/jobs", headers=[("X-Api-Key", ALICE), ("X-Api-Key", ADMIN)])
    assert answer.status_code == 401


@every(
    ("key", "method", "path"),
    [
        (RIG, "POST", "/v1/jobs"),
        (RIG, "GET", "/v1/jobs"),
        (RIG, "GET", "/v1/miners"),
        (ALICE, "POST", "/v1/miners/register"),
        (ALICE, "POST", "/v1/miners/poll"),
        (ALICE, "POST", "/v1/miners/drain"),
        (ALICE, "GET", "/v1/miners"),
        (ALICE, "GET", "/v1/miners/rig"),
        (ADMIN, "POST", "/v1/miners/poll"),
        (ADMIN, "POST", "/v1/miners/leave"),
        (RIG, "POST", "/v1/miners/quarantine"),
        (RIG, "POST", "/v1/miners/release"),
        (ALICE, "POST", "/v1/miners/quarantine"),
    ],
)
async def test_a_key_of_another_role_is_forbidden(key: str, method: str, path: str) -> None:
    """A valid key in the wrong role answers 403 FORBIDDEN, before the body is read."""
    app = an_app()
    async with browsing(app, key) as http:
        answer = await http.request(method, path, content=b"{" if method == "POST" else None)
    assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
    assert app.state.context.gateway.intents == []


async def test_no_answer_shows_a_secret() -> None:
    """The secret of a refused key is not repeated."""
    async with browsing(an_app(), "alice:wrong-secret-here") as http:
        assert "wrong-secret-here" not in (await http.get("/v1/jobs")).text


@pytest.mark.parametrize("path", ["/health", "/v1/jobs", "/nowhere", "/openapi.json"])
async def test_every_answer_has_the_security_headers(path: str) -> None:
    """Also problems and what is open carry them, and none says what serves it."""
    database = FakeDatabase(read_jobs_of_client=lambda **_: [])
    async with browsing(an_app(database=database), ALICE) as http:
        headers = (await http.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


async def test_a_request_id_is_kept_where_it_is_a_plain_word() -> None:
    """A caller's request id comes back; one that could forge a log line is replaced."""
    async with browsing(an_app()) as http:
        for given in ("abc-123", "A.b_c", "x" * 128):
            answer = await http.get("/health", headers={"X-Request-Id": given})
            assert answer.headers["x-request-id"] == given
        for odd in (b"a b", b"x" * 129, b"\xff", b"<script>", b"a\tb"):
            answer = await http.get("/health", headers={b"X-Request-Id": odd})
            assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_other_origins_are_let_in_only_where_the_settings_say_so() -> None:
    """ALLOW_ORIGINS, and nothing else, makes a browser accept answers elsewhere."""
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    async with browsing(an_app()) as http:
        assert "access-control-allow-origin" not in (await http.options("/v1/jobs", headers=asked)).headers
    async with browsing(create_app(a_context(settings={"allow_origins": "https://app.example"}))) as http:
        allowed = await http.options("/v1/jobs", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        asked["Origin"] = "https://evil.example"
        assert "access-control-allow-origin" not in (await http.options("/v1/jobs", headers=asked)).headers


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"live": True, "ready": True, "reasons": []}, (200, 200, 200)),
        ({"live": True, "ready": False, "reasons": ["the broker is out of reach"]}, (503, 200, 503)),
        ({"live": False, "ready": False, "reasons": ["projector stopped"]}, (503, 503, 503)),
    ],
)
async def test_health_says_what_is_wrong(report: dict[str, object], expected: tuple[int, ...]) -> None:
    """Live and ready are separate, /health is both, and what else is reported is shown."""
    app = an_app(health=lambda: {**report, "signing_key_id": "k"})
    async with browsing(app) as http:
        answers = [await http.get(path) for path in ("/health", "/health/live", "/health/ready")]
    assert tuple(a.status_code for a in answers) == expected
    assert [a.json()["status"] for a in answers] == ["ok" if s == 200 else "failing" for s in expected]
    assert all(a.json()["reasons"] == report["reasons"] for a in answers)
    assert answers[0].json()["signing_key_id"] == "k"
