"""`llm_inference` on a real engine: llama.cpp's server with a tiny model that the tests make."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from coordinator.miner.executors.base import Outcome
from coordinator.miner.executors.engine import EngineSettings
from coordinator.miner.executors.engine.reasons import reason_in
from coordinator.miner.executors.errors import (
    ENGINE_UNAVAILABLE,
    INVALID_PAYLOAD,
    UNSUPPORTED,
    ExecutorError,
)
from coordinator.miner.executors.llm import LlmExecutor
from tests.harness.llama_engine import MODEL, LlamaEngine
from tests.harness.stand_in import StandIn
from tests.harness.waiting import eventually
from tests.harness.works import Bench, FolderBlobs, check_output, failure

CHAT = [
    {"role": "developer", "content": "sa"},
    {"role": "user", "content": [{"type": "text", "text": "kil"}]},
]
GREEDY = {"model": MODEL, "temperature": 0, "repetition_penalty": 1, "seed": 7}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench("llm_inference", tmp_path, FolderBlobs(tmp_path / "blobs"))
    with made.workspace:
        yield made
    assert not made.workspace.used


async def run(llama: LlamaEngine, bench: Bench, **payload: Any) -> Outcome:
    outcome = await LlmExecutor(llama.settings()).run(bench.work({**GREEDY, **payload}))
    return check_output("llm_inference", outcome)


async def test_the_engines_models_are_what_is_offered(llama: LlamaEngine) -> None:
    """The check asks the engine, and names that are mapped to a model of its are offered, too."""
    executor = LlmExecutor(llama.settings(models={"mistral-7b": MODEL.upper(), "llama-7b": "absent"}))
    assert (None, ("mistral-7b", MODEL)) == (await executor.check(), executor.models)


@pytest.mark.parametrize("given", [{"prompt": "kil mar"}, {"messages": CHAT}])
async def test_a_streamed_text_is_the_results_text(
    llama: LlamaEngine, bench: Bench, given: dict[str, Any]
) -> None:
    """What was emitted token by token is the text in the result, which has the engine's own counts."""
    outcome = await run(llama, bench, **given, max_tokens=12, stream=True)
    result = outcome.result
    assert bench.text == result["text"] != ""
    assert (MODEL, "length", 12) == (result["model"], result["finish_reason"], result["completion_tokens"])
    assert result["prompt_tokens"] > 0
    assert outcome.metrics["completion_tokens"] == 12
    assert bench.progress[-1] == (0.99, "generating")


async def test_nothing_is_emitted_unless_asked_for(llama: LlamaEngine, bench: Bench) -> None:
    """Without `stream` the text is in the result alone, and the same."""
    streamed = (await run(llama, bench, prompt="kil", max_tokens=8, stream=True)).result
    bench.text = ""
    assert streamed["text"] == (await run(llama, bench, prompt="kil", max_tokens=8)).result["text"]
    assert bench.text == ""


async def test_a_chat_reaches_the_model_by_its_template(llama: LlamaEngine, bench: Bench) -> None:
    """Roles and parts are as the template wants them: the same as the whole chat as one prompt."""
    chat = (await run(llama, bench, messages=CHAT, max_tokens=8)).result
    plain = (await run(llama, bench, prompt="system: sa\nuser: kil\nassistant:", max_tokens=8)).result
    assert chat["text"].strip() == plain["text"].strip()


