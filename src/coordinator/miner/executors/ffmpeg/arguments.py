"""The argument list of ffmpeg for a payload and what its input holds. Pure.

Parameters are typed and bounded, and none is free text: a client's strings on the command line match patterns
of digits, "x", "k" and "M".
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from coordinator.miner.executors.ffmpeg.abilities import Abilities, Plan
from coordinator.miner.executors.ffmpeg.colours import (
    Colours,
    colour_filters,
    colours_of,
    colours_of_picture,
    tag_filter,
    without_hdr_data,
)
from coordinator.miner.executors.ffmpeg.encoders import (
    before_input,
    encoders_for,
    last_filters,
    least_side,
    nearest,
    software_of,
    video_arguments,
)
from coordinator.miner.executors.ffmpeg.sizes import Size, size_of
from coordinator.miner.executors.ffmpeg.sounds import chosen, codec_of, single_sound, sound_arguments
from coordinator.miner.executors.ffmpeg.source import Pictures, Source
from coordinator.miner.executors.ffmpeg.subtitles import BURNT_FILE, ChosenSubtitles, subtitles_of
from coordinator.miner.executors.media.first_sound import NO_GUESSES
from coordinator.services.video_transcoding import (
    MAX_VIDEO_PIXELS,
    ExtractAudio,
    Thumbnail,
    Transcode,
    TranscodeGif,
    TranscodeWebm,
    VideoPayload,
)

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
MAX_STREAMS: Final = 100
MAX_ALLOCATION_BYTES: Final = 2**30
MAX_THREADS: Final = 8
"""Of a decoder or an encoder: each thread holds some frames, and more threads gain little."""
MAX_SECONDS: Final = 24 * 3600
"""The longest output: two frames may be years apart, and the gap is filled with copies."""
_OPTIONS: Final = {
    "mp4": ("-movflags", "+faststart"),
    "m4a": ("-movflags", "+faststart"),
    "mp3": ("-id3v2_version", "3"),
    "wav": ("-rf64", "auto"),
}
"""Of muxers: the index first; tags that old players read; more than 4 GiB."""
_TIME_BASE: Final = "1/90000"
"""Fine enough for the times of all frames; by itself ffmpeg rounds them to the usual rate of the source."""
_BLACK: Final = "the source's transparency became black"
_RATED: Final = {"libsvtav1": 240.0}
"""The greatest rate of encoders that refuse others. A file that suggests more has no constant one."""
_USUAL_FPS: Final = 60


def safe_input(threads: int, *, max_pixels: int = MAX_PIXELS) -> list[str]:
    """Options before `-i`: so an input can't name other files to read, nor use all memory and processors."""
    return [
        *("-max_alloc", str(MAX_ALLOCATION_BYTES), "-filter_threads", str(threads_of(threads))),
        *("-protocol_whitelist", "file,pipe", "-format_whitelist", DEMUXERS),
        *("-max_pixels", str(max_pixels), "-max_streams", str(MAX_STREAMS)),
        *("-threads", str(threads_of(threads))),
    ]


def reads_alpha(source: Source) -> list[str]:
    """Options before `-i`: the decoder that reads the pictures' transparency, if there is one."""
    return ["-c:V:0", source.alpha_decoder] if source.alpha_decoder else []


def max_pixels_of(payload: VideoPayload) -> int:
    """The pixels of a frame that the payload's input may have."""
    return MAX_PIXELS if isinstance(payload, Thumbnail) else MAX_VIDEO_PIXELS


def threads_of(processors: int) -> int:
    """The threads of a decoder or an encoder where a job may use so many processors."""
    return max(1, min(processors, MAX_THREADS))


def codecs_of(payload: VideoPayload) -> tuple[str, ...]:
    """The keys of ENCODERS that this payload needs."""
    match payload:
        case Transcode() | TranscodeWebm():
            sound = () if payload.audio_tracks == "none" else (codec_of(payload),)
            return (payload.codec, *sound)
        case ExtractAudio():
            return (_AUDIO_CODEC[payload.output_format],)
        case _:
            return (payload.output_format,)


def plans_for(payload: VideoPayload, source: Source, abilities: Abilities) -> list[Plan]:
    """The runs to try, the best one first: each is for another encoder.

    Raises ExecutorError for what the input or this machine lacks, KeyError for a codec without an encoder.
    """
    match payload:
        case Transcode() | TranscodeWebm():
            encoders = encoders_for(payload, abilities.encoders, abilities.hardware)
            if not encoders:
                raise KeyError(payload.codec)
            return [_video(payload, source, abilities, encoder) for encoder in encoders]
        case TranscodeGif():
            return [_animation(payload, source, abilities)]
        case ExtractAudio():
            return [_sound(payload, source, abilities)]
        case Thumbnail():
            return [_thumbnail(payload, source, abilities)]


