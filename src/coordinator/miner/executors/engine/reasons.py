"""The reason in an engine's error, for the client: without what the engine's owner keeps to himself."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import httpx

from coordinator.miner.executors.engine.settings import EngineSettings

_CHARACTERS: Final = 300
_PRIVATE: Final = re.compile(
    r"\w+://\S+"  # URLs
    r"|(?<!\w)~?/[\w.+-]+(/\S*)?|\b[A-Za-z]:\\\S+"  # paths
    r"|\b\d{1,3}(\.\d{1,3}){3}(:\d+)?|\[[0-9a-fA-F:]*:[0-9a-fA-F:]*\](:\d+)?"  # IP addresses
    r"|\b(localhost|[\w-]+(\.[\w-]+)*\.[A-Za-z]{2,}):\d+\b"  # hosts with a port
    r"|\b(?=[\w-]*[\d-])[A-Za-z][\w-]*:\d{2,5}\b"  # machines such as gpu-7:8000, but not tokens:8192
    r"|\b[\w-]+(\.[\w-]+)*\.(local|lan|internal|localdomain)\b"
    r"|\b(sk|hf|gsk|key)[-_][\w*-]{6,}|\b[Bb]earer\s+\S+"  # keys, also those of engines behind the engine
)
"""The parts of an engine's message that its owner keeps to himself."""


def reason_in_json(content: bytes, settings: EngineSettings) -> str:
    """The reason in an engine's error; empty if it is not JSON."""
    try:
        return reason_in(json.loads(content), settings)
    except ValueError:
        return ""


def reason_in(answer: Any, settings: EngineSettings) -> str:
    """The reason in an engine's error, without addresses, paths and keys."""
    error = answer.get("error", answer) if isinstance(answer, dict) else None
    text = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    if isinstance(text, list):  # FastAPI's list of faults
        text = "; ".join(str(one.get("msg")) for one in text[:3] if isinstance(one, dict))
    elif isinstance(text, dict):  # a detail with parts
        text = text.get("message") or text.get("error")
    if not isinstance(text, str) or not text:
        return "no reason given"
    if settings.key is not None:
        text = text.replace(settings.key.get_secret_value(), "…")
    # The pattern takes quadratic time, and an engine may repeat a client's whole text.
    text = _PRIVATE.sub("…", text[: 10 * _CHARACTERS])
    if settings.url is not None:
        text = re.sub(rf"\b{re.escape(httpx.URL(settings.url).host)}(:\d+)?\b", "…", text)
    return " ".join(text.split())[:_CHARACTERS]
