"""Files of spilled objects: what was written is read, and what is not that any more is noticed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from actorfw.io.sharedmem import SharedMemory
from actorfw.io.spillfiles import HEADER, LocalFiles, SpillFile, SpillFileError, open_files, process_start
from actorfw.values.errors import UsageError

DATA = bytes(range(256)) * 40_000  # more than one piece


@pytest.fixture
def files(tmp_path: Path) -> Iterator[LocalFiles]:
    made = LocalFiles(str(tmp_path))
    yield made
    made.close()


def read(files: LocalFiles, file: SpillFile) -> bytes:
    into = bytearray(file.nbytes)
    files.read(file, memoryview(into))
    return bytes(into)


def test_what_was_written_is_read(files: LocalFiles) -> None:
    file = files.write(7, memoryview(DATA))
    assert read(files, file) == DATA


def test_an_empty_one(files: LocalFiles) -> None:
    assert read(files, files.write(1, memoryview(b""))) == b""


def test_nobody_else_may_look(files: LocalFiles, tmp_path: Path) -> None:
    assert os.listdir(tmp_path) == []  # a node that never spills leaves no trace
    file = files.write(1, memoryview(b"secret"))
    assert stat.S_IMODE(os.stat(file.name).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(file.name)).st_mode) == 0o700


def test_all_is_gone_after_close(files: LocalFiles, tmp_path: Path) -> None:
    files.write(1, memoryview(DATA))
    files.close()
    assert os.listdir(tmp_path) == []
    with pytest.raises(OSError, match="closed"):
        files.write(2, memoryview(DATA))


def test_one_that_is_removed(files: LocalFiles) -> None:
    file = files.write(1, memoryview(DATA))
    files.remove(file)
    assert not os.path.exists(file.name)
    files.remove(SpillFile(file.name, 0, 0))  # somebody was faster


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    files = LocalFiles(str(tmp_path / "below"))  # which goes as well, as by a service that cleans up old files
    lost = files.write(1, memoryview(DATA))
    shutil.rmtree(tmp_path / "below")
    assert read(files, files.write(2, memoryview(DATA))) == DATA
    shutil.rmtree(tmp_path / "below")
    _, fd = files.make(3, 100_000)
    os.close(fd)
    with pytest.raises(SpillFileError, match="can't be opened: No such file"):
        read(files, lost)
    other = LocalFiles(str(tmp_path / "below"))
    assert other.sweep() == 0  # its node lives, and so says the lock in the new one
    files.close()
    assert os.listdir(tmp_path / "below") == []


def test_whether_one_is_still_there(files: LocalFiles) -> None:
    file = files.write(1, memoryview(DATA))
    assert files.is_there(file)
    os.truncate(file.name, HEADER + len(DATA))  # without its checksum
    assert not files.is_there(file)
    os.unlink(file.name)
    assert not files.is_there(file)


def cut(path: str) -> None:
    os.truncate(path, HEADER + 1000)


def cut_in_the_header(path: str) -> None:
    os.truncate(path, 100)


def change(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(HEADER + 5_000_000)
        file.write(b"!")


def change_the_header(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(b"!")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (os.unlink, "can't be opened: No such file"),
        (cut, "was cut short: 10,240,000 bytes"),
        (cut_in_the_header, "was cut short"),
        (change, "was changed"),
        (change_the_header, "its header is another one"),
    ],
)
def test_harm_is_noticed(files: LocalFiles, harm: object, said: str) -> None:
    file = files.write(1, memoryview(DATA))
    harm(file.name)  # type: ignore[operator]
    with pytest.raises(SpillFileError, match=said) as caught:
        read(files, file)
    assert file.name in str(caught.value)


def test_one_of_another_object_is_noticed(files: LocalFiles) -> None:
    first = files.write(1, memoryview(DATA))
    second = files.write(2, memoryview(DATA[::-1]))
    os.replace(second.name, first.name)
    with pytest.raises(SpillFileError, match="was changed"):
        read(files, first)


def test_a_link_in_its_place_is_not_followed(files: LocalFiles, tmp_path: Path) -> None:
    file = files.write(1, memoryview(DATA))
    os.rename(file.name, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", file.name)
    with pytest.raises(SpillFileError, match="can't be opened"):
        read(files, file)


def test_a_limit_of_its_own(tmp_path: Path) -> None:
    files = LocalFiles(str(tmp_path), limit=25_000)
    first = files.write(1, memoryview(bytes(10_000)))
    with pytest.raises(OSError, match=r"Config.spill_limit is 25,000 bytes") as caught:
        files.write(2, memoryview(bytes(10_000)))
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(os.path.dirname(first.name)) == ["1.object", "lock"] or sorted(
        os.listdir(os.path.dirname(first.name))
    ) == ["1.object", "lock"]
    files.remove(first)
    files.write(2, memoryview(bytes(10_000)))
    files.close()


def test_others_keep_their_part_of_the_disk(tmp_path: Path) -> None:
    files = LocalFiles(str(tmp_path), kept_free=1.0)
    assert files.room() == 0
    with pytest.raises(OSError, match="left to others") as caught:
        files.write(1, memoryview(b"x"))
    assert caught.value.errno == errno.ENOSPC
    files.close()


def test_a_write_that_fails_leaves_nothing() -> None:
    # A file may not become larger than a process is allowed: in one of its own, since nobody can raise that again.
    code = """
