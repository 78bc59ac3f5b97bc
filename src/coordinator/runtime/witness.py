"""The process `coordinator witness`: a small HTTP server that co-signs the checkpoints of other logs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from coordinator.crypto.keys import SigningKey
from coordinator.crypto.log.note import VerifierKey
from coordinator.runtime.process.event_loop import run_loop
from coordinator.runtime.process.ports import listen
from coordinator.storage.connections.data_directory import DataDirectory
from coordinator.witness.app import WitnessApp
from coordinator.witness.logs import Logs
from coordinator.witness.state import WitnessState
from coordinator.witness.witness import Witness

KEY_FILE = "witness.key"
STATE_FOLDER = "logs"
MAX_CONNECTIONS = 256
STOP_SECONDS = 2


@dataclass(frozen=True, slots=True)
class WitnessSettings:
    """What a witness needs."""

    name: str
    """Of its key, such as `witness.example.com/w1`."""
    logs: Logs
    folder: Path
    """With its key and its state; of this process alone."""
    host: str
    port: int
    """0 picks a free one."""


def run(settings: WitnessSettings, on_ready: Callable[[VerifierKey, int], None]) -> None:
    """Answer until SIGTERM or SIGINT. `on_ready(verifier key, port)`.

    Raises OSError (the port is taken), DataDirectoryInUse, NotPrivate, KeyFileError, BadNote.
    """
    run_loop(_serve(settings, on_ready))


async def _serve(settings: WitnessSettings, on_ready: Callable[[VerifierKey, int], None]) -> None:
    with DataDirectory(settings.folder), contextlib.closing(listen(settings.host, settings.port)) as listener:
        key = SigningKey.load_or_create(settings.folder / KEY_FILE)
        witness = Witness(key, settings.name, settings.logs, WitnessState(settings.folder / STATE_FOLDER))
        server = _Server(
            uvicorn.Config(
                WitnessApp(witness),
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )

        def stop() -> None:
            server.should_exit = True

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        server.on_started = lambda: on_ready(witness.verifier_key, listener.getsockname()[1])
        try:
            await server.serve(sockets=[listener])
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


class _Server(uvicorn.Server):
    on_started: Callable[[], None]

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            self.on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
