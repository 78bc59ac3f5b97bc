"""What the ffmpeg of this machine can do: asked, and tried where being listed is not enough.

A hardware encoder is listed by every ffmpeg that was built with it, whatever the machine has. It is offered
only after it has encoded some frames here, and after they came back in the right colour.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

from coordinator.miner.executors.errors import ExecutorError
from coordinator.miner.executors.ffmpeg.abilities import Abilities
from coordinator.miner.executors.ffmpeg.encoders import ENCODERS, HARDWARE, before_input, family_of
from coordinator.miner.executors.process import run_program

CHECK_TIMEOUT_SECONDS: Final = 30.0
TRIED_FRAMES: Final = 5
TRIED_SIZE: Final = "320x240"
DEVICES: Final = Path("/dev")
_DEVICES: Final[dict[str, tuple[str, ...]]] = {
    "nvenc": ("nvidia[0-9]*", "nvidiactl", "nvhost-*", "dxg"),
    "qsv": ("dri/renderD*", "dxg"),
    "vaapi": ("dri/renderD*",),
    "amf": ("dri/renderD*", "dxg"),
    "videotoolbox": ("none",),
}
"""Linux's device files of each family, as patterns; without any of them there is nothing to try."""
_LISTED: Final = re.compile(r"^ [VAS][F.][S.][X.][B.][D.] (\S+)", re.MULTILINE)
_FORMATS: Final = re.compile(r"Supported pixel formats: (.+)")
_FILTER: Final = re.compile(r"^ [T.][S.][C.]? ?(\w+) +\S+->\S+", re.MULTILINE)
_NEEDED_FILTERS: Final = ("scale", "format", "showinfo", "lut3d", "setparams", "pad", "crop", "setsar")
_MEAN: Final = re.compile(r"\] n: *(\d+) .*mean:\[(\d+) ")
_AV1_DECODERS: Final = frozenset({"libdav1d", "libaom-av1", "libgav1"})
"""ffmpeg's own one needs a GPU."""
_WHITE: Final = 200
"""Luma of white is 235; some encoders lose a little."""
_TRIED_TEXT: Final = """[Script Info]
ScriptType: v4.00+
PlayResX: 320
PlayResY: 240

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, Alignment
Style: Default,Arial,96,&H00FFFFFF,5

[Events]
Format: Layer, Start, End, Style, Text
Dialogue: 0,0:00:00.00,0:00:09.00,Default,HHH
"""


_builds: Final[dict[tuple[object, ...], list[str]]] = {}
_asking: Final = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]()


async def abilities_of(program: str, folder: Path, devices: Path = DEVICES) -> Abilities:
    """The abilities of this ffmpeg. Raises ExecutorError if it does not start."""
    video = sorted({name for codec in HARDWARE for name in ENCODERS[codec]})
    listing, decoding, filtering, options, muxer, *described = await _described(program, folder, video)
    wanted = {name for names in (*ENCODERS.values(), *HARDWARE.values()) for name in names}
    listed = wanted & set(_LISTED.findall(listing))
    software = {name for name in listed if family_of(name) is None}
    decoders = frozenset(_LISTED.findall(decoding))
    if not _AV1_DECODERS & decoders:
        software -= set(ENCODERS["av1"])  # an output counts after it was decoded
    formats = {
        name: frozenset(found[1].split())
        for name, text in zip(video, described, strict=True)
        if name in software and (found := _FORMATS.search(text))
    }
    filters = frozenset(_FILTER.findall(filtering))
    made = Abilities(
        frozenset(software),
        formats,
        filters,
        frame_times="-fps_mode" if "-fps_mode" in options else "-vsync",
        cues_to_front="cues_to_front" in muxer,
        decoders=decoders,
        draws_text="subtitles" in filters and await _draws_text(program, folder),
    )
    return await _with_hardware(program, folder, made, sorted(listed - software), devices)


def lacking_filters(abilities: Abilities) -> list[str]:
    """Filters without which hardly any job is possible."""
    return [name for name in _NEEDED_FILTERS if name not in abilities.filters]


async def _with_hardware(
    program: str, folder: Path, abilities: Abilities, listed: Sequence[str], devices: Path
) -> Abilities:
    """The abilities with the hardware encoders that work."""
    working: dict[str, str] = {}
    formats = dict(abilities.formats)
    for name in listed:
        for device in _devices_of(family_of(name) or "", devices):
            if not await encodes(program, folder, name, device, "nv12"):
                continue
            working[name] = device
            deep = not name.startswith("h264") and await encodes(program, folder, name, device, "p010le")
            formats[name] = frozenset({"nv12", "p010le"} if deep else {"nv12"})
            break
    return replace(
        abilities,
        encoders=abilities.encoders | set(working),
        formats=formats,
        devices={name: device for name, device in working.items() if device},
    )


