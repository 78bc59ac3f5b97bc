"""OpenAI's own client and what programs use of it: thinking models, tools, structured output, many vectors.

The engine is llama.cpp's server with a model that thinks and calls tools. Vectors of 4,096 numbers and a
model whose name is a path come from a stand-in: that model would have a gigabyte.
"""

from __future__ import annotations

import base64
import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from coordinator.client import Coordinator
from tests.harness.llama_engine import MODEL, THINKER, LlamaEngine
from tests.harness.stage import ALICE, Stage
from tests.harness.tiny_llama import CALL_TOKEN
from tests.harness.waiting import eventually_now

DIMENSIONS = 4096
USER: Any = [{"role": "user", "content": "kil mar"}]
NO_THOUGHTS: Any = "none"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says the weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"rain": {"type": "boolean"}},
            "required": ["rain"],
            "additionalProperties": False,
        },
    },
}
CALLING: Any = {
    "model": THINKER,
    "messages": USER,
    "temperature": 0,
    "max_completion_tokens": 400,
    "reasoning_effort": NO_THOUGHTS,
    "tools": [WEATHER],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "logit_bias": {str(CALL_TOKEN): 100},
}


class WideEngine(BaseHTTPRequestHandler):
    """A stand-in for an engine with wide vectors, and with a path for a model's name."""

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "/srv/models/wide-embedder"}, {"id": "a name/with spaces"}]})

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        rows = [
            {"index": number, "embedding": [len(text) / 8, *[0.5] * (DIMENSIONS - 1)]}
            for number, text in enumerate(given["input"])
        ]
        self._answer({"data": rows, "usage": {"prompt_tokens": len(rows)}})

    def _answer(self, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return None


@pytest.fixture(scope="module")
def wide() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), WideEngine)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, llama: LlamaEngine, thinker: LlamaEngine, wide: str
) -> Iterator[Stage]:
    """A coordinator, a miner with the thinking model and wide vectors, and one with the plain model."""
    with Stage(tmp_path_factory.mktemp("openai-chat")) as made:
        made.coordinator()
        eventually_now(lambda: made.health()["ready"], "ready", 90)
        made.program_miner(
            "rig1", transport="http", llm_engine_url=f"{thinker.url}/v1", embedding_engine_url=wide
        )
        made.program_miner(
            "rig2",
            transport="http",
            llm_engine_url=f"{llama.url}/v1",
            embedding_engine_url=f"{llama.url}/v1",
        )

        def models() -> set[str]:
            with client(made) as one:
                return {model.id for model in one.models.list()}

        eventually_now(lambda: {THINKER, MODEL} <= models(), "both miners", 90)
        yield made


def client(stage: Stage) -> OpenAI:
    return OpenAI(base_url=f"{stage.urls['main']}/v1", api_key=ALICE, max_retries=0)


# --- thinking ----------------------------------------------------------------------------------------------
def test_thoughts_are_passed_on_and_counted(stage: Stage) -> None:
    """A model that is cut off while it thinks gives its thoughts, whole and streamed, and in a history."""
    asked: Any = {"model": THINKER, "messages": USER, "temperature": 0, "max_completion_tokens": 12}
    with client(stage) as one:
        whole = one.chat.completions.create(**asked)
        chunks = list(
            one.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        )
        message = whole.choices[0].message
        longer = one.chat.completions.create(
            **{**asked, "messages": [*USER, message, {"role": "user", "content": "sa"}]}
        )
        quiet = one.chat.completions.create(**asked, reasoning_effort=NO_THOUGHTS)
    thoughts = message.model_extra["reasoning_content"]
    assert thoughts.strip()
    assert ("", "length", thoughts) == (
        message.content,
        whole.choices[0].finish_reason,
        message.model_extra["reasoning"],
    )
    assert whole.usage is not None
    assert (12, 12) == (
        whole.usage.completion_tokens,
        whole.usage.completion_tokens_details.reasoning_tokens,
    )
    deltas = [chunk.choices[0].delta.model_extra or {} for chunk in chunks if chunk.choices]
    assert thoughts == "".join(delta.get("reasoning_content", "") for delta in deltas)
    assert chunks[-1].usage is not None
    assert 12 == chunks[-1].usage.completion_tokens
    assert longer.usage is not None
    assert longer.usage.prompt_tokens > whole.usage.prompt_tokens + 12
    assert quiet.choices[0].message.content
    assert "reasoning" not in (quiet.choices[0].message.model_extra or {})


