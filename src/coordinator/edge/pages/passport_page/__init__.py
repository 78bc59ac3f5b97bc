"""A verifier of passports in a browser: one page without any server, written from docs/passport.md.

It shares no code with other verifiers. Its parts are inlined into one file, whose policy lets nothing else
run and nothing be loaded or sent. So the same file works from a disk, and from `/proof` of a coordinator.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Final, NamedTuple

SCRIPTS: Final = ("forms.js", "decimals.js", "rules.js", "checks.js", "words.js", "page.js")
"""In the order of their use."""


class PassportPage(NamedTuple):
    """The file, and its content security policy, which it also names itself."""

    html: str
    policy: str


@cache
def passport_page() -> PassportPage:
    """The page."""
    folder = resources.files(__name__)

    def text(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    style, script = text("style.css"), "\n".join(text(name) for name in SCRIPTS)
    policy = f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'"
    html = text("page.html")
    for mark, part in (("POLICY", policy), ("STYLE", style), ("SCRIPT", script)):
        html = html.replace("{{" + mark + "}}", part)
    return PassportPage(html, policy)


def _hash(inlined: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(inlined.encode()).digest()).decode()}"
