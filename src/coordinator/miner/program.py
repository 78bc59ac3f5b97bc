"""The miner program: registration, heartbeats, offers, work, results, and a stop that loses nothing.

exit_code = await MinerProgram(config, transport, load_executors()).run()
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import structlog

from coordinator.crypto.keys import SigningKey
from coordinator.miner.abilities import Abilities
from coordinator.miner.attempt import Stopped
from coordinator.miner.blobs import HttpBlobs
from coordinator.miner.config import Hardware, MinerConfig, new_session_id
from coordinator.miner.executors.base import Executor, remove_left_workspaces
from coordinator.miner.executors.limits import share_of_machine
from coordinator.miner.fetch import WebFiles
from coordinator.miner.gpus import GpuWatch
from coordinator.miner.signing import StatementSigner
from coordinator.miner.slots import Slots
from coordinator.miner.transport import NOT_LIVE, Transport
from coordinator.wire.heartbeat import MAX_INFLIGHT, Heartbeat, HeldAttempt
from coordinator.wire.http.urls import parse_allowed

EXIT_OK, EXIT_REFUSED, EXIT_NO_EXECUTOR = 0, 1, 2
LEAVE_SECONDS = 5.0
"""How long a stop waits for the answers to releases, and as long again for that to `miner.leave`."""
DEFAULT_HEARTBEAT_SECONDS = 10.0
MAX_REPORTED_PROGRESS = 100
HINTED_BEATS, HINTED_SECONDS = 5, 0.5
"""Further heartbeats after a hint to cancel, and their distance: an answer may be a moment behind the log."""


class MinerProgram:
    """One run of a miner. `executors` maps service ids to their executors."""

    def __init__(
        self,
        config: MinerConfig,
        transport: Transport,
        executors: Mapping[str, Executor],
        *,
        signing_key: SigningKey | None = None,
        blobs: HttpBlobs | None = None,
        on_answered: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """`on_answered(seconds)` is called at each answer that confirms the session; the next is due then."""
        self._config = config
        self._on_answered = on_answered
        self._transport = transport
        self._abilities = Abilities(executors, config.models)
        self._gpus = GpuWatch(config.gpus)
        self._key = signing_key or SigningKey.load_or_create(config.key_file)
        self._blobs = blobs or HttpBlobs(
            config.coordinator_url, config.key, web=WebFiles(parse_allowed(config.fetch_allow_hosts))
        )
        self._slots = Slots(
            transport,
            self._abilities.executors,
            miner_id=config.miner_id,
            session_id=lambda: self._session_id,
            signer=StatementSigner(self._key),
            key=self._key,
            blobs=self._blobs,
            folder=config.work_folder,
            share=share_of_machine(
                config.concurrency, memory_bytes=config.job_memory_bytes, folder=config.work_folder
            ),
            on_session_lost=self.on_session_lost,
            on_drain=self.drain,
            still_offers=self._still_offers,
        )
        self._log = structlog.get_logger().bind(miner=config.miner_id)

        self.refusal: tuple[str, str] | None = None
        """Code and detail of the coordinator's refusal, if one ended the program."""
        self._session_id = new_session_id()
        self._registered = asyncio.Event()
        self._lost = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._hinted: dict[tuple[str, Any], int] = {}
        """Attempts that a hint called cancelled, and the further heartbeats that ask about them."""
        self._changed = asyncio.Event()
        self._signed_off = False
        """No executor works at present, so there is no session."""
        self._registration: dict[str, Any] = {}
        self._beat_seconds = DEFAULT_HEARTBEAT_SECONDS
        # The three steps of a stop: begin nothing new; the grace period runs; hand back now.
        self._stopping = asyncio.Event()
        self._grace_runs = asyncio.Event()
        self._hand_back = asyncio.Event()

    @property
    def session_id(self) -> str:
        """The id of the present session."""
        return self._session_id

    @property
    def inflight(self) -> list[tuple[str, int]]:
        """The attempts in hand, as (job id, attempt)."""
        return list(self._slots.inflight)

    def stop(self) -> None:
        """Stop in order; a second call hands back running jobs at once. For signal handlers."""
        if self._grace_runs.is_set():
            self._hand_back.set()
        self._grace_runs.set()
        self._stopping.set()

    def drain(self) -> None:
        """Finish the running jobs without a time limit, then stop: the coordinator drains this miner."""
        if not self._stopping.is_set():
            self._log.info("draining")
            self._stopping.set()

    async def run(self, *, handle_signals: bool = True) -> int:
        """Work until stopped. Returns the exit code of the process: EXIT_OK, or why it could not start."""
        with self._signals() if handle_signals else contextlib.nullcontext():
            try:
                return await self._run()
            finally:
                await self._transport.close()
                await self._blobs.close()

    # --- life cycle ----------------------------------------------------------------------------------------
    async def _run(self) -> int:
        # 1. Find the abilities of this machine.
        if left := await asyncio.to_thread(remove_left_workspaces, self._config.work_folder):
            self._log.warning("left_folders_removed", folders=left)
        await self._abilities.check()
        self._log.info("services_checked", on=self._abilities.services, off=self._abilities.problems)
        if not self._abilities.executors:
            self._log.error("no_executor")
            return EXIT_NO_EXECUTOR
        hardware = self._config.hardware
        if hardware is None:
            gpus = await self._gpus.find()
            hardware = Hardware(tuple(found.gpu for found in gpus.gpus), gpus.cuda)
        self._request(hardware)  # raises for bad capabilities
        # 2. Register.
        await self._transport.start(self, self._config.concurrency)
        keeper = asyncio.create_task(self._keep_session(hardware))
        stopping = asyncio.create_task(self._stopping.wait())
        # 3. Work. Heartbeats continue until the end, so that running jobs keep their leases.
        beats = asyncio.create_task(self._heartbeats())
        slots = [asyncio.create_task(self._slots.serve()) for _ in range(self._config.concurrency)]
        watch = asyncio.create_task(self._slots.watch())
        abilities = asyncio.create_task(self._keep_abilities())
        reports = asyncio.create_task(self._slots.report())
        gpus_kept = asyncio.create_task(self._gpus.keep(self._config.recheck_seconds))
        tasks = [keeper, stopping, beats, watch, abilities, reports, gpus_kept, *slots]
        try:
            await asyncio.wait({keeper, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if keeper.done():
                return keeper.result()
            # 4. Begin nothing new, and finish the jobs in hand.
            keeper.cancel()
            abilities.cancel()
            await self._finish()
            return EXIT_OK
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _request(self, hardware: Hardware) -> dict[str, Any]:
        """The registration with the present abilities. Raises BadConfig."""
        capabilities = self._config.capabilities(
            self._abilities.services, hardware, models=self._abilities.models
        )
        return {
            "miner_id": self._config.miner_id,
            "capabilities": capabilities.model_dump(mode="json", exclude_none=True),
            "concurrency": self._config.concurrency,
            "public_key": self._key.key_id,
        }

    async def _keep_session(self, hardware: Hardware) -> int:
        """Register, and again whenever the session is over. Returns only after a refusal."""
        while True:
            self._lost.clear()
            if self._abilities.executors:
                request = self._request(hardware)
                if self._registration not in ({}, request):
                    self._session_id = new_session_id()  # one session has one set of abilities
                self._registration = request
                if not await self._register(request):
                    return EXIT_REFUSED
            await self._lost.wait()

    # --- changing abilities --------------------------------------------------------------------------------
    async def _keep_abilities(self) -> None:
        """Check the watched executors from time to time, and register changed abilities."""
        while self._abilities.can_change:
            await _first(self._changed, timeout_seconds=self._config.recheck_seconds)
            if self._changed.is_set() or await self._abilities.check_again():
                await self._renew()

    async def _still_offers(self, service: str) -> bool:
        """A job could not reach its engine: check whether this miner can still run such jobs."""
        if await self._abilities.check_again():
            self._pause()
            self._changed.set()
        return service in self._abilities.executors

    async def _renew(self) -> None:
        """The abilities have changed: finish the running jobs, then begin a session with the new abilities.

        A new session ends the leases of the old one, so no job may be in hand then. No new job is taken
        meanwhile, as the queue may hold jobs that this miner can't run any more.
        """
        self._log.info("abilities_changed", services=self._abilities.services, models=self._abilities.models)
        if not self._signed_off:
            await self._registered.wait()
            self._pause()
            while self._slots.inflight:  # the answer to the last result may have brought a claimed job
                await self._slots.idle.wait()
            self._registered.clear()
            names = {"miner_id": self._config.miner_id, "session_id": self._session_id}
            self._session_id = new_session_id()
            if not self._abilities.executors:
                await self._transport.call("miner.leave", names)
        self._changed.clear()
        self._signed_off = not self._abilities.executors
        if not self._signed_off:
            self._slots.paused = False
            self._lost.set()

    def _pause(self) -> None:
        self._slots.paused = True
        self._transport.suspend()

    async def _register(self, request: Mapping[str, Any]) -> bool:
        while True:
            self._lost.clear()
            answer = await self._transport.register({**request, "session_id": self._session_id})
            if answer["status"] == "accepted":
                break
            if answer.get("code") != "SESSION_NOT_LIVE":
                self.refusal = str(answer.get("code")), str(answer.get("detail"))
                self._log.error("refused", code=answer.get("code"), detail=answer.get("detail"))
                return False
            self._session_id = new_session_id()
        self._beat_seconds = float(answer.get("heartbeat_interval_seconds") or DEFAULT_HEARTBEAT_SECONDS)
        self._registered.set()
        self._on_answered(self._beat_seconds)
        self._log.info(
            "registered",
            session=self._session_id,
            profile=answer.get("profile"),
            services=self._abilities.services,
            models=self._abilities.models,
            concurrency=self._config.concurrency,
        )
        return True

    async def _finish(self) -> None:
        """Take nothing new, finish or hand back the jobs in hand, and leave."""
        slots = self._slots
        slots.ending = True
        self._transport.stop_taking()
        self._log.info("stopping", inflight=len(slots.inflight))
        names = {"miner_id": self._config.miner_id, "session_id": self._session_id}
        drain: asyncio.Task[None] | None = None
        try:
            if not slots.idle.is_set():
                # Concurrently, since nothing here depends on its answer. With nothing in hand, `leave` says
                # enough; a drain on another connection could come before or after it.
                drain = asyncio.create_task(self._drained(names))
                await _first(slots.idle, self._grace_runs)
                await _first(slots.idle, self._hand_back, timeout_seconds=self._config.grace_seconds)
            slots.stop_all(Stopped.HANDED_BACK)
            await _first(slots.idle, timeout_seconds=LEAVE_SECONDS)
            if self._registered.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LEAVE_SECONDS):
                        await self._transport.call("miner.leave", names)
        finally:
            if drain is not None:
                drain.cancel()
                await asyncio.gather(drain, return_exceptions=True)
        self._log.info("left", abandoned=len(slots.inflight))

    async def _drained(self, names: Mapping[str, Any]) -> None:
        if self._registered.is_set():
            await self._transport.call("miner.drain", names)

    # --- calls from the transport (a `MinerInbox`) ---------------------------------------------------------
    def on_hint(self, hint: Mapping[str, Any]) -> None:
        match hint.get("hint"):
            case "progress":
                if isinstance(hint.get("attempt"), int):
                    self._slots.send_progress(str(hint.get("job_id")), hint["attempt"])
            case "cancel" | "drain" | "register":
                # Nothing is done at a hint's word: the heartbeat's answer says which attempts are no longer
                # ours, whether to drain, and whether this session is still known.
                key = str(hint.get("job_id")), hint.get("attempt")
                if key in self._slots.inflight:
                    self._hinted[key] = HINTED_BEATS
                self._beat_now.set()

    def on_report_refused(self, job_id: str, attempt: int) -> None:
        # An answer, unlike a hint, comes from the coordinator alone.
        self._slots.cancel(job_id, attempt)

    def on_session_lost(self, session_id: str) -> None:
        if session_id != self._session_id or not self._registered.is_set():
            return  # an earlier session
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
                # Without heartbeats every lease would expire; one that fails costs one heartbeat.
                self._log.warning("heartbeat_failed", error=type(error).__name__)
            spent = asyncio.get_running_loop().time() - started
            await _first(self._beat_now, timeout_seconds=self._until_next_beat(spent))

    def _until_next_beat(self, spent: float) -> float:
        """Seconds until the next heartbeat: soon, while a hinted attempt is still in hand."""
        inflight = self._slots.inflight
        self._hinted = {k: left - 1 for k, left in self._hinted.items() if left > 0 and k in inflight}
        pause = max(0.0, self._beat_seconds - spent)
        return min(pause, HINTED_SECONDS) if self._hinted else pause

    async def _beat(self) -> None:
        session_id = self._session_id
        held = [attempt for attempt in self._slots.inflight.values() if attempt.held]
        progress = {
            a.job_id: round(a.progress.fraction, 3)
            for a in held[:MAX_REPORTED_PROGRESS]
            if a.progress.fraction
        }
        beat = Heartbeat(
            miner_id=self._config.miner_id,
            session_id=session_id,
            inflight=tuple(
                HeldAttempt(job_id=a.offer.job_id, attempt=a.offer.attempt) for a in held[:MAX_INFLIGHT]
            ),
            status="draining" if self._stopping.is_set() else "ok",
            gpus=self._gpus.memory,
            metadata={"progress": progress} if progress else {},
        )
        answer = await self._transport.heartbeat(beat, self._beat_seconds)
        if answer is None or session_id != self._session_id:
            return
        if answer["status"] == "refused":
            if answer.get("code") in NOT_LIVE:
                self.on_session_lost(session_id)
            return
        self._on_answered(self._beat_seconds)
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
