"""The HTTP service behind rabbitmq_auth_backend_http: four paths, each answered with `allow` or `deny`.

An answer that can't be had (the database is away, and memory does not suffice) is 503: RabbitMQ refuses that
one operation and remembers nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qsl

import structlog

from coordinator.application.keys.keyring import Keyring
from coordinator.application.ports import LogError
from coordinator.broker.auth.principals import Principals
from coordinator.broker.auth.rights import Question, allows, mark_of
from coordinator.domain.messages import Principal

MAX_QUESTION_BYTES: Final = 16_384
"""A routing key has up to 255 bytes, each of three characters at most; so have the names."""
DENY: Final = "deny"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = structlog.get_logger("broker.auth")


class BadQuestion(ValueError):
    """Not a question of RabbitMQ."""


class BrokerAuth:
    """The service, as an ASGI application."""

    def __init__(self, principals: Principals, keyring: Keyring, virtual_host: str) -> None:
        self._principals = principals
        self._keyring = keyring
        self._virtual_host = virtual_host
        self._paths: dict[str, Callable[[Mapping[str, str]], Awaitable[str]]] = {
            "/auth/user": self.user,
            "/auth/vhost": self.vhost,
            "/auth/resource": self.resource,
            "/auth/topic": self.topic,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, text = await self._respond(scope, receive)
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})

    async def _respond(self, scope: Scope, receive: Receive) -> tuple[int, str]:
        if scope["path"] == "/health":
            return 200, "ok"
        answer = self._paths.get(scope["path"])
        if answer is None:
            return 404, "no such path"
        try:
            fields = dict(
                parse_qsl(await _query(scope, receive), keep_blank_values=True, strict_parsing=True)
            )
            return 200, await answer(fields)
        except (BadQuestion, ValueError, KeyError):
            return 400, "not a question of rabbitmq_auth_backend_http"
        except LogError as error:
            log.warning("the log can't be read", error=str(error))
            return 503, "the log is out of reach"
        except Exception:
            log.exception("no answer")
            return 500, "internal error"

    # --- the four questions --------------------------------------------------------------------------------
    async def user(self, fields: Mapping[str, str]) -> str:
        """Whether this name and password may log in. The tags tell later questions which key it was."""
        key = f"{fields['username']}:{fields.get('password', '')}"
        grants = self._keyring.grants(key)
        if not grants:
            await self._principals.refresh()
            grants = self._keyring.grants(key)
        if not grants:
            log.info("login refused", name=fields["username"][:63])
            return DENY
        return "allow " + " ".join(sorted({mark_of(grant) for grant in grants}))

    async def vhost(self, fields: Mapping[str, str]) -> str:
        """Whether this user may open this virtual host: the coordinator's, and no other."""
        mine = fields["vhost"] == self._virtual_host and self._current(fields)
        return "allow" if mine else DENY

    async def resource(self, fields: Mapping[str, str]) -> str:
        """Whether this user may configure, write or read this exchange or queue."""
        return await self._allows(fields, Question(fields["resource"], fields["name"], fields["permission"]))

    async def topic(self, fields: Mapping[str, str]) -> str:
        """Whether this user may publish with, or bind, this key."""
        key = fields["routing_key"]
        return await self._allows(fields, Question("topic", fields["name"], fields["permission"], key))

    async def _allows(self, fields: Mapping[str, str], question: Question) -> str:
        if fields["vhost"] != self._virtual_host:
            return DENY
        if await self._any_allows(fields, question):
            return "allow"
        await self._principals.refresh()
        if await self._any_allows(fields, question):
            return "allow"
        log.info("denied", name=fields["username"][:63], right=f"{question.permission} {question.kind}")
        return DENY

    async def _any_allows(self, fields: Mapping[str, str], question: Question) -> bool:
        for principal in self._current(fields):
            if await allows(principal, question, self._principals.facts):
                return True
        return False

    def _current(self, fields: Mapping[str, str]) -> list[Principal]:
        return self._principals.current(fields["username"], fields.get("tags", "").split())


async def _query(scope: Scope, receive: Receive) -> str:
    """The fields of a GET's address or a POST's body, percent-encoded. Raises BadQuestion."""
    if scope["method"] == "GET":
        query = bytes(scope["query_string"])
        if len(query) > MAX_QUESTION_BYTES:
            raise BadQuestion
        return query.decode("ascii")
    if scope["method"] != "POST":
        raise BadQuestion
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise BadQuestion
        body += message.get("body", b"")
        if len(body) > MAX_QUESTION_BYTES:
            raise BadQuestion
        if not message.get("more_body"):
            return body.decode("ascii")
