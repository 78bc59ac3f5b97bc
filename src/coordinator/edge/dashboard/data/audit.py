"""The page Audit: what the coordinator itself can say honestly of its log and tables.

It compares its own tables with its own log, a piece at each look, and says from where to where. That proves
nothing to somebody who does not trust it: `coordinator audit` replays a copy of the log and checks every
signature.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Literal

from coordinator.application.ports import TableCheck
from coordinator.application.proof.proofs import NoProof, Published
from coordinator.domain.messages import Millis
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.state.threads import in_thread

Verdict = Literal["holds", "broken", "not yet checked", "not checked here"]
FRESH_SECONDS: Final = 2.0
COMMAND: Final = "coordinator audit"
_BY_AUDIT: Final = f"Replay a copy of the log: `{COMMAND}`."


@dataclass(frozen=True, slots=True, kw_only=True)
class InvariantLine:
    """One invariant."""

    name: str
    verdict: Verdict
    text: str
    """What was compared, or how to check it."""
    checked_at: Millis | None = None
    position: int | None = None
    """The last position that the check covers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditView:
    head: int
    """The log's last position."""
    checked_from: int
    """The position after which the comparison of this process began."""
    checked_to: int
    """The position up to which the read models were compared with a fold of the log; 0 before the first."""
    checkpoint_size: int | None
    """Of the published checkpoint: events."""
    checkpoint_root: str | None
    """Hex."""
    checkpoint_position: int | None
    """That of its last event."""
    checkpoint_at: Millis | None
    witnesses: int
    """In the settings."""
    witnessed: int
    """Those that sign without a problem."""
    invariants: tuple[InvariantLine, ...]
    divergence: str | None
    """The first difference, in a sentence."""
    command: str
    """The command that audits without trust in this coordinator."""
    now: Millis


async def load(context: EdgeContext, viewer: Viewer) -> AuditView:
    """The state of the log's proofs and of the comparison, which goes on with each look. Raises Refusal."""
    viewer.require_all("see the audit")
    return await context.shared.get(("audit",), FRESH_SECONDS, lambda: _load(context))


async def _load(context: EdgeContext) -> AuditView:
    checks, proofs = context.table_checks, context.proofs
    check = None if checks is None else await in_thread(checks.advance)
    published: Published | None = None
    problem = "This process keeps no tree." if proofs is None else ""
    if proofs is not None:
        try:
            published = await in_thread(proofs.published)
        except NoProof as error:
            problem = f"{str(error)[:1].upper()}{str(error)[1:]}."
    metrics = context.metrics()
    notary = metrics.parts.get("notary")
    if notary is not None and not notary.ok and notary.reason:
        problem = f"{notary.reason[:1].upper()}{notary.reason[1:]}."
    proof = metrics.proof
    return AuditView(
        head=metrics.position,
        checked_from=0 if check is None else check.begun_at,
        checked_to=0 if check is None else check.checked_to,
        checkpoint_size=None if published is None else published.size,
        checkpoint_root=None if published is None else published.signed.checkpoint.root.hex(),
        checkpoint_position=None if published is None else published.position,
        checkpoint_at=None if published is None else published.signed_at,
        witnesses=0 if proof is None else proof.witnesses,
        witnessed=0 if proof is None else proof.witnessed,
        invariants=(_tables(check), _checkpoint(published, problem), *_ELSEWHERE),
        divergence=check.differences[0] if check is not None and check.differences else None,
        command=COMMAND,
        now=time.time_ns() // 1_000_000,
    )


def _tables(check: TableCheck | None) -> InvariantLine:
    name = "Read models equal a fold of the log"
    if check is None:
        told = "This process compares nothing: `coordinator projections check` does."
        return InvariantLine(name=name, verdict="not checked here", text=told)
    if check.differences:
        told = f"{check.differences[0]}. `coordinator projections rebuild` mends the tables."
        return InvariantLine(
            name=name, verdict="broken", text=told, checked_at=check.at, position=check.checked_to
        )
    told = f"{check.rows:,} rows of the positions {check.begun_at:,} to {check.checked_to:,} were compared."
    return InvariantLine(
        name=name,
        verdict="holds" if check.rows else "not yet checked",
        text=told,
        checked_at=check.at,
        position=check.checked_to,
    )


def _checkpoint(published: Published | None, problem: str) -> InvariantLine:
    name = "Checkpoints only grow"
    if problem and published is not None:
        return InvariantLine(name=name, verdict="broken", text=problem, position=published.position)
    if published is None:
        return InvariantLine(name=name, verdict="not yet checked", text=problem)
    told = (
        f"Compared before each signature with the database, the file and the witnesses: {published.size:,} "
        "events."
    )
    return InvariantLine(
        name=name,
        verdict="holds",
        text=told,
        checked_at=published.signed_at,
        position=published.position,
    )


_ELSEWHERE: Final = tuple(
    InvariantLine(name=name, verdict="not checked here", text=_BY_AUDIT)
    for name in (
        "Every accepted job reaches exactly one final state",
        "At most one lease per job; attempts only grow",
        "Every completed job has one receipt that verifies",
        "Every checkpoint is the Merkle root of the events before it",
        "Nothing stale is billed",
    )
)
