"""Refusals: the coded reasons why a command did nothing.

The codes are a public contract (clients switch on them). They say nothing about HTTP: the edge maps them
to status codes.
"""

from enum import StrEnum


class Code(StrEnum):
    """Every refusal code. A code never changes its meaning."""

    UNAUTHORIZED_KEY = "UNAUTHORIZED_KEY"  # the sender did not prove its identity
    FORBIDDEN = "FORBIDDEN"  # the sender is known, and may not do this
    RATE_LIMITED = "RATE_LIMITED"
    QUEUE_FULL = "QUEUE_FULL"  # too many queued jobs of this name
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"  # this name uses all that it may: bytes, miners or profiles
    INSUFFICIENT_FUNDS = (
        "INSUFFICIENT_FUNDS"  # the account has too little available; the detail says how much
    )
    INVALID_PAYLOAD = "INVALID_PAYLOAD"  # malformed, or against the schema
    TOO_LARGE = "TOO_LARGE"  # over a size limit
    UNKNOWN_COMMAND = "UNKNOWN_COMMAND"
    SERVICE_NOT_FOUND = "SERVICE_NOT_FOUND"  # no such service, or retired
    JOB_NOT_FOUND = "JOB_NOT_FOUND"  # no such job, or another client's
    JOB_NOT_READY = "JOB_NOT_READY"  # the job is not final yet
    BATCH_NOT_FOUND = "BATCH_NOT_FOUND"  # no such batch, or another principal's
    MINER_NOT_FOUND = "MINER_NOT_FOUND"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"  # no API key with this id
    WEBHOOK_NOT_FOUND = "WEBHOOK_NOT_FOUND"  # no such webhook, or another owner's
    SESSION_NOT_LIVE = "SESSION_NOT_LIVE"  # register again, with a new session id
    MINER_DRAINING = "MINER_DRAINING"  # the miner finishes its jobs and gets no new ones
    NOT_CAPABLE = "NOT_CAPABLE"  # this miner's capabilities do not satisfy the job
    NOT_OFFERED = "NOT_OFFERED"  # the claim has no token of an offer of this attempt to this miner's profile
    NO_ELIGIBLE_MINER = "NO_ELIGIBLE_MINER"
    CONFLICT_STATE = "CONFLICT_STATE"  # the aggregate's state does not allow this
    STALE_ATTEMPT = "STALE_ATTEMPT"  # another attempt is (or was) the valid one; drop the work
    IDEMPOTENCY_MISMATCH = "IDEMPOTENCY_MISMATCH"  # same key, different request
    INVALID_STATEMENT = "INVALID_STATEMENT"  # the signed statement does not prove this result
    INVALID_RESULT = "INVALID_RESULT"  # against the service's output schema; the attempt has failed
    DEAD_LETTER_NOT_FOUND = "DEAD_LETTER_NOT_FOUND"  # no dead letter has this id
    EVENT_NOT_FOUND = "EVENT_NOT_FOUND"  # no event of the log has this position
    NOT_IN_CHECKPOINT = "NOT_IN_CHECKPOINT"  # the published checkpoint does not cover this (yet)
    BLOB_NOT_FOUND = "BLOB_NOT_FOUND"  # no such blob, or another principal's
    CONTENT_EXPIRED = "CONTENT_EXPIRED"  # the payload or result was erased; its digest stays in the log
    BLOB_TOO_LARGE = "BLOB_TOO_LARGE"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    INTERNAL = "INTERNAL"  # our fault; nothing was recorded; send it again
    UNAVAILABLE = "UNAVAILABLE"  # the log is out of reach; the outcome is unknown; send it again


class Refusal(Exception):
    """The reason why a command did nothing.

    `code` is for programs, `detail` for people: it names the fault and the next step, and never contains a
    payload or a secret.
    """

    def __init__(self, code: Code, detail: str, *, retry_after: float | None = None) -> None:
        """`retry_after`: seconds until the same may be accepted, if they are known."""
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
