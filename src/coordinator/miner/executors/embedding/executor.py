"""The service `text_embedding`: vectors from an engine (EMBEDDING_ENGINE_URL), or from models in a folder.

The folder (EMBEDDING_MODELS_DIR) has one subfolder per static model, in model2vec's format. Such models run
on any CPU, thousands of texts a second. If both have a model, the engine runs it.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

from coordinator.miner.executors.base import Outcome, Work, payload_of
from coordinator.miner.executors.embedding.npy import VectorFile
from coordinator.miner.executors.embedding.static_models import Embedded, StaticModels
from coordinator.miner.executors.engine import Engine, EngineExecutor, EngineSettings
from coordinator.miner.executors.errors import (
    ENGINE_UNAVAILABLE,
    EXECUTOR_FAILED,
    INVALID_PAYLOAD,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.miner.settings import MinerSettings
from coordinator.services.text_embedding import (
    MAX_TEXT_CHARACTERS,
    SERVICE,
    EmbeddingPayload,
    Embeddings,
)

MAX_FILE_BYTES: Final = 2**30
MAX_OUTPUT_BYTES: Final = 16 * 2**30
MAX_ROWS: Final = 2_000_000
BATCH: Final = 64
INLINE_NUMBERS: Final = 16_384
"""Of a result; with more it becomes a file: a number takes up to 25 bytes, and a message has 1 MiB."""
SHORTENINGS: Final = 8
"""Halvings of a text that is too long for an engine: enough for the longest text and the smallest model."""
_DIMENSIONS: Final = re.compile("dimension|matryoshka", re.IGNORECASE)
Input = str | list[int]
"""A text, or its tokens."""
# Prefixes from the models' cards, by the kind of text. Other models take texts unchanged.
_BGE: Final = {"query": "Represent this sentence for searching relevant passages: "}
PREFIXES: Final[dict[str, dict[str, str]]] = {
    "multilingual-e5-large": {"document": "passage: ", "query": "query: "},
    "nomic-embed-text-v1.5": {"document": "search_document: ", "query": "search_query: "},
    "bge-small-en-v1.5": _BGE,
    "bge-base-en-v1.5": _BGE,
    "bge-large-en-v1.5": _BGE,
}


def recognise(name: str) -> str | None:
    """`BAAI/bge-m3`, `sentence-transformers/all-MiniLM-L6-v2` and `bge-m3:latest` by their last word."""
    return name.rpartition("/")[2].removesuffix(":latest").lower()


class EmbeddingExecutor(EngineExecutor):
    """Embeds on an engine or on this machine's CPU, whichever has the model."""

    services = (SERVICE.id,)

    def __init__(self, settings: EngineSettings | None = None, folder: Path | None = None) -> None:
        super().__init__(Engine("EMBEDDING", settings, recognise=recognise))
        self._static = StaticModels(folder)
        self._proven = False
        self._max_file_bytes = MAX_FILE_BYTES

    @property
    def models(self) -> tuple[str, ...]:
        """The models of the engine and of the folder."""
        return tuple(sorted({*self._engine.offered, *self._static.names}))

    async def check(self) -> str | None:
        """Whether an engine embeds, or the folder has a model."""
        if self._static.folder is None:
            self._static.folder = MinerSettings().embedding_models_dir
        here = await asyncio.to_thread(self._static.check)
        there = await self._check_engine()
        if here is None or there is None:
            return None
        return there if self._static.folder is None else f"{here}; {there}"

    async def _check_engine(self) -> str | None:
        problem = await self._engine.check()
        if problem is None and not self._proven:
            # A server with models may not embed: many answer this with an error. Asked once.
            try:
                await self._ask(self._engine.models[0], ["check"])
            except ExecutorError as error:
                self._engine.forget()
                return f"the engine does not embed: {error.detail}"
            self._proven = True
        return problem

    async def run(self, work: Work) -> Outcome:
        """The result is Embeddings.

        Raises ExecutorError: INVALID_PAYLOAD (also for an empty, too long or non-UTF-8 line of the file),
        UNSUPPORTED (no such model here), ENGINE_UNAVAILABLE, and the errors of downloads and uploads.
        """
        payload = payload_of(SERVICE, work)
        started = time.monotonic()
        if not self.models and (problem := await self.check()):
            raise ExecutorError(ENGINE_UNAVAILABLE, problem, retryable=True)
        if payload.input_url is None:
            result = await self._embed_given(work, payload, payload.texts or payload.tokens or [])
        else:
            result = await self._embed_file(work, payload)
        metrics: dict[str, int | str] = {"wall_ms": round((time.monotonic() - started) * 1000)}
        return Outcome(
            result.document(),
            metrics | {"tokens": result.tokens, "count": result.count},
            {"token": result.tokens},
        )

    async def _embed_given(self, work: Work, payload: EmbeddingPayload, given: Sequence[Input]) -> Embeddings:
        """The vectors of a payload's texts or tokens; how many numbers they are shows after the first."""
        done = await self._embed(payload, given[:BATCH])
        dimensions, tokens = len(done.vectors[0]), done.tokens
        target = work.folder / "embeddings.npy"
        kept: list[list[float]] = []
        file = None
        if len(given) * dimensions > INLINE_NUMBERS:
            file = VectorFile(target, work.share.disk(MAX_OUTPUT_BYTES).bytes)
        with file or nullcontext():
            for start in range(0, len(given), BATCH):
                if start:
                    work.progress(start / len(given), "embedding")
                    done = await self._embed(payload, given[start : start + BATCH])
                    tokens += done.tokens
                if file is not None:
                    await asyncio.to_thread(file.write, done.vectors)
                else:
                    kept += done.vectors
        if len({len(vector) for vector in kept}) > 1:
            raise ExecutorError(EXECUTOR_FAILED, "the vectors differ in length", retryable=True)
        output = None
        if file is not None:
            output = await work.blobs.upload(target, media_type="application/octet-stream")
        return Embeddings(
            model=payload.model,
            dimensions=dimensions,
            count=len(given),
            tokens=tokens,
            embeddings=kept or None,
            outputs=None if output is None else [output],
        )

    async def _embed_file(self, work: Work, payload: EmbeddingPayload) -> Embeddings:
        source, target = work.folder / "texts", work.folder / "embeddings.npy"
        await work.blobs.download(payload.input_url or "", source, max_bytes=self._max_file_bytes)
        total, read, tokens = max(1, source.stat().st_size), 0, 0
        with VectorFile(target, work.share.disk(MAX_OUTPUT_BYTES).bytes) as file:
            async for texts in _batches(source):
                done = await self._embed(payload, texts)
                await asyncio.to_thread(file.write, done.vectors)
                tokens += done.tokens
                read += sum(len(text.encode()) + 1 for text in texts)
                work.progress(min(read / total, 0.99), "embedding")
        if not file.rows:
            raise ExecutorError(INVALID_PAYLOAD, "input_url: the file is empty")
        output = await work.blobs.upload(target, media_type="application/octet-stream")
        return Embeddings(
            model=payload.model, dimensions=file.width, count=file.rows, tokens=tokens, outputs=[output]
        )

    async def _embed(self, payload: EmbeddingPayload, given: Sequence[Input]) -> Embedded:
        known = recognise(payload.model) or payload.model
        prefix = PREFIXES.get(known, {}).get(payload.kind, "")
        texts = [prefix + one for one in given if isinstance(one, str)]
        if payload.model.lower() in self._static.names and payload.model.lower() not in self._engine.offered:
            if not texts:
                raise ExecutorError(UNSUPPORTED, "tokens: this model takes texts alone", retryable=True)
            done = await asyncio.to_thread(self._static.embed, payload.model, texts, payload.truncate)
        else:
            done = await self._on_engine(payload, texts or given)
        width = len(done.vectors[0])
        if payload.dimensions not in (None, width):
            raise ExecutorError(UNSUPPORTED, f"dimensions: this model gives {width} here", retryable=True)
        if payload.normalize:
            vectors = await asyncio.to_thread(lambda: [_unit(vector) for vector in done.vectors])
            done = Embedded(vectors, done.tokens)
        return done

    async def _on_engine(self, payload: EmbeddingPayload, texts: Sequence[Input]) -> Embedded:
        model, dimensions = self._engine.name_of(payload.model), payload.dimensions
        try:
            return await self._ask(model, texts, dimensions)
        except ExecutorError as error:
            if dimensions is not None and error.code == INVALID_PAYLOAD and _DIMENSIONS.search(error.detail):
                raise ExecutorError(UNSUPPORTED, f"dimensions: {error.detail}", retryable=True) from None
            if error.code not in (INVALID_PAYLOAD, EXECUTOR_FAILED):
                raise
            if not payload.truncate:
                name = "texts" if payload.tokens is None else "tokens"
                detail = f"{name}: {error.detail}" if error.code == INVALID_PAYLOAD else error.detail
                raise ExecutorError(error.code, detail, retryable=error.retryable) from None
        # One text is too long, and only the engine can count its tokens: send each alone, then shorter.
        vectors, tokens = [], 0
        for text in texts:
            for shortening in range(SHORTENINGS + 1):
                try:
                    one = await self._ask(model, [text[: max(1, len(text) >> shortening)]], dimensions)
                    break
                except ExecutorError as error:
                    if shortening == SHORTENINGS or error.code not in (INVALID_PAYLOAD, EXECUTOR_FAILED):
                        raise
            vectors += one.vectors
            tokens += one.tokens
        return Embedded(vectors, tokens)

    async def _ask(self, model: str, texts: Sequence[Input], dimensions: int | None = None) -> Embedded:
        body: dict[str, Any] = {"model": model, "input": list(texts), "encoding_format": "float"}
        if dimensions is not None:
            body["dimensions"] = dimensions
        answer = await self._engine.post("embeddings", body)
        return await asyncio.to_thread(_parse, answer, len(texts))


