"""Answers whose size follows from the model, through OpenAI's client: they come whole.

The coordinator, the miner and its executors are real; the engine is a stand-in (see `bulky_server`).
"""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import orjson
import psutil
import pytest
from openai import OpenAI

from coordinator.client import Coordinator
from coordinator.services.base import WHOLE_RESULT_TYPE
from tests.harness.bulky_server import DIMENSIONS, EARS, MODEL, SEGMENTS, BulkyEngine, logprob, vector
from tests.harness.stage import ALICE, Stage
from tests.harness.waiting import eventually_now

TEXTS = 1024
MOST_BYTES = 80 << 20
"""Of memory beside the coordinator's own: the file has 16 MiB, its JSON three times as many."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An embedded coordinator, and a miner whose engines are all the bulky one."""
    with (
        BulkyEngine(tmp_path_factory.mktemp("bulky")) as engine,
        Stage(tmp_path_factory.mktemp("large")) as made,
    ):
        made.coordinator()
        eventually_now(lambda: made.health()["ready"], "ready", 90)
        kinds = ("llm", "embedding", "speech", "rerank")
        engines: dict[str, Any] = {f"{kind}_engine_url": engine.url for kind in kinds}
        made.program_miner("rig1", transport="http", **engines)
        with client(made) as openai_client:
            eventually_now(lambda: MODEL in {one.id for one in openai_client.models.list()}, "the miner", 90)
        yield made


def client(stage: Stage) -> OpenAI:
    return OpenAI(base_url=f"{stage.urls['main']}/v1", api_key=ALICE)


def result_type(stage: Stage, job_id: str) -> str | None:
    """The media type of a job's last output file."""
    with Coordinator(stage.urls["main"], ALICE) as coordinator:
        job = coordinator.job(job_id)
        assert job.receipt().verify([stage.coordinator_key]).key_trusted
        outputs = job.result().result.get("outputs")
        return outputs[-1]["media_type"] if outputs else None


def test_four_million_numbers_of_embeddings(stage: Stage) -> None:
    """1,024 vectors of 4,096 numbers come in both encodings, from one file, within bounds of memory."""
    coordinator = psutil.Process(stage.processes[0].pid)
    before, spent = coordinator.memory_info().rss, sum(coordinator.cpu_times()[:2])
    asked: dict[str, Any] = {
        "model": MODEL,
        "input": [str(number) for number in range(TEXTS)],
        "extra_headers": {"Idempotency-Key": "a thousand texts"},  # so that both are the same job's
    }
    with client(stage) as openai_client:
        packed = openai_client.embeddings.with_raw_response.create(**asked, encoding_format="base64")
        plain = openai_client.embeddings.with_raw_response.create(**asked, encoding_format="float")
    grown, spent = highest(coordinator) - before, sum(coordinator.cpu_times()[:2]) - spent
    print(f"the coordinator took {spent:.1f} s and {grown >> 20} MiB at most")  # noqa: T201 - for `pytest -s`
    assert packed.headers["X-Job-Id"] == plain.headers["X-Job-Id"]
    assert "application/octet-stream" == result_type(stage, plain.headers["X-Job-Id"])
    rows = [one["embedding"] for one in orjson.loads(plain.http_response.content)["data"]]
    numbers = np.array(rows, dtype=np.float32)
    expected = np.array([vector(number) for number in range(TEXTS)], dtype=np.float32)
    assert (TEXTS, DIMENSIONS) == numbers.shape
    assert np.array_equal(expected, numbers)
    packed_rows = [one["embedding"] for one in orjson.loads(packed.http_response.content)["data"]]
    assert expected.tobytes() == b"".join(map(base64.b64decode, packed_rows))
    assert grown < MOST_BYTES


