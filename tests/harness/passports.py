"""Good passports of a decided log, and the spoilt ones that every verifier has to refuse.

Each spoilt one names the checks that turn red. The list is the same for the command line, for the page in a
browser, and for a verifier that is written from the documentation alone.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from coordinator.application.proof.passports import Passports
from coordinator.application.receipts.receipts import Receipts
from coordinator.application.receipts.signing_keys import SigningKeys
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.log.checkpoint import Checkpoint, log_key, read_checkpoint, sign_checkpoint
from coordinator.crypto.log.leaf import hash_of
from coordinator.crypto.log.note import Algorithm, VerifierKey, cosign
from coordinator.crypto.receipt import attest_receipt, sign_receipt
from coordinator.crypto.statement import sign_statement
from tests.harness import decided_log
from tests.harness.decided_log import COORDINATOR, MINERS
from tests.harness.notarizing import ORIGIN, NotarizedLog

JOBS = 21
ATTESTER = SigningKey(b"a" * 32)
STRANGER = SigningKey(b"s" * 32)
WITNESS = SigningKey(b"w" * 32)
WITNESS_KEY = VerifierKey.of(WITNESS, "witness.example/1", Algorithm.COSIGNATURE)
OTHER_WITNESS_KEY = VerifierKey.of(STRANGER, "witness.example/2", Algorithm.COSIGNATURE)
LOG_KEY = log_key(COORDINATOR, ORIGIN)
MINER_KEYS = {name: key.key_id for name, key in MINERS.items()}
WITNESSED_AT = 1_700_000_100

Document = dict[str, Any]


class Passes(NamedTuple):
    """Passports of one log, as documents."""

    retried: Document
    """Completed at its second attempt, by node1@farm after rig."""
    other: Document
    """The same of another job."""
    failed: Document
    """Failed after three attempts, without a receipt."""
    canceled: Document
    expired: Document
    claimless: Document
    """Completed without a claim."""
    unusual: Document
    """With a service whose leaf has its digest only, and with texts that JSON writers write differently."""
    counted: Document
    """Billed by images: the miner signed four, and its result shows three."""
    rotated: Document
    """Of a coordinator that has lost the key of that time: STRANGER signed the receipt."""

    def by_one_key(self) -> tuple[Document, ...]:
        """Those that COORDINATOR signed alone."""
        return self[:-1]


def job_id(number: int) -> UUID:
    """The id of a decided log's job."""
    return decided_log.Life(number).job_id


def make(folder: Path) -> Passes:
    """Write a log, sign it, and make passports, with salts, attestations and one cosignature."""
    log = NotarizedLog(str(folder / "log.db"), folder / "checkpoint")
    decided_log.write(log.log, JOBS)

    async def work() -> list[Document]:
        await log.follow(log.notary())
        passports = Passports(
            log.log, log.proofs, Receipts(log.log, SigningKeys(COORDINATOR), attests=ATTESTER)
        )
        made = [await passports.of(job_id(n), with_salts=True) for n in (0, 10, 2, 3, 4, 6, 0, 7)]
        lost = Passports(log.log, log.proofs, Receipts(log.log, SigningKeys(STRANGER)))
        made.append(await lost.of(job_id(0)))
        documents = [json.loads(json.dumps(document)) for document in made if document is not None]
        _make_unusual(documents[6])
        return documents

    try:
        # In a thread: a test with a browser has a running loop in this one.
        with ThreadPoolExecutor(1) as thread:
            return Passes(*map(witnessed, thread.submit(lambda: asyncio.run(work())).result()))
    finally:
        log.close()


def witnessed(document: Document) -> Document:
    """With the cosignature of WITNESS."""
    signed = read_checkpoint(document["checkpoint"].encode())
    line = cosign(WITNESS, WITNESS_KEY.name, signed.note.text, WITNESSED_AT)
    return {**document, "checkpoint": str(signed.note.with_signatures([line]))}


