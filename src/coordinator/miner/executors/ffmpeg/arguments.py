"""What an ffmpeg job may ask for, and the argument list that it becomes. Pure.

Parameters are typed and bounded, and none is free text: the only strings of a client's that reach the
command line match patterns of digits, "x", "k" and "M".

One model per kind of output, so that no field depends on another one. The kind follows from `operation` and
`output_format`, either of which may be left out where the other one says enough.
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, TypeAdapter

from coordinator.miner.executors.base import FileRef

PRESETS: Final = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
)
Preset = Literal[
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
]
AUDIO_FORMATS: Final = ("mp3", "m4a", "wav", "flac", "ogg")
IMAGE_FORMATS: Final = ("jpg", "png")


def _whole(value: object) -> object:
    # JSON Schema calls 23.0 an integer, and some languages cannot write it otherwise.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = BeforeValidator(_whole)
Resolution = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2}[02468]x[1-9][0-9]{0,2}[02468]$")]
"""WxH in pixels, both even, 10 to 9998: encoders with halved colour planes take nothing else."""
Bitrate = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$|^[1-9][0-9]{0,5}k$|^[1-9][0-9]{0,2}M$")]
"""Bits per second, such as 800k, 4M or 64000; less than 1 G."""
Fps = Annotated[int, Field(ge=1, le=120), Whole]
Crf = Annotated[int, Field(ge=0, le=51), Whole]
Seconds = Annotated[float, Field(ge=0, le=1_000_000)]


class _Job(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    input_url: FileRef


class Transcode(_Job):
    """A video in mp4 or mkv. Without `bitrate`, `crf` (23 if absent) sets the quality."""

    operation: Literal["transcode"] = "transcode"
    output_format: Literal["mp4", "mkv"] = "mp4"
    codec: Literal["h264", "h265", "vp9", "av1", "h264_nvenc", "h265_nvenc", "av1_nvenc"] = "h264"
    preset: Preset = "medium"
    crf: Crf | None = None
    resolution: Resolution | None = None
    bitrate: Bitrate | None = None
    fps: Fps | None = None
    audio_codec: Literal["aac", "mp3", "opus"] = "aac"
    audio_bitrate: Bitrate = "128k"


class TranscodeWebm(_Job):
    """A video in webm, which holds fewer codecs."""

    operation: Literal["transcode"] = "transcode"
    output_format: Literal["webm"]
    codec: Literal["vp9", "av1"] = "vp9"
    preset: Preset = "medium"
    crf: Crf | None = None
    resolution: Resolution | None = None
    bitrate: Bitrate | None = None
    fps: Fps | None = None
    audio_codec: Literal["opus", "vorbis"] = "opus"
    audio_bitrate: Bitrate = "128k"


class TranscodeGif(_Job):
    """An animation: no sound, no codec to choose."""

    operation: Literal["transcode"] = "transcode"
    output_format: Literal["gif"]
    resolution: Resolution | None = None
    fps: Annotated[int, Field(ge=1, le=50), Whole] = 10


class ExtractAudio(_Job):
    """The sound of a video, or an audio file in another format. wav and flac have no bit rate to set."""

    operation: Literal["extract_audio"] = "extract_audio"
    output_format: Literal["mp3", "m4a", "wav", "flac", "ogg"] = "m4a"
    audio_bitrate: Bitrate = "128k"


class Thumbnail(_Job):
    """One frame as an image."""

    operation: Literal["thumbnail"] = "thumbnail"
    output_format: Literal["jpg", "png"] = "jpg"
    at_seconds: Seconds = 0.0
    resolution: Resolution | None = None


Job = Transcode | TranscodeWebm | TranscodeGif | ExtractAudio | Thumbnail


def _kind(payload: Any) -> str:
    if not isinstance(payload, Mapping):
        return "transcode"
    operation, output = payload.get("operation"), payload.get("output_format")
    if operation == "extract_audio" or (operation is None and output in AUDIO_FORMATS):
        return "extract_audio"
    if operation == "thumbnail" or (operation is None and output in IMAGE_FORMATS):
        return "thumbnail"
    return output if output in ("webm", "gif") else "transcode"


PAYLOAD: Final[TypeAdapter[Job]] = TypeAdapter(
    Annotated[
        Annotated[Transcode, Tag("transcode")]
        | Annotated[TranscodeWebm, Tag("webm")]
        | Annotated[TranscodeGif, Tag("gif")]
        | Annotated[ExtractAudio, Tag("extract_audio")]
        | Annotated[Thumbnail, Tag("thumbnail")],
        Discriminator(_kind),
    ]
)
"""Parses a payload: `PAYLOAD.validate_python(payload)`."""

ENCODERS: Final[dict[str, tuple[str, ...]]] = {
    "h264": ("libx264",),
    "h265": ("libx265",),
    "vp9": ("libvpx-vp9",),
    "av1": ("libsvtav1", "libaom-av1"),
    "h264_nvenc": ("h264_nvenc",),
    "h265_nvenc": ("hevc_nvenc",),
    "av1_nvenc": ("av1_nvenc",),
    "gif": ("gif",),
    "jpg": ("mjpeg",),
    "png": ("png",),
    "aac": ("aac",),
    "mp3": ("libmp3lame",),
    "opus": ("libopus",),
    "vorbis": ("libvorbis",),
    "wav": ("pcm_s16le",),
    "flac": ("flac",),
}
"""ffmpeg's encoders for each codec, the preferred one first."""
_AUDIO_CODEC: Final = {"mp3": "mp3", "m4a": "aac", "wav": "wav", "flac": "flac", "ogg": "vorbis"}
_MUXERS: Final = {"mkv": "matroska", "m4a": "ipod", "jpg": "image2", "png": "image2"}
MEDIA_TYPES: Final = {
    "mp4": "video/mp4",
    "mkv": "video/x-matroska",
    "webm": "video/webm",
    "gif": "image/gif",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "wav": "audio/wav",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "jpg": "image/jpeg",
    "png": "image/png",
}
# Formats that are one stream of media in one file. Playlists, concat scripts, image sequences and vector
# graphics are not among them, because those can name other files to read.
DEMUXERS: Final = (
    "aac,ac3,aiff,amr,apng,asf,avi,bmp_pipe,caf,dv,eac3,flac,flv,gif,h264,hevc,ivf,jpeg_pipe,matroska,webm,"
    "mjpeg,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,png_pipe,tiff_pipe,w64,wav,"
    "webp_pipe,wv,yuv4mpegpipe"
)
MAX_PIXELS: Final = 9998 * 9998
"""Larger frames are refused while decoding, before memory is taken for them."""
SAFE_INPUT: Final = (
    *("-protocol_whitelist", "file,pipe", "-format_whitelist", DEMUXERS),
    *("-max_pixels", str(MAX_PIXELS)),
)
"""Before every `-i`: an input can't name other files to read, nor take all the memory."""


