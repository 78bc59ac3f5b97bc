"""Arrays over HTTP: many commands of one type in one request, with an answer for each, in their order.

An element fails alone: its answer is `{"status": "refused", "code", "detail"}`, as over AMQP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from coordinator.application.background import Turns
from coordinator.application.commands.parsing import check_sender, parse_command
from coordinator.application.ports import Intent
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Principal
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.commands import trace_of
from coordinator.edge.models.base import ArrayAnswer
from coordinator.wire.answers import Accepted, Answer, AnswerJson, Refused
from coordinator.wire.limits import MAX_ARRAY_LENGTH

Complete = Callable[[dict[str, Any]], dict[str, Any]]
"""Adds the defaults of HTTP to an element's members. Raises Refusal."""


def take_array(body: dict[str, Any], name: str) -> list[Any]:
    """Remove the array from the body. Raises Refusal, also for an empty one."""
    return check_array(body.pop(name, None), name)


def check_array(elements: object, name: str) -> list[Any]:
    """The elements of this member. Raises Refusal, also for an empty array."""
    if not isinstance(elements, list) or not elements:
        raise Refusal(Code.INVALID_PAYLOAD, f"{name}: should be an array of objects")
    if len(elements) > MAX_ARRAY_LENGTH:
        raise Refusal(Code.TOO_LARGE, f"{name} has {len(elements)} elements; the limit is {MAX_ARRAY_LENGTH}")
    return elements


async def send_array(
    context: EdgeContext,
    principal: Principal,
    topic: str,
    elements: list[Any],
    complete: Complete,
    request: Request,
) -> ArrayAnswer:
    """Send a command for each element; they are decided together."""
    trace = trace_of(request)
    intents: list[Intent] = []
    answers: list[Answer | None] = []
    turns = Turns()
    for element in elements:
        if turns.over():
            await asyncio.sleep(0)
        try:
            if not isinstance(element, dict):
                raise Refusal(Code.INVALID_PAYLOAD, "an element should be an object")
            command = parse_command(topic, complete(element))
            check_sender(command, principal)
        except Refusal as refusal:
            answers.append(Refused(refusal.code, refusal.detail, refusal.retry_after))
        else:
            intents.append(Intent(command, principal, traceparent=trace))
            answers.append(None)
    decided = iter(await context.gateway.handle(intents) if intents else ())
    return array_answer([next(decided) if answer is None else answer for answer in answers])


def array_answer(answers: list[Answer]) -> ArrayAnswer:
    """All answers, and the highest position of the accepted ones."""
    said: list[AnswerJson] = [answer.to_wire() for answer in answers]
    return ArrayAnswer(
        answers=said, position=max((a.position for a in answers if isinstance(a, Accepted)), default=0)
    )
