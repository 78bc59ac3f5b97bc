"""Speech to text: whisper."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.matching import Constraints
from coordinator.edge.context import Context
from coordinator.edge.http.credentials import Client
from coordinator.edge.http.submitting import SUBMIT_PROBLEMS, SUBMIT_TEXT, IdempotencyKey, Prefer
from coordinator.edge.models.base import View
from coordinator.edge.models.jobs import JobSubmitAnswer
from coordinator.edge.services.asking import Ask, FileName, ask_body, read_ask, submit_ask

router = APIRouter(prefix="/whisper")

WhisperModel = Literal["tiny", "base", "small", "medium", "large", "large-v2", "large-v3"]
VRAM_GB: Final[dict[str, int]] = {
    "tiny": 1,
    "base": 1,
    "small": 2,
    "medium": 5,
    "large": 10,
    "large-v2": 10,
    "large-v3": 10,
}
_EXAMPLE: Final = {"audio_url": "https://example.com/speech.mp3", "model": "small", "language": "en"}


class TranslateAsk(Ask):
    """What is said in a recording, as text in English."""

    SERVICE: ClassVar = "speech_recognition"
    FILE: ClassVar = "audio_url"

    audio_url: FileName
    model: WhisperModel = "base"
    language: Literal["auto", "en", "es", "fr", "de", "it", "pt", "ru", "ja", "ko", "zh"] = "auto"
    temperature: Annotated[float, Field(ge=0, le=1)] = 0
    best_of: Annotated[int, Field(ge=1, le=10)] = 5
    beam_size: Annotated[int, Field(ge=1, le=10)] = 5
    patience: Annotated[float, Field(ge=0, le=2)] = 1
    suppress_tokens: (
        Annotated[list[Annotated[int, Field(ge=-1, le=51865)]], Field(max_length=1000)] | None
    ) = Field(None, description="Token ids that are never written; -1 stands for most special symbols.")
    initial_prompt: Annotated[str, Field(max_length=1000)] | None = Field(
        None, description="Words and names that occur, to help with their spelling."
    )
    condition_on_previous_text: bool = True
    fp16: bool = True

    def needs(self) -> Constraints:
        return Constraints(min_vram_gb=VRAM_GB[self.model])


class TranscribeAsk(TranslateAsk):
    """What is said in a recording, as text."""

    task: Literal["transcribe", "translate"] = Field(
        "transcribe", description="translate writes English, whatever is spoken."
    )


class Segment(View):
    """`start` and `end` in seconds from the beginning."""

    start: float
    end: float
    text: str
    average_log_probability: float | None = None
    no_speech_probability: float | None = None


class Transcript(View):
    text: str
    language: str
    segments: list[Segment]
    duration_seconds: float | None = None


class WhisperJob(JobSubmitAnswer):
    """A job of the service speech_recognition."""

    result: Transcript | None = None  # type: ignore[assignment]


@router.post(
    "/transcribe",
    status_code=201,
    response_model=WhisperJob,
    summary="Write down what is said",
    description=SUBMIT_TEXT,
    responses=SUBMIT_PROBLEMS,
    openapi_extra=ask_body(TranscribeAsk, by_url=_EXAMPLE),
)
async def transcribe(
    request: Request,
    context: Context,
    principal: Client,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    ask = await read_ask(request, context, principal, TranscribeAsk)
    return await submit_ask(request, context, principal, ask, idempotency_key, prefer)


@router.post(
    "/translate",
    status_code=201,
    response_model=WhisperJob,
    summary="Write down in English what is said",
    description=SUBMIT_TEXT,
    responses=SUBMIT_PROBLEMS,
    openapi_extra=ask_body(TranslateAsk, by_url={**_EXAMPLE, "language": "de"}),
)
async def translate(
    request: Request,
    context: Context,
    principal: Client,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    ask = await read_ask(request, context, principal, TranslateAsk)
    said: dict[str, Any] = {"task": "translate"}
    return await submit_ask(request, context, principal, ask, idempotency_key, prefer, **said)
