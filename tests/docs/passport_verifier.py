"""A verifier of passports, written from docs/passport.md and docs/auditing.md; it imports nothing of ours.

    python passport_verifier.py FILE COORDINATOR_KEY

`verify` returns the failed checks by name, with words.
"""

import base64
import hashlib
import json
import re
import sys
import uuid
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Json = dict[str, Any]
UNIT_TYPES = {
    None: "gpu_seconds",
    "frame": "frames",
    "gb": "gigabytes",
    "token": "tokens",
    "output_token": "output_tokens",
    "image": "images",
    "media_minute": "media_minutes",
    "unit": "units",
}
FINAL = {"job.completed.v1", "job.failed.v1", "job.canceled.v1", "job.expired.v1"}
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "coordinator")
METADATA = re.compile(r'\{"command_id":"([^"\\]|\\.)*","traceparent":"[0-9a-f-]*"\}')
MEMBERS = {"format", "job_id", "events", "relied_on", "receipt", "checkpoint", "log_key"}
PARTS = {"position", "stream", "version", "topic", "metadata", "state", "index", "path"}


class Wrong(Exception):
    """A check failed."""


def must(true: bool, why: str) -> None:
    if not true:
        raise Wrong(why)


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def url64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def signed(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def signed_form(value: Any) -> bytes:
    def kept(item: Any) -> Any:
        if isinstance(item, dict):
            return {name: kept(member) for name, member in item.items() if member is not None}
        return [kept(element) for element in item] if isinstance(item, list) else item

    return json.dumps(kept(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def root_of_path(leaf: bytes, index: int, size: int, path: list[str]) -> bytes | None:
    if not 0 <= index < size:
        return None
    must(all(re.fullmatch("[0-9a-f]{64}", sibling) for sibling in path), "a path is lower-case hex")
    place, last, root = index, size - 1, leaf
    for sibling in map(bytes.fromhex, path):
        if last == 0:
            return None
        if place % 2 == 1 or place == last:
            root = sha256(b"\x01", sibling, root)
            while place % 2 == 0 and place != 0:
                place, last = place // 2, last // 2
        else:
            root = sha256(b"\x01", root, sibling)
        place, last = place // 2, last // 2
    return root if last == 0 else None


def leaf_hash(event: Json) -> bytes:
    state = event["state"].encode()
    if len(state) > 60_000:
        state = b"sha256 %s %d" % (hashlib.sha256(state).hexdigest().encode(), len(state))
    first = (
        "coordinator leaf 1",
        *(str(event[n]) for n in ("position", "stream", "version", "topic", "metadata")),
    )
    lines = [*(line.encode() for line in first), state]
    must(not any(b"\n" in line for line in lines), "a line feed within a leaf's line")
    return sha256(b"\x00", *(line + b"\n" for line in lines))


def stream_of(*names: str) -> str:
    return str(uuid.uuid5(NAMESPACE, "\n".join(names)))


class Passport:
    """One passport, and the key ids (base64url) that the reader trusts."""

    def __init__(self, document: Json, trusted: list[str]) -> None:
        self.document = document
        self.trusted = trusted
        self.events: list[Json] = document["events"]
        self.relied_on: list[Json] = document["relied_on"]
        self.all = sorted([*self.events, *self.relied_on], key=lambda event: int(event["position"]))
        self.submitted: Json = {}
        self.completed: Json = {}
        self.miner_key = ""
        self.history_is_right = False

    # --- the log -------------------------------------------------------------------------------------------
    def note(self) -> tuple[str, list[tuple[str, bytes]]]:
        text, _, lines = self.document["checkpoint"].rpartition("\n\n")
        found = []
        for line in lines.removesuffix("\n").split("\n"):
            dash, name, data = line.split(" ")
            must(dash == "\u2014", "a signature begins with a dash")
            found.append((name, base64.b64decode(data, validate=True)))
        return text + "\n", found

    def checkpoint(self) -> None:
        text, signatures = self.note()
        origin = text.split("\n")[0]
        name, named_hash, material = self.document["log_key"].split("+", 2)
        must(name == origin, "log_key is of another log")
        expected = sha256(name.encode(), b"\n", base64.b64decode(material, validate=True))[:4]
        must(named_hash == expected.hex(), "log_key has another hash")
        for key in map(url64, self.trusted):
            named = sha256(origin.encode(), b"\n\x01", key)[:4]
            for name, data in signatures:
                if name == origin and data[:4] == named:
                    must(signed(key, data[4:], text.encode()), "wrong signature of the checkpoint")
                    return
        raise Wrong("no signature of a trusted key")

    def inclusion(self) -> None:
        _, size, root = self.note()[0].split("\n")[:3]
        before = (-1, -1)
        for event in self.all:
            place = event["position"], event["index"]
            must(place[0] > before[0] and place[1] > before[1], "positions and indexes increase")
            found = root_of_path(leaf_hash(event), event["index"], int(size), event["path"])
            must(found == base64.b64decode(root), f"not in the tree: position {place[0]}")
            before = place

    # --- the job -------------------------------------------------------------------------------------------
    def stream(self) -> None:
        for version, event in enumerate(self.events, 1):
            must(event["stream"] == self.document["job_id"], "an event of another stream")
            must(event["version"] == version, "the versions have a gap")

    def forms(self) -> None:
        for event in self.all:
            must(METADATA.fullmatch(event["metadata"]) is not None, "metadata have another form")

    def history(self) -> None:
        life = Life(self)
        for event in self.all:
            facts = json.loads(event["state"])
            if event in self.events:
                life.follow(event["topic"], facts)
            else:
                life.rely_on(event, facts)
        must(life.state == "final", "the job has no end: events are missing")
        self.history_is_right = True

    def statement_document(self) -> Json:
        completed, submitted = self.completed, self.submitted
        return {
            "version": "1",
            "service": submitted["service"],
            "payload_digest": submitted["payload_digest"],
            **{n: completed[n] for n in ("job_id", "attempt", "miner_id", "session_id", "result_digest")},
            **{n: completed["statement"][n] for n in ("started_at_ms", "completed_at_ms")},
            "units": completed["statement"].get("units"),
        }

    def statement(self) -> None:
        must(self.history_is_right, "the history is not right")
        if not self.completed:
            return
        signature = self.completed["statement"]["signature"]
        message = signed_form(self.statement_document())
        if tree := signature.get("tree"):
            root = root_of_path(sha256(b"\x00", message), tree["index"], tree["size"], tree["path"])
            must(root is not None, "the path of the statement is invalid")
            told = {"root": (root or b"").hex(), "statements": tree["size"], "version": "1"}
            message = signed_form(told)
        must(signature["key_id"] == self.miner_key, "signed by another key than the registered one")
        must(signed(url64(self.miner_key), url64(signature["sig"]), message), "wrong signature of the miner")

    def receipt(self) -> None:
        must(self.history_is_right, "the history is not right")
        receipt, completed, submitted = self.document["receipt"], self.completed, self.submitted
        must((receipt is None) == (not completed), "completed jobs have receipts, others have none")
        if receipt is None:
            return
        signer = receipt["signature"]["key_id"]
        must(signer in self.trusted, "signed by a key that is not trusted")
        job, attempt = submitted["job_id"], completed["attempt"]
        in_force = self.key_in_force()
        expected = {
            "version": "1.0",
            "unit_type": UNIT_TYPES[submitted.get("unit")],
            "receipt_id": hashlib.sha256(f"coordinator receipt 1\n{job}\n{attempt}".encode()).hexdigest()[
                :32
            ],
            "job_id": job,
            "client": submitted["client"],
            "provider": completed["miner_id"],
            "units": completed["units"],
            "price": completed["price"],
            "started_at": completed["started_at"] // 1000,
            "completed_at": completed["completed_at"] // 1000,
            "metadata": {
                "attempt": attempt,
                "result_digest": completed["result_digest"],
                "measured_units": completed.get("measured_units"),
                "service": submitted["service"],
                "payload_digest": submitted["payload_digest"],
                "statement": {
                    **self.statement_document(),
                    "signature": completed["statement"]["signature"],
                },
                "recorded_under": in_force if in_force not in (None, signer) else None,
            },
        }
        content = {n: v for n, v in receipt.items() if n not in ("signature", "attestations")}
        message = signed_form(content)
        must(message == signed_form(expected), "the receipt does not follow from the events")
        must(signed(url64(signer), url64(receipt["signature"]["sig"]), message), "wrong signature")
        whole = signed_form({**content, "signature": receipt["signature"]})
        for attestation in receipt["attestations"]:
            must(attestation["alg"] == "Ed25519", "an unknown algorithm")
            key = url64(attestation["key_id"])
            must(signed(key, url64(attestation["sig"]), message), "wrong attestation")
            must(signed(key, url64(attestation["receipt_sig"]), whole), "wrong attestation of the receipt")

    def key_in_force(self) -> str | None:
        end = self.events[-1]["position"]
        keys = [
            e for e in self.relied_on if e["topic"] == "signing_key.introduced.v1" and e["position"] < end
        ]
        return json.loads(keys[-1]["state"])["key_id"] if keys else None

    def checks(self) -> dict[str, Callable[[], None]]:
        return {
            "checkpoint": self.checkpoint,
            "inclusion": self.inclusion,
            "stream": self.stream,
            "events": self.forms,
            "history": self.history,
            "statement": self.statement,
            "receipt": self.receipt,
        }


class Life:
    """The rules."""

    def __init__(self, passport: Passport) -> None:
        self.passport = passport
        self.state = "new"
        self.attempt, self.charged, self.queued_at = 1, 0, 0
        self.start: Json = {}
        self.ends: list[Json] = []
        self.sessions: dict[tuple[str, str], Json] = {}
        self.shows = False
        self.services: dict[tuple[str, int], Json] = {}
        self.keys: list[str] = []

    def rely_on(self, event: Json, facts: Json) -> None:
        match event["topic"]:
            case "signing_key.introduced.v1":
                must(event["stream"] == stream_of("signing_key", "coordinator"), "another stream")
                must(event["version"] == len(self.keys) + 1, "the signing keys have a gap")
                must(facts["retires"] == (self.keys[-1] if self.keys else None), "another key was in force")
                self.keys.append(facts["key_id"])
            case "service.registered.v1" | "service.revised.v1":
                must(event["stream"] == stream_of("service", facts["spec"]["id"]), "another stream")
                self.services[facts["spec"]["id"], facts.get("version", 1)] = facts["spec"]
            case "miner.registered.v1":
                miner, session = facts["miner_id"], (facts["miner_id"], facts["session_id"])
                must(event["stream"] == stream_of("miner", miner), "another stream")
                must(facts["by"] == miner.rpartition("@")[2], "a miner registers itself")
                must(session not in self.sessions, "registered twice")
                self.sessions[session] = facts
            case _:
                raise Wrong("no job relies on that")

    def follow(self, topic: str, facts: Json) -> None:
        must(facts["job_id"] == self.passport.document["job_id"], "an event of another job")
        if topic != "job.submitted.v1":
            must(facts["client"] == self.passport.submitted.get("client"), "an event of another client")
            must("attempt" in facts, "an event without its attempt")
        getattr(self, topic.removeprefix("job.").removesuffix(".v1"), self.unknown)(facts)

    def unknown(self, facts: Json) -> None:
        raise Wrong("an event that no job has")

    def submitted(self, facts: Json) -> None:
        must(self.state == "new", "submitted twice")
        must(facts["by"] == facts["client"], "submitted by somebody else")
        spec = self.services.get((facts["service"], facts["service_version"]))
        must(spec is not None, "the service's version was never registered")
        assert spec is not None
        unit, price = spec["pricing"]["unit"], spec["pricing"]["amount"]
        if seconds_of := {"minute": 60, "hour": 3600}.get(unit):
            price = format((Decimal(price) / seconds_of).quantize(Decimal("1e-9"), ROUND_HALF_EVEN), "f")
        unit = unit if unit in UNIT_TYPES else None
        must((facts["list_price"], facts.get("unit")) == (price, unit), "another price, or unit")
        must(facts["timeout_seconds"] == spec["timeout_seconds"], "another time limit")
        most = facts["timeout_seconds"] if unit is None else 10**9
        must(Decimal(facts["max_units"]) <= most, "too high a limit")
        self.shows = bool(spec["pricing"].get("shown"))
        self.passport.submitted = facts
        self.state, self.queued_at = "queued", facts["at"]

    def started(self, facts: Json) -> None:
        submitted = self.passport.submitted
        must(self.state == "queued" and facts["attempt"] == self.attempt, "not an attempt that is queued")
        must(facts["at"] < submitted["expires_at"], "claimed after its end")
        must(facts["by"] == facts["miner_id"].rpartition("@")[2], "claimed by somebody else")
        session = self.sessions.get((facts["miner_id"], facts["session_id"]))
        must(session is not None, "the session was never registered")
        assert session is not None
        must(session["public_key"] == facts["miner_key"], "another key than the session's")
        able, unit = session["capabilities"], submitted.get("unit")
        prices = {None: able.get("price"), **{p["unit"]: p["amount"] for p in able.get("prices", ())}}
        price = prices.get(unit) or submitted["list_price"]
        limit = submitted["constraints"].get("max_price") or submitted["list_price"]
        must(facts["unit_price"] == price and Decimal(price) <= Decimal(limit), "another price")
        self.passport.miner_key = facts["miner_key"]
        self.state, self.start = "started", facts
        self.charged += 1

    def attempt_ended(self, facts: Json) -> None:
        self.held_by(facts)
        released = sum(1 for end in self.ends[-16:] if end["outcome"] == "released")
        if facts["outcome"] == "released" and released < 10:
            self.charged -= 1
        self.ends.append(facts)
        self.state = "ended"

    def over(self) -> bool:
        last = self.ends[-1]
        others = [e for e in self.ends[-17:-1] if not e["retryable"] and e["miner_id"] != last["miner_id"]]
        confirmed = not last["retryable"] and others
        return bool(self.charged >= self.passport.submitted["max_attempts"] or confirmed)

    def requeued(self, facts: Json) -> None:
        must(self.state == "ended" and facts["attempt"] == self.attempt + 1, "not the next attempt")
        must(not self.over(), "queued again without attempts left")
        self.state, self.attempt, self.queued_at = "queued", facts["attempt"], facts["at"]

    def failed(self, facts: Json) -> None:
        must(self.state == "ended" and facts["attempt"] == self.attempt, "failed without an attempt's end")
        must(self.over(), "failed with attempts left")
        last = self.ends[-1]
        must(all(facts[n] == last[n] for n in ("error_code", "error_message")), "failed for another reason")
        self.state = "final"

    def canceled(self, facts: Json) -> None:
        must(self.state in ("queued", "started") and facts["attempt"] == self.attempt, "already over")
        self.state = "final"

    def expired(self, facts: Json) -> None:
        must(facts["at"] >= self.passport.submitted["expires_at"], "expired before its time")
        self.canceled(facts)

    def completed(self, facts: Json) -> None:
        self.held_by(facts)
        stated = {"started_at_ms", "completed_at_ms", "signature"}
        must(facts["statement"].keys() - {"units"} == stated, "the statement has other members")
        said, at, begun = facts["statement"], facts["at"], self.start["at"]
        since = [begun, max(self.queued_at, at - 10_000)] if begun == at else [begun]
        times = []
        for lease in since:
            first = max(lease, min(said["started_at_ms"], at))
            times.append((first, max(first, min(said["completed_at_ms"], at))))
        first, last = facts["started_at"], facts["completed_at"]
        must((first, last) in times, "the paid time is not the stated one within the lease")
        unit, shown = self.passport.submitted.get("unit"), facts.get("shown_units")
        limit, unit_price = Decimal(self.passport.submitted["max_units"]), Decimal(self.start["unit_price"])
        if unit is None:
            worked = Decimal(last - first) / 1000
            paid, form = min(worked, limit), seconds
        else:
            must(self.shows is (shown is not None), "the units of the result are not counted")
            worked, form = Decimal(facts["statement"]["units"][unit]), number
            paid = min([worked, limit, *([] if shown is None else [Decimal(shown)])])
            if unit in ("frame", "image", "token", "output_token"):
                must(worked == int(worked), "a part of a whole unit")
                paid = Decimal(int(paid))
        price = (paid * unit_price).quantize(Decimal("1e-6"), ROUND_HALF_UP)
        owed = (form(paid), format(price, "f"), None if paid == worked else form(worked))
        must(owed == (facts["units"], facts["price"], facts.get("measured_units")), "another bill")
        self.passport.completed, self.state = facts, "final"

    def held_by(self, facts: Json) -> None:
        must(self.state == "started" and facts["attempt"] == self.attempt, "not the attempt that runs")
        same = all(facts[n] == self.start[n] for n in ("miner_id", "session_id"))
        must(same, "another miner holds the job")


def seconds(units: Decimal) -> str:
    return f"{units:.3f}"


def number(units: Decimal) -> str:
    text = format(units, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def verify(document: Json, trusted: list[str]) -> dict[str, str]:
    """The failed checks by name, each with words; empty for a good passport."""
    parts = [event for name in ("events", "relied_on") for event in document[name]]
    if document["format"] != "coordinator passport 1" or MEMBERS - document.keys():
        return {"format": "not a passport"}
    if document.keys() - MEMBERS - {"salts"} or any(event.keys() != PARTS for event in parts):
        return {"format": "unknown members"}
    failed = {}
    for name, check in Passport(document, trusted).checks().items():
        try:
            check()
        except (Wrong, ValueError, KeyError, TypeError, ArithmeticError) as error:
            failed[name] = f"{type(error).__name__}: {error}"
    return failed


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        problems = verify(json.load(file), sys.argv[2:])
    sys.stdout.write("".join(f"{name}: {why}\n" for name, why in problems.items()) or "verified\n")
    sys.exit(7 if problems else 0)
