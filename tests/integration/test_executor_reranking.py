"""`reranking` on a real engine: llama.cpp's server with a tiny model that scores documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.miner.executors.engine import EngineSettings
from coordinator.miner.executors.errors import (
    ENGINE_UNAVAILABLE,
    EXECUTOR_FAILED,
    INVALID_PAYLOAD,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.miner.executors.reranking import RerankingExecutor, parse_ranking
from tests.harness.llama_engine import MODEL, RERANKER, LlamaEngine
from tests.harness.stand_in import StandIn
from tests.harness.works import Bench, FolderBlobs, check_output, failure

DOCUMENTS = ["sa", "kil mar", "bo la"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench("reranking", tmp_path, FolderBlobs(tmp_path / "blobs"))
    with made.workspace:
        yield made


async def test_documents_come_in_the_order_of_their_scores(reranker: LlamaEngine, bench: Bench) -> None:
    """Scores are the engine's own, the best first; `top_n` leaves the best; equal documents score alike."""
    executor = RerankingExecutor(reranker.settings())
    assert (None, (RERANKER,)) == (await executor.check(), executor.models)
    asked = {"model": RERANKER, "query": "kil", "documents": [*DOCUMENTS, "sa"]}
    async with httpx.AsyncClient() as http:
        direct = (await http.post(f"{reranker.url}/v1/rerank", json=asked)).json()
    scores = {one["index"]: one["relevance_score"] for one in direct["results"]}
    assert scores[0] == scores[3] != scores[1]

    outcome = check_output("reranking", await executor.run(bench.work(asked)))
    assert [
        {"index": index, "relevance_score": score}
        for index, score in sorted(scores.items(), key=lambda one: (-one[1], one[0]))
    ] == outcome.result["results"]
    assert direct["usage"]["prompt_tokens"] == outcome.result["tokens"] == outcome.metrics["tokens"]
    best = await executor.run(bench.work({**asked, "top_n": 2}))
    assert outcome.result["results"][:2] == best.result["results"]


async def test_documents_that_are_too_large(reranker: LlamaEngine, bench: Bench) -> None:
    """Bytes are counted for all documents together; a model's context is the engine's to judge."""
    executor = RerankingExecutor(reranker.settings())
    large = {"model": RERANKER, "query": "kil", "documents": ["é" * 100_000] * 5}
    assert (INVALID_PAYLOAD, False) == await failure(executor, bench.work(large))
    code, _ = await failure(executor, bench.work({**large, "documents": ["sa", "kil " * 20_000]}))
    assert code in (INVALID_PAYLOAD, EXECUTOR_FAILED)


async def test_engines_that_do_not_rerank(llama: LlamaEngine, bench: Bench) -> None:
    """A server with models that has no scores is off, with the reason; no engine is to be set."""
    executor = RerankingExecutor(llama.settings())
    assert (await executor.check() or "").startswith("the engine does not rerank: ")
    assert () == executor.models
    work = bench.work({"model": MODEL, "query": "kil", "documents": DOCUMENTS})
    assert (ENGINE_UNAVAILABLE, True) == await failure(executor, work)
    nothing = RerankingExecutor(EngineSettings.model_construct(url=None))
    assert "RERANK_ENGINE_URL is not set" == await nothing.check()


async def test_another_model(reranker: LlamaEngine, bench: Bench) -> None:
    """Another miner may have it."""
    work = bench.work({"model": "bge-reranker-v2-m3", "query": "kil", "documents": DOCUMENTS})
    assert (UNSUPPORTED, True) == await failure(RerankingExecutor(reranker.settings()), work)


def one(index: Any = 0, **score: Any) -> dict[str, Any]:
    return {"index": index, **(score or {"relevance_score": 0.5})}


@pytest.mark.parametrize(
    "results",
    [
        None,
        [],
        [one()],
        [one(), one()],
        [one(), one(2)],
        [one(), one(-1)],
        [one(), one(True)],
        [one(), one(1, relevance_score=float("nan"))],
        [one(), one(1, relevance_score=float("inf"))],
        [one(), one(1, relevance_score="0.5")],
        [one(), one(1, relevance_score=True)],
        [one(), one(1, other=1)],
        [one(), 5],
        [one(), one(1), one(1)],
    ],
)
def test_answers_that_are_no_ranking(results: object) -> None:
    """Every document needs one finite score, under its own index."""
    with pytest.raises(ExecutorError) as failed:
        parse_ranking({"results": results, "usage": None}, 2)
    assert (EXECUTOR_FAILED, True) == (failed.value.code, failed.value.retryable)


async def test_what_is_sent(bench: Bench) -> None:
    """A stand-in pins the request: all documents are asked for, and the score may have its other name."""
    async with StandIn("m").serving() as engine:
        engine.answers["rerank"] = (200, {"results": [one(1, score=2), one(0, score=3)]})
        executor = RerankingExecutor(engine.settings())
        assert await executor.check() is None
        outcome = await executor.run(
            bench.work({"model": "m", "query": "q", "documents": ["a", "b"], "top_n": 1})
        )
        asked = {"model": "m", "query": "q", "documents": ["a", "b"], "top_n": 2}
        assert ("rerank", asked) == engine.received[-1]
        assert {
            "model": "m",
            "results": [{"index": 0, "relevance_score": 3.0}],
            "tokens": 0,
        } == outcome.result
        engine.answers["rerank"] = (400, {"error": {"message": "input is too long"}})
        with pytest.raises(ExecutorError, match="documents: the engine refuses this: input is too long"):
            await executor.run(bench.work({"model": "m", "query": "q", "documents": ["a", "b"]}))
