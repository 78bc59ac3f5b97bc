"""Amounts that commands and uploads under way will use, so that many at once can't pass a limit together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

FORGOTTEN_SECONDS = 120.0
"""An amount whose outcome never came (a caller that was cancelled) is dropped after this time."""


class UnderWay:
    """Amounts by name and key. Used on the event loop only."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._amounts: dict[str, dict[Hashable, tuple[float, int]]] = {}
        self._sums: dict[str, int] = {}

    def holds(self, name: str, key: Hashable) -> bool:
        """Whether this amount is counted."""
        held = self._amounts.get(name)
        return held is not None and key in held

    def count(self, name: str) -> int:
        """The number of amounts of this name."""
        held = self._amounts.get(name)
        return 0 if held is None else len(held)

    def total(self, name: str) -> int:
        """The sum of the amounts of this name."""
        return self._sums.get(name, 0)

    def keys(self, name: str) -> Mapping[Hashable, tuple[float, int]]:
        """The keys of this name's amounts."""
        return self._amounts.get(name, {})

    def put(self, name: str, key: Hashable, amount: int) -> None:
        """Count an amount, in place of an earlier one with this key."""
        held = self._amounts.setdefault(name, {})
        _, before = held.get(key, (0.0, 0))
        held[key] = (self._monotonic(), amount)
        self._sums[name] = self._sums.get(name, 0) + amount - before

    def drop(self, name: str, key: Hashable) -> None:
        """Count it no longer: its outcome is known."""
        held = self._amounts.get(name)
        if held is None:
            return
        found = held.pop(key, None)
        if found is None:
            return
        if held:
            self._sums[name] -= found[1]
        else:
            del self._amounts[name], self._sums[name]

    def forget_old(self) -> None:
        """Drop the amounts whose outcome never came."""
        before = self._monotonic() - FORGOTTEN_SECONDS
        for name, held in list(self._amounts.items()):
            for key in [key for key, (at, _) in held.items() if at < before]:
                self.drop(name, key)
