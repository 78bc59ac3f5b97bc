"""`POST /v1/audio/…`."""

from coordinator.edge.openai.audio.transcriptions import (
    SERVICE,
    TranscriptionRequest,
    TranslationRequest,
    router,
)

__all__ = ["SERVICE", "TranscriptionRequest", "TranslationRequest", "router"]
