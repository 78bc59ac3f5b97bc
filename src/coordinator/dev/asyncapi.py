"""The AMQP side as an AsyncAPI 3 document: channels, operations, messages and their schemas.

Made from the topology and the models that the program itself uses, so that the two can't differ.
`coordinator.dev.schemas` writes it to `schemas/asyncapi.json`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from coordinator import __version__
from coordinator.application.live.progress import ProgressReport
from coordinator.broker.topology import (
    COMMANDS,
    CONTROL,
    EVENTS,
    HEARTBEAT_TTL_MS,
    PROGRESS,
    WORK,
    WORK_EXPIRES_MS,
    ExchangeSpec,
)
from coordinator.crypto.receipt import Promise, Receipt
from coordinator.crypto.statement import SignedStatement
from coordinator.domain import registry
from coordinator.domain.errors import Code
from coordinator.domain.messages import Command, Role
from coordinator.wire.heartbeat import Heartbeat
from coordinator.wire.limits import MAX_ARRAY_LENGTH, MAX_BODY_BYTES
from coordinator.wire.offers import Offer
from coordinator.wire.topology import (
    DEAD_QUEUE,
    EVENTS_STREAM,
    HEARTBEAT_TYPE,
    HEARTBEATS_QUEUE,
    HINT_TYPE,
    OFFER_TYPE,
    PROGRESS_TYPE,
    control_queue_name,
    event_key,
    progress_key,
    work_queue_name,
)

BINDING_VERSION: Final = "0.3.0"
_SCHEMAS: Final = "#/components/schemas/{model}"
_JSON: Final = "application/json"
_OUTSIDE: Final = frozenset({Role.CLIENT, Role.MINER, Role.OPERATOR, Role.ADMIN})

Json = dict[str, Any]


def _comes_over_amqp(command: type[Command]) -> bool:
    return bool(command.senders & _OUTSIDE) and not command.discloses


def asyncapi(generator: type[GenerateJsonSchema] = GenerateJsonSchema) -> Json:
    """The document, from the coordinator's point of view: it receives commands and sends offers."""
    commands = {t: c for t, c in registry.COMMANDS.items() if _comes_over_amqp(c)}
    messages = {
        **{topic: _command(topic, command) for topic, command in commands.items()},
        HEARTBEAT_TYPE: _signed(HEARTBEAT_TYPE, "Heartbeat", "Reports that a miner's session is alive."),
        OFFER_TYPE: _message(OFFER_TYPE, _array(_ref("Offer")), "Attempts that miners may claim."),
        HINT_TYPE: _message(
            HINT_TYPE, _HINT, "A hint to one miner. A lost hint costs time, never correctness."
        ),
        PROGRESS_TYPE: _message(
            PROGRESS_TYPE, _one_or_many(_ref("ProgressReport")), "An attempt's progress, and its new text."
        )
        | {"headers": _ref("SignedHeaders")},
        **{topic: _event(topic, event.__name__) for topic, event in registry.EVENTS.items()},
        "reply": _message(None, _one_or_many(_ref("Reply")), "The answer to a command or a heartbeat."),
        "dead_letter": _DEAD_LETTER,
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "coordinator",
            "version": __version__,
            "description": "The AMQP side of the coordinator. docs/protocol.md explains signatures, "
            "acknowledgements and codes.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": _JSON,
        "channels": _channels(commands, registry.EVENTS),
        "operations": _operations(commands, registry.EVENTS),
        "components": {"messages": messages, "schemas": _schemas(generator)},
    }


