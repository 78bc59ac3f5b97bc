"""GPUs of AMD, Intel and Apple: their tools' JSON in the shapes of several versions, and hostile output.

The tools are executables on PATH with values of our own.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from coordinator.miner.gpus import amd, apple, intel, sysfs
from coordinator.miner.gpus.detection import find_gpus
from coordinator.miner.gpus.found import GpuReport
from tests.harness.gpu_tools import GIB, MIB, add_program, add_tool


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def seen(report: GpuReport) -> list[tuple[str, int, int | None]]:
    return [(gpu.gpu.name, gpu.gpu.memory_mb, gpu.free_mb) for gpu in report.gpus]


# --- AMD ---------------------------------------------------------------------------------------------------
def mi300x(index: int, serial: str) -> dict[str, Any]:
    """One GPU of `amd-smi static` since ROCm 6.1."""
    return {
        "gpu": index,
        "asic": {
            "market_name": "AMD Instinct MI300X",
            "vendor_id": "0x1002",
            "vendor_name": "Advanced Micro Devices Inc. [AMD/ATI]",
            "subvendor_id": "0x1002",
            "device_id": "0x74a1",
            "rev_id": "0x00",
            "asic_serial": serial,
            "oam_id": index,
            "num_compute_units": 304,
            "target_graphics_version": "gfx942",
        },
        "board": {"model_number": "102-G30211-0C", "product_name": "AMD Instinct MI300X OAM"},
        "driver": {"name": "amdgpu", "version": "6.8.5"},
        "vram": {"type": "HBM", "vendor": "N/A", "size": {"value": 196592, "unit": "MB"}, "bit_width": 8192},
    }


def usage(index: int, free: int) -> dict[str, Any]:
    """One GPU of `amd-smi metric --mem-usage`."""
    return {
        "gpu": index,
        "mem_usage": {
            "total_vram": {"value": 196592, "unit": "MB"},
            "used_vram": {"value": 196592 - free, "unit": "MB"},
            "free_vram": {"value": free, "unit": "MB"},
        },
    }


PAIR = [mi300x(0, "0x1A2B3C4D5E6F7081"), mi300x(1, "0x9F8E7D6C5B4A3921")]
USAGE = [usage(0, 196300), usage(1, 1024)]
TWO = [("AMD Instinct MI300X", 196592, 196300), ("AMD Instinct MI300X", 196592, 1024)]


@pytest.mark.parametrize("wrapped", [False, True], ids=["ROCm 6", "ROCm 7"])
async def test_amd_smi(tools: Path, wrapped: bool) -> None:
    """A list until ROCm 6, an object with `gpu_data` since 7, also after a line of warning."""
    static, metric = ({"gpu_data": PAIR}, {"gpu_data": USAGE}) if wrapped else (PAIR, USAGE)
    add_tool(
        tools, "amd-smi", {"static": "WARNING: a user of no group\n" + json.dumps(static), "metric": metric}
    )
    report = await amd.find({})
    assert (TWO, ()) == (seen(report), report.problems)
    assert {
        "vendor": "amd",
        "name": "AMD Instinct MI300X",
        "memory_mb": 196592,
        "free_mb": 196300,
        "driver": "6.8.5",
        "compute": "gfx942",
        "id": "GPU-1a2b3c4d5e6f7081",
        "source": "amd-smi",
    } == report.gpus[0].document()


async def test_amd_smi_of_rocm_5(tools: Path) -> None:
    """ROCm 5.7 wrote a bare number and other names; a card without a market name has its board's."""
    old = {
        "gpu": 0,
        "asic": {"market_name": "N/A", "asic_serial": "N/A"},
        "board": {"product_name": "Radeon PRO W6800"},
        "driver": {"driver_name": "amdgpu", "driver_version": "6.2.4"},
        "vram": {"vram_type": "GDDR6", "vram_vendor": "SAMSUNG", "vram_size_mb": 30704},
    }
    add_tool(tools, "amd-smi", {"static": [old]})  # it knows no `metric --mem-usage`
    report = await amd.find({})
    assert ([("Radeon PRO W6800", 30704, None)], ()) == (seen(report), report.problems)
    assert ("6.2.4", ()) == (report.gpus[0].driver, report.gpus[0].ids)


