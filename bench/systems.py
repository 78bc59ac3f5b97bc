"""The compared systems: how each is started, its servers, and its settings."""

from __future__ import annotations

import json
import secrets
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.processes import ClientProcess, Failed, Process, environment
from bench.servers import Endpoints
from coordinator.dev.servers.processes import free_port

FOLDER = Path(__file__).parent
PEERS = FOLDER / "peers"
PEER_BIN = FOLDER / ".venv" / "bin"
START_SECONDS = 60.0
SLOTS = 1000
PRICE = "0.5"
"""Of a second, of jobs that last some milliseconds."""
FEE_BPS = 250
ADMIN_KEY = f"bench-admin:{secrets.token_hex(16)}"
PROGRAM = (sys.executable, "-m", "coordinator")


@dataclass(frozen=True)
class Running:
    """A running system: its client, and its other processes."""

    client: ClientProcess
    processes: dict[str, Process]

    @property
    def trees(self) -> dict[str, int]:
        return {name: p.pid for name, p in (*self.processes.items(), ("client", self.client))}


class System(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def durable(self) -> bool:
        """Whether a result that was read survives a power cut."""

    @property
    def servers(self) -> tuple[str, ...]:
        """The servers that it uses (of rabbitmq, postgres and redis); their cost counts for it."""

    @property
    def settings(self) -> str:
        """The configuration, as a text for the report."""

    def run(self, endpoints: Endpoints, folder: Path) -> AbstractContextManager[Running]:
        """Start it, and connect its client."""


@dataclass(frozen=True)
class Peer:
    """A task queue in the benchmark's own environment: one worker process, one client process."""

    name: str
    durable: bool
    servers: tuple[str, ...]
    settings: str
    module: str
    worker: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def run(self, endpoints: Endpoints, folder: Path) -> Iterator[Running]:
        env = environment(
            BENCH_AMQP_URL=endpoints.amqp_url,
            BENCH_DATABASE_URL=endpoints.database_url,
            BENCH_REDIS_URL=endpoints.redis_url,
            PYTHONPATH=str(PEERS),
            **self.variables,
        )
        with ExitStack() as stack:
            # The client first: in some systems it makes the tables.
            client = stack.enter_context(
                ClientProcess(PEER_BIN / "python", PEERS / f"{self.module}.py", env, folder)
            )
            command = [str(PEER_BIN / self.worker[0]), *self.worker[1:]]
            worker = stack.enter_context(Process("worker", command, env, folder))
            yield Running(client, {"worker": worker})


@dataclass(frozen=True)
class Ours:
    """The coordinator in standard mode with one miner."""

    name: str = "ours"
    work_queues: str = "classic"
    accounts: bool = False
    """Whether it keeps accounts: each job is held, and counts as done once it is paid."""
    lasting: bool = False
    """Whether each job lasts some milliseconds, so that it has a price."""
    durable: bool = True
    servers: tuple[str, ...] = ("rabbitmq", "postgres")

    @property
    def settings(self) -> str:
        return (
            f"commands on a quorum queue, work queues {self.work_queues}; every event committed with "
            f"synchronous_commit before the answer; one miner with {SLOTS} slots; the SDK over AMQP"
            + (f"; SETTLEMENT=on, a fee of {FEE_BPS / 100:g} %" if self.accounts else "")
        )

    @contextmanager
    def run(self, endpoints: Endpoints, folder: Path) -> Iterator[Running]:
        with ExitStack() as stack:
            enter = stack.enter_context
            coordinator, url, client_key, miner_key = start_coordinator(self, endpoints, folder)
            enter(coordinator)
            wait_ready(url, coordinator)
            if self.accounts:
                deposit(url)
            mine = environment(
                COORDINATOR_API_KEY=miner_key,
                COORDINATOR_URL=url,
                AMQP_URL=endpoints.amqp_url,
                LOG_LEVEL="warning",
            )
            work = ["miner", "run", "--concurrency", str(SLOTS), "--key-file", str(folder / "miner.key")]
            program = PROGRAM
            if self.lasting:
                program, mine["PYTHONPATH"] = (
                    (sys.executable, "-m", "bench.lasting_miner"),
                    str(FOLDER.parent),
                )
                work += ["--price", PRICE]
            miner = enter(Process("miner", [*program, *work], mine, folder))
            ask = environment(
                BENCH_URL=url,
                BENCH_API_KEY=client_key,
                BENCH_AMQP_URL=endpoints.amqp_url,
                BENCH_DATABASE_URL=endpoints.database_url,
                BENCH_MAX_PRICE=PRICE if self.lasting else "",
                BENCH_UNTIL_PAID="1" if self.accounts else "",
            )
            client = enter(ClientProcess(Path(sys.executable), FOLDER / "ours_client.py", ask, folder))
            yield Running(client, {"coordinator": coordinator, "miner": miner})


def start_coordinator(ours: Ours, endpoints: Endpoints, folder: Path) -> tuple[Process, str, str, str]:
    """The process, which is not ready yet; its URL, and the keys of a client and a miner."""
    url = f"http://127.0.0.1:{free_port()}"
    client_key, miner_key = (f"{name}:{secrets.token_hex(16)}" for name in ("bench", "bench-miner"))
    serve = environment(
        APP_PORT=url.rpartition(":")[2],
        DATA_DIR=str(folder / "data"),
        DATABASE_URL=endpoints.database_url,
        AMQP_URL=endpoints.amqp_url,
        WORK_QUEUE_TYPE=ours.work_queues,
        CLIENT_API_KEYS=client_key,
        MINER_API_KEYS=miner_key,
        LOG_LEVEL="warning",
        **(
            {"SETTLEMENT": "on", "FEE_BPS": str(FEE_BPS), "ADMIN_API_KEYS": ADMIN_KEY}
            if ours.accounts
            else {}
        ),
    )
    return Process("coordinator", [*PROGRAM, "serve"], serve, folder), url, client_key, miner_key


def deposit(url: str) -> None:
    """Give the client more money than its jobs can hold."""
    body = json.dumps({"amount": 10**15, "business_id": "bench"}).encode()
    headers = {"x-api-key": ADMIN_KEY, "content-type": "application/json"}
    path = f"{url}/v1/admin/accounts/bench/deposits"
    with urllib.request.urlopen(urllib.request.Request(path, body, headers), timeout=5) as answer:
        if json.load(answer)["amount"] != 10**15:
            raise Failed("the deposit was not made")


def wait_ready(url: str, coordinator: Process, seconds: float = START_SECONDS) -> None:
    """Return when `/health` says that it is ready."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                if json.load(answer)["ready"]:
                    return
        except OSError:
            pass
        time.sleep(0.02)
    raise Failed(f"the coordinator did not start\n{coordinator.tail()}")


_CELERY = (
    *("celery", "--app", "celery_app", "worker", "--loglevel", "ERROR", "--pool", "prefork"),
    *("--concurrency", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"),
)
_CELERY_SETTINGS = (
    "classic durable queue, persistent messages, confirm_publish, task_acks_late, prefetch multiplier 100; "
    "prefork pool with one process, no gossip, mingle, heartbeat or events"
)
_REDIS_SETTINGS = "Redis with appendonly and appendfsync everysec"

OURS = Ours()
OURS_UNPAID = Ours(name="ours_unpaid", lasting=True)
OURS_PAID = Ours(name="ours_paid", lasting=True, accounts=True)
OURS_QUORUM = Ours(name="ours_quorum", work_queues="quorum")
PEER_SYSTEMS = (
    Peer(
        name="celery_postgres",
        durable=True,
        servers=("rabbitmq", "postgres"),
        settings=f"{_CELERY_SETTINGS}; results in Postgres (SQLAlchemy, psycopg)",
        module="celery_app",
        worker=_CELERY,
        variables={"BENCH_RESULTS": "postgres"},
    ),
    Peer(
        name="celery_redis",
        durable=False,
        servers=("rabbitmq", "redis"),
        settings=f"{_CELERY_SETTINGS}; results in {_REDIS_SETTINGS}",
        module="celery_app",
        worker=_CELERY,
        variables={"BENCH_RESULTS": "redis"},
    ),
    Peer(
        name="dramatiq_redis",
        durable=False,
        servers=("rabbitmq", "redis"),
        settings="classic durable queue, persistent messages, confirm_delivery; one process with 8 threads "
        f"(its default); results in {_REDIS_SETTINGS}",
        module="dramatiq_app",
        worker=("dramatiq", "dramatiq_app", "--processes", "1", "--threads", "8"),
    ),
    Peer(
        name="taskiq_postgres",
        durable=True,
        servers=("rabbitmq", "postgres"),
        settings="quorum queue (its default), persistent messages, confirms, acknowledged when saved; one "
        "process, 100 tasks at once, qos 200; 100 submits at once; results in Postgres "
        "(taskiq-postgres, asyncpg)",
        module="taskiq_app",
        worker=(
            *("taskiq", "worker", "taskiq_app:broker", "--workers", "1", "--log-level", "ERROR"),
            *("--max-async-tasks", "100", "--max-prefetch", "100"),
        ),
    ),
    Peer(
        name="procrastinate",
        durable=True,
        servers=("postgres",),
        settings="one process, 100 jobs at once; submitted with batch_defer 500 at a time (singly at the "
        "steady rate); keeps the status of a job and no result",
        module="procrastinate_app",
        worker=("procrastinate", "--app", "procrastinate_app.app", "worker", "--concurrency", "100"),
    ),
    Peer(
        name="dbos",
        durable=True,
        servers=("postgres",),
        settings="one process, 200 workflows at once, its queue polled every 20 ms; submitted in "
        "transactions of 500 (singly at the steady rate)",
        module="dbos_app",
        worker=("python", "-m", "dbos_app"),
    ),
)
