"""The HTTP edge of a coordinator process. Imported late: a process without it loads no web framework."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI

from coordinator.crypto.signature import sign
from coordinator.edge.app import create_app
from coordinator.edge.context import EdgeContext, EdgeLimits, EdgeSettings, ShownSetting
from coordinator.edge.middleware.rate_limits import RateLimits, redis_storage
from coordinator.edge.middleware.used_signatures import UsedSignatures
from coordinator.edge.state.open_connections import ConnectionLimits, OpenConnections
from coordinator.runtime.coordinator import CoordinatorProcess
from coordinator.runtime.money.chains import claim_terms
from coordinator.runtime.process.connection_limits import connection_limits
from coordinator.runtime.settings import Settings
from coordinator.runtime.signing import signing_keys


def edge_of(coordinator: CoordinatorProcess, limits: ConnectionLimits | None = None) -> FastAPI:
    """A new application that serves this coordinator."""
    settings = coordinator.settings
    redis_url = settings.rate_limit_redis_url
    rates = RateLimits(
        settings.rate_limits,
        settings.rate_limit_window_seconds,
        None if redis_url is None else lambda: redis_storage(redis_url.get_secret_value()),
        None if redis_url is None else coordinator.parts.part("rate_limits", essential=False),
    )
    return create_app(
        EdgeContext(
            gateway=coordinator.gateway,
            log=coordinator.adapters.log,
            database=coordinator.adapters.reads,
            queues=coordinator.adapters.queues,
            keyring=coordinator.keyring,
            receipts=coordinator.receipts,
            blobs=coordinator.blobs,
            webhook_keys=coordinator.webhook_keys,
            settings=edge_settings(settings),
            watermarks=coordinator.watermarks,
            live=coordinator.live,
            health=coordinator.health,
            known=coordinator.bus.known,
            recent_result=coordinator.results.of,
            seen=coordinator.gateway.seen,
            limits=EdgeLimits(parked_seconds=min(5.0, settings.heartbeat_timeout_seconds / 3)),
            metrics=coordinator.metrics,
            disks=coordinator.disks,
            miners=coordinator.miners,
            offered=coordinator.offered,
            batches=coordinator.batches,
            window=coordinator.window.figures,
            offers=coordinator.offers,
            disk=coordinator.disk,
            table_checks=coordinator.table_checks,
            shown_settings=lambda: shown_settings(settings),
            sign=partial(sign, signing_keys(settings).current),
            quotas=coordinator.quotas,
            proofs=coordinator.proofs,
            sessions=coordinator.sessions,
            dead_letters=coordinator.dead_letters,
            rates=rates,
            used_signatures=UsedSignatures(),
            stopping=coordinator.stopping,
            open_connections=OpenConnections(limits or connection_limits(settings)),
        )
    )


def edge_settings(settings: Settings) -> EdgeSettings:
    """The settings that the edge uses."""
    return EdgeSettings(
        allow_origins=settings.allow_origins,
        fetch_allow_hosts=settings.fetch_allow_hosts,
        hmac_window_seconds=settings.hmac_window_seconds,
        job_ttl_seconds=settings.job_ttl_seconds,
        max_blob_bytes=settings.max_blob_bytes,
        metrics_public=settings.metrics_public,
        money_unit=settings.money_unit,
        offer_timeout_seconds=settings.offer_timeout_seconds,
        openai_timeout_seconds=settings.openai_timeout_seconds,
        settlement=settings.settlement,
        settlement_sink=settings.settlement_sink,
        claims=claim_terms(settings),
        ui_base_path=settings.ui_base_path,
        ui_enabled=settings.ui_enabled,
        ui_read_only=settings.ui_read_only,
        ui_session_hours=settings.ui_session_hours,
    )


def shown_settings(settings: Settings) -> list[ShownSetting]:
    """All settings as people may see them, in the order of their names."""
    shown = []
    for name, field in sorted(Settings.model_fields.items()):
        value = getattr(settings, name)
        secret = "Secret" in str(field.annotation)
        several = isinstance(value, tuple)
        if secret:
            text = (f"{len(value)} set" if several else "set") if value else "not set"
        elif several:
            text = ", ".join(map(str, value))
        else:
            text = "" if value is None else str(value)
        default = value == field.get_default(call_default_factory=True)
        shown.append(ShownSetting(name.upper(), text, secret, default))
    return shown
