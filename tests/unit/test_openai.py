"""The OpenAI facade's parts by themselves: requests, growing texts, subtitles, errors."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from coordinator.application.live.progress import Progress
from coordinator.application.ports import LogUnavailable
from coordinator.cli.commands import doctor
from coordinator.domain.errors import Code
from coordinator.domain.matching.needs import Capabilities
from coordinator.edge.http.problems import Problem
from coordinator.edge.openai import runs, streaming
from coordinator.edge.openai.audio.subtitles import Subtitle, as_srt, as_vtt
from coordinator.edge.openai.audio.transcriptions import subtitles_of
from coordinator.edge.openai.chat import ChatRequest
from coordinator.edge.openai.completions import CompletionRequest
from coordinator.edge.openai.deltas import Delta, DeltaParser, SentAnswers
from coordinator.edge.openai.embeddings import EmbeddingRequest
from coordinator.edge.openai.embeddings.vectors import (
    check_count,
    encoded_rows,
    vectors_of_file,
    vectors_of_lists,
)
from coordinator.edge.openai.errors import as_openai
from coordinator.edge.openai.images import ImageRequest
from coordinator.edge.openai.requests import OpenAIRequest
from coordinator.edge.openai.rerank import check_ranking
from coordinator.edge.openai.runs import Done
from coordinator.edge.openai.served_models import IMAGES, can_ask, models_of
from coordinator.edge.openai.streaming import StreamedText
from coordinator.edge.state.offerings import Offering
from coordinator.miner.executors.base import Discovery
from coordinator.wire.answers import Accepted, Refused
from tests.harness.cases import every
from tests.unit.edge_fakes import (
    ALICE,
    Conversation,
    FakeDatabase,
    FakeGateway,
    a_context,
    a_job_row,
    an_app,
    browsing,
)

JOB = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
CHAT: dict[str, Any] = {"model": "llama-7b", "messages": [{"role": "user", "content": "x"}]}
OFFERING = {
    "profile": "p",
    "capabilities_json": json.dumps({"services": ["llm_inference"], "models": ["llama-7b"]}),
    "since": 1_700_000_000_000,
}


def grown(text: str, offset: int, attempt: int = 1, seq: int = 0) -> Progress:
    return Progress(job_id=JOB, attempt=attempt, seq=seq, text=text, offset=offset)


# --- requests ----------------------------------------------------------------------------------------------
def test_what_is_null_is_not_there() -> None:
    """Clients write null for what they do not say; members that ask for nothing are taken."""
    nothing = {"n": 1, "functions": [], "modalities": ["text"], "user": 5}
    nulls = dict.fromkeys(["temperature", "stop", "seed", "tools", "stream_options", "max_tokens"])
    assert (
        ChatRequest.read(CHAT) == ChatRequest.read({**CHAT, **nulls}) == ChatRequest.read({**CHAT, **nothing})
    )


@every("n", [True, 1.5, "1", 0, 17, [1]])
def test_a_limited_member_is_compared_exactly(n: object) -> None:
    """JSON's true is no 1."""
    with pytest.raises(Problem) as refused:
        ChatRequest.read({**CHAT, "n": n})
    assert (400, "n") == (refused.value.status, refused.value.members["param"])


@every(
    "message",
    [
        {"role": "user"},
        {"content": "x"},
        {"role": "user", "content": None},
        {"role": "user", "content": 5},
        {"role": "user", "content": []},
        {"role": "user", "content": ["x"]},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "assistant", "content": "x", "tool_calls": [{}]},
        {"role": "user", "content": "x", "name": "a b"},
        {"role": "user", "content": "x" * 1_000_001},
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "a b", "arguments": "{}"}}]},
        {"role": "tool", "content": "xxx"},
        "x",
        None,
    ],
)
def test_messages_that_are_none(message: object) -> None:
    """Whatever is in the place of a message, it is refused with its place and without its content."""
    with pytest.raises(Problem) as refused:
        ChatRequest.read({**CHAT, "messages": [message]})
    assert refused.value.members["param"].startswith("messages.0")
    assert "xxx" not in refused.value.detail


