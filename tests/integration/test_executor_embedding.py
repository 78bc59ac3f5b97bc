"""`text_embedding` on llama.cpp's server, and with a static model on this CPU; both are really run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model2vec import StaticModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from coordinator.miner.executors.base import Outcome
from coordinator.miner.executors.embedding import executor as embedding
from coordinator.miner.executors.embedding.executor import EmbeddingExecutor
from coordinator.miner.executors.engine import EngineSettings
from coordinator.miner.executors.errors import INPUT_TOO_LARGE, INVALID_PAYLOAD, UNSUPPORTED
from tests.harness.llama_engine import MODEL, LlamaEngine
from tests.harness.stand_in import StandIn
from tests.harness.works import Bench, FolderBlobs, check_output, failure

STATIC = "tiny-static"
NO_ENGINE = EngineSettings.model_construct(url=None)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench("text_embedding", tmp_path, FolderBlobs(tmp_path / "blobs"))
    with made.workspace:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a static model of four words, in model2vec's own format."""
    made = tmp_path_factory.mktemp("models")
    words = {"[UNK]": 0, "gpu": 1, "cheap": 2, "expensive": 3, "cat": 4}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    vectors = np.random.default_rng(1).normal(size=(len(words), 8)).astype(np.float32)
    StaticModel(vectors, tokenizer, max_length=6).save_pretrained(made / STATIC)
    (made / "not-a-model").mkdir()
    return made


@pytest.fixture(params=["engine", "static"])
def executor(request: pytest.FixtureRequest) -> EmbeddingExecutor:
    """Each way to embed."""
    if request.param == "engine":
        return EmbeddingExecutor(request.getfixturevalue("llama").settings())
    return EmbeddingExecutor(NO_ENGINE, request.getfixturevalue("folder"))


async def model_of(executor: EmbeddingExecutor) -> str:
    assert await executor.check() is None
    [model] = executor.models
    return model


async def run(executor: EmbeddingExecutor, bench: Bench, **payload: Any) -> Outcome:
    return check_output("text_embedding", await executor.run(bench.work(payload)))


async def test_equal_texts_have_equal_vectors(executor: EmbeddingExecutor, bench: Bench) -> None:
    """Each text gets its vector of length 1, in order; equal texts have equal ones, others do not."""
    model = await model_of(executor)
    result = (await run(executor, bench, model=model, texts=["cheap gpu", "cat", "cheap gpu"])).result
    first, second, third = result["embeddings"]
    assert first == pytest.approx(third)
    assert first != pytest.approx(second, abs=1e-3)
    assert [1, 1, 1] == pytest.approx([math.dist(v, [0] * len(v)) for v in (first, second, third)])
    assert (len(first), 3, model) == (result["dimensions"], result["count"], result["model"])
    assert result["tokens"] >= 5


