"""OpenAI's own client, pointed at a coordinator: real processes, real miners, a real engine."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import urllib.request
import wave
from collections.abc import Awaitable, Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from coordinator.client import Coordinator, StateChanged, Tokens
from coordinator.dev.servers import PostgresServer, RabbitMQServer
from tests.harness.llama_engine import MODEL, LlamaEngine
from tests.harness.stage import ALICE, BOB, Stage
from tests.harness.studio import EARS, PARROT, PICTURES, VECTORS, png, vector_of
from tests.harness.waiting import eventually, eventually_now
from tests.harness.whisper_engine import MODEL as WHISPER
from tests.harness.whisper_engine import WhisperEngine

JOB = "X-Job-Id"


@pytest.fixture(scope="module", params=["embedded", "standard"])
def stage(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    llama: LlamaEngine,
    whisper: WhisperEngine,
) -> Iterator[Stage]:
    """A coordinator, a miner with the executors of `studio`, and the product's own with real engines."""
    urls: dict[str, str] = {}
    if request.param == "standard":
        rabbitmq: RabbitMQServer = request.getfixturevalue("rabbitmq")
        postgres: PostgresServer = request.getfixturevalue("postgres")
        urls = {"amqp_url": rabbitmq.new_vhost(), "database_url": postgres.new_database()}
    with Stage(tmp_path_factory.mktemp("openai"), **urls) as made:
        made.coordinator()
        eventually_now(lambda: made.health()["ready"], "ready", 90)
        made.miner("rig1", concurrency=4, studio=True)
        transport = "amqp" if urls else "http"
        engine = f"{llama.url}/v1"
        made.program_miner(
            "rig2",
            transport=transport,
            llm_engine_url=engine,
            embedding_engine_url=engine,
            speech_engine_url=f"{whisper.url}/v1",
        )
        eventually_now(lambda: {PARROT, MODEL} <= models(made), "both miners", 90)
        yield made


def models(stage: Stage) -> set[str]:
    with client(stage) as openai_client:
        return {model.id for model in openai_client.models.list()}


def client(stage: Stage, key: str = ALICE, **options: Any) -> OpenAI:
    return OpenAI(base_url=f"{stage.urls['main']}/v1", api_key=key, **options)


def recording(seconds: float) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(b"\0\0" * int(8000 * seconds))
    return file.getvalue()


# --- models ------------------------------------------------------------------------------------------------
def test_models_are_what_live_miners_offer(stage: Stage) -> None:
    """The list has the models of both miners; one can be shown, one that nobody offers is not found."""
    with client(stage) as openai_client:
        listed = {model.id: model for model in openai_client.models.list()}
        assert {PARROT, VECTORS, PICTURES, EARS, MODEL} <= listed.keys()
        assert ("model", "miners") == (listed[PARROT].object, listed[PARROT].owned_by)
        assert listed[PARROT] == openai_client.models.retrieve(PARROT.upper())
        with pytest.raises(openai.NotFoundError):
            openai_client.models.retrieve("gpt-4o")


# --- chats and completions ---------------------------------------------------------------------------------
def test_a_chat_with_a_real_engine(stage: Stage) -> None:
    """A chat is answered by llama.cpp behind a miner, with its counts; the job has a receipt."""
    with client(stage) as openai_client:
        raw = openai_client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "system", "content": "sa"}, {"role": "user", "content": "kil"}],
            max_completion_tokens=8,
            temperature=0,
            seed=7,
        )
    completion = raw.parse()
    assert ("chat.completion", MODEL) == (completion.object, completion.model)
    [choice] = completion.choices
    assert ("assistant", "length") == (choice.message.role, choice.finish_reason)
    assert choice.message.content
    assert completion.usage is not None
    assert 8 == completion.usage.completion_tokens
    assert completion.usage.total_tokens == 8 + completion.usage.prompt_tokens
    with Coordinator(stage.urls["main"], ALICE) as coordinator:
        job = coordinator.job(raw.headers[JOB])
        assert f"chatcmpl-{job.job_id.replace('-', '')}" == completion.id
        assert ("COMPLETED", "rig2") == ((view := job.view()).state, view.assigned_miner_id)
        assert job.receipt().verify([stage.coordinator_key]).key_trusted


