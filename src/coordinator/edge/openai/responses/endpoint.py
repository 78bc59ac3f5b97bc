"""Responses: a language model answers a history of items. Nothing is kept between requests."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from coordinator.edge.http.bodies import read_object
from coordinator.edge.http.problems import Problem
from coordinator.edge.openai.answers import answer, openai_responses
from coordinator.edge.openai.chat.request import SERVICE
from coordinator.edge.openai.deltas import SentAnswers
from coordinator.edge.openai.errors import TAG
from coordinator.edge.openai.responses.answers import ModelResponse, ResponseStream, ended, response_of
from coordinator.edge.openai.responses.request import ResponsesRequest, names_of_payload, renamed
from coordinator.edge.openai.runs import RunnerOfRequest
from coordinator.edge.openai.streaming import follow, respond

router = APIRouter(prefix="/responses", tags=[TAG])


@router.post(
    "",
    response_model=ModelResponse,
    summary="Answer a history of items",
    description="Responses are not kept: `store` is ignored, and `previous_response_id` refused. With "
    "`stream`, server-sent events as the answer is generated. If the client disconnects, the job is "
    "cancelled.",
    responses=openai_responses("text/event-stream"),
    openapi_extra=ResponsesRequest.body(
        model="llama-7b", input="What is a GPU good for?", max_output_tokens=100
    ),
)
async def create_response(request: Request, runner: RunnerOfRequest) -> Response:
    asked = ResponsesRequest.read(await read_object(request, runner.context.limits))
    chat = asked.chat()
    try:
        payload = chat.job_payload()
    except Problem as problem:
        raise renamed(problem) from None
    runner.know(type(asked).model_fields, names_of_payload(chat.renamed))
    response_id = f"resp_{runner.job_id.hex}"
    stream = ResponseStream(asked, response_id, runner.created)
    if asked.stream:
        return await respond(runner, follow(runner, SERVICE, asked.model, payload), stream.events, end=b"")
    done = await runner.run(SERVICE, asked.model, payload)
    for delta in SentAnswers().rest(done.result):
        stream.add(delta)
    end = ended(done)
    stream.events(done)  # which ends the items
    response = response_of(asked, response_id, runner.created, **end, output=stream.output)
    return answer(response, done.job_id)
