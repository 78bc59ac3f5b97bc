"""The dashboard's files for browsers: our own, and htmx and uPlot as their projects publish them.

`scripts/vendor-dashboard.sh` fetches htmx (0BSD) and uPlot (MIT) at their pinned versions. Nothing is loaded
from elsewhere, and nothing is built. The path of a file has a digest of all, so browsers keep it for good.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

FILES_PATH: Final = "/ui/files"
FILES: Final = {
    "look.css": "text/css",
    "uplot.min.css": "text/css",
    "htmx.js": "text/javascript",
    "uplot.min.js": "text/javascript",
    "pages.js": "text/javascript",
    "charts.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""All served files."""
_MADE_OF: Final = {"htmx.js": ("htmx.min.js", "hx-sse.min.js")}
"""One script: htmx begins as soon as it has run, and on a first visit that is before another file arrives."""
SCRIPT_BYTES: Final = 120 * 1024
"""The most bytes of all scripts together, as they are before compression; a test compares."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file as it is sent."""

    media_type: str
    plain: bytes
    packed: bytes
    """With gzip."""


@cache
def assets() -> dict[str, PageFile]:
    """All files by name."""
    folder = resources.files(__package__) / "static"
    contents = {
        name: b"\n".join((folder / part).read_bytes() for part in _MADE_OF.get(name, (name,)))
        for name in FILES
    }
    return {
        name: PageFile(FILES[name], content, gzip.compress(content, mtime=0))
        for name, content in contents.items()
    }


@cache
def version() -> str:
    """A digest of all files."""
    digest = hashlib.sha256()
    for name, asset in sorted(assets().items()):
        digest.update(f"{name} {len(asset.plain)}\n".encode() + asset.plain)
    return digest.hexdigest()[:12]
