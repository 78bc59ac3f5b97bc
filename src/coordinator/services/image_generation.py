"""The service `image_generation`: Stable Diffusion, from a text, or from a text and an image."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, model_validator

from coordinator.domain.matching.needs import Constraints
from coordinator.services.base import (
    MAX_INTEGER,
    MODEL_PATTERN,
    BlobRef,
    FileRef,
    KnownService,
    Payload,
    Result,
    ResultPart,
    Seed,
    Whole,
    vram_by_model,
)

CUDA: Final = "11.8"
DiffusionModel = Literal[
    "stable-diffusion-1.5", "stable-diffusion-2.1", "stable-diffusion-xl", "sdxl-turbo", "sdxl-refiner"
]
VRAM_GB: Final[dict[DiffusionModel, int]] = {
    "stable-diffusion-1.5": 4,
    "stable-diffusion-2.1": 4,
    "stable-diffusion-xl": 8,
    "sdxl-turbo": 8,
    "sdxl-refiner": 8,
}
Size = Literal[
    "512x512",
    "512x768",
    "768x512",
    "768x768",
    "768x1024",
    "1024x768",
    "1024x1024",
    "1024x1536",
    "1536x1024",
]
Scheduler = Literal[
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_sde",
    "euler",
    "euler_a",
    "heun",
    "lms",
    "pndm",
    "unipc",
]
Lora = Annotated[str, Field(max_length=100, pattern=MODEL_PATTERN)]
Pixels = Annotated[int, Field(ge=1)]


class TextToImage(Payload):
    """Images from a text."""

    prompt: Annotated[str, Field(min_length=1, max_length=1000)]
    """The content of the image."""
    negative_prompt: Annotated[str, Field(max_length=1000)] | None = None
    """The content to avoid."""
    model: DiffusionModel = Field("stable-diffusion-1.5", json_schema_extra=vram_by_model(VRAM_GB))
    """x-min-vram-gb has the GPU memory of each model in GB."""
    size: Size = "512x512"
    """Width and height in pixels."""
    num_images: Annotated[int, Field(ge=1, le=4), Whole] = 1
    num_inference_steps: Annotated[int, Field(ge=1, le=100), Whole] = 20
    """More steps take longer and show more detail."""
    guidance_scale: Annotated[float, Field(ge=1, le=20)] = 7.5
    """How closely the image follows the prompt."""
    seed: Seed | Annotated[list[Seed], Field(min_length=1, max_length=4)] | None = None
    """One seed for the first image (the others count up from it), or one for each. Random by default."""
    scheduler: Scheduler | None = None
    """The sampler; the default is the model's own."""
    enable_safety_checker: bool = True
    """Blackens and flags unsafe images."""
    lora: Lora | None = Field(None, examples=["pixel-art-xl", f"blob:{'0123456789abcdef' * 4}"])
    """The name of a LoRA that the miner has, or an uploaded LoRA."""
    lora_scale: Annotated[float, Field(ge=0, le=2)] = 1.0
    """The strength of the LoRA."""

    def needs(self) -> Constraints:
        return Constraints(min_vram_gb=VRAM_GB[self.model], cuda=CUDA)


class ImagePayload(TextToImage):
    """Images from a text, or from a text and an image."""

    model_config = ConfigDict(json_schema_extra={"dependentRequired": {"strength": ["image_url"]}})

    image_url: FileRef | None = None
    """The start image: an uploaded file, or an http(s) URL that the miner fetches."""
    strength: Annotated[float, Field(ge=0, le=1)] = 0.75
    """How far the result may depart from the start image."""

    @model_validator(mode="after")
    def _strength_of_an_image(self) -> Self:
        if "strength" in self.model_fields_set and "image_url" not in self.model_fields_set:
            raise ValueError("strength needs image_url; give both or neither")
        return self


class ImageToImage(ImagePayload):
    """Images from a text and an image."""

    image_url: FileRef
    """The start image."""


class GeneratedImage(ResultPart):
    blob: BlobRef
    width: Pixels
    """Pixels."""
    height: Pixels
    """Pixels."""
    seed: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    """The seed that makes this image again; absent if the engine takes none."""
    flagged: bool | None = None
    """Whether the safety checker objected."""
    name: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    size: Annotated[int, Field(ge=1)] | None = None
    """Bytes."""
    media_type: Annotated[str, Field(max_length=100)] | None = None


class GeneratedImages(Result):
    model: DiffusionModel | None = None
    images: Annotated[list[GeneratedImage], Field(min_length=1, max_length=4)]


SERVICE: Final = KnownService("image_generation", TypeAdapter(ImagePayload), GeneratedImages)
