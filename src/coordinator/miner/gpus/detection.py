"""Finds the GPUs of this machine, of all vendors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from coordinator.domain.matching.gpus import Vendor
from coordinator.miner.gpus import amd, apple, intel, nvidia, sysfs
from coordinator.miner.gpus.found import GpuReport
from coordinator.miner.gpus.setting import MAX_GPUS, read_setting


async def find_gpus(
    setting: str = "", environment: Mapping[str, str] | None = None, drm: Path = sysfs.FOLDER
) -> GpuReport:
    """The GPUs that `setting` (GPUS) names, or else those found here that `environment` does not hide.

    `drm` is the kernel's folder of cards. Raises BadSetting. A tool that fails is a problem of the report.
    """
    given = read_setting(setting)
    if given is not None:
        return given
    environment = os.environ if environment is None else environment
    of_nvidia, of_amd, of_intel, of_apple = await asyncio.gather(
        nvidia.find(environment), amd.find(environment), intel.find(environment), apple.find(environment)
    )
    # The kernel knows less than the vendors' tools: it is asked where there are none.
    by_tools: dict[Vendor, GpuReport] = {"nvidia": of_nvidia, "amd": of_amd, "intel": of_intel}
    unknown = [vendor for vendor, report in by_tools.items() if report.absent and not report.gpus]
    hide = {"amd": amd.seen, "intel": intel.seen}
    whole = of_nvidia + of_amd + of_intel + of_apple
    for vendor in unknown:
        by_kernel = await asyncio.to_thread(sysfs.find, vendor, drm)
        whole += hide[vendor](by_kernel, environment) if vendor in hide else by_kernel
    if len(whole.gpus) > MAX_GPUS:
        problem = f"{len(whole.gpus)} GPUs; the first {MAX_GPUS} are offered"
        whole = replace(whole, gpus=whole.gpus[:MAX_GPUS], problems=(*whole.problems, problem))
    return whole