def command(
    program: str,
    payload: VideoPayload,
    plan: Plan,
    *,
    source: str,
    target: str,
    max_output_bytes: int,
    threads: int = MAX_THREADS,
) -> list[str]:
    """The whole argument list. `source` and `target` are file names.

    ffmpeg stops, with success, once the output exceeds the limit of `-fs` or MAX_SECONDS: the caller must
    check both. `threads` is the number of processors that it may use.
    """
    return [
        program,
        *("-hide_banner", "-nostdin", "-y", "-loglevel", "info", "-nostats", "-progress", "pipe:1"),
        *safe_input(threads, max_pixels=max_pixels_of(payload)),
        # Three and more channels without a layout: the sound's own settings say which one is taken.
        *NO_GUESSES,
        *plan.before,
        *("-i", f"file:{source}"),
        *plan.after,
        *("-threads", str(threads_of(threads)), "-t", str(MAX_SECONDS + 1)),
        *("-dn", "-fs", str(max_output_bytes + 1)),
        *("-f", _MUXERS.get(payload.output_format, payload.output_format)),
        f"file:{target}",
    ]


# --- videos -------------------------------------------------------------------------------------------------
def _video(payload: Transcode | TranscodeWebm, source: Source, abilities: Abilities, encoder: str) -> Plan:
    pictures = source.pictures or _UNKNOWN_PICTURES
    codec = software_of(payload.codec)
    colours, warnings = colours_of(
        source,
        pictures,
        codec,
        abilities.formats.get(encoder, ("yuv420p",)),
        hdr=payload.hdr,
        bit_depth=payload.bit_depth,
        chroma=payload.chroma,
    )
    size = _size(payload, pictures, encoder)
    payload, about_values = nearest(payload, encoder, size.frame)
    warnings += about_values
    subtitles = subtitles_of(payload, source, filters=abilities.filters, can_draw_text=abilities.draws_text)
    if pictures.format.alpha:
        warnings.append(_BLACK)
    if source.videos > 1:
        warnings.append(f"the first of the input's {source.videos} videos is taken")
    fps = payload.fps
    if fps is None and encoder in _RATED and pictures.fps is not None and pictures.fps > _RATED[encoder]:
        fps = _USUAL_FPS
        warnings.append(f"fps: the input names no rate that {codec} can have; it became {fps}")
    before_burning = [
        *_deinterlaced(pictures, payload.deinterlace, abilities.filters),
        *([_at_rate(fps, pictures)] if fps else []),
        *_cropped_to_even(pictures, payload.resolution),
        *colour_filters(pictures, colours, size.scale(pictures)),
    ]
    after_burning = [
        *size.frame_filters(),
        *(["setsar=1"] if size.square else []),
        *([_drawn_text(colours)] if subtitles.burnt_text else []),
        *([] if colours.hdr else without_hdr_data(abilities.filters)),
        tag_filter(colours),
        *last_filters(encoder, colours),
    ]
    sounds, about_sounds = sound_arguments(
        payload, source, {name: abilities.of_codec(name) for name in codecs_of(payload)[1:]}
    )
    return Plan(
        before=[*before_input(encoder, abilities.devices.get(encoder)), *reads_alpha(source)],
        after=[
            *_mapped_pictures(before_burning, after_burning, subtitles, size, colours.pixel_format),
            *video_arguments(payload, encoder, colours, pictures),
            # Without it older versions repeat and drop frames in mp4, to a constant rate.
            *(abilities.frame_times, "vfr", "-enc_time_base:v", _TIME_BASE),
            *sounds,
            *(subtitles.arguments or ["-sn"]),
            *_of_format(payload.output_format, abilities),
        ],
        warnings=[*warnings, *about_sounds, *subtitles.warnings],
        encoder=encoder,
        table=colours.table,
        text_track=subtitles.burnt_text.number if subtitles.burnt_text else None,
    )


def _size(payload: Transcode | TranscodeWebm, pictures: Pictures, encoder: str) -> Size:
    def laid_into(least: int) -> Size:
        return size_of(
            pictures,
            payload.resolution,
            payload.fit,
            enlarge=payload.enlarge,
            step=2,
            least=least,
            max_pixels=MAX_VIDEO_PIXELS,
        )

    size = laid_into(least_side(encoder, 0))
    return laid_into(least_side(encoder, max(size.frame)))


def _mapped_pictures(
    before: list[str], after: list[str], subtitles: ChosenSubtitles, size: Size, made: str
) -> list[str]:
    if subtitles.burnt_pictures is None:
        return ["-map", "0:V:0", "-filter:v", ",".join([*before, *after])]
    # The subtitles' canvas covers the whole picture, whatever its own size.
    canvas = f"[0:s:{subtitles.burnt_pictures.number}]scale={size.scaled[0]}:{size.scaled[1]}[drawn]"
    chains = [
        f"[0:V:0]{','.join(before)}[plain]",
        canvas,
        f"[plain][drawn]overlay=eof_action=pass:format=auto,format={made},{','.join(after)}[pictures]",
    ]
    return ["-filter_complex", ";".join(chains), "-map", "[pictures]"]


def _of_format(output_format: str, abilities: Abilities) -> list[str]:
    """Options of the muxer: the index at the front, so that players can start before they have all."""
    if output_format in _OPTIONS:
        return list(_OPTIONS[output_format])
    return ["-cues_to_front", "1"] if abilities.cues_to_front and output_format in ("mkv", "webm") else []


