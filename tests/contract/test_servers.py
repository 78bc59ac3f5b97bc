"""The private servers: they start, stop, break and recover as promised, and leave nothing behind."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pika
import psutil
import psycopg
import pytest

from coordinator.dev import servers
from coordinator.dev.servers import (
    Postgres,
    PostgresServer,
    RabbitMQ,
    RabbitMQServer,
    Redis,
    RedisServer,
    Server,
    ServerFailed,
    ServersMissing,
)
from coordinator.dev.servers.node import LocalServer
from coordinator.dev.servers.processes import LOWEST_PORT, family, free_port, processes_in, wait_until_gone

LOCAL_SERVERS = [
    pytest.param(Postgres, id="postgres"),
    pytest.param(RabbitMQ, id="rabbitmq"),
    pytest.param(Redis, id="redis"),
]
TEARDOWN_TIMEOUT_S = 30
SEGMENTS = Path("/proc/sysvipc/shm")
SILENCE_S = 0.3  # how long a paused server is watched; a running one answers within 10 ms
AMQP_HELLO = b"AMQP\x00\x00\x09\x01"
POSTGRES_HELLO = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"  # "do you speak TLS?", answered by one byte
REDIS_HELLO = b"PING\r\n"  # answered with a refusal: there is a password


@pytest.fixture(params=["breakable_postgres", "breakable_rabbitmq", "breakable_redis"])
def server(request: pytest.FixtureRequest) -> Server:
    """A running server of each kind."""
    server: Server = request.getfixturevalue(request.param)
    return server


def can_connect(server: Server) -> bool:
    if isinstance(server, RedisServer):
        return servers.redis.accepts_connections(server.url)
    try:
        if isinstance(server, RabbitMQServer):
            pika.BlockingConnection(pika.URLParameters(server.url)).close()
        else:
            psycopg.connect(server.url, connect_timeout=5).close()
    except (pika.exceptions.AMQPError, psycopg.OperationalError):
        return False
    return True


def pids_of(server: Server) -> tuple[int, ...]:
    """The server's processes; none where they are a container's, which Docker answers for."""
    return server.pids if isinstance(server, LocalServer) else ()


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def listening_addresses(pid: int) -> list[str]:
    try:
        connections = psutil.Process(pid).net_connections("inet")
    except psutil.NoSuchProcess:  # a database session that was just closed
        return []
    return [found.laddr.ip for found in connections if found.status == psutil.CONN_LISTEN]


def assert_gone(pids: tuple[int, ...]) -> None:
    wait_until_gone(pids)
    assert [pid for pid in pids if is_alive(pid)] == []


def wait_until_removed(directory: Path) -> None:
    deadline = time.monotonic() + TEARDOWN_TIMEOUT_S
    while directory.exists():  # the one that removes it is nobody's child here, so there is no signal
        assert time.monotonic() < deadline, f"{directory} is still there"
        time.sleep(0.01)


@pytest.mark.parametrize("kind", LOCAL_SERVERS)
def test_stop_without_start(kind: type[Postgres | RabbitMQ | Redis]) -> None:
    """Everything but start may be called on a server that never ran, and then does nothing."""
    server = kind()
    for call in (server.stop, server.kill, server.pause, server.resume, server.close, server.close):
        call()
    assert not server.running


def test_stop_and_start_again(server: Server) -> None:
    """A stopped server is gone with all its processes, may be stopped again, and returns at the same url."""
    url, pids = server.url, pids_of(server)
    server.stop()
    server.stop()
    assert not server.running
    assert not can_connect(server)
    assert_gone(pids)  # epmd too, which by its nature outlives the node
    server.start()
    server.start()
    assert server.running
    assert server.url == url
    assert can_connect(server)


def test_postgres_keeps_rows_through_a_kill(breakable_postgres: PostgresServer) -> None:
    """A committed row is there after all the server's processes were killed and it was started again."""
    url = breakable_postgres.new_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (number int)")
        connection.execute("INSERT INTO kept VALUES (42)")
        connection.commit()
        pids = pids_of(breakable_postgres)
        breakable_postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert_gone(pids)
    assert not can_connect(breakable_postgres)
    breakable_postgres.start()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(42,)]


