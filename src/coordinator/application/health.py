"""Health: the one place that knows of each part of this process whether it worked lately.

Parts report success and failure as they work. A part that has nothing to do is probed, so that a fault shows
before the next request meets it. Asking costs no I/O.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.metrics import PartHealth

PROBE_SECONDS = 1.0
"""Between two probes of a part."""
PROBE_TIMEOUT_SECONDS = 2.5
"""A probe without an answer by then has failed."""
SHOWN_SECONDS = 1.5
"""A fault that was mended at once is shown for so long, so that monitoring sees it."""
LINGER_SECONDS = 2.0
"""A probe's success counts only if the part has not failed for so long."""
BEAT_SECONDS = 0.5
STALL_SECONDS = 2.0
"""An event loop that is this late stood still."""
STALL_SHOWN_SECONDS = 5.0

log = structlog.get_logger("health")


class Part:
    """One part's health. Thread-safe: each report is one assignment."""

    def __init__(self, name: str, *, essential: bool, monotonic: Callable[[], float]) -> None:
        self.name = name
        self.essential = essential
        """Whether this process should get no requests while the part fails."""
        self.failures = 0
        """How often it began to fail."""
        self.worked_at = monotonic()
        self._monotonic = monotonic
        self._failed_at = 0.0
        """When it last failed."""
        self._failing: tuple[str, float] | None = None
        """Reason, and the moment since which it fails."""
        self._mended: tuple[str, float] | None = None
        """The last fault's reason, and the moment until which it is shown."""

    @property
    def ok(self) -> bool:
        """Whether its last attempt succeeded."""
        return self._failing is None

    @property
    def problem(self) -> str | None:
        """The reason why it does not work, or did not a moment ago."""
        if self._failing is not None:
            return self._failing[0]
        if self._mended is not None and self._monotonic() < self._mended[1]:
            return self._mended[0]
        return None

    def idle_for(self, seconds: float) -> bool:
        """Whether its last success is longer ago."""
        return self._monotonic() - self.worked_at > seconds

    def probed(self) -> None:
        """A probe succeeded. That proves less than the real work, which may have failed a moment ago."""
        if self._failing is None or self._monotonic() - self._failed_at > LINGER_SECONDS:
            self.works()

    def works(self) -> None:
        """It has just worked."""
        self.worked_at = self._monotonic()
        if self._failing is not None:
            reason, since = self._failing
            self._mended = (reason, since + SHOWN_SECONDS)
            self._failing = None
            log.info("health.works_again", part=self.name, after_seconds=round(self.worked_at - since, 1))

    def fails(self, reason: str, *, detail: str = "") -> None:
        """It has just failed. `reason` is public and has no secrets; `detail` goes to the log only."""
        self._failed_at = self._monotonic()
        if self._failing is None:
            self.failures += 1
            self._failing = (reason, self._monotonic())
            log.warning("health.failing", part=self.name, reason=reason, detail=detail)
        elif self._failing[0] != reason:
            self._failing = (reason, self._failing[1])


class ProbeFailed(Exception):
    """A probe's outcome. The text is public."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Tries a part out: `run` returns if the part works, and raises if it does not."""

    part: Part
    run: Callable[[], Awaitable[None]]
    every_seconds: float = PROBE_SECONDS
    only_idle: bool = False
    """Leave it out while the part works without it."""


