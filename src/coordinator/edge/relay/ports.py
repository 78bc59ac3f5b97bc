"""The ports of an application in an edge process: some ask the core, and all others say that it must answer.

A request that needs another port is answered 421 (Misdirected Request) here, which no client sees: the whole
exchange then goes to the core (`edge.relay.local`).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from uuid import UUID

from pydantic_core import to_json

from coordinator.application.keys.keyring import Grant, Keyring
from coordinator.application.ports import Intent, LogUnavailable
from coordinator.domain.errors import Code
from coordinator.domain.messages import Principal, Role
from coordinator.edge.context import Spent
from coordinator.edge.http.problems import MISDIRECTED, Problem
from coordinator.edge.relay.asking import Asking
from coordinator.edge.relay.calling import CoreGone
from coordinator.edge.relay.telling import REVOKED
from coordinator.wire.answers import Accepted, Answer, Refused
from coordinator.wire.heartbeat import Heartbeat

MOST_KEYS: Final = 10_000
"""Keys that an edge process remembers."""


class Misdirected(Problem):
    """The core must answer this request."""

    def __init__(self) -> None:
        super().__init__(Code.INTERNAL, "the core answers this", status=MISDIRECTED)


class Absent:
    """A port that only the core has."""

    def __getattr__(self, name: str) -> NoReturn:
        raise Misdirected

    def __call__(self, *arguments: Any) -> NoReturn:
        raise Misdirected


@dataclass(slots=True)
class Own:
    """What belongs to the request under way."""

    digest: bytes
    """Of its key."""
    grants: tuple[Grant, ...]
    spent: Spent | None = None


_own: ContextVar[Own] = ContextVar("own")


class LearnedKeys(Keyring):
    """The keys that the core has confirmed. It checks the grant again with each command (`send`)."""

    def __init__(self, asking: Asking) -> None:
        super().__init__({})
        self._asking = asking
        self.learned: OrderedDict[bytes, tuple[Grant, ...]] = OrderedDict()
        """By the digest of the key."""
        asking.on_lost(self.learned.clear)  # the next core may have other settings

    async def begin(self, key: str) -> Own | None:
        """Begin a request with this key; None if the core must check the key itself. Raises CoreGone."""
        digest = hashlib.sha256(key.encode(errors="surrogatepass")).digest()
        grants = self.learned.get(digest)
        if grants is None:
            told = await self._asking.ask("key", key)
            if not told:
                return None
            grants = self.learned[digest] = tuple(
                Grant(Principal(name, Role(role)), None if key_id is None else UUID(key_id), generation)
                for name, role, key_id, generation in told
            )
            while len(self.learned) > MOST_KEYS:
                self.learned.popitem(last=False)
        own = Own(digest, grants)
        _own.set(own)
        return own

    def grants(self, key: str) -> tuple[Grant, ...]:
        return _own.get().grants

    def forget(self, own: Own) -> None:
        """The core no longer holds a grant of this key."""
        self.learned.pop(own.digest, None)


class CoreRates:
    """`RateLimiter` of the core, for keys that are valid; failures are the core's alone."""

    def __init__(self, asking: Asking, limits: dict[str, int]) -> None:
        self._asking = asking
        self._limits = limits

    async def spend(self, role: str, name: str) -> Spent | None:
        if not self._limits.get(role):
            return None
        try:
            spent = await self._asking.ask("spend", role, name)
        except CoreGone as error:
            raise LogUnavailable("the core is away") from error
        own = _own.get()
        own.spent = None if spent is None else Spent(*spent)
        return own.spent

    async def failures(self, address: str, name: str, *, count: bool) -> Spent | None:
        return None

    async def delay(self, address: str) -> None: ...

    async def is_first_use(self, token: str, seconds: int) -> bool | None:
        raise Misdirected

    async def close(self) -> None: ...


class CoreGateway:
    """`Gateway` of the core."""

    def __init__(self, asking: Asking, keys: LearnedKeys) -> None:
        self._asking = asking
        self._keys = keys

    async def handle(self, intents: Sequence[Intent]) -> list[Answer]:
        """Raises Misdirected for a key that is no longer valid; LogUnavailable without the core."""
        own, principal = _own.get(), intents[0].principal
        grant = next(grant for grant in own.grants if grant.principal == principal)
        sender = [principal.name, principal.role.value, grant.key_id and str(grant.key_id), grant.generation]
        commands = b",".join(
            b'["%b",%b,%b]'
            % (
                intent.command.topic.encode(),
                intent.command.model_dump_json(exclude_unset=True).encode(),
                to_json(intent.traceparent) + b"," + to_json(intent.span),
            )
            for intent in intents
        )
        try:
            told = await self._asking.ask("send", sender, b"[" + commands + b"]")
        except CoreGone as error:
            raise LogUnavailable("the core is away") from error
        if told == REVOKED:
            self._keys.forget(own)
            raise Misdirected
        return [_answer(answer) for answer in told]

    async def heartbeat(self, principal: Principal, beats: Sequence[Heartbeat]) -> list[Answer]:
        raise Misdirected

    async def seen(self, sessions: Collection[tuple[str, str]]) -> None:
        raise Misdirected

    async def canonical(self, service: str) -> str:
        raise Misdirected

    async def state(self, stream: UUID) -> Any:
        raise Misdirected


def _answer(told: dict[str, Any]) -> Answer:
    if told.pop("status") == "accepted":
        return Accepted(told.pop("position"), told)
    return Refused(Code(told["code"]), told["detail"], told.get("retry_after"))