@every(
    ("request_type", "members", "param", "why"),
    [
        (EmbeddingRequest, {"input": ["a", ""]}, "input.1", "String should have at least 1 character"),
        (EmbeddingRequest, {"input": 5}, "input", "Input should be a string or a list"),
        (EmbeddingRequest, {"input": []}, "input", "List should have at least 1 item"),
        (EmbeddingRequest, {"input": ["a"] * 2049}, "input", "at most 2048 items"),
        (EmbeddingRequest, {"input": [[1]] * 2049}, "input", "at most 2048 items"),
        (EmbeddingRequest, {"input": [1, "a"]}, "input.1", "Input should be an integer"),
        (EmbeddingRequest, {"input": [[1], [-1]]}, "input.1.0", "Input should be greater than or equal to 0"),
        (EmbeddingRequest, {"input": [[1], []]}, "input.1", "List should have at least 1 item"),
        (
            ChatRequest,
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages.0.tool_call_id",
            "required",
        ),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": 5}]},
            "messages.0.content",
            "a string or a list",
        ),
        (ChatRequest, {"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "'system'"),
        (ChatRequest, {"messages": [{"role": "assistant"}]}, "messages.0", "content or tool_calls"),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0.image_url.url",
            "match pattern",
        ),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages.0.content.0.type",
            "'text'",
        ),
        (ChatRequest, {"stop": ["a", ""]}, "stop.1", "at least 1 character"),
        (ChatRequest, {"tool_choice": {"type": "function"}}, "tool_choice.function", "required"),
        (ChatRequest, {"tool_choice": "maybe"}, "tool_choice", "'required'"),
        (ChatRequest, {"tools": [{"type": "custom"}]}, "tools.0.type", "'function'"),
        (ChatRequest, {"response_format": {"type": "xml"}}, "response_format.type", "'json_schema'"),
        (
            ChatRequest,
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "required",
        ),
        (ChatRequest, {"logit_bias": {"a": 1}}, "logit_bias.a", "match pattern"),
        (CompletionRequest, {"prompt": ["a", "b"]}, "prompt", "at most 1 item"),
    ],
)
def test_errors_are_about_the_form_that_was_meant(
    request_type: type[OpenAIRequest], members: dict[str, Any], param: str, why: str
) -> None:
    """Where a member has several forms, the reason and the place are those of the form that was sent."""
    usual = {ChatRequest: CHAT, EmbeddingRequest: {"model": "m"}, CompletionRequest: {"model": "m"}}
    with pytest.raises(Problem) as refused:
        request_type.read({**usual[request_type], **members})
    assert param == refused.value.members["param"]
    assert why in refused.value.detail