def codecs_of(job: Job) -> tuple[str, ...]:
    """The keys of ENCODERS that this job needs."""
    match job:
        case Transcode() | TranscodeWebm():
            return (job.codec, job.audio_codec)
        case ExtractAudio():
            return (_AUDIO_CODEC[job.output_format],)
        case _:
            return (job.output_format,)


def build_arguments(
    program: str, job: Job, encoders: Collection[str], *, source: str, target: str, max_output_bytes: int
) -> list[str]:
    """The whole argument list. `encoders` are those that ffmpeg has; `source` and `target` file names.

    ffmpeg stops, with success, once the output exceeds the limit given to `-fs`: the caller has to look at
    the size. Raises KeyError for a codec without an encoder.
    """
    chosen = {codec: _encoder(codec, encoders) for codec in codecs_of(job)}
    seek = ["-ss", f"{job.at_seconds:.3f}"] if isinstance(job, Thumbnail) else []
    return [
        program,
        *("-hide_banner", "-nostdin", "-y", "-loglevel", "info", "-nostats", "-progress", "pipe:1"),
        *SAFE_INPUT,
        *seek,
        *("-i", f"file:{source}"),
        *_output_arguments(job, chosen),
        *("-sn", "-dn", "-fs", str(max_output_bytes + 1)),
        *("-f", _MUXERS.get(job.output_format, job.output_format)),
        f"file:{target}",
    ]


