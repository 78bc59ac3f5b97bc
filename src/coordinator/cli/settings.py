"""The settings of a coordinator for the commands that need them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.runtime.settings import Settings


def settings_with(data_dir: Path | None, **overrides: object) -> Settings:
    """The settings from the environment, with these overrides; None means "not set".

    Raises BadSettings.
    """
    from coordinator.runtime.settings import load_settings

    if data_dir is not None:
        overrides["data_dir"] = data_dir
    return load_settings(**overrides)
