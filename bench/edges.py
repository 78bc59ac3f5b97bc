"""`python -m bench.edges`: submits over HTTP with no, one and two edge processes, in turn.

It starts an embedded coordinator for each number of edge processes, and sends requests that are bytes made
before, over CONNECTIONS connections, so that the client costs little. Each round measures all of them, every
second one in the reverse order. The core's CPU time tells the most that one core can take; the time of all of
its processes tells the price.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.meter import TICKS, cpu_seconds
from bench.processes import Process, environment
from bench.systems import PROGRAM, wait_ready
from coordinator.dev.servers.processes import family, free_port

CONNECTIONS: Final = 64
EDGES: Final = (0, 1, 2)
US: Final = 1e6
SETTLE_SECONDS: Final = 1.0
"""For the followers to store what a round left to do."""
_BODY: Final = b'{"service":"checksum","payload":{"text":"hello"}}'


@dataclass(frozen=True, slots=True)
class _Served:
    port: int
    key: str
    pid: int

    @property
    def core(self) -> int:
        """The process that decides."""
        for pid in family([self.pid]):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"serve-process" in words and b"core" in words:
                return pid
        return self.pid


async def _submit(served: _Served, count: int) -> None:
    request = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: bench\r\nX-Api-Key: {served.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n\r\n"
    ).encode() + _BODY
    left = iter(range(count))

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        for _ in left:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 201"), head
            await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
        writer.close()

    await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))


async def _round(served: _Served, count: int) -> dict[str, float]:
    core = served.core
    own, all_of_them, begun = _own_seconds(core), cpu_seconds(served.pid), time.perf_counter()
    await _submit(served, count)
    seconds = time.perf_counter() - begun
    await asyncio.sleep(SETTLE_SECONDS)
    return {
        "submits_per_second": count / seconds,
        "core_us": (_own_seconds(core) - own) / count * US,
        "all_us": (cpu_seconds(served.pid) - all_of_them) / count * US,
    }


def _own_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(submits: int, rounds: int) -> dict[int, dict[str, float]]:
    """The medians, by the number of edge processes."""
    with ExitStack() as stack:
        served = {}
        for edges in EDGES:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coordinator-bench-")))
            port, key = free_port(), f"bench:{secrets.token_hex(16)}"
            given = environment(
                APP_PORT=str(port),
                DATA_DIR=str(folder / "data"),
                CLIENT_API_KEYS=key,
                EDGES=str(edges),
                LOG_LEVEL="warning",
            )
            process = stack.enter_context(Process(f"edges-{edges}", [*PROGRAM, "serve"], given, folder))
            wait_ready(f"http://127.0.0.1:{port}", process)
            served[edges] = _Served(port, key, process.pid)
        found: dict[int, list[dict[str, float]]] = {edges: [] for edges in EDGES}
        for number in range(rounds + 1):
            for edges in EDGES if number % 2 else reversed(EDGES):
                figures = asyncio.run(_round(served[edges], submits))
                if number:  # the first round warms up
                    found[edges].append(figures)
    return {
        edges: {
            name: round(statistics.median(each[name] for each in all_rounds), 1) for name in all_rounds[0]
        }
        for edges, all_rounds in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.edges", description=__doc__)
    parser.add_argument("--submits", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for edges, figures in measure(options.submits, options.rounds).items():
        print(json.dumps({"edges": edges, **figures}))


if __name__ == "__main__":
    main()
