"""Rows of the read models: what they say of themselves."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.edge.models.jobs import JobError
from coordinator.edge.state.tables.rows import JobRow
from tests.harness.cases import every
from tests.unit.edge_fakes import a_job_row


@every(
    ("columns", "final", "error"),
    [
        ({"state": "QUEUED"}, False, None),
        ({"state": "RUNNING", "miner_id": "rig"}, False, None),
        ({"state": "COMPLETED"}, True, None),
        (
            {"state": "FAILED", "error_code": "OUT_OF_MEMORY", "error_message": "needs 12 GB"},
            True,
            JobError(code="OUT_OF_MEMORY", message="needs 12 GB"),
        ),
        (
            {"state": "CANCELED", "error_code": "CANCELED", "error_message": None},
            True,
            JobError(code="CANCELED", message=""),
        ),
        ({"state": "EXPIRED"}, True, JobError(code="EXPIRED", message="")),
    ],
)
def test_a_job_says_why_it_has_no_result(
    columns: dict[str, Any], final: bool, error: JobError | None
) -> None:
    """A job that ended without a result has an error; one that may still have a result has none."""
    row = JobRow(**a_job_row(**columns))
    assert (row.is_final, row.error, row.view().error) == (final, error, error)


def test_a_column_that_nobody_knows_fails_the_read() -> None:
    """A row and its table name the same columns."""
    with pytest.raises(TypeError):
        JobRow(**a_job_row(color="red"))
