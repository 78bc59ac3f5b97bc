"""Each error code has a page, served where the `type` of its problem documents leads."""

from __future__ import annotations

import re
from importlib import resources

from coordinator.domain.errors import Code
from coordinator.edge.http import error_pages
from coordinator.edge.http.error_pages import error_page
from coordinator.edge.http.problems import STATUS_OF, Problem
from coordinator.edge.pages.errors import to_html
from tests.harness.cases import every
from tests.unit.edge_fakes import an_app, browsing


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    """A new code needs `edge/error_pages/<CODE>.md`; a page without a code explains nothing."""
    there = {f.name for f in resources.files(error_pages).iterdir() if f.name.endswith(".md")}
    assert {f"{code}.md" for code in Code} == there


@every("code", list(Code))
def test_a_page_says_all_there_is_to_say(code: Code) -> None:
    """What it means, when it comes, what to do; and whether a repeat helps agrees with the status."""
    page = error_page(code)
    assert page.code is code
    assert page.title[0].isupper()
    assert len(page.title) <= 60
    assert page.meaning
    assert page.when.startswith("- ")
    assert page.todo
    # What is our own fault, or a matter of time, passes by itself; nothing else does.
    passes = STATUS_OF[code] in (425, 429, 500, 503) or code in ("NO_ELIGIBLE_MINER", "NOT_IN_CHECKPOINT")
    assert (page.again == "later") == passes


@every("code", list(Code))
async def test_the_type_of_a_problem_leads_to_its_page(code: Code) -> None:
    """Following `type` gives the page: as text for programs, as HTML for browsers, without a key."""
    problem = Problem(code, "because")
    async with browsing(an_app()) as http:
        kind = f"/errors/{code}"
        text = await http.get(kind)
        page = await http.get(kind, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert problem.document()["type"] == kind
    assert problem.document()["title"] == error_page(code).title
    assert (text.status_code, text.headers["content-type"]) == (200, "text/markdown; charset=utf-8")
    assert text.text.startswith(f"# {code}: {error_page(code).title}\n")
    assert f"Status {STATUS_OF[code]} " in text.text
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert f"<h1>{code}: " in page.text
    assert "<h2>What to do</h2>" in page.text
    assert "`" not in page.text  # every code mark was turned into one of HTML


async def test_the_list_has_every_code() -> None:
    """/errors names each with its status and a link."""
    async with browsing(an_app()) as http:
        page = await http.get("/errors", headers={"Accept": "text/html"})
    assert [f"/errors/{code}" for code in Code] == re.findall(r'href="(/errors/\w+)"', page.text)


async def test_an_unknown_code_is_a_problem() -> None:
    """A page that is not there is answered as all that is not there, and shows nothing that was sent."""
    async with browsing(an_app()) as http:
        for path in (
            "/errors/NOT_A_CODE",
            "/errors/..%2fjobs",
            "/errors/%3Cscript%3E",
            "/errors/job_not_found",
        ):
            answer = await http.get(path, headers={"Accept": "text/markdown"})
            assert (answer.status_code, answer.json()["code"]) == (404, "UNKNOWN_COMMAND")
            assert "script" not in answer.text
            assert (await http.get(path, headers={"Accept": "text/html"})).status_code == 404


def test_the_little_markdown_becomes_html() -> None:
    """Headings, paragraphs, lists with long items, code marks, links; and nothing passes unescaped."""
    text = (
        "One `a<b`\nline.\n\n## When\n- first\n  goes on\n- second & last\n\n[All](/errors) [x](javascript:1)"
    )
    assert to_html(text) == (
        "<p>One <code>a&lt;b</code>\nline.</p>\n"
        "<h2>When</h2>\n<ul><li>first\n  goes on</li><li>second &amp; last</li></ul>\n"
        '<p><a href="/errors">All</a> [x](javascript:1)</p>'
    )
