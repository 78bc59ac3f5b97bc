"""whisper.cpp behind OpenAI's two addresses for speech: `python -m tests.harness.whisper_server '<json>'`.

`{"model": path, "port"}`. The engine is the real one, from pywhispercpp, which has no server of its own. It
takes what Whisper takes and nothing else: 16 kHz mono samples of 16 bits.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import wave
from pathlib import Path
from typing import Annotated, Any, Literal

import _pywhispercpp as whisper
import numpy as np
import uvicorn
from fastapi import FastAPI, Form, HTTPException, UploadFile
from pywhispercpp.model import Model

from coordinator.runtime.process.parent_watch import stop_with_parent

LONGEST_SEGMENT_TOKENS = 20
"""A model of random weights knows no end."""


class Listener:
    """One model, which listens to one recording at a time."""

    def __init__(self, path: Path) -> None:
        self._model = Model(str(path), n_threads=1, print_progress=False)
        self._lock = threading.Lock()

    def listen(self, samples: np.ndarray, **params: Any) -> dict[str, Any]:
        """What OpenAI calls verbose JSON. All `params` are given each time: the model keeps the last."""
        with self._lock:
            heard = self._model.transcribe(samples, extract_probability=True, token_timestamps=True, **params)
            context = vars(self._model)["_ctx"]
            language = whisper.whisper_lang_str(whisper.whisper_full_lang_id(context))
            words = [_words(context, number) for number in range(len(heard))]
        segments = [
            {
                "id": number,
                "start": segment.t0 / 100,
                "end": segment.t1 / 100,
                "text": f" {segment.text}",
                "avg_logprob": math.log(segment.probability),
                "words": words[number],
            }
            for number, segment in enumerate(heard)
        ]
        return {
            "language": language,
            "duration": len(samples) / whisper.WHISPER_SAMPLE_RATE,
            "text": "".join(f" {segment.text}" for segment in heard),
            "segments": segments,
        }


def _words(context: Any, segment: int) -> list[dict[str, Any]]:
    """The segment's tokens, which whisper.cpp's own server calls words."""
    words = []
    for place in range(whisper.whisper_full_n_tokens(context, segment)):
        token = whisper.whisper_full_get_token_data(context, segment, place)
        if token.id < whisper.whisper_token_eot(context):
            word = whisper.whisper_full_get_token_text(context, segment, place)
            words.append({"word": word, "start": token.t0 / 100, "end": token.t1 / 100, "t_dtw": token.t_dtw})
    return words


def make_app(path: Path) -> FastAPI:
    listener = Listener(path)
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": path.name, "object": "model"}]}

    @app.post("/v1/audio/{task}")
    def audio(
        task: Literal["transcriptions", "translations"],
        file: UploadFile,
        model: Annotated[str, Form()],
        response_format: Annotated[Literal["verbose_json"], Form()],
        temperature: Annotated[float, Form()] = 0.0,
        prompt: Annotated[str, Form()] = "",
        language: Annotated[str, Form()] = "",
        best_of: Annotated[int, Form()] = 5,
    ) -> dict[str, Any]:
        if model != path.name:
            raise HTTPException(404, f"no model {model}")
        if language and whisper.whisper_lang_id(language) < 0:
            raise HTTPException(400, f"no language {language}")
        return listener.listen(
            samples_of(file),
            translate=task == "translations",
            language=language,
            initial_prompt=prompt,
            temperature=temperature,
            temperature_inc=0.0,  # no second try where it is not sure of itself: it never is
            # No beam search: it throws dice at temperature 0, too.
            greedy={"best_of": best_of},
            max_tokens=LONGEST_SEGMENT_TOKENS,
        )

    return app


def samples_of(file: UploadFile) -> np.ndarray:
    try:
        with wave.open(file.file, "rb") as reader:
            found = (reader.getframerate(), reader.getnchannels(), reader.getsampwidth())
            frames = reader.readframes(reader.getnframes())
    except (wave.Error, EOFError) as error:
        raise HTTPException(400, f"no WAV file: {error}") from None
    if found != (whisper.WHISPER_SAMPLE_RATE, 1, 2):
        raise HTTPException(400, f"rate, channels and bytes are {found}")
    return np.frombuffer(frames, dtype=np.int16).astype(np.float32) / 32768


def main() -> None:
    stop_with_parent()
    given = json.loads(sys.argv[1])
    uvicorn.run(make_app(Path(given["model"])), host="127.0.0.1", port=given["port"], log_level="warning")


if __name__ == "__main__":
    main()
