"""The schema that is made of a service's models accepts exactly what they accept."""

import copy
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import jsonschema_rs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from coordinator import services
from coordinator.services.base import KnownService
from coordinator.services.catalog import load_catalog
from tests.harness.cases import every
from tests.harness.length import examples

ENTRIES = {entry["id"]: entry for entry in load_catalog()}
KNOWN: dict[str, KnownService[Any, Any]] = {
    module.SERVICE.id: module.SERVICE
    for module in (
        import_module(f"{services.__name__}.{file.name}") for file in iter_modules(services.__path__)
    )
    if hasattr(module, "SERVICE")
}
VALIDATORS = {name: jsonschema_rs.Draft202012Validator(ENTRIES[name]["input_schema"]) for name in KNOWN}
REF = "blob:" + "0123456789abcdef" * 4


def accepted_by_executor(service: str, payload: Any) -> bool:
    try:
        KNOWN[service].payload.validate_python(payload)
    except ValidationError:
        return False
    return True


def chat(*contents: Any, **more: Any) -> list[Any]:
    return [{"role": "user", "content": content, **more} for content in contents]


@every(
    ("service", "payload", "accepted"),
    [
        ("llm_inference", {"model": "m", "prompt": "x"}, True),
        ("llm_inference", {"model": "m", "messages": chat("x", "y")}, True),
        ("llm_inference", {"model": "m", "messages": chat("x"), "prompt": "x"}, False),
        ("llm_inference", {"model": "m", "messages": []}, False),
        ("llm_inference", {"prompt": "x"}, False),
        ("checksum", {"text": "hello"}, True),
        ("checksum", {"inputs": [REF], "algorithm": "sha512"}, True),
        ("checksum", {}, False),
        ("checksum", {"text": "x", "inputs": [REF]}, False),
        ("checksum", [], False),
        ("video_transcoding", {"input_url": REF}, True),
        ("video_transcoding", {"input_url": REF, "output_format": "mp3"}, True),
        ("video_transcoding", {"input_url": REF, "output_format": "png", "at_seconds": 1.5}, True),
        ("video_transcoding", {"input_url": REF, "operation": "extract_audio"}, True),
        ("video_transcoding", {"input_url": REF, "output_format": "webm", "codec": "av1"}, True),
        ("video_transcoding", {"input_url": REF, "output_format": "webm", "codec": "h264"}, False),
        ("video_transcoding", {"input_url": REF, "operation": "thumbnail", "output_format": "mp3"}, False),
        ("video_transcoding", {"input_url": REF, "crf": 52}, False),
        ("video_transcoding", {"input_url": REF, "crf": True}, False),
        ("video_transcoding", {"input_url": "https://example.com/clip.mp4"}, True),
        ("video_transcoding", {"input_url": "ftp://example.com/clip.mp4"}, False),
        ("video_transcoding", {"input_url": "/etc/passwd"}, False),
        ("video_transcoding", {"input_url": REF, "custom_args": ["-vf", "x"]}, False),
        ("video_transcoding", "text", False),
    ],
)
def test_examples_are_decided_alike(service: str, payload: Any, accepted: bool) -> None:
    """Typical and hostile payloads, decided as a reader of the schema expects."""
    assert accepted == VALIDATORS[service].is_valid(payload)
    assert accepted == accepted_by_executor(service, payload)


