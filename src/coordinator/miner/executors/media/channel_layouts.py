"""Channel layouts as ffmpeg names them: their speakers, and the way from one to another. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

SPEAKERS: Final[dict[str, tuple[str, ...]]] = {
    name: tuple(speakers.split("+"))
    for name, speakers in {
        "mono": "FC",
        "stereo": "FL+FR",
        "2.1": "FL+FR+LFE",
        "3.0": "FL+FR+FC",
        "3.0(back)": "FL+FR+BC",
        "4.0": "FL+FR+FC+BC",
        "quad": "FL+FR+BL+BR",
        "quad(side)": "FL+FR+SL+SR",
        "3.1": "FL+FR+FC+LFE",
        "5.0": "FL+FR+FC+BL+BR",
        "5.0(side)": "FL+FR+FC+SL+SR",
        "4.1": "FL+FR+FC+LFE+BC",
        "5.1": "FL+FR+FC+LFE+BL+BR",
        "5.1(side)": "FL+FR+FC+LFE+SL+SR",
        "6.0": "FL+FR+FC+BC+SL+SR",
        "6.0(front)": "FL+FR+FLC+FRC+SL+SR",
        "3.1.2": "FL+FR+FC+LFE+TFL+TFR",
        "hexagonal": "FL+FR+FC+BL+BR+BC",
        "6.1": "FL+FR+FC+LFE+BC+SL+SR",
        "6.1(back)": "FL+FR+FC+LFE+BL+BR+BC",
        "6.1(front)": "FL+FR+LFE+FLC+FRC+SL+SR",
        "7.0": "FL+FR+FC+BL+BR+SL+SR",
        "7.0(front)": "FL+FR+FC+FLC+FRC+SL+SR",
        "7.1": "FL+FR+FC+LFE+BL+BR+SL+SR",
        "7.1(wide)": "FL+FR+FC+LFE+BL+BR+FLC+FRC",
        "7.1(wide-side)": "FL+FR+FC+LFE+FLC+FRC+SL+SR",
        "5.1.2": "FL+FR+FC+LFE+SL+SR+TFL+TFR",
        "5.1.2(back)": "FL+FR+FC+LFE+BL+BR+TFL+TFR",
        "octagonal": "FL+FR+FC+BL+BR+BC+SL+SR",
        "cube": "FL+FR+BL+BR+TFL+TFR+TBL+TBR",
        "5.1.4": "FL+FR+FC+LFE+SL+SR+TFL+TFR+TBL+TBR",
        "7.1.2": "FL+FR+FC+LFE+BL+BR+SL+SR+TFL+TFR",
        "7.1.4": "FL+FR+FC+LFE+BL+BR+SL+SR+TFL+TFR+TBL+TBR",
        "7.2.3": "FL+FR+FC+LFE+BL+BR+SL+SR+TFL+TFR+TBC+LFE2",
        "9.1.4": "FL+FR+FC+LFE+BL+BR+FLC+FRC+SL+SR+TFL+TFR+TBL+TBR",
        "9.1.6": "FL+FR+FC+LFE+BL+BR+FLC+FRC+SL+SR+TFL+TFR+TBL+TBR+TSL+TSR",
        "hexadecagonal": "FL+FR+FC+BL+BR+BC+SL+SR+TFL+TFC+TFR+TBL+TBC+TBR+WL+WR",
        "binaural": "BIL+BIR",
        "downmix": "DL+DR",
        "22.2": "FL+FR+FC+LFE+BL+BR+FLC+FRC+BC+SL+SR+TC+TFL+TFC+TFR+TBL+TBC+TBR+LFE2+TSL+TSR+BFC+BFL+BFR",
    }.items()
}
"""The speakers of ffmpeg's layouts, in the order of the channels (`ffmpeg -layouts`)."""
BY_COUNT: Final = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")
"""The layout of 1, 2, … channels where a file says nothing (FLAC, RFC 9639 §9.1.3; so does Vorbis)."""
_COUNTED: Final = re.compile(r"(\d{1,4}) channels(?: \(([A-Z0-9+]+)\))?")
_AMBISONIC: Final = re.compile(r"ambisonic (\d{1,2})(?:\+(.+))?")
_PAIRS: Final = (("FL", "FR"), ("SL", "SR"), ("BL", "BR"), ("FLC", "FRC"))
_OTHER_PLACES: Final = {
    "FC": ("FL", "FR"),
    "BC": ("BL", "BR"),
    "SL": ("BL",),
    "SR": ("BR",),
    "BL": ("SL",),
    "BR": ("SR",),
}
"""Where a speaker's sound is heard well enough if a layout lacks the speaker."""
_MIXED: Final = {"FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TFL", "TFR"}
"""The speakers that ffmpeg's resampler mixes down. It leaves out others without a word."""
_BENEATH: Final = {
    speaker: tuple(beneath.split("+"))
    for beneath, speakers in {
        "FL": ("FLC", "WL", "TFL", "BFL"),
        "FR": ("FRC", "WR", "TFR", "BFR"),
        "FC": ("TFC", "BFC"),
        "FL+FR": ("TC",),
        "SL": ("TSL", "SDL", "SSL", "TTL"),
        "SR": ("TSR", "SDR", "SSR", "TTR"),
        "BL": ("TBL",),
        "BR": ("TBR",),
        "BL+BR": ("BC", "TBC"),
        "LFE": ("LFE2",),
    }.items()
    for speaker in speakers
}
"""The speakers of 7.1 that are nearest to others."""
_HALF_POWER: Final = 0.7071
_NO_SCALING: Final = 100
_PEAK: Final = 0.98