def test_a_completion_with_a_real_engine(stage: Stage) -> None:
    """A prompt is continued as it is; the same seed gives the same text."""
    with client(stage) as openai_client:
        texts = [
            openai_client.completions.create(
                model=MODEL, prompt="kil mar", max_tokens=6, temperature=0.0, seed=-1
            )
            for _ in range(2)
        ]
    assert "text_completion" == texts[0].object
    assert texts[0].choices[0].text == texts[1].choices[0].text != ""
    assert "length" == texts[0].choices[0].finish_reason


def test_what_a_client_was_answered_it_may_send_back(stage: Stage) -> None:
    """A conversation goes on with the message objects of the client, and with parts of text."""
    with client(stage) as openai_client:
        first = openai_client.chat.completions.create(
            model=PARROT, messages=[{"role": "user", "content": "one two"}], user="somebody"
        )
        messages: list[Any] = [
            {"role": "user", "content": "one two"},
            first.choices[0].message,
            {
                "role": "user",
                "content": [{"type": "text", "text": "three "}, {"type": "text", "text": "four"}],
            },
        ]
        second = openai_client.chat.completions.create(
            model=PARROT, messages=messages, stop="###", tools=[], n=1
        )
    assert ("one two ", "stop") == (first.choices[0].message.content, first.choices[0].finish_reason)
    assert "three four " == second.choices[0].message.content


# --- streams -----------------------------------------------------------------------------------------------
def test_a_streamed_chat_with_a_real_engine(stage: Stage) -> None:
    """Chunks come as the engine makes them: first who speaks, then the text, why it ended, and the counts."""
    with client(stage) as openai_client:
        asked: dict[str, Any] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "kil mar"}],
            "max_tokens": 12,
            "temperature": 0,
            "seed": 7,
        }
        whole = openai_client.chat.completions.create(**asked)
        chunks = list(
            openai_client.chat.completions.create(
                **asked, stream=True, stream_options={"include_usage": True}
            )
        )
    *parts, last, usage = chunks
    assert {"chat.completion.chunk"} == {chunk.object for chunk in chunks}
    assert 1 == len({chunk.id for chunk in chunks})
    assert "assistant" == parts[0].choices[0].delta.role
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert whole.choices[0].message.content == text
    assert "length" == last.choices[0].finish_reason
    assert [None] * (len(chunks) - 1) == [chunk.usage for chunk in chunks[:-1]]
    assert whole.usage is not None
    assert usage.usage is not None
    # The engine may know the prompt of the second request already.
    assert (whole.usage.prompt_tokens, 12) == (usage.usage.prompt_tokens, usage.usage.completion_tokens)
    assert [] == usage.choices


def test_a_stream_begins_before_the_job_ends(stage: Stage) -> None:
    """The first words are here while the miner still has to make the next ones."""
    with client(stage) as openai_client:
        stream = openai_client.completions.create(
            model=PARROT, prompt="one two hold:rest three", max_tokens=10, stream=True
        )
        chunks = iter(stream)
        text = ""
        while text != "one two ":
            text += next(chunks).choices[0].text
        stage.release("rest")
        rest = [chunk.choices[0] for chunk in chunks]
    assert "three " == "".join(choice.text for choice in rest)
    assert "stop" == rest[-1].finish_reason


def test_the_sdk_streams_the_same(stage: Stage) -> None:
    """A job's states and its words come to the SDK while the miner works, and end with the job."""
    with Coordinator(stage.urls["main"], ALICE) as coordinator:
        payload = {"model": PARROT, "prompt": "a b hold:sdk c", "max_tokens": 9, "stream": True}
        job = coordinator.submit("llm_inference", payload, constraints={"models": [PARROT]})
        text, states = "", []
        for update in job.stream():
            if isinstance(update, Tokens):
                text += update.text
                if text == "a b ":
                    stage.release("sdk")
            elif isinstance(update, StateChanged):
                states.append(update.state)
        assert ["QUEUED", "RUNNING", "COMPLETED"] == states
        assert "a b c " == text == job.result().result["text"]


