"""Signs of life, on SQLite and Postgres alike."""

from __future__ import annotations

from uuid import UUID

from coordinator.application.followers.presence import Presence
from tests.contract.test_followers import Stores, stores

__all__ = ["stores"]


async def nobody(_: UUID) -> None:
    """No stream has a state."""


async def test_waiting_polls_are_heartbeats_of_their_own_sessions(stores: Stores) -> None:
    """A poll counts for its miner's session alone; polls of an older session take nothing away."""
    miners = {"rig": "session-of-rig", "other": "session-of-other", "third": "session-of-third"}
    before = stores.now
    with stores.database.transaction() as tables:
        for name, session in miners.items():
            row = {"miner_id": name, "session_id": session, "last_seen": before, "gpu_memory_json": None}
            tables.put("live_sessions", [row])
    stores.pass_time(20)
    presence = Presence(stores.database, nobody, lambda: 0, stores.clock, heartbeat_timeout=30)
    await presence.seen(
        [
            ("rig", "session-of-rig"),
            ("rig", "a-session-that-is-over"),
            ("other", "session-of-third"),
            ("third", "session-of-rig"),
            ("stranger", "session-of-other"),
        ]
    )
    with stores.database.transaction() as tables:
        found = tables.query("read_last_seen", miner_ids=sorted(miners))
    seen = {row["miner_id"]: row["last_seen"] - before for row in found}
    assert {"rig": 20_000, "other": 0, "third": 0} == seen
