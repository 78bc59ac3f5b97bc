"""The coordinator's signing keys, present and past: which was in force when, and which can still sign."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from coordinator.application.ports import Recorded
from coordinator.crypto.keys import SigningKey
from coordinator.domain.signing_key import is_signing_key_event


class KeyPeriod(NamedTuple):
    """A key was in force for the events after position `after`, up to `until`."""

    key_id: str
    after: int
    until: int | None
    """None: it is in force."""


def key_periods(events: Sequence[Recorded]) -> list[KeyPeriod]:
    """The periods that follow from the events of the keys' stream, the oldest first. A key may come back."""
    introduced = [(r.event.key_id, r.position) for r in events if is_signing_key_event(r.event)]
    ends = [*(position for _, position in introduced[1:]), None]
    # Without any event there is one end too many.
    return [KeyPeriod(key, after, end) for (key, after), end in zip(introduced, ends, strict=False)]


def key_at(periods: Sequence[KeyPeriod], position: int) -> str | None:
    """The key in force for the event at this position; None if no key was recorded before it."""
    known = [period.key_id for period in periods if period.after < position]
    return known[-1] if known else None


class SigningKeys:
    """The private keys of this process. Its repr shows none."""

    def __init__(self, current: SigningKey, retired: Iterable[SigningKey] = ()) -> None:
        """`current` signs everything new; `retired` only what belongs to their time."""
        self.current = current
        self.retired = tuple(retired)
        self._held = {key.key_id: key for key in (*self.retired, current)}

    def for_receipt(self, periods: Sequence[KeyPeriod], position: int) -> tuple[SigningKey, str | None]:
        """The key that signs the receipt of the event at this position.

        If the key of its time is gone, the current one signs, and the second value is the key of its time.
        """
        named = key_at(periods, position)
        if named is None:
            return self.current, None
        held = self._held.get(named)
        return (self.current, named) if held is None else (held, None)