# --- every service: its examples, changed in a few places at random -----------------------------------------
AUDIO = [
    {"operation": "trim", "start_seconds": 1, "end_seconds": 2.5},
    {"operation": "fade", "in_seconds": 1, "out_seconds": 60},
    {"operation": "reduce_noise", "strength": 1},
    {"operation": "normalize", "loudness_lufs": -23},
    {"operation": "remove_silence", "threshold_db": -40, "min_seconds": 0.1},
    {"operation": "change_speed", "factor": 0.25},
    {"operation": "change_pitch", "semitones": -24},
    {"operation": "separate", "stems": "vocals_and_rest"},
]
IMAGE = [
    {"operation": "resize", "width": 1, "height": 16_384, "fit": "cover"},
    {"operation": "crop", "left": 0, "top": 65_535, "width": 1, "height": 65_536},
    {"operation": "rotate", "degrees": -90.5},
    {"operation": "flip", "direction": "vertical"},
    {"operation": "upscale", "factor": 4, "faces": True},
    {"operation": "denoise", "strength": 0},
    {"operation": "sharpen"},
    {"operation": "blur", "radius": 250},
    {"operation": "adjust", "brightness": 4, "contrast": 0, "saturation": 1},
    {"operation": "remove_background", "soft_edges": False},
]
DATA = [
    {"step": "select", "columns": ["a", "b c"]},
    {"step": "drop_duplicates", "columns": ["a"]},
    {"step": "drop_missing"},
    {"step": "fill_missing", "columns": ["a"], "with": "constant", "value": 1.5},
    {"step": "cast", "columns": ["a"], "to": "date", "on_error": "null"},
    {"step": "scale", "columns": ["a"], "method": "robust"},
    {"step": "one_hot", "columns": ["a"], "max_categories": 2},
    {"step": "clean_text", "columns": ["a"], "unicode": "NFKC", "lower_case": True, "strip_html": False},
    {"step": "tokenize", "column": "a", "model": "m", "max_length": 1},
    {"step": "deduplicate_text", "column": "a", "similarity": 1},
    {"step": "sample", "fraction": 0.5},
    {"step": "shuffle"},
]
VIDEO = {"preset": "fast", "crf": 51, "resolution": "640x480", "bitrate": "4M", "fps": None}
MORE: dict[str, list[Any]] = {
    "checksum": [{"text": "x", "inputs": None}, {"text": None, "inputs": [REF], "algorithm": "blake2b"}],
    "llm_inference": [
        {
            "model": "org/m:1",
            "messages": chat("x", [{"type": "text", "text": "x"}], name="a"),
            "seed": 2**53 - 1,
            "stop_sequences": ["x"],
            "frequency_penalty": -2,
            "presence_penalty": 2,
            "repetition_penalty": 0,
            "top_k": 100,
            "top_p": 1,
        },
        {"model": "m", "prompt": "x", "stop_sequences": None, "seed": None},
    ],
    "video_transcoding": [
        {"input_url": REF, **VIDEO, "output_format": "mkv", "codec": "h265_nvenc", "audio_codec": "mp3"},
        {"input_url": REF, **VIDEO, "output_format": "webm", "codec": "av1", "audio_codec": "vorbis"},
        {"input_url": REF, "operation": "transcode", "output_format": "gif", "resolution": None, "fps": 50},
        {"input_url": REF, "operation": "thumbnail", "output_format": "png", "at_seconds": 1e6},
        {"input_url": REF, "output_format": "flac"},
    ],
    "3d_rendering": [
        {"blend_file_url": REF, "frame_start": 0, "frame_end": None, "samples": 1, "denoise": False}
    ],
    "audio_processing": [
        {"input_url": REF, "operations": AUDIO[:4]},
        {"input_url": REF, "operations": AUDIO[4:]},
    ],
    "image_processing": [
        *({"images": [REF], "operations": [one]} for one in IMAGE),
        {"images": [REF], "background": "#00ff7F", "profile": "srgb"},
    ],
    "data_processing": [
        *(
            {"inputs": [REF], "steps": [one], "split": {"train": 1, "validation": 0, "test": 0}}
            for one in DATA
        ),
        {"inputs": [REF], "steps": DATA[:1], "types": "infer", "missing": [], "encoding": "cp1252"},
        {
            "inputs": [REF],
            "steps": DATA[:1],
            "types": {"Straße": "date", "a": "text"},
            "csv": {"delimiter": "\t", "quote": "", "header": False, "ragged": "pad", "decimal_comma": True},
        },
    ],
    "image_generation": [
        {"prompt": "x", "seed": 5},
        {"prompt": "x", "lora": "a/b", "lora_scale": 2, "scheduler": None},
    ],
    "speech_recognition": [
        {"audio_url": REF, "suppress_tokens": [-1, 7], "best_of": 10, "temperature": 1, "fp16": False}
    ],
    "reranking": [{"query": "x", "documents": ["x", "y"], "top_n": 1, "model": "org/m:1"}],
    "text_to_speech": [
        {
            "text": "x",
            "voice": "a",
            "format": "pcm",
            "speed": 4,
            "instructions": "softly",
            "model": "org/m:1",
        },
        {"text": "x", "voice": "a", "instructions": None},
    ],
    "text_embedding": [{"texts": ["x"] * 64, "normalize": False, "truncate": False, "model": "org/m:1"}],
}
STRANGE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 2.0, 0.5, 1.5, 4, 100, 101, 44_100, 1e6, 1e7, 2**53),
    *(23, 23.5, 50, 51, 52, 120, 121, 4096, 4097),
    *("transcode", "extract_audio", "thumbnail", "mp4", "webm", "gif", "mp3", "png", "m3u8"),
    *("h264", "vp9", "h264_nvenc", "aac", "opus", "641x480", "0x0", "640x480;rm -rf", "640x480\n"),
    *("128k", "0k", "1000M", "sha512", "md5", "a b", "-m", "a/../b", chat("x"), chat(None), chat([])),
    *("", "a", "m", "x" * 1001, "x" * 8193, "constant", "resize", "trim", "a; b", "\n", "base", "512x512"),
    *(
        "auto",
        "infer",
        ";",
        "::",
        "utf-8",
        "é",
        "#12345",
        "#123456",
        {"a": "number"},
        {"a": "x"},
        {"": "text"},
    ),
    *(REF, "https://example.org/a", "http://x y", "file:///x", [], {}, [[]], ["a", "a"], ["a"] * 300),
]


