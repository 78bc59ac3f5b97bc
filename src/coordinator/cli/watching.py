"""The display of `coordinator job watch`: changes as lines, progress as bars, text as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.client.models import AttemptEndedUpdate, ProgressMade, StateChanged, Tokens
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress

    from coordinator.client.models import JobError, Update

LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
LONGEST_LINE = 4000
"""With several jobs, at most so many characters wait for the end of their line."""


class Watching:
    """Writes one job's text as it comes, behind a margin; with several jobs whole lines after the job's id.

    Text is a stranger's, so it never begins a line: it could look like a change of a job.
    """

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
        text = tokens.text.replace("\r\n", "\n")
        if self._alone:
            terminal.piece("".join(map(self._behind_margin, text.splitlines(keepends=True))))
            return
        *whole, rest = (self._lines[tokens.job_id] + text).split("\n")
        if len(rest) > LONGEST_LINE:
            whole, rest = [*whole, rest], ""
        for line in whole:
            self._write_line(tokens.job_id, line)
        self._lines[tokens.job_id] = rest

    def _behind_margin(self, line: str) -> str:
        """A line or a part of one; begins with the margin unless it continues a line."""
        start = "" if self._open else terminal.MARGIN
        ended = line[-1] in LINE_ENDS
        self._open = not ended
        shown = start + terminal.plain(line.rstrip(LINE_ENDS) if ended else line, keep=terminal.TAB)
        return f"{shown.rstrip()}\n" if ended else shown

    def _write_line(self, job_id: str, line: str) -> None:
        terminal.write(f"{job_id} {terminal.MARGIN}{terminal.plain(line, keep=terminal.TAB)}".rstrip())

    def _flush(self, job_id: str) -> None:
        """End the current line of text."""
        if self._open:
            terminal.piece("\n")
            self._open = False
        if self._lines[job_id]:
            self._write_line(job_id, self._lines[job_id])
            self._lines[job_id] = ""
