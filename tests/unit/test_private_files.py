"""Files and folders for one account: their modes, whose they are, and what survives a power cut."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.blobs import BlobNotFound
from coordinator.blobs.local import LocalBlobStore
from coordinator.cli.errors import Exit, explain
from coordinator.crypto.keys import KeyFileError, SigningKey
from coordinator.private_files import NotPrivate, private_folder
from coordinator.storage.connections.data_directory import (
    DATABASE_FILE,
    DATABASE_FILES,
    LOCK_NAME,
    DataDirectory,
)
from coordinator.storage.connections.sqlite_file import SqliteFile

NOBODY = 65534


@pytest.fixture(params=[0o000, 0o077], ids=["open-umask", "strict-umask"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def modes_below(folder: Path) -> dict[str, int]:
    """The mode of each entry that others have a right on."""
    found = [folder, *folder.rglob("*")]
    return {str(path): mode(path) for path in found if mode(path) & 0o077}


async def store(blobs: LocalBlobStore, content: bytes) -> str:
    async def pieces() -> object:
        yield content

    return (await blobs.put(pieces(), expected_sha256=None, max_bytes=100)).sha256  # type: ignore[arg-type]


async def test_new_files_are_for_their_account_alone(tmp_path: Path, umask: None) -> None:
    """Whatever the umask is: directory, lock, database with its two files, blobs and keys."""
    place = tmp_path / "above" / "data"
    with DataDirectory(place), closing(SqliteFile.open(place / DATABASE_FILE)) as file:
        with file.writing(durable=True) as connection:
            connection.execute("CREATE TABLE t (x)")
        await store(LocalBlobStore(place / "blobs"), b"content")
        SigningKey.load_or_create(place / "keys" / "signing.key")
        assert {*DATABASE_FILES, LOCK_NAME, "blobs", "keys"} == {path.name for path in place.iterdir()}
        assert {} == modes_below(tmp_path / "above")
        assert 0o600 == mode(place / DATABASE_FILE)


async def test_older_files_lose_the_rights_of_others(tmp_path: Path) -> None:
    """A directory of an earlier version is narrowed at the start, and what it holds stays."""
    place = tmp_path / "data"
    blobs = place / "blobs"
    digest = await store(LocalBlobStore(blobs), b"content")
    for name in (*DATABASE_FILES, LOCK_NAME, "backup.tar"):
        (place / name).touch()
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    DataDirectory(place).close()
    assert [] == [name for name in os.listdir(place) if mode(place / name) & 0o077]
    narrowed = LocalBlobStore(blobs)
    assert [0o700] * 3 == [mode(place), mode(blobs), mode(blobs / digest[:2])]
    assert b"content" == b"".join([piece async for piece in narrowed.get(digest)])


@pytest.mark.parametrize("name", [LOCK_NAME, *DATABASE_FILES])
@pytest.mark.parametrize("kind", ["symlink", "hardlink", "pipe", "folder"])
def test_links_among_our_files_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    """Nothing that we write goes into a file elsewhere, and nothing waits for a pipe."""
    place, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    place.mkdir(mode=0o700)
    elsewhere.write_text("precious")
    match kind:
        case "symlink":
            (place / name).symlink_to(elsewhere)
        case "hardlink":
            (place / name).hardlink_to(elsewhere)
        case "pipe":
            os.mkfifo(place / name)
        case _:
            (place / name).mkdir()
    with pytest.raises(NotPrivate, match=f"{name} is a link"):
        DataDirectory(place)
    assert "precious" == elsewhere.read_text()


def test_directories_of_others_are_refused(tmp_path: Path) -> None:
    """Another account's directory, a shared one, and one with other things in it are left as they are."""
    foreign = tmp_path / "foreign"
    foreign.mkdir(mode=0o777)
    if os.geteuid() == 0:
        os.chown(foreign, NOBODY, NOBODY)
    else:
        foreign = Path("/usr")  # root's
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    home = tmp_path / "home"
    home.mkdir()
    (home / "letters").touch()
    home.chmod(0o755)
    for place, cause in ((foreign, "another account"), (shared, "open to others"), (home, "other files")):
        before = mode(place)
        with pytest.raises(NotPrivate, match=cause) as caught:
            DataDirectory(place)
        assert before == mode(place)
        told = explain(caught.value)
        assert ("NOT_PRIVATE", Exit.USAGE) == (told.code, told.exit_code)
        assert str(place / "coordinator") in told.next_step
    home.chmod(0o700)
    private_folder(home, known=())  # already private: any files may be in it


async def test_blobs_are_plain_files(tmp_path: Path) -> None:
    """A link or a pipe under a blob's name is no blob: it is neither followed nor waited for."""
    blobs = LocalBlobStore(tmp_path / "blobs")
    digest = await store(blobs, b"content")
    path = tmp_path / "blobs" / digest[:2] / digest[2:]
    path.rename(tmp_path / "moved")
    for kind in ("link", "pipe"):
        if kind == "link":
            path.symlink_to(tmp_path / "moved")
        else:
            os.mkfifo(path)
        with pytest.raises(BlobNotFound):
            [piece async for piece in blobs.get(digest)]
        path.unlink()


def test_a_pipe_is_no_key(tmp_path: Path) -> None:
    """The start does not wait for a writer."""
    os.mkfifo(tmp_path / "signing.key", 0o600)
    with pytest.raises(KeyFileError, match="not a file"):
        SigningKey.load_or_create(tmp_path / "signing.key")


async def test_names_survive_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is on disk before its folder, and each new folder is in its parent."""
    synced: list[str] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append(f"{place.relative_to(tmp_path.parent)} {sorted(map(str, _names(place)))}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    SigningKey.load_or_create(tmp_path / "new" / "keys" / "signing.key")
    top = tmp_path.name
    assert f"{top} ['new']" in synced
    assert f"{top}/new ['keys']" in synced
    assert f"{top}/new/keys ['signing.key']" == synced[-1]
    synced.clear()
    digest = await store(LocalBlobStore(tmp_path / "blobs"), b"content")
    assert f"{top}/blobs ['{digest[:2]}', 'tmp']" in synced
    assert f"{top}/blobs/{digest[:2]} ['{digest[2:]}']" == synced[-1]
    synced.clear()
    SqliteFile.open(tmp_path / "blobs" / DATABASE_FILE).close()
    assert f"'{DATABASE_FILE}'" in synced[-1]


def _names(place: Path) -> list[str]:
    return os.listdir(place) if place.is_dir() else []
