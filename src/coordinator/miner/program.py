"""The miner program: register, heartbeats, offers, work, results, and a stop that loses nothing.

exit_code = await MinerProgram(config, transport, load_executors()).run()
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import structlog

from coordinator.crypto.keys import SigningKey
from coordinator.domain.urls import parse_allowed
from coordinator.miner.attempt import Stopped
from coordinator.miner.blobs import HttpBlobs
from coordinator.miner.config import MinerConfig, detect_hardware, new_session_id
from coordinator.miner.executors.base import Executor
from coordinator.miner.fetch import WebFiles
from coordinator.miner.slots import Slots
from coordinator.miner.transport import NOT_LIVE, Transport

EXIT_OK, EXIT_REFUSED, EXIT_NO_EXECUTOR = 0, 1, 2
FAREWELL_SECONDS = 5.0
"""How long a stop waits for the coordinator to answer releases, and then `miner.leave`."""
DEFAULT_HEARTBEAT_SECONDS = 10.0
MAX_REPORTED_ATTEMPTS = 1024
MAX_REPORTED_PROGRESS = 100


class MinerProgram:
    """One run of a miner. `executors` maps service ids to what runs them."""

    def __init__(
        self,
        config: MinerConfig,
        transport: Transport,
        executors: Mapping[str, Executor],
        *,
        signing_key: SigningKey | None = None,
        blobs: HttpBlobs | None = None,
    ) -> None:
        self._config = config
        self._transport = transport
        self._executors = dict(executors)
        self._key = signing_key or SigningKey.load_or_create(config.key_file)
        self._blobs = blobs or HttpBlobs(
            config.coordinator_url, config.key, web=WebFiles(parse_allowed(config.fetch_allow_hosts))
        )
        self._slots = Slots(
            transport,
            self._executors,
            miner_id=config.miner_id,
            session_id=lambda: self._session_id,
            signing_key=self._key,
            blobs=self._blobs,
            folder=config.work_folder,
            on_session_lost=self.on_session_lost,
            on_drain=self.drain,
        )
        self._log = structlog.get_logger().bind(miner=config.miner_id)

        self._session_id = new_session_id()
        self._registered = asyncio.Event()
        self._lost = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._beat_seconds = DEFAULT_HEARTBEAT_SECONDS
        # Three steps of a stop: nothing new; the grace period runs; hand back now.
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._now = asyncio.Event()

    @property
    def session_id(self) -> str:
        """The present session's id."""
        return self._session_id

    @property
    def inflight(self) -> list[tuple[str, int]]:
        """(job id, attempt) of what this miner has in hand."""
        return list(self._slots.inflight)

    def stop(self) -> None:
        """Stop in an orderly way; a second call hands back at once what still runs. For signal handlers."""
        if self._hurry.is_set():
            self._now.set()
        self._hurry.set()
        self._stopping.set()

    def drain(self) -> None:
        """Finish what runs, however long that takes, and stop: the coordinator wants this miner out."""
        if not self._stopping.is_set():
            self._log.info("draining")
            self._stopping.set()

    async def run(self, *, handle_signals: bool = True) -> int:
        """Work until told to stop. The process's exit code: 0, or 1 or 2 where there was no way to start."""
        with self._signals() if handle_signals else contextlib.nullcontext():
            try:
                return await self._run()
            finally:
                await self._transport.close()
                await self._blobs.close()

    # --- life cycle ----------------------------------------------------------------------------------------
    async def _run(self) -> int:
        # 1. What this machine can do.
        await self._check_executors()
        if not self._executors:
            self._log.error("no_executor")
            return EXIT_NO_EXECUTOR
        hardware = self._config.hardware or await detect_hardware()
        capabilities = self._config.capabilities(sorted(self._executors), hardware)
        request = {
            "miner_id": self._config.miner_id,
            "capabilities": capabilities.model_dump(mode="json", exclude_none=True),
            "concurrency": self._config.concurrency,
            "public_key": self._key.key_id,
        }
        # 2. Register.
        await self._transport.start(self, self._config.concurrency)
        keeper = asyncio.create_task(self._keep_session(request))
        stopping = asyncio.create_task(self._stopping.wait())
        # 3. Work, and say so. Heartbeats go on until the farewell: what still runs keeps its lease.
        beats = asyncio.create_task(self._heartbeats())
        slots = [asyncio.create_task(self._slots.serve()) for _ in range(self._config.concurrency)]
        watch = asyncio.create_task(self._slots.watch())
        tasks = [keeper, stopping, beats, watch, *slots]
        try:
            await asyncio.wait({keeper, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if keeper.done():
                return keeper.result()
            # 4. Nothing new, and an end to what is here.
            keeper.cancel()
            await self._finish()
            return EXIT_OK
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _check_executors(self) -> None:
        problems: dict[int, str | None] = {}
        for service, executor in list(self._executors.items()):
            if id(executor) not in problems:
                try:
                    problems[id(executor)] = await executor.check()
                except Exception as error:
                    problems[id(executor)] = f"its check failed ({type(error).__name__})"
            problem = problems[id(executor)]
            if problem is not None:
                self._log.warning("service_unavailable", service=service, reason=problem)
                del self._executors[service]

    async def _keep_session(self, request: Mapping[str, Any]) -> int:
        """Register, and again whenever the session is lost; returns only when that is refused."""
        while await self._register(request):
            await self._lost.wait()
        return EXIT_REFUSED

    async def _register(self, request: Mapping[str, Any]) -> bool:
        while True:
            self._lost.clear()
            answer = await self._transport.register({**request, "session_id": self._session_id})
            if answer["status"] == "accepted":
                break
            if answer.get("code") != "SESSION_NOT_LIVE":
                self._log.error("refused", code=answer.get("code"), detail=answer.get("detail"))
                return False
            self._session_id = new_session_id()
        self._beat_seconds = float(answer.get("heartbeat_interval_seconds") or DEFAULT_HEARTBEAT_SECONDS)
        self._registered.set()
        self._log.info(
            "registered",
            session=self._session_id,
            profile=answer.get("profile"),
            services=sorted(self._executors),
            concurrency=self._config.concurrency,
        )
        return True

    async def _finish(self) -> None:
        """Get nothing new, finish or hand back what is here, and leave."""
        slots = self._slots
        slots.ending = True
        self._transport.stop_taking()
        self._log.info("stopping", inflight=len(slots.inflight))
        names = {"miner_id": self._config.miner_id, "session_id": self._session_id}
        # Beside the work, since nothing here depends on its answer.
        drain = asyncio.create_task(self._drained(names))
        try:
            if not slots.idle.is_set():
                await _first(slots.idle, self._hurry)
                await _first(slots.idle, self._now, timeout_seconds=self._config.grace_seconds)
            slots.stop_all(Stopped.HANDED_BACK)
            await _first(slots.idle, timeout_seconds=FAREWELL_SECONDS)
            if self._registered.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(FAREWELL_SECONDS):
                        await self._transport.call("miner.leave", names)
        finally:
            drain.cancel()
            await asyncio.gather(drain, return_exceptions=True)
        self._log.info("left", abandoned=len(slots.inflight))

    async def _drained(self, names: Mapping[str, Any]) -> None:
        if self._registered.is_set():
            await self._transport.call("miner.drain", names)

    # --- what the transport says (an `Inbox`) --------------------------------------------------------------
    def on_hint(self, hint: Mapping[str, Any]) -> None:
        match hint.get("hint"):
            case "cancel":
                self._cancel(hint)
            case "drain" if hint.get("session_id", self._session_id) == self._session_id:
                # One for an earlier session may have lain in the queue since that ended.
                self.drain()
            case "register":
                # The heartbeat's answer says whether this session is still known.
                self._beat_now.set()

    def on_session_lost(self, session_id: str) -> None:
        if session_id != self._session_id or not self._registered.is_set():
            return  # the news is old
        self._log.warning("session_lost", session=session_id)
        self._registered.clear()
        self._session_id = new_session_id()
        self._transport.suspend()
        self._slots.stop_all(Stopped.SESSION_LOST)
        self._lost.set()

    def _cancel(self, names: Any) -> None:
        if isinstance(names, Mapping) and isinstance(names.get("attempt"), int):
            self._slots.cancel(str(names.get("job_id")), names["attempt"])

    # --- heartbeats ----------------------------------------------------------------------------------------
    async def _heartbeats(self) -> None:
        while True:
            await self._registered.wait()
            self._beat_now.clear()
            started = asyncio.get_running_loop().time()
            try:
                await self._beat()
            except Exception as error:
                # Silence costs every lease; a heartbeat that went wrong costs one heartbeat.
                self._log.warning("heartbeat_failed", error=type(error).__name__)
            spent = asyncio.get_running_loop().time() - started
            await _first(self._beat_now, timeout_seconds=max(0.0, self._beat_seconds - spent))

    async def _beat(self) -> None:
        session_id = self._session_id
        held = [attempt for attempt in self._slots.inflight.values() if attempt.held]
        progress = {a.offer.job_id: round(a.progress, 3) for a in held[:MAX_REPORTED_PROGRESS] if a.progress}
        beat = {
            "miner_id": self._config.miner_id,
            "session_id": session_id,
            "inflight": [
                {"job_id": a.offer.job_id, "attempt": a.offer.attempt} for a in held[:MAX_REPORTED_ATTEMPTS]
            ],
            "status": "draining" if self._stopping.is_set() else "ok",
            "metadata": {"progress": progress} if progress else {},
        }
        answer = await self._transport.heartbeat(beat, self._beat_seconds)
        if answer is None or session_id != self._session_id:
            return
        if answer["status"] == "refused":
            if answer.get("code") in NOT_LIVE:
                self.on_session_lost(session_id)
            return
        for names in answer.get("cancel") or ():
            self._cancel(names)
        if answer.get("state") == "DRAINING":
            self.drain()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


async def _first(*events: asyncio.Event, timeout_seconds: float | None = None) -> None:
    """Wait until one of these is set, or the time is over."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiting:
            waiter.cancel()