# --- tools -------------------------------------------------------------------------------------------------
def test_tools_are_called(stage: Stage) -> None:
    """The model calls a function; the helper of OpenAI's client reads it; its result goes on as a history."""
    with client(stage) as one:
        first = one.chat.completions.parse(**CALLING)
        [call] = first.choices[0].message.tool_calls or []
        history = [
            *USER,
            first.choices[0].message,
            {"role": "tool", "tool_call_id": call.id, "content": "wet"},
        ]
        after = one.chat.completions.create(
            model=THINKER,
            messages=history,
            tools=[WEATHER],
            temperature=0,
            max_tokens=6,
            reasoning_effort=NO_THOUGHTS,
            parallel_tool_calls=False,
        )
    assert ("tool_calls", None) == (first.choices[0].finish_reason, first.choices[0].message.content)
    assert "weather" == call.function.name
    assert {"rain": False} == json.loads(call.function.arguments) == call.function.parsed_arguments
    assert after.choices[0].message.content


def test_calls_of_tools_are_streamed(stage: Stage) -> None:
    """The parts of a call come as the model writes them, and make the same call as without a stream."""
    with client(stage) as one:
        whole = one.chat.completions.create(**CALLING).choices[0].message.tool_calls
        with one.chat.completions.stream(**CALLING) as stream:
            parts = [event.arguments_delta for event in stream if event.type.endswith("arguments.delta")]  # type: ignore[union-attr]
            final = stream.get_final_completion()
    assert whole is not None
    [call] = final.choices[0].message.tool_calls or []
    assert "tool_calls" == final.choices[0].finish_reason
    assert len(parts) > 1
    assert ("weather", whole[0].function.arguments) == (call.function.name, call.function.arguments)


def test_several_calls_at_once(stage: Stage) -> None:
    """Calls beside each other are told apart, whole and streamed, also if the last one is cut off."""
    asked: Any = {**CALLING, "parallel_tool_calls": True}
    with client(stage) as one:
        whole = one.chat.completions.create(**asked).choices[0]
        chunks = list(one.chat.completions.create(**asked, stream=True))
    calls = [
        (call.id, call.function.name, call.function.arguments) for call in whole.message.tool_calls or []
    ]
    assert len(calls) > 1
    assert len(calls) == len({call_id for call_id, _, _ in calls})
    assert "length" == whole.finish_reason
    parts: dict[int, list[str]] = {}
    for chunk in chunks:
        for part in chunk.choices[0].delta.tool_calls or []:
            assert part.function is not None
            parts.setdefault(part.index, []).append(
                (part.function.name or "") + (part.function.arguments or "")
            )
    assert [name + arguments for _, name, arguments in calls] == [
        "".join(parts[index]) for index in sorted(parts)
    ]


def test_a_choice_of_no_tool(stage: Stage) -> None:
    """`tool_choice: none` gives text though there are tools."""
    with client(stage) as one:
        made = one.chat.completions.create(
            **{**CALLING, "tool_choice": "none", "logit_bias": {}, "max_completion_tokens": 5}
        )
    assert made.choices[0].message.content
    assert made.choices[0].message.tool_calls is None


# --- responses ---------------------------------------------------------------------------------------------
FLAT_WEATHER: Any = {"type": "function", **WEATHER["function"]}


def test_a_response_without_a_memory(stage: Stage) -> None:
    """Thoughts and text are items, whole and streamed the same, and may be sent back as a history."""
    asked: Any = {"model": THINKER, "input": "kil mar", "temperature": 0, "max_output_tokens": 12}
    with client(stage) as one:
        whole = one.responses.create(**asked)
        events = list(one.responses.create(**asked, stream=True))
        plain = one.responses.create(**asked, instructions="sa", reasoning={"effort": NO_THOUGHTS})
        history: Any = [
            {"role": "user", "content": "kil"},
            *whole.output,
            *plain.output,
            {"role": "user", "content": "sa"},
        ]
        longer = one.responses.create(**{**asked, "input": history})
        with pytest.raises(openai.BadRequestError) as refused:
            one.responses.create(**asked, previous_response_id="resp_1")
    [thoughts] = whole.output
    assert ("reasoning", "incomplete") == (thoughts.type, whole.status)
    assert thoughts.content
    assert whole.usage is not None
    assert (12, 12) == (whole.usage.output_tokens, whole.usage.output_tokens_details.reasoning_tokens)
    assert ["response.created", "response.in_progress"] == [event.type for event in events[:2]]
    assert list(range(len(events))) == [event.sequence_number for event in events]
    streamed = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert thoughts.content[0].text == streamed
    assert "response.incomplete" == events[-1].type
    assert [thoughts.content] == [item.content for item in events[-1].response.output]
    assert plain.output_text
    assert longer.usage is not None
    assert longer.usage.input_tokens > whole.usage.input_tokens + 12
    assert "previous_response_id" == refused.value.param


