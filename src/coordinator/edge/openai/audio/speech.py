"""Speech: a text, read aloud."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from fastapi import APIRouter
from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.crypto.refs import parse_blob_ref
from coordinator.edge.http.bodies import read_object
from coordinator.edge.http.reads.stored_payloads import Pieces, begun
from coordinator.edge.openai.answers import job_header, openai_responses
from coordinator.edge.openai.errors import TAG
from coordinator.edge.openai.requests import Model, OpenAIRequest
from coordinator.edge.openai.runs import RunnerOfRequest
from coordinator.services.text_to_speech import (
    MAX_CHARACTERS,
    MAX_INSTRUCTIONS,
    MEDIA_TYPES,
    VOICE_PATTERN,
    AudioFormat,
)

SERVICE: Final = "text_to_speech"

router = APIRouter(prefix="/audio/speech", tags=[TAG])


def _name(voice: Any) -> Any:
    """The name of a voice, also from OpenAI's object for a custom one."""
    return voice["id"] if isinstance(voice, dict) and voice.keys() == {"id"} else voice


class SpeechRequest(OpenAIRequest):
    """A request to read a text aloud."""

    HERE: ClassVar = frozenset({"model"})
    ONLY: ClassVar = {"stream_format": ("audio",)}

    model: Model
    input: Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
    voice: Annotated[str, Field(pattern=VOICE_PATTERN), BeforeValidator(_name)]
    instructions: Annotated[str, Field(max_length=MAX_INSTRUCTIONS)] | None = None
    response_format: AudioFormat = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4)] = 1.0

    def job_payload(self) -> dict[str, Any]:
        """The job's payload."""
        sent = {
            "model": self.model,
            "text": self.input,
            "voice": self.voice,
            "format": self.response_format,
            "speed": self.speed,
        }
        return {**sent, "instructions": self.instructions} if self.instructions else sent


@router.post(
    "",
    response_class=Response,
    summary="Read a text aloud",
    description="The answer is the sound file. It is also a blob of the job, and can be fetched again.",
    responses=openai_responses(*MEDIA_TYPES.values()),
    openapi_extra=SpeechRequest.body(model="kokoro", input="The render is done.", voice="af_heart"),
)
async def create_speech(request: Request, runner: RunnerOfRequest) -> Response:
    asked = SpeechRequest.read(await read_object(request, runner.context.limits))
    runner.know(type(asked).model_fields, {"text": "input", "format": "response_format"})
    done = await runner.run(SERVICE, asked.model, asked.job_payload())
    [file] = done.result["outputs"]
    pieces = await begun(runner.context.blobs.get(parse_blob_ref(file["blob"])))
    headers = {**job_header(done.job_id), "Content-Length": str(file["size"])}
    return Pieces(pieces, headers=headers, media_type=MEDIA_TYPES[asked.response_format])
