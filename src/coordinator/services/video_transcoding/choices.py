"""The values that members of a `video_transcoding` payload can have."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from coordinator.services.base import Whole

AudioFormat = Literal["mp3", "m4a", "wav", "flac", "ogg"]
PictureFormat = Literal["jpg", "png"]
MediaFormat = Literal["mp4", "mkv", "webm", "gif", "mp3", "m4a", "wav", "flac", "ogg", "jpg", "png"]
Codec = Literal["h264", "h265", "vp9", "av1", "h264_nvenc", "h265_nvenc", "av1_nvenc"]
Preset = Literal[
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
]
_EVEN: Final = "[1-9][0-9]{0,2}[02468]"
Resolution = Annotated[
    str,
    Field(pattern=rf"^{_EVEN}x{_EVEN}$|^{_EVEN}x$|^x{_EVEN}$", examples=["1280x720", "1280x", "x720"]),
]
"""WxH in pixels, or only Wx or xH. Sides are even, 10 to 9998, as encoders with halved colour planes
require."""
Bitrate = Annotated[
    str,
    Field(pattern=r"^[1-9][0-9]{0,8}$|^[1-9][0-9]{0,5}k$|^[1-9][0-9]{0,2}M$", examples=["800k", "4M"]),
]
"""Bits per second, such as 800k, 4M or 64000; less than 1 G."""
Fps = Annotated[int, Field(ge=1, le=120), Whole]
Crf = Annotated[int, Field(ge=0, le=51), Whole]
BitDepth = Annotated[Literal[8, 10], Whole]
Fit = Literal["inside", "cover", "stretch"]
Hdr = Literal["auto", "keep", "tone_map"]
Chroma = Literal["4:2:0", "4:2:2", "4:4:4"]
Deinterlace = Literal["auto", "always", "never"]
Encoder = Literal["auto", "software", "hardware"]
Subtitles = Literal["none", "keep", "burn"]
Language = Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}$", examples=["de", "deu"])]
"""A language by its ISO 639 code, of two or three letters."""
TrackNumber = Annotated[int, Field(ge=0, le=99), Whole]
"""0 is the first track of its kind."""
Track = TrackNumber | Language
AudioTracks = (
    Literal["first", "all", "none"]
    | Annotated[tuple[Track, ...], Field(min_length=1, max_length=16, strict=False)]
)
