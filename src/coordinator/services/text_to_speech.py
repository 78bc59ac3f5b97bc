"""The service `text_to_speech`: a text, read aloud."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from coordinator.domain.matching.needs import Constraints
from coordinator.services.base import KnownService, ModelName, OutputFile, Payload, Result

MAX_CHARACTERS: Final = 100_000
"""About two hours of speech."""
MAX_INSTRUCTIONS: Final = 4096
VOICE_PATTERN: Final = r"^[^\x00-\x1f\x7f]{1,100}$"
"""Engines name voices in many ways, also in Chinese."""
PCM_RATE: Final = 24_000
"""Samples a second of the format pcm, as in OpenAI's API."""
MODELS: Final = ("kokoro", "tts-1", "piper", "orpheus-3b")
"""Examples of models that miners may offer."""
AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
MEDIA_TYPES: Final[dict[AudioFormat, str]] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


class SpeakPayload(Payload):
    """A text and a voice."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
    """What is read aloud."""
    model: ModelName = Field("kokoro", examples=list(MODELS))
    """A model that a miner offers."""
    voice: Annotated[str, Field(pattern=VOICE_PATTERN, examples=["af_heart", "alloy"])]
    """A voice of the model, by the engine's name."""
    format: AudioFormat = "mp3"
    """opus is in Ogg, aac in ADTS; pcm is 16-bit little-endian samples of one channel at 24 kHz, without a
    header."""
    speed: Annotated[float, Field(ge=0.25, le=4)] = 1.0
    """1 is the voice's own."""
    instructions: Annotated[str, Field(max_length=MAX_INSTRUCTIONS)] | None = None
    """How it is said, for models that follow instructions."""

    def needs(self) -> Constraints:
        return Constraints(models=(self.model,))

    def contradiction(self) -> str | None:
        return None if self.text.strip() else "text: there is nothing to read"


class SpokenText(Result):
    """The recording."""

    model: Annotated[str, Field(min_length=1, max_length=100)]
    voice: Annotated[str, Field(min_length=1, max_length=100)]
    format: AudioFormat
    characters: Annotated[int, Field(ge=1)]
    """Of the text."""
    duration_seconds: Annotated[float, Field(gt=0)]
    """Of the recording, as it was decoded."""
    outputs: Annotated[list[OutputFile], Field(min_length=1, max_length=1)]


SERVICE: Final = KnownService("text_to_speech", TypeAdapter(SpeakPayload), SpokenText)
