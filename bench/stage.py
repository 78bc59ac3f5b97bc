"""What is measured: a coordinator and a miner as processes, on a private broker and database."""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from coordinator.demo.processes import Children, bare_environment
from coordinator.servers import private_postgres, private_rabbitmq
from coordinator.servers.processes import free_port

START_SECONDS = 60.0


class Stage:
    """Standard mode with one miner for checksum jobs. fsync is on, queues are what the mode says."""

    def __init__(self, *, concurrency: int = 1000, work_queue_type: str = "classic") -> None:
        self._stack = ExitStack()
        self._concurrency = concurrency
        self._work_queue_type = work_queue_type
        self.client_key = f"bench:{secrets.token_hex(16)}"
        self._miner_key = f"miner:{secrets.token_hex(16)}"
        self.url = f"http://127.0.0.1:{free_port()}"

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="coordinator-bench-")))
        self.broker = enter(private_rabbitmq())
        self.postgres = enter(private_postgres())
        self.database_url = self.postgres.new_database()
        self.amqp_url = self.broker.new_vhost()
        children = enter(Children(bare_environment({}), folder))
        self.coordinator = children.start(
            "coordinator",
            "serve",
            APP_PORT=self.url.rpartition(":")[2],
            DATA_DIR=str(folder / "data"),
            DATABASE_URL=self.database_url,
            AMQP_URL=self.amqp_url,
            WORK_QUEUE_TYPE=self._work_queue_type,
            CLIENT_API_KEYS=self.client_key,
            MINER_API_KEYS=self._miner_key,
            LOG_LEVEL="warning",
        )
        self._wait(lambda health: health["ready"])
        self.miner = children.start(
            "miner",
            *("miner", "run", "--concurrency", str(self._concurrency)),
            *("--key-file", str(folder / "miner.key")),
            COORDINATOR_API_KEY=self._miner_key,
            COORDINATOR_URL=self.url,
            AMQP_URL=self.amqp_url,
            LOG_LEVEL="warning",
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def trees(self) -> dict[str, tuple[int, ...]]:
        """Process ids by what they belong to."""
        return {
            "coordinator": (self.coordinator.pid,),
            "miner": (self.miner.pid,),
            "client": (os.getpid(),),
            "rabbitmq": (self.broker.main_pid,),
            "postgres": (self.postgres.main_pid,),
        }

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def _wait(self, ready: Any) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if ready(self.health()):
                    return
            except OSError:
                pass
            time.sleep(0.05)
        print(self.coordinator.log.read_text()[-3000:], file=sys.stderr)
        raise SystemExit("bench: the coordinator did not start")
