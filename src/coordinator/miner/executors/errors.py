"""How a job fails: the error that executors raise, and its codes.

It imports nothing, because the child processes of executors start for every job.
"""

from typing import Final

INVALID_PAYLOAD: Final = "INVALID_PAYLOAD"
INPUT_TOO_LARGE: Final = "INPUT_TOO_LARGE"
EXECUTOR_TIMEOUT: Final = "EXECUTOR_TIMEOUT"
EXECUTOR_FAILED: Final = "EXECUTOR_FAILED"
EXECUTOR_KILLED: Final = "EXECUTOR_KILLED"
OUTPUT_TOO_LARGE: Final = "OUTPUT_TOO_LARGE"
RESOURCE_LIMIT: Final = "RESOURCE_LIMIT"
"""The work needs more memory, disk space or processes than one job may have."""
UNSUPPORTED: Final = "UNSUPPORTED"
ENGINE_UNAVAILABLE: Final = "ENGINE_UNAVAILABLE"
"""The executor can't reach its engine. The miner checks the engine at once; if it is still unreachable, the
miner hands the job back instead of failing it."""


class ExecutorError(Exception):
    """The job failed. `detail` is for the client: no paths, names or secrets of this machine.

    `retryable` says whether another attempt, perhaps on another miner, may succeed.
    """

    def __init__(self, code: str, detail: str, *, retryable: bool = False) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.retryable = retryable
