"""What needs attention: each with one sentence, and what to do."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["broken", "warning"]


class Attention(NamedTuple):
    """One line."""

    severity: Severity
    """`broken`: work stands still or may be lost; `warning`: somebody should look."""
    subject: str
    """A word for the kind, such as `class`, `miner`, `checkpoint`, `disk`; stable."""
    sentence: str
    advice: str
    """What to do."""
    query: str = ""
    """The jobs that it is about, as a query; empty if it is not about jobs."""
    link: str = ""
    """The page with more, as a path below the dashboard: `miners/rig`, `classes`; empty for none."""
