"""The dashboard's pages: nothing of a stranger's text does anything, and nothing is loaded from elsewhere."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any, get_args

import pytest
from fastapi.sse import format_sse_event

from coordinator.application.keys.keyring import Grant
from coordinator.application.keys.sessions import PersonSession
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Principal, Role
from coordinator.edge import create_app
from coordinator.edge.dashboard.assets import FILES, SCRIPT_BYTES, assets, version
from coordinator.edge.dashboard.copies import copies
from coordinator.edge.dashboard.data import batches, job, jobs, lines, overview
from coordinator.edge.dashboard.pages import jobs as jobs_page
from coordinator.edge.dashboard.rendering import live_parts
from coordinator.edge.dashboard.routing import POLICY
from coordinator.edge.dashboard.sign_in import Visitor
from tests.harness.cases import every
from tests.unit.dashboard_fakes import SCRIPT, a_browser, hostile, log_in
from tests.unit.edge_fakes import ADMIN, ALICE, JOB, FakeDatabase, a_context, an_app

PAGES = ("/", "/jobs", f"/jobs/{JOB}", "/batches", "/batches/new?kind=cancel&q=", f"/batches/{JOB}")


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Data with SCRIPT in every text; the argument is the state of its jobs."""

    def answer(value: Any) -> Callable[..., Any]:
        async def read(*_: Any, **__: Any) -> Any:
            return value

        return read

    def put(state: str) -> None:
        line = replace(hostile(jobs.FoundJob), job_id=str(JOB), state=state)
        found = jobs.FoundPage((line,), SCRIPT, SCRIPT, None)
        story = hostile(job.JobStory)
        files = [job.ShownFile(name=SCRIPT, sha256=SCRIPT, kind=kind) for kind in get_args(job.ResultKind)]
        story = replace(
            story,
            job=line,
            request={"service": SCRIPT, "payload": {SCRIPT: SCRIPT}, "constraints": {SCRIPT: SCRIPT}},
            result=replace(story.result, kind="json", files=tuple(files)),
        )
        plan = replace(hostile(batches.BatchPlan), sample=(line,))
        batch = replace(hostile(batches.JobBatch), refused={SCRIPT: 3})
        for module, name, value in (
            (overview, "load", hostile(overview.Overview)),
            (jobs, "search", found),
            (jobs, "newer", jobs.Count(3)),
            (lines, "lines", found.jobs),
            (jobs_page, "lines", found.jobs),
            (job, "story", story),
            (batches, "load", batch),
            (batches, "recent", (batch,)),
            (batches, "plan", plan),
        ):
            monkeypatch.setattr(module, name, answer(value))

    return put


