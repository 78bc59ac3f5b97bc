"""`image_generation` against a stand-in for the engine, which pins the wire format; no engine paints here."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.miner.executors.errors import INVALID_PAYLOAD, UNSUPPORTED
from coordinator.miner.executors.image_generation import ImageGenerationExecutor, size_of
from tests.harness.stand_in import StandIn, png
from tests.harness.works import Bench, FolderBlobs, check_output, failure
from tests.integration.test_executor_images import picture

XL = "stabilityai/stable-diffusion-xl-base-1.0"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench("image_generation", tmp_path, FolderBlobs(tmp_path / "blobs"))
    with made.workspace:
        yield made


@pytest.fixture
async def engine() -> AsyncIterator[StandIn]:
    async with StandIn(XL, "gpt-oss:20b").serving() as made:
        yield made


async def test_images_are_made_one_by_one_with_their_seeds(engine: StandIn, bench: Bench) -> None:
    """Each image is a request with the job's settings and a seed of its own, and becomes a blob."""
    executor = ImageGenerationExecutor(engine.settings())
    assert (None, ("stable-diffusion-xl",)) == (await executor.check(), executor.models)
    payload = {
        "prompt": "a lighthouse",
        "negative_prompt": "people",
        "model": "stable-diffusion-xl",
        "size": "768x512",
        "num_images": 3,
        "seed": [7, 9],
        "scheduler": "euler",
    }
    outcome = check_output("image_generation", await executor.run(bench.work(payload)))
    images = outcome.result["images"]
    assert [(7, 768, 512), (9, 768, 512), (10, 768, 512)] == [
        (image["seed"], image["width"], image["height"]) for image in images
    ]
    assert {png(768, 512)} == {bench.blobs.read(image) for image in images}
    assert {
        "model": XL,
        "prompt": "a lighthouse",
        "n": 1,
        "size": "768x512",
        "response_format": "b64_json",
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "seed": 7,
        "negative_prompt": "people",
        "scheduler": "euler",
    } == engine.received[0][1]


async def test_image_to_image_sends_the_image(engine: StandIn, bench: Bench) -> None:
    """With an image the engine's edits are asked for, with the strength."""
    source = picture(kind="JPEG")
    payload = {
        "prompt": "x",
        "model": "stable-diffusion-xl",
        "image_url": bench.blobs.add(source),
        "strength": 0.5,
    }
    await ImageGenerationExecutor(engine.settings()).run(bench.work(payload))
    [(path, fields)] = engine.received
    assert ("images/edits", source, "0.5") == (path, fields["image"], fields["strength"])


async def test_an_engine_with_openais_fields_alone(engine: StandIn, bench: Bench) -> None:
    """It does what asks for no more, without a seed to show; what asks for more is refused, not guessed."""
    engine.strict = True
    executor = ImageGenerationExecutor(engine.settings())
    plain = {"prompt": "x", "model": "stable-diffusion-xl"}
    [image] = check_output("image_generation", await executor.run(bench.work(plain))).result["images"]
    assert "seed" not in image
    assert (INVALID_PAYLOAD, False) == await failure(executor, bench.work({**plain, "seed": 5}))


@pytest.mark.parametrize(
    ("payload", "answer", "expected"),
    [
        ({"model": "sdxl-turbo"}, None, (UNSUPPORTED, True)),
        ({"lora": "pixel-art"}, None, (UNSUPPORTED, True)),
        ({"size": "513x512"}, None, (INVALID_PAYLOAD, False)),
        ({"image_url": "text"}, None, (INVALID_PAYLOAD, False)),
        ({}, (200, {"data": [{"url": "http://169.254.169.254/"}]}), ("EXECUTOR_FAILED", True)),
        ({}, (200, {"data": []}), ("EXECUTOR_FAILED", True)),
        ({}, (200, {"data": [{"b64_json": "%%%"}]}), ("EXECUTOR_FAILED", True)),
        (
            {},
            (200, {"data": [{"b64_json": base64.b64encode(b"<svg/>").decode()}]}),
            ("EXECUTOR_FAILED", True),
        ),
        ({}, (404, {}), (UNSUPPORTED, True)),
    ],
)
async def test_what_can_not_be_done(
    engine: StandIn,
    bench: Bench,
    payload: dict[str, Any],
    answer: tuple[int, Any] | None,
    expected: tuple[str, bool],
) -> None:
    """Other models, LoRAs, inputs and answers that are no images end with their code; no link is followed."""
    if answer:
        engine.answers["images/generations"] = answer
    if payload.get("image_url") == "text":
        payload = {**payload, "image_url": bench.blobs.add(b"text")}
    work = bench.work({"prompt": "x", "model": "stable-diffusion-xl", **payload})
    assert expected == await failure(ImageGenerationExecutor(engine.settings()), work)


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (picture((60, 40)), (60, 40)),
        (picture((61, 43), "JPEG"), (61, 43)),
        (b"\x89PNG", None),
        (b"\xff\xd8\xff", None),
        (b"\xff\xd8" + b"\xff\xe0\x00\x02" * 5, None),
        (b"\xff\xd8\xff\xc0\x00\x08", None),
    ],
)
def test_sizes_come_from_the_header(content: bytes, size: tuple[int, int] | None) -> None:
    """Width and height of PNG and JPEG are read without decoding; broken ones have none."""
    assert size == size_of(content)