FIELDS = (
    "unknown",
    "value",
    "model",
    "columns",
    "seed",
    "strength",
    "kind",
    "operation",
    "output_format",
    "text",
)


@st.composite
def changed(draw: st.DrawFn, service: str) -> Any:
    """An example of the service's with up to three places removed, replaced or added to."""
    payload = copy.deepcopy(
        draw(st.sampled_from([*ENTRIES[service]["input_schema"]["examples"], *MORE[service]]))
    )
    for _ in range(draw(st.integers(0, 3))):
        places = list(_places(payload))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                holder[key] = copy.deepcopy(draw(st.sampled_from(STRANGE)))
            case "remove":
                del holder[key]
            case _ if isinstance(holder, dict):
                name = draw(st.sampled_from(FIELDS))
                holder[name] = copy.deepcopy(draw(st.sampled_from(STRANGE)))
            case _:
                holder.append(copy.deepcopy(draw(st.sampled_from(STRANGE))))
    return payload


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document: what holds it, and its key or index there."""
    for key in (
        list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    ):
        yield value, key
        yield from _places(value[key])


@every("service", sorted(MORE))
def test_schema_and_executor_agree(service: str) -> None:
    """What the registry lets in, the executor takes, and what it refuses, the executor would refuse.

    Types and bounds have one source; patterns, rules over several fields and whole numbers are said twice.
    """

    def check(payload: Any) -> None:
        assert VALIDATORS[service].is_valid(payload) == accepted_by_executor(service, payload), payload

    for example in [*ENTRIES[service]["input_schema"]["examples"], *MORE[service]]:
        assert accepted_by_executor(service, example)
        payload = copy.deepcopy(example)
        for holder, key in list(_places(payload)):
            kept = holder[key]
            for holder[key] in STRANGE:
                check(payload)
            holder[key] = kept
    settings(max_examples=examples(200), suppress_health_check=list(HealthCheck))(
        given(changed(service))(check)
    )()
