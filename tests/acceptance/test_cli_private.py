"""Files of coordinator and miners are for their account alone, and hostile jobs cost their miner nothing."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from tests.acceptance.cli_process import PROGRAM, TIMEOUT_S, call, environment

PACKED = {"steps": [{"step": "shuffle"}], "input_format": "parquet", "output_format": "csv"}


@contextmanager
def open_to_all(folder: Path) -> Iterator[str]:
    """`coordinator dev` with a miner, under a umask that keeps nobody out; its address."""
    process = subprocess.Popen(
        [*PROGRAM, "dev", "--port", "0", "--miners", "1", "--json"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        umask=0,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        yield str(json.loads(process.stdout.readline())["url"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(TIMEOUT_S)


def submit(folder: Path, url: str, service: str, payload: dict[str, Any], file: Path) -> dict[str, Any]:
    """The outcome of a job with a file."""
    arguments = ("job", "submit", service, "--payload", json.dumps(payload), "--file", f"inputs={file}")
    ran = call(folder, *arguments, "--max-attempts", "1", "--wait", "--json", COORDINATOR_URL=url)
    outcome: dict[str, Any] = json.loads(ran.out)
    return outcome


def test_files_are_for_their_account_alone(tmp_path: Path) -> None:
    """Database, keys, logs and blobs, whatever the umask; a hostile table stops no other job."""
    data = tmp_path / "coordinator-data"
    data.mkdir(mode=0o755)
    packed, plain = BytesIO(), tmp_path / "plain"
    table = pl.DataFrame({"a": pl.Series(["x" * 1000]).new_from_index(0, 300_000)})
    table.write_parquet(packed, compression="zstd")
    (tmp_path / "packed").write_bytes(packed.getvalue())
    plain.write_text("plain")
    with open_to_all(tmp_path) as url:
        ended = submit(tmp_path, url, "data_processing", PACKED, tmp_path / "packed")
        assert ("FAILED", "OUTPUT_TOO_LARGE") == (ended["state"], ended["error"]["code"])
        done = submit(tmp_path, url, "checksum", {}, plain)
        assert 5 == done["result"]["digests"][0]["size"]
        found = [data, *data.rglob("*")]
        names = {path.name for path in found}
        assert {"coordinator.db", "coordinator.db-wal", "signing.key", "lock", "miner-1.log"} <= names
        assert len(list((data / "blobs").glob("??/*"))) == 2
        assert {} == {str(path): oct(stat.S_IMODE(path.lstat().st_mode)) for path in found if _is_open(path)}


def _is_open(path: Path) -> bool:
    return bool(path.lstat().st_mode & 0o077)