def _deinterlaced(pictures: Pictures, wanted: str, filters: Collection[str]) -> list[str]:
    if wanted == "never" or (wanted == "auto" and not pictures.interlaced):
        return []
    name = next((name for name in ("bwdif", "yadif") if name in filters), None)
    frames = "all" if wanted == "always" else "interlaced"
    return [f"{name}=mode=send_frame:parity=auto:deint={frames}"] if name else []


def _at_rate(fps: int, pictures: Pictures) -> str:
    # A video that begins a little after its sound would get one frame too many; one that is shorter than a
    # frame's time would get none.
    end = "round" if pictures.seconds is not None and pictures.seconds * fps >= 1 else "pass"
    return f"fps=fps={fps}:eof_action={end}"


def _cropped_to_even(pictures: Pictures, resolution: str | None) -> list[str]:
    """Encoders take only even sizes: a last row or column goes, and nothing is blurred by scaling."""
    odd = pictures.width % 2 or pictures.height % 2
    if resolution is not None or not odd or min(pictures.width, pictures.height) < 2:
        return []
    return ["crop=trunc(iw/2)*2:trunc(ih/2)*2:0:0"]


def _drawn_text(colours: Colours) -> str:
    # In HDR full white would be as bright as the sun; this is the white of BT.2408, at 203 cd/m².
    style = ":force_style='PrimaryColour=&H00949494'" if colours.hdr else ""
    return f"subtitles=filename={BURNT_FILE}{style}"


# --- pictures and sound -------------------------------------------------------------------------------------
_UNKNOWN_PICTURES: Final = Pictures.unknown()
"""Of an input that could not be read: ffmpeg itself will say why."""


def _animation(payload: TranscodeGif, source: Source, abilities: Abilities) -> Plan:
    pictures = source.pictures or _UNKNOWN_PICTURES
    colours = colours_of_picture(pictures, "rgb24")
    filters = [
        _at_rate(payload.fps, pictures),
        *_still(payload, pictures, colours, abilities, MAX_VIDEO_PIXELS),
    ]
    after = ["-map", "0:V:0", "-an", "-sn", "-filter:v", ",".join(filters), "-c:v", abilities.of_codec("gif")]
    return Plan(reads_alpha(source), after, _about(pictures), table=colours.table)


def _thumbnail(payload: Thumbnail, source: Source, abilities: Abilities) -> Plan:
    pictures = source.pictures or _UNKNOWN_PICTURES
    jpeg = payload.output_format == "jpg"
    made = "yuvj420p" if jpeg else "rgba" if pictures.format.alpha and not pictures.hdr else "rgb24"
    colours = colours_of_picture(pictures, made)
    filters = _still(payload, pictures, colours, abilities, MAX_PIXELS, jpeg=jpeg)
    after = [
        *("-map", "0:V:0", "-an", "-sn", "-filter:v", ",".join(filters)),
        *("-frames:v", "1", "-update", "1", "-c:v", abilities.of_codec(payload.output_format)),
    ]
    before = [*reads_alpha(source), "-ss", f"{payload.at_seconds:.3f}"]
    return Plan(before, after, _about(pictures, keeps_alpha=made == "rgba"), table=colours.table)


def _still(
    payload: Thumbnail | TranscodeGif,
    pictures: Pictures,
    colours: Colours,
    abilities: Abilities,
    max_pixels: int,
    *,
    jpeg: bool = False,
) -> list[str]:
    """The filters for formats whose viewers know square pixels only."""
    size = size_of(
        pictures,
        payload.resolution,
        payload.fit,
        enlarge=payload.enlarge,
        step=1,
        least=1,
        max_pixels=max_pixels,
        square=True,
    )
    return [
        *_deinterlaced(pictures, "auto", abilities.filters),
        *colour_filters(pictures, colours, size.scale(pictures), full_range=jpeg, frame=size.frame_filters()),
        "setsar=1",
        *without_hdr_data(abilities.filters),
        # As what viewers take pictures for: PNG would go on saying HDR.
        "setparams=color_primaries=bt709:color_trc=iec61966-2-1",
    ]


def _about(pictures: Pictures, *, keeps_alpha: bool = False) -> list[str]:
    warnings = ["HDR is tone-mapped to BT.709"] if pictures.hdr else []
    return warnings if keeps_alpha or not pictures.format.alpha else [*warnings, _BLACK]


def _sound(payload: ExtractAudio, source: Source, abilities: Abilities) -> Plan:
    track = None
    if source.sounds or not isinstance(payload.audio_track, int):
        track = chosen(source.sounds, payload.audio_track, "audio_track", "track")[0]
    number = track.number if track else payload.audio_track
    options, warnings = single_sound(
        track,
        abilities.of_codec(_AUDIO_CODEC[payload.output_format]),
        _MUXERS.get(payload.output_format, payload.output_format),
        payload.audio_bitrate,
        asked="audio_bitrate" in payload.model_fields_set,
    )
    after = ["-map", f"0:a:{number}", "-vn", "-sn", *options, *_of_format(payload.output_format, abilities)]
    return Plan([], after, warnings)
