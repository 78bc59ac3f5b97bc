"""The service `checksum`: digests of a short text or of files. The smallest real job."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from coordinator.miner.executors.base import (
    INVALID_PAYLOAD,
    ExecutorError,
    FileRef,
    Outcome,
    Work,
    refuse_payload,
)

Algorithm = Literal["sha256", "sha512", "blake2b"]
MAX_TEXT_CHARACTERS: Final = 65_536
MAX_INPUTS: Final = 100
_NEW: Final[dict[str, Callable[[bytes], Any]]] = {
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
    "blake2b": hashlib.blake2b,
}


class ChecksumPayload(BaseModel):
    """Either `text` (digested as UTF-8) or `inputs` (references to blobs, digested in order)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    algorithm: Algorithm = "sha256"
    text: str | None = Field(default=None, max_length=MAX_TEXT_CHARACTERS)
    inputs: (
        Annotated[
            list[FileRef],
            Field(min_length=1, max_length=MAX_INPUTS),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.text is None) == (self.inputs is None):
            raise ValueError("give either text or inputs")
        return self


class ChecksumExecutor:
    """Digests a text on the spot, and files in a thread. `max_input_bytes` bounds each file."""

    services = ("checksum",)
    instant = True
    """A text takes microseconds: its result claims the job too (files never do, see `slots`)."""

    def __init__(self, max_input_bytes: int = 5 * 2**30) -> None:
        self._max_input_bytes = max_input_bytes

    async def check(self) -> str | None:
        """Always ready."""
        return None

    async def run(self, work: Work) -> Outcome:
        """The result is `{algorithm, digests: [{input, digest, size}]}`; a text's input is "text".

        Raises ExecutorError: INVALID_PAYLOAD, and what downloading raises.
        """
        try:
            payload = ChecksumPayload.model_validate(work.payload)
        except ValidationError as error:
            refuse_payload(error)
        if payload.text is not None:
            digests = [_digest_text(payload.algorithm, payload.text)]
        else:
            digests = await self._digest_inputs(work, payload)
        return Outcome(
            {"algorithm": payload.algorithm, "digests": digests},
            {"bytes": sum(entry["size"] for entry in digests)},
        )

    async def _digest_inputs(self, work: Work, payload: ChecksumPayload) -> list[dict[str, Any]]:
        inputs = payload.inputs or []
        digests = []
        for number, ref in enumerate(inputs):
            # One at a time: a hundred large inputs need the room of one.
            path = work.folder / f"input-{number}"
            await work.blobs.download(ref, path, max_bytes=self._max_input_bytes)
            digest, size = await asyncio.to_thread(_digest_file, payload.algorithm, path)
            digests.append({"input": ref, "digest": digest, "size": size})
            work.progress((number + 1) / len(inputs), "digesting")
        return digests


def _digest_text(algorithm: str, text: str) -> dict[str, Any]:
    try:
        content = text.encode()
    except UnicodeEncodeError:
        raise ExecutorError(INVALID_PAYLOAD, "text: a lone surrogate; send well-formed Unicode") from None
    return {"input": "text", "digest": _NEW[algorithm](content).hexdigest(), "size": len(content)}


def _digest_file(algorithm: str, path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: _NEW[algorithm](b"")).hexdigest()
        size = file.tell()
    path.unlink()
    return digest, size
