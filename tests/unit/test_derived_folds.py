"""The folds of derived tables: each says which events change its tables."""

from __future__ import annotations

import contextlib
import json
import pickle
import time
from pathlib import Path
from typing import cast
from uuid import UUID

from coordinator.application.ports import EventLog, Recorded
from coordinator.domain.messages import CannotFollow, Metadata
from coordinator.projections.derived import rebuilding
from coordinator.storage.log.mapping import decode

GOLDEN = Path(__file__).parents[1] / "golden" / "events-0.1.jsonl"


class NoHistories:
    """A log that knows none of the jobs whose content was erased."""

    def load(self, streams: object) -> dict[UUID, list[Recorded]]:
        return {}


def test_no_other_event_changes_the_tables_of_a_fold() -> None:
    """A rebuild leaves out the events that a fold does not name, so each of these must be without effect."""
    folds = rebuilding.all_tables(cast(EventLog, NoHistories()), time.time_ns, 90.0)
    taken = 0
    for position, line in enumerate(GOLDEN.read_text("utf-8").splitlines(), 1):
        stored = json.loads(line)
        event = decode(stored["topic"], stored["state"].encode())
        stream = stored["stream"]
        recorded = Recorded(
            position, UUID(stream), stored["version"], event, b"", Metadata("", "").to_json(), stream
        )
        for fold in folds:
            if isinstance(event, fold.events):
                taken += 1
                with contextlib.suppress(CannotFollow):  # one event of a kind makes no history
                    fold.take(recorded)
            else:
                before = pickle.dumps(vars(fold))
                fold.take(recorded)
                assert before == pickle.dumps(vars(fold)), (fold.follower, stored["topic"])
    assert taken > len(folds)
