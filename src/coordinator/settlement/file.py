"""The sink `file`: one file for each batch, which people or a bank's program carry out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from coordinator.application.ports import (
    Final,
    Gone,
    PollAnswer,
    PreparedPayment,
    SinkBatch,
    SinkHistory,
    SubmitAnswer,
    Submitted,
    Unknown,
)
from coordinator.private_files import FILE_MODE, make_folder, sync_folder
from coordinator.settlement.document import as_csv, as_json

FileFormat = Literal["json", "csv"]
MAX_FILE_BYTES = 2**20


class FileSink:
    """A `SettlementSink`. The name of a file is the batch's number, so that a batch has one file at most.

    A file with other bytes under that name is never overwritten, and its batch stays in transit: somebody may
    have paid by it. The batch goes on once the file is moved away, or an admin confirms or refuses it.
    """

    name = "file"
    needs_address = False
    quantum = 1

    def __init__(self, folder: Path, form: FileFormat = "json", unit: str = "credits") -> None:
        self._folder = folder
        self._form: FileFormat = form
        self._unit = unit

    def address_fault(self, address: str) -> str | None:
        return None  # the file's readers know what they can pay

    async def check(self) -> str | None:
        try:
            await asyncio.to_thread(make_folder, self._folder)
        except OSError as error:
            return f"the folder {self._folder.name} can't be made: {error.strerror}"
        if not os.access(self._folder, os.W_OK | os.X_OK):
            return f"the folder {self._folder.name} can't be written: change its owner or mode"
        return None

    async def prepare(self, batch: SinkBatch, history: SinkHistory) -> PreparedPayment:
        body = as_json(batch, self._unit) if self._form == "json" else as_csv(batch, self._unit)
        digest = hashlib.sha256(body).hexdigest()
        return PreparedPayment(body, digest, nonce=batch.number, covers=len(batch.left))

    async def submit(self, payment: PreparedPayment) -> SubmitAnswer:
        return await asyncio.to_thread(self._write, payment)

    async def poll(self, payment: PreparedPayment) -> PollAnswer:
        return await asyncio.to_thread(self._look, payment)

    async def replacement(
        self, payments: Sequence[PreparedPayment], pending_seconds: float
    ) -> PreparedPayment | None:
        return None

    async def close(self) -> None:
        return None

    def path_of(self, payment: PreparedPayment) -> Path:
        """The file of a batch."""
        form = "json" if payment.body.startswith(b"{") else "csv"
        return self._folder / f"settlement-{payment.nonce:06}.{form}"

    def _look(self, payment: PreparedPayment) -> PollAnswer:
        path = self.path_of(payment)
        try:
            with path.open("rb") as file:
                found = file.read(MAX_FILE_BYTES)
        except FileNotFoundError:
            return Gone()
        except OSError as error:
            return Unknown(f"{path.name} can't be read: {error.strerror}")
        if found != payment.body:
            return Unknown(f"{path.name} is there with other bytes: move it away, and see who wrote it")
        return Final()

    def _write(self, payment: PreparedPayment) -> SubmitAnswer:
        found = self._look(payment)
        if isinstance(found, Unknown):
            return found
        if isinstance(found, Final):
            return Submitted()
        path = self.path_of(payment)
        new = self._folder / f".{path.name}.{os.getpid()}.new"
        try:
            make_folder(self._folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(new, flags, FILE_MODE), "wb") as file:
                file.write(payment.body)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(new, path)  # unlike a rename it overwrites nothing
            finally:
                with contextlib.suppress(FileNotFoundError):
                    new.unlink()
            sync_folder(self._folder)
        except FileExistsError:
            return self._write(payment) if path.exists() else Unknown(f"{path.name} came and went")
        except OSError as error:
            return Unknown(f"{path.name} can't be written: {error.strerror}")
        return Submitted()
