"""Images: generated from a text."""

from __future__ import annotations

import base64
from typing import Annotated, Any, ClassVar, Final

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.edge.http.bodies import read_object
from coordinator.edge.openai.answers import answer, openai_responses
from coordinator.edge.openai.errors import TAG
from coordinator.edge.openai.requests import FOR_THE_PROVIDER, Model, OpenAIRequest
from coordinator.edge.openai.runs import RunnerOfRequest

SERVICE: Final = "image_generation"
DEFAULT_MODEL: Final = "stable-diffusion-1.5"

router = APIRouter(prefix="/images", tags=[TAG])


class ImageRequest(OpenAIRequest):
    """A request for images. The last four members are not in OpenAI's API."""

    IGNORED: ClassVar = FOR_THE_PROVIDER | {"moderation"}
    ONLY: ClassVar = {
        "background": ("auto",),
        "output_compression": (100,),
        "output_format": ("png",),
        "partial_images": (0,),
        "quality": ("auto", "standard"),
        "response_format": ("b64_json",),
        "stream": (False,),
        "style": ("vivid",),
    }

    prompt: Annotated[str, Field(min_length=1, max_length=1000)]
    model: Model = DEFAULT_MODEL
    n: Annotated[int, Field(ge=1, le=4)] = 1
    size: Annotated[str, Field(pattern=r"^(auto|[0-9]{2,5}x[0-9]{2,5})$")] = "auto"
    negative_prompt: Annotated[str, Field(max_length=1000)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=100)] | None = None
    guidance_scale: Annotated[float, Field(ge=1, le=20)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None

    def job_payload(self) -> dict[str, Any]:
        """The job's payload."""
        sent: dict[str, Any] = {"prompt": self.prompt, "model": self.model.lower(), "num_images": self.n}
        if self.size != "auto":
            sent["size"] = self.size
        for name in ("negative_prompt", "num_inference_steps", "guidance_scale", "seed"):
            if (value := getattr(self, name)) is not None:
                sent[name] = value
        return sent


class ImageObject(BaseModel):
    """One image: the base64 of its file."""

    b64_json: str
    revised_prompt: None = None


class ImageList(BaseModel):
    """The images."""

    created: int
    data: list[ImageObject]


@router.post(
    "/generations",
    response_model=ImageList,
    summary="Generate images",
    description="The answer contains the files. They are also blobs of the job, and can be fetched again.",
    responses=openai_responses(),
    openapi_extra=ImageRequest.body(prompt="a lighthouse at dusk, oil painting", size="512x512"),
)
async def create_image(request: Request, runner: RunnerOfRequest) -> Response:
    asked = ImageRequest.read(await read_object(request, runner.context.limits))
    runner.know(type(asked).model_fields, {"num_images": "n"})
    done = await runner.run(SERVICE, asked.model, asked.job_payload())
    files = [await runner.blob(image["blob"]) for image in done.result["images"]]
    images = ImageList(
        created=runner.created,
        data=[ImageObject(b64_json=base64.b64encode(content).decode()) for content in files],
    )
    return answer(images, done.job_id)
