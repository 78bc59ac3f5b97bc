"""The length of tests that could go on for ever: a short round in `make test`, in full in `make faults`."""

from __future__ import annotations

import os

FULL = os.environ.get("TEST_LENGTH") == "full"


def examples(full: int) -> int:
    """How many examples a test of any input tries: these in full, otherwise a quarter of them."""
    return full if FULL else full // 4
