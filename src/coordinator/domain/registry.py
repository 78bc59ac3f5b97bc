"""All commands and events by topic: this module imports the whole domain, which registers them."""

from __future__ import annotations

import importlib
import pkgutil

from coordinator import domain
from coordinator.domain.messages import COMMANDS, EVENTS

__all__ = ["COMMANDS", "EVENTS"]

for _module in pkgutil.iter_modules(domain.__path__, f"{domain.__name__}."):
    if _module.name != __name__:
        importlib.import_module(_module.name)

for _registry in (COMMANDS, EVENTS):
    # The order of imports must not show: the generated schemas follow the order of these tables.
    _sorted = sorted(_registry.items(), key=lambda entry: entry[0].partition(".")[0])
    _registry.clear()
    _registry.update(_sorted)  # type: ignore[arg-type]
