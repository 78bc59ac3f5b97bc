"""Images from text, and from images: stable-diffusion."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.matching import Constraints
from coordinator.edge.context import Context
from coordinator.edge.http.credentials import Client
from coordinator.edge.http.submitting import SUBMIT_PROBLEMS, SUBMIT_TEXT, IdempotencyKey, Prefer
from coordinator.edge.models.base import View
from coordinator.edge.models.jobs import JobSubmitAnswer
from coordinator.edge.services.asking import Ask, FileName, ask_body, read_ask, submit_ask

router = APIRouter(prefix="/stable-diffusion")

CUDA: Final = "11.8"
VRAM_GB: Final[dict[str, int]] = {
    "stable-diffusion-1.5": 4,
    "stable-diffusion-2.1": 4,
    "stable-diffusion-xl": 8,
    "sdxl-turbo": 8,
    "sdxl-refiner": 8,
}
Seed = Annotated[int, Field(ge=0, le=2**53 - 1)]
Lora = Annotated[
    str,
    Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9][A-Za-z0-9._:@+-]*){0,2}$"),
]


class GenerateAsk(Ask):
    """Images of what a text describes."""

    SERVICE: ClassVar = "image_generation"

    prompt: Annotated[str, Field(min_length=1, max_length=1000)]
    negative_prompt: Annotated[str, Field(max_length=1000)] | None = None
    model: Literal[
        "stable-diffusion-1.5", "stable-diffusion-2.1", "stable-diffusion-xl", "sdxl-turbo", "sdxl-refiner"
    ] = "stable-diffusion-1.5"
    size: Literal[
        "512x512",
        "512x768",
        "768x512",
        "768x768",
        "768x1024",
        "1024x768",
        "1024x1024",
        "1024x1536",
        "1536x1024",
    ] = "512x512"
    num_images: Annotated[int, Field(ge=1, le=4)] = 1
    num_inference_steps: Annotated[int, Field(ge=1, le=100)] = 20
    guidance_scale: Annotated[float, Field(ge=1, le=20)] = 7.5
    seed: Seed | Annotated[list[Seed], Field(min_length=1, max_length=4)] | None = Field(
        None, description="One for the first image, or one for each. Random where there is none."
    )
    scheduler: (
        Literal[
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
        | None
    ) = None
    enable_safety_checker: bool = True
    lora: Lora | None = Field(None, description="A LoRA that the miner has, by name, or an uploaded one.")
    lora_scale: Annotated[float, Field(ge=0, le=2)] = 1

    def needs(self) -> Constraints:
        return Constraints(min_vram_gb=VRAM_GB[self.model], cuda=CUDA)


class ImageToImageAsk(GenerateAsk):
    """Images that start from another one."""

    FILE: ClassVar = "image_url"

    image_url: FileName
    strength: Annotated[float, Field(ge=0, le=1)] = Field(
        0.75, description="How far the result may leave the image."
    )


class Image(View):
    """`blob` is the file, `width` and `height` in pixels; `seed` makes this image again."""

    blob: str
    width: int
    height: int
    seed: int
    flagged: bool | None = None
    name: str | None = None
    size: int | None = None
    media_type: str | None = None


class Images(View):
    images: list[Image]
    model: str | None = None


class ImageJob(JobSubmitAnswer):
    """A job of the service image_generation."""

    result: Images | None = None  # type: ignore[assignment]


@router.post(
    "/generate",
    status_code=201,
    response_model=ImageJob,
    summary="Make images of a text",
    description=SUBMIT_TEXT,
    responses=SUBMIT_PROBLEMS,
    openapi_extra=ask_body(GenerateAsk, one={"prompt": "a lighthouse at dusk, oil painting"}),
)
async def generate_image(
    request: Request,
    context: Context,
    principal: Client,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    ask = await read_ask(request, context, principal, GenerateAsk)
    return await submit_ask(request, context, principal, ask, idempotency_key, prefer)


@router.post(
    "/img2img",
    status_code=201,
    response_model=ImageJob,
    summary="Make images of an image and a text",
    description=SUBMIT_TEXT,
    responses=SUBMIT_PROBLEMS,
    openapi_extra=ask_body(
        ImageToImageAsk,
        by_url={"prompt": "the same house in winter", "image_url": "https://example.com/house.png"},
    ),
)
async def image_to_image(
    request: Request,
    context: Context,
    principal: Client,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    ask = await read_ask(request, context, principal, ImageToImageAsk)
    return await submit_ask(request, context, principal, ask, idempotency_key, prefer)
