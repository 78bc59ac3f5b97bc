"""The setting GPUS: the GPUs that detection can't find, or should not."""

from __future__ import annotations

import json
from typing import Annotated, Final

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from coordinator.domain.matching.gpus import Gpu
from coordinator.domain.matching.needs import Version
from coordinator.miner.gpus.found import FoundGpu, GpuReport
from coordinator.validation import first_invalid_field

SOURCE: Final = "GPUS"
MAX_GPUS: Final = 64
"""As many as a miner may register."""
_HINT: Final = 'none, or JSON such as [{"name": "NVIDIA L4", "vendor": "nvidia", "memory_mb": 23034}]'


class BadSetting(ValueError):
    """The setting is invalid; the text says why, and what it may be."""


class _GivenGpu(Gpu):
    model_config = ConfigDict(strict=True)

    cuda: Version | None = None
    """The newest CUDA version that its driver supports."""


_GIVEN: Final = TypeAdapter(Annotated[tuple[_GivenGpu, ...], Field(min_length=1, max_length=MAX_GPUS)])


def read_setting(text: str) -> GpuReport | None:
    """The GPUs that the setting names, in place of detected ones; None if it is empty. Raises BadSetting."""
    text = text.strip()
    if not text:
        return None
    if text.lower() == "none":
        return GpuReport()
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        raise BadSetting(f"neither none nor JSON; it may be {_HINT}") from None
    try:
        given = _GIVEN.validate_json(text)
    except ValidationError as error:
        raise BadSetting(f"{first_invalid_field(error).text('the list')}; it may be {_HINT}") from None
    versions = sorted((gpu.cuda for gpu in given if gpu.cuda), key=lambda v: [int(n) for n in v.split(".")])
    return GpuReport(
        tuple(
            FoundGpu(Gpu(name=gpu.name, vendor=gpu.vendor, memory_mb=gpu.memory_mb), SOURCE, index)
            for index, gpu in enumerate(given)
        ),
        cuda=versions[-1] if versions else None,
    )
