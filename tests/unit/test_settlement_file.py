"""The sink `file`: a batch is one file with these bytes, whatever happens between."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from coordinator.application.ports import Final, Gone, SinkBatch, SinkHistory, Submitted, Unknown
from coordinator.crypto.canonical import canonical
from coordinator.crypto.settlement import batch_digest
from coordinator.domain.settlement import Payout
from coordinator.settlement.file import FileFormat, FileSink

PAYOUTS = (
    Payout(party="farm", address="", amount=50),
    Payout(party="rig", address="DE89-3704", amount=12_500_000),
)
BATCH = SinkBatch(7, "ab" * 32, 1_700_000_000_000, PAYOUTS, 0)
HISTORY = SinkHistory({}, None)


def written(folder: Path, form: FileFormat) -> tuple[FileSink, Any]:
    sink = FileSink(folder, form)
    payment = asyncio.run(sink.prepare(BATCH, HISTORY))
    assert asyncio.run(sink.poll(payment)) == Gone()
    assert asyncio.run(sink.submit(payment)) == Submitted()
    return sink, payment


def test_a_json_file_has_the_whole_batch(tmp_path: Path) -> None:
    """Number, digest and each payout; the folder is made, and nothing else is left in it."""
    _, payment = written(tmp_path / "new", "json")
    [path] = (tmp_path / "new").iterdir()
    assert (path.name, path.read_bytes(), path.stat().st_mode & 0o777) == (
        "settlement-000007.json",
        payment.body,
        0o600,
    )
    document = json.loads(path.read_text())
    assert (document["number"], document["digest"], document["total"]) == (7, "ab" * 32, 12_500_050)
    assert document["payouts"] == [p.model_dump() for p in PAYOUTS]


def test_a_csv_file_has_a_line_for_each_payout(tmp_path: Path) -> None:
    """Amounts in the unit and in its millionths, and an id for the books of the reader."""
    written(tmp_path, "csv")
    text = (tmp_path / "settlement-000007.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(r["payout"], r["party"], r["address"], r["amount"], r["micros"]) for r in rows] == [
        ("abababababababab-1", "farm", "", "0.000050", "50"),
        ("abababababababab-2", "rig", "DE89-3704", "12.500000", "12500000"),
    ]


def test_a_repeat_changes_nothing(tmp_path: Path) -> None:
    """After a crash the same bytes are sent again: the file is the same one."""
    sink, payment = written(tmp_path, "json")
    [path] = tmp_path.iterdir()
    before = path.stat()
    assert asyncio.run(sink.submit(payment)) == Submitted()
    assert asyncio.run(sink.poll(payment)) == Final()
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_with_other_bytes_is_refused_and_named(tmp_path: Path) -> None:
    """It is not overwritten, and the batch neither ends nor returns: somebody may have paid by it."""
    sink = FileSink(tmp_path)
    payment = asyncio.run(sink.prepare(BATCH, HISTORY))
    path = tmp_path / "settlement-000007.json"
    path.write_text("of another coordinator")
    for answer in asyncio.run(sink.submit(payment)), asyncio.run(sink.poll(payment)):
        assert isinstance(answer, Unknown)
        assert "settlement-000007.json is there with other bytes" in answer.reason
    assert path.read_text() == "of another coordinator"


def test_a_torn_file_is_no_payment(tmp_path: Path) -> None:
    """A crash while it was written leaves a hidden file, which the next try replaces."""
    sink = FileSink(tmp_path)
    payment = asyncio.run(sink.prepare(BATCH, HISTORY))
    torn = tmp_path / f".settlement-000007.json.{os.getpid()}.new"
    torn.write_bytes(payment.body[:20])
    assert asyncio.run(sink.poll(payment)) == Gone()
    assert asyncio.run(sink.submit(payment)) == Submitted()
    assert [p.name for p in tmp_path.iterdir()] == ["settlement-000007.json"]


def test_a_full_disk_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch stays in transit, and the file is written later; nothing half is left."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    sink = FileSink(tmp_path)
    payment = asyncio.run(sink.prepare(BATCH, HISTORY))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        answer = asyncio.run(sink.submit(payment))
    assert isinstance(answer, Unknown)
    assert "No space left" in answer.reason
    assert asyncio.run(sink.poll(payment)) == Gone()
    assert asyncio.run(sink.submit(payment)) == Submitted()
    assert [p.name for p in tmp_path.iterdir()] == ["settlement-000007.json"]


def test_the_digest_is_of_the_canonical_form() -> None:
    """An auditor computes it from the event's members with any library for canonical JSON."""
    import hashlib

    names = ("number", "after", "until", "receipts", "total")
    facts: dict[str, Any] = dict.fromkeys(names, 2**53 - 1)
    facts |= {"sink": "file", "receipts_root": "a" * 64, "previous": "b" * 64}
    facts["payouts"] = [{"party": "rig", "address": "", "amount": 1}]
    expected = hashlib.sha256(canonical(facts)).hexdigest()
    assert batch_digest({**facts, "digest": "c" * 64, "at": 1}) == expected