def _encoder(codec: str, encoders: Collection[str]) -> str:
    for name in ENCODERS[codec]:
        if name in encoders:
            return name
    raise KeyError(codec)


def _output_arguments(job: Job, chosen: Mapping[str, str]) -> list[str]:
    match job:
        case Transcode() | TranscodeWebm():
            return [
                *("-map", "0:V:0", "-map", "0:a:0?"),
                *_video_arguments(job, chosen[job.codec]),
                *("-vf", _scale(job.resolution), "-pix_fmt", "yuv420p"),
                *(["-r", str(job.fps)] if job.fps else []),
                *("-c:a", chosen[job.audio_codec], "-b:a", job.audio_bitrate),
                *(["-movflags", "+faststart"] if job.output_format == "mp4" else []),
            ]
        case TranscodeGif():
            return ["-map", "0:V:0", "-an", "-vf", f"fps={job.fps},{_scale(job.resolution)}", "-c:v", "gif"]
        case ExtractAudio():
            codec = _AUDIO_CODEC[job.output_format]
            bitrate = [] if codec in ("wav", "flac") else ["-b:a", job.audio_bitrate]
            return ["-map", "0:a:0", "-vn", "-c:a", chosen[codec], *bitrate]
        case Thumbnail():
            scale = ["-vf", _scale(job.resolution)] if job.resolution else []
            frame = ["-frames:v", "1", "-update", "1", "-c:v", chosen[job.output_format]]
            return ["-map", "0:V:0", "-an", *scale, *frame]


def _scale(resolution: str | None) -> str:
    # Sources with an odd side lose one row or column: the encoders take only even ones.
    size = resolution.replace("x", ":") if resolution else "trunc(iw/2)*2:trunc(ih/2)*2"
    return f"scale={size},setsar=1" if resolution else f"scale={size}"


def _video_arguments(job: Transcode | TranscodeWebm, encoder: str) -> list[str]:
    step = PRESETS.index(job.preset)
    speed = {
        "libx264": ["-preset", job.preset],
        "libx265": ["-preset", job.preset],
        "libvpx-vp9": ["-deadline", "good", "-row-mt", "1", "-cpu-used", str(8 - step)],
        "libsvtav1": ["-preset", str((12, 11, 10, 9, 8, 7, 5, 4, 2)[step])],
        "libaom-av1": ["-row-mt", "1", "-cpu-used", str(8 - step)],
    }.get(encoder, ["-preset", f"p{min(step + 1, 7)}"])
    if job.bitrate is not None and job.crf is None:
        return ["-c:v", encoder, *speed, "-b:v", job.bitrate]
    quality = str(23 if job.crf is None else job.crf)
    ceiling = job.bitrate or "0"
    if encoder.endswith("_nvenc"):
        return ["-c:v", encoder, *speed, "-rc", "vbr", "-cq", quality, "-b:v", ceiling]
    if encoder in ("libvpx-vp9", "libaom-av1"):
        # Here the bit rate is the ceiling of the quality mode, and 0 means none.
        return ["-c:v", encoder, *speed, "-crf", quality, "-b:v", ceiling]
    limit = ["-maxrate", job.bitrate, "-bufsize", job.bitrate] if job.bitrate else []
    return ["-c:v", encoder, *speed, "-crf", quality, *limit]
