"""A model's answers: as far as they were streamed, and whole.

The text that a miner streams is the first answer's. Reasoning, calls of tools, probabilities and further
answers are records in it: JSON texts between the control character RS and a line feed (RFC 7464).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from coordinator.domain.errors import Code
from coordinator.edge.http.problems import Problem
from coordinator.edge.openai.errors import NO_RETRY

RECORD_START: Final = "\x1e"
RECORD_END: Final = "\n"


@dataclass(slots=True)
class Delta:
    """New parts of one answer. A call of a tool has `index`, and new ones of `id`, `name` and `arguments`."""

    index: int = 0
    content: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tool_calls or self.logprobs)


class DeltaParser:
    """Takes a stream of text apart."""

    def __init__(self) -> None:
        self._record = ""
        """The begun record, with its start."""

    def feed(self, text: str) -> list[Delta]:
        """The deltas that this text completes. Invalid records are skipped: the result has their content."""
        found = []
        text = self._record + text
        self._record = ""
        while text:
            plain, start, text = text.partition(RECORD_START)
            if plain:
                found.append(Delta(content=plain))
            if not start:
                break
            record, end, rest = text.partition(RECORD_END)
            if not end:
                self._record = start + text
                break
            if (delta := _delta(record)) is not None:
                found.append(delta)
            text = rest
        return found


def _delta(record: str) -> Delta | None:
    try:
        given = json.loads(record)
        delta = Delta(
            int(given["index"]),
            str(given.get("content", "")),
            str(given.get("reasoning", "")),
            [_call(call) for call in given.get("tool_calls", ())],
            [dict(one) for one in given.get("logprobs", ())],
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return delta if delta and 0 <= delta.index < 100 else None


def _call(given: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: str(given[name]) for name in ("id", "name", "arguments") if name in given}
    return {"index": int(given["index"]), **texts}


class SentAnswers:
    """The answers of one job, as far as they were sent."""

    def __init__(self) -> None:
        self._sent: dict[int, Delta] = {}
        self._calls: dict[tuple[int, int], dict[str, Any]] = {}

    def add(self, delta: Delta) -> None:
        """Note that this was sent."""
        sent = self._sent.setdefault(delta.index, Delta(delta.index))
        sent.content += delta.content
        sent.reasoning += delta.reasoning
        sent.logprobs += delta.logprobs
        for call in delta.tool_calls:
            known = self._calls.setdefault((delta.index, call["index"]), {"arguments": ""})
            known |= {name: call[name] for name in ("id", "name") if name in call}
            known["arguments"] += call.get("arguments", "")

    def rest(self, result: Mapping[str, Any]) -> list[Delta]:
        """What of a result was not sent. Raises Problem if something else was sent."""
        answers = answers_of(result)
        if any(index >= len(answers) for index in self._sent):
            raise _interrupted()
        return [delta for index, answer in enumerate(answers) if (delta := self._rest(index, answer))]

    def _rest(self, index: int, answer: Mapping[str, Any]) -> Delta:
        sent = self._sent.get(index, Delta())
        calls = []
        made = answer.get("tool_calls", [])
        for number, call in enumerate(made):
            known = self._calls.get((index, number), {})
            if any(known.get(name, call[name]) != call[name] for name in ("id", "name")):
                raise _interrupted()
            new = {name: call[name] for name in ("id", "name") if name not in known}
            if arguments := _after(known.get("arguments", ""), call["arguments"]):
                new["arguments"] = arguments
            if new:
                calls.append({"index": number, **new})
        if any(of == index and number >= len(made) for of, number in self._calls):
            raise _interrupted()
        return Delta(
            index,
            _after(sent.content, answer["text"]),
            _after(sent.reasoning, answer.get("reasoning", "")),
            calls,
            list(answer.get("logprobs", ()))[len(sent.logprobs) :],
        )


def answers_of(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The answers in a result of `llm_inference`: the first, and those in `alternatives`."""
    return [result, *result.get("alternatives", ())]


def _after(sent: str, whole: str) -> str:
    if not whole.startswith(sent):
        raise _interrupted()
    return whole[len(sent) :]


def _interrupted() -> Problem:
    return Problem(
        Code.INTERNAL,
        "the miner was lost, and the next one began another text; send the request again",
        headers=NO_RETRY,
        members={"openai_code": "answer_interrupted"},
    )
