"""Everything besides jobs: miners, services and their names, API keys, quotas, standings, the signing key."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from coordinator.audit.entries import Found
from coordinator.audit.units import Terms, terms_of

Event = dict[str, Any]
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "coordinator")


class Session(NamedTuple):
    """What a miner registered with a session."""

    key: str
    price: str | None
    """Of a second."""
    prices: dict[str, str]
    """Of counted units."""

    def asked(self, unit: str | None) -> str | None:
        """Its own price of a unit."""
        return self.price if unit is None else self.prices.get(unit)


class Parties:
    """Their states after the events so far."""

    def __init__(self) -> None:
        self.sessions: dict[str, dict[str, Session]] = {}
        """By miner, then by session; the ended ones, too."""
        self.live: dict[str, list[Any]] = {}
        """By miner: session and state."""
        self.versions: dict[str, list[Terms]] = {}
        """By service: the terms of each version."""
        self.holders: dict[str, str] = {}
        """By name: the service that has it."""
        self.keys: dict[str, list[Any]] = {}
        """By API key: name, generation, whether it is revoked."""
        self.webhooks: dict[str, list[Any]] = {}
        """By webhook: owner, generation, whether it is removed."""
        self.quarantined: dict[str, bool] = {}
        self.signing: list[tuple[int, str]] = []
        """The coordinator's signing keys, with the position from which on they were in force."""
        self.unread: list[str] = []
        """Topics of events of which only a digest is known: large specifications of services."""

    # --- what jobs ask for ---------------------------------------------------------------------------------
    def session(self, miner_id: str, session_id: str) -> Session | None:
        """A session that was registered before, over or not."""
        return self.sessions.get(miner_id, {}).get(session_id)

    def terms(self, service: str, version: int) -> Terms | None:
        """The terms of a version that was registered before."""
        known = self.versions.get(service, [])
        return known[version - 1] if 1 <= version <= len(known) else None

    # --- events --------------------------------------------------------------------------------------------
    def follow(self, stream: str, topic: str, event: Event, position: int) -> None:
        """Change by one event. Raises Found."""
        handler = _HANDLERS.get(topic)
        if handler is None:
            raise Found("event", f"the auditor does not know {topic}")
        handler(self, stream, event, position)

    def _registered(self, stream: str, event: Event, position: int) -> None:
        miner = event["miner_id"]
        in_stream(stream, "miner", miner)
        if event["by"] != miner.rpartition("@")[2]:
            raise Found("session", "a miner registers itself", miner.rpartition("@")[2], event["by"])
        sessions = self.sessions.setdefault(miner, {})
        if event["session_id"] in sessions:
            raise Found("session", f"the session {event['session_id']} was registered before")
        sessions[event["session_id"]] = _session(event)
        self.live[miner] = [event["session_id"], "ONLINE"]

    def _drained(self, stream: str, event: Event, position: int) -> None:
        self._live(stream, event, "ONLINE")[1] = "DRAINING"

    def _gone(self, stream: str, event: Event, position: int) -> None:
        self._live(stream, event, "ONLINE", "DRAINING")[1] = "OFFLINE"

    def _live(self, stream: str, event: Event, *states: str) -> list[Any]:
        miner = event["miner_id"]
        in_stream(stream, "miner", miner)
        live = self.live.get(miner)
        if live is None or live[0] != event["session_id"] or live[1] not in states:
            raise Found("session", "the event is not of the live session", live, event["session_id"])
        return live

    def _service(self, stream: str, event: Event, position: int) -> None:
        spec = event["spec"]
        in_stream(stream, "service", spec["id"])
        known = self.versions.setdefault(spec["id"], [])
        version = event.get("version", 1)
        if version != len(known) + 1:
            raise Found("service", "the versions of an entry are 1, 2, 3, …", len(known) + 1, version)
        known.append(terms_of(spec))
        for name in dict.fromkeys((spec["id"], *spec["aliases"])):
            holder = self.holders.get(name)
            if holder not in (None, spec["id"]):
                raise Found("service", f"the name {name} belongs to another entry", holder, spec["id"])

    def _retired(self, stream: str, event: Event, position: int) -> None:
        in_stream(stream, "service", event["service"])
        if event["service"] not in self.versions:
            raise Found("service", f"{event['service']} was never registered")

    def _name_claimed(self, stream: str, event: Event, position: int) -> None:
        in_stream(stream, "name", event["name"])
        holder = self.holders.get(event["name"])
        if holder is not None:
            raise Found("service", f"the name {event['name']} is held", holder, event["service"])
        self.holders[event["name"]] = event["service"]

    def _name_released(self, stream: str, event: Event, position: int) -> None:
        in_stream(stream, "name", event["name"])
        if self.holders.get(event["name"]) != event["service"]:
            raise Found(
                "service", f"the name {event['name']} was not the entry's", self.holders.get(event["name"])
            )
        del self.holders[event["name"]]

    def _key_created(self, stream: str, event: Event, position: int) -> None:
        _equal("stream", "a key's events are in the stream of its id", stream, event["key_id"])
        if stream in self.keys:
            raise Found("transition", "a key is created once")
        self.keys[stream] = [event["name"], 1, False]

    def _key_rotated(self, stream: str, event: Event, position: int) -> None:
        key = self._key(stream, event)
        _equal("transition", "the next generation is one more", key[1] + 1, event["generation"])
        key[1] = event["generation"]

    def _key_revoked(self, stream: str, event: Event, position: int) -> None:
        self._key(stream, event)[2] = True

    def _key(self, stream: str, event: Event) -> list[Any]:
        _equal("stream", "a key's events are in the stream of its id", stream, event["key_id"])
        key = self.keys.get(stream)
        if key is None or key[2] or key[0] != event["name"]:
            raise Found("transition", "the key is unknown, revoked, or has another name", key, event["name"])
        return key

    def _quota(self, stream: str, event: Event, position: int) -> None:
        in_stream(stream, "quota", event["name"])

    def _webhook_created(self, stream: str, event: Event, position: int) -> None:
        _equal("stream", "a webhook's events are in the stream of its id", stream, event["webhook_id"])
        if stream in self.webhooks:
            raise Found("transition", "a webhook is created once")
        self.webhooks[stream] = [event["owner"], 1, False]

    def _webhook_changed(self, stream: str, event: Event, position: int) -> None:
        self._webhook(stream, event)

    def _webhook_rotated(self, stream: str, event: Event, position: int) -> None:
        webhook = self._webhook(stream, event)
        _equal("transition", "the next generation is one more", webhook[1] + 1, event["generation"])
        webhook[1] = event["generation"]

    def _webhook_removed(self, stream: str, event: Event, position: int) -> None:
        self._webhook(stream, event)[2] = True

    def _callbacks_rotated(self, stream: str, event: Event, position: int) -> None:
        in_stream(stream, "webhook callbacks", event["owner"])
        known = self.webhooks.setdefault(stream, [event["owner"], 1, False])
        _equal("transition", "the next generation is one more", known[1] + 1, event["generation"])
        known[1] = event["generation"]

    def _webhook_replayed(self, stream: str, event: Event, position: int) -> None:
        if stream not in self.webhooks:  # a client's callbacks, whose stream may begin so
            in_stream(stream, "webhook callbacks", event["owner"])
            self.webhooks[stream] = [event["owner"], 1, False]
        self._webhook(stream, event)

    def _webhook(self, stream: str, event: Event) -> list[Any]:
        _equal("stream", "a webhook's events are in the stream of its id", stream, event["webhook_id"])
        known = self.webhooks.get(stream)
        if known is None or known[2] or known[0] != event["owner"]:
            raise Found(
                "transition", "the webhook is unknown, removed, or has another owner", known, event["owner"]
            )
        return known

    def _alarm(self, stream: str, event: Event, position: int) -> None:
        in_stream(stream, "alarm", event["type"], event["subject"], str(event["fault_position"]))

    def _quarantined(self, stream: str, event: Event, position: int) -> None:
        self.quarantined[stream] = True

    def _released(self, stream: str, event: Event, position: int) -> None:
        if not self.quarantined.get(stream):
            raise Found("transition", "a release without a quarantine")
        self.quarantined[stream] = False

    def _signing_key(self, stream: str, event: Event, position: int) -> None:
        in_stream(stream, "signing_key", "coordinator")
        current = self.signing[-1][1] if self.signing else None
        _equal("transition", "a new signing key retires the one before", current, event["retires"])
        self.signing.append((position, event["key_id"]))

    # --- a file --------------------------------------------------------------------------------------------
    def dump(self) -> dict[str, Any]:
        """For a file; see `load`."""
        return dict(vars(self))

    @classmethod
    def load(cls, values: dict[str, Any]) -> Parties:
        """The parties of `dump`, read from JSON."""
        parties = cls()
        vars(parties).update(values)
        parties.sessions = {
            miner: {session: Session(*facts) for session, facts in sessions.items()}
            for miner, sessions in parties.sessions.items()
        }
        parties.versions = {
            service: [Terms(*terms) for terms in known] for service, known in parties.versions.items()
        }
        parties.signing = [(position, key) for position, key in parties.signing]
        return parties


