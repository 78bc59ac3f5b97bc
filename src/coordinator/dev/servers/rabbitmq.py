"""A private RabbitMQ node, started from this machine's programs without an init system.

It uses the programs in `lib/rabbitmq/bin`, not the packages' wrapper in `/usr/sbin`: the wrapper switches to
another account and starts epmd, Erlang's port mapper, on all interfaces.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .node import STOP_TIMEOUT_S, LocalServer, Server, ServerFailed, ServersMissing
from .processes import free_port

DEFAULT_PLUGINS = ("rabbitmq_stream", "rabbitmq_consistent_hash_exchange")
MEMORY_BYTES = 2_000_000_000  # the node blocks publishers when it uses four tenths of this
DISK_FREE_LIMIT_BYTES = 50_000_000
HANDSHAKE_TIMEOUT_S = 5.0
CONTROL_TIMEOUT_S = 60.0
OPEN_FILES = 65_536
NODE_NAME = "coordinator@localhost"

# By default plugins listen on all interfaces; these settings restrict them to loopback.
LISTENER_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "rabbitmq_stream": ("stream.listeners.tcp.1 = 127.0.0.1:{port}",),
    "rabbitmq_management": ("management.tcp.ip = 127.0.0.1", "management.tcp.port = {port}"),
    "rabbitmq_prometheus": ("prometheus.tcp.ip = 127.0.0.1", "prometheus.tcp.port = {port}"),
}

AUTH_PLUGINS = (
    *DEFAULT_PLUGINS,
    "rabbitmq_auth_backend_http",
    "rabbitmq_auth_backend_cache",
    "rabbitmq_management",
)
"""For a node whose users are API keys; see `auth_settings`."""

INSTALL_HINT = (
    "RabbitMQ is not installed here, and Docker does not answer. Run `make servers` (as root on Debian or "
    "Ubuntu it installs rabbitmq-server with apt), install RabbitMQ 3.10 or newer, start Docker, or set "
    "TEST_AMQP_URL to a broker that the tests may use."
)


def auth_settings(url: str, cache_seconds: float = 30.0) -> dict[str, str]:
    """Lines of rabbitmq.conf for a node that asks `coordinator broker-auth` at `url` about other users."""
    return {
        "auth_backends.1": "internal",
        "auth_backends.2": "cache",
        "auth_cache.cached_backend": "http",
        "auth_cache.cache_ttl": str(int(cache_seconds * 1000)),
        "auth_http.http_method": "post",
        **{f"auth_http.{path}_path": f"{url}/{path}" for path in ("user", "vhost", "resource", "topic")},
    }


class RabbitMQServer(Server):
    """Any RabbitMQ node, and its virtual hosts."""

    name = "rabbitmq"

    @abstractmethod
    def evaluate(self, expression: str) -> str:
        """Evaluate an Erlang expression in the node and return its value as text.

        Raises ServerFailed when the node cannot be reached or the expression fails.
        """

    def new_vhost(self) -> str:
        """Make an empty virtual host and return its URL."""
        vhost = f"v{secrets.token_hex(6)}"
        self.evaluate(
            f'rabbit_vhost:add(<<"{vhost}">>, <<"coordinator">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{vhost}">>, '
            '<<".*">>, <<".*">>, <<".*">>, <<"coordinator">>), ok'
        )
        return f"{self.url}{vhost}"

    def settle(self) -> None:
        """Let the broker write its queue declarations to disk; call it before a `kill()` soon after them.

        A declaration reaches the disk some seconds later (seen on 3.10.8). After an earlier kill the queue is
        gone although its declaration was answered (Mnesia's log). Or it is a quorum queue without its
        confirmed messages and without a leader, and stays so (Ra's directory, up to 3.13.2).
        """
        # Later versions write these elsewhere, and at once.
        writes = ("mnesia:sync_log()", "dets:sync(ra_directory_reverse)", "dets:sync(ra_log_meta)")
        self.evaluate(", ".join(f"(catch {write})" for write in writes))

    @abstractmethod
    def leave(self) -> None:
        """Close all connections and the port, in order, until `come_back()`."""

    @abstractmethod
    def come_back(self) -> None:
        """Serve again after `leave()`, with the same URL and data; or start like `start()`."""

    def restart(self) -> None:
        if self.running:
            self.leave()
        self.come_back()

    def cut_power(self) -> None:
        """Kill the broker after `settle()`, as if it had been in use for a while."""
        self.settle()
        self.kill()

    def drop_vhost(self, url: str) -> None:
        """Remove a virtual host that `new_vhost` made, with its content; its connections are closed."""
        vhost = unquote(urlsplit(url).path.removeprefix("/"))
        if re.fullmatch(r"v[0-9a-f]{12}", vhost) is None:
            raise ValueError(f"not a virtual host of new_vhost(): {vhost!r}")
        self.evaluate(f'rabbit_vhost:delete(<<"{vhost}">>, <<"coordinator">>), ok')


class RabbitMQ(RabbitMQServer, LocalServer):
    """A node of its own: own ports, own epmd, own cookie, own data, nothing outside loopback.

    `settings` are further lines of rabbitmq.conf, such as `{"consumer_timeout": "1000"}`.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        plugins: Sequence[str] = DEFAULT_PLUGINS,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory)
        self.plugins = tuple(plugins)
        self.settings = dict(settings or {})
        self.port = free_port()
        self.plugin_ports = {plugin: free_port() for plugin in self.plugins if plugin in LISTENER_SETTINGS}
        self._distribution_port = free_port()
        self._control_port = free_port()
        self._epmd_port = free_port()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl` against this node and return its output; takes half a second to a second.

        Raises ServerFailed if it reports an error.
        """
        return _run([str(find_programs() / "rabbitmqctl"), *arguments], self._environment())

    def evaluate(self, expression: str) -> str:
        # erl_call is a small C program and takes 4 ms; rabbitmqctl boots a virtual machine in 0.5 s or more.
        erl_call = find_erlang_program("erl_call")
        if erl_call is None:
            return self.control("eval", f"{expression}.").strip()
        command = [str(erl_call), "-sname", NODE_NAME, "-e"]
        with self._lock:
            answer = self._call(command, f"{expression}.\n".encode())
        outcome = re.fullmatch(r"\{ok,\s*(.*)\}\s*", answer, re.DOTALL)
        if outcome is None:
            raise ServerFailed(f"rabbitmq could not evaluate {expression!r}: {answer}")
        return outcome[1]

    def _call(self, command: list[str], expression: bytes) -> str:
        # On a busy machine a node may be too slow for the handshake; nothing is evaluated then.
        for _ in range(2):
            try:
                return _run(command, self._environment(), expression)
            except ServerFailed as failure:
                if "failed to connect" not in str(failure) or not self.running:
                    raise
                time.sleep(1)
        return _run(command, self._environment(), expression)

    def leave(self) -> None:
        # Stops only the node's applications. Clients see the same as if the node ended, but it is back in
        # 1 s, while a node boots for 5 s.
        self.evaluate("rabbit:stop()")

    def come_back(self) -> None:
        if not self.running:
            self.start()
            return
        self.evaluate("rabbit:start()")
        self._wait_ready(self._processes[-1], lambda: accepts_connections(self.port))

    def _launch(self) -> None:
        programs = find_programs()
        epmd = find_erlang_program("epmd")
        if epmd is None:
            raise ServersMissing(f"Erlang's epmd is not beside erl. {INSTALL_HINT}")
        self._write_files()
        environment = self._environment()
        # Our own epmd in the foreground: the node would otherwise start one that detaches and outlives it.
        self._spawn(
            _limited([str(epmd), "-port", str(self._epmd_port), "-address", "127.0.0.1"]), environment
        )
        node = self._spawn(_limited([str(programs / "rabbitmq-server")]), environment)
        self._wait_ready(node, lambda: accepts_connections(self.port))

    def _shut_down(self) -> None:
        epmd, node = self._processes
        node.send_signal(signal.SIGTERM)
        node.wait(STOP_TIMEOUT_S)
        epmd.terminate()
        epmd.wait(STOP_TIMEOUT_S)

    def _environment(self) -> dict[str, str]:
        """The whole environment of the node and its tools, without the caller's RABBITMQ_* and ERL_*."""
        base = self.directory
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(base / "home"),  # the folder of the cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": NODE_NAME,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self._control_port),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self._control_port),
            # Idle schedulers sleep at once: by default they spin for a while, on processors that others need.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{loopback} +sbwt none +sbwtdcpu none +sbwtdio none",
            "RABBITMQ_CTL_ERL_ARGS": loopback,
            "RABBITMQ_BASE": str(base),
            "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(base / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(base / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(base / "generated"),
            "RABBITMQ_MNESIA_BASE": str(base / "data"),
            "RABBITMQ_LOG_BASE": str(base / "log"),
            # The start script then *becomes* the node instead of waiting beside it, so that our child process
            # is the one to signal. It has no other effect, as there is no notify socket.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _write_files(self) -> None:
        base = self.directory
        for folder in ("home", "data", "log"):
            (base / folder).mkdir(exist_ok=True)
        cookie = base / "home" / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(20))
            cookie.chmod(0o400)
        settings = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "loopback_users.guest": "true",
            "log.console": "false",
            "total_memory_available_override_value": str(MEMORY_BYTES),
            "disk_free_limit.absolute": str(DISK_FREE_LIMIT_BYTES),
            **self.settings,
        }
        lines = [f"{key} = {value}" for key, value in settings.items()]
        for plugin, port in self.plugin_ports.items():
            lines += [line.format(port=port) for line in LISTENER_SETTINGS[plugin]]
        (base / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (base / "rabbitmq-env.conf").touch()
        (base / "enabled_plugins").write_text(f"[{','.join(self.plugins)}].\n")


def find_programs() -> Path:
    """The directory with RabbitMQ's own start scripts. Raises ServersMissing."""
    for place in _places():
        if all((place / script).exists() for script in ("rabbitmq-server", "rabbitmqctl", "rabbitmq-env")):
            return place
    raise ServersMissing(INSTALL_HINT)


def _places() -> Iterable[Path]:
    if home := os.environ.get("RABBITMQ_HOME"):
        yield Path(home) / "sbin"
    yield Path("/usr/lib/rabbitmq/bin")
    yield Path("/opt/rabbitmq/sbin")
    for pattern in ("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin", "opt/rabbitmq_server-*/sbin"):
        yield from sorted(Path("/").glob(pattern), key=_version, reverse=True)
    yield Path("/opt/homebrew/opt/rabbitmq/sbin")
    yield Path("/usr/local/opt/rabbitmq/sbin")
    if found := shutil.which("rabbitmq-server"):
        yield Path(found).resolve().parent


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", str(path)))


def find_erlang_program(program: str) -> Path | None:
    """Programs such as epmd and erl_call: on PATH, or in the runtime system's own directory beside `erl`."""
    if found := shutil.which(program):
        return Path(found)
    if (erl := shutil.which("erl")) is None:
        raise ServersMissing(f"Erlang (the program erl) is not on PATH. {INSTALL_HINT}")
    beside = Path(erl).resolve().parent
    candidates = [beside / program, *sorted(beside.parent.glob(f"erts-*/bin/{program}"), reverse=True)]
    return next((candidate for candidate in candidates if candidate.exists()), None)


def accepts_connections(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a client can log in as guest and open the virtual host "/".

    The port opens up to half a second before that, while plugins still start.
    """
    login = b"\0guest\0guest"
    try:
        with socket.create_connection((host, port), HANDSHAKE_TIMEOUT_S) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            _expect(connection, 10, 10)  # start
            start_ok = (
                struct.pack(">I", 0) + b"\x05PLAIN" + struct.pack(">I", len(login)) + login + b"\x05en_US"
            )
            _send(connection, 10, 11, start_ok)
            tune = _expect(connection, 10, 30)
            _send(connection, 10, 31, tune)  # tune-ok: as proposed
            _send(connection, 10, 40, b"\x01/\x00\x00")  # open "/"
            _expect(connection, 10, 41)
            _send(connection, 10, 50, struct.pack(">H", 200) + b"\x00" + struct.pack(">HH", 0, 0))  # close
            _expect(connection, 10, 51)
    except OSError:
        return False
    return True


def _send(connection: socket.socket, class_id: int, method_id: int, arguments: bytes) -> None:
    payload = struct.pack(">HH", class_id, method_id) + arguments
    connection.sendall(struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce")


def _expect(connection: socket.socket, class_id: int, method_id: int) -> bytes:
    _, _, size = struct.unpack(">BHI", _receive(connection, 7))
    payload = _receive(connection, size + 1)[:-1]
    if struct.unpack(">HH", payload[:4]) != (class_id, method_id):
        raise ConnectionError("the broker refused the connection")
    return payload[4:]


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise ConnectionError("the broker closed the connection")
        received += part
    return received


def _limited(command: list[str]) -> list[str]:
    """Limit the number of open files: Erlang visits every possible one at its start.

    Containers often allow a thousand million.
    """
    bound = (
        f'[ "$(ulimit -n)" != unlimited ] && [ "$(ulimit -n)" -le {OPEN_FILES} ] || ulimit -n {OPEN_FILES}'
    )
    return ["/bin/sh", "-c", f'{bound}; exec "$@"', "sh", *command]


def _run(command: Sequence[str], environment: Mapping[str, str], text: bytes = b"") -> str:
    try:
        done = subprocess.run(
            command,
            check=False,  # reported below, with its output
            input=text,
            env=dict(environment),
            capture_output=True,
            timeout=CONTROL_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise ServerFailed(f"{command[0]} did not answer within {CONTROL_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        output = (done.stdout + done.stderr).decode(errors="replace")
        raise ServerFailed(f"{' '.join(command)} ended with {done.returncode}: {output}")
    return done.stdout.decode(errors="replace")