def test_a_response_with_tools_and_forms(stage: Stage) -> None:
    """Calls of tools are a history; text keeps to a schema, which the helper of OpenAI's client reads."""
    asked: Any = {
        "model": THINKER,
        "input": "kil mar",
        "temperature": 0,
        "reasoning": {"effort": NO_THOUGHTS},
    }
    with client(stage) as one:
        parsed = one.responses.parse(**asked, text_format=Verdict)
        chat = one.chat.completions.create(**CALLING).choices[0].message.tool_calls or []
        history: Any = [
            {"role": "user", "content": "kil mar"},
            {
                "type": "function_call",
                "call_id": "c1",
                "name": "weather",
                "arguments": chat[0].function.arguments,
            },
            {"type": "function_call_output", "call_id": "c1", "output": "wet"},
        ]
        after = one.responses.create(**{**asked, "input": history}, tools=[FLAT_WEATHER], max_output_tokens=5)
        with pytest.raises(openai.BadRequestError) as refused:
            one.responses.create(**asked, tools=[{"type": "web_search"}])
    assert isinstance(parsed.output_parsed, Verdict)
    assert ("completed", "message") == (parsed.status, parsed.output[0].type)
    assert after.output_text
    assert "tools.0.type" == refused.value.param


# --- structured output -------------------------------------------------------------------------------------
class Verdict(BaseModel):
    good: bool


def test_structured_output(stage: Stage) -> None:
    """The answer keeps to a schema, is streamed so, and is read by the helper of OpenAI's client."""
    asked: Any = {"model": THINKER, "messages": USER, "temperature": 0, "reasoning_effort": NO_THOUGHTS}
    with client(stage) as one:
        parsed = one.chat.completions.parse(**asked, response_format=Verdict).choices[0].message
        with one.chat.completions.stream(**asked, response_format=Verdict) as stream:
            streamed = stream.get_final_completion().choices[0].message
        free = one.chat.completions.create(
            **{**asked, "seed": 1, "temperature": 1}, response_format={"type": "json_object"}
        )
    assert isinstance(parsed.parsed, Verdict)
    assert parsed.parsed == streamed.parsed == Verdict.model_validate_json(parsed.content or "")
    assert isinstance(json.loads(free.choices[0].message.content or ""), dict)


# --- sampling ----------------------------------------------------------------------------------------------
def test_several_answers_with_their_probabilities(stage: Stage) -> None:
    """`n` answers, each with its tokens' probabilities; a stream has the same ones, told apart by index."""
    asked: Any = {
        "model": MODEL,
        "messages": USER,
        "n": 2,
        "max_tokens": 4,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 2,
    }
    with client(stage) as one:
        whole = one.chat.completions.create(**asked)
        chunks = list(one.chat.completions.create(**asked, stream=True))
        plain = one.completions.create(
            model=MODEL, prompt="kil", max_tokens=3, logprobs=2, temperature=0, n=2
        )
    assert [0, 1] == [choice.index for choice in whole.choices]
    for choice in whole.choices:
        assert choice.logprobs is not None
        tokens = choice.logprobs.content or []
        assert (4, [2] * 4) == (len(tokens), [len(token.top_logprobs) for token in tokens])
        assert all(token.logprob <= 0 for token in tokens)
        parts = [c.choices[0] for c in chunks if c.choices[0].index == choice.index]
        assert choice.message.content == "".join(part.delta.content or "" for part in parts)
        streamed = [t.token for part in parts if part.logprobs for t in part.logprobs.content or []]
        assert [token.token for token in tokens] == streamed
        assert "length" == parts[-1].finish_reason
    for text in plain.choices:
        assert text.logprobs is not None
        assert 3 == len(text.logprobs.tokens or []) == len(text.logprobs.token_logprobs or [])
        assert [0] == (text.logprobs.text_offset or [])[:1]