def _parse(answer: Any, expected: int) -> Embedded:
    """The vectors in an engine's answer, in the order of the texts; all numbers are finite."""
    try:
        rows = sorted(answer["data"], key=lambda row: row.get("index", 0))
        vectors = [list(map(float, row["embedding"])) for row in rows]
        tokens = answer.get("usage", {}).get("prompt_tokens", 0)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ExecutorError(EXECUTOR_FAILED, "the engine's answer has no vectors", retryable=True) from None
    complete = len(vectors) == expected and vectors[0] and len({len(vector) for vector in vectors}) == 1
    if not complete or not all(map(math.isfinite, itertools.chain.from_iterable(vectors))):
        raise ExecutorError(EXECUTOR_FAILED, "invalid vectors from the engine", retryable=True)
    return Embedded(vectors, tokens if isinstance(tokens, int) and tokens >= 0 else 0)


def _unit(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    return [number / length for number in vector] if length > 0 else vector


async def _batches(source: Path) -> AsyncIterator[list[str]]:
    """The lines of a file, in batches. Raises ExecutorError: INVALID_PAYLOAD, with the line's number."""
    limit = 4 * MAX_TEXT_CHARACTERS + 2  # bytes: UTF-8 needs at most four for a character
    number, batch = 0, []
    with await asyncio.to_thread(source.open, "rb") as file:
        while line := file.readline(limit):
            number += 1
            try:
                text = line.rstrip(b"\r\n").decode()
            except UnicodeDecodeError:
                raise _bad_line(number, "is not UTF-8") from None
            if not text:
                raise _bad_line(number, "is empty")
            if len(text) > MAX_TEXT_CHARACTERS or len(line) == limit:
                raise _bad_line(number, f"has more than {MAX_TEXT_CHARACTERS} characters")
            if number > MAX_ROWS:
                raise _bad_line(number, f"exceeds the limit of {MAX_ROWS} lines")
            batch.append(text)
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _bad_line(number: int, problem: str) -> ExecutorError:
    return ExecutorError(INVALID_PAYLOAD, f"input_url: line {number} {problem}")
