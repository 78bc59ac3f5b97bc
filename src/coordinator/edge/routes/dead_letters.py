"""Dead letters, for admins: list, show, send again, drop."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Annotated, Any, Final, TypeVar

import structlog
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from coordinator.application.ports import DeadLetter, DeadLetters
from coordinator.domain.errors import Code, Refusal
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import read_object, request_body
from coordinator.edge.http.credentials import Admin
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.reading import reply
from coordinator.edge.models.dead_letters import (
    MAX_LETTERS,
    DeadLetterChoice,
    DeadLetterList,
    DeadLetterOutcome,
    DeadLetterReplay,
    DeadLetterView,
    LetterId,
    ReplayedView,
)
from coordinator.edge.routing.path_ids import path_id
from coordinator.validation import describe_invalid
from coordinator.wire.answers import Accepted

router = APIRouter(prefix="/admin/dead-letters", tags=["admin"])

MAX_LOOKED_AT: Final = 2000
Limit = Annotated[int, Query(ge=1, le=MAX_LETTERS, description="At most so many.")]
V = TypeVar("V", bound=BaseModel)

log = structlog.get_logger("dead_letters")


@router.get(
    "",
    response_model=DeadLetterList,
    summary="List dead letters",
    description="Messages from RabbitMQ that could not be handled, the oldest first. Without RabbitMQ there "
    "are none. While this reads the queue, other readers see it empty.",
    responses=refusals(Code.FORBIDDEN, Code.UNAVAILABLE),
)
async def list_dead_letters(context: Context, _: Admin, limit: Limit = 100) -> Response:
    letters, total = await _asked(_letters(context).oldest(limit)) if _has(context) else ([], 0)
    return reply(DeadLetterList(items=[_view(letter) for letter in letters], total=total))


@router.get(
    "/" + path_id("letter_id", other_than=("drop", "replay")),
    response_model=DeadLetterView,
    summary="Show a dead letter, with its body",
    responses=refusals(Code.FORBIDDEN, Code.DEAD_LETTER_NOT_FOUND, Code.UNAVAILABLE),
)
async def show_dead_letter(context: Context, _: Admin, letter_id: Annotated[LetterId, Path()]) -> Response:
    letters, _total = await _asked(_letters(context).oldest(MAX_LOOKED_AT)) if _has(context) else ([], 0)
    for letter in letters:
        if letter.id == letter_id:
            return reply(_view(letter).model_copy(update={"body": _body(letter.body)}))
    raise Refusal(Code.DEAD_LETTER_NOT_FOUND, "no such dead letter: it was replayed or dropped")


@router.post(
    "/replay",
    response_model=DeadLetterOutcome,
    summary="Send dead letters again",
    description="As commands of their senders. Letters that are accepted leave the queue; a repeat of a "
    "command that had an effect has none. The answer names each letter's sender and the reason of its death.",
    responses=refusals(Code.FORBIDDEN, Code.UNAVAILABLE),
    openapi_extra=request_body(DeadLetterReplay, example={"ids": ["0123456789abcdef0123"]}),
)
async def replay_dead_letters(request: Request, context: Context, principal: Admin) -> Response:
    asked = await _body_of(request, context, DeadLetterReplay)
    ids = _ids(asked)
    done = (
        await _asked(_letters(context).replay(ids, MAX_LETTERS, unproven=asked.unproven))
        if _has(context)
        else []
    )
    log.info("replay", admin=principal.name, letters=len(done), unproven=asked.unproven)
    views = [
        ReplayedView(
            id=one.letter.id,
            type=one.letter.type,
            principal=one.letter.principal,
            code=one.letter.code,
            reason=one.letter.reason,
            status="accepted" if all(isinstance(a, Accepted) for a in one.answers) else "refused",
            answers=[answer.to_wire() for answer in one.answers],
        )
        for one in done
    ]
    return reply(DeadLetterOutcome(replayed=views))


@router.post(
    "/drop",
    response_model=DeadLetterOutcome,
    summary="Drop dead letters for good",
    responses=refusals(Code.FORBIDDEN, Code.UNAVAILABLE),
    openapi_extra=request_body(DeadLetterChoice, example={"ids": ["0123456789abcdef0123"]}),
)
async def drop_dead_letters(request: Request, context: Context, principal: Admin) -> Response:
    ids = _ids(await _body_of(request, context, DeadLetterChoice))
    dropped = await _asked(_letters(context).drop(ids, MAX_LETTERS)) if _has(context) else []
    log.info("drop", admin=principal.name, letters=[letter.id for letter in dropped])
    return reply(DeadLetterOutcome(dropped=[_view(letter) for letter in dropped]))


def _has(context: EdgeContext) -> bool:
    return context.dead_letters is not None


def _letters(context: EdgeContext) -> DeadLetters:
    assert context.dead_letters is not None
    return context.dead_letters


async def _asked(work: Any) -> Any:
    """The broker's answer. Raises Refusal while it is out of reach."""
    try:
        return await work
    except ConnectionError as error:
        raise Refusal(Code.UNAVAILABLE, f"the broker is out of reach: {type(error).__name__}") from None


async def _body_of(request: Request, context: EdgeContext, model: type[V]) -> V:
    try:
        return model.model_validate(await read_object(request, context.limits))
    except ValidationError as error:
        raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None


def _ids(asked: DeadLetterChoice) -> Collection[str] | None:
    if asked.all == bool(asked.ids):
        raise Refusal(Code.INVALID_PAYLOAD, "name letters in `ids`, or say `all`")
    return None if asked.all else set(asked.ids)


def _view(letter: DeadLetter) -> DeadLetterView:
    return DeadLetterView(
        id=letter.id,
        type=letter.type,
        routing_key=letter.routing_key,
        code=letter.code,
        reason=letter.reason,
        principal=letter.principal,
        proven=letter.proven,
        at=letter.at,
        message_id=letter.message_id,
        bytes=len(letter.body),
    )


def _body(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace")
