"""The members of requests: the endpoints' own, and those that the current OpenAI client can send."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from openai.resources.audio.speech import Speech
from openai.resources.audio.transcriptions import Transcriptions
from openai.resources.audio.translations import Translations
from openai.resources.chat.completions import Completions as Chats
from openai.resources.completions import Completions
from openai.resources.embeddings import Embeddings
from openai.resources.images import Images
from openai.resources.responses import Responses

from coordinator.edge.openai.audio import SpeechRequest, TranscriptionRequest, TranslationRequest
from coordinator.edge.openai.chat import ChatRequest
from coordinator.edge.openai.completions import CompletionRequest
from coordinator.edge.openai.embeddings import EmbeddingRequest
from coordinator.edge.openai.images import ImageRequest
from coordinator.edge.openai.requests import OpenAIRequest
from coordinator.edge.openai.rerank import RerankRequest
from coordinator.edge.openai.responses import ResponsesRequest

REQUESTS: dict[str, type[OpenAIRequest]] = {
    "chat": ChatRequest,
    "completions": CompletionRequest,
    "responses": ResponsesRequest,
    "embeddings": EmbeddingRequest,
    "rerank": RerankRequest,
    "speech": SpeechRequest,
    "transcriptions": TranscriptionRequest,
    "translations": TranslationRequest,
    "images": ImageRequest,
}
_OF_THE_TRANSPORT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}


def _members(method: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(method).parameters) - _OF_THE_TRANSPORT


CLIENTS: dict[str, frozenset[str]] = {
    "chat": _members(Chats.create),
    "completions": _members(Completions.create),
    "responses": _members(Responses.create),
    "embeddings": _members(Embeddings.create),
    "speech": _members(Speech.create),
    "transcriptions": _members(Transcriptions.create),
    "translations": _members(Translations.create),
    "images": _members(Images.generate),
}
"""By endpoint; OpenAI has no `rerank`."""