def test_what_was_answered_may_be_sent_back() -> None:
    """Reasoning, calls of tools and their results are a history, with all that clients add to them."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history = [
        {"role": "user", "content": "x", "name": None},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "annotations": [],
            "audio": None,
            "function_call": None,
            "reasoning": "hm",
            "reasoning_content": "hm",
            "parsed": {"a": 1},
            "tool_calls": [
                {**call, "index": 0, "function": {**call["function"], "parsed_arguments": {"a": 1}}},  # type: ignore[dict-item]
                {"id": "c2", "function": {"name": "g", "arguments": {"a": 1}}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    sent = ChatRequest.read({**CHAT, "messages": history}).job_payload()["messages"]
    assert [
        {"role": "user", "content": "x"},
        {
            "role": "assistant",
            "reasoning_content": "hm",
            "tool_calls": [
                call,
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": '{"a": 1}'}},
            ],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ] == sent


def test_members_that_need_another() -> None:
    """A member without the one that it is about is refused by its name."""
    for members, param in (
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
    ):
        with pytest.raises(Problem) as refused:
            ChatRequest.read({**CHAT, **members}).job_payload()
        assert param == refused.value.members["param"]


def test_embeddings_of_tokens() -> None:
    """Tokens of one text and of several go on as they are."""
    for given, sent in (([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])):
        payload = EmbeddingRequest.read({"model": "m", "input": given, "dimensions": 8}).job_payload()
        assert {"model": "m", "tokens": sent, "dimensions": 8, "truncate": False} == payload


def test_defaults_are_openais() -> None:
    """What is not said is what OpenAI would take, not what the service would."""
    payload = ChatRequest.read(CHAT).job_payload()
    told = {name: payload[name] for name in ("temperature", "top_p", "top_k", "repetition_penalty")}
    assert {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0} == told
    assert 4096 == payload["max_tokens"]
    said = ChatRequest.read({**CHAT, "max_tokens": 5, "max_completion_tokens": 7, "seed": -1, "stop": "a"})
    assert (7, 2**53 - 1, ["a"]) == tuple(
        said.job_payload()[name] for name in ("max_tokens", "seed", "stop_sequences")
    )


def test_images_by_address_are_refused() -> None:
    """There are no addresses to give; the files are in the answer."""
    with pytest.raises(Problem, match="only b64_json"):
        ImageRequest.read({"prompt": "x", "response_format": "url"})
    assert {"prompt": "x", "model": "stable-diffusion-1.5", "num_images": 1} == ImageRequest.read(
        {"prompt": "x", "size": "auto"}
    ).job_payload()


# --- growing texts -----------------------------------------------------------------------------------------
def test_a_text_grows() -> None:
    """Pieces that touch or overlap are sent once."""
    growing = StreamedText()
    assert "Grüße " == growing.take(grown("Grüße ", 0))
    assert "an " == growing.take(grown("ße an ", 3))
    assert "" == growing.take(grown("ße", 3))
    assert "" == growing.take(None)
    assert "Grüße an " == growing.sent


def test_after_a_gap_nothing_more_is_taken() -> None:
    """Where pieces are missing nothing more is sent until the whole text is there."""
    growing = StreamedText()
    assert "a" == growing.take(grown("a", 0))
    assert "" == growing.take(grown("d", 3))
    assert "" == growing.take(grown("bcde", 1))
    assert "" == StreamedText().take(grown("z", 30))


def test_another_attempt() -> None:
    """Before the first word another attempt does not matter; after it the result alone goes on."""
    early = StreamedText()
    early.take(Progress(job_id=JOB, attempt=1, seq=0, fraction=0.1))
    assert "x" == early.take(grown("x", 0, attempt=2))
    late = StreamedText()
    late.take(grown("one ", 0))
    assert "" == late.take(grown("one two", 0, attempt=2))


def record(**members: Any) -> str:
    return f"\x1e{json.dumps(members)}\n"


def test_deltas_are_found_in_the_text() -> None:
    """Plain text is the first answer's; records, however they are cut, have everything else."""
    text = (
        record(index=0, reasoning="why\n")
        + "be"
        + record(index=1, content="x", logprobs=[{"token": "x", "logprob": -1.5}])
        + "cause"
        + record(index=0, tool_calls=[{"index": 0, "id": "c", "name": "f"}])
        + record(index=0, tool_calls=[{"index": 0, "arguments": "{}"}])
        + record(index=-1, content="no")
        + "\x1enonsense\n"
        + record(index=0)
    )
    found = [
        Delta(0, reasoning="why\n"),
        Delta(0, "be"),
        Delta(1, "x", logprobs=[{"token": "x", "logprob": -1.5}]),
        Delta(0, "cause"),
        Delta(0, tool_calls=[{"index": 0, "id": "c", "name": "f"}]),
        Delta(0, tool_calls=[{"index": 0, "arguments": "{}"}]),
    ]
    assert found == DeltaParser().feed(text)
    parser, said = DeltaParser(), SentAnswers()
    pieces = [delta for character in text for delta in parser.feed(character)]
    assert "because" == "".join(delta.content for delta in pieces if delta.index == 0)
    for delta in pieces:
        said.add(delta)
    whole = {
        "text": "because",
        "reasoning": "why\n",
        "tool_calls": [{"id": "c", "name": "f", "arguments": "{}"}],
        "alternatives": [{"text": "x", "logprobs": [{"token": "x", "logprob": -1.5}]}],
    }
    assert [] == said.rest(whole)


def test_the_end_sends_the_rest() -> None:
    """What was not streamed of any answer comes from the result."""
    said = SentAnswers()
    said.add(
        Delta(0, "one ", reasoning="h", tool_calls=[{"index": 0, "id": "a", "name": "f", "arguments": "{"}])
    )
    whole = {
        "text": "one two",
        "reasoning": "hm",
        "tool_calls": [
            {"id": "a", "name": "f", "arguments": "{}"},
            {"id": "b", "name": "g", "arguments": ""},
        ],
        "alternatives": [{"text": "another"}],
    }
    calls = [{"index": 0, "arguments": "}"}, {"index": 1, "id": "b", "name": "g"}]
    assert [Delta(0, "two", "m", calls), Delta(1, "another")] == said.rest(whole)


