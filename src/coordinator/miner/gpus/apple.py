"""GPUs of a Mac, by `system_profiler` and `sysctl`.

Apple's chips have one memory for all. Metal lets the GPU use two thirds of it, or three quarters where there
are more than 36 GiB (`recommendedMaxWorkingSetSize`), unless `iogpu.wired_limit_mb` says otherwise. So much
counts as the memory of the GPU.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any, Final

from coordinator.domain.matching.gpus import Vendor
from coordinator.miner.gpus.found import BYTES_PER_MIB, Collected, GpuReport, number, one_line
from coordinator.miner.gpus.tools import ToolFailed, ask, ask_json

LARGE_MEMORY_MB: Final = 36 * 1024
_VENDORS: Final[dict[str, Vendor]] = {"apple": "apple", "amd": "amd", "intel": "intel", "nvidia": "nvidia"}
_MEMORY: Final = re.compile(r"^([0-9]{1,6}) ?(MB|GB)$")


async def find(_: Mapping[str, str]) -> GpuReport:
    """The GPUs of this machine, if it is a Mac. Never raises."""
    if sys.platform != "darwin":
        return GpuReport()
    return await find_on_mac()


async def find_on_mac() -> GpuReport:
    """What the tools of macOS say. Never raises."""
    try:
        said = await ask_json("system_profiler", "SPDisplaysDataType", "-json")
        listed = said.get("SPDisplaysDataType") if isinstance(said, dict) else None
        cards = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        unified = await _unified_memory() if any(_vendor(card) == "apple" for card in cards) else None
    except ToolFailed as error:
        return GpuReport(problems=(str(error),))
    whole = GpuReport()
    for index, card in enumerate(cards):
        vendor = _vendor(card)
        if vendor is None:
            continue  # a display without a GPU: over AirPlay, or of a virtual machine
        name = one_line(card.get("sppci_model")) or one_line(card.get("_name"))
        found = Collected("system_profiler", vendor)
        if vendor == "apple":
            found.add(name, unified, index=index)
        elif "spdisplays_vram" in card:
            found.add(name, _memory(card["spdisplays_vram"]), index=index)
        else:
            found.problems.append(f"{name}: it shares the main memory, so it is left out; GPUS can name it")
        whole += found.report()
    return whole


def share_for_gpu(memory_mb: int) -> int:
    """MiB that Metal lets the GPU of a machine with this unified memory use."""
    return memory_mb * 3 // 4 if memory_mb > LARGE_MEMORY_MB else memory_mb * 2 // 3


async def _unified_memory() -> int | None:
    size = number((await ask("sysctl", "-n", "hw.memsize")).strip())
    if size is None:
        return None
    memory_mb = int(size) // BYTES_PER_MIB
    try:
        limit = number((await ask("sysctl", "-n", "iogpu.wired_limit_mb")).strip())
    except ToolFailed:  # macOS before 14 has no such limit
        limit = None
    return min(int(limit), memory_mb) if limit and limit > 0 else share_for_gpu(memory_mb)


def _vendor(card: Mapping[str, Any]) -> Vendor | None:
    """The vendor in "sppci_vendor_Apple", "sppci_vendor_amd", "Intel" or "NVIDIA (0x10de)"."""
    said = one_line(card.get("spdisplays_vendor")).lower()
    return next((vendor for word, vendor in _VENDORS.items() if word in said), None)


def _memory(text: object) -> int | None:
    match = _MEMORY.match(one_line(text))
    return None if match is None else int(match[1]) * (1024 if match[2] == "GB" else 1)