async def test_stop_sequences_end_the_text(llama: LlamaEngine, bench: Bench) -> None:
    """The text ends before the first stop sequence, and the finish is not "length"."""
    whole = (await run(llama, bench, prompt="kil mar", max_tokens=24)).result["text"]
    stop = whole[len(whole) // 2 :][:4]
    result = (await run(llama, bench, prompt="kil mar", max_tokens=24, stop_sequences=["§", stop])).result
    assert whole[: whole.index(stop)] == result["text"]
    assert "stop" == result["finish_reason"]


async def test_sampling_reaches_the_engine(llama: LlamaEngine, bench: Bench) -> None:
    """Of one likeliest token there is no choice; a penalty and a seed change what is said."""
    hot = {"prompt": "kil mar", "max_tokens": 16, "temperature": 2, "top_p": 1}

    async def said(**more: Any) -> str:
        return str((await run(llama, bench, **hot, **more)).result["text"])

    greedy = (await run(llama, bench, prompt="kil mar", max_tokens=16)).result["text"]
    assert greedy == await said(top_k=1)
    assert await said(top_k=40, seed=1) == await said(top_k=40, seed=1) != await said(top_k=40, seed=2)
    penalised = (await run(llama, bench, prompt="kil mar", max_tokens=64, repetition_penalty=2)).result
    assert penalised["text"] != (await run(llama, bench, prompt="kil mar", max_tokens=64)).result["text"]


async def test_a_cancel_stops_the_engine(llama: LlamaEngine, bench: Bench) -> None:
    """A cancelled job costs the engine no more tokens."""
    work = bench.work({**GREEDY, "prompt": "kil mar", "max_tokens": 4096, "stream": True})
    running = asyncio.create_task(LlmExecutor(llama.settings()).run(work))
    await eventually(lambda: bench.text, "the first token")
    assert 1 == await asyncio.to_thread(llama.busy)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually(lambda: llama.busy() == 0, "the engine at rest")
    async with httpx.AsyncClient() as client:
        slots = (await client.get(f"{llama.url}/slots")).json()
    decoded = [t["n_decoded"] for slot in slots for t in slot.get("next_token", ())]
    assert 4096 > max(decoded, default=0)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"model": "another", "prompt": "x"}, (UNSUPPORTED, True)),
        ({"model": MODEL}, (INVALID_PAYLOAD, False)),
        ({"model": MODEL, "prompt": "x", "messages": CHAT}, (INVALID_PAYLOAD, False)),
        ({"model": MODEL, "prompt": "x", "stop_sequences": [""]}, (INVALID_PAYLOAD, False)),
        ({"model": MODEL, "messages": [{"role": "tool", "content": "x"}]}, (INVALID_PAYLOAD, False)),
        # 4096 tokens of context, and a text of more: only the engine can know.
        (
            {"model": MODEL, "messages": [{"role": "user", "content": "kil " * 9000}]},
            (INVALID_PAYLOAD, False),
        ),
    ],
)
async def test_what_can_not_be_done_is_refused(
    llama: LlamaEngine, bench: Bench, payload: dict[str, Any], expected: tuple[str, bool]
) -> None:
    """A wrong model, payload or length fails with its code, and only where another miner may do it, again."""
    assert expected == await failure(LlmExecutor(llama.settings()), bench.work(payload))


@pytest.fixture
def own_llama(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LlamaEngine]:
    """An engine that the test may kill, started with the test's options."""
    with LlamaEngine(tmp_path, **getattr(request, "param", {})) as engine:
        yield engine


async def test_an_engine_that_dies_in_the_middle(own_llama: LlamaEngine, bench: Bench) -> None:
    """The job fails as unavailable, the next check says so, and an engine that is back is used again."""
    executor = LlmExecutor(own_llama.settings())
    work = bench.work({**GREEDY, "prompt": "kil", "max_tokens": 4096, "stream": True})
    running = asyncio.create_task(failure(executor, work))
    await eventually(lambda: bench.text, "the first token")
    await asyncio.to_thread(own_llama.kill)
    assert (ENGINE_UNAVAILABLE, True) == await running
    assert "the engine can't be reached (ConnectError)" == await executor.check()
    assert () == executor.models
    await asyncio.to_thread(own_llama.start)
    assert await executor.check() is None
    assert [MODEL] == list(executor.models)
    again = await executor.run(bench.work({**GREEDY, "prompt": "kil", "max_tokens": 4}))
    assert 4 == again.result["completion_tokens"]


