"""Speech through OpenAI's client, and rankings over HTTP: eSpeak NG and llama.cpp behind a real miner."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from coordinator.client import Coordinator
from coordinator.miner.executors.text_to_speech import kind_of
from tests.harness.espeak_engine import EspeakEngine
from tests.harness.espeak_server import MODEL as VOICE_MODEL
from tests.harness.llama_engine import RERANKER, LlamaEngine
from tests.harness.stage import ALICE, BOB, Stage
from tests.harness.waiting import eventually_now

TEXT = "The render is done, and the frames are here."
DOCUMENTS = ["sa", "kil mar", "bo la"]
JOB = "X-Job-Id"


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, espeak: EspeakEngine, reranker: LlamaEngine
) -> Iterator[Stage]:
    """An embedded coordinator, and one miner with both engines."""
    with Stage(tmp_path_factory.mktemp("speech")) as made:
        made.coordinator()
        eventually_now(lambda: made.health()["ready"], "ready", 90)
        made.program_miner(
            "rig1", transport="http", tts_engine_url=espeak.url, rerank_engine_url=reranker.url
        )
        with client(made) as openai_client:
            there = {VOICE_MODEL, RERANKER}
            eventually_now(lambda: there <= {one.id for one in openai_client.models.list()}, "the miner", 90)
        yield made


def client(stage: Stage, key: str = ALICE) -> OpenAI:
    return OpenAI(base_url=f"{stage.urls['main']}/v1", api_key=key, max_retries=0)


# --- speech ------------------------------------------------------------------------------------------------
def test_a_text_is_read_aloud(stage: Stage) -> None:
    """The answer is the sound itself, as long as the job's result says; the job has a receipt."""
    with client(stage) as openai_client:
        spoken = openai_client.audio.speech.with_raw_response.create(
            model=VOICE_MODEL, input=TEXT, voice="en-us", response_format="wav", stream_format="audio"
        )
    with wave.open(io.BytesIO(spoken.content)) as file:
        seconds = file.getnframes() / file.getframerate()
    assert ("audio/wav", str(len(spoken.content))) == (
        spoken.headers["content-type"],
        spoken.headers["content-length"],
    )
    with Coordinator(stage.urls["main"], ALICE) as coordinator:
        job = coordinator.job(spoken.headers[JOB])
        result = job.result().result
        assert job.receipt().verify([stage.coordinator_key]).key_trusted
    assert (len(TEXT), "wav", VOICE_MODEL) == (result["characters"], result["format"], result["model"])
    assert seconds == pytest.approx(result["duration_seconds"], abs=0.01)


def test_a_sound_file_comes_in_pieces(stage: Stage, tmp_path: Path) -> None:
    """OpenAI's streaming reader writes the file; a voice may be an object, and the default is MP3."""
    voice: Any = {"id": "de"}
    with (
        client(stage) as openai_client,
        openai_client.audio.speech.with_streaming_response.create(
            model=VOICE_MODEL, input="Der Auftrag ist fertig.", voice=voice, speed=1.5
        ) as spoken,
    ):
        spoken.stream_to_file(tmp_path / "speech.mp3")
    assert "audio/mpeg" == spoken.headers["content-type"]
    assert "mp3" == kind_of((tmp_path / "speech.mp3").read_bytes()[:64])


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"voice": "alloy"}, "voice", "unsupported"),
        ({"instructions": "softly"}, "instructions", "unsupported"),
        ({"input": " "}, "input", "invalid_payload"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": "x" * 100_001}, "input", "invalid_value"),
        ({"response_format": "ogg"}, "response_format", "invalid_value"),
        ({"speed": 4.5}, "speed", "invalid_value"),
        ({"stream_format": "sse"}, "stream_format", "unsupported_parameter"),
        ({"extra_body": {"language": "de"}}, "language", "unsupported_parameter"),
        ({"voice": {"name": "x"}}, "voice", "invalid_value"),
        ({"voice": "a\nb"}, "voice", "invalid_value"),
    ],
)
def test_speech_that_is_refused(stage: Stage, members: dict[str, Any], param: str, code: str) -> None:
    """The error names the member of the request, whether the endpoint, the miner or its engine refuses it."""
    asked: dict[str, Any] = {"model": VOICE_MODEL, "input": TEXT, "voice": "en-us", **members}
    with client(stage) as openai_client, pytest.raises(openai.BadRequestError) as refused:
        openai_client.audio.speech.create(**asked)
    assert (param, code) == (refused.value.param, refused.value.code)


