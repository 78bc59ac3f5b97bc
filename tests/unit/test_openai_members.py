"""Each member that OpenAI's client can send is passed on, worked out, ignored, or refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.edge.http.problems import Problem
from coordinator.edge.openai.requests import OpenAIRequest
from coordinator.edge.openai.responses import ResponsesRequest
from tests.harness.cases import every
from tests.harness.openai_members import CLIENTS, REQUESTS

LEAST: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    "completions": {"model": "m", "prompt": "x"},
    "responses": {"model": "m", "input": "x"},
    "embeddings": {"model": "m", "input": "x"},
    "rerank": {"model": "m", "query": "x", "documents": ["x"]},
    "speech": {"model": "m", "input": "x", "voice": "a"},
    "transcriptions": {"model": "m", "file": "blob:" + "0" * 64},
    "translations": {"model": "m", "file": "blob:" + "0" * 64},
    "images": {"prompt": "x"},
}
ODD = {"an": ["odd", "value"]}


def of_endpoint(*, known: bool) -> list[tuple[str, str]]:
    """Pairs of endpoint and member: those that an endpoint knows, or the client's that it does not."""
    return [
        (endpoint, member)
        for endpoint, request in REQUESTS.items()
        for member in sorted(CLIENTS.get(endpoint, frozenset()) | {*request.IGNORED, *request.ONLY})
        if known == (member in {*request.model_fields, *request.IGNORED, *request.ONLY})
    ]


def read_whole(request: type[OpenAIRequest], fields: dict[str, Any]) -> None:
    asked = request.read(fields)
    if isinstance(asked, ResponsesRequest):
        asked.chat()  # it checks what is nested


@every(("endpoint", "member"), of_endpoint(known=False))
def test_an_unsupported_member_is_refused_by_its_name(endpoint: str, member: str) -> None:
    """Nothing that a client asks for is dropped without a word; null asks for nothing."""
    request = REQUESTS[endpoint]
    with pytest.raises(Problem) as refused:
        request.read({**LEAST[endpoint], member: ODD})
    assert (400, member, "unsupported_parameter") == (
        refused.value.status,
        refused.value.members["param"],
        refused.value.members["openai_code"],
    )
    assert request.read(LEAST[endpoint]) == request.read({**LEAST[endpoint], member: None})


@every(("endpoint", "member"), of_endpoint(known=True))
def test_a_known_member_is_treated_as_the_table_says(endpoint: str, member: str) -> None:
    """Ignored members take any value; members with few values, or with a form, refuse another by its name."""
    request, least = REQUESTS[endpoint], LEAST[endpoint]
    if member in request.IGNORED:
        assert request.read(least) == request.read({**least, member: ODD})
        return
    for value in request.ONLY.get(member, ()):
        assert request.read(least) == request.read({**least, member: value})
    with pytest.raises(Problem) as refused:
        read_whole(request, {**least, member: ODD})
    assert member == refused.value.members["param"].partition(".")[0]
    assert 400 == refused.value.status


@every("endpoint", sorted(REQUESTS))
def test_members_that_must_be_there(endpoint: str) -> None:
    """A missing member is named as missing."""
    for member in LEAST[endpoint]:
        with pytest.raises(Problem) as refused:
            REQUESTS[endpoint].read({name: v for name, v in LEAST[endpoint].items() if name != member})
        assert (member, "missing_required_parameter") == (
            refused.value.members["param"],
            refused.value.members["openai_code"],
        )
