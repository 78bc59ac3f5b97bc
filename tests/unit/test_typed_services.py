"""Typed services against the registry: the same fields, bounds and defaults, and constraints never weaker."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.application.commands.payload_schemas import compile_schema
from coordinator.domain.matching import Capabilities, Constraints, Gpu, satisfies, stronger
from coordinator.edge.services import ffmpeg, llm, stable_diffusion, whisper
from coordinator.edge.services.asking import Ask, job_fields
from coordinator.edge.services.blender import RenderAsk
from coordinator.edge.services.ffmpeg import TranscodeAsk
from coordinator.edge.services.llm import InferenceAsk
from coordinator.edge.services.stable_diffusion import GenerateAsk, ImageToImageAsk
from coordinator.edge.services.whisper import TranscribeAsk, TranslateAsk
from coordinator.services.catalog import load_catalog

ENTRIES = {entry["id"]: entry for entry in load_catalog()}
OF_THE_JOB = {"constraints", "ttl_seconds", "priority", "max_attempts"}
URL = "https://example.com/file"
BOUNDS = ("minimum", "maximum", "minLength", "maxLength", "pattern", "maxItems", "minItems", "default")
SAME: list[tuple[type[Ask], set[str]]] = [
    # what the registry's entry has and this endpoint has not
    (TranscribeAsk, set()),
    (TranslateAsk, {"task"}),
    (GenerateAsk, {"image_url", "strength"}),
    (ImageToImageAsk, set()),
    (InferenceAsk, {"messages", "frequency_penalty", "presence_penalty", "seed"}),
    (RenderAsk, set()),
]
FILES = {"audio_url", "image_url", "input_url", "blend_file_url"}


def told(schema: dict[str, Any]) -> dict[str, Any]:
    """What a field's schema says of its values, however it is written; null aside."""
    parts = [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]
    found = {name: part[name] for part in [schema, *parts] for name in BOUNDS if name in part}
    if found.get("default", 0) is None:
        del found["default"]
    choices = next((part["enum"] for part in [schema, *parts] if "enum" in part), None)
    if choices is not None:
        found["choices"] = sorted(choice for choice in choices if choice is not None)
    return found


@pytest.mark.parametrize(("model", "without"), SAME)
def test_a_body_is_the_registrys_payload(model: type[Ask], without: set[str]) -> None:
    """Field by field: bounds, choices and defaults are those of the registry's schema."""
    entry = ENTRIES[model.SERVICE]["input_schema"]
    mine = model.model_json_schema()["properties"]

    assert set(mine) - OF_THE_JOB == set(entry["properties"]) - without
    for name in set(mine) - OF_THE_JOB - FILES:
        assert told(entry["properties"][name]) == told(mine[name]), name


def test_a_transcode_is_the_registrys_payload() -> None:
    """The registry has a schema for each kind of output; the typed body has their fields and bounds."""
    parts = ENTRIES["video_transcoding"]["input_schema"]["$defs"]
    mine = TranscodeAsk.model_json_schema()["properties"]
    video = parts["transcode"]["properties"]

    for name in ("crf", "fps", "resolution", "bitrate", "preset"):
        assert told(parts[name]).items() <= told(mine[name]).items(), name
    assert video["codec"]["enum"] == mine["codec"]["enum"]
    assert {name: video[name]["default"] for name in ("output_format", "codec", "audio_codec")} == {
        name: mine[name]["default"] for name in ("output_format", "codec", "audio_codec")
    }
    assert ("medium", "128k", 23) == tuple(mine[n]["default"] for n in ("preset", "audio_bitrate", "crf"))


@pytest.mark.parametrize(
    ("service", "table"),
    [
        ("speech_recognition", whisper.VRAM_GB),
        ("image_generation", stable_diffusion.VRAM_GB),
        ("llm_inference", llm.VRAM_GB),
    ],
)
def test_memory_by_model_is_the_registrys(service: str, table: dict[str, int]) -> None:
    """What each model needs is said once in the registry, and derived alike."""
    assert ENTRIES[service]["input_schema"]["properties"]["model"]["x-min-vram-gb"] == table


