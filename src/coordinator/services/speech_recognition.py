"""The service `speech_recognition`: the text of a recording, with Whisper."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter

from coordinator.domain.matching import Constraints
from coordinator.services.base import (
    FileRef,
    KnownService,
    Payload,
    Result,
    ResultPart,
    Whole,
    vram_by_model,
)

WhisperModel = Literal["tiny", "base", "small", "medium", "large", "large-v2", "large-v3"]
VRAM_GB: Final[dict[WhisperModel, int]] = {
    "tiny": 1,
    "base": 1,
    "small": 2,
    "medium": 5,
    "large": 10,
    "large-v2": 10,
    "large-v3": 10,
}
Language = Literal["auto", "en", "es", "fr", "de", "it", "pt", "ru", "ja", "ko", "zh"]
Seconds = Annotated[float, Field(ge=0)]


class SpeechSettings(Payload):
    """The recording and the settings of the model."""

    audio_url: FileRef
    """The recording, or a video with sound."""
    model: WhisperModel = Field("base", json_schema_extra=vram_by_model(VRAM_GB))
    """Larger models make fewer mistakes. x-min-vram-gb has the GPU memory of each model in GB."""
    language: Language = "auto"
    """The spoken language; auto detects it."""
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0 always takes the likeliest words."""
    best_of: Annotated[int, Field(ge=1, le=10), Whole] = 5
    """Candidates when sampling, which needs a temperature above 0."""
    beam_size: Annotated[int, Field(ge=1, le=10), Whole] = 5
    """Beams when not sampling."""
    patience: Annotated[float, Field(ge=0, le=2)] = 1.0
    """The patience of beam search; 1 is usual."""
    suppress_tokens: (
        Annotated[list[Annotated[int, Field(ge=-1, le=51_865), Whole]], Field(max_length=1000)] | None
    ) = None
    """Ids of tokens that never occur in the text; -1 stands for most special symbols."""
    initial_prompt: Annotated[str, Field(max_length=1000)] | None = None
    """Words and names of the recording, as a help with their spelling."""
    condition_on_previous_text: bool = True
    """Keeps style and spelling consistent across windows of half a minute."""
    fp16: bool = True
    """Half precision: faster, and as good on GPUs."""

    def needs(self) -> Constraints:
        return Constraints(min_vram_gb=VRAM_GB[self.model])


class SpeechPayload(SpeechSettings):
    """The text of a recording."""

    task: Literal["transcribe", "translate"] = "transcribe"
    """translate gives English text for every spoken language."""


class Translate(SpeechSettings):
    """The text of a recording, in English."""

    def sent(self) -> dict[str, Any]:
        return {**super().sent(), "task": "translate"}


class TranscriptSegment(ResultPart):
    start: Seconds
    """Seconds from the beginning."""
    end: Seconds
    """Seconds from the beginning."""
    text: str
    average_log_probability: Annotated[float, Field(le=0)] | None = None
    """Values near 0 are certain."""
    no_speech_probability: Annotated[float, Field(ge=0, le=1)] | None = None


class Transcript(Result):
    text: str
    language: Annotated[str, Field(pattern="^[a-z]{2,3}$")]
    """The spoken language: two or three letters."""
    duration_seconds: Seconds | None = None
    """The length of the recording."""
    segments: list[TranscriptSegment]


SERVICE: Final = KnownService("speech_recognition", TypeAdapter(SpeechPayload), Transcript)
