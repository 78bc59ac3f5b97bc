"""The file by which a container's health check knows whether a miner is registered."""

from __future__ import annotations

import time
from pathlib import Path

from coordinator.cli.health_file import MISSED_BEATS, told_by


def test_it_holds_the_time_until_which_an_answer_counts(tmp_path: Path) -> None:
    """A start removes what was left; an answer counts for three heartbeats; a full disk ends nothing."""
    path = tmp_path / "health"
    path.write_text("9999999999")
    answered = told_by(path)
    assert not path.exists()

    before = time.time()
    answered(10.0)
    assert before - 1 <= float(path.read_text()) - MISSED_BEATS * 10 <= time.time() + 1
    answered(0.0)
    assert float(path.read_text()) <= time.time() + 1
    assert ["health"] == [file.name for file in tmp_path.iterdir()]

    (tmp_path / "health.new").mkdir()  # it can't be written
    answered(10.0)
    told_by(None)(10.0)
