"""GPUs by the kernel's own files (Linux), for vendors whose tools are not installed.

Sources: https://docs.kernel.org/gpu/amdgpu/ (mem_info_vram_total), and the drivers i915 and xe.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from coordinator.domain.matching.gpus import Vendor
from coordinator.miner.gpus.found import LEAST_MEMORY_MB, Collected, GpuReport, mib, one_line

FOLDER: Final = Path("/sys/class/drm")
SOURCE: Final = "sysfs"
_VENDORS: Final[dict[str, Vendor]] = {"0x1002": "amd", "0x8086": "intel", "0x10de": "nvidia"}
BRANDS: Final[dict[Vendor, str]] = {"amd": "AMD", "intel": "Intel", "nvidia": "NVIDIA", "apple": "Apple"}
_INTEL_MEMORY: Final = ("device/lmem_total_bytes", "lmem_total_bytes")
_MAX_BYTES: Final = 256


def find(vendor: Vendor, folder: Path = FOLDER) -> GpuReport:
    """The cards of this vendor. Without a driver's name for a card, its name is its vendor and PCI id."""
    whole = GpuReport()
    cards = [path for path in folder.glob("card*") if re.fullmatch(r"card[0-9]{1,4}", path.name)]
    for card in sorted(cards, key=lambda path: int(path.name[4:])):
        if _VENDORS.get(_read(card / "device/vendor")) != vendor:
            continue
        found = Collected(SOURCE, vendor)
        name = _read(card / "device/product_name") or f"{BRANDS[vendor]} GPU {_read(card / 'device/device')}"
        total, used = _memory(card, vendor)
        if vendor == "nvidia":
            found.problems.append(f"{name} is here, and no driver of NVIDIA: install it")
        elif total is None or total < LEAST_MEMORY_MB:
            # A processor's own graphics. It is no fault that nobody rents them.
            whole += GpuReport(absent=(f"{name} has no memory of its own to speak of; GPUS can name it",))
        else:
            found.add(name, total, None if used is None else total - used, index=len(whole.gpus))
        whole += found.report()
    return whole


def _memory(card: Path, vendor: Vendor) -> tuple[float | None, float | None]:
    """Total and used memory, in MiB."""
    if vendor == "amd":
        return mib(_read(card / "device/mem_info_vram_total")), mib(_read(card / "device/mem_info_vram_used"))
    if vendor == "intel":
        tiles = [mib(_read(path)) or 0.0 for path in card.glob("device/tile*/**/physical_vram_size_bytes")]
        known = [mib(_read(card / path)) for path in _INTEL_MEMORY]
        return sum(tiles) or next((size for size in known if size), None), None
    return None, None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return one_line(file.read(_MAX_BYTES).decode(errors="replace"))
    except OSError:
        return ""
