"""The service `speech_recognition`: the text of a recording, with Whisper."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, WithJsonSchema, model_validator

from coordinator.domain.matching.needs import Constraints
from coordinator.services.base import (
    FileRef,
    KnownService,
    LargeResult,
    ModelName,
    OutputFile,
    Payload,
    ResultPart,
    Warnings,
    Whole,
    vram_by_model,
)
from coordinator.services.speech_recognition.languages import ACCEPTED, known_language

VRAM_GB: Final[dict[str, int]] = {
    "tiny": 1,
    "tiny.en": 1,
    "base": 1,
    "base.en": 1,
    "small": 2,
    "small.en": 2,
    "medium": 5,
    "medium.en": 5,
    "large": 10,
    "large-v1": 10,
    "large-v2": 10,
    "large-v3": 10,
    "large-v3-turbo": 6,
    "turbo": 6,
    "distil-small.en": 2,
    "distil-medium.en": 4,
    "distil-large-v2": 6,
    "distil-large-v3": 6,
    "distil-large-v3.5": 6,
}
"""GPU memory of Whisper's models; other models run on miners that offer them."""
Language = Annotated[str, BeforeValidator(known_language), WithJsonSchema({"enum": list(ACCEPTED)})]
Seconds = Annotated[float, Field(ge=0)]


class SpeechSettings(Payload):
    """The recording and the settings of the model."""

    audio_url: FileRef
    """The recording, or a video with sound."""
    model: ModelName = Field("base", examples=list(VRAM_GB), json_schema_extra=vram_by_model(VRAM_GB))
    """A model that a miner offers; larger ones make fewer mistakes. x-min-vram-gb has the GPU memory of
    Whisper's models in GB."""
    language: Language = "auto"
    """The spoken language, by its code or its English name; auto detects it."""
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
    word_timestamps: bool = False
    """Also the time of each word. An engine that does not time words refuses the job."""

    def needs(self) -> Constraints:
        known = VRAM_GB.get(self.model.lower())
        # Miners need not list Whisper's own models.
        return Constraints(models=(self.model,)) if known is None else Constraints(min_vram_gb=known)


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


class TranscriptWord(ResultPart):
    word: str
    start: Seconds
    """Seconds from the beginning."""
    end: Seconds
    """Seconds from the beginning."""


class Transcript(LargeResult):
    LARGE: ClassVar = {"text": "", "segments": [], "words": None}

    text: str
    language: Annotated[str, Field(pattern="^[a-z]{2,3}$")]
    """The spoken language: two or three letters."""
    duration_seconds: Seconds | None = None
    """The length of the recording."""
    segments: list[TranscriptSegment]
    """Where each part of the text is. An engine without times gives one segment over the whole length."""
    words: list[TranscriptWord] | None = None
    """Where each word is, in order and within the recording; only with word_timestamps."""
    outputs: Annotated[list[OutputFile], Field(min_length=1, max_length=1)] | None = None
    """The whole result as a JSON file, if it is too large for a message; text, segments and words are empty
    or absent then."""
    warnings: Warnings | None = None
    """About the source: small faults, and lengths that its format can't prove."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        words, length = self.words or [], self.duration_seconds
        if any(word.start > word.end for word in words) or any(a.start > b.start for a, b in pairwise(words)):
            raise ValueError("words: not in the order of their times")
        if length is not None and any(word.end > length for word in words):
            raise ValueError("words: one ends after the recording")
        return self


SERVICE: Final = KnownService("speech_recognition", TypeAdapter(SpeechPayload), Transcript)
