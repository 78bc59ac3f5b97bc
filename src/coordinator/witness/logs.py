"""The logs that a witness knows: their verifier keys, from the settings or a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from coordinator.crypto.log.note import Algorithm, BadNote, VerifierKey

Logs = Mapping[str, Sequence[VerifierKey]]
"""The keys of each log, by its origin."""


class BadLogs(ValueError):
    """A line is not the verifier key of a log; the text says which, and why."""


def read_logs(lines: Iterable[str]) -> Logs:
    """One verifier key (`origin+hash+base64`) a line; empty lines and `# comments` count for nothing.

    A log may have several keys, one a line. Raises BadLogs.
    """
    logs: dict[str, list[VerifierKey]] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            key = VerifierKey.parse(text)
        except BadNote as error:
            raise BadLogs(f"line {number}: {error}") from None
        if key.algorithm is not Algorithm.NOTE:
            raise BadLogs(f"line {number}: this is the key of a witness, not of a log")
        logs.setdefault(key.name, []).append(key)
    return logs


def read_log_file(path: Path) -> Logs:
    """The logs of a file. Raises BadLogs, OSError."""
    try:
        return read_logs(path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError:
        raise BadLogs(f"{path.name} is not UTF-8 text") from None