# --- channels ----------------------------------------------------------------------------------------------
def _channels(commands: Iterable[str], events: Iterable[str]) -> Json:
    commands, events = list(commands), list(events)
    names = [topic.rpartition(".")[0] for topic in events]
    return {
        "commands": _channel(
            "{command}",
            "Commands; the routing key is the type.",
            commands,
            _exchange(COMMANDS),
            command={"description": "The command's type.", "enum": commands},
        ),
        "heartbeats": _channel(
            HEARTBEATS_QUEUE,
            "Heartbeats, published to the exchange of this name by their type. A heartbeat that waits for "
            f"{HEARTBEAT_TTL_MS // 1000} seconds is dropped.",
            [HEARTBEAT_TYPE],
            _queue(HEARTBEATS_QUEUE),
        ),
        "offers": _channel(
            work_queue_name("{profile}"),
            "Offers for miners of one profile. Registering declares the queue, and the answer names it. It "
            f"expires after {WORK_EXPIRES_MS // 60_000} unused minutes. Bound to {WORK.name}.",
            [OFFER_TYPE],
            _queue(work_queue_name("{profile}")),
            profile={"description": "`profile` in the answer to miner.register."},
        ),
        "hints": _channel(
            control_queue_name("{miner_id}"),
            f"Hints for one miner. Registering declares the queue. Bound to {CONTROL.name}.",
            [HINT_TYPE],
            _queue(control_queue_name("{miner_id}")),
            miner_id={"description": "The miner's id."},
        ),
        "events": _channel(
            event_key("{fact}", "{client}", "{subject}"),
            "Every event of the log, in arrays, at least once. A copy for convenience.",
            events,
            _exchange(EVENTS),
            fact={"description": "The event's topic without its version: two words.", "enum": sorted(names)},
            client={"description": "The job's client; `-` for an event without a client."},
            subject={
                "description": "The job (miner, service) of the array; `many` if there are several, "
                "so bind `job.completed.<client>.*` and read the elements."
            },
        ),
        "progress": _channel(
            progress_key("{client}", "{job_id}"),
            "Progress and text of running jobs. Unwatched progress is dropped; nothing is kept.",
            [PROGRESS_TYPE],
            _exchange(PROGRESS),
            client={"description": "The job's client: `client` in the offer."},
            job_id={"description": "The job of all reports in the message."},
        ),
        "event_log": _channel(
            EVENTS_STREAM,
            "A stream of all messages on the events exchange, bounded in age and size. For operators.",
            events,
            _queue(EVENTS_STREAM),
        ),
        "dead_letters": _channel(
            DEAD_QUEUE,
            "Messages that could not be handled, with the reason in their headers. For operators.",
            ["dead_letter"],
            _queue(DEAD_QUEUE),
        ),
        "replies": _channel(
            None,
            "The queue that the request names in its property reply_to.",
            ["reply"],
            {"is": "queue", "bindingVersion": BINDING_VERSION},
        ),
    }


def _channel(
    address: str | None, description: str, messages: Iterable[str], binding: Json, **parameters: Json
) -> Json:
    channel = {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"amqp": binding},
    }
    return {**channel, "parameters": parameters} if parameters else channel


def _exchange(exchange: ExchangeSpec) -> Json:
    return {
        "is": "routingKey",
        "exchange": {"name": exchange.name, "type": exchange.kind, "durable": True, "autoDelete": False},
        "bindingVersion": BINDING_VERSION,
    }


def _queue(name: str) -> Json:
    queue = {"name": name, "durable": True, "exclusive": False, "autoDelete": False}
    return {"is": "queue", "queue": queue, "bindingVersion": BINDING_VERSION}


# --- operations --------------------------------------------------------------------------------------------
def _operations(commands: Iterable[str], events: Iterable[str]) -> Json:
    def messages(channel: str, names: Iterable[str]) -> list[Json]:
        return [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names]

    def operation(action: str, channel: str, summary: str, names: Iterable[str], binding: Json) -> Json:
        return {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "summary": summary,
            "messages": messages(channel, names),
            "bindings": {"amqp": {**binding, "bindingVersion": BINDING_VERSION}},
        }

    reply = {
        "address": {
            "description": "The property reply_to of the request, through the default exchange.",
            "location": "$message.header#/reply_to",
        },
        "channel": {"$ref": "#/channels/replies"},
        "messages": messages("replies", ["reply"]),
    }
    events = list(events)
    return {
        "decide": {
            **operation(
                "receive", "commands", "Decide commands.", commands, {"ack": True, "mandatory": True}
            ),
            "reply": reply,
        },
        "receive_heartbeats": {
            **operation("receive", "heartbeats", "Receive heartbeats.", [HEARTBEAT_TYPE], {"ack": True}),
            "reply": reply,
        },
        "receive_progress": operation(
            "receive", "progress", "Pass progress on to watchers.", [PROGRESS_TYPE], {"ack": False}
        ),
        "offer_work": operation("send", "offers", "Offer work.", [OFFER_TYPE], {"deliveryMode": 1}),
        "send_hints": operation("send", "hints", "Send hints to a miner.", [HINT_TYPE], {"deliveryMode": 1}),
        "publish_events": operation("send", "events", "Publish events.", events, {"deliveryMode": 2}),
        "dead_letter": operation(
            "send", "dead_letters", "Keep unhandled messages.", ["dead_letter"], {"deliveryMode": 2}
        ),
    }


# --- messages ----------------------------------------------------------------------------------------------
def _command(topic: str, command: type[Command]) -> Json:
    message = _signed(topic, command.__name__, (command.__doc__ or "").partition("\n")[0])
    return {**message, "x-senders": sorted(command.senders & _OUTSIDE)}