def test_an_answer_that_begins_anew(stage: Stage) -> None:
    """Words can't be taken back: where the next attempt says others, the stream ends in an error."""
    with client(stage) as openai_client:
        stream = openai_client.completions.create(model=PARROT, prompt="twice second", stream=True)
        with pytest.raises(openai.APIError, match="began another text") as failed:
            list(stream)
    assert isinstance(failed.value.body, dict)
    assert "answer_interrupted" == failed.value.body["code"]


def test_a_stream_that_fails(stage: Stage) -> None:
    """What fails before the first word has a status of its own; what fails after it ends the stream."""
    with client(stage) as openai_client:
        with pytest.raises(openai.NotFoundError):
            openai_client.completions.create(model="gpt-4o", prompt="x", stream=True)
        with pytest.raises(openai.InternalServerError, match="as asked for"):
            openai_client.completions.create(model=PARROT, prompt="fail:BROKEN", stream=True)
        begun = openai_client.completions.create(model=PARROT, prompt="one hold:go fail:BROKEN", stream=True)
        assert "one " == next(iter(begun)).choices[0].text
        stage.release("go")
        with pytest.raises(openai.APIError, match="as asked for"):
            list(begun)


def test_leaving_a_stream_cancels_the_job(stage: Stage) -> None:
    """Who stops reading in the middle has the job cancelled, and the miner stops."""
    with client(stage) as openai_client:
        stream = openai_client.completions.create(model=PARROT, prompt="one hold:never", stream=True)
        job_id = stream.response.headers[JOB]
        assert "one " == next(iter(stream)).choices[0].text
        stream.close()
    eventually_now((stage.notes / f"stopped-{job_id}").exists, "the miner stopped")
    with Coordinator(stage.urls["main"], ALICE) as coordinator:
        assert "CANCELED" == coordinator.job(job_id).wait(30).state


def test_many_streams_at_once(stage: Stage) -> None:
    """Streams side by side do not mix, however the miner's slots are shared."""

    async def all_of_them() -> list[str]:
        async with AsyncOpenAI(base_url=f"{stage.urls['main']}/v1", api_key=ALICE) as openai_client:

            async def one(number: int) -> str:
                prompt = " ".join(f"{number}.{word}" for word in range(15))
                stream = await openai_client.completions.create(
                    model=PARROT, prompt=prompt, max_tokens=20, stream=True
                )
                return "".join([chunk.choices[0].text async for chunk in stream])

            return await asyncio.gather(*map(one, range(12)))

    texts = asyncio.run(all_of_them())
    assert [" ".join(f"{n}.{word}" for word in range(15)) + " " for n in range(12)] == texts


# --- embeddings --------------------------------------------------------------------------------------------
def test_embeddings(stage: Stage) -> None:
    """Vectors in the order of the texts, as numbers and as base64 (the default); they are one job."""
    texts = [f"text {n}" for n in range(150)]
    with client(stage) as openai_client:
        one = openai_client.embeddings.create(model=VECTORS, input="text 0", encoding_format="float")
        raw = openai_client.embeddings.with_raw_response.create(model=VECTORS, input=texts)
    many = raw.parse()
    assert vector_of("text 0") == one.data[0].embedding
    assert [vector_of(text) for text in texts] == [item.embedding for item in many.data]
    assert list(range(150)) == [item.index for item in many.data]
    assert (2, 300) == (one.usage.prompt_tokens, many.usage.total_tokens)
    assert 1 == len(raw.headers[JOB].split(", "))


def test_embeddings_with_a_real_engine(stage: Stage) -> None:
    """llama.cpp behind a miner makes vectors of length 1; one text has one vector in either encoding."""
    with client(stage) as openai_client:
        made = openai_client.embeddings.create(model=MODEL, input=["kil mar", "sa", "kil mar"])
        plain = openai_client.embeddings.create(model=MODEL, input="sa", encoding_format="float")
    first, second, third = (item.embedding for item in made.data)
    assert pytest.approx(first, abs=1e-5) == third
    assert pytest.approx(second, abs=1e-5) == plain.data[0].embedding
    assert pytest.approx(1, abs=1e-3) == sum(x * x for x in second)
    assert made.usage.total_tokens > 0


