"""Metadata for events that tests make by hand."""

from __future__ import annotations

from coordinator.domain.messages import Metadata

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
METADATA = Metadata("command-1", TRACEPARENT)
STORED_METADATA = METADATA.to_json()
