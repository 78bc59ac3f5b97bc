"""AMD's GPUs, by `amd-smi`, or by `rocm-smi` where ROCm is older than 6.

Sources: https://rocm.docs.amd.com/projects/amdsmi/ and https://rocm.docs.amd.com/projects/rocm_smi_lib/
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from coordinator.miner.gpus.found import Collected, GpuReport, mib, number, one_line
from coordinator.miner.gpus.tools import ToolFailed, ask_json, first_answer
from coordinator.miner.gpus.visible import hidden, visible

NO_TOOL: Final = "no amd-smi and no rocm-smi on PATH"
_UNITS: Final = {"B": 2**-20, "KB": 2**-10, "MB": 1.0, "GB": 2.0**10, "TB": 2.0**20}
"""MiB of each unit that amd-smi writes; its MB are of 2^20 bytes."""


async def find(environment: Mapping[str, str]) -> GpuReport:
    """The GPUs that `seen` leaves. Never raises."""
    ways = {"amd-smi": _by_amd_smi, "rocm-smi": _by_rocm_smi}
    return seen(await first_answer(ways, no_tool=NO_TOOL, gpus="GPU"), environment)


def seen(report: GpuReport, environment: Mapping[str, str]) -> GpuReport:
    """The GPUs that ROCR_VISIBLE_DEVICES leaves, and of those, counted anew, HIP_VISIBLE_DEVICES."""
    left = visible(report.gpus, environment.get("ROCR_VISIBLE_DEVICES"))
    counted = [replace(gpu, index=place) for place, gpu in enumerate(left)]
    gpus = visible(counted, environment.get("HIP_VISIBLE_DEVICES"))
    names = "ROCR_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES"
    return replace(report, gpus=gpus, hidden=hidden(names, report.gpus, gpus))


async def _by_amd_smi() -> Collected:
    static, metric = await asyncio.gather(
        ask_json("amd-smi", "static", "--asic", "--board", "--driver", "--vram", "--json"),
        _or_nothing("amd-smi", "metric", "--mem-usage", "--json"),
    )
    used = {_index(gpu, place): _of(gpu, "mem_usage") for place, gpu in enumerate(_gpus_in(metric))}
    found = Collected("amd-smi", "amd")
    for place, gpu in enumerate(_gpus_in(static)):
        asic, vram, driver = _of(gpu, "asic"), _of(gpu, "vram"), _of(gpu, "driver")
        memory = used.get(_index(gpu, place), {})
        name = _first(asic.get("market_name"), _of(gpu, "board").get("product_name"))
        total = _amount(vram.get("size", vram.get("size_mb", vram.get("vram_size_mb"))))
        serial = _first(asic.get("asic_serial")).lower().removeprefix("0x")
        found.add_card(
            name,
            _amount(memory.get("total_vram")) if total is None else total,
            _amount(memory.get("free_vram")),
            index=_index(gpu, place),
            ids=(f"GPU-{serial}",) if serial else (),
            driver=_first(driver.get("version"), driver.get("driver_version")) or None,
            compute=_first(asic.get("target_graphics_version")) or None,
        )
    return found


async def _by_rocm_smi() -> Collected:
    said = await ask_json(
        *("rocm-smi", "--showproductname", "--showuniqueid", "--showdriverversion"),
        *("--showmeminfo", "vram", "--json"),
    )
    cards = (
        {name: card for name, card in said.items() if isinstance(card, dict)}
        if isinstance(said, dict)
        else {}
    )
    system = {key.lower(): value for key, value in cards.get("system", {}).items()}
    found = Collected("rocm-smi", "amd")
    numbered = [
        (int(match[1]), card)
        for name, card in cards.items()
        if (match := re.fullmatch(r"card(\d{1,4})", name))
    ]
    for index, (_, card) in enumerate(sorted(numbered, key=lambda one: one[0])):
        # The spelling of the keys differs: "Card series" became "Card Series".
        of = {key.lower(): value for key, value in card.items()}
        total, used = mib(of.get("vram total memory (b)")), mib(of.get("vram total used memory (b)"))
        unique = _first(of.get("unique id")).lower().removeprefix("0x")
        found.add_card(
            _first(of.get("card series"), of.get("device name"), of.get("card model")),
            total,
            None if total is None or used is None else total - used,
            index=index,
            ids=(f"GPU-{unique}",) if unique else (),
            driver=_first(system.get("driver version")) or None,
            compute=_first(of.get("gfx version")) or None,
        )
    return found


async def _or_nothing(*command: str) -> Any:
    """Free memory is only information: without it, the rest is still right."""
    try:
        return await ask_json(*command)
    except ToolFailed:
        return None


def _gpus_in(said: Any) -> list[dict[str, Any]]:
    """A list until ROCm 6; since 7 in an object."""
    listed = said.get("gpu_data") if isinstance(said, dict) else said
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _of(gpu: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = gpu.get(name)
    return part if isinstance(part, dict) else {}


def _index(gpu: Mapping[str, Any], place: int) -> int:
    index = gpu.get("gpu")
    return index if isinstance(index, int) and not isinstance(index, bool) else place


def _amount(value: Any) -> float | None:
    """MiB of `{"value": 24560, "unit": "MB"}`, or of a number or text without a unit."""
    unit = "MB"
    if isinstance(value, dict):
        value, unit = value.get("value"), str(value.get("unit", unit)).upper()
    elif isinstance(value, str) and (parts := value.split())[1:]:
        value, unit = parts[0], parts[1].upper()
    size = number(value)
    return None if size is None or unit not in _UNITS else size * _UNITS[unit]


def _first(*values: object) -> str:
    """The first that says something: not "N/A", not a bare number such as 0x744c for a name."""
    texts = [text for value in values if (text := one_line(value)) and text.upper() != "N/A"]
    return next(
        (text for text in texts if not (len(values) > 1 and re.fullmatch(r"0x[0-9a-fA-F]+", text))), ""
    )
