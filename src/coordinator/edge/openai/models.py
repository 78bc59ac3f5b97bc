"""Models: what live miners offer now."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code
from coordinator.edge.http.problems import Problem
from coordinator.edge.middleware.credentials import Client
from coordinator.edge.openai import audio, chat, embeddings, images
from coordinator.edge.openai.answers import answer
from coordinator.edge.openai.describing import describe
from coordinator.edge.openai.errors import TAG
from coordinator.edge.openai.served_models import ServedModels, models_of

SERVICES: Final = (chat.SERVICE, embeddings.SERVICE, audio.SERVICE, images.SERVICE)

router = APIRouter(prefix="/models", tags=[TAG])


class OfferedModel(BaseModel):
    """A model that a live miner has. `created` is since when, in Unix seconds."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "miners"


class OfferedModels(BaseModel):
    object: Literal["list"] = "list"
    data: list[OfferedModel]


@router.get(
    "",
    response_model=OfferedModels,
    summary="List models",
    description="Those that live miners offer now, for any of these endpoints.",
    responses=describe(jobs=False),
)
async def list_models(request: Request, _: Client) -> Response:
    return answer(OfferedModels(data=await _offered(request)))


@router.get(
    "/{model:path}",
    response_model=OfferedModel,
    summary="Show a model",
    responses=describe(jobs=False),
)
async def retrieve_model(request: Request, _: Client, model: Annotated[str, Path()]) -> Response:
    for offered in await _offered(request):
        if offered.id.lower() == model.lower():
            return answer(offered)
    raise Problem(
        Code.NO_ELIGIBLE_MINER, "no live miner offers this model", status=404, members={"param": "model"}
    )


async def _offered(request: Request) -> list[OfferedModel]:
    offered: ServedModels = request.app.state.offered
    found = models_of(await offered.now(), SERVICES)
    return [OfferedModel(id=name, created=since // 1000) for name, since in found.items()]
