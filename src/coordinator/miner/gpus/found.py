"""GPUs as they are found on a machine, and what each source of that knowledge reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from coordinator.domain.matching.gpus import MAX_LABEL, Gpu, Vendor

BYTES_PER_MIB = 2**20
LEAST_MEMORY_MB = 1024
"""AMD's and Intel's cards with less are the displays of processors: no job that asks for a GPU means them."""


@dataclass(frozen=True, slots=True)
class FoundGpu:
    """One GPU, or one slice of a GPU (MIG). `source` is the library, tool or setting that named it."""

    gpu: Gpu
    source: str
    index: int = 0
    """Its place among the vendor's cards, as the source counts them."""
    ids: tuple[str, ...] = ()
    """Its other names, by which a variable such as CUDA_VISIBLE_DEVICES may choose it; the first is shown."""
    free_mb: int | None = None
    """Free memory in MiB at that moment; None if the source does not say."""
    driver: str | None = None
    compute: str | None = None
    """CUDA's compute capability ("8.9"), or AMD's target ("gfx942")."""

    @property
    def vendor(self) -> Vendor | None:
        return self.gpu.made_by

    def document(self) -> dict[str, Any]:
        """For JSON: all that is known."""
        known = {
            "vendor": self.vendor,
            "name": self.gpu.name,
            "memory_mb": self.gpu.memory_mb,
            "free_mb": self.free_mb,
            "driver": self.driver,
            "compute": self.compute,
            "id": self.ids[0] if self.ids else None,
            "source": self.source,
        }
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True, slots=True)
class GpuReport:
    """What one source, or all of them together, found."""

    gpus: tuple[FoundGpu, ...] = ()
    cuda: str | None = None
    """The newest CUDA version that the driver supports."""
    problems: tuple[str, ...] = ()
    """One line each: what is here and can't be used, with the next step."""
    absent: tuple[str, ...] = ()
    """One line each: what is not here at all, which is no fault."""
    hidden: tuple[str, ...] = ()
    """One line each: GPUs that a variable hides, which is meant."""

    def __add__(self, other: GpuReport) -> GpuReport:
        return GpuReport(
            self.gpus + other.gpus,
            self.cuda or other.cuda,
            self.problems + other.problems,
            self.absent + other.absent,
            self.hidden + other.hidden,
        )


@dataclass(slots=True)
class Collected:
    """A report in the making: `add` keeps valid GPUs, and turns the others into problems."""

    source: str
    vendor: Vendor
    gpus: list[FoundGpu] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add_card(
        self,
        name: object,
        memory_mb: float | None,
        free_mb: float | None = None,
        *,
        shared: bool = False,
        **more: Any,
    ) -> None:
        """Add one GPU unless it is a processor's display: of `shared` memory, or with little of its own."""
        if shared or (memory_mb is not None and 0 < memory_mb < LEAST_MEMORY_MB):
            why = "it shares the main memory" if shared else f"only {memory_mb:.0f} MiB of its own memory"
            self.problems.append(f"{name}: {why}, so it is left out; GPUS can name it")
        else:
            self.add(name, memory_mb, free_mb, **more)

    def add(self, name: object, memory_mb: float | None, free_mb: float | None = None, **more: Any) -> None:
        """Add one GPU; `more` are fields of FoundGpu."""
        shown = one_line(name)[:MAX_LABEL] or f"{self.vendor} GPU"
        total = None if memory_mb is None else int(memory_mb)
        if total is None or total < 1:
            self.problems.append(f"{shown}: {self.source} does not say its memory; name it in GPUS")
            return
        try:
            gpu = Gpu(name=shown, vendor=self.vendor, memory_mb=total)
        except ValidationError:
            self.problems.append(f"{shown}: {self.source} says an impossible memory; name it in GPUS")
            return
        free = None if free_mb is None or not 0 <= free_mb <= total else int(free_mb)
        self.gpus.append(FoundGpu(gpu, self.source, free_mb=free, **more))

    def report(self) -> GpuReport:
        return GpuReport(tuple(self.gpus), problems=tuple(self.problems))


def one_line(text: object, limit: int = 200) -> str:
    """A text from elsewhere as one short line; empty for a value that is no text."""
    if not isinstance(text, str):
        return ""
    printable = "".join(one if one.isprintable() else " " for one in text[: 10 * limit])
    return " ".join(printable.split())[:limit]


def number(value: object) -> float | None:
    """A number, also in a text; None for anything else ("N/A", infinity)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if abs(found) < 1e18 else None


def mib(value: object) -> float | None:
    """MiB of a number of bytes."""
    size = number(value)
    return None if size is None else size / BYTES_PER_MIB
