"""One model per kind of output, so that no field's choices depend on another field."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Final, Literal

from pydantic import Field

from coordinator.domain.matching.needs import Constraints
from coordinator.services.base import NOT_NULL, FileRef, Payload, Whole
from coordinator.services.video_transcoding.choices import (
    AudioFormat,
    AudioTracks,
    BitDepth,
    Bitrate,
    Chroma,
    Codec,
    Crf,
    Deinterlace,
    Encoder,
    Fit,
    Fps,
    Hdr,
    MediaFormat,
    PictureFormat,
    Preset,
    Resolution,
    Subtitles,
    Track,
)

ENCODER_MODELS: Final = "video-encoder:"
"""How names of the models begin that stand for a miner's working hardware encoders: video-encoder:h264."""
_NVENC: Final = "_nvenc"
_VIDEO_FORMATS: Final = {"mp4": "h264", "mkv": "h264", "webm": "vp9"}
"""With the default codec of each."""
MAX_VIDEO_PIXELS: Final = 8192 * 4352
"""Of a frame, in and out: decoder and encoder hold a hundred of them at a time."""


class MediaPayload(Payload):
    """The input of every kind of output."""

    input_url: FileRef
    """The video or the recording."""


class Sized(MediaPayload):
    """The size of the pictures."""

    resolution: Resolution | None = None
    """Width and height in pixels, both even; or only one of them (1280x, x720), and the other one follows
    from the picture's shape."""
    fit: Fit = "inside"
    """inside: the whole picture, not larger than the resolution. cover: fills the resolution, and cuts off
    what sticks out. stretch: exactly the resolution, whatever the shape."""
    enlarge: bool = True
    """false: the picture never becomes larger than the source's."""


class Encoding(Sized):
    """The encoding of a video's pictures and sound."""

    preset: Preset = "medium"
    """Slower presets make smaller files."""
    crf: Crf | None = None
    """Constant quality: lower is better. The default is 23 if no bitrate is given."""
    bitrate: Bitrate | None = None
    """Bits per second."""
    fps: Fps | None = None
    """Frames per second, constant. The default is the source's frames at their own times."""
    hdr: Hdr = "auto"
    """PQ and HLG pictures. keep: 10 bits with their colours. tone_map: to BT.709. auto keeps them in h265,
    vp9 and av1 unless 8 bits are asked for, and tone-maps them in h264."""
    bit_depth: Annotated[BitDepth | None, NOT_NULL] = None
    """Bits per sample. The default is 8 in h264, and elsewhere 10 if the source has more than 8."""
    chroma: Chroma = "4:2:0"
    """Many players show nothing but 4:2:0."""
    deinterlace: Deinterlace = "auto"
    """auto: if the source says that it is interlaced."""
    encoder: Encoder = "auto"
    """hardware: only a miner with a working hardware encoder for the codec. software: none of these. auto:
    software, except for codecs ending in _nvenc."""
    audio_bitrate: Bitrate = "128k"
    """Bits per second, for each track."""
    audio_tracks: AudioTracks = "first"
    """Which tracks of sound: first, all, none, or a list of numbers (from 0) and languages."""
    subtitles: Subtitles = "none"
    """keep: as tracks, as far as the format can hold them. burn: drawn into the pictures."""
    subtitle_track: Annotated[Track | None, NOT_NULL] = None
    """Number (from 0) or language of the subtitles to keep or burn. The default is all, or the first one to
    burn."""

    @abstractmethod
    def codec_used(self) -> str | None:
        """The codec of the pictures; None if the output has no video."""

    def needs(self) -> Constraints:
        codec = self.codec_used()
        if codec is None:
            return Constraints()
        if codec.endswith(_NVENC):
            return Constraints(gpu="nvidia")
        wanted = (f"{ENCODER_MODELS}{codec}",) if self.encoder == "hardware" else ()
        return Constraints(models=wanted)

    def contradiction(self) -> str | None:
        codec = self.codec_used()
        if codec is None:
            return None
        if self.fit != "inside" and _pixels(self.resolution) > MAX_VIDEO_PIXELS:
            return f"resolution: at most {MAX_VIDEO_PIXELS} pixels, such as 8192x4352"
        if self.hdr == "keep" and codec.startswith("h264"):
            return "hdr: keep needs h265, vp9 or av1; players show no HDR in h264, so choose tone_map"
        if self.hdr == "keep" and self.bit_depth == 8:
            return "hdr: keep needs 10 bits; leave bit_depth out, or choose tone_map"
        if self.encoder == "software" and codec.endswith(_NVENC):
            return f"encoder: {codec} is a hardware encoder; choose {codec.removesuffix(_NVENC)}"
        hardware = self.encoder == "hardware" or codec.endswith(_NVENC)
        if hardware and self.chroma != "4:2:0":
            return "chroma: hardware encoders make 4:2:0 only"
        if hardware and codec.startswith("h264") and self.bit_depth == 10:
            return "bit_depth: hardware encoders make h264 of 8 bits only"
        if self.subtitle_track is not None and self.subtitles == "none":
            return "subtitle_track: say with subtitles whether to keep or burn them"
        return None


