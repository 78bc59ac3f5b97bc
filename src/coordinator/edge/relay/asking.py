"""What an edge process asks of the core beside whole exchanges: questions and answers in arrays.

All questions of one turn of the event loop go in one frame, and so do the answers of one turn of the core.
The questions:

- `key`: the grants of an API key, as `[name, role, key id, generation]`; none for a key that must sign;
- `spend`: count a request of a role and name against its rate limit;
- `send`: decide commands of one sender, whose grant must still be valid.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.edge.relay.calling import CoreGone, connect
from coordinator.edge.relay.frames import BadFrame, Kind, arrays
from coordinator.edge.relay.link import Link

AGAIN_SECONDS: Final = 0.1
"""Between tries to reach the core."""
ANSWER_SECONDS: Final = 60.0

log = structlog.get_logger("edge")


class Asking:
    """The connection for questions, which is made anew when it is lost. Used on the event loop."""

    def __init__(self, address: Path) -> None:
        self._address = address
        self._link: Link | None = None
        self._numbers = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._asked: list[bytes] = []
        self._on_lost: list[Callable[[], None]] = []
        self._first = asyncio.Event()
        self._task = BackgroundTask("core-questions")

    async def reached(self) -> None:
        """Wait until the core has been reached for the first time."""
        await self._first.wait()

    @property
    def connected(self) -> bool:
        return self._link is not None and not self._link.lost

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call back whenever the connection is lost."""
        self._on_lost.append(callback)

    async def start(self) -> None:
        """Keep connected, from the first connection that succeeds. May be called twice."""
        self._task.start(self._keep_connected)

    async def stop(self) -> None:
        await self._task.stop()
        if self._link is not None:
            self._link.close()

    async def ask(self, name: str, *arguments: Any) -> Any:
        """The core's answer. `arguments`: JSON values, or JSON as bytes. Raises CoreGone."""
        link = self._link
        if link is None or link.lost:
            raise CoreGone
        self._numbers += 1
        number = self._numbers
        texts = [
            a if isinstance(a, bytes) else json.dumps(a, separators=(",", ":")).encode() for a in arguments
        ]
        if not self._asked:
            asyncio.get_running_loop().call_soon(self._flush, link)
        self._asked.append(b'[%d,"%b",%b]' % (number, name.encode(), b",".join(texts)))
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await link.drain()
                return await answer
        except TimeoutError:
            raise CoreGone from None
        finally:
            self._waiting.pop(number, None)

    def count(self, counts: Any) -> None:
        """Tell the core the counters of requests since the last time."""
        if self._link is not None:
            self._link.write(Kind.COUNTS, counts)

    def _flush(self, link: Link) -> None:
        asked, self._asked = self._asked, []
        for array in arrays(asked):
            link.write_json(Kind.ASK, array)

    async def _keep_connected(self) -> None:
        while True:
            try:
                self._link = link = await connect(self._address)
            except CoreGone:
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            link.write(Kind.HELLO)
            self._first.set()
            try:
                await self._take_answers(link)
            except BadFrame as error:
                log.warning("the local connection is cut", reason=str(error))
            finally:
                link.close()
                for callback in self._on_lost:
                    callback()
                waiting, self._waiting = self._waiting, {}
                for answer in waiting.values():
                    if not answer.done():
                        answer.set_exception(CoreGone())

    async def _take_answers(self, link: Link) -> None:
        while (frame := await link.take()) is not None:
            if frame.kind is not Kind.TELL:
                raise BadFrame("not an answer")
            for number, value in frame.json():
                answer = self._waiting.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(value)
