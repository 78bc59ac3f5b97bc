"""A job's answers as server-sent events, while it is generated."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final
from uuid import UUID

import structlog
from starlette.responses import Response

from coordinator.application.live.progress import Progress
from coordinator.domain.errors import Refusal
from coordinator.edge.http.problems import Problem, internal_problem
from coordinator.edge.http.reads.stored_payloads import Joined, Pieces
from coordinator.edge.openai.deltas import Delta, DeltaParser, SentAnswers
from coordinator.edge.openai.errors import as_openai, timed_out
from coordinator.edge.openai.runs import GRACE_S, JOB_HEADER, Done, Runner, happened

KEEP_ALIVE_S: Final = 5.0
"""Of silence, after which a comment is sent. Until the first one, the answer may still become an error."""
_COMMENT: Final = b": waiting\n\n"
DONE: Final = b"data: [DONE]\n\n"
Answers = AsyncGenerator[Delta | Done | None, None]
Chunks = Callable[[Delta | Done], list[dict[str, Any]]]

log = structlog.get_logger("edge")


class StreamedText:
    """The text of one job as far as it was sent."""

    def __init__(self) -> None:
        self.sent = ""
        self._attempt: int | None = None
        self._broken = False
        """New text does not continue the sent text: only the result may still complete it."""

    def take(self, item: Progress | None) -> str:
        """The new text in this progress."""
        if item is None or not item.text or self._broken:
            return ""
        if self._attempt is None:
            self._attempt = item.attempt
        offset = item.offset or 0
        if item.attempt != self._attempt or offset > len(self.sent):
            self._broken = bool(self.sent) or offset > 0
            if self._broken:
                return ""
            self._attempt = item.attempt
        text = item.text[len(self.sent) - offset :]
        self.sent += text
        return text


async def follow(
    runner: Runner, service: str, model: str, payload: Mapping[str, Any]
) -> AsyncGenerator[Delta | Done | None, None]:
    """The job's answers in pieces (None after a while without any), and then its result.

    Raises what `Runner.run` raises. Closing the generator early cancels the job.
    """
    woken = asyncio.Event()
    async with runner.followed(service, model, payload, woken) as (job_id, ended, progress):
        streamed, parser, sent = StreamedText(), DeltaParser(), SentAnswers()
        until = time.monotonic() + runner.context.settings.openai_timeout_seconds + GRACE_S
        while not ended.is_set():
            woken.clear()
            if text := streamed.take(progress.take_of(job_id)):
                for delta in parser.feed(text):
                    sent.add(delta)
                    yield delta
                continue
            if ended.is_set():
                break
            if not await happened(woken, KEEP_ALIVE_S):
                if time.monotonic() > until:
                    raise timed_out()
                await runner.check_served(job_id, service, model)
                yield None
        done = await runner.finish(job_id)
        for delta in sent.rest(done.result):
            yield delta
        yield done


async def respond(
    runner: Runner,
    pieces: Answers,
    chunks: Chunks,
    end: bytes = DONE,
) -> Response:
    """The stream; `chunks` makes events from a piece of an answer, and from the end.

    An event with a `type` has it as its name, too. A failure before the first piece is an error with its own
    status, raised here.
    """
    events = _events(pieces, chunks, end)
    first = await runner.unless_gone(anext(events))
    return CompletionStream(first, events, runner.job_id)


class CompletionStream(Pieces):
    """Server-sent events. However it ends, the events' source is closed."""

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None], job_id: UUID) -> None:
        # Proxies that buffer answers would delay tokens.
        headers = {"X-Accel-Buffering": "no", JOB_HEADER: str(job_id)}
        super().__init__(Joined(first, events), media_type="text/event-stream", headers=headers)


async def _events(pieces: Answers, chunks: Chunks, end: bytes) -> AsyncGenerator[bytes, None]:
    begun = False
    try:
        async for piece in pieces:
            if piece is None:
                begun = True
                yield _COMMENT
                continue
            for chunk in chunks(piece):
                begun = True
                yield _data(chunk)
        if end:
            yield end
    except Problem as problem:
        if not begun:
            raise
        yield _failure(problem)
    except Refusal as refusal:
        if not begun:
            raise
        yield _failure(Problem(refusal.code, refusal.detail))
    except Exception as error:
        if not begun:
            raise
        # The answer has begun: only an event can report the failure.
        log.error("a stream failed", error=type(error).__name__)
        yield _failure(internal_problem())
    finally:
        await pieces.aclose()


def _failure(problem: Problem) -> bytes:
    return _data(as_openai(problem.document()).model_dump())


def _data(document: Mapping[str, Any]) -> bytes:
    name = f"event: {document['type']}\n".encode() if "type" in document else b""
    return name + b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"
