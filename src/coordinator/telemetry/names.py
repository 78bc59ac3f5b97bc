"""The names of spans and attributes, in one place, as one version of the semantic conventions has them.

The conventions for messages are not stable yet: a new version is a change of this file. A test compares it
with the package `opentelemetry-semantic-conventions`.
Source: https://opentelemetry.io/docs/specs/semconv/messaging/, …/rabbitmq/, …/http/http-spans/.
"""

from __future__ import annotations

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
"""The version, in the words of OpenTelemetry."""

# --- of the conventions ------------------------------------------------------------------------------------
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION_NAME: Final = "messaging.destination.name"
MESSAGING_DESTINATION_TEMPLATE: Final = "messaging.destination.template"
MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY: Final = "messaging.rabbitmq.destination.routing_key"
HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
HTTP_ROUTE: Final = "http.route"
URL_SCHEME: Final = "url.scheme"
URL_TEMPLATE: Final = "url.template"
ERROR_TYPE: Final = "error.type"

RABBITMQ: Final = "rabbitmq"
IN_PROCESS: Final = "coordinator"
"""The system of the queues in embedded mode: the conventions leave names of other systems to us."""
SEND: Final = "send"
PROCESS: Final = "process"

# --- our own -----------------------------------------------------------------------------------------------
JOB_ID: Final = "coordinator.job.id"
ATTEMPT: Final = "coordinator.job.attempt"
SERVICE: Final = "coordinator.service"
COMMAND: Final = "coordinator.command"
BATCH_COMMANDS: Final = "coordinator.batch.commands"
BATCH_EVENTS: Final = "coordinator.batch.events"
MINER_ID: Final = "coordinator.miner.id"

COMMIT: Final = "commit"
"""A command's share of a group commit: from the begin of its batch to the end of the transaction."""
ATTEMPT_SPAN: Final = "attempt"
"""An attempt of a miner that polls over HTTP. Over AMQP it is the processing of the offer's message."""


def executing(service: str) -> str:
    """The span of an executor. The service is one that the miner itself offers."""
    return f"execute {service}"


def deciding(command: str) -> str:
    """The span of a command that came over HTTP, or from the coordinator itself."""
    return f"decide {command}"


def messaging(
    operation: str, exchange: str, routing_key: str, *, system: str = RABBITMQ, queue: str = ""
) -> dict[str, str]:
    """The attributes of one message. `queue`: where a consumer has it from.

    A destination is `exchange:routing key`, and `exchange:routing key:queue` for a consumer, each only once.
    """
    parts = [exchange, routing_key, *([queue] if queue not in ("", routing_key) else [])]
    attributes = {
        MESSAGING_SYSTEM: system,
        MESSAGING_OPERATION_NAME: operation,
        MESSAGING_OPERATION_TYPE: operation,
        MESSAGING_DESTINATION_NAME: ":".join(filter(None, parts)),
    }
    if system == RABBITMQ and routing_key:
        attributes[MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY] = routing_key
    return attributes
