"""The command line: what it prints where, and its exit statuses."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import actorfw
from actorfw.cli.app import execute
from tests.integration.shell import SECRET, Started, command, environment, new_folder

pytestmark = pytest.mark.real

FOLDER = Path("/nowhere")  # where the nodes of this module meet


@pytest.fixture(scope="module", autouse=True)
def folder() -> Iterator[None]:
    global FOLDER
    FOLDER = Path(new_folder())
    yield
    shutil.rmtree(FOLDER)


def actorfw_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return command(FOLDER, *arguments, **environment)


@pytest.fixture(scope="module")
def started() -> Iterator[Started]:
    node = Started(FOLDER, "--name", "first", "--label", "disk=ssd", "--label", "zone=b").up()
    yield node
    assert node.end()[0] == 0


def test_a_second_node_joins_and_leaves(started: Started) -> None:
    second = Started(FOLDER, "--seed", started.address, "--name", "second", "--hosts", "own", "--namespace", "n").up()
    rows = json.loads(actorfw_command("nodes", "--seed", second.address, "--json").stdout)
    assert sorted((row["name"], row["hosts"]) for row in rows) == [("first", "all"), ("second", "own")]
    status, out, err = second.end(signal.SIGINT)
    assert (status, out) == (0, "")
    assert "node second is up, with 1 other;" in err
    assert "Traceback" not in err
    rows = json.loads(actorfw_command("nodes", "--seed", started.address, "--json").stdout)
    assert [row["name"] for row in rows] == ["first"]


def test_its_node_runs_work_and_sends_home_what_is_printed(started: Started, capfd: pytest.CaptureFixture[str]) -> None:
    with actorfw.init(seeds=started.address, secret=SECRET, num_cpus=0, log_to_driver=True):
        there = next(row.id for row in actorfw.get(actorfw.nodes()) if row.name == "first")
        for executor in ("process", "loop", "thread"):
            place = actorfw.NodeAffinity(there)
            assert actorfw.get(speak.options(executor=executor, scheduling=place).remote(executor)) == executor
        # What was printed is sent before the result; what past sys.stdout went is a pipe's and comes when it comes.
        said = capfd.readouterr().out
    for executor in ("process", "loop", "thread"):
        assert re.search(rf"\(speak pid=\d+ node=first\) by {executor}\n", said), said


@actorfw.remote
def speak(executor: str) -> str:
    print("by", executor)
    return executor


def test_exit_statuses_without_a_cluster(
    started: Started,
    free_port: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("join_timeout = 0.3\n")
    usual = {"ACTORFW_CONFIG": str(config), "ACTORFW_SECRET": SECRET, "XDG_RUNTIME_DIR": str(FOLDER)}

    def status(*arguments: str, **environment: str) -> tuple[int, str]:
        for name, value in {**usual, **environment}.items():
            monkeypatch.setenv(name, value)
        code = execute(arguments)
        out, err = capsys.readouterr()
        assert out == ""
        return code, err

    dead = f"127.0.0.1:{free_port}"
    code, said = status("nodes", "--seed", dead)
    assert (code, dead in said) == (3, True)
    assert status("start", "--seed", dead)[0] == 3
    code, said = status("status", "--seed", started.address, "--cluster", "another")
    assert (code, "this is cluster 'default', not 'another'" in said) == (3, True)
    code, said = status("nodes", "--seed", started.address, ACTORFW_SECRET="another secret and long enough")
    assert (code, "the secrets differ" in said, "--secret-file" in said) == (4, True, True)
    assert status("start", "--seed", started.address, ACTORFW_SECRET="another secret and long enough")[0] == 4
    code, said = status("nodes", "--seed", dead, ACTORFW_CONFIG=str(tmp_path / "none"))
    assert (code, "can't be read" in said) == (2, True)
    code, said = status("nodes", XDG_RUNTIME_DIR=str(tmp_path))
    assert (code, "actorfw start" in said, "--seed" in said) == (3, True, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nodes", "--seed", "nonsense"], "nonsense"),
        (["nodes", "--sed", "127.0.0.1:1"], "--sed"),
        (["nodse"], 'Did you mean "nodes"?'),
        (["start", "--hosts", "some"], '"all", "own"'),
        (["start", "--num-cpus", "many"], "--num-cpus"),
        (["start", "--num-cpus", "-1"], "num_cpus"),
        (["start", "--label", "disk"], "KEY=VALUE"),
        (["start", "--listen", "0.0.0.0:0", "--advertise", "nonsense"], "nonsense"),
        (["start", "--listen", "0.0.0.0:0"], "advertise"),
        (["start", "--listen", "{started}"], "can't listen on"),
        (["start", "--seed", "{started}", "--name", "first"], "a member named 'first' already"),
        (["demo", "--peers", "0"], "--peers is 0"),
        (["demo", "--path", "/no/where"], "there is no such folder"),
        (["demo", "--path", "{empty}"], "there is no .py file"),
    ],
)
def test_wrong_usage(
    started: Started,
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACTORFW_SECRET", SECRET)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(FOLDER))
    filled = [argument.format(started=started.address, empty=tmp_path) for argument in arguments]
    assert execute(filled) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("actorfw: ")
    assert said in err


def test_version_and_help() -> None:
    assert actorfw_command("--version").stdout == f"{actorfw.__version__}\n"
    done = actorfw_command("--help")
    assert done.returncode == 0
    for verb in ("demo", "start", "nodes", "status"):
        assert f" {verb} " in done.stdout


def test_the_console_script_is_the_same() -> None:
    script = Path(sys.executable).with_name("actorfw")
    if not script.exists():
        pytest.skip("actorfw is not installed here, only importable")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, f"{actorfw.__version__}\n")


@pytest.mark.parametrize("more", ["", "--json"])
def test_a_reader_that_goes_away_is_no_error(started: Started, more: str) -> None:
    command = f'"{sys.executable}" -m actorfw nodes {more} --seed {started.address} | true; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], env=environment(FOLDER), capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_who_starts_it_may_have_closed_its_streams(started: Started, closed: str) -> None:
    command = f'"{sys.executable}" -m actorfw nodes --seed {started.address} {closed}; echo "status $?" >&9'
    done = subprocess.run(
        ["bash", "-c", f"exec 9>&1; {command}"], env=environment(FOLDER), capture_output=True, text=True, timeout=30
    )
    assert (done.stdout.splitlines()[-1], done.stderr) == ("status 0", "")


def test_a_node_needs_no_streams(tmp_path: Path) -> None:
    command = f'exec "{sys.executable}" -m actorfw start --alone --listen 127.0.0.1:0 <&- >&- 2>&-'
    own = environment(tmp_path, NOTIFY_SOCKET=str(tmp_path / "told"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "told"))
        told.settimeout(30)
        process = subprocess.Popen(["bash", "-c", command], env=own)
        try:
            while b"READY=1" not in told.recv(4096):
                pass
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("more", ["", "--json"])
def test_output_that_can_not_be_written(started: Started, more: str) -> None:
    command = f'"{sys.executable}" -m actorfw nodes {more} --seed {started.address} >/dev/full'
    done = subprocess.run(["bash", "-c", command], env=environment(FOLDER), capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (1, "actorfw: the output can't be written: No space left on device\n")
