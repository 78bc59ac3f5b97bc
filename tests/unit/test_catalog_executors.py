"""A service's schema accepts exactly what its executor accepts."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from coordinator.miner.executors.audio.arguments import AudioPayload
from coordinator.miner.executors.blender.executor import RenderPayload
from coordinator.miner.executors.checksum import ChecksumPayload
from coordinator.miner.executors.data.payload import DataPayload
from coordinator.miner.executors.embedding.executor import EmbeddingPayload
from coordinator.miner.executors.ffmpeg.arguments import PAYLOAD
from coordinator.miner.executors.image_generation import ImagePayload
from coordinator.miner.executors.images.payload import ImagesPayload
from coordinator.miner.executors.llm.payload import LlmPayload
from coordinator.miner.executors.speech import SpeechPayload
from coordinator.services.catalog import load_catalog

ENTRIES = {entry["id"]: entry for entry in load_catalog()}
PARSERS: dict[str, Callable[[Any], object]] = {
    "checksum": ChecksumPayload.model_validate,
    "llm_inference": LlmPayload.model_validate,
    "text_embedding": EmbeddingPayload.model_validate,
    "speech_recognition": SpeechPayload.model_validate,
    "image_generation": ImagePayload.model_validate,
    "image_processing": ImagesPayload.model_validate,
    "audio_processing": AudioPayload.model_validate,
    "data_processing": DataPayload.model_validate,
    "3d_rendering": RenderPayload.model_validate,
    "video_transcoding": PAYLOAD.validate_python,
}
VALIDATORS = {name: jsonschema_rs.Draft202012Validator(ENTRIES[name]["input_schema"]) for name in PARSERS}
REF = "blob:" + "0123456789abcdef" * 4


def accepted_by_executor(service: str, payload: Any) -> bool:
    try:
        PARSERS[service](payload)
    except ValidationError:
        return False
    return True


# Values that are right for some field, wrong for others, or nearly right.
POOL: list[Any] = [
    REF,
    "http://localhost/video.mp4",
    *("transcode", "extract_audio", "thumbnail", "custom"),
    *("mp4", "mkv", "webm", "gif", "mp3", "m4a", "wav", "flac", "ogg", "jpg", "png", "m3u8"),
    *("h264", "h265", "vp9", "av1", "h264_nvenc", "aac", "opus", "vorbis", "medium", "veryslow"),
    *("640x480", "641x480", "0x0", "640x480;rm -rf", "640x480\n", "9998x10", "128k", "4M", "0k", "1000M"),
    *(0, 1, -1, 23, 23.0, 23.5, 50, 51, 52, 120, 121, 1e6, 1e7, True, False, None, "23", [], {}),
    *("sha256", "sha512", "blake2b", "md5", "", "text", "é", "x" * 65_536, "x" * 65_537),
    *([REF], [REF, REF], [REF] * 100, [REF] * 101, [1], ["blob:x"], [None]),
]
values = st.sampled_from(POOL)


def payloads(fields: dict[str, list[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects over these fields, mostly with values that fit, sometimes with others or an unknown field."""
    members = {name: st.sampled_from(fitting) | values for name, fitting in fields.items()}
    return st.fixed_dictionaries({}, optional={**members, "unknown_field": values})


@settings(max_examples=2000)
@given(
    payloads(
        {
            "input_url": [REF],
            "operation": ["transcode", "extract_audio", "thumbnail"],
            "output_format": ["mp4", "mkv", "webm", "gif", "mp3", "flac", "jpg", "png"],
            "codec": ["h264", "vp9", "av1", "h265_nvenc"],
            "preset": ["ultrafast", "medium"],
            "crf": [0, 51, 23.0, None],
            "resolution": ["640x480", None],
            "bitrate": ["4M", "800k", "64000", None],
            "fps": [1, 50, 120, 25.0, None],
            "audio_codec": ["aac", "mp3", "opus", "vorbis"],
            "audio_bitrate": ["128k"],
            "at_seconds": [0, 0.5, 1e6],
        }
    )
)
def test_video_schema_and_executor_agree(payload: dict[str, Any]) -> None:
    """What the registry lets in, the executor runs, and what it refuses, the executor would refuse."""
    assert VALIDATORS["video_transcoding"].is_valid(payload) == accepted_by_executor(
        "video_transcoding", payload
    )


