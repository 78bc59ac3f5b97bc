"""The decisions of a witness (C2SP tlog-witness): the checkpoints that it co-signs, and its answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import structlog

from coordinator.crypto.keys import SigningKey
from coordinator.crypto.log.checkpoint import is_split_view, verify_checkpoint
from coordinator.crypto.log.note import Algorithm, BadNote, VerifierKey, cosign
from coordinator.crypto.merkle import EMPTY_ROOT, verify_consistency
from coordinator.wire.witnessing import SIZE_TYPE, AddCheckpoint, BadRequest
from coordinator.witness.logs import Logs
from coordinator.witness.state import BadWitnessState, WitnessState

TEXT = "text/plain; charset=utf-8"

log = structlog.get_logger("witness")


class WitnessAnswer(NamedTuple):
    """The answer to a request."""

    status: int
    body: str
    media_type: str = TEXT


class Witness:
    """Co-signs checkpoints of known logs. Thread-safe."""

    def __init__(
        self,
        key: SigningKey,
        name: str,
        logs: Logs,
        state: WitnessState,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Raises BadNote for a bad name, or if a log has the witness's own key."""
        self.verifier_key = VerifierKey.of(key, name, Algorithm.COSIGNATURE)
        for keys in logs.values():
            if any(log_key.public == self.verifier_key.public for log_key in keys):
                raise BadNote("a witness needs a key of its own: it is the key of one of the logs")
        self._key = key
        self._name = name
        self._logs = logs
        self._state = state
        self._now = now

    def add_checkpoint(self, body: bytes) -> WitnessAnswer:
        """Check a request in the order of the specification, and answer it. Blocks."""
        try:
            request = AddCheckpoint.parse(body)
        except (BadRequest, BadNote) as error:
            return WitnessAnswer(400, f"{error}\n")
        checkpoint = request.signed.checkpoint
        keys = self._logs.get(checkpoint.origin)
        if keys is None:
            return WitnessAnswer(404, "this witness does not know the log\n")
        try:
            verify_checkpoint(request.signed, keys)
        except BadNote as error:
            return WitnessAnswer(403, f"{error}\n")
        if request.old_size > checkpoint.size:
            return WitnessAnswer(400, "the old size is larger than the checkpoint's\n")
        try:
            with self._state.turn(checkpoint.origin):
                return self._compare(request)
        except BadWitnessState as error:
            log.error("witness.state", reason=str(error))
            return WitnessAnswer(500, "the witness's own state can't be used; tell its operator\n")

    def _compare(self, request: AddCheckpoint) -> WitnessAnswer:
        new, last = request.signed.checkpoint, self._state.last(request.signed.checkpoint.origin)
        size, root = (0, EMPTY_ROOT) if last is None else (last.size, last.root)
        if request.old_size != size:
            return WitnessAnswer(409, f"{size}\n", SIZE_TYPE)
        if last is not None and is_split_view(last, new):
            # Both are signed by the log: together they prove that it showed two histories.
            log.error("witness.split_view", origin=new.origin, size=new.size, checkpoint=request.signed.text)
            return WitnessAnswer(409, f"{size}\n", SIZE_TYPE)
        if not verify_consistency(size, new.size, request.proof, root, new.root):
            log.error(
                "witness.inconsistent", origin=new.origin, size=new.size, checkpoint=request.signed.text
            )
            return WitnessAnswer(422, f"the tree of {new.size} does not begin with that of {size}\n")
        if last is None or new.size > last.size:
            self._state.store(new)
        line = cosign(self._key, self._name, request.signed.note.text, int(self._now())).line
        return WitnessAnswer(200, line)