def _signed(topic: str, model: str, summary: str) -> Json:
    return {
        **_message(topic, _one_or_many(_ref(model)), summary),
        "headers": _ref("SignedHeaders"),
        "correlationId": {
            "description": "The property correlation_id, repeated by the reply.",
            "location": "$message.header#/correlation_id",
        },
    }


def _event(topic: str, model: str) -> Json:
    element = {
        "type": "object",
        "properties": {
            "position": {"type": "integer", "description": "The event's position in the log."},
            "stream": {"type": "string", "format": "uuid"},
            "version": {"type": "integer", "minimum": 1, "description": "Its number in its stream."},
            "topic": {"const": topic},
            "event": _ref(model),
            "metadata": {
                "type": "object",
                "description": "The command and the trace that the event belongs to.",
                "properties": {
                    "command_id": {"type": "string", "description": "The command that caused the event."},
                    "traceparent": {"type": "string", "description": "W3C trace context of that command."},
                },
                "required": ["command_id", "traceparent"],
            },
        },
        "required": ["position", "stream", "version", "topic", "event", "metadata"],
    }
    return _message(topic, _array(element), f"Events of the type {topic.rpartition('.')[0]}.")


def _message(message_type: str | None, payload: Json, summary: str) -> Json:
    message = {"contentType": _JSON, "payload": payload}
    if summary:
        message["summary"] = summary
    if message_type:
        message["name"] = message_type
        message["bindings"] = {"amqp": {"messageType": message_type, "bindingVersion": BINDING_VERSION}}
    return message


_HINT: Final[Json] = {
    "oneOf": [
        {
            "type": "object",
            "properties": {
                "hint": {"enum": ["cancel", "progress"]},
                "job_id": {"type": "string", "format": "uuid"},
                "attempt": {"type": "integer"},
            },
            "required": ["hint", "job_id", "attempt"],
        },
        {
            "type": "object",
            "properties": {"hint": {"const": "drain"}, "session_id": {"type": "string"}},
            "required": ["hint", "session_id"],
        },
    ]
}
_DEAD_LETTER: Final[Json] = {
    "name": "dead_letter",
    "summary": "The original body and type.",
    "headers": {
        "type": "object",
        "properties": {
            "reason": {"type": "string", "description": "For people."},
            "code": {"type": "string", "description": "For programs."},
            "routing_key": {"type": "string"},
            "principal": {"type": "string", "description": "The claimed sender; may be forged."},
            "message_id": {"type": "string", "description": "The original one; empty if absent."},
        },
    },
    "payload": {},
}


# --- schemas -----------------------------------------------------------------------------------------------
def _schemas(generator: type[GenerateJsonSchema]) -> Json:
    models: list[type[BaseModel]] = [
        *(c for c in registry.COMMANDS.values() if _comes_over_amqp(c)),
        *registry.EVENTS.values(),
        Heartbeat,
        Offer,
        ProgressReport,
        Promise,
        Receipt,
        SignedStatement,
    ]
    _, found = models_json_schema(
        [(model, "validation") for model in models], ref_template=_SCHEMAS, schema_generator=generator
    )
    return {
        **found["$defs"],
        "Reply": {"oneOf": [_ref("Accepted"), _ref("Refused")]},
        "Accepted": {
            "type": "object",
            "description": "The command's effect is in the log. Further members depend on the command.",
            "properties": {
                "status": {"const": "accepted"},
                "position": {"type": "integer", "description": "The effect's position in the log."},
            },
            "required": ["status", "position"],
        },
        "Refused": {
            "type": "object",
            "description": "The command had no effect; the reason follows.",
            "properties": {
                "status": {"const": "refused"},
                "code": {"enum": [code.value for code in Code]},
                "detail": {"type": "string", "description": "For people."},
            },
            "required": ["status", "code", "detail"],
        },
        "SignedHeaders": {
            "type": "object",
            "description": "The sender, and the proof. The properties message_id, reply_to and "
            f"correlation_id are signed too. A body has {MAX_BODY_BYTES} bytes at most.",
            "properties": {
                "principal": {"type": "string", "description": "The name in the API key `name:secret`."},
                "signature": {
                    "type": "string",
                    "pattern": "^[0-9a-f]{64}$",
                    "description": "HMAC-SHA256 under the secret.",
                },
                "issued_at": {"type": "integer", "description": "Unix milliseconds; signed if present."},
                "traceparent": {"type": "string", "description": "W3C trace context."},
            },
            "required": ["principal", "signature"],
        },
    }


def _ref(model: str) -> Json:
    return {"$ref": _SCHEMAS.format(model=model)}


def _array(item: Json) -> Json:
    return {"type": "array", "items": item, "minItems": 1, "maxItems": MAX_ARRAY_LENGTH}


def _one_or_many(item: Json) -> Json:
    return {"oneOf": [item, _array(item)]}