# --- spoilt ones -------------------------------------------------------------------------------------------
class Spoilt(NamedTuple):
    """A change of `Passes.retried`, and the checks that must be red; others may be."""

    change: Callable[[Document, Passes], None]
    red: tuple[str, ...]


def spoil(name: str, passes: Passes) -> Document:
    """The spoilt passport of this name."""
    document = copy.deepcopy(passes.retried)
    SPOILT[name].change(document, passes)
    return document


def every_value_changed(document: Document) -> Iterator[tuple[str, Document]]:
    """A passport for each text and number in this one, with that one changed; salts say nothing alone."""
    for path in list(_places({name: value for name, value in document.items() if name != "salts"})):
        changed = copy.deepcopy(document)
        inside: Any = changed
        for step in path[:-1]:
            inside = inside[step]
        value = inside[path[-1]]
        if isinstance(value, int):
            inside[path[-1]] = value + 1
        else:
            inside[path[-1]] = (
                value[:-2] + ("A" if value[-2:-1] != "A" else "B") + value[-1:] if value else "A"
            )
        yield ".".join(map(str, path)), changed


def _places(value: Any) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            for path in _places(inner):
                yield (step, *path)
    elif isinstance(value, str | int):
        yield ()


def _event(document: Document, topic: str, number: int = 0) -> Document:
    found = [e for e in (*document["events"], *document["relied_on"]) if e["topic"].startswith(topic)]
    event: Document = found[number]
    return event


def _rewrite(event: Document, **changes: Any) -> None:
    state = json.loads(event["state"])
    for name in changes:
        assert name in state
    event["state"] = json.dumps({**state, **changes}, separators=(",", ":"), ensure_ascii=False)


def _make_unusual(document: Document) -> None:
    service = _event(document, "service.registered")
    spec = json.loads(service["state"])["spec"]
    schema = {**spec["input_schema"], "description": "ü" * 40_000}
    _rewrite(service, spec={**spec, "input_schema": schema})
    message = 'a fan \u00fc \U0001f389 \u2028 \u007f " \\ \t \u0001'
    _rewrite(_event(document, "job.attempt_ended"), error_message=message)
    _one_leaf_tree_of_all(document)


def _changed(document: Document, passes: Passes) -> None:
    _rewrite(_event(document, "job.completed"), price="0.000001")


def _digest_changed(document: Document, passes: Passes) -> None:
    _rewrite(_event(document, "job.submitted"), payload_digest="f" * 64)


def _dropped(document: Document, passes: Passes) -> None:
    document["events"].remove(_event(document, "job.requeued"))


def _registration_dropped(document: Document, passes: Passes) -> None:
    document["relied_on"].remove(_event(document, "miner.registered", 1))


def _reordered(document: Document, passes: Passes) -> None:
    events = document["events"]
    events[1], events[2] = events[2], events[1]


def _truncated(document: Document, passes: Passes) -> None:
    del document["events"][-1]
    document["receipt"] = None


def _from_another_job(document: Document, passes: Passes) -> None:
    document["events"][-1] = copy.deepcopy(passes.other["events"][-1])


def _receipts_swapped(document: Document, passes: Passes) -> None:
    document["receipt"] = copy.deepcopy(passes.other["receipt"])


def _receipt_missing(document: Document, passes: Passes) -> None:
    document["receipt"] = None


def _receipt_dearer(document: Document, passes: Passes) -> None:
    receipt = {**document["receipt"], "price": "9.000000"}
    document["receipt"] = sign_receipt(COORDINATOR, receipt)


def _attested_wrongly(document: Document, passes: Passes) -> None:
    receipt = document["receipt"]
    receipt["attestations"][0]["sig"] = passes.other["receipt"]["attestations"][0]["sig"]


def _attestation_moved(document: Document, passes: Passes) -> None:
    """Its signature of the content is right, that of the receipt is another one's."""
    receipt = document["receipt"]
    other = passes.other["receipt"]["attestations"][0]["receipt_sig"]
    receipt["attestations"][0]["receipt_sig"] = other


