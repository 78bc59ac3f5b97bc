"""The promises of receipts in the answers to results."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.application.receipts.contents import promise_content
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.receipt import sign_promises
from coordinator.domain.job import Completed
from coordinator.wire.answers import Accepted


def with_promises(key: SigningKey, completed: Sequence[tuple[Accepted, Completed]]) -> list[Accepted]:
    """Each answer with the promise of its job's receipt; answers of one message share signatures."""
    promises = sign_promises(key, [promise_content(state) for _, state in completed])
    return [
        Accepted(position, {**body, "promise": promise})
        for ((position, body), _), promise in zip(completed, promises, strict=True)
    ]
