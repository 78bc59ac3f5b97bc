"""Checkpoints and proofs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from coordinator.edge.models.base import Moment, View

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LogView(View):
    """The log's identity, and its published checkpoint, which is null before the first one."""

    origin: str
    verifier_key: str
    """The key of its checkpoints, `origin+hash+base64`."""
    former_origins: list[str]
    size: int | None = None
    root: Hash | None = None
    position: int | None = None
    """That of the last event in the checkpoint."""
    signed_at: Moment | None = None
    checkpoint: str | None = None
    """The signed note."""


class InclusionView(View):
    """The proof that the tree of `size` leaves has an event (RFC 6962, 2.1.1): hashes from the bottom up."""

    origin: str
    position: int
    index: int
    leaf_hash: Hash
    size: int
    path: list[Hash]
    checkpoint: str
    """The published checkpoint, a signed note; its tree is this one, unless a smaller one was asked for."""


class ConsistencyView(View):
    """The proof that the tree of `size` leaves begins with that of `old_size` (RFC 6962, 2.1.2)."""

    origin: str
    old_size: int
    size: int
    path: list[Hash]
    checkpoint: str
    """The published checkpoint, a signed note; its tree is that of `size`, unless a smaller one was asked
    for."""