def test_rabbitmq_keeps_messages_through_a_kill(breakable_rabbitmq: RabbitMQServer) -> None:
    """A confirmed message in a durable queue is there after the whole node was killed and started again."""
    url = breakable_rabbitmq.new_vhost()
    persistent = pika.BasicProperties(delivery_mode=2)
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for kind in ("classic", "quorum"):
            channel.queue_declare(kind, durable=True, arguments={"x-queue-type": kind})
            channel.basic_publish("", kind, b"42", persistent, mandatory=True)
    breakable_rabbitmq.settle()
    pids = pids_of(breakable_rabbitmq)
    breakable_rabbitmq.kill()
    assert_gone(pids)
    assert not can_connect(breakable_rabbitmq)
    breakable_rabbitmq.start()
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        bodies = [channel.basic_get(kind, auto_ack=True)[2] for kind in ("classic", "quorum")]
    assert bodies == [b"42", b"42"]


def test_a_lost_process_is_noticed(server: Server) -> None:
    """A server whose main process died by itself is not running, and start brings it back."""
    if isinstance(server, LocalServer):
        os.kill(server.main_pid, signal.SIGKILL)
        wait_until_gone([server.main_pid])
    else:
        server.kill()
    assert not server.running
    server.start()
    assert can_connect(server)


def test_listens_on_loopback_only(server: Server) -> None:
    """No process of a node listens outside loopback, epmd and Erlang's distribution included."""
    listening = [ip for pid in pids_of(server) for ip in listening_addresses(pid)]
    assert set(listening) <= {"127.0.0.1", "::1"}
    assert listening or not isinstance(server, LocalServer)


def test_pause_and_resume(server: Server) -> None:
    """A paused server is running and silent, and answers the waiting client when it goes on."""
    assert can_connect(server)
    server.pause()
    assert server.running
    hellos = {"rabbitmq": AMQP_HELLO, "postgres": POSTGRES_HELLO, "redis": REDIS_HELLO}
    hello = hellos[server.name]
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 0), 30) as connection:
        connection.sendall(hello)
        assert select.select([connection], [], [], SILENCE_S)[0] == []
        server.resume()
        assert len(connection.recv(1)) == 1


def test_private_servers_do_not_meet(private_postgres: Callable[..., PostgresServer]) -> None:
    """Two private servers at the same time have different ports and different data."""
    first, second = private_postgres(), private_postgres()
    url = first.new_database()
    with psycopg.connect(second.url) as connection:
        rows = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [url.rpartition("/")[2]])
        assert rows.fetchall() == []


def test_given_directory_survives_close() -> None:
    """Data in a directory that the caller gave outlives the server object; a temporary one does not."""
    directory = Path(
        tempfile.mkdtemp(prefix="coordinator-test-")
    )  # not below pytest's, which is root's alone
    directory.chmod(0o711)
    try:
        with Postgres(directory) as first:
            url = first.new_database()
        with Postgres(directory) as second, psycopg.connect(_moved(url, second.url)) as connection:
            assert connection.execute("SELECT 1").fetchall() == [(1,)]
    finally:
        shutil.rmtree(directory)
    with Postgres() as third:
        temporary = third.directory
    assert not temporary.exists()


def _moved(url: str, server_url: str) -> str:
    return urlunsplit(urlsplit(server_url)._replace(path=urlsplit(url).path))


def test_fresh_urls_are_empty_and_dropped(rabbitmq: RabbitMQServer, amqp_url: str) -> None:
    """Each virtual host is empty at first, and gone with everything in it once dropped."""
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        connection.channel().queue_declare("mine")
    other = rabbitmq.new_vhost()
    with pika.BlockingConnection(pika.URLParameters(other)) as connection:
        channel = connection.channel()
        with pytest.raises(pika.exceptions.ChannelClosedByBroker):
            channel.queue_declare("mine", passive=True)
    rabbitmq.drop_vhost(other)
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        pika.BlockingConnection(pika.URLParameters(other))


def test_a_copy_of_a_database_is_its_own(postgres: PostgresServer) -> None:
    """A database that is made of a template has its rows, and keeps later ones to itself."""
    template = postgres.new_database()
    with psycopg.connect(template) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS number")
    copy = postgres.new_database(template)
    with psycopg.connect(copy) as connection:
        connection.execute("INSERT INTO kept VALUES (43)")
    found = []
    for url in (template, copy):
        with psycopg.connect(url) as connection:
            found.append(connection.execute("SELECT number FROM kept ORDER BY number").fetchall())
        postgres.drop_database(url)
    assert [[(42,)], [(42,), (43,)]] == found


def test_database_is_dropped_under_its_users(postgres: PostgresServer) -> None:
    """Dropping a database closes the connections that a test left open."""
    url = postgres.new_database()
    with psycopg.connect(url) as connection:
        postgres.drop_database(url)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


def test_only_what_was_made_here_is_dropped(postgres: PostgresServer, rabbitmq: RabbitMQServer) -> None:
    """A url that new_database or new_vhost did not make is refused, so that no slip drops a real one."""
    with pytest.raises(ValueError, match="not a database"):
        postgres.drop_database(postgres.url)
    with pytest.raises(ValueError, match="not a virtual host"):
        rabbitmq.drop_vhost(rabbitmq.url)


