"""What a verified passport proves, by whom, and what it does not, in sentences."""

from __future__ import annotations

from datetime import UTC, datetime

from coordinator.audit.passport.history import History, Hold
from coordinator.audit.passport.trust import Trust
from coordinator.audit.passport.verify import Given, Verdict
from coordinator.audit.units import UNIT_TYPES
from coordinator.crypto.log.passport import Passport


def proven(passport: Passport, verdict: Verdict, trust: Trust) -> list[str]:
    """One sentence for each proven fact. Empty unless every check is good."""
    checkpoint, key, history = verdict.checkpoint, verdict.log_key, verdict.history
    if not verdict.ok or checkpoint is None or key is None or history is None:
        return []
    signers = f"signed by {key.key_id}"
    if trust.witnesses:
        signers += f", cosigned by {len(verdict.cosigners)} of {len(trust.witnesses)} witnesses"
    own = len(passport.events)
    all_events = own + len(passport.relied_on)
    found = f"checkpoint of size {checkpoint.size}, {signers}"
    told = [f"The log of {checkpoint.origin} contains these {all_events} events ({found})."]
    told += [_request(history), *map(_hold, history.holds)]
    told.append(
        f"The job is {history.state} since {_moment(history.ended['at'])}: its {own} events are versions 1 "
        f"to {own} of its stream, and each follows from those before it."
    )
    statement = history.statement
    if statement is not None:
        document = statement.document
        told.append(
            f"The miner {document['miner_id']} signed with {statement.key_id} that it made the result of "
            f"digest {document['result_digest']} from the payload of digest {document['payload_digest']}."
        )
        told.append(_receipt(history, verdict))
    told += [
        f"The {check.name} that you have is the one of digest {check.detail}."
        for check in verdict.checks
        if check.name in ("payload", "result")
    ]
    return told


def unproven(verdict: Verdict, trust: Trust, given: Given) -> list[str]:
    """What nobody should read into a good passport."""
    told = []
    history = verdict.history
    if trust.coordinator is None:
        told.append(
            "who made it: you named no trusted key, and anybody can make a passport with a key of its own"
        )
    if not trust.witnesses:
        told.append("that others see the same log: you named no witness, and a log can show two faces")
    if history is None:
        return told
    client = history.submitted["client"]
    told.append(f"that {client} asked for it in person: whoever had its API key did, and signed nothing")
    if history.statement is not None:
        told.append("that the result is any good, or was computed at all")
        told.append("that the price was paid")
    told += [
        f"that {key} is the key of {miner}: only the log says so"
        for miner, key in dict.fromkeys((hold.miner_id, hold.miner_key) for hold in history.holds)
        if miner not in trust.miners
    ]
    if verdict.receipt is not None:
        told += [
            f"whose the attestation's key {attested.key_id} is"
            for attested in verdict.receipt.attestations
            if attested.key_id not in (trust.coordinator or ())
        ]
    if given.payload is None:
        told.append("the request's content: the log has its digest only")
    if given.result is None and history.statement is not None:
        told.append("the result's content: the log has its digest only")
    told.append("that all clocks were right: times are the coordinator's, those in the statement the miner's")
    told.append(
        f"that the log has no event of this job after its end: its rules forbid one after {history.state}, "
        "and an audit of the whole log shows it"
    )
    return told


def _request(history: History) -> str:
    submitted = history.submitted
    return (
        f"By the log, {submitted['client']} asked for {submitted['service']} (version "
        f"{submitted['service_version']}) at {_moment(submitted['at'])}, with the payload of digest "
        f"{submitted['payload_digest']}."
    )


def _hold(hold: Hold) -> str:
    return (
        f"By the log, attempt {hold.attempt} was held by {hold.miner_id} alone from {_moment(hold.since)} to "
        f"{_moment(hold.until)}: {hold.outcome}."
    )


def _receipt(history: History, verdict: Verdict) -> str:
    ended = history.ended
    unit_type = UNIT_TYPES[history.submitted.get("unit")]
    told = f"The receipt of {ended['units']} {unit_type} for {ended['price']} follows from the events"
    if verdict.receipt is None:
        return f"{told}."
    told += f", and is signed by {verdict.receipt.key_id}"
    keys = ", ".join(attested.key_id for attested in verdict.receipt.attestations)
    return f"{told}; attested by {keys}." if keys else f"{told}."


def _moment(millis: int) -> str:
    return (
        datetime.fromtimestamp(millis / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
