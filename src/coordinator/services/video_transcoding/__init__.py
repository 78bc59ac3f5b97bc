"""The service `video_transcoding`: converts video and audio, extracts audio, and takes single frames.

The kind of output follows from `operation` and `output_format`; either may be left out if the other one is
enough.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from coordinator.services.base import KnownService, OutputFile, Result, Warnings
from coordinator.services.video_transcoding.choices import MediaFormat as MediaFormat
from coordinator.services.video_transcoding.choices import Preset as Preset
from coordinator.services.video_transcoding.kinds import PAYLOAD
from coordinator.services.video_transcoding.kinds import VideoPayload as VideoPayload
from coordinator.services.video_transcoding.payloads import ENCODER_MODELS as ENCODER_MODELS
from coordinator.services.video_transcoding.payloads import MAX_VIDEO_PIXELS as MAX_VIDEO_PIXELS
from coordinator.services.video_transcoding.payloads import ExtractAudio as ExtractAudio
from coordinator.services.video_transcoding.payloads import MediaPayload as MediaPayload
from coordinator.services.video_transcoding.payloads import Thumbnail as Thumbnail
from coordinator.services.video_transcoding.payloads import Transcode as Transcode
from coordinator.services.video_transcoding.payloads import TranscodeGif as TranscodeGif
from coordinator.services.video_transcoding.payloads import TranscodeMedia as TranscodeMedia
from coordinator.services.video_transcoding.payloads import TranscodeWebm as TranscodeWebm

Side = Annotated[int, Field(ge=1)]


class TranscodedMedia(Result):
    outputs: Annotated[list[OutputFile], Field(min_length=1, max_length=1)]
    output_format: MediaFormat
    duration_seconds: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]{3}$")] | None = None
    """The length of the output; absent for thumbnails."""
    width: Side | None = None
    """Of the output's pictures in pixels, as measured; absent for sound."""
    height: Side | None = None
    warnings: Warnings | None = None
    """What differs from the source or the request, such as tracks that the format can't hold; small faults of
    the source, and lengths that its format can't prove."""


SERVICE: Final = KnownService("video_transcoding", PAYLOAD, TranscodedMedia)
"""The service `video_transcoding`."""
