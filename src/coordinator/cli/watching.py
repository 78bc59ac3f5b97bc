"""The display of `coordinator job watch`: changes as lines, progress as bars, text as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.client.models import AttemptEndedUpdate, ProgressMade, StateChanged, Tokens
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress

    from coordinator.client.models import JobError, Update

LONGEST_LINE = 4000
"""With several jobs, at most so many characters wait for the end of their line."""


class Watching:
    """Writes one job's text as it comes; with several jobs whole lines, each after its job's id."""

    def __init__(self, bars: Progress, job_ids: Sequence[str], *, as_json: bool) -> None:
        self._bars = bars
        self._tasks = {job_id: bars.add_task(job_id, total=None, detail="") for job_id in job_ids}
        self._as_json = as_json
        self._alone = len(job_ids) == 1
        self._lines = dict.fromkeys(job_ids, "")
        self._open = False
        """Whether the screen ends in text without a line's end."""

    def show(self, update: Update) -> None:
        """Show an update."""
        if self._as_json:
            terminal.line(update.document())
            return
        match update:
            case Tokens():
                self._text(update)
            case ProgressMade():
                self._progress(update)
            case StateChanged():
                self._change(update, update.state, update.miner_id, update.error)
                self._bars.update(self._tasks[update.job_id], detail=update.state, visible=not update.final)
            case AttemptEndedUpdate():
                self._change(update, f"attempt {update.outcome}", update.miner_id, update.error)

    def _change(self, update: Update, change: str, miner_id: str | None, error: JobError | None) -> None:
        self._flush(update.job_id)
        parts = [update.job_id, change]
        if update.attempt:
            parts.append(f"attempt {update.attempt}")
        if miner_id:
            parts.append(f"on {miner_id}")
        if error is not None:
            parts.append(": ".join(filter(None, (error.code, error.message))))
        terminal.write(terminal.plain("  ".join(parts)))

    def _progress(self, made: ProgressMade) -> None:
        task = self._tasks[made.job_id]
        if made.fraction is not None:
            self._bars.update(task, completed=made.fraction, total=1.0)
        if made.note is not None:
            self._bars.update(task, detail=terminal.plain(made.note))

    def _text(self, tokens: Tokens) -> None:
        text = terminal.plain(tokens.text)
        if self._alone:
            terminal.piece(text)
            self._open = not text.endswith("\n")
            return
        *whole, rest = (self._lines[tokens.job_id] + text).split("\n")
        if len(rest) > LONGEST_LINE:
            whole, rest = [*whole, rest], ""
        for line in whole:
            terminal.write(f"{tokens.job_id}  {line}")
        self._lines[tokens.job_id] = rest

    def _flush(self, job_id: str) -> None:
        """End the current line of text."""
        if self._open:
            terminal.piece("\n")
            self._open = False
        if self._lines[job_id]:
            terminal.write(f"{job_id}  {self._lines[job_id]}")
            self._lines[job_id] = ""