def _resigned(document: Document, passes: Passes) -> None:
    """A stranger's statement of the same content, in a log that its owner rewrote around it."""
    completed = _event(document, "job.completed")
    statement = sign_statement(STRANGER, document["receipt"]["metadata"]["statement"])
    signed = {name: statement[name] for name in ("started_at_ms", "completed_at_ms", "signature")}
    _rewrite(completed, statement=signed)
    receipt = {**document["receipt"], "metadata": {**document["receipt"]["metadata"], "statement": statement}}
    document["receipt"] = attest_receipt(ATTESTER, sign_receipt(COORDINATOR, receipt))
    _one_leaf_tree_of_all(document)


def _stated_elsewhere(document: Document, passes: Passes) -> None:
    """Another job's statement, whose further members stand in the place of this job's facts."""
    statement = passes.other["receipt"]["metadata"]["statement"]
    completed = _event(document, "job.completed")
    times = json.loads(completed["state"])["statement"]
    assert times.keys() < statement.keys()
    _rewrite(completed, statement=statement)
    receipt = {**document["receipt"], "metadata": {**document["receipt"]["metadata"], "statement": statement}}
    document["receipt"] = attest_receipt(ATTESTER, sign_receipt(COORDINATOR, receipt))
    _one_leaf_tree_of_all(document)


def _statement_of_another(document: Document, passes: Passes) -> None:
    """The place in the tree of statements is changed: index, size and path do not lead to the signed root."""
    completed = _event(document, "job.completed")
    statement = json.loads(completed["state"])["statement"]
    statement["signature"]["tree"]["index"] ^= 1
    _rewrite(completed, statement=statement)


def _other_log(document: Document, passes: Passes) -> None:
    """A checkpoint of the same size and origin with another root, by the right key."""
    signed = read_checkpoint(document["checkpoint"].encode())
    other = Checkpoint(ORIGIN, signed.checkpoint.size, b"\x07" * 32)
    document["checkpoint"] = sign_checkpoint(COORDINATOR, other).text


def _other_origin(document: Document, passes: Passes) -> None:
    signed = read_checkpoint(document["checkpoint"].encode())
    other = signed.checkpoint._replace(origin="example.com/other")
    document["checkpoint"] = sign_checkpoint(COORDINATOR, other).text


def _stranger_signs(document: Document, passes: Passes) -> None:
    """The same log, signed by a key that nobody trusts."""
    signed = read_checkpoint(document["checkpoint"].encode())
    document["checkpoint"] = sign_checkpoint(STRANGER, signed.checkpoint).text
    document["log_key"] = log_key(STRANGER, ORIGIN).text


def _signature_changed(document: Document, passes: Passes) -> None:
    text: str = document["checkpoint"]
    first, last = text.index("\u2014"), text.index("\n", text.index("\u2014"))
    line = text[first:last]
    flipped = line[:-10] + ("A" if line[-10] != "A" else "B") + line[-9:]
    document["checkpoint"] = text[:first] + flipped + text[last:]


def _other_index(document: Document, passes: Passes) -> None:
    document["events"][0]["index"] += 1


def _other_proof(document: Document, passes: Passes) -> None:
    document["events"][0]["path"] = document["events"][1]["path"]


def _longer_proof(document: Document, passes: Passes) -> None:
    document["events"][0]["path"].append("0" * 64)


def _metadata_changed(document: Document, passes: Passes) -> None:
    event = document["events"][1]
    event["metadata"] = event["metadata"].replace("command-", "command-1")


def _position_changed(document: Document, passes: Passes) -> None:
    document["events"][-1]["position"] += 1


def _renamed(document: Document, passes: Passes) -> None:
    document["job_id"] = passes.other["job_id"]


