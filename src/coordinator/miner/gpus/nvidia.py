"""NVIDIA's GPUs, by NVML (nvidia-ml-py, the extra `coordinator[gpu]`)."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from coordinator.miner.gpus import nvml
from coordinator.miner.gpus.found import Collected, GpuReport, number, one_line
from coordinator.miner.gpus.tools import ToolFailed, ask_json
from coordinator.miner.gpus.visible import hidden, visible

SOURCE: Final = "NVML"
# -P: the folder of the script is not searched for modules.
COMMAND: tuple[str, ...] = (sys.executable, "-P", str(Path(nvml.__file__)))
DRIVER_FILES: Final = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"))


async def find(environment: Mapping[str, str]) -> GpuReport:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves. Never raises."""
    try:
        said = await ask_json(*COMMAND)
    except ToolFailed as error:
        return GpuReport(problems=(f"NVML (in a process of its own): {error}",))
    if not isinstance(said, dict):
        return GpuReport(problems=("NVML: an unreadable answer",))
    if said.get("missing"):
        missing = "no nvidia-ml-py: install coordinator[gpu] to find NVIDIA's GPUs"
        is_driver = any(path.exists() for path in DRIVER_FILES)
        return GpuReport(problems=(missing,)) if is_driver else GpuReport(absent=(missing,))

    found = Collected(SOURCE, "nvidia", problems=_lines(said.get("problems")))
    for gpu in _objects(said.get("gpus")):
        found.add(
            gpu.get("name"),
            number(gpu.get("memory_mb")),
            number(gpu.get("free_mb")),
            index=int(number(gpu.get("index")) or 0),
            # The id of its card stands for all slices of the card.
            ids=tuple(one_line(gpu[key]) for key in ("uuid", "older_uuid", "card_uuid") if gpu.get(key)),
            driver=one_line(said.get("driver")) or None,
            compute=one_line(gpu.get("compute")) or None,
        )
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None and _counts_otherwise(found, chosen, environment):
        found.problems.append(
            "CUDA_VISIBLE_DEVICES counts unequal cards, the fastest first: set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
    cuda = one_line(said.get("cuda"))
    seen = visible(found.gpus, chosen)
    return GpuReport(
        seen,
        cuda if re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}", cuda) else None,
        tuple(found.problems),
        tuple(_lines(said.get("absent"))),
        hidden("CUDA_VISIBLE_DEVICES", found.gpus, seen),
    )


def _counts_otherwise(found: Collected, chosen: str, environment: Mapping[str, str]) -> bool:
    """Whether CUDA's indices may be others than NVML's, which go by the place on the bus."""
    by_index = any(entry.strip().isdigit() for entry in chosen.split(","))
    unequal = len({(gpu.gpu.name, gpu.gpu.memory_mb) for gpu in found.gpus}) > 1
    return by_index and unequal and environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _lines(value: object) -> list[str]:
    return [line for one in value if (line := one_line(one))] if isinstance(value, list) else []