@pytest.mark.parametrize(
    "output", ["mp4", "mkv", "webm", "gif", "mp3", "m4a", "wav", "flac", "ogg", "jpg", "png"]
)
def test_any_format_is_enough_said(output: str) -> None:
    """A file and a format make a payload that the registry takes: no default of another format is in it."""
    ask = TranscodeAsk.model_validate({"input_url": URL, "output_format": output})

    assert compile_schema(ENTRIES["video_transcoding"]["input_schema"]).is_valid(job_fields(ask)["payload"])


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (TranscribeAsk(audio_url=URL), Constraints(min_vram_gb=1)),
        (TranscribeAsk(audio_url=URL, model="large-v3"), Constraints(min_vram_gb=10)),
        (GenerateAsk(prompt="x"), Constraints(min_vram_gb=4, cuda="11.8")),
        (GenerateAsk(prompt="x", model="sdxl-refiner"), Constraints(min_vram_gb=8, cuda="11.8")),
        (
            InferenceAsk(model="llama-70b", prompt="x"),
            Constraints(min_vram_gb=64, cuda="11.8", models=("llama-70b",)),
        ),
        (InferenceAsk(model="mine", prompt="x"), Constraints(models=("mine",))),
        (TranscodeAsk(input_url=URL, codec="av1"), Constraints()),
        (TranscodeAsk(input_url=URL, codec="av1_nvenc"), Constraints(gpu="nvidia")),
        (RenderAsk(blend_file_url=URL), Constraints()),
    ],
)
def test_needs_follow_from_the_body(ask: Ask, expected: Constraints) -> None:
    """Memory by model, CUDA 11.8 for images and known language models, a GPU only where one encodes."""
    assert expected == ask.needs()


gpus = st.sampled_from([None, "any", "nvidia", "amd", "rtx 4090", "RTX-3060", "a100", "radeon", "apple"])
constraints = st.builds(
    Constraints,
    gpu=gpus,
    cuda=st.sampled_from([None, "11.8", "12.9", "12.10"]),
    min_vram_gb=st.sampled_from([None, 4, 24, 80]),
    models=st.sampled_from([(), ("a",), ("a", "B")]),
    region=st.sampled_from([None, "eu"]),
    max_price=st.sampled_from([None, "0.5"]),
)
needs = st.builds(
    Constraints,
    gpu=st.sampled_from([None, "any", "nvidia"]),
    cuda=st.sampled_from([None, "11.8"]),
    min_vram_gb=st.sampled_from([None, 4, 16]),
    models=st.sampled_from([(), ("a",)]),
)
miners = st.builds(
    Capabilities,
    services=st.just(("s",)),
    gpus=st.lists(
        st.builds(
            Gpu,
            name=st.sampled_from(
                ["NVIDIA GeForce RTX 4090", "NVIDIA A100-SXM4-80GB", "AMD Radeon RX 7900 XTX"]
            ),
            memory_mb=st.sampled_from([8_188, 24_564, 81_920]),
        ),
        max_size=2,
    ).map(tuple),
    cuda=st.sampled_from([None, "11.8", "12.9", "12.10"]),
    models=st.sampled_from([(), ("a",), ("A", "b")]),
    region=st.sampled_from([None, "eu"]),
    price=st.sampled_from([None, "0.4", "0.6"]),
)


@given(needs, constraints, miners)
def test_a_client_asks_for_more_and_never_for_less(
    needed: Constraints, wished: Constraints, miner: Capabilities
) -> None:
    """A miner that satisfies what both say together satisfies each of the two."""
    try:
        both = stronger(needed, wished)
    except ValueError:
        assert needed.gpu == "nvidia"
        assert wished.gpu in ("amd", "radeon", "apple")
        return
    if satisfies("s", both, miner):
        assert satisfies("s", needed, miner)
        assert satisfies("s", wished, miner)
    one_card = len(miner.gpus) < 2
    if one_card and satisfies("s", needed, miner) and satisfies("s", wished, miner):
        assert satisfies("s", both, miner)


def test_the_hardware_encoder_is_nvidias() -> None:
    """Each codec of the body that a GPU encodes is one of NVIDIA's, which is what is asked for."""
    codecs = ffmpeg.TranscodeAsk.model_json_schema()["properties"]["codec"]["enum"]

    assert ["h264_nvenc", "h265_nvenc", "av1_nvenc"] == [codec for codec in codecs if "_" in codec]
