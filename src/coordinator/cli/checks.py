"""The outcome of one check of `coordinator doctor`."""

from __future__ import annotations

from typing import Literal, NamedTuple

Status = Literal["ok", "warning", "failed"]


class Check(NamedTuple):
    """`next_step` says what to do if it is not ok."""

    name: str
    status: Status
    detail: str
    next_step: str = ""
