"""Videos and sounds in other formats: ffmpeg."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.matching import Constraints
from coordinator.edge.context import Context
from coordinator.edge.http.credentials import Client
from coordinator.edge.http.submitting import SUBMIT_PROBLEMS, SUBMIT_TEXT, IdempotencyKey, Prefer
from coordinator.edge.models.base import View
from coordinator.edge.models.jobs import JobSubmitAnswer
from coordinator.edge.services.asking import Ask, FileName, ask_body, read_ask, submit_ask

router = APIRouter(prefix="/ffmpeg")

Bitrate = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$|^[1-9][0-9]{0,5}k$|^[1-9][0-9]{0,2}M$")]


class TranscodeAsk(Ask):
    """A video or a sound in another format. Which codecs fit which format, the registry's schema says."""

    SERVICE: ClassVar = "video_transcoding"
    FILE: ClassVar = "input_url"

    input_url: FileName
    output_format: Literal["mp4", "mkv", "webm", "gif", "mp3", "m4a", "wav", "flac", "ogg", "jpg", "png"] = (
        "mp4"
    )
    codec: Literal["h264", "h265", "vp9", "av1", "h264_nvenc", "h265_nvenc", "av1_nvenc"] = Field(
        "h264", description="Those that end in _nvenc are encoded by an NVIDIA GPU."
    )
    preset: Literal[
        "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
    ] = "medium"
    crf: Annotated[int, Field(ge=0, le=51)] = Field(23, description="Quality, where no bitrate is said.")
    resolution: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2}[02468]x[1-9][0-9]{0,2}[02468]$")] | None = (
        Field(None, description="Width x height in pixels, both even.")
    )
    bitrate: Bitrate | None = Field(None, description="Bits per second, such as 800k or 4M.")
    fps: Annotated[int, Field(ge=1, le=120)] | None = None
    audio_codec: Literal["aac", "mp3", "opus", "vorbis"] = "aac"
    audio_bitrate: Bitrate = "128k"

    def needs(self) -> Constraints:
        return Constraints(gpu="nvidia") if self.codec.endswith("_nvenc") else Constraints()


class MediaFile(View):
    """`blob` is the file, `size` in bytes."""

    name: str
    blob: str
    size: int
    media_type: str


class Transcoded(View):
    outputs: list[MediaFile]
    output_format: str
    duration_seconds: str | None = None


class TranscodeJob(JobSubmitAnswer):
    """A job of the service video_transcoding."""

    result: Transcoded | None = None  # type: ignore[assignment]


@router.post(
    "/transcode",
    status_code=201,
    response_model=TranscodeJob,
    summary="Bring a video or a sound into another format",
    description=SUBMIT_TEXT,
    responses=SUBMIT_PROBLEMS,
    openapi_extra=ask_body(
        TranscodeAsk,
        by_url={"input_url": "https://example.com/clip.mov", "codec": "h265", "resolution": "1280x720"},
    ),
)
async def transcode(
    request: Request,
    context: Context,
    principal: Client,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    ask = await read_ask(request, context, principal, TranscodeAsk)
    return await submit_ask(request, context, principal, ask, idempotency_key, prefer)
