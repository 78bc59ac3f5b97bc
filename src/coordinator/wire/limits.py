"""Limits of one message, on both sides."""

from __future__ import annotations

from typing import Final

MAX_BODY_BYTES: Final = 2**20
MAX_VALUES: Final = 50_000
"""Values of all kinds in the JSON of one message."""
MAX_CONTAINERS: Final = 25_000
"""Arrays and objects among them."""
MAX_ARRAY_LENGTH: Final = 500
"""Commands, progress reports or events in one message."""
MAX_TURN_BYTES: Final = 64 * 1024
"""The parser of a larger body gives other tasks a turn before the next step."""
MAX_PROGRESS_TEXT: Final = 65_536
"""Characters of a job's text in one report; as many from its end are kept for late readers."""
MAX_PROGRESS_NOTE: Final = 200
