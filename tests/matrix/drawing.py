"""What is drawn for each member: values that an input and this machine have, so that most cases run through.

The other values of the schema are tried once each, on a usual input: `rare`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from coordinator.miner.executors.ffmpeg.abilities import Abilities
from coordinator.services import video_transcoding
from tests.matrix.inputs import Input
from tests.matrix.values import ABSENT, Kind

INPUT: Final = "input"
FIRST, LAST, LANGUAGE = "@first", "@last", "@language"
"""Stand for a track of the input: its number, or its language."""
_ONE_TRACK: Final = (ABSENT, FIRST, LAST, LANGUAGE)
_VIDEO: Final[Mapping[str, Sequence[Any]]] = {
    "resolution": (ABSENT, None, "128x96", "100x", "x72", "10x10", "x10", "320x180"),
    "at_seconds": (ABSENT, 0, 0.2, 0.05),
    "audio_tracks": (ABSENT, "first", "all", "none", [FIRST], [LAST], [LANGUAGE], [LAST, FIRST]),
    "audio_track": _ONE_TRACK,
    "subtitle_track": _ONE_TRACK,
}
"""In place of the schema's values: its own are mostly larger than a miner takes, or no input has them."""
REFERENCE: Final = "blob:" + "0" * 64


def drawn(kind: Kind, inputs: Sequence[Input], abilities: Abilities | None) -> dict[str, Sequence[Any]]:
    """The values of each member, and the inputs. `abilities` are for videos."""
    fields: dict[str, Sequence[Any]] = {INPUT: [one for one in inputs if _has_what_it_needs(kind, one)]}
    for name, values in kind.fields.items():
        fields[name] = [*values]
        if abilities is not None:
            fields[name] = [one for one in _VIDEO.get(name, values) if _is_here(name, one, abilities)]
    return fields


def rare(kind: Kind, fields: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """The values of the schema that are not drawn, one at a time."""
    needed = {name: values[0] for name, values in kind.fields.items() if values[0] is not ABSENT}
    for name, values in kind.fields.items():
        for value in values:
            if not any(repr(value) == repr(one) for one in fields[name]):
                yield {**needed, name: value}


def resolved(one: Input, values: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of a combination: members that are left out are gone, and tracks are this input's."""
    made = {name: value for name, value in values.items() if value is not ABSENT and name != INPUT}
    for name, languages in (
        ("audio_tracks", one.languages),
        ("audio_track", one.languages),
        ("subtitle_track", one.texts),
    ):
        if isinstance(value := made.get(name), list):
            made[name] = [_track(part, languages) for part in value]
        elif name in made and name != "audio_tracks":
            made[name] = _track(value, languages)
    return made


def allowed_by(kind: Kind, abilities: Abilities | None) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a combination is without contradictions, and the input has the tracks that it names."""

    def allowed(values: Mapping[str, Any]) -> bool:
        one: Input = values[INPUT]
        if abilities is None:
            return True
        sounds = one.languages if one.sound else ()
        if not _are_there(values.get("audio_tracks"), sounds) or not _are_there(
            values.get("audio_track"), sounds
        ):
            return False
        burns = values.get("subtitles") == "burn"
        if burns and not (one.texts and abilities.draws_text):
            return False
        if not _are_there(values.get("subtitle_track"), one.texts):
            return False
        payload = {**resolved(one, values), "input_url": REFERENCE}
        try:
            return video_transcoding.SERVICE.payload.validate_python(payload).contradiction() is None
        except ValidationError:  # without what names its kind, it is another kind's
            return False

    return allowed


def _has_what_it_needs(kind: Kind, one: Input) -> bool:
    if "resolution" in kind.fields:
        return one.pictures
    return one.sound


def _is_here(name: str, value: Any, abilities: Abilities) -> bool:
    match name:
        case "encoder":
            return value != "hardware" or bool(abilities.hardware)
        case "codec" if isinstance(value, str) and value.endswith("_nvenc"):
            return any(encoder.endswith("_nvenc") for encoder in abilities.hardware)
        case _:
            return True


def _are_there(value: Any, languages: Sequence[str]) -> bool:
    parts = value if isinstance(value, list) else [value]
    if LANGUAGE in parts:
        return any(languages)
    return bool(languages) or not {FIRST, LAST}.intersection(part for part in parts if isinstance(part, str))


def _track(part: Any, languages: Sequence[str]) -> Any:
    match part:
        case "@first":
            return 0
        case "@last":
            return len(languages) - 1
        case "@language":
            return next(language for language in languages if language)
        case _:
            return part
