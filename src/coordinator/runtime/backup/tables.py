"""Which tables a backup keeps. All others follow from these and the events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from coordinator.storage.backup.folder import BadBackup
from coordinator.storage.transfer.export_file import TableRow, TableStart
from coordinator.storage.transfer.source import PAYLOADS

CHECKPOINTS, COSIGNATURES, ORIGINS = "checkpoints", "cosignatures", "log_origins"
OWNERS, REFS, UPLOADS = "blob_owners", "blob_refs", "erased_uploads"
PENDING, USAGE, IDENTITY = "restored_erasures", "quota_usage", "log_identity"
BATCHES = "job_batches"
DELIVERIES, RECEIVERS = "webhook_deliveries", "webhook_health"

WHOLE: Final = (ORIGINS, OWNERS, REFS, UPLOADS, PENDING, BATCHES, DELIVERIES, RECEIVERS)
"""Tables that every part has whole. Payloads, checkpoints and cosignatures: in the part of their events."""
DERIVED: Final = (
    "positions",
    # The projector's.
    "jobs",
    "miners",
    "services",
    "api_keys",
    "quotas",
    "webhooks",
    "accounts",
    "entries",
    "payments",
    "contested_payments",
    # The other followers'.
    "open_work",
    "work_classes",
    "work_sessions",
    "standings",
    "leases",
    "live_sessions",
    "erased_content",
    "webhook_targets",
    "webhook_callbacks",
    "settlements",
    "settlement_payouts",
    "settlement_payees",
    "settlement_receipts",
    "merkle_tiles",
    USAGE,
    # Content that is about to go: a restore does not bring it.
    "blob_removals",
    # Log-outs of the last hours: a restore would lack the latest ones anyway.
    "ended_sessions",
)
_TEXT, _NUMBER = (str,), (int,)
_READ: Final[Mapping[str, Mapping[str, tuple[type, ...]]]] = {
    PAYLOADS: {"job_id": _TEXT, "kind": _TEXT},
    CHECKPOINTS: {"origin": _TEXT, "size": _NUMBER, "root": (bytes,), "note": _TEXT},
    COSIGNATURES: {"origin": _TEXT, "size": _NUMBER, "witness": _TEXT},
    ORIGINS: {"number": _NUMBER, "origin": _TEXT},
    OWNERS: {"key": _TEXT, "digest": _TEXT, "principal": _TEXT, "size": _NUMBER},
    REFS: {"key": _TEXT, "digest": _TEXT, "job_id": _TEXT, "kind": _TEXT},
    UPLOADS: {"key": _TEXT},
    PENDING: {"key": _TEXT, "by_name": _TEXT, "reason": _TEXT},
    BATCHES: {"batch_id": _TEXT, "position": _NUMBER},
    DELIVERIES: {"delivery_id": _TEXT, "position": _NUMBER},
    RECEIVERS: {"webhook_id": _TEXT},
}
"""The columns by which a restore decides. The database checks the others."""


def row_of(table: TableStart, row: TableRow) -> dict[str, Any]:
    """A row by column. Raises BadBackup unless it is one of a table that a backup keeps."""
    read = _READ.get(table.name)
    if read is None:
        raise BadBackup(f"it has rows of {table.name!r}, which no backup of this version has")
    if len(row.values) != len(table.columns):
        raise BadBackup(
            f"a row of {table.name} has {len(row.values)} values for {len(table.columns)} columns"
        )
    found = dict(zip(table.columns, row.values, strict=True))
    for column, kinds in read.items():
        if not isinstance(found.get(column), kinds):
            raise BadBackup(f"a row of {table.name} has an invalid {column}")
    return found
