"""docs/openai.md, done as it says, against a real coordinator, miner and engine; its lists are the code's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from coordinator.edge.openai.audio import TranscriptionRequest
from coordinator.edge.openai.chat import ChatRequest
from coordinator.edge.openai.completions import CompletionRequest
from coordinator.edge.openai.embeddings import EmbeddingRequest
from coordinator.edge.openai.images import ImageRequest
from tests.harness.llama_engine import MODEL, LlamaEngine
from tests.harness.stage import ALICE, Stage
from tests.harness.waiting import eventually_now

PAGE = (Path(__file__).parents[2] / "docs" / "openai.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path: Path, llama: LlamaEngine) -> None:
    """The page's program lists the model, gets an answer, and streams another."""
    [program] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    with Stage(tmp_path) as stage:
        stage.coordinator()
        eventually_now(lambda: stage.health()["ready"], "ready")
        miner = stage.program_miner("rig1", transport="http", llm_engine_url=f"{llama.url}/v1")
        eventually_now(lambda: "registered" in miner.tail(), "registered")
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONIOENCODING": "utf-8",
                "OPENAI_BASE_URL": f"{stage.urls['main']}/v1",
                "OPENAI_API_KEY": ALICE,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    models, answer, *streamed = done.stdout.split("\n", 2)
    assert f"['{MODEL}']" == models
    assert "completion_tokens=" in done.stdout
    assert answer
    assert streamed


def test_every_member_is_on_the_page() -> None:
    """What the code takes, ignores or limits, the page names."""
    page = PAGE.replace("`prompt_cache_…`", "prompt_cache_key prompt_cache_options prompt_cache_retention")
    for request in (ChatRequest, CompletionRequest, EmbeddingRequest, TranscriptionRequest, ImageRequest):
        limited = {name for name in request.ONLY if request in (ChatRequest, CompletionRequest)}
        named = set(request.model_fields) | request.IGNORED | limited
        # Said without the name: these are of no use without what is refused with them.
        named -= {"function_call", "parallel_tool_calls", "top_logprobs"}
        missing = {name for name in named if not re.search(rf"\b{name}\b", page)}
        assert not missing, request.__name__
