"""The parent of the core and of the edge processes: it holds the port, and starts again what ended.

It has no part in any request. Each edge process listens at the port with a socket of its own (SO_REUSEPORT):
the kernel spreads new connections evenly over those that listen, and none goes to one that has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from coordinator.runtime.process import parent_watch
from coordinator.runtime.process.ports import listen
from coordinator.runtime.process.tls import certificate_of
from coordinator.runtime.settings import BadSettings, Settings

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
STEADY_SECONDS: Final = 30.0
"""A process that ran so long is started again at once."""
GRACE_SECONDS: Final = 40.0
"""For a process to stop in order: the requests under way (10 s), and the parts after them."""
SOCKET_NAME: Final = "core.sock"

log = structlog.get_logger("edges")


class ProcessFailed(Exception):
    """A process ended before the first start was complete; it has said why."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a process ended with {code}")
        self.code = code


class _Child:
    """The core, or an edge process; one process at a time."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._begun = 0.0

    async def start(self) -> dict[str, Any]:
        """Start it; returns its message once it works. Raises ProcessFailed."""
        reading, writing = os.pipe()
        self._begun = asyncio.get_running_loop().time()
        with os.fdopen(reading, "rb", buffering=0) as told:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    *("--ready", str(writing)),
                    stdin=asyncio.subprocess.PIPE,  # its end tells the process that we are gone
                    pass_fds=(writing,),
                    env={**os.environ, parent_watch.VARIABLE: "1"},
                )
            finally:
                os.close(writing)
            message = await _read_all(told)
        if not message:
            raise ProcessFailed(await self._process.wait())
        log.info("process started", process=self.name, pid=self._process.pid)
        answer: dict[str, Any] = json.loads(message)
        return answer

    async def keep(self) -> None:
        """Start it again, whenever it ends."""
        while True:
            assert self._process is not None
            code = await self._process.wait()
            now = asyncio.get_running_loop().time()
            if now - self._begun > STEADY_SECONDS:
                self._pause = FIRST_PAUSE_SECONDS
            log.warning("process ended", process=self.name, code=code, again_in=self._pause)
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            with contextlib.suppress(ProcessFailed):
                await self.start()

    async def stop(self) -> None:
        """End it, in order if it can. May be called twice, or without a start."""
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            log.error("process did not stop and is killed", process=self.name)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def run_parent(
    settings: Settings, command: Sequence[str], on_ready: Callable[[dict[str, Any], int], None]
) -> signal.Signals:
    """Run the core and the edge processes until SIGTERM or SIGINT; returns which of the two it was.

    `command` begins the command line of both. `on_ready` gets the core's message and the port.
    Raises OSError (the port is taken), BadSettings, ProcessFailed.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise BadSettings(
            "EDGES: this system can't share a port between processes; use Linux, or set it to 0"
        )
    certificate_of(settings)  # an error before anything is opened
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    stopped_by = signal.SIGTERM

    def stop(number: signal.Signals) -> None:
        nonlocal stopped_by
        stopped_by = number
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    held = hold_port(settings.app_host, settings.app_port)
    port = held.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="coordinator-"))  # for our account alone
    address = ("--socket", str(folder / SOCKET_NAME))
    core = _Child("core", [*command, "core", *address])
    edges = [
        _Child(f"edge-{number}", [*command, "edge", *address, "--port", str(port)])
        for number in range(1, settings.edges + 1)
    ]
    try:
        await _until(stopping, _run(core, edges, lambda about: on_ready(about, port)))
    finally:
        await asyncio.gather(*(child.stop() for child in (core, *edges)))
        held.close()
        shutil.rmtree(folder, ignore_errors=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    return stopped_by


def hold_port(host: str, port: int) -> socket.socket:
    """A socket that keeps the port ours while none of the edge processes listens, and takes no connections.

    The system gives such a port to nobody who asks for any. Raises OSError.
    """
    # Alone first: another coordinator that shares its port, too, would else get some of our connections.
    alone = listen(host, port)
    held = socket.socket(alone.family, socket.SOCK_STREAM)
    address = alone.getsockname()
    alone.close()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        held.bind(address)
    except OSError:
        held.close()
        raise
    return held


async def _run(core: _Child, edges: Sequence[_Child], on_ready: Callable[[dict[str, Any]], None]) -> None:
    # All at once, as imports take longest; an edge process takes connections once it has reached the core.
    about, *_ = await asyncio.gather(core.start(), *(edge.start() for edge in edges))
    on_ready(about)
    async with asyncio.TaskGroup() as keeping:
        for child in (core, *edges):
            keeping.create_task(child.keep())


async def _until(stopping: asyncio.Event, work: Any) -> None:
    """Run until the event is set, or the work fails."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        if not working.done():
            working.cancel()
        ended = (await asyncio.gather(working, return_exceptions=True))[0]
    if not stopping.is_set() and isinstance(ended, Exception):
        raise ended


async def _read_all(told: Any) -> bytes:
    """All that comes from a pipe, up to its end."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), told)
    try:
        return await reader.read()
    finally:
        transport.close()
