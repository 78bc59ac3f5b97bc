"""The page of the API: complete from this server, and allowed to do no more than it needs."""

from __future__ import annotations

import gzip
import re
from importlib import resources

from coordinator.edge.pages import assets
from tests.unit.edge_fakes import an_app, browsing


async def test_all_that_the_page_loads_is_ours() -> None:
    """Scripts and styles come from below /docs and are there; the page names no other server."""
    async with browsing(an_app()) as http:
        page = await http.get("/docs")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "//" not in page.text.replace("</", "").replace("//-->", "")
        loaded = re.findall(r'(?:src|href)="(/docs/[^"]+)"', page.text)
        assert sorted(loaded) == [
            "/docs/start.js",
            "/docs/swagger-ui-bundle.js",
            "/docs/swagger-ui.css",
        ]
        for path in loaded:
            answer = await http.get(path)
            assert answer.status_code == 200
            kind = "text/css" if path.endswith(".css") else "text/javascript"
            assert answer.headers["content-type"].startswith(kind)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert len(answer.content) > 100


async def test_the_policy_opens_the_page_and_nothing_else() -> None:
    """Scripts only from this server and none inline; every other answer keeps the strict policy."""
    async with browsing(an_app()) as http:
        policy = (await http.get("/docs")).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "connect-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert not re.search(r"https?:|\*|unsafe", policy)
        for path in ("/openapi.json", "/health", "/docs/start.js", "/nothing"):
            other = (await http.get(path)).headers["content-security-policy"]
            assert other == "default-src 'none'; frame-ancestors 'none'"


async def test_files_are_sent_packed_plain_or_not_at_all() -> None:
    """gzip for who takes it, plain for who does not, 304 for who has it."""
    async with browsing(an_app()) as http:
        path = "/docs/swagger-ui.css"
        packed = await http.get(path, headers={"Accept-Encoding": "gzip"})
        plain = await http.get(path, headers={"Accept-Encoding": "identity"})
        again = await http.get(path, headers={"If-None-Match": packed.headers["etag"]})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content  # httpx has unpacked the first
    assert (again.status_code, again.content) == (304, b"")


async def test_only_the_files_of_the_page_are_served() -> None:
    """Not the licences' folder, not the module, nothing outside."""
    async with browsing(an_app()) as http:
        for name in (
            "__init__.py",
            "swagger-ui.css.gz",
            "..%2fapp.py",
            "%2e%2e",
            "nothing.js",
            "start.js%00",
        ):
            answer = await http.get(f"/docs/{name}")
            assert (answer.status_code, answer.json()["code"]) == (404, "UNKNOWN_COMMAND")


def test_swagger_ui_is_whole_and_has_its_licence() -> None:
    """The vendored files unpack, and the licence that they ask for is beside them."""
    folder = resources.files(assets)
    script = gzip.decompress((folder / "swagger-ui-bundle.js.gz").read_bytes())
    assert b"SwaggerUIBundle" in script
    assert "Apache License" in (folder / "swagger-ui.LICENSE").read_text()
    assert "SmartBear" in (folder / "swagger-ui.NOTICE").read_text()
    assert "MIT" in (folder / "swagger-ui-bundle.js.LICENSE.txt").read_text()
