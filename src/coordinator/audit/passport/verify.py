"""The checks of a passport. Each has a name and ends green or red with words; none needs a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from coordinator.audit.checks import check_events, check_statements
from coordinator.audit.entries import Found
from coordinator.audit.passport.history import History, entry_of, replay
from coordinator.audit.passport.receipt import difference
from coordinator.audit.passport.trust import Trust
from coordinator.crypto.canonical import CanonicalError, salted_digest
from coordinator.crypto.keys import EncodingError
from coordinator.crypto.log.checkpoint import Checkpoint, read_checkpoint, verify_checkpoint
from coordinator.crypto.log.leaf import BadLeaf, leaf
from coordinator.crypto.log.note import BadNote, VerifierKey
from coordinator.crypto.log.passport import Passport, ProvenEvent
from coordinator.crypto.merkle import leaf_hash, root_of_path
from coordinator.crypto.receipt import VerifiedReceipt, verify_receipt
from coordinator.crypto.signature import VerificationFailed

CHECKS: Final = {
    "checkpoint": "the log's key signed the checkpoint",
    "witnesses": "enough witnesses signed it as well",
    "inclusion": "the checkpoint's tree has each event",
    "stream": "the job's events are all there, in their order",
    "events": "each event has the form of its topic",
    "history": "each event follows from those before it",
    "miner_keys": "the miners' keys are those that you named",
    "statement": "the miner signed the result",
    "receipt": "the coordinator signed the receipt that the events give",
    "payload": "the payload is the one whose digest is in the log",
    "result": "the result is the one whose digest is in the log",
}
"""Every check: what is true of a good passport."""


class PassportCheck(NamedTuple):
    """The outcome of a check. `detail` is for people."""

    name: str
    ok: bool
    detail: str


class CheckFailed(Exception):
    """A check failed; the text says why."""


class Given(NamedTuple):
    """Documents that the verifier has: the parsed JSON of the payload and of the result."""

    payload: Any = None
    result: Any = None


class Verdict(NamedTuple):
    """What was checked, and the facts behind the good checks, for words."""

    checks: list[PassportCheck]
    checkpoint: Checkpoint | None
    log_key: VerifierKey | None
    cosigners: list[VerifierKey]
    history: History | None
    receipt: VerifiedReceipt | None

    @property
    def ok(self) -> bool:
        """Whether every check is good."""
        return all(check.ok for check in self.checks)


def verify_passport(passport: Passport, trust: Trust, given: Given | None = None) -> Verdict:
    """Check all that a passport says, with these keys alone. It never raises: a fault is a red check."""
    return _Verification(passport, trust, given or Given()).run()


class _Verification:
    def __init__(self, passport: Passport, trust: Trust, given: Given) -> None:
        self._passport = passport
        self._trust = trust
        self._given = given
        self._events = sorted([*passport.events, *passport.relied_on], key=lambda event: event.position)
        self._checkpoint: Checkpoint | None = None
        self._log_key: VerifierKey | None = None
        self._cosigners: list[VerifierKey] = []
        self._history: History | None = None
        self._receipt: VerifiedReceipt | None = None

    def run(self) -> Verdict:
        steps: list[tuple[str, Callable[[], str]]] = [
            ("checkpoint", self._check_checkpoint),
            ("inclusion", self._check_inclusion),
            ("stream", self._check_stream),
            ("events", self._check_events),
            ("history", self._check_history),
            ("statement", self._check_statement),
            ("receipt", self._check_receipt),
        ]
        if self._trust.witnesses:
            steps.insert(1, ("witnesses", self._check_witnesses))
        if self._trust.miners:
            steps.append(("miner_keys", self._check_miner_keys))
        if self._given.payload is not None:
            steps.append(("payload", lambda: self._check_digest("payload", self._given.payload)))
        if self._given.result is not None:
            steps.append(("result", lambda: self._check_digest("result", self._given.result)))
        checks = [_run(name, step) for name, step in steps]
        return Verdict(checks, self._checkpoint, self._log_key, self._cosigners, self._history, self._receipt)

    # --- the log -------------------------------------------------------------------------------------------
    def _check_checkpoint(self) -> str:
        signed = read_checkpoint(self._passport.checkpoint.encode())
        named = VerifierKey.parse(self._passport.log_key)
        origin = signed.checkpoint.origin
        if named.name != origin:
            raise CheckFailed(f"`log_key` is of {named.name}, and the checkpoint of {origin}")
        keys = [named] if self._trust.coordinator is None else self._trust.keys_of(origin)
        verified = verify_checkpoint(signed, keys)
        self._checkpoint, self._log_key = verified.checkpoint, verified.log_key
        return f"{origin}, size {verified.checkpoint.size}, signed by {verified.log_key.key_id}"

    def _check_witnesses(self) -> str:
        signed = read_checkpoint(self._passport.checkpoint.encode())
        self._cosigners = [key for key, _ in signed.note.signed_by(self._trust.witnesses)]
        names = ", ".join(key.name for key in self._cosigners)
        told = f"cosigned by {len(self._cosigners)} of {len(self._trust.witnesses)} witnesses"
        if len(self._cosigners) < self._trust.quorum:
            raise CheckFailed(f"{told}; {self._trust.quorum} are needed")
        return f"{told}: {names}"

    def _check_inclusion(self) -> str:
        checkpoint = read_checkpoint(self._passport.checkpoint.encode()).checkpoint
        before: ProvenEvent | None = None
        for event in self._events:
            path = [bytes.fromhex(sibling) for sibling in event.path]
            if root_of_path(_leaf_hash(event), event.index, checkpoint.size, path) != checkpoint.root:
                raise CheckFailed(
                    f"the tree of {checkpoint.size} events does not have this {event.topic} of position "
                    f"{event.position} at index {event.index}"
                )
            if before is not None and not (before.position < event.position and before.index < event.index):
                raise CheckFailed(f"positions and indexes do not both increase at position {event.position}")
            before = event
        return f"{len(self._events)} events, each at its index"

    # --- the job -------------------------------------------------------------------------------------------
    def _check_stream(self) -> str:
        job_id, events = self._passport.job_id, self._passport.events
        for version, event in enumerate(events, 1):
            if event.stream != job_id:
                raise CheckFailed(
                    f"the event at position {event.position} is of another stream: {event.stream}"
                )
            if event.version != version:
                raise CheckFailed(f"expected version {version} of the stream, found {event.version}")
        return f"versions 1 to {len(events)} of stream {job_id}"

    def _check_events(self) -> str:
        checked = check_events([entry_of(event) for event in self._events])
        if checked.divergence is not None:
            raise CheckFailed(f"position {checked.divergence.position}: {checked.divergence.detail}")
        return f"{len(self._events)} events of known topics"

    def _check_history(self) -> str:
        history = replay(self._passport)
        self._history = history
        told = f"{history.state} after {len(history.holds)} claimed attempt(s)"
        return f"{told}, by the rules of attempts, leases and prices"

    def _check_statement(self) -> str:
        statement = self._good_history().statement
        if statement is None:
            return "no result, so no statement"
        failure = check_statements([statement])
        if failure is not None:
            raise CheckFailed(failure.detail)
        return f"signed by {statement.document['miner_id']} with {statement.key_id}"

    def _check_miner_keys(self) -> str:
        holds = {hold.miner_id for hold in self._good_history().holds}
        strangers = [miner for miner in self._trust.miners if miner not in holds]
        if strangers:
            raise CheckFailed(f"never held this job: {', '.join(strangers)}")
        for hold in self._good_history().holds:
            named = self._trust.miners.get(hold.miner_id)
            if named is not None and named != hold.miner_key:
                raise CheckFailed(f"{hold.miner_id} registered {hold.miner_key}; you named {named}")
        return ", ".join(self._trust.miners)

    def _check_receipt(self) -> str:
        history, receipt = self._good_history(), self._passport.receipt
        if history.statement is None:
            if receipt is not None:
                raise CheckFailed(f"a receipt for a job that is {history.state}")
            return f"none, as the job is {history.state}"
        if receipt is None:
            raise CheckFailed("the job is COMPLETED, and its receipt is missing")
        differs = difference(receipt, history)
        if differs is not None:
            raise CheckFailed(f"the receipt is not this job's: {differs}")
        miners = {history.statement.document["miner_id"]: history.statement.key_id}
        self._receipt = verified = verify_receipt(receipt, self._trust.coordinator, miners)
        attested = f", attested {len(verified.attestations)} time(s)" if verified.attestations else ""
        return f"signed by {verified.key_id}{attested}"

    def _check_digest(self, kind: str, document: Any) -> str:
        history, salts = self._good_history(), self._passport.salts
        if kind == "result" and history.statement is None:
            raise CheckFailed(f"the job is {history.state}: it has no result")
        event, name = (
            (history.submitted, "payload_digest") if kind == "payload" else (history.ended, "result_digest")
        )
        digest = str(event[name])
        salt = None if salts is None else salts.payload if kind == "payload" else salts.result
        if salt is None:
            raise CheckFailed(f"the passport has no salt of the {kind}; make it with --with-salts")
        found = salted_digest(bytes.fromhex(salt), document)
        if found != digest:
            raise CheckFailed(f"its digest is {found}, that in the log {digest}")
        return digest

    def _good_history(self) -> History:
        if self._history is None:
            raise CheckFailed("not checked: the history is not right")
        return self._history


def _leaf_hash(event: ProvenEvent) -> bytes:
    try:
        content = leaf(
            event.position,
            event.stream,
            event.version,
            event.topic,
            event.metadata.encode(),
            event.state.encode(),
        )
    except BadLeaf as error:
        raise CheckFailed(f"position {event.position}: {error}") from None
    return leaf_hash(content)


def _run(name: str, step: Callable[[], str]) -> PassportCheck:
    try:
        return PassportCheck(name, True, step())
    except Found as found:
        both = found.expected is not None or found.found is not None
        told = f" (expected {found.expected!r}, found {found.found!r})" if both else ""
        return PassportCheck(name, False, f"{found}{told}")
    except VerificationFailed as failure:
        return PassportCheck(name, False, failure.detail)
    except (CheckFailed, BadNote, EncodingError, CanonicalError) as failure:
        return PassportCheck(name, False, str(failure))
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        # Of events that have not the form of their topic: the check `events` names the fault.
        return PassportCheck(name, False, f"can't be read: {type(error).__name__}")
