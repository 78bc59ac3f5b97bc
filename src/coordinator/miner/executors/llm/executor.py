"""The service `llm_inference`: text from a language model that an engine serves (LLM_ENGINE_URL).

The engine always streams to us: so a cancelled job stops it at its next token, and a dying engine is noticed.
"""

from __future__ import annotations

import asyncio
import base64
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

from coordinator.domain.matching.units import CountedUnit
from coordinator.miner.executors.base import (
    Outcome,
    Work,
    document_of,
    payload_of,
)
from coordinator.miner.executors.engine import Engine, EngineExecutor, EngineSettings
from coordinator.miner.executors.errors import INVALID_PAYLOAD, ExecutorError
from coordinator.miner.executors.llm.answers import GrowingAnswer
from coordinator.miner.executors.llm.requests import blamed, image_refs, request_of
from coordinator.services.llm_inference import SERVICE, LlmPayload

MAX_IMAGE_BYTES: Final = 20 << 20
MAX_IMAGES: Final = 64
"""Fetched for one job."""
_IMAGE_TYPES: Final = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF8": "gif",
    b"BM": "bmp",
}
"""Types of images by their first bytes."""


class LlmExecutor(EngineExecutor):
    """Runs jobs on one engine, as many at a time as the miner has slots."""

    services = (SERVICE.id,)

    def __init__(self, settings: EngineSettings | None = None) -> None:
        super().__init__(Engine("LLM", settings))
        self._plain = False
        """Whether the engine refuses fields that OpenAI's own API lacks."""

    async def run(self, work: Work) -> Outcome:
        """The result is GeneratedText.

        With `stream`, text is also emitted as it comes. Raises ExecutorError: INVALID_PAYLOAD (also if the
        engine refuses the job: a prompt too long for the model), UNSUPPORTED (no such model here, or an
        engine that lacks a function), ENGINE_UNAVAILABLE, EXECUTOR_FAILED, OUTPUT_TOO_LARGE.
        """
        payload = payload_of(SERVICE, work)
        await self.ready()
        model = self._engine.name_of(payload.model)
        images = await _fetch(work, image_refs(payload))
        answer = GrowingAnswer(work, payload)
        if not self._plain:
            try:
                await self._generate(answer, payload, request_of(payload, model, images, plain=False))
            except ExecutorError as error:
                if error.code != INVALID_PAYLOAD:
                    raise
                # Either the job is invalid, and this fails the same way, or those fields are.
                await self._generate(answer, payload, request_of(payload, model, images, plain=True))
                self._plain = True
        else:
            await self._generate(answer, payload, request_of(payload, model, images, plain=True))
        result = answer.result()
        units: dict[CountedUnit, int | str] = {
            "token": result.prompt_tokens + result.completion_tokens,
            "output_token": result.completion_tokens,
        }
        return Outcome(await document_of(work, result), answer.metrics(result), units)

    async def _generate(self, answer: GrowingAnswer, payload: LlmPayload, request: dict[str, Any]) -> None:
        """Generate all answers; an engine that makes one at a time is asked several times."""
        try:
            await self._ask(answer, payload, request, 0)
        except ExecutorError as error:
            if error.code != INVALID_PAYLOAD or "n" not in request:
                raise
            # Perhaps it makes fewer answers at a time; an invalid job fails again.
            request = {name: value for name, value in request.items() if name != "n"}
            await self._ask(answer, payload, request, 0)
        for index in range(1, payload.n):
            if index not in answer.choices:
                single = {name: value for name, value in request.items() if name != "n"}
                if payload.seed is not None:
                    single["seed"] = payload.seed + index  # the same seed would give the same text
                answer.next_request()
                await self._ask(answer, payload, single, index)

    async def _ask(
        self, answer: GrowingAnswer, payload: LlmPayload, request: dict[str, Any], first_index: int
    ) -> None:
        path = "chat/completions" if "messages" in request else "completions"
        try:
            async with aclosing(self._engine.stream(path, request)) as events:  # type: ignore[type-var]
                async for event in events:
                    answer.take(event, first_index)
        except ExecutorError as error:
            raise blamed(error, payload, request) from None
        answer.check_whole(first_index)


async def _fetch(work: Work, refs: list[str]) -> dict[str, str]:
    """The images as data: URLs. Raises ExecutorError."""
    if len(refs) > MAX_IMAGES:
        raise ExecutorError(INVALID_PAYLOAD, f"messages: more than {MAX_IMAGES} images")
    found = {}
    for ref in refs:
        path = work.folder / "image"
        await work.blobs.download(ref, path, max_bytes=MAX_IMAGE_BYTES)
        found[ref] = await asyncio.to_thread(_data_url, path)
    return found


def _data_url(path: Path) -> str:
    content = path.read_bytes()
    path.unlink()
    kind = next((kind for start, kind in _IMAGE_TYPES.items() if content.startswith(start)), None)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        kind = "webp"
    if kind is None:
        raise ExecutorError(INVALID_PAYLOAD, "messages: an image is no PNG, JPEG, WebP, GIF or BMP file")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
