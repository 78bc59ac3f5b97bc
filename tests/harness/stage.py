"""What the tests play on: coordinators and miners as processes, on the broker and database of the test."""

from __future__ import annotations

import asyncio
import itertools
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Self

from coordinator.client import AsyncCoordinator
from coordinator.crypto.keys import SigningKey
from coordinator.dev.servers.processes import free_port
from coordinator.wire.amqp.rpc import AmqpRpc
from coordinator.wire.backoff import Backoff
from tests.harness import invariants
from tests.harness.executor import SERVICE, SPEC
from tests.harness.logbook import Logbook
from tests.harness.processes import Process, as_settings
from tests.harness.waiting import eventually, eventually_now

ALICE, BOB, ROOT = "alice:secret-of-alice", "bob:secret-of-bob", "root:secret-of-root"
MINERS = tuple(f"rig{n}" for n in range(1, 7))
SIGNING_SEED = "5a" * 32
QUICK = Backoff(first_seconds=0.05, longest_seconds=0.5)
ANSWER_SECONDS = 1.0
START_SECONDS = 90.0


def key_of(miner: str) -> str:
    return f"{miner}:secret-of-{miner}"


class Stage:
    """Standard mode where both urls are given, embedded mode else. `settings` go to every coordinator."""

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str | None = None,
        amqp_url: str | None = None,
        **settings: object,
    ) -> None:
        self.folder = folder
        self.amqp_url = amqp_url
        self.database_url = database_url
        self.coordinator_key = SigningKey.from_hex(SIGNING_SEED).key_id
        self.notes = folder / "notes"
        self.notes.mkdir(parents=True, exist_ok=True)
        self.log = Logbook(database_url or folder / "data-main" / "coordinator.db")
        self.urls: dict[str, str] = {}
        self.processes: list[Process] = []
        self.accepted: set[str] = set()
        """Jobs that a client was told are accepted."""
        self._settings = settings
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # All at once: a miner would otherwise wait for a coordinator that is frozen or gone.
        for process in self.processes:
            process.kill()
        if kind is not None:
            for process in self.processes:
                print(f"--- {process.name}\n{process.tail()}")  # noqa: T201 - shown by pytest on failure

    # --- processes -----------------------------------------------------------------------------------------
    def coordinator(
        self, name: str = "main", *, dies: tuple[str, int] | None = None, **settings: object
    ) -> Process:
        """Start one; `dies=(step, n)`: see `coordinator_main`. Under an old name it has its old port."""
        url = self.urls.setdefault(name, f"http://127.0.0.1:{free_port()}")
        given: dict[str, object] = {
            "app_port": url.rpartition(":")[2],
            "data_dir": self.folder / f"data-{name}",
            "blob_store": self.folder / "blobs",
            "client_api_keys": f"{ALICE},{BOB}",
            "admin_api_keys": ROOT,
            "miner_api_keys": ",".join(map(key_of, MINERS)),
            "receipt_signing_key_hex": SIGNING_SEED,
            "heartbeat_interval_seconds": 1,
            "heartbeat_timeout_seconds": 30,
            "offer_timeout_seconds": 2,
            **self._settings,
            **settings,
        }
        if self.database_url and self.amqp_url:
            given = {"database_url": self.database_url, "amqp_url": self.amqp_url, **given}
        if dies is None:
            return self._start(name, "coordinator", "serve", **as_settings(given))
        step, n = dies
        return self._start(name, "tests.harness.coordinator_main", step, str(n), **as_settings(given))

    def miner(
        self,
        name: str,
        *,
        concurrency: int = 1,
        transport: str = "amqp",
        region: str | None = None,
        coordinator: str = "main",
        grace_seconds: float = 20.0,
        studio: bool = False,
        manner: str = "works",
    ) -> Process:
        """Start one; `region` makes it another profile. With `studio` it runs what is in `studio`, too.
        `manner`: one of `executor.MANNERS`."""
        given = {
            "key": key_of(name),
            "concurrency": concurrency,
            "transport": transport if self.amqp_url else "http",
            "url": self.urls[coordinator],
            "amqp_url": self.amqp_url,
            "key_file": str(self.folder / f"{name}.key"),
            "region": region,
            "grace_seconds": grace_seconds,
            "notes": str(self.notes),
            "studio": studio,
            "manner": manner,
        }
        return self._start(name, "tests.harness.miner_main", json.dumps(given))

    def program_miner(
        self,
        name: str,
        *,
        transport: str,
        coordinator: str = "main",
        recheck_seconds: int = 30,
        **settings: object,
    ) -> Process:
        """Start the product's own `coordinator miner run`; `settings` name engines, without it has none."""
        key_file = self.folder / f"{name}.key"
        given: dict[str, object] = {
            "coordinator_api_key": key_of(name),
            "coordinator_url": self.urls[coordinator],
            **settings,
        }
        if self.amqp_url:
            given["amqp_url"] = self.amqp_url
        arguments: tuple[str, ...] = ("miner", "run", "--transport", transport, "--key-file", str(key_file))
        arguments += ("--recheck", str(recheck_seconds))
        return self._start(name, "coordinator", *arguments, **as_settings(given))

    def miner_key(self, name: str) -> str:
        """The key id that this miner registers with."""
        return SigningKey.load_or_create(self.folder / f"{name}.key").key_id

    def _start(self, name: str, module: str, *arguments: str, **settings: str) -> Process:
        process = Process(f"{name}-{next(self._numbers)}", self.folder, module, *arguments, **settings)
        self.processes.append(process)
        return process

    def command(self, *arguments: str, **settings: str) -> Process:
        """Start `coordinator` with these arguments."""
        return self._start(arguments[0], "coordinator", *arguments, **as_settings(dict(settings)))

    def continue_as(self, origin: str, name: str = "main") -> None:
        """An operator's decision after a restored backup, while no coordinator runs."""
        given: dict[str, object] = {
            "data_dir": self.folder / f"data-{name}",
            "receipt_signing_key_hex": SIGNING_SEED,
        }
        if self.database_url and self.amqp_url:
            given |= {"database_url": self.database_url, "amqp_url": self.amqp_url}
        decided = self.command("log", "continue-as", origin, "--reason", "restored", **as_settings(given))
        assert 0 == decided.wait(), decided.tail()

    # --- waiting -------------------------------------------------------------------------------------------
    def health(self, name: str = "main") -> dict[str, Any]:
        try:
            answer = urllib.request.urlopen(f"{self.urls[name]}/health", timeout=5)
        except urllib.error.HTTPError as unwell:
            answer = unwell
        with answer:
            found: dict[str, Any] = json.load(answer)
            return found

    async def ready(self, name: str = "main") -> None:
        """Until the coordinator answers, is well, and its followers lead or stand by."""
        await eventually(self._is_ready(name), f"coordinator {name} ready", START_SECONDS)

    async def registered(self, *miners: str) -> None:
        """Until these miners' sessions are in the log."""

        def there() -> bool:
            entries = self.log.entries("miner.registered.v1")
            return set(miners) <= {e.data["miner_id"] for e in entries}

        await eventually(there, f"{', '.join(miners)} registered", START_SECONDS)

    def session(self, miner: str) -> dict[str, str]:
        """The names of this miner's last session, as commands about it have them."""
        there = [e for e in self.log.entries("miner.registered.v1") if e.data["miner_id"] == miner]
        return {name: there[-1].data[name] for name in ("miner_id", "session_id")}

    def begin(self, coordinators: Iterable[str] = ("main",), **miners: Any) -> None:
        """Start these and wait for them, from code that is not asynchronous; then register the service."""
        for name in coordinators:
            self.coordinator(name)
        for name in coordinators:
            eventually_now(self._is_ready(name), f"coordinator {name} ready", START_SECONDS)
        asyncio.run(self.rehearse())
        for name, options in miners.items():
            self.miner(name, **options)
        asyncio.run(self.registered(*miners))

    async def rehearse(self) -> None:
        """Put the tests' own service into the registry."""
        async with self.rpc(ROOT) as rpc:
            answer = await rpc.call("service.register", {"spec": SPEC})
            assert answer["status"] == "accepted", answer

    def _is_ready(self, name: str) -> Callable[[], bool]:
        return lambda: bool(self.health(name)["ready"])

    async def ended(self, job_ids: Collection[str], timeout: float = 120.0) -> None:
        await eventually(lambda: self.log.all_ended(job_ids), f"{len(job_ids)} jobs final", timeout)

    async def noted(self, note: str) -> None:
        """Until an executor has left a note that begins so."""
        await eventually(lambda: list(self.notes.glob(f"{note}*")), f"a note {note}")

    def release(self, name: str) -> None:
        """Let work that runs until `name` end."""
        (self.notes / name).touch()

    # --- clients -------------------------------------------------------------------------------------------
    def rpc(self, key: str = ALICE) -> AmqpRpc:
        assert self.amqp_url
        return AmqpRpc(self.amqp_url, key, answer_timeout_seconds=ANSWER_SECONDS, backoff=QUICK)

    def client(self, key: str = ALICE, coordinator: str = "main", **options: Any) -> AsyncCoordinator:
        return AsyncCoordinator(self.urls[coordinator], key, **options)

    async def submit(self, rpc: AmqpRpc, key: str, *, service: str = SERVICE, **more: Any) -> str:
        """The id of an accepted job. `payload`, `constraints` and the like as in `job.submit`."""
        command = {"service": service, "payload": {}, "idempotency_key": key, **more}
        answer = await rpc.call("job.submit", command)
        assert answer["status"] == "accepted", answer
        self.accepted.add(answer["job_id"])
        return str(answer["job_id"])

    async def check(self, **options: Any) -> invariants.Checked:
        """The invariants, over everything that happened on this stage."""
        return await invariants.check(
            self.log.source,
            coordinator_key=self.coordinator_key,
            accepted=self.accepted,
            amqp_url=self.amqp_url,
            **options,
        )
