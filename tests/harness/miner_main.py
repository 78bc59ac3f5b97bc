"""A miner process with the executors of the tests: `python -m tests.harness.miner_main '<json>'`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from coordinator.miner.amqp import AmqpTransport
from coordinator.miner.config import Hardware, MinerConfig
from coordinator.miner.executors import load_executors
from coordinator.miner.executors.base import Executor
from coordinator.miner.http import HttpTransport
from coordinator.miner.program import MinerProgram
from coordinator.miner.transport import Transport
from coordinator.runtime.process.logs import configure_logs
from coordinator.runtime.process.parent_watch import stop_with_parent
from coordinator.telemetry import export
from coordinator.wire.backoff import Backoff
from tests.harness.executor import MANNERS
from tests.harness.studio import studio

QUICK = Backoff(first_seconds=0.05, longest_seconds=0.5)
ANSWER_SECONDS = 1.0


async def mine(given: dict[str, Any]) -> int:
    transport: Transport
    if given["transport"] == "amqp":
        transport = AmqpTransport(
            given["amqp_url"], given["key"], answer_timeout_seconds=ANSWER_SECONDS, backoff=QUICK
        )
    else:
        transport = HttpTransport(given["url"], given["key"], backoff=QUICK)
    config = MinerConfig(
        key=given["key"],
        concurrency=given["concurrency"],
        coordinator_url=given["url"],
        key_file=Path(given["key_file"]),
        hardware=Hardware(),
        region=given["region"],
        grace_seconds=given["grace_seconds"],
    )
    # A miner of bad manners declares less than others, so that work would come to it first.
    bad = given["manner"] != "works"
    executors: dict[str, Executor] = {} if bad else {"checksum": load_executors()["checksum"]}
    rehearsal = MANNERS[given["manner"]](Path(given["notes"]), config.miner_id)
    executors |= dict.fromkeys(rehearsal.services, rehearsal)
    if given["studio"]:
        executors |= studio(Path(given["notes"]))
    return await MinerProgram(config, transport, executors).run()


if __name__ == "__main__":
    stop_with_parent()
    configure_logs("console", "info")
    about = json.loads(sys.argv[1])
    stop_telemetry = export.start("coordinator-miner", about["key"].partition(":")[0])
    code = asyncio.run(mine(about))
    stop_telemetry()
    sys.exit(code)
