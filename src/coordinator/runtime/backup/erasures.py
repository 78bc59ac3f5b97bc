"""A list of erasures outside of the database: a restored backup lacks those that came after it.

One line of JSON for each erasure, on disk before the content goes: `{"position", "jobs", "kinds", "by",
"reason"}`. It is beside CHECKPOINT_FILE, and has no content.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import structlog

from coordinator.application.ports import Recorded
from coordinator.domain.content import ContentErased
from coordinator.private_files import make_folder
from coordinator.runtime.backup.survey import Erasure
from coordinator.runtime.settings import Settings
from coordinator.storage.backup.folder import BadBackup
from coordinator.storage.connections.data_directory import CHECKPOINT_FILE

SUFFIX = ".erasures"
MAX_LINE = 64 * 2**10

log = structlog.get_logger("erasures")


def erasure_file(settings: Settings) -> Path | None:
    """The list's place; None if nothing is kept outside of the database."""
    if settings.checkpoint_file == "off":
        return None
    beside = Path(settings.checkpoint_file or settings.data_dir / CHECKPOINT_FILE)
    return beside.with_name(beside.name + SUFFIX)


def remember_erasure(path: Path | None, recorded: Recorded) -> None:
    """Add an erasure to the list. A list that can't be written delays no erasure: a warning says so."""
    event = recorded.event
    if path is None or not isinstance(event, ContentErased):
        return
    line = json.dumps(
        {
            "position": recorded.position,
            "jobs": [str(job) for job in event.jobs],
            "kinds": list(event.kinds),
            "by": event.by,
            "reason": event.reason,
        },
        ensure_ascii=False,
    )
    try:
        make_folder(path.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o600), "ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        log.warning("an erasure is not in the list", file=path.name, reason=error.strerror)


def read_erasures(path: Path) -> list[Erasure]:
    """The erasures of a list. An incomplete last line, of a crash, is left out. Raises BadBackup, OSError."""
    found = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                match json.loads(line[:MAX_LINE]):
                    case {
                        "position": int(position),
                        "jobs": list(jobs),
                        "kinds": list(kinds),
                        "by": str(by),
                        "reason": str(reason),
                    }:
                        found.append(
                            Erasure(position, [str(j) for j in jobs], [str(k) for k in kinds], by, reason)
                        )
                        continue
            except ValueError:
                pass
            raise BadBackup(f"{path.name}: line {number} is no erasure")
    return found
