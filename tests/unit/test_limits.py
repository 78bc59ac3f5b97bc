"""A job's share of the machine, and the memory that containers allow."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.miner.executors import limits
from coordinator.miner.executors.limits import Bound, Share, share_of_machine
from coordinator.miner.settings import MinerSettings

GIB = 2**30


def test_slots_share_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Memory, disk and processors are divided by the slots; the owner's own limit takes precedence."""
    monkeypatch.setattr(limits, "memory_of_machine", lambda: 40 * GIB)
    monkeypatch.setattr(limits, "processors_of_machine", lambda: 6)
    whole, quarter = share_of_machine(folder=tmp_path), share_of_machine(4, folder=tmp_path)
    assert (32 * GIB, 8 * GIB) == (whole.memory_bytes, quarter.memory_bytes)
    assert (6, 1, 1) == (whole.processors, quarter.processors, share_of_machine(100).processors)
    assert 0.2 < quarter.disk_bytes / whole.disk_bytes < 0.3
    assert GIB == share_of_machine(4, memory_bytes=GIB).memory_bytes
    assert limits.LEAST_MEMORY_BYTES == share_of_machine(1024).memory_bytes


def test_the_smaller_limit_holds() -> None:
    """A service's limit is final; this machine's is for another miner to exceed."""
    share = Share(memory_bytes=2 * GIB, disk_bytes=3 * GIB, processors=1)
    assert Bound(GIB, here=False) == share.memory(GIB)
    assert Bound(2 * GIB, here=True) == share.memory(5 * GIB) == share.memory()
    assert Bound(3 * GIB, here=True) == share.disk(5 * GIB)
    assert "2048 MiB" == str(share.memory())


@pytest.mark.parametrize(
    ("groups", "limit_files", "expected"),
    [
        ("0::/app.service", {"app.service/memory.max": "1073741824"}, [GIB]),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "2147483648"}, [2 * GIB]),
        ("0::/of/the/host", {"memory.max": "1073741824"}, [GIB]),
        ("4:memory:/x\n0::/", {"memory/x/memory.limit_in_bytes": "1073741824"}, [GIB]),
        ("4:memory:/x", {"memory/x/memory.limit_in_bytes": "9223372036854771712"}, []),
        ("0::/", {}, []),
        ("nonsense", {}, []),
    ],
)
def test_a_container_has_less_memory_than_its_machine(
    groups: str,
    limit_files: dict[str, str],
    expected: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Limits of both versions of control groups count, those of groups above as well."""
    for name, content in limit_files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    (tmp_path / "cgroup").write_text(groups + "\n")
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path)
    monkeypatch.setattr(limits, "_OWN_CGROUPS", tmp_path / "cgroup")
    assert expected == list(limits._cgroup_limits())


def test_the_owner_sets_the_memory_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """JOB_MEMORY_MB is MiB, and too few are refused."""
    monkeypatch.setenv("JOB_MEMORY_MB", "4096")
    assert 4096 == MinerSettings(_env_file=None).job_memory_mb
    monkeypatch.setenv("JOB_MEMORY_MB", "12")
    with pytest.raises(ValueError, match="256"):
        MinerSettings(_env_file=None)
