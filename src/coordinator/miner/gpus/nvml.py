"""Asks NVML for NVIDIA's GPUs, and prints the answer as JSON.

It runs in a process of its own (`nvidia.py` starts it): a broken driver may hang or crash. Only the standard
library and nvidia-ml-py are imported, so that the start is short.
Source: https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import importlib
import json
from typing import Any

MIB = 2**20


def read(nvml: Any) -> dict[str, Any]:
    """The report of this module (`pynvml`): driver, cuda, gpus, problems, absent."""
    report: dict[str, Any] = {"gpus": [], "problems": [], "absent": []}
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        absent = isinstance(error, nvml.NVMLError_LibraryNotFound)
        report["absent" if absent else "problems"].append(_why_not(nvml, error))
        return report
    try:
        report["driver"] = _optional(nvml, nvml.nvmlSystemGetDriverVersion)
        report["cuda"] = _cuda(_optional(nvml, nvml.nvmlSystemGetCudaDriverVersion))
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                report["gpus"] += _gpus_of(nvml, index)
            except nvml.NVMLError as error:
                report["problems"].append(f"GPU {index}: {_why_not(nvml, error)}")
    except nvml.NVMLError as error:
        report["problems"].append(_why_not(nvml, error))
    finally:
        _optional(nvml, nvml.nvmlShutdown)
    return report


def _gpus_of(nvml: Any, index: int) -> list[dict[str, Any]]:
    """The card, or its slices if it is divided: then CUDA runs nothing on the whole card."""
    card = nvml.nvmlDeviceGetHandleByIndex(index)
    whole = {"index": index, "name": nvml.nvmlDeviceGetName(card), "uuid": nvml.nvmlDeviceGetUUID(card)}
    compute = _optional(nvml, nvml.nvmlDeviceGetCudaComputeCapability, card)
    whole["compute"] = ".".join(map(str, compute)) if compute else None
    mode = _optional(nvml, nvml.nvmlDeviceGetMigMode, card)
    if not mode or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return [{**whole, **_memory(nvml, card)}]
    slices = []
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, place)
        except nvml.NVMLError_NotFound:
            continue
        slices.append({**whole, **_slice(nvml, whole, part), **_memory(nvml, part)})
    if not slices:
        raise nvml.NVMLError(nvml.NVML_ERROR_NOT_FOUND)
    return slices


def _slice(nvml: Any, whole: dict[str, Any], part: Any) -> dict[str, Any]:
    name = nvml.nvmlDeviceGetName(part)
    if "MIG" not in name.upper().split():  # older drivers give the name of the card
        size = _optional(nvml, nvml.nvmlDeviceGetAttributes, part)
        name = (
            f"{name} MIG {size.gpuInstanceSliceCount}g.{round(size.memorySizeMB / 1024)}gb"
            if size
            else f"{name} MIG"
        )
    instance = _optional(nvml, nvml.nvmlDeviceGetGpuInstanceId, part)
    inner = _optional(nvml, nvml.nvmlDeviceGetComputeInstanceId, part)
    return {
        "name": name,
        "uuid": nvml.nvmlDeviceGetUUID(part),
        "older_uuid": None if instance is None else f"MIG-{whole['uuid']}/{instance}/{inner}",
        "card_uuid": whole["uuid"],
    }


def _memory(nvml: Any, device: Any) -> dict[str, Any]:
    """Total and free memory; nothing where the card shares the machine's, and NVML says so."""
    memory = _optional(nvml, nvml.nvmlDeviceGetMemoryInfo, device)
    if memory is None:
        size = _optional(nvml, nvml.nvmlDeviceGetAttributes, device)
        return {"memory_mb": size.memorySizeMB if size else None}
    return {"memory_mb": memory.total // MIB, "free_mb": memory.free // MIB}


def _optional(nvml: Any, function: Any, *arguments: Any) -> Any:
    """The answer, or None where this driver or card has none. A lost card is no such case."""
    try:
        return function(*arguments)
    except (
        nvml.NVMLError_NotSupported,
        nvml.NVMLError_FunctionNotFound,
        nvml.NVMLError_InvalidArgument,
        nvml.NVMLError_NoPermission,
        nvml.NVMLError_NotFound,
        nvml.NVMLError_Uninitialized,
    ):
        return None


def _cuda(version: int | None) -> str | None:
    return f"{version // 1000}.{version % 1000 // 10}" if version else None


def _why_not(nvml: Any, error: Any) -> str:
    match error.value:
        case nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return "no NVIDIA driver (in a container: start it with --gpus all)"
        case nvml.NVML_ERROR_DRIVER_NOT_LOADED:
            return "the NVIDIA driver is not loaded: load it (modprobe nvidia), or restart the machine"
        case nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
            return "the NVIDIA driver was updated and the old one still runs: restart the machine"
        case nvml.NVML_ERROR_NO_PERMISSION:
            return "this account may not use the NVIDIA driver: give it access to /dev/nvidia*"
        case nvml.NVML_ERROR_GPU_IS_LOST | nvml.NVML_ERROR_RESET_REQUIRED:
            return "the driver lost it: reset the GPU (nvidia-smi --gpu-reset), or restart the machine"
        case nvml.NVML_ERROR_NOT_FOUND:
            return "it is in MIG mode without slices: create some (nvidia-smi mig), or end that mode"
    return f"NVML: {error}"


def main() -> None:
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        report: dict[str, Any] = {"missing": True}
    else:
        report = read(nvml)
    print(json.dumps(report))  # noqa: T201 - the miner reads stdout


if __name__ == "__main__":
    main()
