"""`actorfw demo`: right totals while a peer is killed, and every way it may be disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from actorfw.demo.corpus import Tally, chunks, count_plainly, files_in, part_of, standard_library
from actorfw.values.errors import UsageError

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some files of the standard library, and some that are no text."""
    made = tmp_path_factory.mktemp("sources")
    for number, path in enumerate(files_in(standard_library())[:60]):
        (made / f"{number:03}.py").write_bytes(Path(path).read_bytes())
    (made / "latin.py").write_bytes(b"caf\xe9 = 1\n\0")
    (made / "empty.py").write_bytes(b"")
    (made / "site-packages").mkdir()
    (made / "site-packages" / "foreign.py").write_text("foreign = 1\n")
    return made


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "actorfw", "demo", *arguments]


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=55,
    )


def test_it_loses_a_peer_and_its_totals_are_right(folder: Path) -> None:
    done = demo("--path", str(folder), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    plain = count_plainly(files_in(str(folder)), lambda: None)
    assert report["ok"]
    assert set(report["checks"].values()) == {True}
    assert report["files"] == 62
    assert report["words"] == plain.totals.total()
    assert report["distinct_words"] == len(plain.totals)
    assert report["index_entries"] == sum(map(len, plain.index.values()))
    assert [peer["killed"] for peer in report["peers"]] == [False, False, True]
    assert [peer["reduces"] for peer in report["peers"]] == [True, True, False]
    assert sum(peer["tasks"] for peer in report["peers"]) == report["chunks"]
    assert report["killed"] == report["peers"][2]["name"]
    assert report["ran_again"] >= 0


def test_it_prints_one_table(folder: Path) -> None:
    done = demo("--path", str(folder), "--peers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "was killed, " in done.stdout
    assert "ran again" in done.stdout
    assert done.stdout.count("holds") == 6
    assert "FAILS" not in done.stdout


def test_with_one_peer_none_is_killed(folder: Path) -> None:
    done = demo("--path", str(folder), "--peers", "1", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["killed"], report["ran_again"]) == (None, 0)
    assert [peer["tasks"] for peer in report["peers"]] == [report["chunks"]]


def test_more_peers_than_files(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("one = 1\n")
    done = demo("--path", str(tmp_path), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["words"] == 1


def test_without_a_home_to_write_to(folder: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    done = demo("--path", str(folder), "--json", HOME=str(nowhere), XDG_CONFIG_HOME="")
    assert done.returncode == 0, done.stdout + done.stderr


def test_keep_leaves_the_cluster_up_until_ctrl_c(folder: Path) -> None:
    process = subprocess.Popen(
        command("--path", str(folder), "--keep", "--peers", "2"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr:
        try:
            seed = next(line.split()[-1] for line in process.stderr if "actorfw nodes --seed" in line)
            listing = [sys.executable, "-m", "actorfw", "nodes", "--json", "--seed", seed]
            listed = subprocess.run(listing, capture_output=True, text=True, timeout=30)
            assert len(json.loads(listed.stdout)) == 2  # the driver, and the peer that was not killed
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
            process.wait()


def test_ctrl_c_in_the_middle_leaves_nothing(folder: Path) -> None:
    with interrupted(folder) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    # The pipes are at their end: no process is left that could write to them.
    assert (process.returncode, out) == (130, "")
    assert err.rstrip().endswith("actorfw: interrupted")
    assert "Traceback" not in err


def test_a_reducers_peer_that_dies_is_said_to_have_died(folder: Path) -> None:
    with interrupted(folder) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        out, err = process.communicate(timeout=50)
    assert process.returncode == 1, out + err
    assert "Traceback" not in err
    assert "a peer died that was not to be killed" in err or "of the cluster" in err, err


def interrupted(folder: Path) -> subprocess.Popen[str]:
    """A demo whose peers have just been started."""
    process = subprocess.Popen(
        command("--path", str(folder), "--json"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 3:
        assert process.poll() is None
    return process


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_files_are_found_and_foreign_packages_left_out(folder: Path, tmp_path: Path) -> None:
    found = files_in(str(folder))
    assert len(found) == 62
    assert found == sorted(found)
    for wrong in (tmp_path, tmp_path / "no"):
        with pytest.raises(UsageError):
            files_in(str(wrong))


@pytest.mark.parametrize("at_least", [1, 3, 24, 1000])
def test_chunks_hold_each_file_once(folder: Path, at_least: int) -> None:
    files = files_in(str(folder))
    cut = chunks(files, at_least)
    assert [file for chunk in cut for file in chunk.files] == list(enumerate(files))
    assert [chunk.number for chunk in cut] == list(range(len(cut)))
    assert len(cut) >= min(at_least, len(files)) // 2


def test_shares_add_up() -> None:
    words = Counter({b"%d" % n: n for n in range(1, 100)})
    whole, merged = Tally(), Tally()
    whole.add(7, words)
    for part in range(3):
        share = Tally()
        share.add(7, Counter({word: n for word, n in words.items() if part_of(word, 3) == part}))
        assert share.totals
        merged.merge(share)
    assert merged == whole
