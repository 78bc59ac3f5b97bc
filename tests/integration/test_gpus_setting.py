"""The setting GPUS, the detection of all vendors together, and the GPUs in `coordinator doctor`."""

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
import structlog

from coordinator.cli.gpus import check_gpus, show_gpus
from coordinator.domain.matching.gpus import Gpu
from coordinator.miner.config import BadConfig, MinerConfig
from coordinator.miner.gpus import BadSetting, GpuReport, GpuWatch, find_gpus, nvidia
from coordinator.miner.gpus.setting import read_setting
from tests.harness.cases import every
from tests.harness.gpu_tools import MIB, add_tool, command

L4 = (
    '[{"name": "NVIDIA L4", "memory_mb": 23034, "cuda": "12.4"},'
    ' {"name": "Navi 31", "vendor": "amd", "memory_mb": 20464}]'
)


def test_the_setting_names_gpus() -> None:
    """A list of names, vendors and memory; the vendor may follow from the name. The newest CUDA counts."""
    found = read_setting(L4)
    assert found is not None
    assert [Gpu(name="NVIDIA L4", memory_mb=23034), Gpu(name="Navi 31", vendor="amd", memory_mb=20464)] == [
        gpu.gpu for gpu in found.gpus
    ]
    assert (["nvidia", "amd"], "12.4") == ([gpu.vendor for gpu in found.gpus], found.cuda)
    two = read_setting(
        '[{"name": "A", "memory_mb": 1, "cuda": "9.2"}, {"name": "B", "memory_mb": 1, "cuda": "12.10"}]'
    )
    assert two is not None
    assert "12.10" == two.cuda


def test_none_is_no_gpu_and_nothing_is_detection() -> None:
    """`none`, in any case, turns GPUS off; an empty setting finds them."""
    assert GpuReport() == read_setting("none") == read_setting(" NONE ")
    assert read_setting("") is None
    assert read_setting("  ") is None


