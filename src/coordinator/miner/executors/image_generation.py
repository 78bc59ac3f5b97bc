"""The service `image_generation`: images from an engine with OpenAI's images API (IMAGE_ENGINE_URL).

One request per image, each with a seed of its own: so a cancelled job ends after the current image, and every
image can be made again.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
import struct
import time
from pathlib import Path
from typing import Any, Final

from coordinator.miner.executors.base import Outcome, Work, payload_of
from coordinator.miner.executors.engine import Engine, EngineExecutor, EngineSettings
from coordinator.miner.executors.errors import (
    EXECUTOR_FAILED,
    INVALID_PAYLOAD,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.services.base import MAX_INTEGER
from coordinator.services.image_generation import (
    SERVICE,
    VRAM_GB,
    GeneratedImage,
    GeneratedImages,
    ImagePayload,
)

MAX_INPUT_BYTES: Final = 64 << 20
# The last part of the models' usual names, and the catalogue's names.
KNOWN: Final = {
    "stable-diffusion-v1-5": "stable-diffusion-1.5",
    "stable-diffusion-2-1": "stable-diffusion-2.1",
    "stable-diffusion-xl-base-1.0": "stable-diffusion-xl",
    "stable-diffusion-xl-refiner-1.0": "sdxl-refiner",
}


def recognise(name: str) -> str | None:
    """The catalogue's name of a model, by the last part of its own name."""
    last = name.rpartition("/")[2].lower().removesuffix(":latest")
    return KNOWN.get(last) or (last if last in VRAM_GB else None)


def seeds_of(payload: ImagePayload) -> list[int]:
    """One seed per image: the given ones, then counting up from the last; without any, from a random one."""
    seed = payload.seed
    given = [seed] if isinstance(seed, int) else list(seed or [secrets.randbelow(2**31)])
    while len(given) < payload.num_images:
        given.append((given[-1] + 1) % (MAX_INTEGER + 1))
    return given[: payload.num_images]


class ImageGenerationExecutor(EngineExecutor):
    """Text to image, and image to image if the engine has `images/edits`."""

    services = (SERVICE.id,)

    def __init__(self, settings: EngineSettings | None = None) -> None:
        super().__init__(Engine("IMAGE", settings, recognise=recognise, closed=True, known=VRAM_GB))

    async def run(self, work: Work) -> Outcome:
        """The result is GeneratedImages; an image has a seed if the engine accepted it.

        Raises ExecutorError: INVALID_PAYLOAD, UNSUPPORTED (no such model, a LoRA, or no image to image),
        ENGINE_UNAVAILABLE, EXECUTOR_FAILED, and the errors of downloads and uploads.
        """
        payload = payload_of(SERVICE, work)
        if payload.lora is not None:
            raise ExecutorError(UNSUPPORTED, "lora: engines have no common field for it", retryable=True)
        started = time.monotonic()
        await self.ready()
        model = self._engine.name_of(payload.model)

        source: bytes | None = None
        if payload.image_url is not None:
            path = work.folder / "input"
            await work.blobs.download(payload.image_url, path, max_bytes=MAX_INPUT_BYTES)
            source = await asyncio.to_thread(path.read_bytes)
            if kind_of(source) is None:
                raise ExecutorError(INVALID_PAYLOAD, "image_url: not a PNG or JPEG image")
        images = []
        for number, seed in enumerate(seeds_of(payload)):
            work.progress(number / payload.num_images, "painting")
            content, seeded = await self._paint(payload, model, seed, source)
            images.append(await self._store(work, number, content, seed if seeded else None))
        metrics: dict[str, int | str] = {
            "wall_ms": round((time.monotonic() - started) * 1000),
            "images": len(images),
        }
        return Outcome(
            GeneratedImages(model=payload.model, images=images).document(), metrics, {"image": len(images)}
        )

    async def _paint(
        self, payload: ImagePayload, model: str, seed: int, source: bytes | None
    ) -> tuple[bytes, bool]:
        """One image, and whether its seed reached the engine."""
        plain = {
            "model": model,
            "prompt": payload.prompt,
            "n": 1,
            "size": payload.size,
            "response_format": "b64_json",
        }
        try:
            return await self._ask(plain | beyond_openai(payload, seed), source), True
        except ExecutorError as error:
            # An engine with OpenAI's fields alone can still do a job that needs no other fields.
            if error.code != INVALID_PAYLOAD or not fits_openai(payload):
                raise
        return await self._ask(plain, source), False

    async def _ask(self, request: dict[str, Any], source: bytes | None) -> bytes:
        if source is None:
            answer = await self._engine.post("images/generations", request)
        else:
            kind = kind_of(source)
            assert kind is not None
            form = {name: str(value) for name, value in request.items()}
            file = (f"input.{kind[0]}", source, kind[1])
            answer = await self._engine.post("images/edits", data=form, files={"image": file})
        try:
            return base64.b64decode(answer["data"][0]["b64_json"], validate=True)
        except (KeyError, IndexError, TypeError, binascii.Error, ValueError):
            raise ExecutorError(EXECUTOR_FAILED, "the engine's answer has no image", retryable=True) from None

    async def _store(self, work: Work, number: int, content: bytes, seed: int | None) -> GeneratedImage:
        kind, size = kind_of(content), size_of(content)
        if kind is None or size is None:
            raise ExecutorError(EXECUTOR_FAILED, "the engine's image is neither PNG nor JPEG", retryable=True)
        path = Path(work.folder / f"image-{number + 1}.{kind[0]}")
        await asyncio.to_thread(path.write_bytes, content)
        output = await work.blobs.upload(path, media_type=kind[1])
        return GeneratedImage(**output, width=size[0], height=size[1], seed=seed)


def beyond_openai(payload: ImagePayload, seed: int) -> dict[str, Any]:
    """Further fields of Stable Diffusion engines, by the names that most of them share."""
    fields: dict[str, Any] = {
        "num_inference_steps": payload.num_inference_steps,
        "guidance_scale": payload.guidance_scale,
        "seed": seed,
    }
    if payload.negative_prompt:
        fields["negative_prompt"] = payload.negative_prompt
    if payload.scheduler:
        fields["scheduler"] = payload.scheduler
    if payload.image_url is not None:
        fields["strength"] = payload.strength
    return fields


def fits_openai(payload: ImagePayload) -> bool:
    """Whether OpenAI's own fields suffice for this payload."""
    asked = payload.model_dump(exclude_defaults=True).keys()
    return asked.isdisjoint(
        {"negative_prompt", "num_inference_steps", "guidance_scale", "seed", "scheduler", "strength"}
    )


def kind_of(content: bytes) -> tuple[str, str] | None:
    """File ending and media type, by the first bytes; None if it is neither PNG nor JPEG."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return ("png", "image/png")
    return ("jpg", "image/jpeg") if content.startswith(b"\xff\xd8\xff") else None


def size_of(content: bytes) -> tuple[int, int] | None:
    """Width and height in pixels, from the header alone: nothing is decoded here."""
    if content.startswith(b"\x89PNG") and len(content) >= 24:
        width, height = struct.unpack(">II", content[16:24])
        return (width, height) if 0 < width < 2**16 and 0 < height < 2**16 else None
    place = 2
    while place + 9 <= len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", content[place + 5 : place + 9])
            return (width, height) if width and height else None
        place += 2 + length
    return None
