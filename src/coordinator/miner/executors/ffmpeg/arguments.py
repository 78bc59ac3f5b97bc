"""The argument list of ffmpeg for a payload. Pure.

Parameters are typed and bounded, and none is free text: a client's strings on the command line match patterns
of digits, "x", "k" and "M".
"""

from collections.abc import Collection, Mapping
from typing import Final, get_args

from coordinator.services.video_transcoding import (
    ExtractAudio,
    Preset,
    Thumbnail,
    Transcode,
    TranscodeGif,
    TranscodeWebm,
    VideoPayload,
)

_PRESETS: Final = get_args(Preset)
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
# Formats with all their media in one file. Playlists, concat scripts, image sequences and vector graphics are
# excluded, because they can name other files to read.
DEMUXERS: Final = (
    "aac,ac3,aiff,amr,apng,asf,avi,bmp_pipe,caf,dv,eac3,flac,flv,gif,h264,hevc,ivf,jpeg_pipe,matroska,webm,"
    "mjpeg,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,png_pipe,tiff_pipe,w64,wav,"
    "webp_pipe,wv,yuv4mpegpipe"
)
MAX_PIXELS: Final = 9998 * 9998
"""The decoder refuses larger frames before it allocates memory for them."""
MAX_VIDEO_PIXELS: Final = 8192 * 4352
"""The same for videos, of which decoder and encoder hold a hundred frames at a time."""
MAX_STREAMS: Final = 100
MAX_ALLOCATION_BYTES: Final = 2**30
MAX_THREADS: Final = 8
"""Of a decoder or an encoder: each thread holds some frames, and more threads gain little."""
MAX_SECONDS: Final = 24 * 3600
"""The longest output: two frames may be years apart, and the gap is filled with copies."""


def safe_input(threads: int, *, max_pixels: int = MAX_PIXELS) -> list[str]:
    """Options before `-i`: so an input can't name other files to read, nor use all memory and processors."""
    return [
        *("-max_alloc", str(MAX_ALLOCATION_BYTES), "-filter_threads", str(_threads(threads))),
        *("-protocol_whitelist", "file,pipe", "-format_whitelist", DEMUXERS),
        *("-max_pixels", str(max_pixels), "-max_streams", str(MAX_STREAMS)),
        *("-threads", str(_threads(threads))),
    ]


def _threads(processors: int) -> int:
    return max(1, min(processors, MAX_THREADS))


def codecs_of(payload: VideoPayload) -> tuple[str, ...]:
    """The keys of ENCODERS that this payload needs."""
    match payload:
        case Transcode() | TranscodeWebm():
            return (payload.codec, payload.audio_codec)
        case ExtractAudio():
            return (_AUDIO_CODEC[payload.output_format],)
        case _:
            return (payload.output_format,)


def build_arguments(
    program: str,
    payload: VideoPayload,
    encoders: Collection[str],
    *,
    source: str,
    target: str,
    max_output_bytes: int,
    threads: int = MAX_THREADS,
) -> list[str]:
    """The whole argument list. `encoders` are ffmpeg's; `source` and `target` are file names.

    ffmpeg stops, with success, once the output exceeds the limit of `-fs` or MAX_SECONDS: the caller must
    check both. `threads` is the number of processors that it may use.
    Raises KeyError for a codec without an encoder.
    """
    chosen = {codec: _encoder(codec, encoders) for codec in codecs_of(payload)}
    one_frame = isinstance(payload, Thumbnail)
    seek = ["-ss", f"{payload.at_seconds:.3f}"] if isinstance(payload, Thumbnail) else []
    return [
        program,
        *("-hide_banner", "-nostdin", "-y", "-loglevel", "info", "-nostats", "-progress", "pipe:1"),
        *safe_input(threads, max_pixels=MAX_PIXELS if one_frame else MAX_VIDEO_PIXELS),
        *seek,
        *("-i", f"file:{source}"),
        *_output_arguments(payload, chosen),
        *("-threads", str(_threads(threads)), "-t", str(MAX_SECONDS + 1)),
        *("-sn", "-dn", "-fs", str(max_output_bytes + 1)),
        *("-f", _MUXERS.get(payload.output_format, payload.output_format)),
        f"file:{target}",
    ]


def _encoder(codec: str, encoders: Collection[str]) -> str:
    for name in ENCODERS[codec]:
        if name in encoders:
            return name
    raise KeyError(codec)


def _output_arguments(payload: VideoPayload, chosen: Mapping[str, str]) -> list[str]:
    match payload:
        case Transcode() | TranscodeWebm():
            return [
                *("-map", "0:V:0", "-map", "0:a:0?"),
                *_video_arguments(payload, chosen[payload.codec]),
                *("-vf", _scale(payload.resolution), "-pix_fmt", "yuv420p"),
                *(["-r", str(payload.fps)] if payload.fps else []),
                *("-c:a", chosen[payload.audio_codec], "-b:a", payload.audio_bitrate),
                *(["-movflags", "+faststart"] if payload.output_format == "mp4" else []),
            ]
        case TranscodeGif():
            return [
                "-map",
                "0:V:0",
                "-an",
                "-vf",
                f"fps={payload.fps},{_scale(payload.resolution)}",
                "-c:v",
                "gif",
            ]
        case ExtractAudio():
            codec = _AUDIO_CODEC[payload.output_format]
            bitrate = [] if codec in ("wav", "flac") else ["-b:a", payload.audio_bitrate]
            return ["-map", "0:a:0", "-vn", "-c:a", chosen[codec], *bitrate]
        case Thumbnail():
            scale = ["-vf", _scale(payload.resolution)] if payload.resolution else []
            frame = ["-frames:v", "1", "-update", "1", "-c:v", chosen[payload.output_format]]
            return ["-map", "0:V:0", "-an", *scale, *frame]


def _scale(resolution: str | None) -> str:
    # Sources with an odd side lose one row or column: the encoders take only even sizes.
    size = resolution.replace("x", ":") if resolution else "trunc(iw/2)*2:trunc(ih/2)*2"
    return f"scale={size},setsar=1" if resolution else f"scale={size}"


def _video_arguments(payload: Transcode | TranscodeWebm, encoder: str) -> list[str]:
    step = _PRESETS.index(payload.preset)
    speed = {
        "libx264": ["-preset", payload.preset],
        "libx265": ["-preset", payload.preset],
        "libvpx-vp9": ["-deadline", "good", "-row-mt", "1", "-cpu-used", str(8 - step)],
        "libsvtav1": ["-preset", str((12, 11, 10, 9, 8, 7, 5, 4, 2)[step])],
        "libaom-av1": ["-row-mt", "1", "-cpu-used", str(8 - step)],
    }.get(encoder, ["-preset", f"p{min(step + 1, 7)}"])
    if payload.bitrate is not None and payload.crf is None:
        return ["-c:v", encoder, *speed, "-b:v", payload.bitrate]
    quality = str(23 if payload.crf is None else payload.crf)
    ceiling = payload.bitrate or "0"
    if encoder.endswith("_nvenc"):
        return ["-c:v", encoder, *speed, "-rc", "vbr", "-cq", quality, "-b:v", ceiling]
    if encoder in ("libvpx-vp9", "libaom-av1"):
        # Here the bit rate is the upper limit of the quality mode, and 0 means no limit.
        return ["-c:v", encoder, *speed, "-crf", quality, "-b:v", ceiling]
    limit = ["-maxrate", payload.bitrate, "-bufsize", payload.bitrate] if payload.bitrate else []
    return ["-c:v", encoder, *speed, "-crf", quality, *limit]
