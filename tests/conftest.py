"""Servers for tests: a RabbitMQ, a Postgres and a Redis for all of them, and others that a test may break.

Where they come from, in this order: TEST_AMQP_URL, TEST_DATABASE_URL and TEST_REDIS_URL; this machine's
programs; Docker.
Where there is none of these the test fails and says what to install; it is never skipped.

Nothing starts before the first test that asks for it. A test that only needs "a broker" or "a database"
asks for `amqp_url` or `database_url` and gets an empty one, the database with our tables. A test that
kills, pauses or restarts a server asks for `breakable_rabbitmq` or `breakable_postgres` (a second one of
each, running when the test begins), or makes its own with `private_rabbitmq` or `private_postgres`. A node
boots in 5 to 10 s, of which a processor works 4; Postgres in 1 s.

`make test` runs the tests on several workers (pytest-xdist). They share the servers that no test breaks:
these belong to the process that started the workers. The others are each worker's own. Every server ends with
the process that it belongs to, however that ends.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

import aio_pika
import pytest

from coordinator.dev import servers
from coordinator.dev.servers import PostgresServer, RabbitMQServer, RedisServer, ServersMissing
from coordinator.storage.migrate import migrate
from coordinator.wire.topology import OWNER_EXCHANGE
from tests.harness import shared_servers, tiny_llama
from tests.harness.espeak_engine import EspeakEngine
from tests.harness.llama_engine import RERANKER, THINKER, LlamaEngine
from tests.harness.shared_servers import Guest, Host, SharedPostgres, SharedRabbitMQ, SharedRedis
from tests.harness.whisper_engine import WhisperEngine
from tests.harness.workers import end_with_parent

T = TypeVar("T")
TEARDOWN_LIMIT_S = 120.0
_stderr = pytest.StashKey[int]()
_host = pytest.StashKey[Host]()
_guest = pytest.StashKey[Guest]()


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until all tests are collected: most of what is made till then stays
    config.stash[_stderr] = os.dup(2)  # the true one, before tests' output is captured
    if hasattr(config, "workerinput"):  # as pytest-xdist tells its workers from the process that started them
        end_with_parent()
        config.stash[_guest] = Guest(*config.workerinput["servers"])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker where the shared servers are; in the process that starts the workers."""
    stash = node.config.stash
    if _host not in stash:
        stash[_host] = Host()
    node.workerinput["servers"] = (stash[_host].port, stash[_host].key)


def pytest_unconfigure(config: pytest.Config) -> None:
    if host := config.stash.get(_host, None):
        host.close()


def pytest_collection_finish() -> None:
    """Spare the garbage collector what all tests share: thousands of them, and all modules."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Bound what pytest-timeout does not: tearing down a test whose time is over.

    What hangs is often an event loop with a task that can't be cancelled. A watchdog outside it then prints
    where every thread is and ends the process: a run that fails is better than one that never ends.
    """
    faulthandler.dump_traceback_later(TEARDOWN_LIMIT_S, file=item.config.stash[_stderr], exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def make(kind: Callable[..., T], *arguments: Any, **options: Any) -> T:
    try:
        return kind(*arguments, **options)
    except ServersMissing as missing:
        pytest.fail(str(missing), pytrace=False)


def shared(
    config: pytest.Config,
    variable: str,
    external: Callable[[str], T],
    private: Callable[[], T],
    of_host: Callable[[Guest], T],
) -> T:
    """The server that `variable` names; of the process that started the workers; or of this one."""
    if url := os.environ.get(variable):
        return external(url)
    if guest := config.stash.get(_guest, None):
        return make(of_host, guest)
    return make(private)


@pytest.fixture(scope="session")
def rabbitmq(pytestconfig: pytest.Config) -> Iterator[RabbitMQServer]:
    """The run's broker, shared by all tests: do not stop, kill or pause it."""
    if "TEST_AMQP_URL" in os.environ and "PYTEST_XDIST_WORKER" in os.environ:
        pytest.fail(
            "TEST_AMQP_URL is one virtual host, which workers can't share: leave -n out", pytrace=False
        )
    with shared(
        pytestconfig,
        "TEST_AMQP_URL",
        servers.ExternalRabbitMQ,
        servers.private_rabbitmq,
        SharedRabbitMQ,
    ) as server:
        yield server


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    """The run's database server, shared by all tests: do not stop, kill or pause it."""
    with shared(
        pytestconfig,
        "TEST_DATABASE_URL",
        servers.ExternalPostgres,
        shared_servers.postgres,
        SharedPostgres,
    ) as server:
        yield server


@pytest.fixture(scope="session")
def redis(pytestconfig: pytest.Config) -> Iterator[RedisServer]:
    """The run's Redis, shared by all tests: do not stop, kill or pause it; take keys of your own."""
    with shared(
        pytestconfig, "TEST_REDIS_URL", servers.ExternalRedis, servers.private_redis, SharedRedis
    ) as server:
        yield server


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    """The session's language model, served by llama.cpp, also for embeddings: do not stop it."""
    with LlamaEngine(tmp_path_factory.mktemp("llama"), embedding=True) as engine:
        yield engine


@pytest.fixture(scope="session")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    """The session's model that thinks and calls tools, served by llama.cpp: do not stop it."""
    folder = tmp_path_factory.mktemp("thinker")
    with LlamaEngine(folder, name=THINKER, template=tiny_llama.TOOL_TEMPLATE) as engine:
        yield engine


@pytest.fixture(scope="session")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    """The session's model that scores documents, served by llama.cpp: do not stop it."""
    with LlamaEngine(tmp_path_factory.mktemp("reranker"), name=RERANKER, rerank=True) as engine:
        yield engine


@pytest.fixture(scope="session")
def espeak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EspeakEngine]:
    """The session's voice, eSpeak NG: do not stop it."""
    with EspeakEngine(tmp_path_factory.mktemp("espeak")) as engine:
        yield engine


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WhisperEngine]:
    """The session's ears, whisper.cpp with a tiny model: do not stop it."""
    with WhisperEngine(tmp_path_factory.mktemp("whisper")) as engine:
        yield engine


