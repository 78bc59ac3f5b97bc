"""Which tables a backup keeps. All others follow from these and the events."""

from __future__ import annotations

from typing import Final

CHECKPOINTS, COSIGNATURES, ORIGINS = "checkpoints", "cosignatures", "log_origins"
OWNERS, REFS, UPLOADS = "blob_owners", "blob_refs", "erased_uploads"
PENDING, USAGE, IDENTITY = "restored_erasures", "quota_usage", "log_identity"
BATCHES = "job_batches"

WHOLE: Final = (ORIGINS, OWNERS, REFS, UPLOADS, PENDING, BATCHES)
"""Tables that every part has whole. Payloads, checkpoints and cosignatures: in the part of their events."""
DERIVED: Final = (
    "positions",
    # The projector's.
    "jobs",
    "miners",
    "services",
    "api_keys",
    "quotas",
    # The other followers'.
    "open_work",
    "work_classes",
    "work_sessions",
    "standings",
    "leases",
    "live_sessions",
    "erased_content",
    "merkle_tiles",
    USAGE,
    # Content that is about to go: a restore does not bring it.
    "blob_removals",
)
