"""The folder in which one user's nodes find each other: who is in it, who is not, and what nobody may do to it."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest

from actorfw.io.rendezvous import FolderRendezvous, Mate, rendezvous_folder
from actorfw.values.errors import UsageError

A, B, C = (Mate(f"127.0.0.1:{port}", f"10.0.0.1:{port}", port) for port in (1, 2, 3))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "actorfw")


def files(folder: str) -> int:
    return len(os.listdir(folder))


def test_who_enters_is_found_until_it_leaves(folder: str) -> None:
    one, two = FolderRendezvous(folder, "red"), FolderRendezvous(folder, "red")
    assert one.mates() == []
    one.enter(A)
    one.enter(A)
    two.enter(B)
    assert (one.mates(), two.mates()) == ([B], [A])
    assert FolderRendezvous(folder, "red").mates() == [A, B]
    assert FolderRendezvous(folder, "blue").mates() == []
    one.leave()
    one.leave()
    assert two.mates() == []
    two.leave()
    assert files(folder) == 0


def test_only_who_finds_nobody_enters_alone(folder: str) -> None:
    one, two, other = (FolderRendezvous(folder, name) for name in ("red", "red", "blue"))
    assert one.enter_alone(A) is True
    assert two.enter_alone(B) is False
    assert other.enter_alone(C) is True
    assert one.enter_alone(A) is True
    assert two.enter_alone(B, gone={A.address}) is True
    for place in (one, two, other):
        place.leave()
    assert files(folder) == 0


def test_of_many_at_once_exactly_one_enters_alone(folder: str) -> None:
    for _ in range(20):
        places = [FolderRendezvous(folder, "red") for _ in range(8)]
        answers: list[bool] = []
        ready = threading.Barrier(len(places))

        def arrive(place: FolderRendezvous, ready: threading.Barrier, answers: list[bool]) -> None:
            ready.wait()
            while (alone := place.enter_alone(A)) is None:
                pass
            answers.append(alone)

        threads = [threading.Thread(target=arrive, args=(place, ready, answers)) for place in places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [False] * 7 + [True]
        for place in places:
            place.leave()
    assert files(folder) == 0


def test_nobody_waits_for_the_lock(folder: str) -> None:
    os.mkdir(folder, 0o700)
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    place = FolderRendezvous(folder, "red")
    assert place.enter_alone(A) is None
    os.close(held)
    assert place.enter_alone(A) is True
    place.leave()


def test_the_entry_of_who_was_killed_is_removed(folder: str) -> None:
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        FolderRendezvous(folder, "red").enter(A)
        os.write(tell, b".")
        signal.pause()
    os.read(told, 1)
    place = FolderRendezvous(folder, "red")
    assert place.mates() == [A]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert files(folder) == 1
    assert FolderRendezvous(folder, "blue").mates() == []  # whoever looks cleans up, of whatever cluster
    assert files(folder) == 0
    assert place.enter_alone(B) is True
    place.leave()
    for fd in (told, tell):
        os.close(fd)


def test_an_entry_that_was_cleaned_away_is_made_again(folder: str) -> None:
    one, two = FolderRendezvous(folder, "red"), FolderRendezvous(folder, "red")
    one.enter(A)
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    assert two.mates() == []
    one.enter(A)
    assert two.mates() == [A]
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    os.rmdir(folder)
    one.enter(A)
    assert two.mates() == [A]
    assert len(one.descriptors()) == 1
    one.leave()
    assert one.descriptors() == []


def test_what_is_no_entry_is_left_alone(folder: str, tmp_path: Path) -> None:
    one = FolderRendezvous(folder, "red")
    one.enter(A)
    (entry,) = os.listdir(folder)
    target = tmp_path / "target"
    target.write_text("127.0.0.1:9\n127.0.0.1:9\n1\nred")
    planted = entry[:-1] + ("0" if entry[-1] != "0" else "1")
    os.symlink(target, os.path.join(folder, planted))
    os.mkfifo(os.path.join(folder, entry[:-2] + "zz"))
    other = FolderRendezvous(folder, "red")
    assert other.mates() == [A]
    assert target.exists()
    one.leave()
    assert files(folder) == 2


def test_an_entry_that_is_being_written_keeps_others_from_entering_alone(folder: str) -> None:
    place = FolderRendezvous(folder, "red")
    place.enter(A)
    (entry,) = os.listdir(folder)
    path = os.path.join(folder, entry[:-4] + "0000")
    with open(path, "wb") as half:
        fcntl.flock(half, fcntl.LOCK_EX)
        place.leave()
        assert place.mates() == []
        assert place.enter_alone(B) is False
    assert place.enter_alone(B) is True
    place.leave()
    assert files(folder) == 0


def test_a_folder_that_others_may_use_is_refused(folder: str) -> None:
    os.mkdir(folder)
    os.chmod(folder, 0o770)
    with pytest.raises(UsageError, match=r"actorfw, .*others may look or write.*XDG_RUNTIME_DIR"):
        FolderRendezvous(folder, "red").mates()


def test_a_folder_of_somebody_else_is_refused(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FolderRendezvous(folder, "red").mates()
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(UsageError, match="belongs to another user"):
        FolderRendezvous(folder, "red").enter_alone(A)


@pytest.mark.parametrize("what", ["a link", "a file"])
def test_what_is_no_folder_is_refused(folder: str, tmp_path: Path, what: str) -> None:
    if what == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        os.symlink(tmp_path / "elsewhere", folder)
    else:
        Path(folder).touch()
    with pytest.raises(UsageError, match="can't be used: Not a directory"):
        FolderRendezvous(folder, "red").enter(A)


def test_where_the_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rendezvous_folder({"XDG_RUNTIME_DIR": str(tmp_path)}) == f"{tmp_path}/actorfw"
    monkeypatch.setattr("tempfile.tempdir", "/somewhere")
    mine = os.geteuid()
    fallback = f"/somewhere/actorfw-{mine}"
    for other in ("", "relative", str(tmp_path / "missing")):
        assert rendezvous_folder({"XDG_RUNTIME_DIR": other}) == fallback
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert rendezvous_folder({"XDG_RUNTIME_DIR": str(tmp_path)}) == f"/somewhere/actorfw-{mine + 1}"