@pytest.mark.parametrize("own_llama", [{"key": "sesame-sesame"}], indirect=True)
async def test_the_engines_key(own_llama: LlamaEngine, bench: Bench) -> None:
    """The key opens the engine; a wrong one withdraws the service, and is in no message."""
    right = LlmExecutor(own_llama.settings(key=SecretStr("sesame-sesame")))
    assert (await right.run(bench.work({**GREEDY, "prompt": "kil", "max_tokens": 2}))).result["text"]
    wrong = LlmExecutor(own_llama.settings(key=SecretStr("barley-barley")))
    assert "the engine does not accept this miner's LLM_ENGINE_KEY" == await wrong.check()
    assert () == wrong.models
    assert (ENGINE_UNAVAILABLE, True) == await failure(wrong, bench.work({**GREEDY, "prompt": "kil"}))


# --- settings, and engines that misbehave -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({}, "LLM_ENGINE_URL is not set"),
        ({"URL": "ftp://x/v1"}, "LLM_ENGINE_URL: must be an http:// or https:// address"),
        ({"URL": "http://x", "MODELS": "a="}, "LLM_ENGINE_MODELS: must be name=engine's name, separated by"),
        ({"URL": "http://x", "TIMEOUT_SECONDS": "0"}, "LLM_ENGINE_TIMEOUT_SECONDS: Input should be greater"),
        ({"URL": "http://127.0.0.1:9"}, "the engine can't be reached (ConnectError)"),
    ],
)
async def test_settings_that_can_not_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], problem: str
) -> None:
    """The check says which setting is wrong, and shows no value."""
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(f"LLM_ENGINE_{name}", value)
    told = await LlmExecutor().check()
    assert told is not None
    assert told.startswith(problem)


def test_the_key_shows_nowhere() -> None:
    """Settings can be logged: their secret is not in their text."""
    assert "sesame" not in repr(EngineSettings.model_construct(url="http://x/v1", key=SecretStr("sesame")))


class Rogue:
    """A server of this test's own that answers what no engine should; not an engine."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.url = ""

    async def __aenter__(self) -> Rogue:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        ok = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
        if b"GET /v1/models" in head:
            writer.write(ok + json.dumps({"data": [{"id": MODEL}, {"id": 3}, {"id": "x\n"}, 4]}).encode())
        else:
            writer.write(self._answer if self._answer.startswith(b"HTTP") else ok + self._answer)
        writer.close()


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


SAID = event(choices=[{"text": "hello"}])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (SAID, (ENGINE_UNAVAILABLE, True)),  # and then nothing more
        (SAID + b"data: [DONE]\n\n", (ENGINE_UNAVAILABLE, True)),  # without a reason to finish
        (b"data: {\n\n", ("EXECUTOR_FAILED", True)),
        (b"data: []\n\n", ("EXECUTOR_FAILED", True)),
        (event(error={"message": "at /srv/models/x on http://10.0.0.1:80"}), ("EXECUTOR_FAILED", True)),
        (b"data: " + b"x" * (2 << 20), ("OUTPUT_TOO_LARGE", False)),
        (b"<html>not an engine</html>", (ENGINE_UNAVAILABLE, True)),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", ("EXECUTOR_FAILED", True)),
        (b"HTTP/1.1 503 Oh\r\nContent-Length: 0\r\n\r\n", (ENGINE_UNAVAILABLE, True)),
        (
            b"HTTP/1.1 302 Go\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            (ENGINE_UNAVAILABLE, True),
        ),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", (UNSUPPORTED, True)),
        (b"garbage that is not HTTP\r\n\r\n", (ENGINE_UNAVAILABLE, True)),
    ],
)
async def test_engines_that_misbehave(bench: Bench, answer: bytes, expected: tuple[str, bool]) -> None:
    """Whatever comes back, the job fails with a code, without this machine's paths, and the miner lives."""
    async with Rogue(answer) as rogue:
        executor = LlmExecutor(EngineSettings.model_construct(url=f"{rogue.url}/v1"))
        assert (None, (MODEL,)) == (await executor.check(), executor.models)
        work = bench.work({"model": MODEL, "prompt": "x", "stream": True})
        assert expected == await failure(executor, work)


