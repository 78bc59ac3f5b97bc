"""A log of many jobs as the domain's own decisions write it, with real signatures of two miners.

Of ten jobs one fails first, one is lost by its miner, one uses up its attempts, one is canceled, one expires,
one comes without a claim, one is billed by images, and the others complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from coordinator.application.ports import EventLog, NewEvent, StoredPayload
from coordinator.crypto.canonical import salted_digest
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.statement import sign_statements
from coordinator.domain import miner, service, signing_key
from coordinator.domain.decision import Context, fold
from coordinator.domain.matching.needs import Constraints, wanted
from coordinator.domain.matching.units import NANO
from coordinator.domain.messages import SYSTEM, Event, Metadata, Principal, Role
from coordinator.domain.name import NameClaimed, name_stream
from tests.harness import deciding as made

COORDINATOR = SigningKey(bytes(range(32)))
MINERS = {"rig": SigningKey(b"r" * 32), "node1@farm": SigningKey(b"f" * 32)}
SALT = b"0123456789abcdef"
TOGETHER = 16
"""Statements under one signature, and jobs in one append."""
PAINTING = made.a_spec(
    id="painting",
    pricing={"unit": "image", "amount": "0.0500", "shown": [{"member": "images"}]},
    max_units={"each": [{"member": "images", "default": 4, "units": "1"}]},
)
ABLE = made.capabilities(services=("painting", "whisper"))


class Entry(NamedTuple):
    stream: UUID
    event: Event


def write(log: EventLog, jobs: int) -> None:
    """Append the log of so many jobs."""
    versions: dict[UUID, int] = {}
    _append(log, versions, _beginning(), [])
    for first in range(0, jobs, TOGETHER):
        numbers = range(first, min(first + TOGETHER, jobs))
        lives = [Life(number) for number in numbers]
        before = [entry for life in lives for entry in life.until_result()]
        signed: dict[str, dict[str, Any]] = {}
        for name, key in MINERS.items():
            mine = [life for life in lives if life.finisher == name]
            documents = sign_statements(key, [life.statement for life in mine]) if mine else []
            signed |= {str(life.job_id): document for life, document in zip(mine, documents, strict=True)}
        after = [e for life in lives if life.finisher for e in life.result(signed[str(life.job_id)])]
        _append(log, versions, [*before, *after], [p for life in lives for p in life.payloads])


def _beginning() -> Iterator[Entry]:
    introduce = signing_key.SigningKeyIntroduce(key_id=COORDINATOR.key_id)
    [(stream, event)] = signing_key.decide(None, introduce, Context(made.T0, SYSTEM))
    yield Entry(stream, event)
    common: dict[str, Any] = {"at": made.T0, "by": SYSTEM.name}
    for spec in (made.a_spec(), PAINTING):
        yield Entry(service.service_stream(spec.id), service.ServiceRegistered(**common, spec=spec))
        yield Entry(name_stream(spec.id), NameClaimed(**common, name=spec.id, service=spec.id))
    for name, key in MINERS.items():
        event = made.registered(miner_id=name, public_key=key.key_id, capabilities=ABLE)
        yield Entry(miner.miner_stream(name), event)


def _append(
    log: EventLog, versions: dict[UUID, int], entries: Sequence[Entry] | Iterator[Entry], payloads: Any
) -> None:
    new = []
    for stream, event in entries:
        versions[stream] = versions.get(stream, 0) + 1
        metadata = Metadata(f"command-{len(versions)}", "")
        new.append(NewEvent(stream, versions[stream], event, metadata))
    log.append(new, payloads)


class Life:
    """One job from its submit to its end."""

    def __init__(self, number: int) -> None:
        self.job_id = UUID(int=(0x0190163D << 96) | (0x7 << 76) | (0x8 << 60) | (number + 1))
        self.number = number
        self.now = made.T0 + number * 10
        self.state: Any = None
        self.entries: list[Entry] = []
        self.payloads: list[StoredPayload] = []
        self.finisher = ""
        self.service = "whisper"
        self.attempt = 1

    def until_result(self) -> list[Entry]:
        """Its events up to the result, or to its end without one."""
        payload = {"audio": f"{self.number}.wav"}
        digest = salted_digest(SALT, payload)
        self.payloads.append(
            StoredPayload(self.job_id, "payload", SALT, f'{{"audio":"{self.number}.wav"}}'.encode())
        )
        facts: dict[str, Any] = {"job_id": self.job_id, "payload_digest": digest}
        kind = self.number % 10
        if kind == 7:
            self.service = PAINTING.id
            facts["service"] = service.RegisteredService(PAINTING, 1)
            facts["wanted"] = wanted(PAINTING.id, Constraints(), *PAINTING.price())
        self._do(made.submit(service=self.service, payload=payload), made.ALICE, **facts)
        if kind == 0:
            self._claim("rig")
            self._do(self._of(made.fail(1, miner_id="rig")), made.RIG)
            self.attempt = 2
        elif kind == 1:
            self._claim("rig")
            self._do(self._of(made.lose(1)), SYSTEM)
            self.attempt = 2
        elif kind == 2:
            for attempt in (1, 2, 3):
                self.attempt = attempt
                self._claim("rig")
                self._do(self._of(made.fail(attempt, miner_id="rig")), made.RIG)
        elif kind == 3:
            self._do(self._of(made.cancel("no longer needed")), made.ALICE)
        elif kind == 4:
            self.now += 1_000_000
            self._do(self._of(made.expire()), SYSTEM)
        if kind not in (2, 3, 4):
            self.finisher = "node1@farm" if kind in (0, 1, 5) else "rig"
            if kind != 6:  # without a claim
                self._claim(self.finisher)
        return self.entries

    @property
    def statement(self) -> dict[str, Any]:
        """What its miner signs."""
        return {
            "version": "1",
            "job_id": str(self.job_id),
            "attempt": self.attempt,
            "miner_id": self.finisher,
            "session_id": made.SESSION,
            "service": self.service,
            "payload_digest": self.state.job.payload_digest,
            "result_digest": salted_digest(SALT, {"text": f"{self.number}"}),
            "started_at_ms": self.now,
            "completed_at_ms": self.now + 1000,
            **({"units": {"image": "4"}} if self.service == PAINTING.id else {}),
        }

    def result(self, statement: dict[str, Any]) -> list[Entry]:
        """The events of its result."""
        before = len(self.entries)
        self.payloads.append(
            StoredPayload(self.job_id, "result", SALT, f'{{"text":"{self.number}"}}'.encode())
        )
        self.now += 1500
        command = self._of(made.complete(self.attempt, miner_id=self.finisher, statement=statement))
        shown = 3 * NANO if self.service == PAINTING.id else None
        self._do(command, self._principal(self.finisher), miner=self._online(self.finisher), shown=shown)
        return self.entries[before:]

    def _claim(self, name: str) -> None:
        self.now += 5
        command = self._of(made.start(self.attempt, miner_id=name))
        self._do(command, self._principal(name), miner=self._online(name))

    def _of(self, command: Any) -> Any:
        return command.model_copy(update={"job_id": self.job_id})

    def _online(self, name: str) -> miner.Online:
        return miner.Online(made.registered(miner_id=name, public_key=MINERS[name].key_id, capabilities=ABLE))

    def _principal(self, name: str) -> Principal:
        return Principal(name.rpartition("@")[2], Role.MINER)

    def _do(self, command: Any, by: Principal, **facts: Any) -> None:
        self.now += 1
        context = made.context_of(command, self.now, by, **facts)
        events = made.decide(self.state, command, context)
        self.entries += [Entry(self.job_id, event) for event in events]
        self.state = fold(events, self.state)