# --- images ------------------------------------------------------------------------------------------------
def test_images(stage: Stage) -> None:
    """The files that the miner made are in the answer."""
    with client(stage) as openai_client:
        made = openai_client.images.generate(
            model=PICTURES, prompt="a lighthouse", n=2, size="512x512", extra_body={"seed": 3}
        )
    assert made.data is not None
    assert [png(512, 512, 3), png(512, 512, 4)] == [base64.b64decode(i.b64_json or "") for i in made.data]


# --- audio -------------------------------------------------------------------------------------------------
def test_a_transcription_with_a_real_engine(stage: Stage) -> None:
    """A recording is heard by whisper.cpp behind a miner: the answer is the job's result, with a receipt."""
    with client(stage) as openai_client:
        raw = openai_client.audio.transcriptions.with_raw_response.create(
            model=WHISPER, file=("a.wav", recording(2.0)), response_format="verbose_json", language="de"
        )
    heard = raw.parse()
    with Coordinator(stage.urls["main"], ALICE) as coordinator:
        job = coordinator.job(raw.headers[JOB])
        result = job.result().result
        assert ("COMPLETED", "rig2") == ((view := job.view()).state, view.assigned_miner_id)
        assert job.receipt().verify([stage.coordinator_key]).key_trusted
    assert (2.0, "de", result["text"]) == (heard.duration, heard.language, heard.text)
    assert heard.text
    assert [s["average_log_probability"] for s in result["segments"]] == [
        s.avg_logprob for s in heard.segments or ()
    ]


def test_the_words_of_a_transcription(stage: Stage) -> None:
    """Each word with its time, with the segments or alone, as the engine behind a miner heard them."""
    asked: dict[str, Any] = {"model": WHISPER, "file": ("a.wav", recording(2.0)), "language": "de"}
    with client(stage) as openai_client:
        raw = openai_client.audio.transcriptions.with_raw_response.create(
            **asked, response_format="verbose_json", timestamp_granularities=["word"]
        )
        both = openai_client.audio.transcriptions.create(
            **asked, response_format="verbose_json", timestamp_granularities=["word", "segment"]
        )
        plain = openai_client.audio.transcriptions.create(**asked, response_format="verbose_json")
    alone = raw.parse()
    assert alone.words
    assert alone.text.split() == [one.word for one in alone.words]
    starts = [one.start for one in alone.words]
    assert starts == sorted(starts)
    assert 0 <= starts[0] <= alone.words[-1].end <= alone.duration == 2.0
    assert (alone.words, plain.segments) == (both.words, both.segments)
    assert (None, None) == (alone.segments, plain.words)
    with Coordinator(stage.urls["main"], ALICE) as coordinator:
        result = coordinator.job(raw.headers[JOB]).result().result
    assert result["words"] == [one.model_dump() for one in alone.words]


@pytest.mark.parametrize(
    ("members", "error", "code"),
    [
        ({"response_format": "json"}, openai.BadRequestError, "invalid_value"),
        ({"response_format": "srt"}, openai.BadRequestError, "invalid_value"),
        ({"timestamp_granularities": ["letter"]}, openai.BadRequestError, "invalid_value"),
        ({"timestamp_granularities": ["word"] * 3}, openai.BadRequestError, "invalid_value"),
        ({}, openai.InternalServerError, "no_timestamps"),  # a miner that knows nothing of words
    ],
)
def test_words_that_are_not_there(
    stage: Stage, members: dict[str, Any], error: type[openai.APIStatusError], code: str
) -> None:
    """The error names the member, whoever has no words."""
    asked: dict[str, Any] = {"response_format": "verbose_json", "timestamp_granularities": ["word"]}
    asked |= members
    with client(stage) as openai_client, pytest.raises(error) as refused:
        openai_client.audio.transcriptions.create(model=EARS, file=("a.wav", recording(1.0)), **asked)
    assert "timestamp_granularities" in str(refused.value.param)
    assert code == refused.value.code


