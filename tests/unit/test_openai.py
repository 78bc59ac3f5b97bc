"""The OpenAI facade's parts by themselves: requests, growing texts, subtitles, errors."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest

from coordinator.application.live.progress import Progress
from coordinator.domain.errors import Code
from coordinator.edge.http.problems import Problem
from coordinator.edge.openai.chat import ChatRequest
from coordinator.edge.openai.errors import as_openai
from coordinator.edge.openai.images import ImageRequest
from coordinator.edge.openai.streaming import StreamedText
from coordinator.edge.openai.subtitles import Subtitle, as_srt, as_vtt
from coordinator.wire.answers import Accepted, Refused
from tests.unit.edge_fakes import ALICE, Conversation, FakeDatabase, FakeGateway, a_job_row, an_app, browsing

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
    nothing = {"n": 1, "tools": [], "logprobs": False, "response_format": {"type": "text"}, "user": 5}
    nulls = dict.fromkeys(["temperature", "stop", "seed", "tools", "stream_options", "max_tokens"])
    assert (
        ChatRequest.read(CHAT) == ChatRequest.read({**CHAT, **nulls}) == ChatRequest.read({**CHAT, **nothing})
    )


@pytest.mark.parametrize("n", [True, 1.0, "1", 0, 2, [1]])
def test_a_limited_member_is_compared_exactly(n: object) -> None:
    """JSON's true is no 1."""
    with pytest.raises(Problem) as refused:
        ChatRequest.read({**CHAT, "n": n})
    assert (400, "n") == (refused.value.status, refused.value.members["param"])


@pytest.mark.parametrize(
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
        {"role": "user", "content": "x" * 100_001},
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


def test_defaults_are_openais() -> None:
    """What is not said is what OpenAI would take, not what the service would."""
    payload = ChatRequest.read(CHAT).job_payload()
    told = {name: payload[name] for name in ("temperature", "top_p", "top_k", "repetition_penalty")}
    assert {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0} == told
    assert 1024 == payload["max_tokens"]
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
    """Pieces that touch or overlap are sent once; the end sends the rest."""
    growing = StreamedText()
    assert "Grüße " == growing.take(grown("Grüße ", 0))
    assert "an " == growing.take(grown("ße an ", 3))
    assert "" == growing.take(grown("ße", 3))
    assert "" == growing.take(None)
    assert "💠" == growing.finish("Grüße an 💠")


def test_a_gap_is_filled_at_the_end() -> None:
    """Where pieces are missing nothing more is sent until the whole text is there."""
    growing = StreamedText()
    assert "a" == growing.take(grown("a", 0))
    assert "" == growing.take(grown("d", 3))
    assert "" == growing.take(grown("bcde", 1))
    assert "bcdef" == growing.finish("abcdef")
    late = StreamedText()
    assert "" == late.take(grown("z", 30))
    assert "whole" == late.finish("whole")


def test_another_attempt() -> None:
    """Before the first word it does not matter; after it the end tells whether it said the same."""
    early = StreamedText()
    early.take(Progress(job_id=JOB, attempt=1, seq=0, fraction=0.1))
    assert "x" == early.take(grown("x", 0, attempt=2))
    same, other = StreamedText(), StreamedText()
    for growing in (same, other):
        growing.take(grown("one ", 0))
        assert "" == growing.take(grown("one ", 0, attempt=2))
    assert "two" == same.finish("one two")
    with pytest.raises(Problem) as refused:
        other.finish("another")
    assert "answer_interrupted" == refused.value.members["openai_code"]


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


# --- errors ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
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
        ({"state": "RUNNING"}, 503, "unavailable", None),
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


def _none(**_: Any) -> list[dict[str, Any]]:
    return []
