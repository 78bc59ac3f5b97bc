"""The service `3d_rendering`: renders frames of a Blender file."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from coordinator.services.base import (
    FileRef,
    KnownService,
    OutputFile,
    Payload,
    Result,
    Whole,
)

RenderEngine = Literal["cycles", "eevee", "eevee-next"]
FrameFormat = Literal["png", "jpg", "exr", "bmp", "tiff"]
Frame = Annotated[int, Field(ge=0, le=1_048_574), Whole]
Side = Annotated[int, Field(ge=1, le=65_536), Whole]
MAX_FILES: Final = 500
"""More frames than this become one ZIP archive: a result may name 512 files."""


class RenderPayload(Payload):
    """The frames of a Blender file. Pack textures and libraries into it; its scripts are not run."""

    blend_file_url: FileRef
    """The .blend file."""
    engine: RenderEngine = "cycles"
    """cycles traces paths; the others are faster and less exact."""
    format: FrameFormat = "png"
    """The format of each frame."""
    resolution_x: Side = 1920
    """Pixels."""
    resolution_y: Side = 1080
    """Pixels."""
    resolution_percentage: Annotated[int, Field(ge=1, le=100), Whole] = 100
    """Percentage of the resolution to render at."""
    samples: Annotated[int, Field(ge=1, le=10_000), Whole] = 128
    """Samples per pixel; more of them make less noise."""
    frame_start: Frame | None = None
    """The first frame; the default is the file's own."""
    frame_end: Frame | None = None
    """The last frame; the default is frame_start, if only that is given."""
    frame_step: Annotated[int, Field(ge=1, le=1_048_574), Whole] = 1
    """2 renders every other frame."""
    denoise: bool = True
    """Removes the noise of few samples."""
    transparent: bool = False
    """No background, in formats that support transparency."""

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of each frame, as Blender rounds them."""
        part = self.resolution_percentage
        return max(1, self.resolution_x * part // 100), max(1, self.resolution_y * part // 100)

    def contradiction(self) -> str | None:
        first, last = self.frame_start, self.frame_end
        if first is not None and last is not None and last < first:
            return "frame_end: must not be before frame_start"
        return None


class RenderedFrames(Result):
    engine: RenderEngine
    format: FrameFormat
    width: Annotated[int, Field(ge=1)]
    """Pixels."""
    height: Annotated[int, Field(ge=1)]
    """Pixels."""
    frames: Annotated[int, Field(ge=1)]
    """The number of rendered frames."""
    outputs: Annotated[list[OutputFile], Field(min_length=1, max_length=MAX_FILES)]
    """An image per frame, or one ZIP archive of more than 500 images."""
    render_seconds: Annotated[float, Field(ge=0)] | None = None


SERVICE: Final = KnownService("3d_rendering", TypeAdapter(RenderPayload), RenderedFrames)