def test_transcriptions(stage: Stage) -> None:
    """A recording is uploaded and heard; the text comes in each format that there is."""
    file = ("a.wav", recording(3.0))
    with client(stage) as openai_client:
        plain = openai_client.audio.transcriptions.create(model=EARS, file=file, language="de")
        verbose = openai_client.audio.transcriptions.create(
            model="whisper-1",
            file=file,
            response_format="verbose_json",
            timestamp_granularities=["segment"],
            temperature=0.2,
        )
        srt = openai_client.audio.transcriptions.create(model=EARS, file=file, response_format="srt")
        vtt = openai_client.audio.transcriptions.create(model=EARS, file=file, response_format="vtt")
        text = openai_client.audio.transcriptions.create(model=EARS, file=file, response_format="text")
        english = openai_client.audio.translations.create(model=EARS, file=file)
        with pytest.raises(openai.BadRequestError, match="no recording"):
            openai_client.audio.transcriptions.create(model=EARS, file=("a.wav", b"noise"))
    assert "3 seconds transcribe <b>" == plain.text
    assert "3 seconds translate <b>" == english.text
    assert (3.0, "en") == (verbose.duration, verbose.language)
    assert verbose.segments is not None
    assert [(0.0, 1.5), (1.5, 3.0)] == [(s.start, s.end) for s in verbose.segments]
    assert [0.2, -0.5] == [verbose.segments[0].temperature, verbose.segments[1].avg_logprob]
    assert (
        "1\n00:00:00,000 --> 00:00:01,500\n3 seconds\n\n2\n00:00:01,500 --> 00:00:03,000\ntranscribe <b>\n\n"
        == srt
    )
    assert (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\n3 seconds\n\n"
        "00:00:01.500 --> 00:00:03.000\ntranscribe &lt;b&gt;\n\n" == vtt
    )
    assert "3 seconds transcribe <b>\n" == text


# --- what does not go well ---------------------------------------------------------------------------------
def test_a_model_that_nobody_offers(stage: Stage) -> None:
    """It is refused at once as not found, and no job is made; so is one that is there for another use."""
    with client(stage, BOB) as openai_client:
        for model in ("gpt-4o", VECTORS + "-x", "a\x01\x02 `b"):
            with pytest.raises(openai.NotFoundError) as refused:
                openai_client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": "x"}]
                )
            assert ("model_not_found", "model", "invalid_request_error") == (
                refused.value.code,
                refused.value.param,
                refused.value.type,
            )
    with Coordinator(stage.urls["main"], BOB) as coordinator:
        assert [] == list(coordinator.jobs())


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"n": 17}, "n", "invalid_value"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.type", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"extra_body": {"made_up": 1}}, "made_up", "unsupported_parameter"),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"max_tokens": 10_000_000}, "max_tokens", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages.0.tool_call_id",
            "missing_required_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0.image_url.url",
            "invalid_value",
        ),
    ],
)
def test_what_is_not_supported_is_refused(
    stage: Stage, members: dict[str, Any], param: str, code: str
) -> None:
    """Each is a bad request that names the member."""
    asked: dict[str, Any] = {"model": PARROT, "messages": [{"role": "user", "content": "x"}], **members}
    with client(stage) as openai_client, pytest.raises(openai.BadRequestError) as refused:
        openai_client.chat.completions.create(**asked)
    assert (param, code) == (refused.value.param, refused.value.code)


def test_keys(stage: Stage) -> None:
    """A wrong key and a miner's are refused in OpenAI's words."""
    for key, kind, code in (
        ("alice:wrong", openai.AuthenticationError, "invalid_api_key"),
        ("sk-nonsense", openai.AuthenticationError, "invalid_api_key"),
        ("rig1:secret-of-rig1", openai.PermissionDeniedError, "forbidden"),
    ):
        with client(stage, key) as openai_client, pytest.raises(kind) as refused:
            openai_client.models.list()
        assert code == refused.value.code