def test_a_voice_that_nobody_has(stage: Stage) -> None:
    """A model that nobody has makes no job; one of another service is not found there."""
    with client(stage, BOB) as openai_client, pytest.raises(openai.NotFoundError, match=VOICE_MODEL):
        openai_client.audio.speech.create(model="tts-1", input=TEXT, voice="alloy")
    with Coordinator(stage.urls["main"], BOB) as coordinator:
        assert [] == list(coordinator.jobs())
    with client(stage) as openai_client, pytest.raises(openai.NotFoundError) as refused:
        openai_client.audio.speech.create(model=RERANKER, input=TEXT, voice="en-us")
    assert ("model", "model_not_found") == (refused.value.param, refused.value.code)


# --- rankings ----------------------------------------------------------------------------------------------
def rerank(stage: Stage, key: str = ALICE, **members: Any) -> httpx.Response:
    asked = {"model": RERANKER, "query": "kil", "documents": DOCUMENTS, **members}
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{stage.urls['main']}/v1/rerank", json=asked, headers=headers, timeout=60)


def test_documents_are_ranked(stage: Stage, reranker: LlamaEngine) -> None:
    """Scores are the engine's own, best first; documents may be objects, and come back where asked for."""
    engine = httpx.post(
        f"{reranker.url}/v1/rerank", json={"model": RERANKER, "query": "kil", "documents": DOCUMENTS}
    ).json()
    scores = {one["index"]: one["relevance_score"] for one in engine["results"]}
    best = sorted(scores, key=lambda index: -scores[index])
    plain = rerank(stage)
    assert [{"index": index, "relevance_score": scores[index]} for index in best] == plain.json()["results"]
    assert (RERANKER, "list") == (plain.json()["model"], plain.json()["object"])
    tokens = engine["usage"]["prompt_tokens"]
    assert {"prompt_tokens": tokens, "total_tokens": tokens} == plain.json()["usage"]
    assert f"rerank-{plain.headers[JOB].replace('-', '')}" == plain.json()["id"]
    objects = [{"text": DOCUMENTS[0]}, *DOCUMENTS[1:]]
    few = rerank(stage, documents=objects, top_n=2, return_documents=True).json()["results"]
    assert [(index, {"text": DOCUMENTS[index]}) for index in best[:2]] == [
        (one["index"], one["document"]) for one in few
    ]
    assert best == [one["index"] for one in rerank(stage, top_n=99).json()["results"]]


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"documents": []}, "documents", "invalid_value"),
        ({"documents": ["a", ""]}, "documents.1", "invalid_value"),
        ({"documents": ["a", {"image": "x"}]}, "documents.1", "invalid_value"),
        ({"documents": "a"}, "documents", "invalid_value"),
        ({"documents": ["é" * 99_999] * 5}, "documents", "invalid_value"),
        ({"documents": ["a"] * 1001}, "documents", "invalid_value"),
        ({"query": ""}, "query", "invalid_value"),
        ({"query": None}, "query", "missing_required_parameter"),
        ({"top_n": 0}, "top_n", "invalid_value"),
        ({"top_n": True}, "top_n", "invalid_value"),
        ({"rank_fields": ["text"]}, "rank_fields", "unsupported_parameter"),
    ],
)
def test_rankings_that_are_refused(stage: Stage, members: dict[str, Any], param: str, code: str) -> None:
    """Any fault is 400 in OpenAI's shape, with the member's name."""
    refused = rerank(stage, **members)
    error = refused.json()["error"]
    assert (400, param, code) == (refused.status_code, error["param"], error["code"])


def test_other_statuses_have_openais_shape(stage: Stage) -> None:
    """An unknown model, a wrong key, a wrong method and a body that is too large: each has its code."""
    for answer, status, code in (
        (rerank(stage, model="gpt-4o"), 404, "model_not_found"),
        (rerank(stage, key="alice:wrong"), 401, "invalid_api_key"),
        (rerank(stage, documents=["x" * 90_000] * 13), 413, "too_large"),
        (httpx.get(f"{stage.urls['main']}/v1/rerank"), 405, "method_not_allowed"),
    ):
        error = answer.json()["error"]
        assert {"message", "type", "param", "code"} == error.keys()
        assert (status, code) == (answer.status_code, error["code"])
