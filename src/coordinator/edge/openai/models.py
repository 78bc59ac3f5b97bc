"""Models that live miners offer now."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel
from starlette.responses import Response

from coordinator.domain.errors import Code
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.credentials import Client
from coordinator.edge.http.problems import Problem
from coordinator.edge.openai import audio, chat, embeddings, images, rerank
from coordinator.edge.openai.answers import answer, openai_responses
from coordinator.edge.openai.errors import TAG
from coordinator.edge.openai.served_models import models_of

SERVICES: Final = (chat.SERVICE, embeddings.SERVICE, rerank.SERVICE, *audio.SERVICES, images.SERVICE)

router = APIRouter(prefix="/models", tags=[TAG])


class OfferedModel(BaseModel):
    """A model that a live miner offers. `created` is since when, in Unix seconds."""

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
    description="Models that live miners offer now, for any of these endpoints.",
    responses=openai_responses(jobs=False),
)
async def list_models(context: Context, _: Client) -> Response:
    return answer(OfferedModels(data=await _offered(context)))


@router.get(
    "/{model:path}",
    response_model=OfferedModel,
    summary="Show a model",
    responses=openai_responses(jobs=False),
)
async def retrieve_model(context: Context, _: Client, model: Annotated[str, Path()]) -> Response:
    for offered in await _offered(context):
        if offered.id.lower() == model.lower():
            return answer(offered)
    raise Problem(
        Code.NO_ELIGIBLE_MINER, "no live miner offers this model", status=404, members={"param": "model"}
    )


async def _offered(context: EdgeContext) -> list[OfferedModel]:
    found = models_of(await context.offerings.get(), SERVICES)
    return [OfferedModel(id=name, created=since // 1000) for name, since in found.items()]