async def _forget_owner(url: str) -> None:
    async with await aio_pika.connect(url) as connection:
        await (await connection.channel()).exchange_delete(OWNER_EXCHANGE)


@pytest.fixture
def amqp_url(rabbitmq: RabbitMQServer) -> Iterator[str]:
    """An empty virtual host of the session's broker, removed afterwards.

    With TEST_AMQP_URL it is the url as given: AMQP cannot make a virtual host, so queues that a test leaves
    behind are there for the next one; only its owner is forgotten, because that has another database.
    """
    rabbitmq.start()  # nothing, unless the broker died under an earlier test
    url = rabbitmq.new_vhost()
    if "TEST_AMQP_URL" in os.environ:
        asyncio.run(_forget_owner(url))
    yield url
    rabbitmq.drop_vhost(url)


@pytest.fixture
def empty_database_url(postgres: PostgresServer) -> Iterator[str]:
    """An empty database of the session's server, dropped afterwards."""
    postgres.start()  # nothing, unless the server died under an earlier test
    url = postgres.new_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="session")
def migrated_database(postgres: PostgresServer) -> Iterator[str]:
    """A database with our tables and nothing in them, for copies: these take a third of making the tables."""
    url = postgres.new_database()
    migrate(url)
    yield url
    postgres.drop_database(url)


@pytest.fixture
def database_url(postgres: PostgresServer, migrated_database: str) -> Iterator[str]:
    """A database of the session's server that has our tables, dropped afterwards.

    Tests of how tables are made ask for `empty_database_url`.
    """
    postgres.start()  # nothing, unless the server died under an earlier test
    url = postgres.new_database(migrated_database)
    yield url
    postgres.drop_database(url)


@pytest.fixture
def private_rabbitmq() -> Iterator[Callable[..., RabbitMQServer]]:
    """A factory of started brokers that are the test's alone; options as of `servers.private_rabbitmq`."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(make(servers.private_rabbitmq, **options))


@pytest.fixture
def private_postgres() -> Iterator[Callable[..., PostgresServer]]:
    """A factory of started servers that are the test's alone; options as of `servers.private_postgres`."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(make(servers.private_postgres, **options))


@pytest.fixture(scope="session")
def _second_rabbitmq() -> Iterator[RabbitMQServer]:
    with make(servers.private_rabbitmq) as server:
        yield server


@pytest.fixture(scope="session")
def _second_postgres() -> Iterator[PostgresServer]:
    with make(servers.private_postgres) as server:
        yield server


@pytest.fixture
def breakable_rabbitmq(_second_rabbitmq: RabbitMQServer) -> RabbitMQServer:
    """A running broker that the test may kill, pause and restart; take a `new_vhost()`.

    What tests leave in it stays until its end: many virtual hosts with quorum queues that are deleted at once
    take the supervisor of RabbitMQ 3.10's dead-letter workers with them.
    """
    _second_rabbitmq.resume()
    _second_rabbitmq.come_back()
    return _second_rabbitmq


@pytest.fixture
def breakable_postgres(_second_postgres: PostgresServer) -> PostgresServer:
    """A running server that the test may kill, pause and restart; take a `new_database()`."""
    _second_postgres.resume()
    _second_postgres.start()
    return _second_postgres


@pytest.fixture(scope="module")
def _module_redis() -> Iterator[RedisServer]:
    with make(servers.private_redis) as server:
        yield server


@pytest.fixture
def breakable_redis(_module_redis: RedisServer) -> RedisServer:
    """A running server that this module's tests may kill, pause and restart."""
    _module_redis.resume()
    _module_redis.start()
    return _module_redis
