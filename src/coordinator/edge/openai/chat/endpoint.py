"""Chat completions: a language model continues a conversation."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from coordinator.edge.http.bodies import read_object
from coordinator.edge.openai.answers import answer, openai_responses
from coordinator.edge.openai.chat.answers import ChatCompletion, chunks_of, completion_of
from coordinator.edge.openai.chat.request import SERVICE, ChatRequest
from coordinator.edge.openai.errors import TAG
from coordinator.edge.openai.runs import RunnerOfRequest
from coordinator.edge.openai.streaming import follow, respond

router = APIRouter(prefix="/chat/completions", tags=[TAG])


@router.post(
    "",
    response_model=ChatCompletion,
    summary="Answer a chat",
    description="With `stream`, server-sent events of chunks as the tokens are generated. If the client "
    "disconnects, the job is cancelled.",
    responses=openai_responses("text/event-stream"),
    openapi_extra=ChatRequest.body(
        model="llama-7b",
        messages=[{"role": "user", "content": "What is a GPU good for?"}],
        max_completion_tokens=100,
    ),
)
async def create_chat_completion(request: Request, runner: RunnerOfRequest) -> Response:
    asked = ChatRequest.read(await read_object(request, runner.context.limits))
    payload = asked.job_payload()
    runner.know(type(asked).model_fields, asked.renamed)
    if asked.stream:
        pieces = follow(runner, SERVICE, asked.model, payload)
        return await respond(runner, pieces, chunks_of(asked, runner.id_of("chatcmpl"), runner.created))
    done = await runner.run(SERVICE, asked.model, payload)
    return answer(completion_of(asked, done, runner.id_of("chatcmpl"), runner.created), done.job_id)
