"""The rule for names of models: of those that jobs ask for, that miners advertise, and that lists show."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import Field

MODEL_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9][A-Za-z0-9._:@+-]*){0,7}$"
MAX_MODEL_NAME: Final = 100
RULE: Final = (
    f"{MAX_MODEL_NAME} characters at most: letters, digits and . _ : @ + - in parts between single slashes, "
    "each of which begins with a letter or digit"
)
ModelName = Annotated[str, Field(max_length=MAX_MODEL_NAME, pattern=MODEL_PATTERN)]
_NAME: Final = re.compile(MODEL_PATTERN.removesuffix("$") + r"\Z")


def is_model_name(name: str) -> bool:
    """Whether a job can ask for a model of this name."""
    return len(name) <= MAX_MODEL_NAME and _NAME.match(name) is not None


def name_of_path(name: str) -> str | None:
    """The last part of a path of a file or folder, if it is a model's name; None for other texts."""
    if not re.match(r"[/~.\\]|[A-Za-z]:\\", name):
        return None
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return last if is_model_name(last) else None
