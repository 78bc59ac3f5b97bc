"""A job's request as a command to copy: for curl, for our command line, and for Python."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pprint import pformat
from typing import Any, Final, NamedTuple

_OPTIONS: Final = {"ttl_seconds": "--ttl", "priority": "--priority", "max_attempts": "--max-attempts"}
"""Members of a request that have an option of their own on the command line."""


class Copies(NamedTuple):
    curl: str
    cli: str
    python: str


def copies(request: Mapping[str, Any], url: str) -> Copies:
    """The same request in three ways, to the coordinator at `url`. Keys stay out of them."""
    return Copies(_curl(request, url), _cli(request), _python(request, url))


def _curl(request: Mapping[str, Any], url: str) -> str:
    body = json.dumps(dict(request), ensure_ascii=False)
    return (
        f"curl --silent {shlex.quote(url + '/v1/jobs')} \\\n"
        f'  --header "X-Api-Key: $COORDINATOR_API_KEY" \\\n'
        f"  --data {shlex.quote(body)}"
    )


def _cli(request: Mapping[str, Any]) -> str:
    parts = ["coordinator job submit", shlex.quote(str(request["service"]))]
    parts += ["--payload", shlex.quote(json.dumps(request.get("payload", {}), ensure_ascii=False))]
    if request.get("constraints"):
        parts += ["--constraints", shlex.quote(json.dumps(request["constraints"], ensure_ascii=False))]
    for member, option in _OPTIONS.items():
        if request.get(member) is not None:
            parts += [option, str(request[member])]
    return " ".join([*parts, "--wait"])


def _python(request: Mapping[str, Any], url: str) -> str:
    named = {
        name: value
        for name, value in request.items()
        if name not in ("service", "payload") and value is not None
    }
    lines = [f"    {request['service']!r},", f"    {_literal(request.get('payload', {}))},"]
    lines += [f"    {name}={_literal(value)}," for name, value in named.items()]
    return "\n".join(
        [
            "from coordinator.client import Coordinator",
            "",
            f"coordinator = Coordinator({url!r})  # the key: COORDINATOR_API_KEY",
            "job = coordinator.submit(",
            *lines,
            ")",
            "print(job.result(timeout=60).result)",
        ]
    )


def _literal(value: Any) -> str:
    return pformat(value, width=88, sort_dicts=False).replace("\n", "\n    ")