class Markup(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    @property
    def dangers(self) -> list[str]:
        """Whatever could run, or be blocked by the policy."""
        found = []
        for tag, attributes in self.elements:
            if tag == "script" and not (attributes.get("src") or "").startswith("/"):
                found.append("script")
            found += [f"{tag} {n}" for n in attributes if n.startswith("on") or n in ("style", "srcdoc")]
            for name in ("href", "src", "action", "hx-post", "hx-get"):
                if not re.match(r"[/#]", attributes.get(name) or "/"):
                    found.append(f"{tag} {name}={attributes[name]}")
            if tag in ("style", "iframe", "object", "embed", "base") or "hx-on" in attributes:
                found.append(tag)
        return found


@every("state", ["QUEUED", "RUNNING", "COMPLETED", "FAILED", "CANCELED", "EXPIRED"])
async def test_texts_of_strangers_are_texts(strangers: Callable[[str], None], state: str) -> None:
    """Payloads, errors, names of miners, services and files: each is escaped wherever a page has it."""
    strangers(state)
    app = an_app(database=FakeDatabase(read_job_lines=lambda **_: []))
    for key in (ADMIN, ALICE):
        async with a_browser(app) as browser:
            await log_in(browser, key)
            for path in PAGES:
                answer = await browser.get(path)
                assert 200 == answer.status_code, (path, answer.text)
                assert "<script>alert" not in answer.text, path
                assert "&lt;script&gt;alert(1)" in answer.text, path
                assert "60481729" not in answer.text, path
                markup = Markup(answer.text)
                assert [] == markup.dangers, path
                assert 1 == sum(1 for tag, _ in markup.elements if tag == "h1"), path


async def test_every_answer_has_the_policy_of_pages() -> None:
    """Scripts and styles from here alone, no frames: also failures, redirects, and what is not there."""
    async with a_browser(an_app()) as browser:
        for path in ("/login", "/", "/ui/files/x/y", "/jobs/not-an-id"):
            headers = (await browser.get(path)).headers
            assert POLICY == headers["content-security-policy"], path
            assert "nosniff" == headers["x-content-type-options"]
            assert "same-origin" == headers["referrer-policy"]
    assert "unsafe" not in POLICY
    assert "frame-ancestors 'none'" in POLICY


async def test_files_are_ours_and_small() -> None:
    """All scripts together stay within their bound; each file comes with its type, and for good."""
    scripts = sum(len(assets()[name].plain) for name, kind in FILES.items() if kind == "text/javascript")
    assert scripts <= SCRIPT_BYTES
    async with a_browser(an_app()) as browser:
        for name, kind in FILES.items():
            url = f"/ui/files/{version()}/{name}"
            for encoding in ("gzip", "identity"):
                answer = await browser.get(url, headers={"Accept-Encoding": encoding})
                assert (200, assets()[name].plain) == (answer.status_code, answer.content)
                assert answer.headers["content-type"].startswith(kind)
                assert "immutable" in answer.headers["cache-control"]
        page = (await browser.get("/login")).text
    loaded = re.findall(r'(?:src|href)="(/ui/files/[^"]+)"', page)
    assert {f"/ui/files/{version()}/{name}" for name in FILES} == set(loaded)


async def test_behind_a_proxy_every_link_has_its_path(strangers: Callable[[str], None]) -> None:
    """With UI_BASE_PATH all links, forms, streams, cookies and redirects begin with it."""
    strangers("QUEUED")
    app = an_app(settings={"ui_base_path": "/gpu/one"})
    async with a_browser(app) as browser:
        form = await browser.get("/login")
        sent = {"form_token": re.findall(r'name="form_token" value="([^"]+)"', form.text)[0], "key": ADMIN}
        cookie = f"coordinator_log_in={form.cookies['coordinator_log_in']}"
        answer = await browser.post("/login", data=sent, headers={"Cookie": cookie})
        assert "/gpu/one/" == answer.headers["location"]
        [session] = [c for c in answer.headers.get_list("set-cookie") if "coordinator_session=" in c]
        assert "Path=/gpu/one" in session
        for path in PAGES:
            page = (await browser.get(path, headers={"Cookie": session.split(";")[0]})).text
            links = re.findall(r'(?:src|href|action|hx-post|hx-sse:connect)="(/[^"]*)"', page)
            assert len(links) > 8, path
            assert [] == [link for link in links if not link.startswith("/gpu/one/")], path


async def test_without_a_dashboard_there_are_no_pages() -> None:
    """UI_ENABLED=false leaves the API as it is, and `/` unknown."""
    async with a_browser(create_app(a_context(settings={"ui_enabled": False}))) as browser:
        assert [404, 404, 404] == [(await browser.get(path)).status_code for path in ("/", "/login", "/jobs")]
        assert 200 == (await browser.get("/health")).status_code


async def test_a_mistyped_address_is_a_page_for_browsers() -> None:
    """With status 404 and the policy of pages. Programs get a document, and all do without a dashboard."""
    for key in (None, ADMIN):
        async with a_browser(an_app()) as browser:
            if key:
                await log_in(browser, key)
            for path in ("/jbos", "/jobs/x/y/z", "/%3Cscript%3Ealert(1)", "/ui/nothing"):
                page = await browser.get(path, headers={"Accept": "text/html,*/*;q=0.8"})
                assert (404, "text/html; charset=utf-8") == (page.status_code, page.headers["content-type"])
                assert (POLICY, "Accept") == (page.headers["content-security-policy"], page.headers["vary"])
                assert "There is no page at this address" in page.text
                assert [] == Markup(page.text).dangers
                assert (key is not None) == ("Log out" in page.text)
                for headers in ({"Accept": "application/json"}, {"Accept": "*/*"}):
                    document = await browser.get(path, headers=headers)
                    assert (404, "UNKNOWN_COMMAND") == (document.status_code, document.json()["code"])
            posted = await browser.post("/jbos", headers={"Accept": "text/html"})
            assert (404, "UNKNOWN_COMMAND") == (posted.status_code, posted.json()["code"])
    async with a_browser(create_app(a_context(settings={"ui_enabled": False}))) as browser:
        answer = await browser.get("/jbos", headers={"Accept": "text/html"})
        assert (404, "UNKNOWN_COMMAND") == (answer.status_code, answer.json()["code"])


async def test_a_query_with_mistakes_is_told_them() -> None:
    """Each invalid term is named, as text, and nothing is searched."""
    async with a_browser(an_app(database=FakeDatabase(search_jobs=lambda **_: []))) as browser:
        await log_in(browser)
        answer = await browser.get("/jobs", params={"q": 'state:nonsense <b>:x "'})
    assert "invalid state:nonsense" in answer.text
    assert "invalid &lt;b&gt;:x" in answer.text
    assert 'value="state:nonsense &lt;b&gt;:x &#34;"' in answer.text


@every(
    "path",
    ["miners", "miners/node@rig", "classes", "audit", "jobs?anchor=zzz"],
)
async def test_a_stream_that_shows_nothing_is_refused(path: str) -> None:
    """A client gets a code, and no stream that stays silent."""
    async with a_browser(an_app()) as browser:
        await log_in(browser, ALICE)
        answer = await browser.get(f"/ui/live/{path}", headers={"Accept": "text/event-stream"})
    assert (422 if "anchor" in path else 403) == answer.status_code


async def test_a_class_that_has_ended_keeps_its_rows(
    strangers: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows change although the query's class is no more, so that its last job is seen to end."""
    strangers("COMPLETED")

    async def gone(*_: Any) -> jobs.Count:
        raise Refusal(Code.INVALID_PAYLOAD, "no job of this class waits or runs")

    monkeypatch.setattr(jobs, "newer", gone)
    context, session = a_context(), PersonSession("id", "root", Role.ADMIN, None, 0, "", 0)
    visitor = Visitor(session, Grant(Principal("root", Role.ADMIN)), "token", read_only=False)
    source = jobs_page._source(context, visitor, "", "class:00000000000000000000", "0", "")
    parts = await source.compute()
    assert "completed" in parts.html[f"job-{JOB}"]
    assert "" == parts.html["newer"].strip()


async def test_the_script_that_says_live_comes_first() -> None:
    """On a slow line, a connection may be there before the last script is."""
    async with a_browser(an_app()) as browser:
        html = (await browser.get("/login")).text
    assert "pages.js" == re.findall(r'<script src="[^"]*/([^"/]+)" defer>', html)[0]


async def test_a_file_has_a_digest() -> None:
    """Anything else in its place is an invalid address, and no error of ours."""
    async with a_browser(an_app()) as browser:
        await log_in(browser)
        assert 422 == (await browser.get(f"/jobs/{JOB}/files/%00")).status_code


async def test_roles_see_what_is_theirs(strangers: Callable[[str], None]) -> None:
    """A client has no column of clients; who may change nothing has no buttons that do."""
    strangers("RUNNING")
    for key, settings, columns, acts in (
        (ADMIN, {}, True, True),
        (ALICE, {}, False, True),
        (ADMIN, {"ui_read_only": True}, True, False),
        ("vera:secret-of-vera", {"viewer_api_keys": "vera:secret-of-vera"}, True, False),
    ):
        app = an_app(settings=settings)
        async with a_browser(app) as browser:
            await log_in(browser, key)
            listed, shown = (await browser.get("/jobs")).text, (await browser.get(f"/jobs/{JOB}")).text
        assert columns == (">Client</th>" in listed), key
        assert acts == ("Cancel all that match" in listed), key
        assert acts == ("/cancel" in shown), key


def test_messages_of_a_stream_keep_their_frame() -> None:
    """Line breaks of a stranger's text, also lone carriage returns, end no message and begin no field."""
    html = live_parts({"part": "a\r\nid: 9\rdata: x\n\nevent: y"})
    message = format_sse_event(data_str=html, id="5").decode()
    fields = [line.partition(":")[0] for line in re.split(r"\r\n|\r|\n", message) if line]
    assert ["data"] * (len(fields) - 1) + ["id"] == fields
    assert 1 == len([block for block in re.split(r"\n\n", message) if block])


def test_copies_are_safe_to_paste() -> None:
    """Quotes, dollars and line breaks of a payload stay within the copied command's argument."""
    payload = {"text": 'it\'s $HOME `id` \n "x" \\ é', "n": [1, None, True]}
    request = {"service": "checksum", "payload": payload, "constraints": {"gpu": "nvidia"}, "ttl_seconds": 60}
    made = copies(request, "http://host")
    parts = shlex.split(made.curl.replace("\\\n", ""))
    assert request == json.loads(parts[parts.index("--data") + 1])
    parts = shlex.split(made.cli)
    assert payload == json.loads(parts[parts.index("--payload") + 1])
    assert "60" == parts[parts.index("--ttl") + 1]
    [call] = [n for n in ast.walk(ast.parse(made.python)) if isinstance(n, ast.Call) and len(n.args) == 2]
    assert payload == ast.literal_eval(call.args[1])
