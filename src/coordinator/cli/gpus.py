"""The GPUs in `coordinator doctor`: a check, and a table of those found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from coordinator.cli.checks import Check
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.miner.executors import Executor

NAME: Final = "gpus"
COLUMNS: Final = ("GPU", "VENDOR", "MEMORY", "FREE", "DRIVER", "SOURCE", "USED BY")


async def check_gpus(executors: Mapping[str, Executor]) -> tuple[Check, list[dict[str, Any]]]:
    """The check, and the GPUs with `used_by`: services of checked executors that use them themselves."""
    from coordinator.miner.gpus import BadSetting, find_gpus
    from coordinator.miner.settings import MinerSettings

    try:
        found = await find_gpus(MinerSettings().gpus)
    except BadSetting as error:
        return Check(NAME, "failed", f"GPUS: {error}"), []
    except ValueError:  # another setting is wrong, or .env is no text
        return Check(NAME, "warning", "not looked for: a setting of the miner is invalid"), []
    gpus = [
        {
            **gpu.document(),
            "used_by": sorted(
                service
                for service, executor in executors.items()
                if gpu.vendor in getattr(executor, "gpu_vendors", ())
            ),
        }
        for gpu in found.gpus
    ]
    cuda = f", CUDA {found.cuda}" if found.cuda else ""
    detail = "; ".join((f"{len(gpus)} found{cuda}", *found.hidden))
    if not gpus:
        detail = "; ".join(("none", *found.hidden, *found.absent))
    if found.problems:
        hint = "Miners here offer the GPUs in the table below, and no others; GPUS can name them instead."
        return Check(NAME, "warning", "; ".join((detail, *found.problems)), hint), gpus
    return Check(NAME, "ok", detail), gpus


def show_gpus(gpus: list[dict[str, Any]]) -> None:
    """The table of the GPUs, if there are any."""
    rows = [
        (
            gpu["name"],
            gpu.get("vendor"),
            f"{gpu['memory_mb']} MiB",
            f"{gpu['free_mb']} MiB" if "free_mb" in gpu else "",
            gpu.get("driver"),
            gpu["source"],
            ", ".join(gpu["used_by"]),
        )
        for gpu in gpus
    ]
    if rows:
        terminal.write("")
        terminal.table(COLUMNS, rows, "")
