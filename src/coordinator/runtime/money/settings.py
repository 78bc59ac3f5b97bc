"""The settings of money and of its settlement."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from coordinator.domain.account import Terms
from coordinator.domain.account.events import MAX_AMOUNT, MAX_TOTAL
from coordinator.runtime.money.chain_settings import ChainSettings


class MoneySettings(ChainSettings):
    """`.env.example` lists them with their meaning."""

    settlement: Literal["off", "on"] = "off"
    """`on`: accounts are kept, and a submit sets the worst case of its job aside."""
    money_unit: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9 _-]{0,31}$")] = "credits"
    """The name of the unit of money; amounts are whole numbers of its millionth."""
    fee_bps: Annotated[int, Field(ge=0, le=10_000)] = 0
    """The coordinator's part of each payment, in 1/10,000."""
    dispute_window_seconds: Annotated[int, Field(ge=0, le=31_536_000)] = 86_400
    """The time in which a client may dispute a payment; the miner's credit is pending meanwhile."""
    partial_pay_seconds: Annotated[int, Field(ge=0, le=86_400)] = 0
    """How long the hold of a job that was cancelled at work waits for its miner's signed partial statement,
    by which the work is paid; 0: it is not paid."""
    settlement_sink: Literal["none", "file", "webhook", "aitbc", "evm"] = "none"
    """What pays batches of earned money out."""
    settlement_every_seconds: Annotated[int, Field(ge=0, le=31_536_000)] = 86_400
    """Between two batches; 0: never by time."""
    settlement_amount: Annotated[int, Field(ge=0, le=MAX_TOTAL)] = 0
    """The payable sum that closes a batch earlier, in 10⁻⁶ of the unit; 0: never by amount."""
    settlement_minimum: Annotated[int, Field(ge=1, le=MAX_AMOUNT)] = 1_000_000
    """The least payout, in 10⁻⁶ of the unit; less waits until there is more."""
    settlement_dir: Path | None = None
    """Where the sink `file` writes; the default is in the data directory."""
    settlement_file_format: Literal["json", "csv"] = "json"
    settlement_webhook_url: SecretStr | None = None
    """Where the sink `webhook` sends batches."""

    @property
    def terms(self) -> Terms | None:
        """The terms of payments; None where no accounts are kept."""
        if self.settlement == "off":
            return None
        return Terms(self.fee_bps, self.dispute_window_seconds * 1000, self.partial_pay_seconds * 1000)

    def sink_fault(self) -> str | None:
        """Why the settings of the sink do not fit together, with the name of the one to change."""
        if self.settlement_sink != "none" and self.settlement == "off":
            return "SETTLEMENT_SINK: needs accounts; set SETTLEMENT=on, too"
        if self.settlement_sink == "webhook" and self.settlement_webhook_url is None:
            return "SETTLEMENT_WEBHOOK_URL: set it, too: the sink webhook sends batches there"
        return self.chain_fault(self.settlement_sink)
