"""The witnesses of the log: they are asked to co-sign each checkpoint, and never delay it.

Once a second at most, the newest checkpoint goes to every witness, with the proof that it grew from the one
that this witness signed last (C2SP tlog-witness). One that fails is asked again with growing pauses. Before
the first checkpoint of a process, each is asked what it signed last: a larger log is an alarm (`notary`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import httpx
import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.health import Part
from coordinator.application.ports import Database, LogError
from coordinator.application.proof.addresses import WitnessAddress
from coordinator.application.proof.notary import Signed
from coordinator.application.proof.proofs import NoProof, Proofs
from coordinator.crypto.log.checkpoint import SignedCheckpoint
from coordinator.crypto.log.note import BadNote, read_signatures
from coordinator.crypto.log.tiles import BadTile
from coordinator.wire.witnessing import PATH, AddCheckpoint, read_size

PACE_SECONDS = 1.0
ANSWER_SECONDS = 5.0
START_SECONDS = 3.0
"""For all witnesses together, before the first checkpoint."""
LONGEST_PAUSE_SECONDS = 60.0
MAX_ANSWER_BYTES = 16 * 1024
_PLAIN = {"Accept-Encoding": "identity"}

log = structlog.get_logger("witnesses")


class Larger(NamedTuple):
    """A witness has signed a larger log than this one."""

    witness: str
    size: int


class _Refused(Exception):
    """A witness did not sign; the text says why."""


_EXPECTED = (_Refused, BadNote, BadTile, NoProof, LogError, httpx.HTTPError, TimeoutError)


@dataclass
class _Asked:
    """What this process knows of one witness."""

    address: WitnessAddress
    size: int = 0
    """What it signed last."""
    pause: float = 0.0
    again_at: float = 0.0
    problem: str | None = None


@dataclass
class Witnesses:
    """A component; `note` is called with each checkpoint that this process stored."""

    addresses: Sequence[WitnessAddress]
    proofs: Proofs
    database: Database
    part: Part
    now: Callable[[], int]
    """Unix milliseconds."""
    monotonic: Callable[[], float] = time.monotonic
    larger: Larger | None = None
    """What a witness said at the start. Later such answers are warnings: nobody signs a conflict's number,
    and this process has signed the log itself."""
    _asked: list[_Asked] = field(default_factory=list)
    _newest: SignedCheckpoint | None = None
    _client: httpx.AsyncClient | None = None
    _task: BackgroundTask = field(default_factory=lambda: BackgroundTask("witnesses"))
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        """Ask each witness for the size that it signed last; within a few seconds, whatever they answer."""
        if not self.addresses or self._client is not None:
            return
        self._asked = [_Asked(address) for address in self.addresses]
        self._client = httpx.AsyncClient(timeout=ANSWER_SECONDS, follow_redirects=False)
        newest = await asyncio.to_thread(self._stored)
        if newest is not None:
            self._newest = newest
            try:
                async with asyncio.timeout(START_SECONDS):
                    await asyncio.gather(*(self._try(asked, newest) for asked in self._asked))
            except TimeoutError:
                log.warning("not all witnesses answered at the start")
            self._report()
        self._task.start(self._run)

    async def stop(self) -> None:
        await self._task.stop()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def note(self, signed: Signed) -> None:
        """A new checkpoint. On the event loop."""
        self._newest = signed.checkpoint
        self._woken.set()

    def signed_by(self) -> int:
        """How many witnesses have signed what they were asked for last."""
        return sum(a.problem is None and a.size > 0 for a in self._asked)

    async def _run(self) -> None:
        while True:
            pause = (
                min((a.again_at for a in self._asked if a.problem), default=float("inf")) - self.monotonic()
            )
            try:
                async with asyncio.timeout(None if pause == float("inf") else max(pause, 0.0)):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            newest = self._newest
            if newest is not None:
                due = [
                    a
                    for a in self._asked
                    if a.size < newest.checkpoint.size and a.again_at <= self.monotonic()
                ]
                await asyncio.gather(*(self._try(asked, newest) for asked in due))
                self._report()
            await asyncio.sleep(PACE_SECONDS)

    def _report(self) -> None:
        problems = [f"{a.address.key.name}: {a.problem}" for a in self._asked if a.problem]
        if not problems:
            self.part.works()
            return
        signed = len(self._asked) - len(problems)
        self.part.fails(f"{signed} of {len(self._asked)} witnesses sign checkpoints ({'; '.join(problems)})")

    async def _try(self, asked: _Asked, signed: SignedCheckpoint) -> None:
        """Ask one witness, and note the outcome; never raises."""
        try:
            await self._ask(asked, signed)
        except Exception as error:
            reason = str(error) if isinstance(error, _Refused) else type(error).__name__
            if not isinstance(error, _EXPECTED):
                log.exception("asking a witness failed", witness=asked.address.key.name)
            if asked.problem != reason:
                log.warning(
                    "a witness did not sign", witness=asked.address.key.name, reason=str(error) or reason
                )
            asked.problem = reason
            asked.pause = min(LONGEST_PAUSE_SECONDS, 2 * asked.pause or PACE_SECONDS)
            asked.again_at = self.monotonic() + asked.pause
        else:
            if asked.problem is not None:
                log.info("a witness signs again", witness=asked.address.key.name)
            asked.problem, asked.pause, asked.again_at = None, 0.0, 0.0

    async def _ask(self, asked: _Asked, signed: SignedCheckpoint) -> None:
        size = signed.checkpoint.size
        for _ in range(2):  # once more with the size that the witness names
            old = min(asked.size, size)
            path = await asyncio.to_thread(self.proofs.path, old, size)
            status, body = await self._post(asked.address, AddCheckpoint(old, path, signed).encode())
            if status == 200:
                await self._take(asked, signed, body)
                return
            known = read_size(body) if status == 409 else None
            if known is None:
                raise _Refused(f"answered {status}")
            if known > size:
                if not self._task.running:  # the start
                    self.larger = Larger(asked.address.key.name, known)
                raise _Refused(f"has signed a log of {known} events, and this one has {size}")
            if known == old:
                raise _Refused(f"has signed another root for {known} events: a split view")
            asked.size = known
        raise _Refused("answered 409 twice")

    async def _post(self, address: WitnessAddress, body: bytes) -> tuple[int, bytes]:
        assert self._client is not None
        request = self._client.stream("POST", address.url + PATH, content=body, headers=_PLAIN)
        # For the whole answer: one slow witness would delay the others.
        async with asyncio.timeout(ANSWER_SECONDS), request as response:
            answer = b""
            async for part in response.aiter_raw():
                answer += part
                if len(answer) > MAX_ANSWER_BYTES:
                    raise _Refused("answered too much")
            return response.status_code, answer

    async def _take(self, asked: _Asked, signed: SignedCheckpoint, body: bytes) -> None:
        try:
            lines = read_signatures(body.decode())
        except (BadNote, UnicodeDecodeError):
            raise _Refused("answered no signature line") from None
        found = signed.note.with_signatures(lines).signed_by([asked.address.key])
        if not found:
            raise _Refused("signed with another key than that in WITNESSES")
        row: dict[str, str | int] = {
            "origin": signed.checkpoint.origin,
            "size": signed.checkpoint.size,
            "witness": asked.address.key.name,
            "line": found[0][1].line,
            "at": self.now(),
        }
        await asyncio.to_thread(self._store, row)
        asked.size = signed.checkpoint.size

    def _store(self, row: dict[str, str | int]) -> None:
        with self.database.transaction() as tables:
            tables.put("cosignatures", [row])

    def _stored(self) -> SignedCheckpoint | None:
        """The newest checkpoint in the database; and the sizes that the witnesses have signed of it."""
        newest = self.proofs.newest()
        if newest is None:
            return None
        with self.database.transaction() as tables:
            rows = tables.query("proof_cosigned", origin=newest.checkpoint.origin)
        sizes = {row["witness"]: row["size"] for row in rows}
        for asked in self._asked:
            asked.size = sizes.get(asked.address.key.name, 0)
        return newest
