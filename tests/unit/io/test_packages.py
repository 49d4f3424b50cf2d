"""The folder of packages: whose it is, what is in use, what is removed, and what an evil package can't do."""

from __future__ import annotations

import io
import os
import stat
import threading
import zipfile
from hashlib import blake2b
from pathlib import Path

import pytest

from actorfw.io.packages import DIGEST_BYTES, DamagedPackageError, LocalPackages, cache_folder, unpack
from actorfw.io.packing import FOLDER, pack, source_of
from actorfw.values.errors import UsageError


def _package(**files: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, text)
    return file.getvalue()


def _digest(package: bytes) -> bytes:
    return blake2b(package, digest_size=DIGEST_BYTES).digest()


@pytest.fixture
def files(tmp_path: Path) -> LocalPackages:
    return LocalPackages(str(tmp_path / "cache" / "packages"), 1 << 20)


def _put(files: LocalPackages, package: bytes) -> bytes:
    part = files.part()
    part.file.write(package)
    part.keep(_digest(package)).release()
    return _digest(package)


def _listing(files: LocalPackages) -> list[str]:
    return sorted(os.listdir(files.folder))


def test_a_package_is_found_again_and_only_its_user_can_read_it(files: LocalPackages) -> None:
    digest = _put(files, _package(a="text"))
    assert stat.S_IMODE(os.stat(files.folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(files._path(digest)).st_mode) == 0o600
    other = LocalPackages(files.folder, 1 << 20)  # another process's
    held = other.find(digest)
    assert held is not None
    assert held.read(0, 1 << 20) == _package(a="text")
    assert Path(held.tree(), "a").read_text() == "text"
    assert held.tree() == held.tree()
    held.release()
    held.release()
    assert files.find(bytes(DIGEST_BYTES)) is None
    assert len(_listing(files)) == 2


def test_a_private_copy_is_no_other_ones(files: LocalPackages) -> None:
    held = files.find(_put(files, _package(**{"a": "text", "sub/b": "more"})))
    assert held is not None
    one, other = files.own_folder(), files.own_folder()
    held.copy(one.path)
    held.copy(other.path)
    Path(one.path, "sub", "b").write_text("changed")
    assert Path(other.path, "sub", "b").read_text() == "more"
    Path(one.path, "sub").chmod(0)
    one.remove()
    one.remove()
    other.remove()
    held.release()
    assert len(_listing(files)) == 1


def test_what_has_another_hash_is_not_kept(files: LocalPackages) -> None:
    part = files.part()
    part.file.write(b"something else")
    with pytest.raises(DamagedPackageError, match="hash"):
        part.keep(bytes(DIGEST_BYTES))
    assert _listing(files) == []


def test_what_somebody_has_changed_is_as_good_as_gone(files: LocalPackages) -> None:
    digest = _put(files, _package(a="text"))
    Path(files._path(digest)).write_bytes(_package(a="evil"))
    assert files.find(digest) is None
    assert _listing(files) == []


def test_a_link_is_no_package(files: LocalPackages, tmp_path: Path) -> None:
    package = _package(a="text")
    (tmp_path / "elsewhere").write_bytes(package)
    _put(files, _package(b=""))
    os.symlink(tmp_path / "elsewhere", files._path(_digest(package)))
    assert files.find(_digest(package)) is None


@pytest.mark.parametrize("how", ["others may write", "a link"])
def test_a_folder_that_others_could_change_is_not_used(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "cache" / "packages"
    folder.parent.mkdir(mode=0o700)
    if how == "a link":
        (tmp_path / "other").mkdir()
        folder.symlink_to(tmp_path / "other")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(UsageError, match="nobody else may write"):
        LocalPackages(str(folder), 1 << 20).part()


def test_what_was_used_longest_ago_goes_and_never_what_is_in_use(files: LocalPackages) -> None:
    digests = [_put(files, _package(a="x" * 1000 + str(n))) for n in range(4)]
    for n, digest in enumerate(digests):
        os.utime(files._path(digest), (n + 1, n + 1))
    held = LocalPackages(files.folder, 0).find(digests[0])  # used by another process, and used last now
    os.utime(files._path(digests[0]), (1, 1))
    files.limit = 2500
    assert files.trim() == 2
    assert [files.find(digest) is not None for digest in digests[1:3]] == [False, False]
    assert held is not None
    held.tree()
    files.limit = 0
    files.trim()
    assert _listing(files) == sorted([digests[0].hex() + ".package", digests[0].hex() + ".tree"])
    held.release()
    files.trim()
    assert _listing(files) == []


def test_what_dead_processes_left_is_swept_and_what_lives_stays(files: LocalPackages) -> None:
    part, own = files.part(), files.own_folder()
    Path(own.path, "work").write_text("")
    left = Path(files.folder, "part-dead")
    left.write_text("half")
    Path(files.folder, "own-dead").write_text("")
    Path(files.folder, "own-dead.d", "deep").mkdir(parents=True)
    Path(files.folder, "part-gone.d").mkdir()
    _put(LocalPackages(files.folder, 1 << 20), _package(a=""))
    assert Path(own.path, "work").exists()
    assert not [name for name in _listing(files) if "dead" in name or "gone" in name]
    part.drop()
    own.remove()


def test_many_at_once_keep_one(files: LocalPackages) -> None:
    package = _package(a="x" * 10_000)
    digest = _digest(package)
    failed: list[BaseException] = []

    def keep() -> None:
        try:
            for _ in range(20):
                mine = LocalPackages(files.folder, 0)  # each removes what the others do not use just now
                part = mine.part()
                part.file.write(package)
                held = part.keep(digest)
                assert Path(held.tree(), "a").stat().st_size == 10_000
                assert held.read(0, 1 << 20) == package
                held.release()
        except BaseException as error:  # shown below
            failed.append(error)

    threads = [threading.Thread(target=keep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    LocalPackages(files.folder, 0).trim()
    assert _listing(files) == []


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//b", "./x", "C:/x", "a\\..\\x"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    package = _package(**{name: "evil"})
    into = tmp_path / "a" / "b"
    into.mkdir(parents=True)
    with pytest.raises(DamagedPackageError, match="leads out"):
        unpack(io.BytesIO(package), len(package), str(into))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFDIR, 0])
def test_only_plain_files_are_unpacked(tmp_path: Path, kind: int) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.create_system = 3
        info.external_attr = (kind | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DamagedPackageError, match="plain file"):
        unpack(file, len(file.getvalue()), str(tmp_path))


def test_nothing_grows_when_it_is_unpacked(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1 << 20))
    with pytest.raises(DamagedPackageError):
        unpack(file, len(file.getvalue()), str(tmp_path))
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for name in ("same", "samE"):
            info = zipfile.ZipInfo(name)
            info.external_attr = stat.S_IFREG << 16
            archive.writestr(info, "x")
    twice = io.BytesIO(many.getvalue().replace(b"samE", b"same"))
    with pytest.raises(DamagedPackageError):
        unpack(twice, len(many.getvalue()), str(tmp_path / "n"))


def test_garbage_is_no_package(tmp_path: Path) -> None:
    for garbage in (b"", b"PK", os.urandom(500), _package(a="x")[:-10]):
        with pytest.raises(DamagedPackageError):
            unpack(io.BytesIO(garbage), len(garbage), str(tmp_path))


def test_what_is_packed_unpacks_to_the_same(files: LocalPackages, tmp_path: Path) -> None:
    (tmp_path / "p" / "sub").mkdir(parents=True)
    (tmp_path / "p" / "sub" / "run").write_text("#!")
    (tmp_path / "p" / "sub" / "run").chmod(0o755)
    (tmp_path / "p" / "ä.py").write_text("x")
    part = files.part()
    pack(source_of(FOLDER, str(tmp_path / "p"), "working_dir"), part.file, 1 << 20)
    held = part.keep()
    tree = Path(held.tree())
    assert os.access(tree / "sub" / "run", os.X_OK)
    assert (tree / "ä.py").read_text() == "x"
    assert not os.access(tree / "ä.py", os.X_OK)
    held.release()


def test_where_packages_lie(tmp_path: Path) -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == "/c/actorfw/packages"
    assert (
        cache_folder({"XDG_CACHE_HOME": "not absolute", "HOME": str(tmp_path)}) == f"{tmp_path}/.cache/actorfw/packages"
    )
    assert f"actorfw-{os.getuid()}" in cache_folder({"HOME": "/nowhere"})
