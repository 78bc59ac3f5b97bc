"""Typed services: the payload's fields, and constraints never weaker than the work needs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.application.payloads.schemas import compile_schema
from coordinator.domain.matching.needs import Capabilities, Constraints, Gpu, satisfies, stronger
from coordinator.edge.services.typed_route import JobFields, body_schema, job_fields
from coordinator.services.base import Payload
from coordinator.services.catalog import load_catalog
from coordinator.services.image_generation import ImagePayload, ImageToImage, TextToImage
from coordinator.services.llm_inference import Inference, LlmPayload, StreamedInference
from coordinator.services.rendering_3d import RenderPayload
from coordinator.services.speech_recognition import SpeechPayload, Translate
from coordinator.services.video_transcoding import SERVICE as VIDEO
from coordinator.services.video_transcoding import (
    ExtractAudio,
    MediaPayload,
    Thumbnail,
    Transcode,
    TranscodeGif,
    TranscodeMedia,
    TranscodeWebm,
)
from tests.harness.cases import every
from tests.harness.length import examples

ENTRIES = {entry["id"]: entry for entry in load_catalog()}
URL = "https://example.com/file"


OF_PAYLOADS_ALONE = {
    *("messages", "frequency_penalty", "presence_penalty", "seed", "n", "logit_bias", "logprobs"),
    *("top_logprobs", "tools", "tool_choice", "parallel_tool_calls", "response_format"),
    *("reasoning_effort", "chat_template_kwargs", "deltas"),
}


@pytest.mark.parametrize(
    ("body", "payload", "without"),
    [
        (Translate, SpeechPayload, {"task"}),
        (TextToImage, ImagePayload, {"image_url", "strength"}),
        (ImageToImage, ImagePayload, set()),
        (Inference, LlmPayload, OF_PAYLOADS_ALONE),
        (
            StreamedInference,
            LlmPayload,
            OF_PAYLOADS_ALONE | {"stream"},
        ),
    ],
)
def test_a_body_is_of_its_payload(body: type[Payload], payload: type[Payload], without: set[str]) -> None:
    """A typed body has the payload's fields, with their bounds and defaults, but for those named here."""
    mine, others = body_schema(body)["properties"], body_schema(payload)["properties"]

    assert set(others) - without == set(mine)
    for name in mine.keys() - {"image_url"}:
        assert others[name] == mine[name], name


def test_a_transcode_is_of_any_kind_of_output() -> None:
    """The choices of the body are those of all kinds together; its default codecs are those of a video."""
    kinds: list[type[MediaPayload]] = [Transcode, TranscodeWebm, TranscodeGif, ExtractAudio, Thumbnail]
    parts = [body_schema(kind)["properties"] for kind in kinds]
    mine = body_schema(TranscodeMedia)["properties"]

    for name in ("output_format", "codec", "audio_codec"):
        found = [part[name] for part in parts if name in part]
        choices = {choice for field in found for choice in field.get("enum", [field.get("const")])}
        assert choices == set(mine[name]["enum"])
        assert parts[0][name]["default"] == mine[name]["default"]
    assert ("medium", "128k", 23) == tuple(mine[n]["default"] for n in ("preset", "audio_bitrate", "crf"))


@every("output", ["mp4", "mkv", "webm", "gif", "mp3", "m4a", "wav", "flac", "ogg", "jpg", "png"])
def test_any_format_is_enough_said(output: str) -> None:
    """A file and a format make a payload that the registry takes: no default of another format is in it."""
    asked = TranscodeMedia.model_validate({"input_url": URL, "output_format": output})
    fields = job_fields(VIDEO, asked, JobFields())

    assert compile_schema(ENTRIES["video_transcoding"]["input_schema"]).is_valid(fields["payload"])


@every(
    ("asked", "expected"),
    [
        (SpeechPayload(audio_url=URL), Constraints(min_vram_gb=1)),
        (Translate(audio_url=URL, model="large-v3"), Constraints(min_vram_gb=10)),
        (TextToImage(prompt="x"), Constraints(min_vram_gb=4, cuda="11.8")),
        (
            ImageToImage(prompt="x", image_url=URL, model="sdxl-refiner"),
            Constraints(min_vram_gb=8, cuda="11.8"),
        ),
        (
            Inference(model="llama-70b", prompt="x"),
            Constraints(min_vram_gb=64, cuda="11.8", models=("llama-70b",)),
        ),
        (StreamedInference(model="mine", prompt="x"), Constraints(models=("mine",))),
        (TranscodeMedia(input_url=URL, codec="av1"), Constraints()),
        (TranscodeMedia(input_url=URL, codec="av1_nvenc"), Constraints(gpu="nvidia")),
        (Transcode(input_url=URL, codec="h265_nvenc"), Constraints(gpu="nvidia")),
        (RenderPayload(blend_file_url=URL), Constraints()),
    ],
)
def test_needs_follow_from_the_body(asked: Payload, expected: Constraints) -> None:
    """Memory by model, CUDA 11.8 for images and known language models, a GPU only where one encodes."""
    assert expected == asked.needs()


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


@settings(max_examples=examples(100))
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
    codecs = body_schema(TranscodeMedia)["properties"]["codec"]["enum"]

    assert ["h264_nvenc", "h265_nvenc", "av1_nvenc"] == [codec for codec in codecs if "_" in codec]
