"""NVIDIA's GPUs by NVML: a stand-in for nvidia-ml-py, with its own constants and error classes."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pynvml
import pytest

from coordinator.miner.gpus import nvidia, nvml
from coordinator.miner.gpus.found import GpuReport
from coordinator.miner.gpus.tools import ask_json
from tests.harness.cases import every
from tests.harness.gpu_tools import DIVIDED, GIB, L4, MIB, T4, Card, StandIn, command

MIG_3G, MIG_1G = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"


def test_cards_are_read_with_memory_driver_and_cuda() -> None:
    """Total and free memory in MiB, the UUID, the compute capability, the driver and its CUDA version."""
    module = StandIn(L4, T4)
    said = nvml.read(module)
    assert ("550.54.15", "12.4", [], []) == (said["driver"], said["cuda"], said["problems"], said["absent"])
    assert {
        "index": 0,
        "name": "NVIDIA L4",
        "uuid": "GPU-4cf8db2d-06c0-7d70-1a51-e59b25b2c16c",
        "compute": "8.9",
        "memory_mb": 23034,
        "free_mb": 22491,
    } == said["gpus"][0]
    assert (1, "Tesla T4", "7.5", 15360) == tuple(
        said["gpus"][1][key] for key in ("index", "name", "compute", "memory_mb")
    )
    assert 0 == module.open


def test_slices_take_the_place_of_a_divided_card() -> None:
    """Each MIG slice is a GPU with its own name, memory and UUID; the whole card is none."""
    said = nvml.read(StandIn(DIVIDED))
    assert [
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", MIG_3G, 19968, 19000),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", MIG_1G, 4864, 4800),
    ] == [(gpu["name"], gpu["uuid"], gpu["memory_mb"], gpu["free_mb"]) for gpu in said["gpus"]]
    assert "MIG-GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f/9/0" == said["gpus"][1]["older_uuid"]


def broken(**errors: int) -> Card:
    return dataclasses.replace(T4, errors=errors)


@every(
    ("module", "names", "line"),
    [
        (
            StandIn(L4, broken(nvmlDeviceGetHandleByIndex=pynvml.NVML_ERROR_GPU_IS_LOST)),
            ["NVIDIA L4"],
            "GPU 1: the driver lost it",
        ),
        (
            StandIn(broken(nvmlDeviceGetMemoryInfo=pynvml.NVML_ERROR_GPU_IS_LOST), L4),
            ["NVIDIA L4"],
            "GPU 0: the driver lost it",
        ),
        (
            StandIn(broken(nvmlDeviceGetHandleByIndex=pynvml.NVML_ERROR_NO_PERMISSION)),
            [],
            "GPU 0: this account may not",
        ),
        (StandIn(dataclasses.replace(DIVIDED, slices=[None])), [], "GPU 0: it is in MIG mode without slices"),
        (
            StandIn(errors={"nvmlInit": pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH}),
            [],
            "the NVIDIA driver was updated",
        ),
        (
            StandIn(errors={"nvmlInit": pynvml.NVML_ERROR_DRIVER_NOT_LOADED}),
            [],
            "the NVIDIA driver is not loaded",
        ),
        (StandIn(errors={"nvmlInit": pynvml.NVML_ERROR_NO_PERMISSION}), [], "this account may not"),
        (StandIn(errors={"nvmlDeviceGetCount": pynvml.NVML_ERROR_UNKNOWN}), [], "NVML: Unknown Error"),
    ],
)
def test_errors_of_nvml_are_one_line_each(module: StandIn, names: list[str], line: str) -> None:
    """A lost card or a forbidden one costs only itself; a broken driver is one line with the next step."""
    said = nvml.read(module)
    assert names == [gpu["name"] for gpu in said["gpus"]]
    [problem] = said["problems"]
    assert problem.startswith(line)
    assert [] == said["absent"]


def test_a_machine_without_a_driver_has_no_gpu_and_no_problem() -> None:
    """Without NVML's library (no driver, or a container without it) there is a line, and it is no fault."""
    said = nvml.read(StandIn(errors={"nvmlInit": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND}))
    assert ([], [], 1) == (said["gpus"], said["problems"], len(said["absent"]))
    assert "no NVIDIA driver" in said["absent"][0]


def test_an_old_driver_without_newer_functions_still_names_its_cards() -> None:
    """A missing CUDA version costs that version only; a card that does not say its memory keeps its name."""
    shared = broken(nvmlDeviceGetMemoryInfo=pynvml.NVML_ERROR_NOT_SUPPORTED)
    said = nvml.read(
        StandIn(shared, errors={"nvmlSystemGetCudaDriverVersion": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND})
    )
    assert (None, "Tesla T4", None) == (said["cuda"], said["gpus"][0]["name"], said["gpus"][0]["memory_mb"])


async def found(monkeypatch: pytest.MonkeyPatch, machine: str, **environment: str) -> GpuReport:
    monkeypatch.setattr(nvidia, "COMMAND", command(machine))
    return await nvidia.find(environment)


def names(report: GpuReport) -> list[str]:
    return [gpu.gpu.name for gpu in report.gpus]


