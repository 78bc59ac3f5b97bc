"""The types of messages to receivers, and which role may ask for which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

from coordinator.domain.messages import Role

JobMessageType = Literal["job.completed", "job.failed", "job.canceled", "job.expired"]
OtherMessageType = Literal["miner.lost", "audit.diverged", "follower.stopped"]
MessageType = JobMessageType | OtherMessageType
"""The types that a webhook may ask for."""
TEST: Final = "webhook.test"
"""The type of the message that a test sends."""

JOB_TYPES: Final[tuple[JobMessageType, ...]] = get_args(JobMessageType)
OTHER_TYPES: Final[tuple[OtherMessageType, ...]] = get_args(OtherMessageType)
TYPES_OF: Final[Mapping[Role, tuple[MessageType, ...]]] = {
    Role.CLIENT: JOB_TYPES,
    Role.MINER: ("miner.lost",),
    Role.ADMIN: (*JOB_TYPES, *OTHER_TYPES),
}
"""The types that each role may ask for: of its own jobs or miners; an admin, of all."""
USUAL_TYPES: Final[Mapping[Role, tuple[MessageType, ...]]] = {
    Role.CLIENT: JOB_TYPES,
    Role.MINER: ("miner.lost",),
    # Not every client's jobs: an admin asks for those by name.
    Role.ADMIN: OTHER_TYPES,
}
"""The types of a webhook that names none."""