@every(
    "sent",
    [
        Delta(0, "other"),
        Delta(0, reasoning="other"),
        Delta(1, "x"),
        Delta(0, tool_calls=[{"index": 0, "id": "b"}]),
        Delta(0, tool_calls=[{"index": 1, "id": "b"}]),
        Delta(0, tool_calls=[{"index": 0, "arguments": "[]"}]),
    ],
)
def test_what_was_sent_can_not_be_taken_back(sent: Delta) -> None:
    """If the result says something else than the stream, the stream ends in an error."""
    said = SentAnswers()
    said.add(sent)
    whole = {"text": "one", "reasoning": "why", "tool_calls": [{"id": "a", "name": "f", "arguments": "{}"}]}
    with pytest.raises(Problem) as refused:
        said.rest(whole)
    assert "answer_interrupted" == refused.value.members["openai_code"]


# --- vectors -----------------------------------------------------------------------------------------------
def test_vectors_of_a_file_are_what_numpy_wrote() -> None:
    """A file of any version has its rows as numbers and as base64; another form is refused."""
    rows = np.array([[0.1, -2.5e-8, 3.0], [1e9, 0.0, -0.0]], dtype="<f4")
    for version in ((1, 0), (2, 0), (3, 0)):
        file = io.BytesIO()
        np.lib.format.write_array(file, rows, version=version)
        vectors = vectors_of_file(file.getvalue())
        found = [json.loads(row) for row in encoded_rows(vectors, base64=False)]
        assert (np.array(found, dtype="<f4") == rows).all()
        packed = [base64.b64decode(json.loads(row)) for row in encoded_rows(vectors, base64=True)]
        assert [row.tobytes() for row in rows] == packed
    for other in (rows.astype("<f8"), np.asfortranarray(rows), rows[0]):
        file = io.BytesIO()
        np.save(file, other)
        with pytest.raises(Problem):
            vectors_of_file(file.getvalue())
    with pytest.raises(Problem):
        vectors_of_file(b"no file of numpy's")


def test_vectors_that_do_not_fit_the_request() -> None:
    """Fewer vectors than texts, other dimensions, and vectors of several lengths are the miner's fault."""
    vectors = vectors_of_lists([[0.5, 1.0], [2.0, 3.0]])
    check_count(vectors, 2, None)
    check_count(vectors, 2, 2)
    for texts, dimensions in ((3, None), (1, None), (2, 3)):
        with pytest.raises(Problem) as refused:
            check_count(vectors, texts, dimensions)
        assert Code.INTERNAL == refused.value.code
    for rows in ([[0.5, 1.0], [2.0]], []):
        with pytest.raises(Problem):
            vectors_of_lists(rows)


def test_rankings_that_do_not_fit_the_request() -> None:
    """A document that is not there, or is ranked twice, is the miner's fault."""
    check_ranking([2, 0], 3)
    for places in ([3], [-1], [0, 0]):
        with pytest.raises(Problem) as refused:
            check_ranking(places, 3)
        assert Code.INTERNAL == refused.value.code


# --- subtitles ---------------------------------------------------------------------------------------------
def test_subtitles() -> None:
    """Moments are rounded to milliseconds; blank lines and tags can't break the format."""
    segments = [Subtitle(0, 1.0005, "a\n\nb"), Subtitle(3661.9996, 3663, "1 --> 2 & <i>")]
    assert (
        "1\n00:00:00,000 --> 00:00:01,000\na\nb\n\n2\n01:01:02,000 --> 01:01:03,000\n1 --> 2 & <i>\n\n"
        == as_srt(segments)
    )
    assert (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na\nb\n\n"
        "01:01:02.000 --> 01:01:03.000\n1 --&gt; 2 &amp; &lt;i&gt;\n\n" == as_vtt(segments)
    )
    assert ("", "WEBVTT\n\n") == (as_srt([]), as_vtt([]))


def transcript(**members: Any) -> Done:
    return Done(JOB, {"text": " Two words ", "language": "en", "segments": [], **members})


def test_a_transcript_without_segments_is_one_subtitle() -> None:
    """A miner that gives no times gives one cue over the whole length; without a length that is an error."""
    assert [Subtitle(0.0, 2.5, "Two words")] == subtitles_of(transcript(duration_seconds=2.5))
    assert [] == subtitles_of(transcript(text=" ", duration_seconds=2.5))
    with pytest.raises(Problem) as refused:
        subtitles_of(transcript())
    assert "response_format" == refused.value.members["param"]


