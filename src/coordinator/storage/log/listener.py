"""One thread that keeps a `HeadPosition` up to date with a Postgres log: notifications, and a slow poll.

LISTEN alone has gaps (before it started, while its connection was lost). So the thread reads the head
position after every LISTEN and every poll period, and starts over when the connection fails.

Each commit of this process notifies it as well. Its own commits are known to it, so it leaves notifications
unread while nobody waits for them: otherwise each commit would wake one more thread.
"""

from __future__ import annotations

import os
import selectors
from threading import Thread

import psycopg
import structlog

from coordinator.storage.connections.postgres_pool import connection_arguments
from coordinator.storage.log.head_position import HeadPosition

LISTEN_APPLICATION = "coordinator-listen"
POLL_SECONDS = 0.5
RESTART_SECONDS = 0.25

_logger = structlog.get_logger(__name__)


class Listener:
    """Call `start` once, `stop` any number of times."""

    def __init__(self, url: str, channel: str, head_statement: str, head: HeadPosition) -> None:
        self._arguments = connection_arguments(url, LISTEN_APPLICATION)
        self._channel = channel
        self._head_statement = head_statement
        self._head = head
        self._wake_read, self._wake_write = os.pipe()
        self._thread = Thread(target=self._run, name=LISTEN_APPLICATION, daemon=True)
        self._stopped = False
        self._disconnected = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        os.write(self._wake_write, b"x")
        self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            while not self._stopped:
                try:
                    with psycopg.connect(**self._arguments, autocommit=True) as connection:
                        self._listen(connection)
                except (psycopg.Error, OSError) as error:
                    if not self._disconnected:
                        self._disconnected = True  # logged once per outage
                        _logger.warning("log_listener_disconnected", reason=str(error).partition("\n")[0])
                    selector.select(RESTART_SECONDS)

    def _listen(self, connection: psycopg.Connection) -> None:
        connection.execute("SET statement_timeout = '5s'")
        connection.execute(f"LISTEN {self._channel}")
        if self._disconnected:
            self._disconnected = False
            _logger.info("log_listener_connected")
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            selector.register(connection.fileno(), selectors.EVENT_READ)
            ask = True
            while not self._stopped:
                if ask:
                    row = connection.execute(self._head_statement).fetchone()
                    assert row is not None
                    self._head.moved(row[0])
                # Drain before waiting: a notification may have come with the answer above.
                ask = self._drain(connection)
                if ask:
                    continue
                if selector.select(POLL_SECONDS):
                    # For a bounded time: the server keeps the notifications that we do not read.
                    self._head.wait_until_awaited(POLL_SECONDS)
                else:
                    ask = True

    def _drain(self, connection: psycopg.Connection) -> bool:
        """Take the waiting notifications. True if one of them came without a position."""
        ask = False
        for notification in connection.notifies(timeout=0):
            if notification.payload.isdigit():
                self._head.moved(int(notification.payload))
            else:
                ask = True  # the library's own append notifies without a position
        return ask
