"""Settlement: batches of payouts, sent through a sink, and paid once.

`commands` and `events` are the messages, `state` has the states, `decide` the rules.
"""

from coordinator.domain.settlement.commands import (
    SettlementClose,
    SettlementCommand,
    SettlementConfirm,
    SettlementPrepare,
    SettlementRefuse,
    SettlementRevert,
    SettlementSubmit,
)
from coordinator.domain.settlement.contexts import BatchPlan, CloseContext, PartContext, SinkTerms
from coordinator.domain.settlement.decide import answer, decide
from coordinator.domain.settlement.events import (
    MAX_PAYOUTS,
    Payout,
    SettlementClosed,
    SettlementConfirmed,
    SettlementEvent,
    SettlementPrepared,
    SettlementRefused,
    SettlementReverted,
    SettlementSubmitted,
    is_settlement_event,
)
from coordinator.domain.settlement.state import (
    Settlement,
    SettlementState,
    SettlementStatus,
    settlement_stream,
)

__all__ = [
    "MAX_PAYOUTS",
    "BatchPlan",
    "CloseContext",
    "PartContext",
    "Payout",
    "Settlement",
    "SettlementClose",
    "SettlementClosed",
    "SettlementCommand",
    "SettlementConfirm",
    "SettlementConfirmed",
    "SettlementEvent",
    "SettlementPrepare",
    "SettlementPrepared",
    "SettlementRefuse",
    "SettlementRefused",
    "SettlementRevert",
    "SettlementReverted",
    "SettlementState",
    "SettlementStatus",
    "SettlementSubmit",
    "SettlementSubmitted",
    "SinkTerms",
    "answer",
    "decide",
    "is_settlement_event",
    "settlement_stream",
]