import os, resource, sys, tempfile
from actorfw.io.spillfiles import LocalFiles
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
with tempfile.TemporaryDirectory() as folder:
    files = LocalFiles(folder)
    room = files.room()
    try:
        files.write(1, memoryview(bytes(2 << 20)))
    except OSError as error:
        print(error.strerror)
    print(sorted(os.listdir(files.where)), files._held)
    files.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "File too large\n['lock'] 0\n", done.stderr


def test_a_folder_that_can_not_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files = LocalFiles(str(tmp_path / "file" / "below"))
    with pytest.raises(OSError, match="Not a directory"):
        files.write(1, memoryview(b"x"))
    files.close()


def test_what_dead_nodes_left_is_swept(tmp_path: Path) -> None:
    code = """
import os, sys
from actorfw.io.spillfiles import LocalFiles
files = LocalFiles(sys.argv[1])
files.write(1, memoryview(b"left behind"))
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
    (tmp_path / "actorfw-spill-notes").mkdir()  # another program's
    living = LocalFiles(str(tmp_path))
    kept = living.write(1, memoryview(b"in use"))
    files = LocalFiles(str(tmp_path))
    assert len(os.listdir(tmp_path)) == 3
    assert files.sweep() == 1
    assert sorted(os.listdir(tmp_path)) == sorted(["actorfw-spill-notes", os.path.basename(os.path.dirname(kept.name))])
    assert files.sweep() == 0
    living.close()


def test_a_process_of_another_container_is_not_taken_for_dead(tmp_path: Path) -> None:
    folder = tmp_path / "actorfw-spill-99999999-1-aa"
    folder.mkdir()
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert LocalFiles(str(tmp_path)).sweep() == 0
    os.close(lock)
    assert LocalFiles(str(tmp_path)).sweep() == 1


def test_a_number_that_was_given_again_is_another_process(tmp_path: Path) -> None:
    mine = process_start(os.getpid())
    assert mine
    assert mine == process_start(os.getpid())
    (tmp_path / f"actorfw-spill-{os.getpid()}-{mine}-aa").mkdir()
    (tmp_path / f"actorfw-spill-{os.getpid()}-{mine}0-aa").mkdir()
    assert LocalFiles(str(tmp_path)).sweep() == 1
    assert os.listdir(tmp_path) == [f"actorfw-spill-{os.getpid()}-{mine}-aa"]


def test_a_file_as_memory(files: LocalFiles) -> None:
    file, fd = files.make(3, 100_000)
    memory = SharedMemory.attach(fd, readonly=False)
    memory.copy_in(HEADER, memoryview(b"abc"))
    assert bytes(memory.view(HEADER, 3)) == b"abc"
    assert not os.path.exists(file.name)
    with open(f"/proc/self/fd/{fd}", "rb") as stream:  # as a worker finds it
        stream.seek(HEADER)
        assert stream.read(3) == b"abc"
    memory.close()
    room = files.room()
    assert room is not None
    files.remove(file)
    assert files.room() >= room  # type: ignore[operator]


def test_one_that_was_cut_is_not_mapped(files: LocalFiles) -> None:
    file = files.write(1, memoryview(DATA))
    os.close(files.open(file))
    assert not os.path.exists(file.name)
    files.verify(file, memoryview(DATA))
    with pytest.raises(SpillFileError, match="was changed"):
        files.verify(file, memoryview(DATA[::-1]))
    other = files.write(2, memoryview(DATA))
    cut(other.name)
    with pytest.raises(SpillFileError, match="was cut short"):
        files.open(other)


def test_a_url_needs_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError, match=r"pip install 'actorfw\[fsspec\]'"):
        open_files("s3://bucket/folder", None, b"life" * 4)


def test_a_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="an extra: actorfw[fsspec]")
    files = open_files(f"file://{tmp_path}/deep/er", 30_000_000, b"life" * 4)
    file = files.write(1, memoryview(DATA))
    into = bytearray(file.nbytes)
    files.read(file, memoryview(into))
    assert bytes(into) == DATA
    assert files.room() == 30_000_000 - len(DATA)
    with pytest.raises(OSError, match="spill_limit"):
        files.write(2, memoryview(bytes(29_000_000)))
    with pytest.raises(OSError, match="can't be mapped"):
        files.make(3, 10)
    change(file.name)
    with pytest.raises(SpillFileError, match="was changed"):
        files.read(file, memoryview(into))
    os.truncate(file.name, 10)
    with pytest.raises(SpillFileError, match="was cut short"):
        files.read(file, memoryview(into))
    files.remove(file)
    with pytest.raises(SpillFileError, match="can't be read"):
        files.read(file, memoryview(into))
    left = os.listdir(tmp_path / "deep" / "er")
    other = open_files(f"file://{tmp_path}/deep/er", None, b"kind" * 4)
    assert other.sweep() == 0
    os.rename(
        tmp_path / "deep" / "er" / left[0], tmp_path / "deep" / "er" / left[0].replace(str(os.getpid()), "99999999")
    )
    assert other.sweep() == 1
    files.close()
    assert os.listdir(tmp_path / "deep" / "er") == []


def test_each_thread_speaks_to_a_url_by_itself() -> None:
    # As over ftp, where two threads on one connection read each other's answers.
    fsspec = pytest.importorskip("fsspec", reason="an extra: actorfw[fsspec]")
    memory = pytest.importorskip("fsspec.implementations.memory", reason="an extra: actorfw[fsspec]")

    class OneThread(memory.MemoryFileSystem):  # type: ignore[misc, name-defined, unused-ignore]
        protocol = "onethread"
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.thread = threading.get_ident()

        def open(self, *args: Any, **options: Any) -> Any:
            assert threading.get_ident() == self.thread
            return super().open(*args, **options)

    fsspec.register_implementation("onethread", OneThread)
    files = open_files("onethread://deep/er", None, b"life" * 4)
    with ThreadPoolExecutor(2) as writers, ThreadPoolExecutor(2) as readers:
        written = list(writers.map(lambda number: files.write(number, memoryview(DATA)), range(4)))
        into = [bytearray(file.nbytes) for file in written]
        list(readers.map(lambda number: files.read(written[number], memoryview(into[number])), range(4)))
    assert {bytes(one) for one in into} == {DATA}
    files.close()
