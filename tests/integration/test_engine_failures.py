"""One cause of an engine's failure has one code in every executor; no message has the engine's secrets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from coordinator.dev.servers.processes import free_port
from coordinator.miner.executors.embedding.executor import EmbeddingExecutor
from coordinator.miner.executors.engine import EngineSettings
from coordinator.miner.executors.errors import (
    ENGINE_UNAVAILABLE,
    EXECUTOR_FAILED,
    INPUT_TOO_LARGE,
    INVALID_PAYLOAD,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.miner.executors.image_generation import ImageGenerationExecutor
from coordinator.miner.executors.llm import LlmExecutor
from coordinator.miner.executors.reranking import RerankingExecutor
from coordinator.miner.executors.speech import SpeechExecutor
from coordinator.miner.executors.text_to_speech import TextToSpeechExecutor
from tests.harness.stand_in import StandIn
from tests.harness.works import Bench, FolderBlobs
from tests.integration.test_executor_audio import tone

KEY = "sesame-open-yourself"
SECRETS = f"cannot run at http://gpu7.lan:8000/x, /srv/models/a.gguf, gpu7:8000 or with {KEY}: it is ill"
TURBO = "sdxl-turbo"
EXECUTORS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "llm_inference": (LlmExecutor, "completions", {"model": "base", "prompt": "x"}),
    "text_embedding": (EmbeddingExecutor, "embeddings", {"model": "base", "texts": ["x"], "truncate": False}),
    "reranking": (RerankingExecutor, "rerank", {"model": "base", "query": "x", "documents": ["x"]}),
    "speech_recognition": (SpeechExecutor, "audio/transcriptions", {"model": "base"}),
    "text_to_speech": (TextToSpeechExecutor, "audio/speech", {"model": "base", "text": "x", "voice": "a"}),
    "image_generation": (
        ImageGenerationExecutor,
        "images/generations",
        {"prompt": "x", "model": TURBO},
    ),
}
"""By service: its executor, the path of the engine, and a payload."""


@pytest.fixture
async def engine() -> AsyncIterator[StandIn]:
    async with StandIn("base", TURBO).serving() as made:
        yield made


async def failed(service: str, settings: EngineSettings, folder: Path) -> ExecutorError:
    """The error of a job of this service on this engine, whose models are known already."""
    make, _, payload = EXECUTORS[service]
    executor = make(settings)
    executor._engine._keep(("base", TURBO))
    bench = Bench(service, folder, FolderBlobs(folder / "blobs"))
    if service == "speech_recognition":
        payload = {**payload, "audio_url": bench.blobs.add(tone(0.2))}
    with bench.workspace, pytest.raises(ExecutorError) as caught:
        await executor.run(bench.work(payload))
    return caught.value


@pytest.mark.parametrize("service", EXECUTORS)
async def test_each_status_has_its_code(engine: StandIn, service: str, tmp_path: Path) -> None:
    """Codes and retries are the same for all services, and the reason is told without places and keys."""
    path = EXECUTORS[service][1]
    settings = engine.settings(url=f"{engine.url}/v1".replace("127.0.0.1", "localhost"), key=SecretStr(KEY))
    for number, (status, expected, tells) in enumerate(
        (
            (400, (INVALID_PAYLOAD, False), True),
            (401, (ENGINE_UNAVAILABLE, True), False),
            (404, (UNSUPPORTED, True), False),
            (405, (UNSUPPORTED, True), False),
            (408, (ENGINE_UNAVAILABLE, True), False),
            (413, (INPUT_TOO_LARGE, False), True),
            (422, (INVALID_PAYLOAD, False), True),
            (429, (ENGINE_UNAVAILABLE, True), False),
            (500, (EXECUTOR_FAILED, True), True),
            (501, (UNSUPPORTED, True), False),
            (503, (ENGINE_UNAVAILABLE, True), False),
        )
    ):
        engine.answers[path] = (status, {"error": {"message": SECRETS}})
        folder = tmp_path / str(number)
        folder.mkdir()
        error = await failed(service, settings, folder)
        assert expected == (error.code, error.retryable), (status, error)
        assert tells == ("it is ill" in error.detail), (status, error)
        for secret in (KEY, "gpu7", "/srv", "localhost", "127.0.0.1"):
            assert secret not in error.detail


@pytest.mark.parametrize("service", EXECUTORS)
async def test_an_error_with_success(engine: StandIn, service: str, tmp_path: Path) -> None:
    """An error in the body counts, whatever the status."""
    engine.answers[EXECUTORS[service][1]] = (200, {"error": {"message": "it is ill"}})
    error = await failed(service, engine.settings(), tmp_path)
    assert (EXECUTOR_FAILED, True) == (error.code, error.retryable)
    assert "it is ill" in error.detail


@pytest.mark.parametrize("service", EXECUTORS)
async def test_an_engine_that_is_away(service: str, tmp_path: Path) -> None:
    """A refused connection is no fault of the job, and its address stays here."""
    port = free_port()
    settings = EngineSettings.model_construct(url=f"http://127.0.0.1:{port}/v1")
    error = await failed(service, settings, tmp_path)
    assert (ENGINE_UNAVAILABLE, True) == (error.code, error.retryable)
    assert str(port) not in error.detail
