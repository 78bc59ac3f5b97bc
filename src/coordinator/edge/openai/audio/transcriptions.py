"""Audio: speech as text, in its own language or in English."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code
from coordinator.edge.http.credentials import Client
from coordinator.edge.http.multipart import MEDIA_TYPE, is_form, read_form
from coordinator.edge.http.problems import Problem
from coordinator.edge.openai.answers import answer, job_header, openai_responses
from coordinator.edge.openai.audio.subtitles import Subtitle, as_srt, as_vtt
from coordinator.edge.openai.errors import NO_RETRY, TAG, bad_request
from coordinator.edge.openai.requests import Model, OpenAIRequest
from coordinator.edge.openai.runs import Done, Runner, RunnerOfRequest
from coordinator.services.speech_recognition.languages import language_code

SERVICE: Final = "speech_recognition"
WHISPER_1: Final = (
    *("large-v3", "large-v3-turbo", "turbo", "large-v2", "large", "large-v1"),
    *("distil-large-v3.5", "distil-large-v3", "distil-large-v2", "medium", "small", "base", "tiny"),
)
"""The models behind OpenAI's name `whisper-1`: the best of these that a live miner offers."""

NAMES: Final = {
    "audio_url": "file",
    "initial_prompt": "prompt",
    "word_timestamps": "timestamp_granularities",
}
"""The request's names of the payload's members."""

router = APIRouter(prefix="/audio", tags=[TAG])


class TranslationRequest(OpenAIRequest):
    """A request to translate speech into English. A form's texts get the types of the members."""

    model_config = ConfigDict(strict=False)

    HERE: ClassVar = frozenset({"model", "response_format"})

    file: Annotated[str, Field(json_schema_extra={"format": "binary"}, description="The recording.")]
    model: Model
    prompt: Annotated[str, Field(max_length=1000)] | None = None
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0

    @classmethod
    def read_form(cls, form: Mapping[str, list[str]]) -> Self:
        """The request in these parts of a form. Raises Problem."""
        fields: dict[str, Any] = {}
        for name, texts in form.items():
            if name.endswith("[]"):
                fields[name.removesuffix("[]")] = texts
            elif len(texts) > 1:
                raise bad_request(None, "a part was sent more than once")
            elif texts[0]:
                fields[name] = texts[0]
        return cls.read(fields)

    @classmethod
    def form_body(cls) -> dict[str, Any]:
        """The `openapi_extra` of an endpoint that takes this form."""
        return {
            "requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": cls.schema_of(nulls=False)}}}
        }

    @property
    def granularities(self) -> Collection[str]:
        """The parts that have their times."""
        return ("segment",)

    def job_payload(self, model: str, task: str) -> dict[str, Any]:
        """The job's payload."""
        sent: dict[str, Any] = {
            "audio_url": self.file,
            "model": model,
            "task": task,
            "temperature": self.temperature,
        }
        if self.prompt:
            sent["initial_prompt"] = self.prompt
        return sent


def _code(language: str) -> str:
    found = language_code(language)
    if found is None:
        raise ValueError("no language of Whisper's: give its code, such as de, or its English name")
    return found


class TranscriptionRequest(TranslationRequest):
    """A request to transcribe speech. As with OpenAI's Whisper, `stream` is ignored."""

    IGNORED: ClassVar = frozenset({"user", "stream"})
    ONLY: ClassVar = {
        "chunking_strategy": ("auto",),
        "include": ([],),
    }

    HERE: ClassVar = frozenset({"model", "response_format", "language"})

    language: Annotated[str, AfterValidator(_code)] | None = None
    """A code such as `de`, or an English name; regions, as in `pt-BR`, are left out."""
    timestamp_granularities: list[Literal["segment", "word"]] = Field(["segment"], min_length=1, max_length=2)
    """The parts of the text that `verbose_json` has with their times; `word` is for that format only."""

    @property
    def granularities(self) -> Collection[str]:
        return self.timestamp_granularities

    def job_payload(self, model: str, task: str) -> dict[str, Any]:
        """The job's payload."""
        sent = super().job_payload(model, task)
        if self.language is not None:
            sent["language"] = self.language
        if "word" in self.granularities:
            sent["word_timestamps"] = True
        return sent


class Transcription(BaseModel):
    """The text."""

    text: str


class SpokenSegment(BaseModel):
    """A segment of the recording, in seconds. Values that the engine does not give are 0."""

    id: int
    start: float
    end: float
    text: str
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    compression_ratio: float = 0.0
    seek: int = 0
    temperature: float
    tokens: list[int] = []


class SpokenWord(BaseModel):
    """A word of the recording, in seconds."""

    word: str
    start: float
    end: float


