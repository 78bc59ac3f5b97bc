"""Which receiver is told of what, as of the position of the follower `webhooks`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from coordinator.application.ports import Tables
from coordinator.application.webhooks.messages import Notice


@dataclass(frozen=True, slots=True)
class Subscription:
    """A webhook as of the follower's position."""

    webhook_id: str
    owner: str
    role: str
    events: frozenset[str]
    enabled: bool


class Subscriptions:
    """All of them, by owner: an event costs its owner's and the admins', however many others there are.

    One thread changes them while the event loop reads: `_of` holds tuples, which are replaced.
    """

    def __init__(self) -> None:
        self._known: dict[str, Subscription] = {}
        self._of: dict[tuple[str, str], tuple[Subscription, ...]] = {}
        """By owner and role; all admins' together."""

    @classmethod
    def load(cls, tables: Tables) -> Subscriptions:
        """As the table has them. In a thread."""
        loaded = cls()
        for row in tables.query("webhooks_targets"):
            events, enabled = frozenset(row["events"].split()), bool(row["enabled"])
            loaded.put(Subscription(row["webhook_id"], row["owner"], row["role"], events, enabled))
        return loaded

    def __bool__(self) -> bool:
        return bool(self._known)

    def get(self, webhook_id: str) -> Subscription | None:
        return self._known.get(webhook_id)

    def put(self, subscription: Subscription) -> None:
        self.remove(subscription.webhook_id)
        self._known[subscription.webhook_id] = subscription
        place = _place(subscription)
        self._of[place] = (*self._of.get(place, ()), subscription)

    def remove(self, webhook_id: str) -> None:
        known = self._known.pop(webhook_id, None)
        if known is not None:
            place = _place(known)
            self._of[place] = tuple(one for one in self._of[place] if one is not known)
            if not self._of[place]:
                del self._of[place]

    def wanting(self, notice: Notice) -> Iterator[Subscription]:
        """Those that are told of this: its owner's, and the admins'."""
        for place in _ADMINS, (notice.owner or "", notice.role):
            for subscription in self._of.get(place, ()):
                if notice.type in subscription.events:
                    yield subscription


_ADMINS = ("", "admin")


def _place(subscription: Subscription) -> tuple[str, str]:
    return _ADMINS if subscription.role == "admin" else (subscription.owner, subscription.role)


def write_subscriptions(tables: Tables, changed: Mapping[str, Subscription | None]) -> None:
    """Store these; None for one that is removed. In a thread."""
    left = [subscription for subscription in changed.values() if subscription is not None]
    if left:
        tables.put(
            "webhook_targets",
            [
                {
                    "webhook_id": subscription.webhook_id,
                    "owner": subscription.owner,
                    "role": subscription.role,
                    "events": " ".join(sorted(subscription.events)),
                    "enabled": int(subscription.enabled),
                }
                for subscription in left
            ],
        )
    gone = sorted(webhook_id for webhook_id, subscription in changed.items() if subscription is None)
    if gone:
        tables.remove("webhook_targets", gone)
        tables.remove("webhook_health", gone)
