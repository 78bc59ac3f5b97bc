"""The GPUs of a miner's machine: found by the vendors' libraries and tools, or named by the setting GPUS."""

from coordinator.miner.gpus.detection import find_gpus as find_gpus
from coordinator.miner.gpus.found import FoundGpu as FoundGpu
from coordinator.miner.gpus.found import GpuReport as GpuReport
from coordinator.miner.gpus.setting import BadSetting as BadSetting
from coordinator.miner.gpus.watch import GpuWatch as GpuWatch