@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="where shared memory is no file")
def test_a_killed_postgres_leaves_no_shared_memory() -> None:
    """What a killed server shared among its processes goes with its directory."""
    with Postgres() as server:
        mapped = {line.split()[-1] for line in Path(f"/proc/{server.main_pid}/maps").read_text().splitlines()}
        server.kill()
    assert any("pg_dynshmem" in file for file in mapped)
    assert [] == [file for file in mapped if file.startswith("/dev/shm/") and Path(file).exists()]


@pytest.mark.skipif(not SEGMENTS.exists(), reason="where segments are listed elsewhere")
def test_a_closed_postgres_leaves_no_segment() -> None:
    """Its System V segment, of which a machine has 4096, is given back, also by one that was paused."""
    with Postgres() as server:
        *_, segment = (server.directory / "data" / "postmaster.pid").read_text().splitlines()[6].split()
        assert segment in segments()
        server.pause()
    assert segment not in segments()


def segments() -> set[str]:
    """The ids of the System V shared memory segments that there are."""
    return {line.split()[1] for line in SEGMENTS.read_text().splitlines()}


OWNER = """
import sys, threading
from coordinator.dev.servers import Postgres

server = Postgres()
starter = threading.Thread(target=server.start)
starter.start()
starter.join()
print(server.directory, *server.pids, flush=True)
{ending}
"""


@pytest.mark.parametrize(
    ("ending", "number"),
    [
        pytest.param("sys.stdin.read()", signal.SIGKILL, id="killed"),
        pytest.param("sys.stdin.read()", signal.SIGTERM, id="terminated"),
        pytest.param("sys.exit(3)", None, id="exited"),
    ],
)
def test_servers_end_with_their_owner(ending: str, number: signal.Signals | None) -> None:
    """When the owning process ends, however it ends, its servers and their directory go, and not before."""
    program = OWNER.format(ending=ending)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        directory, *pids = owner.stdout.readline().split()
        if number is not None:
            assert is_alive(int(pids[0]))  # the end of the thread that started it was not its end
            owner.send_signal(number)
        owner.wait(TEARDOWN_TIMEOUT_S)
        assert_gone(tuple(map(int, pids)))
        wait_until_removed(Path(directory))


def test_missing_programs_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without programs and without Docker the error names the command that installs them."""
    monkeypatch.setattr(servers.rabbitmq, "_places", tuple)
    monkeypatch.setattr(servers.postgres, "_places", tuple)
    monkeypatch.setattr(servers.redis, "PROGRAMS", ())
    monkeypatch.setattr(servers, "docker_answers", lambda: False)
    with pytest.raises(ServersMissing, match="make servers"):
        servers.private_rabbitmq()
    with pytest.raises(ServersMissing, match="make servers"):
        servers.private_postgres()
    with pytest.raises(ServersMissing, match="make servers"):
        servers.private_redis()


def test_failed_start_shows_the_log() -> None:
    """A server that ends while it starts raises at once, with its own words, and leaves nothing running."""
    server = Postgres(settings={"no_such_setting": "1"})
    with pytest.raises(ServerFailed, match="no_such_setting"), server:
        pass
    assert server.pids == ()


def test_a_family_is_found_while_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that end between the list of all and the look at each are no error, and hide nobody."""
    listdir = os.listdir
    with subprocess.Popen(["sleep", "60"]) as child, subprocess.Popen(["true"]) as ended:
        ended.wait()
        monkeypatch.setattr(os, "listdir", lambda path: [str(ended.pid), *listdir(path), str(ended.pid)])
        try:
            assert child.pid in family([os.getpid()])
            assert child.pid in processes_in(Path.cwd())
            assert ended.pid not in family([os.getpid()])
        finally:
            child.kill()


def test_free_ports_differ_and_are_not_ephemeral() -> None:
    """No port is given out twice, nor one that the kernel may give to an outgoing connection."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < lowest


@pytest.mark.skipif(sys.platform != "linux", reason="where there are no abstract sockets")
def test_a_port_is_one_processs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that another process was given is not given out here, though nobody listens on it yet."""
    ask = "from coordinator.dev.servers.processes import free_port; print(free_port(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", ask], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        choices = iter([theirs, theirs, theirs + 1, theirs + 2])
        monkeypatch.setattr(
            "coordinator.dev.servers.processes.secrets.randbelow", lambda _: next(choices) - LOWEST_PORT
        )
        assert free_port() in (theirs + 1, theirs + 2)
        other.communicate("")