@every(
    ("text", "why"),
    [
        ("L4", "neither none nor JSON"),
        ("[", "neither none nor JSON"),
        ("[" * 100_000, "neither none nor JSON"),
        ("[]", "at least 1 item"),
        ("{}", "the list"),
        ('["L4"]', "0"),
        ('[{"name": "L4"}]', "0.memory_mb"),
        ('[{"name": "L4", "memory_mb": "24"}]', "0.memory_mb"),
        ('[{"name": "L4", "memory_mb": 0}]', "0.memory_mb"),
        ('[{"name": "L4", "memory_mb": 1.5}]', "0.memory_mb"),
        ('[{"name": "", "memory_mb": 1}]', "0.name"),
        ('[{"name": "a\\u0000", "memory_mb": 1}]', "0.name"),
        ('[{"name": "L4", "memory_mb": 1, "vendor": "ati"}]', "0.vendor"),
        ('[{"name": "L4", "memory_mb": 1, "memory_gb": 1}]', "0.memory_gb"),
        ('[{"name": "L4", "memory_mb": 1, "cuda": "v12"}]', "0.cuda"),
        ("[" + ",".join(['{"name": "L4", "memory_mb": 1}'] * 65) + "]", "at most 64"),
    ],
)
def test_an_invalid_setting_says_why_and_what_may_be(text: str, why: str) -> None:
    """The miner refuses to start, with the field and an example."""
    with pytest.raises(BadSetting) as refusal:
        read_setting(text)
    assert why in str(refusal.value)
    assert 'it may be none, or JSON such as [{"name": "NVIDIA L4"' in str(refusal.value)
    with pytest.raises(BadConfig, match=r"^GPUS: "):
        MinerConfig("rig:secret", gpus=text)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two cards of NVIDIA by NVML, one of AMD by rocm-smi."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(nvidia, "COMMAND", command("two"))
    for variable in ("GPUS", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    vega = {"Card series": "Radeon VII", "VRAM Total Memory (B)": str(16368 * MIB)}
    add_tool(folder, "rocm-smi", {"--json": {"card0": vega}})
    return tmp_path


async def test_the_vendors_are_found_together(machine: Path) -> None:
    """One machine may have GPUs of several vendors; those that a variable hides are left out."""
    found = await find_gpus("", {}, machine)
    assert ["NVIDIA L4", "Tesla T4", "Radeon VII"] == [gpu.gpu.name for gpu in found.gpus]
    assert ("12.4", ()) == (found.cuda, found.problems)
    hidden = await find_gpus("", {"CUDA_VISIBLE_DEVICES": ""}, machine)
    assert ["Radeon VII"] == [gpu.gpu.name for gpu in hidden.gpus]
    assert ("CUDA_VISIBLE_DEVICES hides 2 of 2 GPUs",) == hidden.hidden


async def test_the_setting_replaces_detection(machine: Path) -> None:
    """No tool is asked where the setting says what is here."""
    found = await find_gpus(L4, {}, machine)
    assert [("NVIDIA L4", "GPUS"), ("Navi 31", "GPUS")] == [(gpu.gpu.name, gpu.source) for gpu in found.gpus]
    assert GpuReport() == await find_gpus("none", {}, machine)


async def test_the_doctor_lists_gpus_and_their_executors(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row for each GPU: vendor, memory, free memory, driver, the source, and the services that use it."""
    executors: Any = {
        "3d_rendering": SimpleNamespace(gpu_vendors={"amd"}),
        "video_transcoding": SimpleNamespace(gpu_vendors={"nvidia"}),
        "checksum": SimpleNamespace(),
    }
    check, gpus = await check_gpus(executors)
    assert ("gpus", "ok", "3 found, CUDA 12.4") == check[:3]
    assert [["video_transcoding"], ["video_transcoding"], ["3d_rendering"]] == [
        gpu["used_by"] for gpu in gpus
    ]
    assert {
        "vendor": "amd",
        "name": "Radeon VII",
        "memory_mb": 16368,
        "source": "rocm-smi",
        "used_by": ["3d_rendering"],
    } == gpus[2]
    show_gpus(gpus)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    row = "NVIDIA L4 nvidia 23034 MiB 22491 MiB 550.54.15 NVML video_transcoding"
    assert row.split() in lines
    monkeypatch.setenv("GPUS", "none")
    assert (("gpus", "ok", "none", ""), []) == await check_gpus(executors)
    monkeypatch.setenv("GPUS", "two")
    check, gpus = await check_gpus(executors)
    assert ("failed", []) == (check.status, gpus)
    assert check.detail.startswith("GPUS: neither none nor JSON")


async def test_the_doctor_tells_of_tools_that_fail(machine: Path) -> None:
    """What could not be found is a warning, and the GPUs that were found are still listed."""
    add_tool(machine / "bin", "rocm-smi", {"--json": ""}, code=1, stderr="no permission")
    check, gpus = await check_gpus({})
    assert ("warning", 2) == (check.status, len(gpus))
    assert "2 found, CUDA 12.4; rocm-smi failed with exit code 1: no permission" == check.detail


async def test_a_gpu_that_is_gone_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch reads free memory again; a change of the GPUs, and a new problem, is one line each."""
    here = read_setting(L4)
    assert here is not None
    both = replace(
        here, gpus=tuple(replace(gpu, free_mb=free) for gpu, free in zip(here.gpus, (9, 7), strict=True))
    )
    one = replace(both, gpus=both.gpus[1:], problems=("GPU 0: lost",))
    readings = [both, both, one, one, both]
    monkeypatch.setattr("coordinator.miner.gpus.watch.find_gpus", AsyncMock(side_effect=readings))
    watch = GpuWatch("")
    with structlog.testing.capture_logs() as logs:
        await watch.find()
        assert [("NVIDIA L4", 9), ("Navi 31", 7)] == [(gpu.name, gpu.free_mb) for gpu in watch.memory]
        with pytest.raises(StopAsyncIteration):  # the readings are over
            await watch.keep(0.001)
    assert ["gpus_found", "gpu_problem", "gpus_changed", "gpus_changed"] == [line["event"] for line in logs]
    assert (["NVIDIA L4"], [], [], []) == (logs[2]["gone"], logs[2]["new"], logs[3]["gone"], logs[3]["new"])


async def test_nothing_is_read_again_where_no_memory_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A miner without GPUs, or with those of GPUS, starts no tool while it runs."""
    watch = GpuWatch(L4)
    found = await watch.find()
    monkeypatch.setattr("coordinator.miner.gpus.watch.find_gpus", AsyncMock(side_effect=AssertionError))
    await asyncio.wait_for(watch.keep(0.001), 5)
    assert (2, ()) == (len(found.gpus), watch.memory)