def speakers_of(layout: str) -> tuple[str, ...] | None:
    """The speakers of a layout's channels; None if they are not known: `3 channels`, `ambisonic 1`."""
    if layout in SPEAKERS:
        return SPEAKERS[layout]
    counted = _COUNTED.fullmatch(layout)
    return tuple(counted[2].split("+")) if counted and counted[2] else None


def channels_of(layout: str) -> int:
    """The number of channels of a layout. Raises ValueError for one that ffmpeg does not write."""
    if layout in SPEAKERS:
        return len(SPEAKERS[layout])
    if counted := _COUNTED.fullmatch(layout):
        return int(counted[1])
    if ambisonic := _AMBISONIC.fullmatch(layout):
        return (int(ambisonic[1]) + 1) ** 2 + (channels_of(ambisonic[2]) if ambisonic[2] else 0)
    raise ValueError(f"unknown channel layout: {layout[:50]}")


def lost_speakers(layout: str, other: str) -> int:
    """The number of a layout's speakers that have no place of their own in another layout; all if unknown."""
    ours, theirs = speakers_of(layout), speakers_of(other)
    if ours is None or theirs is None:
        return 0 if layout == other else channels_of(layout)
    free = set(theirs) - set(ours)
    lost = 0
    for speaker in ours:
        places = (speaker,) if speaker in theirs else _OTHER_PLACES.get(speaker, ())
        if not places or not (speaker in theirs or free.issuperset(places)):
            lost += 1
        free -= set(places)
    return lost


def nearest_layout(layout: str, choices: Sequence[str]) -> str:
    """The choice that loses the fewest of a layout's speakers, and of those the smallest."""
    if layout in choices:
        return layout
    known = layout if _can_be_mixed(layout) else _assumed(layout)
    if known is None:
        return max(choices, key=channels_of)
    return min(choices, key=lambda choice: (lost_speakers(known, choice), channels_of(choice)))


def conversion(layout: str, target: str) -> tuple[str, ...]:
    """ffmpeg's filters from one layout to another of SPEAKERS; none if nothing changes.

    ffmpeg mixes by itself what has pairs of speakers. Other channels are taken as the layout of BY_COUNT for
    their number first; if there are more of them, or for mono, each is heard equally.
    """
    if layout == target:
        return ()
    into = _mixed(layout, target)
    if _can_be_mixed(layout):
        if _MIXED.issuperset(speakers_of(layout) or ()):
            return into
        return (_folded(layout),) if target == "7.1" else (_folded(layout), *into)
    count = channels_of(layout)
    if _AMBISONIC.fullmatch(layout):
        # The first channel is the sound from all around (W).
        return (_pan("mono", [{0: 1.0}]), *(() if target == "mono" else into))
    if target == "mono" and speakers_of(layout) is None:
        return (_pan("mono", [_equally(range(count))]),)
    if (assumed := _assumed(layout)) is not None:
        # Not `pan`: that asks the resampler, which refuses the layout.
        taken = f"channelmap=map={'|'.join(map(str, range(count)))}:channel_layout={assumed}"
        return (taken,) if assumed == target else (taken, *into)
    halves = _pan("stereo", [_equally(range(0, count, 2)), _equally(range(1, count, 2))])
    return (halves,) if target == "stereo" else (halves, *into)


def _can_be_mixed(layout: str) -> bool:
    """Whether ffmpeg's resampler mixes it: it wants a front speaker, and both or none of each pair."""
    speakers = speakers_of(layout) or ()
    even = all((left in speakers) == (right in speakers) for left, right in _PAIRS)
    return even and ("FC" in speakers or "FL" in speakers)


def _assumed(layout: str) -> str | None:
    """The layout that channels without a usable one are taken as."""
    count = channels_of(layout)
    if _AMBISONIC.fullmatch(layout):
        return "mono"
    return BY_COUNT[count - 1] if 1 <= count <= len(BY_COUNT) else None


def _mixed(layout: str, target: str) -> tuple[str, ...]:
    """The resampler's own way (ITU-R BS.775); peaks over full scale are lowered. Mono is the mean of stereo.

    Gains whose sum is 1 would never clip either, but make 5.1 quieter by 8 dB.
    """
    volume = f":rematrix_volume={_HALF_POWER}" if target == "mono" else ""
    mix = f"aresample=ochl={target}:rematrix_maxval={_NO_SCALING}{volume}"
    if not lost_speakers(layout, target):
        return (mix,)
    return ("aformat=sample_fmts=fltp", mix, f"alimiter=limit={_PEAK}:level=disabled:latency=1")


def _folded(layout: str) -> str:
    """A filter to 7.1 in which every speaker of a larger layout is heard, all at the same loss of level."""
    bed = SPEAKERS["7.1"]
    gains: dict[str, dict[int, float]] = {speaker: {} for speaker in bed}
    for channel, speaker in enumerate(speakers_of(layout) or ()):
        if speaker in bed:
            gains[speaker][channel] = 1.0
        for other in _BENEATH.get(speaker, ()):
            gains[other][channel] = _HALF_POWER
    # By power: the sounds of so many speakers are not alike, so their peaks do not add up.
    loudest = max(math.hypot(*of.values()) for of in gains.values())
    return _pan("7.1", [{channel: gain / loudest for channel, gain in gains[each].items()} for each in bed])


def _equally(channels: range) -> dict[int, float]:
    return {channel: 1 / len(channels) for channel in channels}


def _pan(target: str, gains: Sequence[Mapping[int, float]]) -> str:
    """A filter that makes each channel of a layout of so much of the source's channels."""
    sums = ("+".join(f"{gain:.6f}*c{channel}" for channel, gain in of.items()) or "0*c0" for of in gains)
    return f"pan={target}|" + "|".join(f"c{number}={made}" for number, made in enumerate(sums))