def _one_leaf_tree_of_all(document: Document) -> None:
    """A new log of these events only, signed by the coordinator: every proof fits it."""
    from coordinator.crypto.merkle import root_and_paths

    events = sorted([*document["events"], *document["relied_on"]], key=lambda e: int(e["position"]))
    hashes = [
        hash_of(
            e["position"], e["stream"], e["version"], e["topic"], e["metadata"].encode(), e["state"].encode()
        )
        for e in events
    ]
    root, paths = root_and_paths(hashes)
    for index, (event, path) in enumerate(zip(events, paths, strict=True)):
        event["index"], event["path"] = index, [sibling.hex() for sibling in path]
    checkpoint = sign_checkpoint(COORDINATOR, Checkpoint(ORIGIN, len(events), root))
    document["checkpoint"] = checkpoint.text


def _attempt_stolen(document: Document, passes: Passes) -> None:
    """A log whose owner lets the attempt of one miner be completed by another one, and signs all of it."""
    _rewrite(_event(document, "job.started", 1), miner_id="rig", by="rig", miner_key=MINER_KEYS["rig"])
    _one_leaf_tree_of_all(document)


def _overpaid(document: Document, passes: Passes) -> None:
    """A log whose owner bills more than time and price give, with the receipt to it."""
    _rewrite(_event(document, "job.completed"), price="9.000000")
    receipt = {**document["receipt"], "price": "9.000000"}
    document["receipt"] = attest_receipt(ATTESTER, sign_receipt(COORDINATOR, receipt))
    _one_leaf_tree_of_all(document)


SPOILT = {
    "an event changed": Spoilt(_changed, ("inclusion", "history", "receipt")),
    "the request's digest changed": Spoilt(_digest_changed, ("inclusion", "statement", "receipt")),
    "an event dropped": Spoilt(_dropped, ("stream", "history")),
    "a registration dropped": Spoilt(_registration_dropped, ("history",)),
    "events reordered": Spoilt(_reordered, ("stream",)),
    "the stream truncated": Spoilt(_truncated, ("history",)),
    "an event of another job": Spoilt(_from_another_job, ("stream", "history")),
    "receipts of two jobs swapped": Spoilt(_receipts_swapped, ("receipt",)),
    "the receipt missing": Spoilt(_receipt_missing, ("receipt",)),
    "a dearer receipt": Spoilt(_receipt_dearer, ("receipt",)),
    "a wrong attestation": Spoilt(_attested_wrongly, ("receipt",)),
    "an attestation of another receipt": Spoilt(_attestation_moved, ("receipt",)),
    "a statement signed by another key": Spoilt(_resigned, ("statement",)),
    "the statement of another job, signed by the log's owner": Spoilt(
        _stated_elsewhere, ("history", "statement")
    ),
    "another place in the tree of statements": Spoilt(_statement_of_another, ("inclusion", "statement")),
    "the checkpoint of another log": Spoilt(_other_log, ("inclusion",)),
    "the checkpoint of another origin": Spoilt(_other_origin, ("checkpoint",)),
    "the checkpoint by another key": Spoilt(_stranger_signs, ("checkpoint",)),
    "the checkpoint's signature changed": Spoilt(_signature_changed, ("checkpoint",)),
    "the proof of another index": Spoilt(_other_index, ("inclusion",)),
    "the proof of another event": Spoilt(_other_proof, ("inclusion",)),
    "a longer proof": Spoilt(_longer_proof, ("inclusion",)),
    "a leaf's metadata changed": Spoilt(_metadata_changed, ("inclusion",)),
    "a leaf's position changed": Spoilt(_position_changed, ("inclusion",)),
    "another job's id": Spoilt(_renamed, ("stream",)),
    "an attempt of another miner, signed by the log's owner": Spoilt(_attempt_stolen, ("history",)),
    "a bill over time by price, signed by the log's owner": Spoilt(_overpaid, ("history",)),
}
"""Changes of a passport by name."""