@settings(max_examples=1000)
@given(
    payloads(
        {
            "algorithm": ["sha256", "blake2b"],
            "text": ["", "é", None],
            "inputs": [[REF], None],
        }
    )
)
def test_checksum_schema_and_executor_agree(payload: dict[str, Any]) -> None:
    """What the registry lets in, the executor runs, and what it refuses, the executor would refuse."""
    assert VALIDATORS["checksum"].is_valid(payload) == accepted_by_executor("checksum", payload)


def chat(*contents: Any, **more: Any) -> list[Any]:
    return [{"role": "user", "content": content, **more} for content in contents]


@settings(max_examples=2000)
@given(
    payloads(
        {
            "model": ["llama-7b", "org/model:1", "-m", "a/../b"],
            "prompt": ["x", "x" * 10_000, "x" * 10_001],
            "messages": [
                chat("x"),
                chat([{"type": "text", "text": "x"}]),
                chat([]),
                chat([{"type": "image_url", "text": "x"}]),
                chat(None),
                chat("x", name="alice"),
                chat("x", name="a b"),
                chat("x", name=None, role="tool"),
                chat(*["x"] * 256),
                chat(*["x"] * 257),
            ],
            "max_tokens": [1, 4096, 4097, 12.0],
            "temperature": [0, 2, 2.1],
            "top_p": [0, 1, 0.5],
            "top_k": [0, 100, 101, 1.5],
            "repetition_penalty": [0, 1.1],
            "frequency_penalty": [-2, 2, -3],
            "presence_penalty": [0.5, None],
            "stop_sequences": [[], ["x"], [""], ["x"] * 17, None],
            "seed": [0, 2**53 - 1, 2**53, None],
            "stream": [True, False, None],
        }
    )
)
def test_llm_schema_and_executor_agree(payload: dict[str, Any]) -> None:
    """What the registry lets in, the executor runs, and what it refuses, the executor would refuse."""
    payload = {"model": "llama-7b", **payload}
    assert VALIDATORS["llm_inference"].is_valid(payload) == accepted_by_executor("llm_inference", payload)


@pytest.mark.parametrize(
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


# --- the other services: their examples, changed in a few places at random ----------------------------------
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
MORE: dict[str, list[Any]] = {
    "3d_rendering": [
        {"blend_file_url": REF, "frame_start": 0, "frame_end": None, "samples": 1, "denoise": False}
    ],
    "audio_processing": [
        {"input_url": REF, "operations": AUDIO[:4]},
        {"input_url": REF, "operations": AUDIO[4:]},
    ],
    "image_processing": [{"images": [REF], "operations": [one]} for one in IMAGE],
    "data_processing": [
        {"inputs": [REF], "steps": [one], "split": {"train": 1, "validation": 0, "test": 0}} for one in DATA
    ],
    "image_generation": [
        {"prompt": "x", "seed": 5},
        {"prompt": "x", "lora": "a/b", "lora_scale": 2, "scheduler": None},
    ],
    "speech_recognition": [
        {"audio_url": REF, "suppress_tokens": [-1, 7], "best_of": 10, "temperature": 1, "fp16": False}
    ],
    "text_embedding": [{"texts": ["x"] * 64, "normalize": False, "truncate": False, "model": "org/m:1"}],
}
STRANGE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 2.0, 0.5, 1.5, 4, 100, 101, 44_100, 1e6, 1e7, 2**53),
    *("", "a", "m", "x" * 1001, "x" * 8193, "constant", "resize", "trim", "a; b", "\n", "base", "512x512"),
    *(REF, "https://example.org/a", "http://x y", "file:///x", [], {}, [[]], ["a", "a"], ["a"] * 300),
]


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
                name = draw(
                    st.sampled_from(["unknown", "value", "model", "columns", "seed", "strength", "kind"])
                )
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


@pytest.mark.parametrize("service", sorted(MORE))
def test_schema_and_executor_agree(service: str) -> None:
    """What the registry lets in, the executor runs, and what it refuses, the executor would refuse."""

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
    settings(max_examples=500, suppress_health_check=list(HealthCheck))(given(changed(service))(check))()
