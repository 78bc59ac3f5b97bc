"""The core's answers to the questions of edge processes (`asking`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import structlog

from coordinator.application.background import Background
from coordinator.application.commands.parsing import parse_command
from coordinator.application.keys.keyring import Grant
from coordinator.application.ports import Intent
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Principal, Role
from coordinator.edge.context import EdgeContext
from coordinator.edge.relay.frames import BadFrame, Kind, arrays
from coordinator.edge.relay.link import Link
from coordinator.wire.answers import AnswerJson, refused

REVOKED: Final = "revoked"
"""The answer to commands of a key that is no longer valid: the whole exchange comes to the core instead."""

log = structlog.get_logger("edge")


class Telling:
    """The answers on one connection."""

    def __init__(self, link: Link, context: EdgeContext) -> None:
        self._link = link
        self._context = context
        self._told: list[bytes] = []
        self._work = Background("edge-questions")

    async def run(self) -> None:
        """Answer until the connection ends. Raises BadFrame."""
        try:
            while (frame := await self._link.take()) is not None:
                match frame.kind:
                    case Kind.ASK:
                        self._ask(frame.json())
                    case Kind.COUNTS:
                        self._context.http_metrics.add(frame.json())
                    case _:
                        raise BadFrame("not a question")
                await self._link.drain()
        except (ValueError, TypeError, KeyError, AttributeError):
            raise BadFrame("invalid question") from None
        finally:
            await self._work.join()  # what was asked is decided, whether or not its asker still listens

    def _ask(self, questions: Any) -> None:
        if not isinstance(questions, list):
            raise BadFrame("questions are an array")
        by_sender: dict[tuple[Any, ...], list[tuple[int, Any]]] = {}
        for number, name, *arguments in questions:
            match name, arguments:
                case "key", [str() as key]:
                    self._tell(number, self._grants(key))
                case "spend", [str() as role, str() as of]:
                    self._work.spawn(self._spend(number, role, of))
                case "send", [[of, role, key_id, generation], list() as commands]:
                    by_sender.setdefault((of, role, key_id, generation), []).append((number, commands))
                case _:
                    raise BadFrame("no such question")
        for (of, role, key_id, generation), sent in by_sender.items():
            principal = Principal(str(of), Role(role))
            grant = Grant(principal, None if key_id is None else UUID(key_id), int(generation))
            self._work.spawn(self._send(grant, sent))

    def _tell(self, number: int, answer: Any) -> None:
        if not self._told:
            asyncio.get_running_loop().call_soon(self._flush)
        self._told.append(json.dumps([number, answer], separators=(",", ":")).encode())

    def _flush(self) -> None:
        told, self._told = self._told, []
        for array in arrays(told):
            self._link.write_json(Kind.TELL, array)

    def _grants(self, key: str) -> list[Any]:
        grants = self._context.keyring.grants(key)
        if any(grant.hmac_secret or grant.locked for grant in grants):
            return []  # their signatures are checked, and remembered, here
        return [
            [g.principal.name, g.principal.role.value, g.key_id and str(g.key_id), g.generation]
            for g in grants
        ]

    async def _spend(self, number: int, role: str, name: str) -> None:
        rates = self._context.rates
        spent = None if rates is None else await rates.spend(role, name)
        self._tell(number, spent and [spent.limit, spent.count, spent.window, spent.reset])

    async def _send(self, grant: Grant, sent: Sequence[tuple[int, Any]]) -> None:
        """Decide the commands of one sender; each question is one of its requests."""
        context, principal = self._context, grant.principal
        if grant not in context.keyring.valid(principal.name):
            for number, _ in sent:
                self._tell(number, REVOKED)
            return
        intents: list[Intent] = []
        asked: list[tuple[int, list[AnswerJson | None]]] = []
        for number, commands in sent:
            busy = context.open_connections.begin_request(principal)
            if busy is not None:
                self._tell(number, [refused(busy.code.value, busy.detail) for _ in commands])
                continue
            answers: list[AnswerJson | None] = []
            asked.append((number, answers))
            for topic, fields, traceparent, span in commands:
                try:
                    command = parse_command(topic, fields)
                except Refusal as refusal:
                    answers.append(refused(refusal.code.value, refusal.detail))
                else:
                    intents.append(Intent(command, principal, traceparent=traceparent, span=span))
                    answers.append(None)
        context.http_metrics.under_way += len(asked)
        try:
            decided = iter(await context.gateway.handle(intents) if intents else ())
            for number, answers in asked:
                whole = [next(decided).to_wire() if answer is None else answer for answer in answers]
                self._tell(number, whole)
        except Exception:
            log.exception("commands of an edge process could not be handled", count=len(intents))
            for number, answers in asked:
                self._tell(number, [refused(Code.INTERNAL.value, "internal error") for _ in answers])
        finally:
            context.http_metrics.under_way -= len(asked)
            for _ in asked:
                context.open_connections.end_request(principal)