async def test_an_engines_words_lose_addresses_and_paths() -> None:
    """What a client reads of an engine's refusal names no place of the miner's network."""
    settings = EngineSettings.model_construct(url="http://rig/v1", key=SecretStr("sesame"))
    for said, told in (
        ("bad sesame at /srv/a.gguf,\n http://h:1/x and 10.0.0.1:80!", "bad … at … … and …!"),
        ("no route to rig:8000 or vllm.lan, localhost:11434, [fe80::1]:80", "no route to … or …, …, …"),
        ("Incorrect API key sk-proj-abcdefgh0123, Bearer abc.def", "Incorrect API key …, …"),
        (r"cannot open D:\models\a.gguf", "cannot open …"),
        ("max_tokens:8192 is over 4096, e.g. 1.5", "max_tokens:8192 is over 4096, e.g. 1.5"),
    ):
        assert told == reason_in({"error": {"message": said}}, settings)
    for answer in ("too long", [{"msg": "too long"}], {"error": "too long"}):
        assert "too long" == reason_in({"detail": answer}, settings)


async def test_an_answer_without_counts_or_with_hostile_text(bench: Bench) -> None:
    """Tokens are counted by events then, and what no store keeps is not in the text."""
    answer = event(choices=[{"text": "a\0\ud800"}], usage={"completion_tokens": -1, "prompt_tokens": True})
    answer += (
        event(choices="none") + event(choices=[{"text": "b", "finish_reason": "stop"}]) + b"data: [DONE]\n"
    )
    async with Rogue(answer) as rogue:
        executor = LlmExecutor(EngineSettings.model_construct(url=f"{rogue.url}/v1"))
        outcome = await executor.run(bench.work({"model": MODEL, "prompt": "x", "stream": True}))
    assert ("a?b", 2, 0) == (
        check_output("llm_inference", outcome).result["text"],
        outcome.result["completion_tokens"],
        outcome.result["prompt_tokens"],
    )
    assert "a?b" == bench.text


def said(**delta: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": delta}])


END = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]) + b"data: [DONE]\n\n"


async def rogue_run(bench: Bench, answer: bytes, **payload: Any) -> Outcome:
    async with Rogue(answer) as rogue:
        executor = LlmExecutor(EngineSettings.model_construct(url=f"{rogue.url}/v1"))
        outcome = await executor.run(bench.work({"model": MODEL, "messages": CHAT, **payload}))
    return check_output("llm_inference", outcome)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_thoughts_by_either_name(bench: Bench, name: str) -> None:
    """Reasoning is a part of the result, is counted, and is a record of its own in the stream."""
    answer = said(**{name: "hm "}) + said(**{name: "so"}) + said(content="yes") + END
    result = (await rogue_run(bench, answer, stream=True, deltas=True)).result
    assert ("yes", "hm so", 3, 2) == (
        result["text"],
        result["reasoning"],
        result["completion_tokens"],
        result["reasoning_tokens"],
    )
    records = "".join(f"\x1e{json.dumps({'index': 0, 'reasoning': text})}\n" for text in ("hm ", "so"))
    assert records + "yes" == bench.text
    bench.text = ""
    await rogue_run(bench, answer, stream=True)
    assert "yes" == bench.text


@pytest.mark.parametrize(
    "answer", [END, said(content="") + END, said(content=" \n") + END, said(role="x") + END]
)
async def test_an_empty_answer_is_an_error(bench: Bench, answer: bytes) -> None:
    """Nobody pays for nothing."""
    async with Rogue(answer) as rogue:
        executor = LlmExecutor(EngineSettings.model_construct(url=f"{rogue.url}/v1"))
        work = bench.work({"model": MODEL, "messages": CHAT})
        assert ("EXECUTOR_FAILED", True) == await failure(executor, work)


