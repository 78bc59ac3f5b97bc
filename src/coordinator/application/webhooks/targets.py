"""Which receiver is told of what, as of the position of the follower `webhooks`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from coordinator.application.ports import Tables
from coordinator.application.webhooks.messages import Notice


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """A webhook as of the follower's position."""

    webhook_id: str
    owner: str
    role: str
    events: frozenset[str]
    enabled: bool


class WebhookTargets:
    """All of them, by owner: an event costs its owner's and the admins', however many others there are.

    One thread changes them while the event loop reads: `_of` holds tuples, which are replaced.
    """

    def __init__(self) -> None:
        self._known: dict[str, WebhookTarget] = {}
        self._of: dict[tuple[str, str], tuple[WebhookTarget, ...]] = {}
        """By owner and role; all admins' together."""

    @classmethod
    def load(cls, tables: Tables) -> WebhookTargets:
        """As the table has them. In a thread."""
        loaded = cls()
        for row in tables.query("webhooks_targets"):
            events, enabled = frozenset(row["events"].split()), bool(row["enabled"])
            loaded.put(WebhookTarget(row["webhook_id"], row["owner"], row["role"], events, enabled))
        return loaded

    def __bool__(self) -> bool:
        return bool(self._known)

    def get(self, webhook_id: str) -> WebhookTarget | None:
        return self._known.get(webhook_id)

    def put(self, target: WebhookTarget) -> None:
        self.remove(target.webhook_id)
        self._known[target.webhook_id] = target
        place = _place(target)
        self._of[place] = (*self._of.get(place, ()), target)

    def remove(self, webhook_id: str) -> None:
        known = self._known.pop(webhook_id, None)
        if known is not None:
            place = _place(known)
            self._of[place] = tuple(one for one in self._of[place] if one is not known)
            if not self._of[place]:
                del self._of[place]

    def wanting(self, notice: Notice) -> Iterator[WebhookTarget]:
        """Those that are told of this: its owner's, and the admins'."""
        for place in _ADMINS, (notice.owner or "", notice.role):
            for target in self._of.get(place, ()):
                if notice.type in target.events:
                    yield target


_ADMINS = ("", "admin")


def _place(target: WebhookTarget) -> tuple[str, str]:
    return _ADMINS if target.role == "admin" else (target.owner, target.role)


def write_targets(tables: Tables, changed: Mapping[str, WebhookTarget | None]) -> None:
    """Store these; None for one that is removed. In a thread."""
    left = [target for target in changed.values() if target is not None]
    if left:
        tables.put(
            "webhook_targets",
            [
                {
                    "webhook_id": target.webhook_id,
                    "owner": target.owner,
                    "role": target.role,
                    "events": " ".join(sorted(target.events)),
                    "enabled": int(target.enabled),
                }
                for target in left
            ],
        )
    gone = sorted(webhook_id for webhook_id, target in changed.items() if target is None)
    if gone:
        tables.remove("webhook_targets", gone)
        tables.remove("webhook_health", gone)
