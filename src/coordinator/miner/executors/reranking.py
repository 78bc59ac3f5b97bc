"""The service `reranking`: documents in the order of their scores, from an engine (RERANK_ENGINE_URL).

vLLM, llama.cpp's server, Infinity and others have `/v1/rerank`, in Jina's form, which is not OpenAI's.
"""

from __future__ import annotations

import math
import time
from typing import Any, Final

from coordinator.miner.executors.base import Outcome, Work, payload_of
from coordinator.miner.executors.engine import Engine, EngineExecutor, EngineSettings
from coordinator.miner.executors.errors import EXECUTOR_FAILED, INVALID_PAYLOAD, ExecutorError
from coordinator.services.reranking import SERVICE, RankedDocument, Ranking, RerankPayload

_SCORES: Final = ("relevance_score", "score")
"""Jina's name, and that of some engines."""


class RerankingExecutor(EngineExecutor):
    """Sorts documents on one engine."""

    services = (SERVICE.id,)

    def __init__(self, settings: EngineSettings | None = None) -> None:
        super().__init__(Engine("RERANK", settings))
        self._proven = False

    async def check(self) -> str | None:
        """Whether the engine answers, has a model, and reranks."""
        problem = await self._engine.check()
        if problem is None and not self._proven:
            # A server with models may not rerank. Asked once.
            probe = RerankPayload(query="check", documents=["one", "two"])
            try:
                await self._ask(self._engine.models[0], probe)
            except ExecutorError as error:
                self._engine.forget()
                return f"the engine does not rerank: {error.detail}"
            self._proven = True
        return problem

    async def run(self, work: Work) -> Outcome:
        """The result is a Ranking.

        Raises ExecutorError: INVALID_PAYLOAD (also documents that are too long for the model), UNSUPPORTED
        (no such model here), ENGINE_UNAVAILABLE, EXECUTOR_FAILED.
        """
        payload = payload_of(SERVICE, work)
        started = time.monotonic()
        await self.ready()
        model = self._engine.name_of(payload.model)
        work.progress(0.0, "reading")
        try:
            results, tokens = await self._ask(model, payload)
        except ExecutorError as error:
            if error.code != INVALID_PAYLOAD:
                raise
            member = "query" if "query" in error.detail.lower() else "documents"
            raise ExecutorError(error.code, f"{member}: {error.detail}") from None
        ranking = Ranking(model=payload.model, results=results[: payload.top_n], tokens=tokens)
        metrics: dict[str, int | str] = {
            "wall_ms": round((time.monotonic() - started) * 1000),
            "documents": len(payload.documents),
            "tokens": tokens,
        }
        return Outcome(ranking.document(), metrics, {"token": tokens})

    async def _ask(self, model: str, payload: RerankPayload) -> tuple[list[RankedDocument], int]:
        """All documents with their scores, the best first, and the tokens read."""
        request = {
            "model": model,
            "query": payload.query,
            "documents": payload.documents,
            # All of them: engines differ in what they cut off, and a lost document would not show.
            "top_n": len(payload.documents),
        }
        return parse_ranking(await self._engine.post("rerank", request), len(payload.documents))


def parse_ranking(answer: Any, expected: int) -> tuple[list[RankedDocument], int]:
    """The documents in an engine's answer, the best first, and the tokens.

    Raises ExecutorError unless each of the expected documents has one finite score.
    """
    given = answer.get("results") if isinstance(answer, dict) else None
    scores: dict[int, float] = {}
    for one in given if isinstance(given, list) else ():
        index = one.get("index") if isinstance(one, dict) else None
        score = next((one[name] for name in _SCORES if name in one), None) if isinstance(one, dict) else None
        if type(index) is not int or not 0 <= index < expected or index in scores:
            raise _invalid("an index that is no document's, or twice")
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise _invalid("a score that is no finite number")
        scores[index] = float(score)
    if len(scores) != expected:
        raise _invalid(f"scores of {len(scores)} in place of {expected} documents")
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    tokens = usage.get("prompt_tokens") or usage.get("total_tokens") or 0
    ranked = sorted(scores.items(), key=lambda one: (-one[1], one[0]))
    return (
        [RankedDocument(index=index, relevance_score=score) for index, score in ranked],
        tokens if type(tokens) is int and tokens > 0 else 0,
    )


def _invalid(reason: str) -> ExecutorError:
    return ExecutorError(EXECUTOR_FAILED, f"the engine's answer has {reason}", retryable=True)