@dataclass
class Health:
    """All parts of a process."""

    monotonic: Callable[[], float] = time.monotonic
    restart: str | None = None
    """The reason why only a restart of this process helps, if there is one."""
    _parts: dict[str, Part] = field(default_factory=dict)
    _checks: dict[str, Callable[[], Sequence[str]]] = field(default_factory=dict)

    def part(self, name: str, *, essential: bool = True) -> Part:
        """The part of this name, made at the first call."""
        if name not in self._parts:
            self._parts[name] = Part(name, essential=essential, monotonic=self.monotonic)
        return self._parts[name]

    def watch(self, name: str, check: Callable[[], Sequence[str]]) -> None:
        """A part that is asked for its problems instead: immediate, without I/O."""
        self._checks[name] = check

    def parts(self) -> dict[str, PartHealth]:
        """The health of each part, by name."""
        found = {
            part.name: PartHealth(part.problem is None, part.problem, part.failures)
            for part in self._parts.values()
        }
        for name, check in self._checks.items():
            problems = check()
            found[name] = PartHealth(not problems, "; ".join(problems) or None, 0)
        return found

    def reasons(self) -> list[str]:
        """Why this process should get no requests; empty if all is well."""
        found = [] if self.restart is None else [self.restart]
        found += [problem for p in self._parts.values() if p.essential and (problem := p.problem) is not None]
        for check in self._checks.values():
            found += check()
        return list(dict.fromkeys(found))

    def warnings(self) -> list[str]:
        """Problems that keep nobody out."""
        return [p.problem for p in self._parts.values() if not p.essential and p.problem is not None]

    def view(self) -> dict[str, Any]:
        """The parts for `/health`."""
        view: dict[str, Any] = {}
        for part in self._parts.values():
            problem = part.problem
            view[part.name] = {"ok": True} if problem is None else {"ok": False, "reason": problem}
        for name, check in self._checks.items():
            reason = "; ".join(check())
            view[name] = {"ok": False, "reason": reason} if reason else {"ok": True}
        return view


def reason_of(error: BaseException) -> str:
    """A public reason: without what a server's own message might tell of hosts, users and names."""
    if isinstance(error, ProbeFailed):
        return str(error)
    text = str(error).partition("\n")[0]
    told = text.partition(":")[0] or type(error).__name__
    full = any(words in text for words in ("No space left", "disk is full", "Disk quota"))
    return f"{told}: no space left on its disk" if full else told


class HealthProbes:
    """A component: runs the probes, and watches the event loop's own pace."""

    def __init__(self, health: Health, probes: Sequence[Probe]) -> None:
        self._health = health
        self._probes = probes
        self._loop = health.part("event_loop")
        self._tasks = [BackgroundTask(f"probe-{probe.part.name}") for probe in probes]
        self._beat = BackgroundTask("health-beat")

    async def start(self) -> None:
        for task, probe in zip(self._tasks, self._probes, strict=True):
            task.start(lambda probe=probe: self._keep(probe))  # type: ignore[misc]
        self._beat.start(self._keep_beat)

    async def stop(self) -> None:
        await asyncio.gather(self._beat.stop(), *(task.stop() for task in self._tasks))

    async def _keep(self, probe: Probe) -> None:
        running: asyncio.Future[None] | None = None
        try:
            while True:
                if not (probe.only_idle and probe.part.ok and not probe.part.idle_for(probe.every_seconds)):
                    # One at a time: a probe that hangs is waited for, and the part fails meanwhile.
                    running = running or asyncio.ensure_future(probe.run())
                    done, _ = await asyncio.wait([running], timeout=PROBE_TIMEOUT_SECONDS)
                    if done:
                        finished, running = running, None
                        _report(probe.part, finished)
                    else:
                        probe.part.fails(f"{probe.part.name}: no answer for {PROBE_TIMEOUT_SECONDS:g} s")
                await asyncio.sleep(probe.every_seconds)
        finally:
            if running is not None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def _keep_beat(self) -> None:
        """Note when the event loop stood still: answers came late, and heartbeats waited."""
        monotonic, shown_until = self._health.monotonic, 0.0
        while True:
            before = monotonic()
            await asyncio.sleep(BEAT_SECONDS)
            late = monotonic() - before - BEAT_SECONDS
            if late > STALL_SECONDS:
                shown_until = monotonic() + STALL_SHOWN_SECONDS
                self._loop.fails(f"the event loop stood still for {late:.0f} s")
            elif monotonic() >= shown_until:
                self._loop.works()


def _report(part: Part, finished: asyncio.Future[None]) -> None:
    if finished.cancelled():
        part.fails(f"{part.name}: no answer")
        return
    error = finished.exception()
    if error is None:
        part.probed()
    else:
        part.fails(reason_of(error), detail=str(error).partition("\n")[0])


def in_own_thread(name: str, call: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    """A blocking probe, in a thread of its own: one that hangs takes none away from others."""
    threads = ThreadPoolExecutor(1, thread_name_prefix=f"probe-{name}")

    async def run() -> None:
        await asyncio.get_running_loop().run_in_executor(threads, call)

    return run