# --- models ------------------------------------------------------------------------------------------------
def test_only_models_that_can_be_asked_for_are_listed() -> None:
    """Other names of miners are not listed, and neither are those that an image can't be asked of."""

    def offering(services: tuple[str, ...], *models: str) -> Offering:
        return Offering(Capabilities(services=services, models=models), 1)

    offerings = [
        offering(("llm_inference",), "org/good:7b", "/srv/bad.gguf", "with space", "-bad"),
        offering(("image_generation",), "SDXL-Turbo", "a-model-of-its-own"),
        offering(("image_generation", "llm_inference"), "of-either"),
        offering(("checksum",), "of-none"),
    ]
    services = ("llm_inference", "image_generation")
    assert ["SDXL-Turbo", "of-either", "org/good:7b"] == list(models_of(offerings, services))


def test_the_doctor_tells_of_names_that_are_not_offered() -> None:
    """A model that no job can ask for is a warning, with the reason."""

    class Odd:
        services = ("llm_inference",)
        models = ("good", "with space")
        notes = ("'/srv/a.gguf' is offered as a.gguf",)

        async def check(self) -> str | None:
            return None

        async def run(self, work: Any) -> Any:
            raise NotImplementedError

    [check] = asyncio.run(doctor._executors(Discovery({"llm_inference": Odd()}, {})))
    assert ("llm_inference", "warning") == (check.name, check.status)
    assert check.detail.startswith(
        "runs; models: good; '/srv/a.gguf' is offered as a.gguf; 'with space' is not offered"
    )


# --- errors ------------------------------------------------------------------------------------------------
@every(
    ("code", "kind", "told"),
    [
        (Code.UNAUTHORIZED_KEY, "authentication_error", "invalid_api_key"),
        (Code.FORBIDDEN, "permission_error", "forbidden"),
        (Code.RATE_LIMITED, "rate_limit_error", "rate_limit_exceeded"),
        (Code.INVALID_PAYLOAD, "invalid_request_error", "invalid_value"),
        (Code.IDEMPOTENCY_MISMATCH, "invalid_request_error", "idempotency_mismatch"),
        (Code.INTERNAL, "server_error", "internal"),
        (Code.UNAVAILABLE, "server_error", "unavailable"),
    ],
)
def test_problems_in_openais_words(code: Code, kind: str, told: str) -> None:
    """Each code has its type and OpenAI's name for it, where OpenAI has one."""
    error = as_openai(Problem(code, "why").document()).error
    assert ("why", kind, told, None) == (error.message, error.type, error.code, error.param)


async def test_what_nobody_expected_is_an_error_of_openais_too() -> None:
    """A failure of ours is 500 in OpenAI's shape, and says nothing about itself."""

    def broken(**_: Any) -> list[dict[str, Any]]:
        raise ZeroDivisionError("a secret")

    app = an_app(database=FakeDatabase(read_offerings=broken))
    async with browsing(app, ALICE) as http:
        answer = await http.post("/v1/chat/completions", json=CHAT)
    assert (500, "server_error") == (answer.status_code, answer.json()["error"]["type"])
    assert "secret" not in answer.text
    assert str(len(answer.content)) == answer.headers["content-length"]


async def test_a_refused_submit_is_a_bad_request() -> None:
    """What the decision refuses comes back under OpenAI's status, and is not to be sent again."""
    gateway = FakeGateway()
    gateway.answer = lambda _: Refused(Code.IDEMPOTENCY_MISMATCH, "another request")
    app = an_app(
        gateway=gateway, database=FakeDatabase(read_offerings=lambda: [OFFERING], read_final_jobs=_none)
    )
    async with browsing(app, ALICE) as http:
        answer = await http.post("/v1/chat/completions", json=CHAT, headers={"Idempotency-Key": "k"})
    assert (400, "idempotency_mismatch") == (answer.status_code, answer.json()["error"]["code"])
    assert "false" == answer.headers["x-should-retry"]
    assert ["job.submit"] == [intent.command.topic for intent in gateway.intents]