class VerboseTranscription(BaseModel):
    """The text with its segments, its words, or both, as they are asked for.

    `language` is a code such as `de`; `duration` is in seconds.
    """

    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    text: str
    segments: list[SpokenSegment] | None = None
    words: list[SpokenWord] | None = None


@router.post(
    "/transcriptions",
    response_model=Transcription | VerboseTranscription,
    summary="Transcribe speech",
    description="A form with the recording. `srt` and `vtt` are subtitles, `text` is the text alone.",
    responses=openai_responses("text/plain"),
    openapi_extra=TranscriptionRequest.form_body(),
)
async def create_transcription(request: Request, runner: RunnerOfRequest, principal: Client) -> Response:
    asked = TranscriptionRequest.read_form(await _form(request, runner, principal))
    return await _answer_speech(runner, asked, "transcribe")


@router.post(
    "/translations",
    response_model=Transcription | VerboseTranscription,
    summary="Translate speech into English",
    description="A form with the recording. `srt` and `vtt` are subtitles, `text` is the text alone.",
    responses=openai_responses("text/plain"),
    openapi_extra=TranslationRequest.form_body(),
)
async def create_translation(request: Request, runner: RunnerOfRequest, principal: Client) -> Response:
    asked = TranslationRequest.read_form(await _form(request, runner, principal))
    return await _answer_speech(runner, asked, "translate")


async def _form(request: Request, runner: Runner, principal: Client) -> dict[str, list[str]]:
    if not is_form(request):
        raise bad_request(None, f"the body must be {MEDIA_TYPE}")
    return await read_form(request, runner.context, principal, "file")


async def _answer_speech(
    runner: Runner, asked: TranslationRequest, task: Literal["transcribe", "translate"]
) -> Response:
    if not asked.file.startswith("blob:"):
        raise bad_request("file", "file: send the recording itself")
    if "word" in asked.granularities and asked.response_format != "verbose_json":
        detail = "timestamp_granularities: words come with response_format verbose_json"
        raise bad_request("timestamp_granularities", detail)
    model = await _model(runner, asked.model)
    runner.know(type(asked).model_fields, NAMES)
    done = await runner.run(SERVICE, model, asked.job_payload(model, task))
    match asked.response_format:
        case "json":
            return answer(Transcription(text=done.result["text"]), done.job_id)
        case "verbose_json":
            verbose = _verbose(done, asked, task)
            return answer(verbose.model_dump(exclude_none=True), done.job_id)
        case "text":
            text = done.result["text"] + "\n"
        case "srt":
            text = as_srt(subtitles_of(done))
        case "vtt":
            text = as_vtt(subtitles_of(done))
    return Response(text, headers=job_header(done.job_id), media_type="text/plain")


async def _model(runner: Runner, name: str) -> str:
    if name != "whisper-1":
        return name
    for model in WHISPER_1:
        try:
            await runner.check_model(SERVICE, model)
        except Problem:
            continue
        return model
    return name


def subtitles_of(done: Done) -> list[Subtitle]:
    """The segments; one subtitle over the whole length if the miner gave none. Raises Problem."""
    segments, text = done.result["segments"], done.result["text"].strip()
    if segments or not text:
        return [Subtitle(s["start"], s["end"], s["text"].strip()) for s in segments]
    length = done.result.get("duration_seconds", 0.0)
    if not length:
        raise _no_times("response_format", "the miner gave no times: ask for response_format json or text")
    return [Subtitle(0.0, length, text)]


def _words_of(done: Done) -> list[SpokenWord]:
    if "words" not in done.result:  # a miner of an older version
        raise _no_times("timestamp_granularities", "the miner gave no times of words: leave out word")
    return [SpokenWord(**word) for word in done.result["words"]]


def _no_times(param: str, detail: str) -> Problem:
    members = {"param": param, "openai_code": "no_timestamps"}
    return Problem(Code.INTERNAL, detail, headers=NO_RETRY, members=members)


def _verbose(
    done: Done, asked: TranslationRequest, task: Literal["transcribe", "translate"]
) -> VerboseTranscription:
    segments = [
        SpokenSegment(
            id=number,
            start=segment["start"],
            end=segment["end"],
            text=segment["text"],
            avg_logprob=segment.get("average_log_probability", 0.0),
            no_speech_prob=segment.get("no_speech_probability", 0.0),
            temperature=asked.temperature,
        )
        for number, segment in enumerate(done.result["segments"])
    ]
    return VerboseTranscription(
        task=task,
        language=done.result["language"],
        duration=done.result.get("duration_seconds", segments[-1].end if segments else 0.0),
        text=done.result["text"],
        segments=segments if "segment" in asked.granularities else None,
        words=_words_of(done) if "word" in asked.granularities else None,
    )
