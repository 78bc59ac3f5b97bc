"""Results that are too large for a message become a file with all of them; the small form fits its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coordinator.crypto.json_size import has_more_values
from coordinator.miner.executors import Outcome
from coordinator.miner.executors.base import INLINE_BYTES, INLINE_VALUES, document_of
from coordinator.services.base import WHOLE_RESULT_TYPE, LargeResult, OutputFile, whole_result_in
from coordinator.services.data_processing import ColumnMade, PreparedData
from coordinator.services.llm_inference import GeneratedText
from coordinator.services.llm_inference.result import Answer, TokenLogprob
from coordinator.services.speech_recognition import Transcript, TranscriptSegment
from coordinator.wire.limits import MAX_BODY_BYTES, MAX_CONTAINERS, MAX_VALUES
from tests.harness.works import Bench, FolderBlobs, check_output

TABLE = OutputFile(name="a.csv", blob="blob:" + "0" * 64, size=9, media_type="text/csv")


def generated(**members: Any) -> GeneratedText:
    return GeneratedText(model="m", finish_reason="stop", prompt_tokens=1, completion_tokens=1, **members)


def heard(text: str, segments: int) -> Transcript:
    return Transcript(
        text=text, language="en", segments=[TranscriptSegment(start=1, end=2, text="a")] * segments
    )


TOKEN = TokenLogprob(token="a", logprob=-0.5, bytes=[97])
LARGE: dict[str, tuple[str, LargeResult, list[OutputFile]]] = {
    "a text": ("llm_inference", generated(text="é" * 300_000), []),
    "many small values": ("llm_inference", generated(text="a", logprobs=[TOKEN] * 4000), []),
    "alternatives": (
        "llm_inference",
        generated(text="a", alternatives=[Answer(text="a" * 99_999, finish_reason="stop")] * 7),
        [],
    ),
    "segments": ("speech_recognition", heard("a", 20_000), []),
    "a text of a recording": ("speech_recognition", heard("a" * 600_000, 0), []),
    "columns": (
        "data_processing",
        PreparedData(
            rows_read=1,
            rows_written=1,
            columns=[ColumnMade(name="a" * 100, type="text", missing=0)] * 10_000,
            outputs=[TABLE],
        ),
        [TABLE],
    ),
}
"""The service, a result of it, and the files that it has besides."""


@pytest.mark.parametrize("kind", LARGE)
async def test_all_of_it_is_in_a_file(kind: str, tmp_path: Path) -> None:
    """The last output is the whole result; what is left fits its schema and a message."""
    service, result, files = LARGE[kind]
    bench = Bench(service, tmp_path, FolderBlobs(tmp_path / "blobs"))
    with bench.workspace:
        small = await document_of(bench.work({}), result)
    check_output(service, Outcome(small))
    *others, whole = small["outputs"]
    assert (files, WHOLE_RESULT_TYPE, whole["blob"]) == (others, whole["media_type"], whole_result_in(small))
    assert result.document() == json.loads(bench.blobs.read(whole))
    assert len(json.dumps(small)) < 1000


def test_what_stays_inline_fits_a_message() -> None:
    """The bounds leave room for the other fields of a message, and for characters that JSON escapes."""
    assert 2 * INLINE_BYTES <= MAX_BODY_BYTES
    assert 3 * INLINE_VALUES < MAX_VALUES
    assert not has_more_values(b"[" * INLINE_VALUES, MAX_VALUES, MAX_CONTAINERS)


async def test_a_small_result_stays_as_it_is(tmp_path: Path) -> None:
    """No file is made, and a JSON file of the job's own is not taken for the whole result."""
    result = PreparedData(
        rows_read=1,
        rows_written=1,
        columns=[ColumnMade(name="a", type="text")],
        outputs=[OutputFile(name="result.json", blob=TABLE["blob"], size=9, media_type="application/json")],
    )
    bench = Bench("data_processing", tmp_path, FolderBlobs(tmp_path / "blobs"))
    assert result.document() == await document_of(bench.work({}), result)
    assert not bench.workspace.used
    assert whole_result_in(result.document()) is None
    assert whole_result_in({"outputs": []}) is whole_result_in({}) is whole_result_in({"outputs": 5}) is None
