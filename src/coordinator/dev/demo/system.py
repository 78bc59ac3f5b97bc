"""The system of the demo: a coordinator process, two miner processes, and their servers."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from coordinator.crypto.keys import SigningKey
from coordinator.dev.demo.processes import Child, Children, bare_environment
from coordinator.dev.servers import private_postgres, private_rabbitmq
from coordinator.dev.servers.processes import free_port
from coordinator.private_files import make_folder
from coordinator.runtime.settings import Settings, load_settings
from coordinator.runtime.signing import SIGNING_KEY_FILE

MINERS: Final = ("alpha", "beta")
_HEARTBEAT_S: Final = 2
_HEARTBEAT_TIMEOUT_S: Final = 20  # generous: on a busy laptop a process may not run for seconds


class DemoFailed(Exception):
    """The demo failed; the text says why, `logs` has the end of the processes' output."""

    def __init__(self, text: str, children: list[Child] | None = None) -> None:
        super().__init__(text)
        self.logs = [(child, child.tail()) for child in children or ()]


class DemoSystem:
    """All processes of the demo. Use it with `with`, which always stops them.

    All keys are made here, before anything runs, so that later signatures can be checked against them.
    """

    def __init__(self, folder: Path, amqp: bool, more: Mapping[str, str]) -> None:
        """`more`: further settings of the coordinator."""
        self._more = more
        self.folder = folder
        self.amqp = amqp
        self.url = f"http://127.0.0.1:{free_port()}"
        run = secrets.token_hex(3)  # so that runs against one database do not see each other's jobs
        self.client_key = f"demo-{run}:{secrets.token_urlsafe(24)}"
        self.admin_key = f"demo-admin-{run}:{secrets.token_urlsafe(24)}"
        self.miners = {name: f"{name}-{run}" for name in MINERS}
        """The miners' names by the names of their processes."""
        self._miner_keys = {
            name: f"{miner}:{secrets.token_urlsafe(24)}" for name, miner in self.miners.items()
        }
        self._seed = secrets.token_hex(32)
        self.coordinator_key_id = SigningKey.from_hex(self._seed).key_id
        self.miner_key_ids = {
            miner: SigningKey.load_or_create(self._key_file(name)).key_id
            for name, miner in self.miners.items()
        }
        self._servers: dict[str, str] = {}
        self._stack = ExitStack()
        self.children = Children(bare_environment({}), folder)

    @property
    def client_name(self) -> str:
        return self.client_key.partition(":")[0]

    def start_servers(self) -> None:
        """Start a broker and a database, unless AMQP_URL and DATABASE_URL are set. Raises ServersMissing."""
        database, broker = os.environ.get("DATABASE_URL"), os.environ.get("AMQP_URL")
        if not database:
            database = self._stack.enter_context(private_postgres()).new_database()
        if not broker:
            broker = self._stack.enter_context(private_rabbitmq()).new_vhost()
        self._servers = {"DATABASE_URL": database, "AMQP_URL": broker}

    def start_coordinator(self) -> Child:
        return self.children.start("coordinator", "serve", **self._coordinator_settings())

    def start_miners(self) -> None:
        # The broker alone: a miner must not know the database.
        broker = {name: url for name, url in self._servers.items() if name == "AMQP_URL"}
        for name, key in self._miner_keys.items():
            self.children.start(
                name,
                *("miner", "run", "--key-file", str(self._key_file(name))),
                COORDINATOR_API_KEY=key,
                COORDINATOR_URL=self.url,
                **broker,
            )

    def settings(self) -> Settings:
        """The coordinator's settings, to read its log after it has stopped."""
        given = {name.lower(): value for name, value in self._coordinator_settings().items()}
        # Nothing from a .env file, and no server unless we chose it: the environment may name others.
        return load_settings(_env_file=None, **{"database_url": None, "amqp_url": None, **given})

    def stop(self) -> None:
        """Stop the miners, then the coordinator. Raises DemoFailed if one exits with an error."""
        for child in reversed(self.children.all):
            code = child.stop()
            if code != 0:
                raise DemoFailed(f"the process {child.name} ended with {code}", [child])

    def keep_data(self, folder: Path) -> Path | None:
        """Copy the stopped coordinator's data to this new folder, with its signing key; where it is then.

        None with servers: the log is in their database.
        """
        if self.amqp:
            return None
        make_folder(folder)
        shutil.copytree(self.folder / "data", folder, dirs_exist_ok=True)
        key = folder / SIGNING_KEY_FILE
        key.touch(0o600)
        key.write_text(f"{self._seed}\n")
        return folder

    def _coordinator_settings(self) -> dict[str, str]:
        return {
            "APP_HOST": "127.0.0.1",
            "APP_PORT": self.url.rpartition(":")[2],
            "DATA_DIR": str(self.folder / "data"),
            "CLIENT_API_KEYS": self.client_key,
            "ADMIN_API_KEYS": self.admin_key,
            "MINER_API_KEYS": ",".join(self._miner_keys.values()),
            "RECEIPT_SIGNING_KEY_HEX": self._seed,
            "HEARTBEAT_INTERVAL_SECONDS": str(_HEARTBEAT_S),
            "HEARTBEAT_TIMEOUT_SECONDS": str(_HEARTBEAT_TIMEOUT_S),
            **self._more,
            **self._servers,
        }

    def _key_file(self, name: str) -> Path:
        return self.folder / "keys" / f"{name}.key"

    def __enter__(self) -> Self:
        self._stack.enter_context(self.children)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # In this order, so that no process can complain about a lost server.
        self.children.stop()
        self._stack.close()
