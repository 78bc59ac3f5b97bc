"""The service `checksum`: digests of a short text or of files. The smallest real job."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from coordinator.miner.executors.base import Outcome, Work, payload_of
from coordinator.miner.executors.errors import INVALID_PAYLOAD, ExecutorError
from coordinator.services.checksum import SERVICE, Checksum, ChecksumPayload, Checksums

_NEW: Final[dict[str, Callable[[bytes], Any]]] = {
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
    "blake2b": hashlib.blake2b,
}


class ChecksumExecutor:
    """Digests a text at once, and files in a thread. `max_input_bytes` bounds each file."""

    services = (SERVICE.id,)
    instant = True
    """A text takes microseconds, so its result also claims the job (files never do, see `slots`)."""

    def __init__(self, max_input_bytes: int = 5 * 2**30) -> None:
        self._max_input_bytes = max_input_bytes

    async def check(self) -> str | None:
        """Always ready."""
        return None

    async def run(self, work: Work) -> Outcome:
        """The result is Checksums. Raises ExecutorError: INVALID_PAYLOAD, and the errors of downloads."""
        payload = payload_of(SERVICE, work)
        if payload.text is not None:
            digests = [_digest_text(payload.algorithm, payload.text)]
        else:
            digests = await self._digest_inputs(work, payload)
        result = Checksums(algorithm=payload.algorithm, digests=digests)
        return Outcome(result.document(), {"bytes": sum(one.size for one in digests)})

    async def _digest_inputs(self, work: Work, payload: ChecksumPayload) -> list[Checksum]:
        inputs = payload.inputs or []
        digests = []
        for number, ref in enumerate(inputs):
            # One at a time: a hundred large inputs need the disk space of one.
            path = work.folder / f"input-{number}"
            await work.blobs.download(ref, path, max_bytes=self._max_input_bytes)
            digest, size = await asyncio.to_thread(_digest_file, payload.algorithm, path)
            digests.append(Checksum(input=ref, digest=digest, size=size))
            work.progress((number + 1) / len(inputs), "digesting")
        return digests


def _digest_text(algorithm: str, text: str) -> Checksum:
    try:
        content = text.encode()
    except UnicodeEncodeError:
        raise ExecutorError(INVALID_PAYLOAD, "text: a lone surrogate; send well-formed Unicode") from None
    return Checksum(input="text", digest=_NEW[algorithm](content).hexdigest(), size=len(content))


def _digest_file(algorithm: str, path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: _NEW[algorithm](b"")).hexdigest()
        size = file.tell()
    path.unlink()
    return digest, size