@pytest.mark.parametrize(
    ("refused", "status", "kind", "code", "retry_after"),
    [
        (Refused(Code.TOO_LARGE, "x"), 413, "invalid_request_error", "too_large", None),
        (Refused(Code.QUEUE_FULL, "x", 6.2), 429, "rate_limit_error", "rate_limit_exceeded", "7"),
        (Refused(Code.QUOTA_EXCEEDED, "x", 3600.0), 429, "rate_limit_error", "insufficient_quota", "3600"),
        (Refused(Code.UNAVAILABLE, "x"), 503, "server_error", "unavailable", None),
    ],
)
async def test_refusals_have_openais_statuses(
    refused: Refused, status: int, kind: str, code: str, retry_after: str | None
) -> None:
    """What passes with time says when; nothing else does."""
    gateway = FakeGateway()
    gateway.answer = lambda _: refused
    database = FakeDatabase(read_offerings=lambda: [OFFERING], read_final_jobs=_none)
    async with browsing(an_app(gateway=gateway, database=database), ALICE) as http:
        answer = await http.post("/v1/chat/completions", json=CHAT)
        elsewhere = await http.post("/v1/audio/nonsense", json={})
        moderation = await http.post("/v1/moderations", json={"input": "x"})
        method = await http.delete("/v1/chat/completions")
    assert (status, {"message": "x", "type": kind, "param": None, "code": code}) == (
        answer.status_code,
        answer.json()["error"],
    )
    if retry_after is not None:
        assert retry_after == answer.headers["retry-after"]
    assert (404, "unknown_url") == (elsewhere.status_code, elsewhere.json()["error"]["code"])
    assert (404, elsewhere.json()) == (moderation.status_code, moderation.json())
    assert (405, "method_not_allowed") == (method.status_code, method.json()["error"]["code"])


@every(
    ("row", "status", "code", "again"),
    [
        ({"state": "EXPIRED"}, 504, "timeout", "false"),
        ({"state": "CANCELED"}, 400, "canceled", "false"),
        (
            {"state": "FAILED", "error_code": "OUT_OF_MEMORY", "error_message": "why"},
            500,
            "out_of_memory",
            "false",
        ),
        (
            {"state": "FAILED", "error_code": "UNSUPPORTED", "error_message": "why"},
            400,
            "unsupported",
            "false",
        ),
        (
            {"state": "FAILED", "error_code": "UNSAFE_URL", "error_message": "why"},
            400,
            "unsafe_url",
            "false",
        ),
        (
            {"state": "FAILED", "error_code": "DOWNLOAD_FAILED", "error_message": "why"},
            400,
            "download_failed",
            "false",
        ),
    ],
)
async def test_how_a_job_without_a_result_is_answered(
    row: dict[str, Any], status: int, code: str, again: str | None
) -> None:
    """Each end has its status and code; only what passes by itself is to be sent again."""
    gateway = FakeGateway()
    app = an_app(
        gateway=gateway,
        database=FakeDatabase(
            read_offerings=lambda: [OFFERING],
            read_job=lambda job_id: [a_job_row(**row)],
            read_final_jobs=lambda job_ids: [{"job_id": job_id} for job_id in job_ids],
        ),
    )
    async with browsing(app, ALICE) as http:
        answer = await http.post("/v1/chat/completions", json=CHAT)
    assert (status, code) == (answer.status_code, answer.json()["error"]["code"])
    assert again == answer.headers.get("x-should-retry")
    of_a_url = code in ("unsafe_url", "download_failed")
    assert ("messages" if of_a_url else None) == answer.json()["error"]["param"]