def test_a_job_that_fails(stage: Stage) -> None:
    """The miner's error is one of the server that is not tried again, or blames the request."""
    with client(stage) as openai_client:
        with pytest.raises(openai.InternalServerError) as failed:
            openai_client.completions.create(model=PARROT, prompt="fail:OUT_OF_MEMORY")
        with pytest.raises(openai.BadRequestError) as blamed:
            openai_client.completions.create(model=PARROT, prompt="fail:INVALID_PAYLOAD")
    assert ("out_of_memory", "server_error") == (failed.value.code, failed.value.type)
    assert "invalid_payload" == blamed.value.code
    with Coordinator(stage.urls["main"], ALICE) as coordinator:
        failures = [job for job in coordinator.jobs(state="FAILED") if job.error is not None]
        codes = [job.error.code for job in failures if job.error is not None]
    assert 1 == codes.count("OUT_OF_MEMORY")


async def hung_up(stage: Stage, asked: Awaitable[Any]) -> str:
    """The job of a request whose client goes away once a miner has begun with it."""
    before = set(stage.notes.glob("held-*"))
    asking = asyncio.ensure_future(asked)
    held = await eventually(lambda: set(stage.notes.glob("held-*")) - before, "the miner began")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    return held.pop().name.removeprefix("held-")


async def test_hanging_up_cancels_the_job(stage: Stage) -> None:
    """When the client goes away its job is cancelled, and the miner stops."""
    async with AsyncOpenAI(
        base_url=f"{stage.urls['main']}/v1", api_key=ALICE, max_retries=0
    ) as openai_client:
        job_id = await hung_up(stage, openai_client.completions.create(model=PARROT, prompt="hold:never"))
    await eventually((stage.notes / f"stopped-{job_id}").exists, "the miner stopped")
    async with stage.client() as coordinator:
        assert "CANCELED" == (await coordinator.job(job_id).wait(30)).state


async def test_the_same_key_is_the_same_job(stage: Stage) -> None:
    """With an idempotency key a client that went away finds its answer when it comes back."""
    key = {"Idempotency-Key": f"key of {stage.folder.name}"}
    async with AsyncOpenAI(
        base_url=f"{stage.urls['main']}/v1", api_key=ALICE, max_retries=0
    ) as openai_client:
        asked = openai_client.completions.create(model=PARROT, prompt="hold:later done", extra_headers=key)
        await hung_up(stage, asked)
        stage.release("later")
        answer = await openai_client.completions.create(
            model=PARROT, prompt="hold:later done", extra_headers=key
        )
        with pytest.raises(openai.BadRequestError) as mismatch:
            await openai_client.completions.create(model=PARROT, prompt="another", extra_headers=key)
    assert "done " == answer.choices[0].text
    assert "idempotency_mismatch" == mismatch.value.code


def test_malformed_bodies(stage: Stage) -> None:
    """Whatever is sent, the answer is an error in OpenAI's shape."""
    for path, body, kind in (
        ("chat/completions", b"{", "application/json"),
        ("chat/completions", b"[]", "application/json"),
        ("chat/completions", b'{"model": NaN}', "application/json"),
        ("completions", b"", "application/json"),
        ("embeddings", b'{"model": "x", "input": [[1, 2]]}', "application/json"),
        ("images/generations", b"[" * 2000, "application/json"),
        ("audio/transcriptions", b"{}", "application/json"),
        ("audio/transcriptions", b"--x\r\n", "multipart/form-data; boundary=x"),
        ("audio/transcriptions", b"--x--\r\n", "multipart/form-data; boundary=x"),
        ("audio/translations", b"x", "multipart/form-data"),
        ("chat/nonsense", b"{}", "application/json"),
    ):
        request = urllib.request.Request(
            f"{stage.urls['main']}/v1/{path}",
            body,
            {"Authorization": f"Bearer {ALICE}", "Content-Type": kind},
            method="POST",
        )
        with pytest.raises(urllib.request.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=30)
        with refused.value as answer:
            error = json.load(answer)["error"]
        assert answer.status in (400, 404), (path, body)
        assert {"message", "type", "param", "code"} == error.keys()
