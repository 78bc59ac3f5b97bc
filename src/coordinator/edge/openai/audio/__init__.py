"""`POST /v1/audio/…`."""

from coordinator.edge.openai.audio import speech, transcriptions
from coordinator.edge.openai.audio.speech import SpeechRequest
from coordinator.edge.openai.audio.transcriptions import TranscriptionRequest, TranslationRequest

ROUTERS = (transcriptions.router, speech.router)
SERVICES = (transcriptions.SERVICE, speech.SERVICE)

__all__ = ["ROUTERS", "SERVICES", "SpeechRequest", "TranscriptionRequest", "TranslationRequest"]