def highest(process: psutil.Process) -> int:
    """The most bytes of main memory that a process has had; those of now where the kernel does not tell."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        return int(process.memory_info().rss)
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


@pytest.mark.parametrize("stream", [False, True])
def test_probabilities_of_four_thousand_tokens(stage: Stage, stream: bool) -> None:
    """Every token has its twenty likeliest ones, whole and as a stream; the job's result names a file."""
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "x"}],
        "max_completion_tokens": 4096,
        "logprobs": True,
        "top_logprobs": 20,
    }
    found: list[Any] = []
    with client(stage) as openai_client:
        if stream:
            raw = openai_client.chat.completions.with_raw_response.create(**asked, stream=True)
            for chunk in raw.parse():
                for choice in chunk.choices:
                    found += (choice.logprobs.content or []) if choice.logprobs else []
        else:
            whole = openai_client.chat.completions.with_raw_response.create(**asked)
            [choice] = whole.parse().choices
            assert choice.logprobs is not None
            found = choice.logprobs.content or []
            job_id = whole.headers["X-Job-Id"]
            assert WHOLE_RESULT_TYPE == result_type(stage, job_id)
            with Coordinator(stage.urls["main"], ALICE) as coordinator:
                result = coordinator.job(job_id).whole_result()
            assert (4096, choice.message.content) == (len(result["logprobs"]), result["text"])
    assert 4096 == len(found)
    for place in (0, 1, 96, 4095):
        assert [logprob(place, rank) for rank in range(20)] == [
            top.model_dump() for top in found[place].top_logprobs
        ]


def test_eight_long_answers(stage: Stage) -> None:
    """Eight answers with the probabilities of 500 tokens each are there, each under its index."""
    with client(stage) as openai_client:
        raw = openai_client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": "x"}],
            n=8,
            max_completion_tokens=500,
            logprobs=True,
            top_logprobs=5,
        )
    text = "".join(logprob(place)["token"] for place in range(500))
    completion = raw.parse()
    assert [(index, text) for index in range(8)] == [(c.index, c.message.content) for c in completion.choices]
    assert [500] * 8 == [len(c.logprobs.content or ()) for c in completion.choices if c.logprobs]
    assert WHOLE_RESULT_TYPE == result_type(stage, raw.headers["X-Job-Id"])


def test_a_transcript_of_three_hours(stage: Stage) -> None:
    """All segments come, as JSON and as subtitles."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(b"\1\0" * 8000)
    recording = ("a.wav", file.getvalue())
    with client(stage) as openai_client:
        raw = openai_client.audio.transcriptions.with_raw_response.create(
            model=EARS.removeprefix("whisper-"), file=recording, response_format="verbose_json"
        )
        srt = openai_client.audio.transcriptions.create(
            model=EARS.removeprefix("whisper-"), file=recording, response_format="srt"
        )
    heard: Any = raw.parse()
    assert (SEGMENTS, "10799 words.") == (len(heard.segments), heard.segments[-1].text)
    assert heard.text.endswith("10799 words.")
    assert WHOLE_RESULT_TYPE == result_type(stage, raw.headers["X-Job-Id"])
    assert str(srt).endswith("10800\n02:59:59,000 --> 02:59:59,980\n10799 words.\n\n")


def test_an_engine_without_words(stage: Stage) -> None:
    """Words that no miner's engine times are refused, by the name of the member."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(b"\1\0" * 8000)
    with client(stage) as openai_client, pytest.raises(openai.BadRequestError) as refused:
        openai_client.audio.transcriptions.create(
            model=EARS.removeprefix("whisper-"),
            file=("a.wav", file.getvalue()),
            response_format="verbose_json",
            timestamp_granularities=["word"],
        )
    assert ("timestamp_granularities", "unsupported") == (refused.value.param, refused.value.code)


def test_a_thousand_documents(stage: Stage) -> None:
    """As many as a request holds are ranked, and come back with the answer."""
    documents = [f"{number} " + "é" * 400 for number in range(1000)]
    asked = {"model": MODEL, "query": "x", "documents": documents, "return_documents": True}
    done = httpx.post(
        f"{stage.urls['main']}/v1/rerank",
        json=asked,
        headers={"Authorization": f"Bearer {ALICE}"},
        timeout=60,
    )
    assert [(n, {"text": documents[n]}) for n in range(1000)] == [
        (one["index"], one["document"]) for one in done.json()["results"]
    ]
