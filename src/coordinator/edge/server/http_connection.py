"""An HTTP connection whose peer can't make us hold more than a few requests and one buffer of answers.

uvicorn's protocol takes in requests as fast as they arrive: whenever an application asks for its body, or an
answer is complete, it reads on, however many requests wait. It leaves requests that wait, and their
application, to themselves when the connection is lost. Here

- nothing is read while a request waits for the answer to another, or while the peer takes no data;
- a peer whose bytes cost much work (the smallest of chunks) is read less often;
- only MAX_WAITING requests wait; then the connection ends with the last of their answers, and 429;
- a lost connection ends the application of its running request, and drops everything else at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from coordinator.domain.errors import Code
from coordinator.edge.http.disconnects import CLIENT, RequestClient
from coordinator.edge.http.problems import Problem
from coordinator.edge.server.connections import connections_of
from coordinator.edge.server.gathered_writes import GatheredWrites
from coordinator.edge.server.header_limits import MAX_HEADER_BYTES, LimitedHeaders

MAX_WAITING: Final = 8
"""Pipelined requests that may wait for an answer. Their headers together are bounded as those of one."""
MUCH_WORK_SECONDS: Final = 0.005
"""Parsing the bytes of one read takes far less, unless they are made to take long."""
REST_FACTOR: Final = 4.0
"""Reading rests for so many times the seconds that parsing took."""
LINGER_SECONDS: Final = 2.0
"""For a peer to read why its connection was refused."""


class _TooManyWaiting(Exception):
    """Interrupts the parser; never leaves `data_received`."""


class _Flow(FlowControl):
    """Reads only while `may_read` says so, and never while the peer takes no data."""

    def __init__(self, transport: asyncio.Transport, may_read: Callable[[], bool]) -> None:
        super().__init__(transport)
        self.may_read = may_read

    def pause_reading(self) -> None:
        if not self._transport.is_closing():
            super().pause_reading()

    def resume_reading(self) -> None:
        if not self.write_paused and self.may_read() and not self._transport.is_closing():
            super().resume_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.resume_reading()


class BoundedHttp(LimitedHeaders):
    """One connection; see the module."""

    def __init__(self, config: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(config, *arguments, **named)
        self._all = connections_of(config)
        self._writes: GatheredWrites | None = None
        """Of the answers of this connection."""
        self._running: RequestResponseCycle | None = None
        self._client: RequestClient | None = None
        """The client, as the running request knows it."""
        self._waiting_bytes = 0  # of the headers of requests that wait
        self._last_word: Problem | None = None
        """Nothing more is read; this is said once all requests so far are answered."""
        self._resting: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None

    # --- the connection ------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self._may_read)
        self._writes = GatheredWrites(transport, self.loop)
        refusal = self._all.admit(self, transport)
        if refusal is not None:
            self._turn_away(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.release(self, under_way=self._under_way())
        if self._lingering is not None:
            self._lingering.cancel()
            self._all.end_lingering()
        running, client = self._running, self._client
        if client is not None:
            client.leave()
        if running is not None and not running.response_complete:
            # uvicorn tells the newest request only, which may be waiting behind this one.
            running.disconnected = True
            running.message_event.set()
        if self._resting is not None:
            self._resting.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._forget()

    def resume_writing(self) -> None:
        self._all.took_data(self)
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        # What the peer has not taken by now it never will.
        self.transport.abort()

    @property
    def reading_paused(self) -> bool:
        return self.flow.read_paused

    def _forget(self) -> None:
        """Cut the cycles of references, so that all memory comes back now and not with a late collection."""
        if isinstance(self.flow, _Flow):
            self.flow.may_read = _never
        self.pipeline.clear()
        self.parser = self._running = self._client = self.cycle = self._writes = None  # type: ignore[assignment]
        self.scope = self.headers = None  # type: ignore[assignment]

    def _turn_away(self, refusal: Problem) -> None:
        self._stop_timer()
        if not self._all.begin_lingering():
            self.transport.abort()
            return
        # Closed at once, the peer's kernel could drop our text when its request meets a closed socket.
        self._lingering = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        self._write_refusal(refusal)
        self.transport.write_eof()

    # --- requests ------------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        if self._lingering is not None or self._last_word is not None or self.transport.is_closing():
            return
        began = time.perf_counter()
        super().data_received(data)
        if (took := time.perf_counter() - began) > MUCH_WORK_SECONDS:
            self._rest(took * REST_FACTOR)
        if self.parser is None or self._under_way() or self._in_headers or self.transport.is_closing():
            return
        # Line ends between requests begin none; they must not keep the connection for ever.
        if self._timer is None and self.timeout_keep_alive_task is None:
            self._start_timer()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_WAITING or self._waiting_bytes > MAX_HEADER_BYTES:
            raise _TooManyWaiting
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        waiting = len(self.pipeline)
        super().on_headers_complete()
        if len(self.pipeline) > waiting:
            self._waiting_bytes += self._parsed_bytes

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._client is not None and self.cycle is self._running:
            self._client.has_sent_all = True

    def on_response_complete(self) -> None:
        if self._writes is not None:
            self._writes.flush()  # a head without a body
        self._running = self._client = None
        super().on_response_complete()
        if not self.pipeline:
            self._waiting_bytes = 0
        if self._last_word is not None and not self._under_way() and not self.transport.is_closing():
            self._write_refusal(self._last_word)
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running, self._client = cycle, RequestClient(has_sent_all=not cycle.more_body)
        cycle.scope["state"][CLIENT] = self._client
        cycle.transport = cast("asyncio.Transport", self._writes)
        super()._start_asgi_task(cycle, app)

    def _may_read(self) -> bool:
        return not self.pipeline and self._last_word is None and self._resting is None

    def _rest(self, seconds: float) -> None:
        if self._resting is None and not self.transport.is_closing():
            self._resting = self.loop.call_later(seconds, self._rested)
            self.flow.pause_reading()

    def _rested(self) -> None:
        self._resting = None
        self.flow.resume_reading()

    def _under_way(self) -> bool:
        return self._running is not None or bool(self.pipeline)

    def _invalid(self) -> Problem:
        if len(self.pipeline) >= MAX_WAITING or self._waiting_bytes > MAX_HEADER_BYTES:
            detail = f"more than {MAX_WAITING} requests wait on this connection; read the answers first"
            return Problem(Code.RATE_LIMITED, detail)
        return super()._invalid()

    def _refuse(self, problem: Problem) -> None:
        running = self._running
        if running is None and not self.pipeline:
            super()._refuse(problem)
        elif self.cycle is not None and self.cycle.more_body and not self._in_headers:
            # The newest request is invalid itself, and can't be answered by its application.
            if self.cycle is running and not running.response_started:
                super()._refuse(problem)
            else:
                self.transport.close()
        else:
            self._refuse_later(problem)

    def _refuse_later(self, problem: Problem) -> None:
        self._last_word = problem
        self.flow.pause_reading()

    # --- upgrades ------------------------------------------------------------------------------------------
    def _upgrade(self) -> None:
        if not self._should_upgrade():
            # An upgrade may be ignored. But the parser has dropped the bytes behind this request.
            self.cycle.keep_alive = False
        elif self._under_way():
            detail = "a WebSocket needs a connection of its own"
            self._refuse_later(Problem(Code.INVALID_PAYLOAD, detail, status=400))
        else:
            self.handle_websocket_upgrade()

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        protocol: Any = self.transport.get_protocol()
        self._all.hand_over(self, protocol)
        self._stop_timer()
        self._forget()


def _never() -> bool:
    return False