def _pixels(resolution: str | None) -> int:
    width, _, height = (resolution or "x").partition("x")
    return int(width or 0) * int(height or 0)


class Transcode(Encoding):
    """A video in mp4 or mkv."""

    operation: Literal["transcode"] = "transcode"
    output_format: Literal["mp4", "mkv"] = "mp4"
    codec: Codec = "h264"
    """Codecs ending in _nvenc need an NVIDIA GPU."""
    audio_codec: Literal["aac", "mp3", "opus", "copy"] = "aac"
    """copy: the source's own, unchanged, if the format can hold it; otherwise aac."""

    def codec_used(self) -> str | None:
        return self.codec


class TranscodeWebm(Encoding):
    """A video in webm, which supports fewer codecs."""

    operation: Literal["transcode"] = "transcode"
    output_format: Literal["webm"]
    codec: Literal["vp9", "av1"] = "vp9"
    audio_codec: Literal["opus", "vorbis", "copy"] = "opus"
    """copy: the source's own, unchanged, if the format can hold it; otherwise opus."""

    def codec_used(self) -> str | None:
        return self.codec


class TranscodeGif(Sized):
    """An animation, without sound or a choice of codecs."""

    operation: Literal["transcode"] = "transcode"
    output_format: Literal["gif"]
    fps: Annotated[int, Field(ge=1, le=50), Whole] = 10
    """Frames per second."""


class ExtractAudio(MediaPayload):
    """The sound of a video, or an audio file in another format. wav and flac have no bit rate."""

    operation: Literal["extract_audio"] = "extract_audio"
    output_format: AudioFormat = "m4a"
    audio_bitrate: Bitrate = "128k"
    """Bits per second."""
    audio_track: Track = 0
    """Number (from 0) or language of the track."""


class Thumbnail(Sized):
    """One frame as an image."""

    operation: Literal["thumbnail"] = "thumbnail"
    output_format: PictureFormat = "jpg"
    at_seconds: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """The frame's moment in the video."""


class TranscodeMedia(Encoding):
    """Video or audio in another format. The registry's schema has the codecs of each format."""

    output_format: MediaFormat = "mp4"
    codec: Codec = "h264"
    """Codecs ending in _nvenc need an NVIDIA GPU."""
    crf: Crf = 23
    """Constant quality, if no bitrate is given: lower is better."""
    audio_codec: Literal["aac", "mp3", "opus", "vorbis", "copy"] = "aac"
    """copy: the source's own, unchanged, if the format can hold it."""

    def codec_used(self) -> str | None:
        if self.output_format not in _VIDEO_FORMATS:
            return None
        # The default codec is that of mp4; it is not sent on.
        return self.codec if "codec" in self.model_fields_set else _VIDEO_FORMATS[self.output_format]