async def test_the_variables_of_rocm_are_respected(tools: Path) -> None:
    """ROCR_VISIBLE_DEVICES chooses by index or id; HIP_VISIBLE_DEVICES counts those that are left."""
    add_tool(tools, "amd-smi", {"static": PAIR, "metric": USAGE})
    for environment, expected in (
        ({"ROCR_VISIBLE_DEVICES": "1"}, [TWO[1]]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-9f8e7d6c5b4a3921"}, [TWO[1]]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, [TWO[1]]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "1"}, []),
        ({"HIP_VISIBLE_DEVICES": "1,0"}, TWO[::-1]),
        ({"HIP_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": ""}, TWO),
    ):
        report = await amd.find(environment)
        assert (environment, expected) == (environment, seen(report))
        assert (len(expected) < 2) == bool(report.hidden)


ROCM_SMI = {
    "card0": {
        "Unique ID": "0x92460a1b2c3d4e5f",
        "VRAM Total Memory (B)": str(16368 * MIB),
        "VRAM Total Used Memory (B)": str(660 * MIB),
    },
    # A processor's display, with 64 MiB set aside.
    "card1": {
        "Unique ID": "N/A",
        "VRAM Total Memory (B)": "67108864",
        "VRAM Total Used Memory (B)": "26079232",
    },
    "system": {"Driver version": "6.3.6"},
}


@pytest.mark.parametrize("spelling", ["Card series", "Card Series"])
async def test_rocm_smi(tools: Path, spelling: str) -> None:
    """Where amd-smi is missing: both spellings of the keys; a processor's display is no GPU."""
    cards = {
        **ROCM_SMI,
        "card0": {**ROCM_SMI["card0"], spelling: "Radeon RX 6800 XT", "Card Model": "0x73bf"},
    }
    cards["card1"] = {**ROCM_SMI["card1"], spelling: "Raphael"}
    add_tool(tools, "rocm-smi", {"--json": cards})
    report = await amd.find({})
    assert [("Radeon RX 6800 XT", 16368, 15708)] == seen(report)
    assert ("amd", "6.3.6", ("GPU-92460a1b2c3d4e5f",)) == (
        report.gpus[0].vendor,
        report.gpus[0].driver,
        report.gpus[0].ids,
    )
    assert ("Raphael: only 64 MiB of its own memory, so it is left out; GPUS can name it",) == report.problems


async def test_rocm_smi_helps_out(tools: Path) -> None:
    """A failing amd-smi is a line; rocm-smi is asked in its place. A hexadecimal number is no name."""
    add_tool(
        tools, "amd-smi", {"static": ""}, code=1, stderr="Traceback\nAmdSmiException: driver not loaded\n"
    )
    card = {**ROCM_SMI["card0"], "Card series": "0x744c", "Device Name": "Navi 31", "GFX Version": "gfx1100"}
    add_tool(tools, "rocm-smi", {"--json": {"card0": card}})
    report = await amd.find({})
    assert [("Navi 31", 16368, 15708)] == seen(report)
    assert ("gfx1100", "amd") == (report.gpus[0].compute, report.gpus[0].vendor)
    add_tool(tools, "rocm-smi", {"--json": ""}, code=1)
    report = await amd.find({})
    assert (
        "amd-smi failed with exit code 1: AmdSmiException: driver not loaded",
        "rocm-smi failed with exit code 1",
    ) == report.problems


# --- Intel -------------------------------------------------------------------------------------------------
def flex(device: int, kind: str = "physical") -> dict[str, Any]:
    """One device in the list of `xpu-smi discovery -j`."""
    return {
        "device_function_type": kind,
        "device_id": device,
        "device_name": "Intel(R) Data Center GPU Flex 170",
        "device_type": "GPU",
        "drm_device": f"/dev/dri/card{device}",
        "pci_bdf_address": f"0000:4{device}:00.0",
        "pci_device_id": "0x56c0",
        "uuid": f"00000000-0000-0000-0000-004{device}56c08086",
        "vendor_name": "Intel(R) Corporation",
    }


async def test_xpu_smi(tools: Path) -> None:
    """Memory comes from each device's own report, as text; virtual functions beside their card are none."""
    details = {
        "memory_physical_size_byte": str(14248 * MIB),
        "driver_version": "I915_23.10.32",
        "memory_free_size_byte": "0",
    }
    add_tool(
        tools,
        "xpu-smi",
        {
            "-d 0": {**flex(0), **details},
            "-d 1": {**flex(1), **details, "memory_free_size_byte": str(9000 * MIB)},
            "discovery -j": {"device_list": [flex(0), flex(1), flex(2, "virtual")]},
        },
    )
    name = "Intel(R) Data Center GPU Flex 170"
    report = await intel.find({})
    assert ([(name, 14248, None), (name, 14248, 9000)], ()) == (seen(report), report.problems)
    assert ("intel", "I915_23.10.32", "xpu-smi") == (
        report.gpus[0].vendor,
        report.gpus[0].driver,
        report.gpus[0].source,
    )
    assert [(name, 14248, 9000)] == seen(await intel.find({"ZE_AFFINITY_MASK": "1.0"}))
    assert 2 == len((await intel.find({"ZE_AFFINITY_MASK": ""})).gpus)


async def test_xpu_smi_that_fails(tools: Path) -> None:
    """Its own errors are JSON; one device that does not answer costs itself only."""
    add_tool(tools, "xpu-smi", {"discovery": {"error": "Level Zero Initialization Error", "errno": 5}})
    assert ("xpu-smi failed: Level Zero Initialization Error",) == (await intel.find({})).problems
    add_tool(
        tools,
        "xpu-smi",
        {
            "-d 0": {"memory_physical_size_byte": 16 * GIB},
            "-d": "no",
            "discovery -j": {"device_list": [flex(0), flex(1)]},
        },
    )
    report = await intel.find({})
    assert [("Intel(R) Data Center GPU Flex 170", 16384, None)] == seen(report)
    assert ("Intel(R) Data Center GPU Flex 170: xpu-smi printed no JSON",) == report.problems


async def test_clinfo(tools: Path) -> None:
    """Without xpu-smi: OpenCL's devices of Intel. Graphics that share the main memory are none."""
    arc = {
        "CL_DEVICE_NAME": "Intel(R) Arc(TM) A770 Graphics",
        "CL_DEVICE_VENDOR": "Intel(R) Corporation",
        "CL_DEVICE_VENDOR_ID": 32902,
        "CL_DRIVER_VERSION": "24.39.31294",
        "CL_DEVICE_TYPE": {"raw": 4, "type": ["CL_DEVICE_TYPE_GPU"]},
        "CL_DEVICE_GLOBAL_MEM_SIZE": 16225243136,
        "CL_DEVICE_HOST_UNIFIED_MEMORY": False,
        "CL_DEVICE_PCI_BUS_INFO_KHR": "PCI-E, 0000:03:00.0",
    }
    shared = {**arc, "CL_DEVICE_NAME": "Intel(R) UHD Graphics 770", "CL_DEVICE_HOST_UNIFIED_MEMORY": True}
    other = {**arc, "CL_DEVICE_VENDOR": "NVIDIA Corporation", "CL_DEVICE_VENDOR_ID": 4318}
    processor = {**arc, "CL_DEVICE_TYPE": {"raw": 2, "type": ["CL_DEVICE_TYPE_CPU"]}}
    said = {
        "platforms": [{}, {}],
        "devices": [{"online": [arc, shared, processor]}, {"online": [arc, other]}],
    }
    add_tool(tools, "clinfo", {"--json": said})
    report = await intel.find({})
    assert [("Intel(R) Arc(TM) A770 Graphics", 15473, None)] == seen(report)
    assert (
        "Intel(R) UHD Graphics 770: it shares the main memory, so it is left out; GPUS can name it",
    ) == report.problems
    add_tool(tools, "clinfo", {"--json": {"platforms": [], "devices": []}})
    assert GpuReport(absent=("clinfo lists no GPU of Intel",)) == await intel.find({})


# --- Apple -------------------------------------------------------------------------------------------------
M3_MAX = {
    "_name": "Apple M3 Max",
    "spdisplays_mtlgpufamilysupport": "spdisplays_metal3",
    "spdisplays_ndrvs": [{"_name": "Color LCD"}],
    "spdisplays_vendor": "sppci_vendor_Apple",
    "sppci_bus": "spdisplays_builtin",
    "sppci_cores": "40",
    "sppci_device_type": "spdisplays_gpu",
    "sppci_model": "Apple M3 Max",
}


@pytest.mark.parametrize(
    ("memory", "limit", "share"),
    [
        (64 * GIB, "0", 49152),
        (36 * GIB, "0", 24576),
        (16 * GIB, None, 10922),
        (64 * GIB, "57344", 57344),
        (16 * GIB, "99999", 16384),
    ],
)
async def test_apple_silicon(tools: Path, memory: int, limit: str | None, share: int) -> None:
    """The GPU's share of unified memory is Metal's, or the limit that the owner has set (macOS 14)."""
    add_tool(tools, "system_profiler", {"SPDisplaysDataType": {"SPDisplaysDataType": [M3_MAX]}})
    answers = {"hw.memsize": f"{memory}\n"} | (
        {} if limit is None else {"iogpu.wired_limit_mb": f"{limit}\n"}
    )
    add_tool(tools, "sysctl", answers)
    report = await apple.find_on_mac()
    assert ([("Apple M3 Max", share, None)], ()) == (seen(report), report.problems)
    assert ("apple", "system_profiler") == (report.gpus[0].vendor, report.gpus[0].source)


async def test_a_mac_with_intels_processor(tools: Path) -> None:
    """A card with memory of its own is a GPU of AMD; graphics that share the main memory are none."""
    cards = [
        {
            "sppci_model": "Intel UHD Graphics 630",
            "spdisplays_vendor": "Intel",
            "spdisplays_vram_shared": "1536 MB",
        },
        {
            "sppci_model": "AMD Radeon Pro 5500M",
            "spdisplays_vendor": "sppci_vendor_amd",
            "spdisplays_vram": "8 GB",
        },
        {"_name": "spdisplays_display"},
    ]
    add_tool(tools, "system_profiler", {"SPDisplaysDataType": {"SPDisplaysDataType": cards}})
    report = await apple.find_on_mac()
    assert ([("AMD Radeon Pro 5500M", 8192, None)], "amd") == (seen(report), report.gpus[0].vendor)
    assert (
        "Intel UHD Graphics 630: it shares the main memory, so it is left out; GPUS can name it",
    ) == report.problems


# --- the kernel --------------------------------------------------------------------------------------------
def card(folder: Path, number: int, vendor: str, device: str, **files: str) -> None:
    for name, text in {"device/vendor": vendor, "device/device": device, **files}.items():
        path = folder / f"card{number}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


async def test_the_kernel_is_asked_where_there_are_no_tools(tools: Path, tmp_path: Path) -> None:
    """Memory of amdgpu, xe and i915; a processor's graphics are no GPU; NVIDIA's needs its driver."""
    drm = tmp_path / "drm"
    card(
        drm,
        10,
        "0x1002",
        "0x744c",
        **{"device/mem_info_vram_total": str(20464 * MIB), "device/mem_info_vram_used": str(464 * MIB)},
    )
    card(drm, 2, "0x8086", "0xe20b", **{"device/tile0/physical_vram_size_bytes": str(12216 * MIB)})
    card(drm, 3, "0x8086", "0x56a0", lmem_total_bytes=str(16288 * MIB))
    card(drm, 0, "0x8086", "0x4680")
    card(drm, 1, "0x10de", "0x2684")
    card(drm, 4, "0x1af4", "0x1050")
    (drm / "card10-DP-1").mkdir()
    report = await find_gpus("", {}, drm)
    assert [
        ("AMD GPU 0x744c", 20464, 20000),
        ("Intel GPU 0xe20b", 12216, None),
        ("Intel GPU 0x56a0", 16288, None),
    ] == seen(report)
    assert ["amd", "intel", "intel"] == [gpu.vendor for gpu in report.gpus]
    assert ("NVIDIA GPU 0x2684 is here, and no driver of NVIDIA: install it",) == report.problems
    assert "Intel GPU 0x4680 has no memory of its own to speak of; GPUS can name it" in report.absent
    hidden = await find_gpus("", {"HIP_VISIBLE_DEVICES": "-1", "ZE_AFFINITY_MASK": "1"}, drm)
    assert [("Intel GPU 0x56a0", 16288, None)] == seen(hidden)
    assert GpuReport() == sysfs.find("amd", tmp_path / "nowhere")


# --- hostile output ----------------------------------------------------------------------------------------
HOSTILE = {
    "huge": ("import sys\nfor _ in range(300): sys.stdout.write('x' * 2**20 + '\\n')", "printed more than"),
    "one line": ("import sys\nsys.stdout.write('[' + '1,' * 3_000_000)", "printed"),
    "text": ("print('no devices')", "printed no JSON"),
    "cut": ("print('[{\"gpu\": 0')", "printed no JSON"),
    "not UTF-8": ("import sys\nsys.stdout.buffer.write(b'\\xff\\xfe{')", "printed no JSON"),
    "hang": ("import time\ntime.sleep(60)", "gave no answer in"),
    "exit code": (
        "import sys\nprint('{}')\nsys.exit('no\\x1b[31m permission')",
        "failed with exit code 1: no [31m permission",
    ),
    "killed": ("import os\nos.kill(os.getpid(), 9)", "failed with exit code -9"),
    "wrong members": (
        'print(\'[{"gpu": [], "asic": 5, "vram": {"size": {"value": {}}}}, 7]\')',
        "does not say its memory",
    ),
}


@pytest.mark.parametrize(("code", "line"), HOSTILE.values(), ids=HOSTILE)
async def test_hostile_output_is_one_line(
    tools: Path, monkeypatch: pytest.MonkeyPatch, code: str, line: str
) -> None:
    """A tool that prints too much, nonsense or nothing, hangs or dies costs a line, and never the miner."""
    if "sleep" in code:
        monkeypatch.setattr("coordinator.miner.gpus.tools.TIMEOUT_SECONDS", 1.0)
    add_program(tools, "amd-smi", f"#!{sys.executable} -IS\n{code}\n")
    report = await amd.find({})
    assert () == report.gpus
    [problem] = report.problems
    assert line in problem
    assert (1, True) == (len(problem.splitlines()), problem.isprintable())
    assert len(problem) < 300


async def test_a_program_that_does_not_start_is_one_line(tools: Path) -> None:
    """A broken installation (no interpreter) is told with the tool's name."""
    add_program(tools, "rocm-smi", "#!/nowhere/python\n")
    [problem] = (await amd.find({})).problems
    assert problem.startswith("rocm-smi: the program does not start")


async def test_a_name_in_another_encoding_is_kept(tools: Path) -> None:
    """Bytes that are no UTF-8 become replacement characters, not an error."""
    add_tool(
        tools,
        "rocm-smi",
        {"--json": b'{"card0": {"Card series": "Radeon\xff VII", "VRAM Total Memory (B)": "17163091968"}}'},
    )
    assert [("Radeon\ufffd VII", 16368, None)] == seen(await amd.find({}))