async def test_the_process_reports_to_the_miner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, through a process of its own: what NVML says becomes GPUs of the vendor nvidia."""
    report = await found(monkeypatch, "two")
    assert ("12.4", (), (), ()) == (report.cuda, report.problems, report.absent, report.hidden)
    assert [
        {
            "vendor": "nvidia",
            "name": "NVIDIA L4",
            "memory_mb": 23034,
            "free_mb": 22491,
            "driver": "550.54.15",
            "compute": "8.9",
            "id": "GPU-4cf8db2d-06c0-7d70-1a51-e59b25b2c16c",
            "source": "NVML",
        },
        {
            "vendor": "nvidia",
            "name": "Tesla T4",
            "memory_mb": 15360,
            "free_mb": 15100,
            "driver": "550.54.15",
            "compute": "7.5",
            "id": "GPU-0aa1e3f5-1111-2222-3333-444455556666",
            "source": "NVML",
        },
    ] == [gpu.document() for gpu in report.gpus]


async def test_cuda_visible_devices_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indices, UUIDs, their beginnings and MIG ids choose, in their order; what is unknown ends the list."""
    large, small = "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
    everything = await found(monkeypatch, "divided")
    assert ["NVIDIA L4", large, small] == names(everything)
    answer = await ask_json(*nvidia.COMMAND)

    async def again(*_: str) -> Any:
        return answer

    monkeypatch.setattr(nvidia, "ask_json", again)
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    for chosen, expected in {
        "0": ["NVIDIA L4"],
        "1,0": [large, small, "NVIDIA L4"],
        "0,0": ["NVIDIA L4"],
        "GPU-4cf8db2d-06c0-7d70-1a51-e59b25b2c16c": ["NVIDIA L4"],
        "gpu-4cf8": ["NVIDIA L4"],
        "GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f": [large, small],
        MIG_1G: [small],
        "MIG-GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f/2/0": [large],
        "0,7,1": ["NVIDIA L4"],
        "GPU-": [],
        "": [],
        "-1": [],
        "none": [],
        "NoDevFiles": [],
        "9" * 5000: [],
    }.items():
        report = await nvidia.find({"CUDA_VISIBLE_DEVICES": chosen, **order})
        assert (chosen, expected, ()) == (chosen, names(report), report.problems)
        hides = 3 - len(expected)
        assert ((f"CUDA_VISIBLE_DEVICES hides {hides} of 3 GPUs",) if hides else ()) == report.hidden
    [problem] = (await nvidia.find({"CUDA_VISIBLE_DEVICES": "0"})).problems
    assert "set CUDA_DEVICE_ORDER=PCI_BUS_ID" in problem


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("import os; os.kill(os.getpid(), 11)", "failed with exit code -11"),
        ("import time; time.sleep(60)", "gave no answer in 0.5 s"),
        ("print('Traceback')", "printed no JSON"),
        ("print('[' * 100_000)", "printed no JSON"),
        ("print('[]')", "NVML: an unreadable answer"),
    ],
    ids=["crash", "hang", "text", "deep", "list"],
)
async def test_a_broken_driver_costs_the_miner_one_line(
    monkeypatch: pytest.MonkeyPatch, code: str, line: str
) -> None:
    """A library that crashes, hangs or prints nonsense ends its own process only."""
    monkeypatch.setattr("coordinator.miner.gpus.tools.TIMEOUT_SECONDS", 0.5 if "sleep" in code else 20.0)
    monkeypatch.setattr(nvidia, "COMMAND", (sys.executable, "-IS", "-c", code))
    report = await nvidia.find({})
    assert () == report.gpus
    [problem] = report.problems
    assert line in problem


async def test_hostile_answers_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of wrong types, impossible sizes and control characters give a clean name or a line."""
    gpus = [
        {"name": "L4\x1b[31m\n", "memory_mb": 23034, "free_mb": 99999999, "index": "x"},
        {"name": 7, "memory_mb": 1024, "uuid": 9},
        {"name": "A", "memory_mb": "nan"},
        {"name": "B", "memory_mb": 10**30},
        {"name": "C", "memory_mb": 20_000_000},
        {"name": "D" * 5000, "memory_mb": 2048},
        "text",
    ]

    async def said(*_: str) -> Any:
        return {"gpus": gpus, "problems": [1, "two\nlines"], "cuda": "12.x", "driver": 3, "absent": None}

    monkeypatch.setattr(nvidia, "ask_json", said)
    report = await nvidia.find({})
    assert ["L4 [31m", "nvidia GPU", "D" * 100] == names(report)
    assert (None, None, None) == (report.gpus[0].free_mb, report.gpus[0].driver, report.cuda)
    assert "two lines" == report.problems[0]
    assert 4 == len(report.problems)


async def test_a_driver_without_nvidia_ml_py_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the extra is not installed, that is a problem if a driver is here, and none otherwise."""
    monkeypatch.setattr(nvidia, "COMMAND", (sys.executable, "-ISP", str(Path(nvml.__file__))))
    monkeypatch.setattr(nvidia, "DRIVER_FILES", (tmp_path / "nvidiactl",))
    without = await nvidia.find({})
    assert ((), ("no nvidia-ml-py: install coordinator[gpu] to find NVIDIA's GPUs",)) == (
        without.problems,
        without.absent,
    )
    (tmp_path / "nvidiactl").touch()
    beside = await nvidia.find({})
    assert (without.absent, ()) == (beside.problems, beside.absent)


def test_the_unit_is_the_drivers() -> None:
    """Bytes become MiB as nvidia-smi counts them: 24,564 for a card of 24 GB."""
    card = Card("NVIDIA GeForce RTX 4090", "GPU-1", 25_757_220_864, 23 * GIB)
    assert (24564, 23 * GIB // MIB) == tuple(
        nvml.read(StandIn(card))["gpus"][0][key] for key in ("memory_mb", "free_mb")
    )