FAILED_JOB = {"state": "FAILED", "error_code": "OUT_OF_MEMORY", "error_message": "why"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_wait_that_ends_early_goes_on(stream: bool) -> None:
    """A watch that fails wakes all: a job that has not ended is waited for again."""
    failures = iter([LogUnavailable("away"), LogUnavailable("away")])
    states = iter([{"state": "RUNNING"}, {"state": "RUNNING"}, FAILED_JOB, FAILED_JOB])

    def final_jobs(job_ids: list[str]) -> list[dict[str, Any]]:
        if (error := next(failures, None)) is not None:
            raise error
        return [{"job_id": job_id} for job_id in job_ids]

    database = FakeDatabase(
        read_offerings=lambda: [OFFERING],
        read_job=lambda job_id: [a_job_row(**next(states, FAILED_JOB))],
        read_final_jobs=final_jobs,
    )
    async with browsing(an_app(database=database), ALICE) as http:
        answer = await http.post("/v1/chat/completions", json={**CHAT, "stream": stream})
    assert (500, "out_of_memory") == (answer.status_code, answer.json()["error"]["code"])


async def test_a_process_that_stops_ends_the_wait() -> None:
    """The client is told to send it again: the job goes on elsewhere."""
    gateway = FakeGateway()
    context = a_context(
        gateway=gateway,
        database=FakeDatabase(
            read_offerings=lambda: [OFFERING],
            read_job=lambda job_id: [a_job_row(state="RUNNING")],
            read_final_jobs=_none,
        ),
    )
    app = an_app()
    app.state.context = context
    async with browsing(app, ALICE) as http:
        asking = asyncio.create_task(http.post("/v1/chat/completions", json=CHAT))
        await _until(lambda: bool(gateway.intents))
        context.stopping.set()
        await context.job_watch.stop()
        answer = await asking
    assert (503, "unavailable") == (answer.status_code, answer.json()["error"]["code"])
    assert "restarting" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_queued_job_whose_last_miner_is_gone(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    """It is not waited for: the client may ask again later or for another model, and the job is cancelled."""
    monkeypatch.setattr(runs, "UNSERVED_S", 0.0)
    monkeypatch.setattr(runs, "CHECK_S", 0.01)
    monkeypatch.setattr(streaming, "KEEP_ALIVE_S", 0.01)
    gateway = FakeGateway()
    app = an_app(
        gateway=gateway,
        database=FakeDatabase(
            read_offerings=lambda: [] if gateway.intents else [OFFERING],
            read_job=lambda job_id: [a_job_row(state="QUEUED")],
            read_final_jobs=_none,
        ),
    )
    async with browsing(app, ALICE) as http:
        answer = await http.post("/v1/chat/completions", json={**CHAT, "stream": stream})
    # A stream has begun with a comment by then: its error is an event.
    text = answer.text.rpartition("data: ")[2] if stream else answer.text
    error = json.loads(text)["error"]
    assert (200 if stream else 503, "unavailable", "model") == (
        answer.status_code,
        error["code"],
        error["param"],
    )
    assert "the last miner with this model is gone" in error["message"]
    assert (None if stream else "0") == answer.headers.get("retry-after")
    await _until(lambda: len(gateway.intents) > 1)
    assert ["job.submit", "job.cancel"] == [intent.command.topic for intent in gateway.intents]


async def test_a_retired_service_offers_no_models() -> None:
    """Its models are not listed, and a request for one says why."""
    database = FakeDatabase(
        read_offerings=lambda: [OFFERING], read_retired_services=lambda: [{"service": "llm_inference"}]
    )
    async with browsing(an_app(database=database), ALICE) as http:
        listed = await http.get("/v1/models")
        assert ([], False) == (listed.json()["data"], "x-job-id" in listed.headers)
        answer = await http.post("/v1/chat/completions", json=CHAT)
    assert (404, "model_not_found") == (answer.status_code, (error := answer.json()["error"])["code"])
    assert "the service llm_inference is retired" in error["message"]


async def test_hanging_up_while_it_is_submitted() -> None:
    """A client that goes away before its job is in the log has it cancelled once it is."""

    gateway = FakeGateway()
    gateway.hold = asyncio.Event()
    gateway.answer = lambda _: Accepted(7, {"job_id": str(JOB), "state": "QUEUED"})
    app = an_app(
        gateway=gateway, database=FakeDatabase(read_offerings=lambda: [OFFERING], read_final_jobs=_none)
    )
    talk = Conversation(app, "POST", "/v1/chat/completions", ALICE)
    talk.say(json.dumps(CHAT).encode())
    request = talk.begin()
    await gateway.asked.wait()
    talk.hang_up()
    await asyncio.wait([request])
    gateway.asked.clear()
    gateway.hold.set()
    await gateway.asked.wait()
    assert ["job.submit", "job.cancel"] == [intent.command.topic for intent in gateway.intents]


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the fake has no event for it
            await asyncio.sleep(0.01)


def _none(**_: Any) -> list[dict[str, Any]]:
    return []


def test_hardware_encoders_are_no_models_to_talk_to() -> None:
    """Miners advertise them as models, so that jobs find them; no chat and no image can ask for one."""
    assert [False, False] == [can_ask(service, "video-encoder:h264") for service in ("llm_inference", IMAGES)]
