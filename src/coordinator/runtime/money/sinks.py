"""The settlement sink of the settings."""

from __future__ import annotations

from coordinator.application.ports import SettlementSink
from coordinator.application.webhooks.post import HttpPost
from coordinator.crypto.webhooks import WebhookKeys
from coordinator.domain.settlement import SinkTerms
from coordinator.runtime.money.chains import open_aitbc, open_evm
from coordinator.runtime.settings import BadSettings, Settings
from coordinator.settlement.file import FileSink
from coordinator.settlement.webhook import WebhookSink
from coordinator.wire.http.urls import UnsafeUrl, check_receiver_url

FOLDER = "settlements"
"""Of the sink `file`, in the data directory."""


def open_sink(settings: Settings, keys: WebhookKeys) -> SettlementSink | None:
    """The sink; None for none. Raises BadSettings."""
    match settings.settlement_sink:
        case "none":
            return None
        case "file":
            folder = settings.settlement_dir or settings.data_dir / FOLDER
            return FileSink(folder, settings.settlement_file_format, settings.money_unit)
        case "webhook":
            assert settings.settlement_webhook_url is not None
            url = settings.settlement_webhook_url.get_secret_value()
            allow_private = settings.webhook_allow_private
            try:
                check_receiver_url(url, allow_private=allow_private)
            except UnsafeUrl as error:
                raise BadSettings(f"SETTLEMENT_WEBHOOK_URL: {error}") from None
            post = HttpPost(settings.webhook_timeout_seconds, allow_private=allow_private)
            return WebhookSink(url, keys, post, settings.money_unit)
        case "aitbc":
            return open_aitbc(settings)
        case "evm":
            return open_evm(settings)


def terms_of(sink: SettlementSink, settings: Settings) -> SinkTerms:
    """The sink, as the decisions see it."""
    minimum = max(settings.settlement_minimum, sink.quantum)
    return SinkTerms(sink.name, sink.needs_address, sink.address_fault, minimum, sink.quantum)
