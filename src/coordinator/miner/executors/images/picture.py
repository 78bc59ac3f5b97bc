"""A decoded picture on its way through the operations, and the notes on what had to change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image

from coordinator.miner.executors.errors import INPUT_TOO_LARGE, INVALID_PAYLOAD, ExecutorError

DEEP: Final = "F"
"""The mode of a grey picture with more than 8 bits: floats from 0 to DEEP_WHITE."""
DEEP_WHITE: Final = 65535.0


@dataclass(slots=True)
class Picture:
    """A picture of the job.

    `image` has the mode L, LA, RGB, RGBA or DEEP. `profile` is the ICC profile of its values; None is sRGB.
    """

    number: int
    image: Image.Image
    profile: bytes | None = None
    exif: Image.Exif | None = None
    dpi: Any = None
    notes: list[str] = field(default_factory=list)

    @property
    def transparent(self) -> bool:
        return self.image.mode in ("LA", "RGBA")

    def note(self, text: str) -> None:
        """Tell the client about a change; the same is told once."""
        text = f"images.{self.number}: {text}"
        if text not in self.notes:
            self.notes.append(text)

    def bad(self, problem: str) -> ExecutorError:
        return bad(self.number, problem)


def bad(number: int, problem: str) -> ExecutorError:
    return ExecutorError(INVALID_PAYLOAD, f"images.{number}: {problem}")


def check_pixels(size: tuple[int, int], number: int, max_pixels: int) -> None:
    """Raise ExecutorError for a picture that is too large, at first or after an operation."""
    if size[0] * size[1] > max_pixels:
        raise too_many_pixels(number, max_pixels)


def too_many_pixels(number: int, max_pixels: int) -> ExecutorError:
    return ExecutorError(
        INPUT_TOO_LARGE, f"images.{number}: more than {max_pixels} pixels, at first or after an operation"
    )