def test_a_bias_reaches_the_engine(stage: Stage) -> None:
    """A token with a bias of 100 is all that the model says."""
    with client(stage) as one:
        made = one.completions.create(
            model=MODEL, prompt="kil", max_tokens=3, logit_bias={"300": 100}, logprobs=0
        )
    assert made.choices[0].logprobs is not None
    assert 1 == len(set(made.choices[0].logprobs.tokens or []))


def test_long_texts(stage: Stage) -> None:
    """The model's context is the limit: thousands of tokens are answered, more than its context are not."""
    with client(stage) as one:
        made = one.completions.create(model=MODEL, prompt="kil " * 3000, max_tokens=2)
        with pytest.raises(openai.BadRequestError) as refused:
            one.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "kil " * 20_000}])
    assert made.usage is not None
    assert made.usage.prompt_tokens > 2500
    assert ("messages", "invalid_payload") == (refused.value.param, refused.value.code)


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
                        ],
                    }
                ]
            },
            "messages",
            "unsupported",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "odd"}},
                }
            },
            "response_format",
            "invalid_payload",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "odd"}}}]},
            "tools",
            "invalid_payload",
        ),
    ],
)
def test_what_the_engine_refuses_names_the_member(
    stage: Stage, members: dict[str, Any], param: str, code: str
) -> None:
    """An engine's refusal is a bad request, with the member that the engine lacks or can't read."""
    asked: Any = {"model": THINKER, "messages": USER, "max_tokens": 3, **members}
    with client(stage) as one, pytest.raises(openai.BadRequestError) as refused:
        one.chat.completions.create(**asked)
    assert (param, code) == (refused.value.param, refused.value.code)


# --- embeddings and names ----------------------------------------------------------------------------------
def test_thousands_of_wide_vectors(stage: Stage) -> None:
    """2,048 vectors of 4,096 numbers come as one job's file: in both encodings, in order, of length 1."""
    texts = ["x" * (1 + number % 9) for number in range(2048)]
    with client(stage) as one:
        raw = one.embeddings.with_raw_response.create(
            model="wide-embedder", input=texts, encoding_format="base64"
        )
        few = one.embeddings.create(model="wide-embedder", input=texts[:16], encoding_format="float")
    answer = json.loads(raw.content)
    assert (2048, 2048) == (len(answer["data"]), answer["usage"]["total_tokens"])
    for number, item in enumerate(answer["data"]):
        vector = struct.unpack(f"<{DIMENSIONS}f", base64.b64decode(item["embedding"]))
        assert (number, pytest.approx((1 + number % 9) / 4, rel=1e-5)) == (
            item["index"],
            vector[0] / vector[1],
        )
    assert 1 == pytest.approx(sum(x * x for x in vector), rel=1e-4)
    for item, same in zip(answer["data"], few.data, strict=False):
        packed = struct.pack(f"<{DIMENSIONS}f", *same.embedding)
        assert base64.b64decode(item["embedding"]) == packed
    with Coordinator(stage.urls["main"], ALICE) as coordinator:
        [output] = coordinator.job(raw.headers["X-Job-Id"]).result().result["outputs"]
    assert 128 + 4 * 2048 * DIMENSIONS == output["size"]


def test_tokens_and_dimensions(stage: Stage) -> None:
    """Tokens have the vector of their text; fewer dimensions than the model's are refused by their name."""
    with client(stage) as one:
        of_tokens = one.embeddings.create(model=MODEL, input=[[300, 301], [302]])
        again = one.embeddings.create(model=MODEL, input=[302], dimensions=64)
        with pytest.raises(openai.BadRequestError) as refused:
            one.embeddings.create(model=MODEL, input="kil", dimensions=32)
    assert 2 == len(of_tokens.data)
    assert pytest.approx(of_tokens.data[1].embedding, abs=1e-4) == again.data[0].embedding
    assert "dimensions" == refused.value.param


def test_every_listed_model_can_be_asked_for(stage: Stage) -> None:
    """A model whose name is a path has the path's last part for a name; other names are not listed."""
    with client(stage) as one:
        listed = {model.id for model in one.models.list()}
        assert {THINKER, MODEL, "wide-embedder"} == listed
        for name in listed:
            assert one.embeddings.create(model=name, input="x").data if name != THINKER else True
            assert name == one.models.retrieve(name).id
