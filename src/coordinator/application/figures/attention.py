"""What needs attention: each with one sentence, and what to do. Pure functions of facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from coordinator.application.metrics import PartHealth
from coordinator.domain.messages import Millis

Severity = Literal["broken", "warning"]
OLD_MILLIS: Final = 600_000
"""A job that waits longer is worth a look."""
STALE_MILLIS: Final = 60_000
"""Checkpoints follow events within seconds."""
LOW_DISK_SHARE: Final = 0.05
LOW_DISK_BYTES: Final = 2**30
UNSETTLED_MILLIS: Final = 60_000
"""A job is settled within seconds of its end."""
LATE_BATCH_MILLIS: Final = 3_600_000
"""A settlement batch takes no longer; that of a chain with one transfer in a block takes longest."""
MAX_CLASSES: Final = 5
MAX_MINERS: Final = 5
MAX_COUNTED: Final = 1000
_BYTES_PER_GB: Final = 10**9


class Attention(NamedTuple):
    """One line."""

    severity: Severity
    """`broken`: work stands still or may be lost; `warning`: somebody should look."""
    subject: str
    """A word for the kind, such as `class`, `miner`, `checkpoint`, `disk`; stable."""
    sentence: str
    advice: str
    """What to do."""
    query: str = ""
    """The jobs that it is about, as a query; empty if it is not about jobs."""
    link: str = ""
    """The page with more, as a path below the dashboard: `miners`, `classes`; empty for none."""


class BlockedClass(NamedTuple):
    """Queued jobs for which no miner can be found."""

    job_class: str
    service: str
    queued: int
    oldest_at: Millis | None
    why: str
    """A clause, without its full stop."""


class DoubtedMiners(NamedTuple):
    """The miners of one principal, with repeated failures or in quarantine."""

    principal: str
    service: str
    """Empty: every service."""
    quarantine: str
    """Empty, `probes` or `by hand`."""
    streak: int
    reason: str


class Disk(NamedTuple):
    """Bytes of the disk with the data directory."""

    free: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionFacts:
    """The facts of one moment."""

    now: Millis
    parts: Mapping[str, PartHealth]
    blocked: Sequence[BlockedClass] = ()
    doubted: Sequence[DoubtedMiners] = ()
    queued: int = 0
    oldest_at: Millis | None = None
    dead_letters: int | None = None
    disk: Disk | None = None
    disputes: int = 0
    """Open disputes, up to MAX_COUNTED."""
    unsettled: int = 0
    """Jobs that have ended and keep their hold, up to MAX_COUNTED."""
    unsettled_at: Millis | None = None
    """The first end of these."""
    batch: int = 0
    """The settlement batch that is not settled; 0 for none."""
    batch_at: Millis = 0
    """When it was closed."""
    checkpoint_at: Millis | None = None
    """When the last one was signed, if this process signs."""
    checkpoint_behind: bool = False
    """Whether events wait for one."""


def needs_attention(facts: AttentionFacts) -> tuple[Attention, ...]:
    """What needs attention, broken things first."""
    found = [*_parts(facts), *_disk(facts), *_checkpoint(facts), *_classes(facts), *_oldest(facts)]
    found += [*_miners(facts), *_dead_letters(facts), *_settlement(facts), *_batch(facts)]
    found += _disputes(facts)
    return tuple(sorted(found, key=lambda line: line.severity != "broken"))


def _parts(facts: AttentionFacts) -> Iterator[Attention]:
    for name, part in sorted(facts.parts.items()):
        if part.ok or not part.reason:
            continue
        full = "no space left" in part.reason
        advice = _FULL if full else _ADVICE.get(name, _OTHER_ADVICE)
        severity: Severity = "warning" if name in _MINOR else "broken"
        yield Attention(severity, "part", _sentence(part.reason), advice)


def _disk(facts: AttentionFacts) -> Iterator[Attention]:
    disk = facts.disk
    if disk is None or (disk.free >= LOW_DISK_BYTES and disk.free >= LOW_DISK_SHARE * disk.total):
        return
    severity: Severity = "broken" if disk.free < LOW_DISK_BYTES // 8 else "warning"
    free, total = disk.free / _BYTES_PER_GB, disk.total / _BYTES_PER_GB
    told = f"The disk with the data directory has {free:.1f} of {total:.0f} GB left."
    yield Attention(severity, "disk", told, _FULL)


def _checkpoint(facts: AttentionFacts) -> Iterator[Attention]:
    at = facts.checkpoint_at
    if at is None or not facts.checkpoint_behind or facts.now - at < STALE_MILLIS:
        return
    told = f"The last checkpoint is {span(facts.now - at)} old, and events wait for one."
    advice = "Look at the follower `notary` and at the witnesses in `coordinator doctor`."
    yield Attention("broken", "checkpoint", told, advice, link="audit")


def _classes(facts: AttentionFacts) -> Iterator[Attention]:
    for blocked in facts.blocked[:MAX_CLASSES]:
        jobs = "1 job" if blocked.queued == 1 else f"{blocked.queued:,} jobs"
        wait = "waits" if blocked.queued == 1 else "wait"
        since = "" if blocked.oldest_at is None else f", the oldest for {span(facts.now - blocked.oldest_at)}"
        told = f"{jobs} of {blocked.service} {wait}{since}: {blocked.why}."
        advice = "Start a miner that fits, or have their clients loosen what they ask for."
        query = f"state:queued class:{blocked.job_class}"
        yield Attention("warning", "class", told, advice, query, "classes")
    more = len(facts.blocked) - MAX_CLASSES
    if more > 0:
        told = (
            f"No miner can be found for the jobs of {more:,} further {'class' if more == 1 else 'classes'}."
        )
        yield Attention("warning", "class", told, "See the page Classes.", link="classes")


def _oldest(facts: AttentionFacts) -> Iterator[Attention]:
    at = facts.oldest_at
    if at is None or facts.now - at < OLD_MILLIS:
        return
    jobs = "1 job waits" if facts.queued == 1 else f"{facts.queued:,} jobs wait"
    told = f"{jobs} for a miner, the oldest for {span(facts.now - at)}."
    advice = "Look at what blocks its class; add miners if all are busy."
    minutes = OLD_MILLIS // 60_000
    yield Attention("warning", "queue", told, advice, f"state:queued age:>{minutes}m", "classes")


def _miners(facts: AttentionFacts) -> Iterator[Attention]:
    for line in facts.doubted[:MAX_MINERS]:
        of = f" for {line.service}" if line.service else ""
        why = f": {line.reason}" if line.reason else ""
        if line.quarantine:
            told = f"The miners of {line.principal} are in quarantine{of}{why}."
            advice = "Release them once the cause is mended."
            if line.quarantine == "probes":
                advice = "They get one probe job at a time; completing one ends it. Or release them."
        else:
            told = f"The miners of {line.principal} failed {line.streak} times in a row{of}{why}."
            advice = "Look at the errors of their last jobs."
        yield Attention("warning", "miner", told, advice, link="miners")
    more = len(facts.doubted) - MAX_MINERS
    if more > 0:
        others = "1 further key" if more == 1 else f"{more:,} further keys"
        told = f"The miners of {others} are in quarantine or failed several times in a row."
        yield Attention("warning", "miner", told, "See the page Miners.", link="miners")


def _dead_letters(facts: AttentionFacts) -> Iterator[Attention]:
    if facts.dead_letters:
        many = "1 message" if facts.dead_letters == 1 else f"{facts.dead_letters:,} messages"
        told = f"{many} could not be handled and {'is' if facts.dead_letters == 1 else 'are'} kept aside."
        advice = "Read why, then send them again or leave them."
        yield Attention("warning", "dead letters", told, advice, link="admin")


def _settlement(facts: AttentionFacts) -> Iterator[Attention]:
    at = facts.unsettled_at
    if not facts.unsettled or at is None or facts.now - at < UNSETTLED_MILLIS:
        return
    jobs, keep = (
        _counted(facts.unsettled, "job has", "jobs have"),
        "keeps" if facts.unsettled == 1 else "keep",
    )
    told = f"{jobs} ended and {keep} money held, the first for {span(facts.now - at)}."
    yield Attention("broken", "settlement", told, "Look at the follower `settler`.", link="money")


def _batch(facts: AttentionFacts) -> Iterator[Attention]:
    if facts.batch and facts.now - facts.batch_at >= LATE_BATCH_MILLIS:
        since = span(facts.now - facts.batch_at)
        told = f"Settlement batch {facts.batch} was closed {since} ago and is not settled."
        advice = "Its page says what to do; its money is in transit meanwhile."
        yield Attention("warning", "batch", told, advice, link=f"money/batches/{facts.batch}")


def _disputes(facts: AttentionFacts) -> Iterator[Attention]:
    if facts.disputes:
        told = f"{_counted(facts.disputes, 'payment is', 'payments are')} disputed."
        yield Attention("warning", "dispute", told, "An admin refunds or dismisses each.", link="money")


def _counted(count: int, one: str, many: str) -> str:
    more = "at least " if count >= MAX_COUNTED else ""
    return f"{more.capitalize()}{count:,} {one if count == 1 else many}"


def _sentence(reason: str) -> str:
    told = reason[:1].upper() + reason[1:]
    return told if told.endswith(".") else f"{told}."


def span(millis: int) -> str:
    """A span of time, such as "4 min" or "2 h"."""
    seconds = max(0, millis) // 1000
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


_FULL: Final = "Free space on that disk; work goes on by itself then."
_OTHER_ADVICE: Final = "Look for its name in the coordinator's log; `coordinator doctor` tries the servers."
_MINOR: Final = frozenset({"clock", "signing_key", "witnesses", "rate_limits"})
"""Parts without which this process still works."""
_ADVICE: Final[dict[str, str]] = {
    "log": "Look whether the database answers: `coordinator doctor`. Commands are refused meanwhile.",
    "log_read": "Look whether the database answers: `coordinator doctor`.",
    "blobs": "Look whether the store of files answers, and at its rights (BLOB_STORE).",
    "commands": "Look whether RabbitMQ answers: `coordinator doctor`. HTTP works meanwhile.",
    "heartbeats": "Look whether RabbitMQ answers: `coordinator doctor`. No session expires meanwhile.",
    "offers": "Look whether RabbitMQ answers: `coordinator doctor`. Jobs are offered again by themselves.",
    "clock": "Set this machine's clock right (NTP).",
    "event_loop": "This process has too much to do, or its machine has: look at its load.",
    "witnesses": "Ask the operators of the witnesses that do not sign.",
    "rate_limits": "Look whether Redis answers (RATE_LIMIT_REDIS_URL).",
    "signing_key": "All processes of one coordinator need the same RECEIPT_SIGNING_KEY_HEX.",
    "projector": "Pages and lists are old meanwhile. `coordinator projections check` compares them.",
    "dispatcher": "No jobs are offered meanwhile: restart this process, then look at the log's last error.",
    "settlement": "Nobody is paid out meanwhile; the batch on the page Money says what to do.",
    "notary": "No checkpoints are signed meanwhile; the error says what to do.",
}