@pytest.mark.parametrize("text", [" \n", '{"a": 1}\n \n', '{"a": '])
async def test_json_that_ends_at_the_limit_is_an_answer(bench: Bench, text: str) -> None:
    """A model that must write JSON may end in white space, for ever: that is `length`, as OpenAI has it."""
    cut = event(choices=[{"index": 0, "delta": {}, "finish_reason": "length"}]) + b"data: [DONE]\n\n"
    form = {"type": "json_object"}
    result = (await rogue_run(bench, said(content=text) + cut, response_format=form)).result
    assert (text, "length") == (result["text"], result["finish_reason"])


@pytest.mark.parametrize(
    ("payload", "answer", "member"),
    [
        ({"logprobs": True}, said(content="x") + END, "logprobs"),
        ({"response_format": {"type": "json_object"}}, said(content="no JSON") + END, "response_format"),
        (
            {"stop_sequences": ["a"]},
            b"HTTP/1.1 400 No\r\n\r\n" + b'{"error": "\'stop\' is unknown"}',
            "stop_sequences",
        ),
        ({"top_k": 5}, b"HTTP/1.1 400 No\r\n\r\n" + b'{"error": "context exceeded"}', "messages"),
    ],
)
async def test_what_an_engine_lacks_is_named(
    bench: Bench, payload: dict[str, Any], answer: bytes, member: str
) -> None:
    """The error begins with the payload's member that the engine lacks or refuses."""
    async with Rogue(answer) as rogue:
        executor = LlmExecutor(EngineSettings.model_construct(url=f"{rogue.url}/v1"))
        with pytest.raises(ExecutorError) as refused:
            await executor.run(bench.work({"model": MODEL, "messages": CHAT, **payload}))
    assert refused.value.detail.startswith(f"{member}: ")


async def test_large_answers_are_files(bench: Bench) -> None:
    """An answer that is too large for a message is a file with all of it."""
    answer = b"".join(said(content=f"{n} " + "x" * 1000) for n in range(700)) + END
    result = (await rogue_run(bench, answer)).result
    whole = json.loads(bench.blobs.read(result["outputs"][0]))
    assert "".join(f"{n} " + "x" * 1000 for n in range(700)) == whole["text"]
    assert "text" not in result
    assert (700, "stop") == (result["completion_tokens"], result["finish_reason"])


async def test_images_reach_the_engine_as_data(bench: Bench) -> None:
    """An uploaded image is fetched and sent as a data: URL; a file that is no image is refused."""
    picture = b"\x89PNG\r\n\x1a\nrest"
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": bench.blobs.add(picture), "detail": "low"}},
    ]
    engine = StandIn(MODEL)
    engine.answers["chat/completions"] = (400, {"error": "seen"})
    async with engine.serving():
        executor = LlmExecutor(engine.settings())
        work = bench.work({"model": MODEL, "messages": [{"role": "user", "content": parts}]})
        assert (INVALID_PAYLOAD, False) == await failure(executor, work)
        sent = engine.received[0][1]["messages"][0]["content"]
        data = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        assert [parts[0], {"type": "image_url", "image_url": {"url": data, "detail": "low"}}] == sent
        before = len(engine.received)
        parts[1]["image_url"] = {"url": bench.blobs.add(b"no picture")}
        assert (INVALID_PAYLOAD, False) == await failure(executor, work)
        assert before == len(engine.received)


async def test_names_that_jobs_can_not_ask_for() -> None:
    """A path is offered by its last part, other such names only by the mapping; the owner is told of both."""
    engine = StandIn("/srv/models/Qwen3.gguf", "a name", "org/sub/group/model")
    async with engine.serving():
        executor = LlmExecutor(engine.settings())
        assert await executor.check() is None
        assert ("org/sub/group/model", "qwen3.gguf") == executor.models
        assert "'/srv/models/Qwen3.gguf' is offered as qwen3.gguf" in executor.notes
        assert any(note.startswith("'a name' is not offered") for note in executor.notes)
        mapped = LlmExecutor(engine.settings(models={"named": "a name", "not one": "a name"}))
        assert await mapped.check() is None
        assert "named" in mapped.models
        engine.models = ("a name",)
        assert "set LLM_ENGINE_MODELS" in (await executor.check() or "")
