"""What generated requests can't know: that waits are waits, and which members must agree with each other.

A schema can't say these things, so the requests are corrected before they are sent. What is no wait, no
position and so on stays as it was generated, to be refused.
"""

from __future__ import annotations

import os
import re
from typing import Any

import schemathesis

Case = schemathesis.Case[Any]
LONGEST_WAIT_SECONDS = 0.05
FOR_ADMINS = ("list_miners", "metrics", "raise_alarm")
NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@schemathesis.auth(refresh_interval=None)  # each operation's own, and not the last one's
class Key:
    """Sends a key of the role that an operation is for; schemathesis leaves it out to see what happens."""

    def get(self, case: Case, context: schemathesis.AuthContext) -> str:
        return os.environ[_role_of(context.operation)]

    def set(self, case: Case, data: str, context: schemathesis.AuthContext) -> None:
        case.headers["X-Api-Key"] = data


def _role_of(operation: Any) -> str:
    described = operation.definition.raw
    [tag] = described["tags"]
    if tag in ("keys", "admin") or described["operationId"] in FOR_ADMINS:
        return "ADMIN_KEY"
    return "MINER_KEY" if tag == "miners" else "CLIENT_KEY"


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Correct one request."""
    _correct_parameters(case)
    if isinstance(case.body, dict):
        case.body = _whole_numbers(case.body)
        _correct_body(case)


def _correct_parameters(case: Case) -> None:
    query, headers = case.query, case.headers
    wait = query.get("wait")
    if isinstance(wait, int | float | str) and NUMBER.fullmatch(str(wait)):
        query["wait"] = str(min(float(wait), LONGEST_WAIT_SECONDS))
    if "Prefer" in headers and re.search("wait", str(headers["Prefer"]), re.IGNORECASE):
        headers["Prefer"] = "wait=0"
    # The position of a log that has not come to it: 503, as it should be, and no server error.
    for values, name in ((query, "at_least"), (headers, "X-At-Least")):
        if name in values and re.fullmatch("[0-9]{1,18}", str(values[name])):
            values[name] = "1"


def _correct_body(case: Case) -> None:
    body: Any = case.body
    if case.operation.label == "POST /v1/miners/poll":
        wait = body.setdefault("max_wait_seconds", 0)
        if isinstance(wait, int | float) and not isinstance(wait, bool) and 0 <= wait <= 60:
            body["max_wait_seconds"] = min(wait, LONGEST_WAIT_SECONDS)
    if case.operation.label.endswith("/progress") and body.get("text") and body.get("offset") is None:
        body["offset"] = 0
    if "Idempotency-Key" in case.headers:  # the two must be the same
        body.pop("idempotency_key", None)
    if isinstance(body.get("capabilities"), dict) and "region" in body:  # these, too
        body["capabilities"].pop("region", None)


def _whole_numbers(value: Any) -> Any:
    """The value with 5 for 5.0 (to JSON Schema both are integers, and we take only the first), in 64 bits."""
    match value:
        case dict():
            return {key: _whole_numbers(item) for key, item in value.items()}
        case list():
            return [_whole_numbers(item) for item in value]
        case bool():
            return value
        case int():
            return max(-(2**63) + 1, min(2**63 - 1, value))
        case float() if value.is_integer():
            return _whole_numbers(int(value))
    return value
