"""Intel's GPUs, by `xpu-smi`, or by `clinfo` where that is missing.

Sources: https://github.com/intel/xpumanager (doc/smi_user_guide.md) and https://github.com/Oblomov/clinfo
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from coordinator.miner.gpus.found import Collected, GpuReport, mib, number, one_line
from coordinator.miner.gpus.tools import ToolFailed, ask_json, first_answer
from coordinator.miner.gpus.visible import hidden, visible

NO_TOOL: Final = "no xpu-smi and no clinfo on PATH"
MAX_GPUS: Final = 64
AT_A_TIME: Final = 4


async def find(environment: Mapping[str, str]) -> GpuReport:
    """The GPUs that `seen` leaves. Never raises."""
    ways = {"xpu-smi": _by_xpu_smi, "clinfo": _by_clinfo}
    return seen(await first_answer(ways, no_tool=NO_TOOL, gpus="GPU of Intel"), environment)


def seen(report: GpuReport, environment: Mapping[str, str]) -> GpuReport:
    """The GPUs that ZE_AFFINITY_MASK leaves. "0.1" is a tile of the card 0; an empty mask hides nothing."""
    mask = environment.get("ZE_AFFINITY_MASK")
    cards = ",".join(entry.partition(".")[0] for entry in mask.split(",")) if mask else None
    gpus = visible(report.gpus, cards)
    return replace(report, gpus=gpus, hidden=hidden("ZE_AFFINITY_MASK", report.gpus, gpus))


async def _by_xpu_smi() -> Collected:
    said = await ask_json("xpu-smi", "discovery", "-j")
    listed = said.get("device_list") if isinstance(said, dict) else None
    if not isinstance(listed, list):
        why = one_line(said.get("error")) if isinstance(said, dict) else ""
        raise ToolFailed(f"xpu-smi failed: {why or 'no list of devices'}")
    devices = [one for one in listed if isinstance(one, dict) and isinstance(one.get("device_id"), int)]
    physical = [one for one in devices if one.get("device_function_type") != "virtual"]
    # Virtual functions are parts of the cards beside them; in a virtual machine there is nothing else.
    devices = (physical or devices)[:MAX_GPUS]
    turns = asyncio.Semaphore(AT_A_TIME)

    async def details(device: dict[str, Any]) -> dict[str, Any]:
        """The list names no memory (xpu-smi before 2), but the report of each device does."""
        if "memory_physical_size_byte" in device:
            return device
        async with turns:
            more = await ask_json("xpu-smi", "discovery", "-d", str(device["device_id"]), "-j")
        return {**device, **more} if isinstance(more, dict) else device

    answers = await asyncio.gather(*map(details, devices), return_exceptions=True)
    found = Collected("xpu-smi", "intel")
    for device, answer in zip(devices, answers, strict=True):
        name = one_line(device.get("device_name"))
        if isinstance(answer, ToolFailed):
            found.problems.append(f"{name}: {answer}")
        elif isinstance(answer, BaseException):
            raise answer
        else:
            free = mib(answer.get("memory_free_size_byte"))
            found.add_card(
                name,
                mib(answer.get("memory_physical_size_byte")),
                free or None,  # 0 where Level Zero can't say
                index=device["device_id"],
                ids=tuple(filter(None, (one_line(device.get("uuid")),))),
                driver=one_line(answer.get("driver_version")) or None,
            )
    return found


async def _by_clinfo() -> Collected:
    said = await ask_json("clinfo", "--json")
    platforms = said.get("devices") if isinstance(said, dict) else None
    found = Collected("clinfo", "intel")
    online = (
        [p.get("online") for p in platforms if isinstance(p, dict)] if isinstance(platforms, list) else []
    )
    seen: set[tuple[str, object]] = set()
    for listed in online:
        for device in listed if isinstance(listed, list) else []:
            if not isinstance(device, dict) or not _is_gpu_of_intel(device):
                continue
            name = one_line(device.get("CL_DEVICE_NAME"))
            # Two platforms (NEO and an older one) may list one card; its place on the bus tells.
            place = device.get("CL_DEVICE_PCI_BUS_INFO_KHR") or device.get("CL_DEVICE_UUID_KHR")
            if isinstance(place, str) and (name, place) in seen:
                continue
            seen.add((name, str(place)))
            found.add_card(
                name,
                mib(device.get("CL_DEVICE_GLOBAL_MEM_SIZE")),
                None,
                shared=device.get("CL_DEVICE_HOST_UNIFIED_MEMORY") is True,
                index=len(found.gpus),
                driver=one_line(device.get("CL_DRIVER_VERSION")) or None,
            )
    return found


def _is_gpu_of_intel(device: Mapping[str, Any]) -> bool:
    kind = device.get("CL_DEVICE_TYPE")
    kinds = kind.get("type") if isinstance(kind, dict) else kind
    by_intel = (
        number(device.get("CL_DEVICE_VENDOR_ID")) == 0x8086
        or "intel" in one_line(device.get("CL_DEVICE_VENDOR")).lower()
    )
    return by_intel and "CL_DEVICE_TYPE_GPU" in (kinds if isinstance(kinds, list) else [kinds])
