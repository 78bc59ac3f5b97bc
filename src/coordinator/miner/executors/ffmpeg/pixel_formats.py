"""ffmpeg's names of pixel formats, and what they say about the samples. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

_DEPTH: Final = re.compile(r"(?<=[pyf])(9|10|12|14|16|32)(?:msb)?(?:le|be)?$")
_PACKED_DEPTHS: Final = {"rgb48": 16, "bgr48": 16, "rgba64": 16, "bgra64": 16, "xyz12": 12, "ya16": 16}
_SEMI_PLANAR: Final = re.compile(r"^[py][024](10|12|16)(?:le|be)?$")
_ALPHA: Final = (
    *("yuva", "gbrap", "rgba", "bgra", "argb", "abgr", "ya8", "ya16", "ayuv", "vuya", "uyva", "pal8"),
)
_RGB: Final = (
    *("rgb", "bgr", "gbr", "argb", "abgr", "0rgb", "0bgr", "pal8", "x2rgb", "x2bgr", "bayer", "xyz"),
)


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """A pixel format: bits per sample, and whether it is red, green and blue, and has transparency."""

    name: str
    depth: int
    rgb: bool
    alpha: bool

    @classmethod
    def of(cls, name: str) -> Self:
        """Read the name; unknown ones are taken for 8 bits."""
        if packed := _SEMI_PLANAR.match(name):
            depth = int(packed[1])
        elif name.startswith(("x2rgb", "x2bgr")):
            depth = 10
        else:
            found = _DEPTH.search(name)
            bare = name.removesuffix("le").removesuffix("be")
            depth = _PACKED_DEPTHS.get(bare, int(found[1]) if found else 8)
        return cls(name, depth, name.startswith(_RGB), name.startswith(_ALPHA))

    @property
    def full_range(self) -> bool:
        """Whether the name itself says that black is 0."""
        return self.name.startswith("yuvj")


def planar(chroma: str, depth: int) -> str:
    """The format with planes of luma and colour difference: planar("4:2:0", 10) is yuv420p10le."""
    return f"yuv{chroma.replace(':', '')}p" + (f"{depth}le" if depth > 8 else "")
