"""Vendors' tools as executables that print what they are told, and a stand-in for the module `pynvml`.

The stand-in has the functions that we call, and NVML's own constants and error classes; there is no driver
behind it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

from coordinator.miner.gpus import nvml as child

GIB = 2**30
MIB = 2**20


def add_tool(
    folder: Path, name: str, answers: Mapping[str, object], *, code: int = 0, stderr: str = ""
) -> None:
    """An executable that prints the answer whose key is in its arguments: text, bytes, or a value as JSON."""
    texts = {
        key: value
        if isinstance(value, bytes)
        else (value if isinstance(value, str) else json.dumps(value, indent=4)).encode()
        for key, value in answers.items()
    }
    program = f"""#!{sys.executable} -IS
import sys
arguments = " ".join(sys.argv[1:])
for key, answer in {texts!r}.items():
    if key in arguments:
        sys.stdout.buffer.write(answer)
        sys.stderr.write({stderr!r})
        sys.exit({code})
sys.stderr.write("unrecognized arguments: " + arguments)
sys.exit(2)
"""
    add_program(folder, name, program)


def add_program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)


@dataclass
class Slice:
    """A MIG device."""

    name: str
    uuid: str
    total: int
    free: int
    gpu_instance: int = 7
    slices: int = 1


@dataclass
class Card:
    """A card as NVML describes it. An error takes the place of the answer of that function."""

    name: str
    uuid: str
    total: int
    free: int
    compute: tuple[int, int] = (8, 9)
    slices: list[Slice | None] | None = None
    """None: MIG is off or unknown to this card; an entry None is a place without a slice."""
    errors: dict[str, int] = field(default_factory=dict)


class StandIn:
    """`pynvml` of a machine with these cards."""

    def __init__(
        self, *cards: Card, driver: str = "550.54.15", cuda: int = 12040, errors: dict[str, int] | None = None
    ) -> None:
        self._cards, self._driver, self._cuda, self._errors = cards, driver, cuda, errors or {}
        self.open = 0
        """How often it is initialised and not shut down."""

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)  # constants and error classes

    def _check(self, function: str, errors: Mapping[str, int]) -> None:
        if function in errors:
            raise pynvml.NVMLError(errors[function])

    def nvmlInit(self) -> None:
        self._check("nvmlInit", self._errors)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return self._driver

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        self._check("nvmlSystemGetCudaDriverVersion", self._errors)
        return self._cuda

    def nvmlDeviceGetCount(self) -> int:
        self._check("nvmlDeviceGetCount", self._errors)
        return len(self._cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        self._check("nvmlDeviceGetHandleByIndex", self._cards[index].errors)
        return self._cards[index]

    def nvmlDeviceGetName(self, device: Card | Slice) -> str:
        return device.name

    def nvmlDeviceGetUUID(self, device: Card | Slice) -> str:
        return device.uuid

    def nvmlDeviceGetCudaComputeCapability(self, device: Card) -> tuple[int, int]:
        return device.compute

    def nvmlDeviceGetMemoryInfo(self, device: Card | Slice) -> Any:
        self._check("nvmlDeviceGetMemoryInfo", getattr(device, "errors", {}))
        return SimpleNamespace(total=device.total, free=device.free, used=device.total - device.free)

    def nvmlDeviceGetMigMode(self, device: Card) -> list[int]:
        if device.slices is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE]

    def nvmlDeviceGetMaxMigDeviceCount(self, device: Card) -> int:
        return len(device.slices or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Card, index: int) -> Slice:
        found = (device.slices or [])[index]
        if found is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return found

    def nvmlDeviceGetAttributes(self, device: Card | Slice) -> Any:
        if isinstance(device, Card):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpuInstanceSliceCount=device.slices, memorySizeMB=device.total // MIB)

    def nvmlDeviceGetGpuInstanceId(self, device: Slice) -> int:
        return device.gpu_instance

    def nvmlDeviceGetComputeInstanceId(self, device: Slice) -> int:
        return 0


L4 = Card("NVIDIA L4", "GPU-4cf8db2d-06c0-7d70-1a51-e59b25b2c16c", 23034 * MIB, 22491 * MIB)
T4 = Card("Tesla T4", "GPU-0aa1e3f5-1111-2222-3333-444455556666", 15360 * MIB, 15100 * MIB, (7, 5))
DIVIDED = Card(
    "NVIDIA A100-SXM4-40GB",
    "GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f",
    40960 * MIB,
    0,
    (8, 0),
    slices=[
        Slice(
            "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
            "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f",
            19968 * MIB,
            19000 * MIB,
            2,
            3,
        ),
        None,
        # An older driver: the name of the card.
        Slice("NVIDIA A100-SXM4-40GB", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb", 4864 * MIB, 4800 * MIB, 9),
    ],
)
MACHINES = {"two": (L4, T4), "divided": (L4, DIVIDED)}


def play(machine: str) -> None:
    """What the miner's process for NVML does, with the stand-in: `python -c … play("two")`."""
    sys.modules["pynvml"] = StandIn(*MACHINES[machine])  # type: ignore[assignment]
    child.main()


def command(machine: str) -> tuple[str, ...]:
    """The command of that process."""
    root = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {root!r}); from tests.harness.gpu_tools import play; "
    return (sys.executable, "-c", f"{code}play({machine!r})")
