"""Images of a scene: blender."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from fastapi import APIRouter
from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from coordinator.edge.context import Context
from coordinator.edge.http.credentials import Client
from coordinator.edge.http.submitting import SUBMIT_PROBLEMS, SUBMIT_TEXT, IdempotencyKey, Prefer
from coordinator.edge.models.base import View
from coordinator.edge.models.jobs import JobSubmitAnswer
from coordinator.edge.services.asking import Ask, FileName, ask_body, read_ask, submit_ask
from coordinator.edge.services.ffmpeg import MediaFile

router = APIRouter(prefix="/blender")

Pixels = Annotated[int, Field(ge=1, le=65_536)]
Frame = Annotated[int, Field(ge=0, le=1_048_574)]


class RenderAsk(Ask):
    """The frames of a Blender file. Textures and libraries are packed into it; scripts in it are not run."""

    SERVICE: ClassVar = "3d_rendering"
    FILE: ClassVar = "blend_file_url"

    blend_file_url: FileName
    engine: Literal["cycles", "eevee", "eevee-next"] = "cycles"
    format: Literal["png", "jpg", "exr", "bmp", "tiff"] = "png"
    resolution_x: Pixels = 1920
    resolution_y: Pixels = 1080
    resolution_percentage: Annotated[int, Field(ge=1, le=100)] = 100
    samples: Annotated[int, Field(ge=1, le=10_000)] = 128
    frame_start: Frame | None = Field(
        None, description="The first frame; the file's own where there is none."
    )
    frame_end: Frame | None = Field(None, description="The last frame; frame_start where only that is given.")
    frame_step: Annotated[int, Field(ge=1, le=1_048_574)] = 1
    denoise: bool = True
    transparent: bool = False

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.frame_start is not None and self.frame_end is not None and self.frame_end < self.frame_start:
            raise ValueError("frame_end comes before frame_start")
        return self


class Rendered(View):
    """`width` and `height` in pixels; an output per frame, or one archive of them."""

    engine: str
    format: str
    width: int
    height: int
    frames: int
    outputs: list[MediaFile]
    render_seconds: float | None = None


class RenderJob(JobSubmitAnswer):
    """A job of the service 3d_rendering."""

    result: Rendered | None = None  # type: ignore[assignment]


@router.post(
    "/render",
    status_code=201,
    response_model=RenderJob,
    summary="Render a Blender file",
    description=SUBMIT_TEXT,
    responses=SUBMIT_PROBLEMS,
    openapi_extra=ask_body(
        RenderAsk,
        by_url={"blend_file_url": "https://example.com/scene.blend", "samples": 64, "frame_start": 1},
    ),
)
async def render(
    request: Request,
    context: Context,
    principal: Client,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    ask = await read_ask(request, context, principal, RenderAsk)
    return await submit_ask(request, context, principal, ask, idempotency_key, prefer)
