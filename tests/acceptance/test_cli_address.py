"""How commands find the `coordinator dev` on this machine: by the address that it leaves beside its keys."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.acceptance.cli_process import call, dev
from tests.harness.cases import every

NOWHERE = "http://127.0.0.1:9"


def test_commands_find_a_dev_on_any_port(tmp_path: Path) -> None:
    """Address and keys come from the data directory; --url and COORDINATOR_URL win; a stop forgets it."""
    address = tmp_path / "coordinator-data" / "dev-address.env"
    with dev(tmp_path) as coordinator:
        assert f"COORDINATOR_URL={coordinator.url}\n" == address.read_text()
        assert 0o600 == address.stat().st_mode & 0o777
        assert 0 == call(tmp_path, "job", "list").code
        assert 0 == call(tmp_path, "service", "list", "--json").code
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        assert 0 == call(elsewhere, "job", "list", DATA_DIR=str(address.parent)).code
        told = call(tmp_path, "job", "list", "--url", NOWHERE, "--json")
        in_environment = call(tmp_path, "job", "list", "--json", COORDINATOR_URL=NOWHERE)
        for ran in (told, in_environment):
            assert (6, "UNREACHABLE") == (ran.code, json.loads(ran.err)["code"])
            assert NOWHERE in json.loads(ran.err)["detail"]
            assert "dev-address" not in ran.err
        well = call(tmp_path, "doctor", "--json")
        [found] = [check for check in well.json()["checks"] if check["name"] == "coordinator"]
        assert f"runs on {coordinator.url}" in found["detail"]
        coordinator.process.send_signal(signal.SIGTERM)
        coordinator.process.wait(60)
    assert not address.exists()


def test_the_address_of_a_killed_dev(tmp_path: Path) -> None:
    """A command says which file named the address that does not answer; `dev` writes it anew."""
    address = tmp_path / "coordinator-data" / "dev-address.env"
    with dev(tmp_path) as killed:
        killed.process.kill()
        killed.process.wait()
    assert address.exists()
    ran = call(tmp_path, "job", "list", "--json")
    error = json.loads(ran.err)
    assert (6, "UNREACHABLE") == (ran.code, error["code"])
    assert killed.url in error["detail"]
    assert str(address.relative_to(tmp_path)) in error["detail"]
    assert "delete that file" in error["next_step"]
    ill = call(tmp_path, "doctor", "--json")
    [found] = [check for check in ill.json()["checks"] if check["name"] == "coordinator's address"]
    assert ("warning", True) == (found["status"], killed.url in found["detail"])
    with dev(tmp_path) as again:
        assert 0 == call(tmp_path, "job", "list").code
        again.process.send_signal(signal.SIGTERM)
        again.process.wait(60)


@every(
    ("content", "mode", "said"),
    [
        (b"", 0o600, "does not hold the address"),
        (b"COORDINATOR_URL=\n", 0o600, "does not hold the address"),
        (b"COORDINATOR_URL=ftp://127.0.0.1:1\n", 0o600, "does not hold the address"),
        (b"COORDINATOR_URL=http://127.0.0.1:1/x y\n", 0o600, "does not hold the address"),
        (b"\xff\xfe", 0o600, "is not UTF-8 text"),
        (b"COORDINATOR_URL=http://127.0.0.1:1\n", 0o644, "may be read by others"),
    ],
)
def test_a_bad_address_file(tmp_path: Path, content: bytes, mode: int, said: str) -> None:
    """It is a usage error that names the file and the way out; with --url it is not read."""
    write_address(tmp_path, content, mode)
    ran = call(tmp_path, "job", "list", "--json")
    error = json.loads(ran.err)
    assert (2, "ADDRESS_FILE") == (ran.code, error["code"])
    assert said in error["detail"]
    assert "elete it" in error["next_step"]
    assert 6 == call(tmp_path, "job", "list", "--url", NOWHERE).code


def test_the_doctor_sees_a_bad_address_file(tmp_path: Path) -> None:
    """`doctor` ends with 1, and the other checks run."""
    write_address(tmp_path, b"\xff\xfe", 0o600)
    ran = call(tmp_path, "doctor", "--json")
    status = {check["name"]: check["status"] for check in ran.json()["checks"]}
    assert (1, "ok") == (ran.code, status["checksum"])
    assert "failed" in status.values()


def write_address(folder: Path, content: bytes, mode: int) -> None:
    address = folder / "coordinator-data" / "dev-address.env"
    address.parent.mkdir(exist_ok=True)
    address.write_bytes(content)
    address.chmod(mode)
