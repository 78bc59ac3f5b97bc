"""`python -m bench.sockets`: the memory that idle WebSockets cost the coordinator.

It starts an embedded coordinator (`coordinator serve`) and opens connections to `/ws/client`, each
authenticated and subscribed to all jobs of its key. It compares the process's resident memory before and
after. The first hundred sockets are opened before, so that code loaded once does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from websockets.asyncio.client import ClientConnection, connect

from coordinator.dev.demo.processes import bare_environment
from coordinator.dev.servers.processes import free_port

MIB = 2**20
WARM_UP = 100
START_SECONDS = 60.0
CONNECTING = 50
KEY = "bench:secret-of-bench"


@dataclass(frozen=True)
class Cost:
    sockets: int
    before_bytes: int
    growth_bytes: int
    """Resident memory with all sockets open, minus `before_bytes`."""
    seconds: float
    """The time until all were open and subscribed."""


def measure(sockets: int, folder: Path) -> Cost:
    """Start a coordinator in `folder`, open the sockets, and measure."""
    with _coordinator(folder) as (process, port):
        return asyncio.run(_measure(sockets, process, port))


async def _measure(sockets: int, process: psutil.Process, port: int) -> Cost:
    async with contextlib.AsyncExitStack() as stack:
        await _open(stack, WARM_UP, port)
        before = process.memory_info().rss
        began = time.monotonic()
        await _open(stack, sockets, port)
        took = time.monotonic() - began
        return Cost(sockets, before, process.memory_info().rss - before, took)


async def _open(stack: contextlib.AsyncExitStack, count: int, port: int) -> None:
    limit = asyncio.Semaphore(CONNECTING)

    async def one() -> ClientConnection:
        async with limit:
            connection = await connect(
                f"ws://127.0.0.1:{port}/ws/client",
                additional_headers={"X-Api-Key": KEY},
                compression=None,
                ping_interval=None,
                open_timeout=60,
            )
            await connection.send(json.dumps({"type": "subscribe", "jobs": "all"}))
            while json.loads(await connection.recv())["type"] != "subscribed":
                pass
            return connection

    for connection in await asyncio.gather(*(one() for _ in range(count))):
        stack.push_async_callback(connection.close)


@contextlib.contextmanager
def _coordinator(folder: Path) -> Iterator[tuple[psutil.Process, int]]:
    port = free_port()
    settings = {
        "APP_PORT": str(port),
        "DATA_DIR": str(folder),
        "CLIENT_API_KEYS": KEY,
        "MAX_CONNECTIONS": "20000",
        "MAX_CONNECTIONS_PER_ADDRESS": "0",
        "MAX_CONNECTIONS_PER_KEY": "0",
        "MAX_STREAMS": "0",
        "MAX_STREAMS_PER_KEY": "0",
        "LOG_LEVEL": "warning",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "coordinator", "serve"], env=bare_environment(settings), cwd=folder
    )
    try:
        until = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the coordinator does not answer")
            time.sleep(0.05)
        yield psutil.Process(process.pid), port
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sockets", description=__doc__)
    parser.add_argument("--sockets", type=int, default=1000)
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * options.sockets)), hard))
    with tempfile.TemporaryDirectory() as folder:
        cost = measure(options.sockets, Path(folder))
    print(json.dumps(asdict(cost)))
    each = cost.growth_bytes / options.sockets / 1024
    print(
        f"{cost.growth_bytes / MIB:.1f} MiB for {cost.sockets} sockets: {each:.1f} KiB each", file=sys.stderr
    )


if __name__ == "__main__":
    main()