def in_stream(stream: str, kind: str, *names: str) -> None:
    """Raise Found unless this is the id of the stream with these names."""
    expected = str(uuid.uuid5(_NAMESPACE, "\n".join((kind, *names))))
    _equal("stream", f"the events of a {kind} are in the stream of its name", expected, stream)


def _equal(kind: str, detail: str, expected: Any, found: Any) -> None:
    if expected != found:
        raise Found(kind, detail, expected, found)


def _session(event: Event) -> Session:
    able = event["capabilities"]
    prices = {price["unit"]: price["amount"] for price in able.get("prices", ())}
    return Session(event["public_key"], able.get("price"), prices)


_HANDLERS: Final[dict[str, Callable[[Parties, str, Event, int], None]]] = {
    "miner.registered.v1": Parties._registered,
    "miner.drained.v1": Parties._drained,
    "miner.left.v1": Parties._gone,
    "miner.lost.v1": Parties._gone,
    "service.registered.v1": Parties._service,
    "service.revised.v1": Parties._service,
    "service.retired.v1": Parties._retired,
    "name.claimed.v1": Parties._name_claimed,
    "name.released.v1": Parties._name_released,
    "key.created.v1": Parties._key_created,
    "key.rotated.v1": Parties._key_rotated,
    "key.revoked.v1": Parties._key_revoked,
    "quota.was_set.v1": Parties._quota,
    "webhook.created.v1": Parties._webhook_created,
    "webhook.changed.v1": Parties._webhook_changed,
    "webhook.disabled.v1": Parties._webhook_changed,
    "webhook.rotated.v1": Parties._webhook_rotated,
    "webhook.callbacks_rotated.v1": Parties._callbacks_rotated,
    "webhook.tested.v1": Parties._webhook_changed,
    "webhook.replayed.v1": Parties._webhook_replayed,
    "webhook.removed.v1": Parties._webhook_removed,
    "alarm.raised.v1": Parties._alarm,
    "standing.quarantined.v1": Parties._quarantined,
    "standing.released.v1": Parties._released,
    "signing_key.introduced.v1": Parties._signing_key,
}
