"""Export over OTLP, as the standard variables `OTEL_*` ask for it.

Needs the extra `telemetry`. Everything of OpenTelemetry is imported here, and only once traces are asked for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from coordinator import __version__
from coordinator.telemetry import names, tracing

STOP_SECONDS = 5.0
"""How long a stop waits for the receiver to take the last spans."""
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
EXPORTER, DISABLED = "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"
SAMPLER, SAMPLER_ARG = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
SAMPLERS = frozenset(
    {
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    }
)


class BadTelemetry(ValueError):
    """A variable `OTEL_*` can't be followed. The text names it and says what to do."""


def asked_for(environment: Mapping[str, str]) -> bool:
    """Whether these variables ask for traces: an endpoint, or the exporter `otlp`. Raises BadTelemetry."""
    if environment.get(DISABLED, "").strip().lower() == "true":
        return False
    exporter = environment.get(EXPORTER, "").strip().lower()
    if exporter not in ("", "none", "otlp"):
        raise BadTelemetry(f"invalid {EXPORTER}: use otlp or none")
    if exporter == "none" or not (exporter or any(environment.get(name) for name in ENDPOINTS)):
        return False
    for name in PROTOCOLS:
        if environment.get(name, "") not in ("", "http/protobuf"):
            raise BadTelemetry(f"invalid {name}: only http/protobuf is supported; receivers take it at :4318")
    _check_sampler(environment)
    return True


def _check_sampler(environment: Mapping[str, str]) -> None:
    sampler, argument = environment.get(SAMPLER, "").lower(), environment.get(SAMPLER_ARG, "")
    if sampler and sampler not in SAMPLERS:
        raise BadTelemetry(f"invalid {SAMPLER}: use one of {', '.join(sorted(SAMPLERS))}")
    if sampler.endswith("traceidratio"):
        try:
            valid = 0.0 <= float(argument or "1") <= 1.0
        except ValueError:
            valid = False
        if not valid:
            raise BadTelemetry(f"invalid {SAMPLER_ARG}: a share of all traces, from 0 to 1")


def take_from_file(path: Path = Path(".env")) -> None:
    """Put the variables `OTEL_*` of a `.env` file into the environment, which has precedence.

    OpenTelemetry reads the environment alone.
    """
    if path.is_file():
        from dotenv import dotenv_values

        for name, value in dotenv_values(path).items():
            if name.startswith("OTEL_") and value:
                os.environ.setdefault(name, value)


def start(service: str, instance: str | None = None) -> Callable[[], None]:
    """Begin to export spans if the environment asks for it; returns the stop. Raises BadTelemetry.

    `service` names this program, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES do; `instance` tells it
    from others of its kind. The stop may be called twice.
    """
    take_from_file()
    if not asked_for(os.environ):
        return lambda: None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise BadTelemetry(
            "the environment (OTEL_*) asks for traces, which need the extra: "
            "pip install 'coordinator[telemetry]', or set OTEL_SDK_DISABLED=true"
        ) from None
    from coordinator.telemetry.opentelemetry_tracer import (
        ChosenIds,
        OpenTelemetryTracer,
        Sampling,
        WatchedExporter,
    )

    found = Resource.create()
    own = {"service.name": service, "service.version": __version__}
    if instance is not None:
        own["service.instance.id"] = instance
    named = {name: value for name, value in own.items() if not _is_given(found.attributes, name)}
    ids = ChosenIds()
    sampling = Sampling(
        os.environ.get(SAMPLER, "").lower() or "parentbased_always_on",
        float(os.environ.get(SAMPLER_ARG) or 1),
    )
    provider = TracerProvider(
        sampler=sampling.sampler,
        resource=found.merge(Resource(named, names.SCHEMA_URL)),
        id_generator=ids,
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(WatchedExporter(OTLPSpanExporter())))
    tracer = OpenTelemetryTracer(
        provider.get_tracer("coordinator", __version__, schema_url=names.SCHEMA_URL), sampling, ids
    )
    tracing.use(tracer)

    def stop() -> None:
        if tracing.tracer() is tracer:
            tracing.use(None)
        # A receiver that is away must not hold up the stop: what it has not taken by then is lost.
        ending = threading.Thread(target=provider.shutdown, name="telemetry-stop", daemon=True)
        ending.start()
        ending.join(STOP_SECONDS)

    return stop


def _is_given(attributes: Mapping[str, object], name: str) -> bool:
    value = attributes.get(name)
    # The SDK makes a name and an instance up where it was given none.
    return name in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "") or (
        name == "service.name" and not str(value).startswith("unknown_service")
    )
