"""The size of the output's pictures, and the filters that make it. Pure.

Sizes are of the first frame. A file whose frames change their shape on the way (a turned phone, a broadcast)
keeps that size: later frames are fitted into it, never squashed.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from coordinator.miner.executors.errors import OUTPUT_TOO_LARGE, ExecutorError
from coordinator.miner.executors.ffmpeg.source import Pictures

MAX_SIDE: Final = 16_384
_SAME_SHAPE: Final = 0.02
"""Shapes that differ by less are one shape: rounding to whole pixels changes it."""


@dataclass(frozen=True, slots=True)
class Size:
    """The scaled picture, and the frame that it is cut to or laid into."""

    scaled: tuple[int, int]
    frame: tuple[int, int]
    square: bool
    """Whether the pixels become square."""
    cover: bool = False
    stretch: bool = False

    def scale(self, pictures: Pictures) -> str:
        """The width and height for the filter `scale`, as its expressions."""
        width, height = self.scaled
        if self.stretch:
            return f"w={width}:h={height}"
        before = Fraction(pictures.width, pictures.height)
        # A frame's own shape, times the change of the pixels' shape.
        shape = f"(iw/ih*{width * before.denominator}/{height * before.numerator})"
        same = f"lt(abs(iw/ih*{before.denominator}/{before.numerator}-1),{_SAME_SHAPE})"
        most, (across, down) = ("max" if self.cover else "min"), self.frame
        rounded = "ceil" if self.cover else "trunc"
        other_width = f"{most}({across},{rounded}({down}*{shape}/2)*2)"
        other_height = f"{most}({down},{rounded}({across}/{shape}/2)*2)"
        return f"w='if({same},{width},max(2,{other_width}))':h='if({same},{height},max(2,{other_height}))'"

    def frame_filters(self) -> list[str]:
        """What follows the scaling: the scaled picture into its frame."""
        width, height = self.frame
        if self.stretch and self.scaled == self.frame:
            return []
        return [f"crop={width}:{height}" if self.cover else f"pad={width}:{height}:(ow-iw)/2:(oh-ih)/2"]


def natural(pictures: Pictures) -> tuple[Fraction, Fraction]:
    """The size in square pixels that loses nothing."""
    width, height, aspect = Fraction(pictures.width), Fraction(pictures.height), pictures.pixel_aspect
    return (width * aspect, height) if aspect >= 1 else (width, height / aspect)


def size_of(
    pictures: Pictures,
    resolution: str | None,
    fit: str,
    *,
    enlarge: bool,
    step: int,
    least: int,
    max_pixels: int,
    square: bool = False,
) -> Size:
    """The size for this resolution ("WxH", "Wx", "xH" or None for the source's own).

    Sides become multiples of `step` and at least `least`. Pixels stay as they are without a resolution,
    unless they have to be `square`.
    Raises ExecutorError: OUTPUT_TOO_LARGE, also if a side that follows from the other is too long.
    """
    width, height = natural(pictures)
    if resolution is None and not square:
        width, height = Fraction(pictures.width), Fraction(pictures.height)
        kept = (_down(width, step), _down(height, step))
        return Size(kept, _at_least(kept, least), square=False)
    across, down = _sides(resolution)
    if across and down and fit == "stretch":
        frame = (
            (across, down) if enlarge else (min(across, _down(width, step)), min(down, _down(height, step)))
        )
        _check(frame, max_pixels)
        return Size(frame, _at_least(frame, least), square=True, stretch=True)
    scales = [Fraction(side) / whole for side, whole in ((across, width), (down, height)) if side]
    scale = (max if fit == "cover" else min)(scales, default=Fraction(1))
    if scale > 1 and not enlarge:
        if fit == "cover" and across and down:  # the frame keeps its shape
            across, down = _down(across / scale, step), _down(down / scale, step)
        scale = Fraction(1)
    if across and down and fit == "cover":
        frame = (across, down)
        scaled = (max(_up(width * scale, step), least), max(_up(height * scale, step), least))
        _check(scaled, max_pixels)
        return Size(scaled, _at_least(frame, least), square=True, cover=True)
    exact = [
        side if scale == Fraction(side or 0) / whole else None
        for side, whole in ((across, width), (down, height))
    ]
    made = (exact[0] or _near(width * scale, step), exact[1] or _near(height * scale, step))
    inside = (min(made[0], across or made[0]), min(made[1], down or made[1]))
    _check(inside, max_pixels)
    return Size(inside, _at_least(inside, least), square=True)


def _sides(resolution: str | None) -> tuple[int, int]:
    """Width and height; 0 is one that is not said."""
    width, _, height = (resolution or "x").partition("x")
    return int(width or 0), int(height or 0)


def _check(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels or max(size) > MAX_SIDE:
        raise ExecutorError(
            OUTPUT_TOO_LARGE,
            f"resolution: it becomes {width}x{height} here; at most {max_pixels} pixels",
        )


def _down(side: Fraction | int, step: int) -> int:
    return max(step, int(side) // step * step)


def _up(side: Fraction, step: int) -> int:
    return max(step, -int(-side // step) * step)


def _near(side: Fraction, step: int) -> int:
    return max(step, round(side / step) * step)


def _at_least(size: tuple[int, int], least: int) -> tuple[int, int]:
    return max(size[0], least), max(size[1], least)
