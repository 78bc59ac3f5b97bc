"""Files for browsers: Swagger UI as its project publishes it, and our own style and start script.

`scripts/vendor-swagger-ui.sh` fetches Swagger UI (npm's `swagger-ui-dist`, Apache-2.0) at its pinned version
and packs its two files, unchanged.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

PATH: Final = "/docs"
STYLE_PATH: Final = f"{PATH}/page.css"
_TYPES: Final = {
    "page.css": "text/css",
    "start.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
}
"""All served files by name; packed files end in `.gz`."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is sent."""

    media_type: str
    packed: bytes
    """With gzip."""
    etag: str
    """In quotes."""

    def plain(self) -> bytes:
        """For the rare client that does not take gzip."""
        return gzip.decompress(self.packed)


@cache
def asset(name: str) -> Asset | None:
    """A file by its name; None if unknown."""
    media_type = _TYPES.get(name)
    if media_type is None:
        return None
    folder = resources.files(__name__)
    packed = folder / f"{name}.gz"
    content = (
        packed.read_bytes() if packed.is_file() else gzip.compress((folder / name).read_bytes(), mtime=0)
    )
    return Asset(media_type, content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