async def test_a_file_becomes_an_array(
    executor: EmbeddingExecutor, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, one row, in batches, in a file that NumPy reads; the rows are those of single texts."""
    monkeypatch.setattr(embedding, "BATCH", 2)
    texts = ["cheap gpu", "cat", "expensive gpu", "cat cat", "gpu"]
    model = await model_of(executor)
    lines = "\r\n".join(texts).encode()
    outcome = await run(executor, bench, model=model, input_url=bench.blobs.add(lines))
    [output] = outcome.result["outputs"]
    array = np.load(BytesIO(bench.blobs.read(output)), allow_pickle=False)
    single = (await run(executor, bench, model=model, texts=texts)).result["embeddings"]
    assert ((5, outcome.result["dimensions"]), np.float32) == (array.shape, array.dtype)
    assert np.allclose(array, single, atol=1e-4)


async def test_what_is_too_long_is_cut_or_refused(executor: EmbeddingExecutor, bench: Bench) -> None:
    """With `truncate` a text of any length has a vector, without it is an error of the job's."""
    model = await model_of(executor)
    texts = ["cat " * 2000, "gpu"]
    assert 2 == (await run(executor, bench, model=model, texts=texts)).result["count"]
    code, _ = await failure(executor, bench.work({"model": model, "texts": texts, "truncate": False}))
    assert INVALID_PAYLOAD == code


@pytest.mark.parametrize(
    "content", [b"", b"a\n\nb\n", b"\xff\xfe\n", b"x" * 100_001, b"a\n" + "é".encode() * 110_000]
)
async def test_files_that_are_no_lines_of_text(folder: Path, bench: Bench, content: bytes) -> None:
    """An empty file, an empty line, other encodings and endless lines are the job's fault."""
    work = bench.work({"model": STATIC, "input_url": bench.blobs.add(content)})
    assert (INVALID_PAYLOAD, False) == await failure(EmbeddingExecutor(NO_ENGINE, folder), work)


async def test_models_and_sizes_that_are_not_here(folder: Path, bench: Bench) -> None:
    """Another model may be elsewhere; too large a file is too large everywhere."""
    executor = EmbeddingExecutor(NO_ENGINE, folder)
    assert (UNSUPPORTED, True) == await failure(executor, bench.work({"model": "bge-m3", "texts": ["x"]}))
    executor._max_file_bytes = 3
    work = bench.work({"model": STATIC, "input_url": bench.blobs.add(b"cat\n")})
    assert (INPUT_TOO_LARGE, False) == await failure(executor, work)


async def test_neither_engine_nor_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The check names what is missing; a folder without models is said to be one."""
    monkeypatch.delenv("EMBEDDING_MODELS_DIR", raising=False)
    assert "EMBEDDING_ENGINE_URL is not set" == await EmbeddingExecutor(NO_ENGINE).check()
    monkeypatch.setenv("EMBEDDING_MODELS_DIR", str(tmp_path))
    told = await EmbeddingExecutor(NO_ENGINE).check()
    assert "no model in EMBEDDING_MODELS_DIR; EMBEDDING_ENGINE_URL is not set" == told


async def test_an_engine_that_does_not_embed(bench: Bench) -> None:
    """Having models is not enough: the check embeds a word, and what can't is not offered."""
    async with StandIn("BAAI/bge-m3").serving() as engine:
        engine.answers["embeddings"] = (500, {"error": {"message": "not an embedding model"}})
        executor = EmbeddingExecutor(engine.settings())
        told = await executor.check()
        assert ("the engine does not embed: the engine failed: not an embedding model", ()) == (
            told,
            executor.models,
        )
        engine.answers["embeddings"] = (200, {"data": [{"index": 0, "embedding": [3, 4]}]})
        assert (None, ("baai/bge-m3", "bge-m3")) == (await executor.check(), executor.models)
        result = (await run(executor, bench, model="bge-m3", texts=["x"])).result
        assert [[0.6, 0.8]] == result["embeddings"]


async def test_a_text_that_is_too_long_for_the_model(bench: Bench) -> None:
    """It is the client's, also for an engine that calls it a failure of its own."""
    told = "input (9000 tokens) is too large to process. increase the physical batch size (current: 512)"
    async with StandIn("BAAI/bge-m3").serving() as engine:
        executor = EmbeddingExecutor(engine.settings())
        engine.answers["embeddings"] = (200, {"data": [{"index": 0, "embedding": [3, 4]}]})
        assert await executor.check() is None
        engine.answers["embeddings"] = (500, {"error": {"message": told}})
        work = bench.work({"model": "bge-m3", "texts": ["x"], "truncate": False})
        assert (INVALID_PAYLOAD, False) == await failure(executor, work)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"data": []},
        {"data": [{"index": 0, "embedding": []}]},
        {"data": [{"index": 0, "embedding": ["x"]}]},
        {"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}]},
        {"data": None},
        [],
    ],
)
async def test_vectors_that_are_none(bench: Bench, answer: Any) -> None:
    """An engine's answer without a vector for each text fails the attempt."""
    async with StandIn("BAAI/bge-m3").serving() as engine:
        executor = EmbeddingExecutor(engine.settings())
        engine.answers["embeddings"] = (200, {"data": [{"embedding": [1]}]})
        assert await executor.check() is None
        engine.answers["embeddings"] = (200, answer)
        work = bench.work({"model": "bge-m3", "texts": ["a", "b"], "truncate": False})
        assert ("EXECUTOR_FAILED", True) == await failure(executor, work)


async def test_models_get_their_prefixes(bench: Bench) -> None:
    """Where a model wants queries and documents marked, they are; others get the text as it is."""
    async with StandIn("intfloat/multilingual-e5-large", "all-minilm:latest").serving() as engine:
        engine.answers["embeddings"] = (200, {"data": [{"embedding": [1.0]}]})
        executor = EmbeddingExecutor(engine.settings())
        for model in ("multilingual-e5-large", "all-minilm"):
            await run(executor, bench, model=model, texts=["x"], kind="query")
        sent = [(fields["model"], fields["input"]) for _, fields in engine.received[-2:]]
    assert [("intfloat/multilingual-e5-large", ["query: x"]), ("all-minilm:latest", ["x"])] == sent


def test_the_engine_is_the_sessions(llama: LlamaEngine) -> None:
    """The tests above ran on llama.cpp: its name is what it was asked to be."""
    assert MODEL == "tiny-llama"
