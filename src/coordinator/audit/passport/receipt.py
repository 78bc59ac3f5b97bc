"""The receipt that follows from a job's events, written here a second time, and its comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordinator.audit.passport.history import History
from coordinator.audit.units import UNIT_TYPES
from coordinator.crypto.canonical import CanonicalError, canonical, canonical_lenient
from coordinator.crypto.receipt import receipt_id


def expected_content(history: History, recorded_under: str | None) -> dict[str, Any]:
    """The receipt of a completed job without its signatures."""
    submitted, completed, statement = history.submitted, history.ended, history.statement
    assert statement is not None
    metadata = {
        "attempt": completed["attempt"],
        "service": submitted["service"],
        "payload_digest": submitted["payload_digest"],
        "result_digest": completed["result_digest"],
        "measured_units": completed.get("measured_units"),
        "statement": statement.document,
        "recorded_under": recorded_under,
    }
    return {
        "version": "1.0",
        "receipt_id": receipt_id(submitted["job_id"], completed["attempt"]),
        "job_id": submitted["job_id"],
        "provider": completed["miner_id"],
        "client": submitted["client"],
        "units": completed["units"],
        "unit_type": UNIT_TYPES[submitted.get("unit")],
        "price": completed["price"],
        "started_at": completed["started_at"] // 1000,
        "completed_at": completed["completed_at"] // 1000,
        "metadata": {name: value for name, value in metadata.items() if value is not None},
    }


def difference(receipt: Mapping[str, Any], history: History) -> str | None:
    """What the receipt says otherwise than the events, whoever signed it; None if nothing."""
    signature = receipt.get("signature")
    signer = signature.get("key_id") if isinstance(signature, Mapping) else None
    in_force = history.coordinator_key
    recorded_under = in_force if in_force is not None and in_force != signer else None
    content = {name: value for name, value in receipt.items() if name not in ("signature", "attestations")}
    expected = expected_content(history, recorded_under)
    try:
        if canonical_lenient(content) == canonical(expected):
            return None
    except CanonicalError as error:
        return str(error)
    return _first_difference(content, expected, "")


def _first_difference(said: Any, expected: Any, where: str) -> str:
    if isinstance(said, Mapping) and isinstance(expected, Mapping):
        for name in sorted({*said, *expected}):
            if said.get(name) != expected.get(name):
                return _first_difference(said.get(name), expected.get(name), f"{where}.{name}".strip("."))
    return f"{where} is {said!r}, but by the events {expected!r}"
