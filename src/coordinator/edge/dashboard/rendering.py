"""Pages from templates. Everything is escaped: no text of a stranger becomes markup."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final
from uuid import uuid4

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from coordinator.edge.dashboard import words
from coordinator.edge.dashboard.assets import FILES_PATH, version

_READERS: Final = ("admin", "operator", "viewer")
_ALL: Final = (*_READERS, "client")
NAVIGATION: Final = (
    ("Overview", "/", _ALL),
    ("Jobs", "/jobs", _ALL),
    ("Miners", "/miners", _READERS),
    ("Classes", "/classes", _READERS),
    ("Services", "/services", _ALL),
    ("Spending", "/spending", ("client",)),
    ("Earnings", "/earnings", ("miner",)),
    ("Money", "/money", _READERS),
    ("Webhooks", "/webhooks", ("admin", "client")),
    ("Proof", "/proof", (*_ALL, "miner")),
    ("Audit", "/audit", _READERS),
    ("Admin", "/admin", ("admin",)),
)
"""The pages of the header: name, path, and the roles that see them."""
MONEY: Final = ("/spending", "/earnings", "/money")
"""Pages of a coordinator that keeps accounts."""


@cache
def environment() -> Environment:
    """The templates of this package."""
    templates = Environment(
        loader=PackageLoader(__package__ or "", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters |= words.FILTERS
    templates.globals |= {
        "NAVIGATION": NAVIGATION,
        "MONEY": MONEY,
        "files": f"{FILES_PATH}/{version()}",
        "now": words.now_text,
        "once": lambda: uuid4().hex,
    }
    return templates


def render(template: str, **values: Any) -> str:
    """The text of a template with these values; a missing one is an error."""
    return environment().get_template(template).render(values)


def part(template: str, **values: Any) -> Markup:
    """The same, to be put into a page: it is markup already."""
    return Markup(render(template, **values))  # noqa: S704 - the template has escaped its values


def live_parts(parts: Mapping[str, str]) -> str:
    """A message that replaces these parts of an open page, by their element's id."""
    return "".join(
        f'<hx-partial hx-target="#{name}" hx-swap="innerMorph">{html}</hx-partial>'
        for name, html in parts.items()
    )