def _devices_of(family: str, devices: Path) -> list[str]:
    """The devices to try for a family; "" is one that ffmpeg finds by itself."""
    if sys.platform != "linux":
        return [""]
    found = sorted(path for pattern in _DEVICES[family] for path in devices.glob(pattern))
    if family == "vaapi":
        return [str(path) for path in found]
    return [""] if found else []


async def encodes(program: str, folder: Path, encoder: str, device: str, pixel_format: str) -> bool:
    """Whether an encoder turns white frames into a video of as many white frames. Never raises."""
    made = folder / "tried.mkv"
    filters = f"format={pixel_format}" + (",hwupload" if family_of(encoder) == "vaapi" else "")
    encode = [
        *(program, "-v", "error", "-nostdin", "-y", *before_input(encoder, device)),
        *("-f", "lavfi", "-i", f"color=c=white:size={TRIED_SIZE}:rate=5:duration={TRIED_FRAMES / 5:g}"),
        *("-vf", filters, "-c:v", encoder, "-f", "matroska", f"file:{made.name}"),
    ]
    try:
        made.unlink(missing_ok=True)
        # Drivers reserve memory that nobody uses.
        finished = await run_program(
            encode, folder=folder, timeout_seconds=CHECK_TIMEOUT_SECONDS, limits_data=False
        )
        if finished.returncode != 0 or not await asyncio.to_thread(made.exists):
            return False
        frames = await _luma(program, folder, ["-i", f"file:{made.name}"], "showinfo")
    except ExecutorError:
        return False
    return len(frames) == TRIED_FRAMES and all(luma >= _WHITE for luma in frames)


async def _draws_text(program: str, folder: Path) -> bool:
    """Whether text leaves something on a black frame: without fonts ffmpeg draws nothing and succeeds."""
    (folder / "tried.ass").write_text(_TRIED_TEXT, encoding="utf-8")
    source = ["-f", "lavfi", "-i", f"color=c=black:size={TRIED_SIZE}:rate=1:duration=1,format=yuv420p"]
    try:
        frames = await _luma(program, folder, source, "subtitles=filename=tried.ass,showinfo")
    except ExecutorError:
        return False
    return bool(frames) and frames[0] > 20  # black is 16


async def _luma(program: str, folder: Path, source: Sequence[str], filters: str) -> list[int]:
    """The mean brightness of each frame, 0..255; of deeper ones, too."""
    means: list[int] = []

    def on_line(line: str) -> None:
        if found := _MEAN.search(line):
            means.append(int(found[2]))

    chain = f"format=yuv420p,{filters}"
    await run_program(
        [program, "-hide_banner", "-nostdin", "-nostats", *source, "-vf", chain, "-f", "null", "-"],
        folder=folder,
        timeout_seconds=CHECK_TIMEOUT_SECONDS,
        on_stderr=on_line,
    )
    return means


async def _described(program: str, folder: Path, video: Sequence[str]) -> list[str]:
    """What this build has, and its encoders. All executors of a process ask once, until the file changes."""
    questions = [
        ("-encoders",),
        ("-decoders",),
        ("-filters",),
        ("-h", "long"),
        ("-h", "muxer=matroska"),
        *(("-h", f"encoder={name}") for name in video),
    ]
    async with _asking.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        build = await asyncio.to_thread(_build_of, program)
        if build in _builds:
            return _builds[build]
        answers = await asyncio.gather(*(_ask(program, folder, "-hide_banner", *q) for q in questions))
        if build and all(answers[:3]):  # a program that failed may work next time
            _builds[build] = answers
        return answers


def _build_of(program: str) -> tuple[object, ...]:
    """What tells this file from another one; empty if there is none."""
    try:
        path = Path(shutil.which(program) or program).resolve()
        found = path.stat()
    except OSError:
        return ()
    return (path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


async def _ask(program: str, folder: Path, *arguments: str) -> str:
    """The output of ffmpeg; empty if it fails. Raises ExecutorError if it does not start or end."""
    lines: list[str] = []
    finished = await run_program(
        [program, *arguments], folder=folder, timeout_seconds=CHECK_TIMEOUT_SECONDS, on_stdout=lines.append
    )
    return "\n".join(lines) if finished.returncode == 0 else ""


async def version_of(program: str, folder: Path) -> str:
    """What ffmpeg says about its version; empty if it fails. Raises ExecutorError if it does not start."""
    return await _ask(program, folder, "-version")
