"""Pages that explain the codes: one page per code, as data, served at `/errors/<CODE>`.

A page is Markdown of one form: `# CODE: title`, the line `Sending it again helps: …`, what it means, and the
sections "When" and "What to do". The title is the `title` of problem documents, the path their `type`. Tests
require a page for each code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final, Literal, cast, get_args

from coordinator.domain.errors import Code

Again = Literal["no", "later", "after a change"]
"""Whether it helps to send the same request again: never, after a while, or after a correction."""

PATH: Final = "/errors"
_PAGE: Final = re.compile(
    r"# (?P<code>[A-Z_]+): (?P<title>.+)\n"
    r"Sending it again helps: (?P<again>.+)\n"
    r"\n(?P<meaning>.+?)\n"
    r"\n## When\n(?P<when>.+?)\n"
    r"\n## What to do\n(?P<todo>.+)\n",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """One code, explained. `meaning`, `when` and `todo` are Markdown: paragraphs, lists, and code marks."""

    code: Code
    title: str
    again: Again
    meaning: str
    when: str
    todo: str


@cache
def error_page(code: Code) -> ErrorPage:
    """The page of a code. Raises FileNotFoundError, ValueError."""
    text = (resources.files(__name__) / f"{code}.md").read_text(encoding="utf-8")
    page = _PAGE.fullmatch(text)
    if page is None or page["code"] != code or page["again"] not in get_args(Again):
        raise ValueError(f"{code}.md: invalid page; write it in the form of the other pages")
    again = cast("Again", page["again"])
    return ErrorPage(code, page["title"], again, page["meaning"], page["when"], page["todo"])


def path_of(code: Code) -> str:
    """Where the page is served: the `type` of the code's problem documents."""
    return f"{PATH}/{code}"
