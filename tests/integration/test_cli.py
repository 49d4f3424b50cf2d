"""The command line: what it prints where, and its exit statuses."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import actorfw
from actorfw.cli.commands import execute

pytestmark = pytest.mark.real

SECRET = "a secret of this test's own"


def actorfw_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "actorfw", *arguments],
        stdin=subprocess.DEVNULL,
        env=_environment(environment),
        capture_output=True,
        text=True,
        timeout=50,
    )


def _environment(more: dict[str, str]) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ACTORFW_")}
    return {**kept, "ACTORFW_SECRET": SECRET, **more}


class Started:
    """`actorfw start …` in a process."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "actorfw", "start", "--num-cpus", "1", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment({}),
            text=True,
        )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], 30)
        self.address = self.process.stdout.readline().strip() if readable else ""
        if not self.address:
            self.process.kill()
            pytest.fail(f"it did not start: {self.process.communicate()[1]}")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        try:
            out, err = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def started() -> Iterator[Started]:
    node = Started("--name", "first", "--label", "disk=ssd", "--label", "zone=b")
    yield node
    assert node.end()[0] == 0


def test_actors_are_listed_and_killed_by_name(started: Started) -> None:
    assert json.loads(actorfw_command("actors", "--seed", started.address, "--json").stdout) == []
    with actorfw.init(seeds=[started.address], secret=SECRET, num_cpus=0, hosts="own"):

        @actorfw.remote
        class Clock:
            async def tick(self) -> str:
                return "tock"

        clock = Clock.options(name="clock", detached=True, num_cpus=1).remote()
        assert actorfw.get(clock.tick()) == "tock"
    (row,) = json.loads(actorfw_command("actors", "--seed", started.address, "--json").stdout)
    assert (row["name"], row["namespace"], row["node"], row["state"]) == ("clock", "default", "first", "up")
    assert (row["restarts"], row["detached"]) == (0, True)
    assert actorfw_command("kill", "clock", "--namespace", "other", "--seed", started.address).returncode == 1
    assert actorfw_command("kill", "clock", "--seed", started.address).returncode == 0
    assert json.loads(actorfw_command("actors", "--seed", started.address, "--json").stdout) == []


def test_objects_are_listed_the_largest_first(started: Started) -> None:
    done = actorfw_command("objects", "--seed", started.address, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == []
    with actorfw.init(seeds=[started.address], secret=SECRET, num_cpus=0, hosts="own", name="holder"):
        refs = [actorfw.put(bytes(size)) for size in (100, 300_000, 1000)]
        done = actorfw_command("objects", "--seed", started.address, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        rows = json.loads(done.stdout)
        assert [row["id"] for row in rows] == [refs[1].id, refs[2].id, refs[0].id]
        assert {(row["owner"], row["state"], *row["holders"]) for row in rows} == {("holder", "here", "holder")}
        assert rows[0]["size"] >= 300_000
        assert "test_cli.py" in rows[0]["line"]
        done = actorfw_command("objects", "--seed", started.address, "--limit", "1")
        assert done.returncode == 0
        assert done.stderr == "1 of 3 objects; --limit shows more\n"
        assert re.search(rf"{refs[1].id} +293\.0 KiB +here +holder", done.stdout)
        assert refs[0].id not in done.stdout
    done = actorfw_command("objects", "--seed", started.address, "--limit", "0")
    assert done.returncode == 2
    assert "limit" in done.stderr


def test_nodes_lists_the_members_and_not_the_visitor(started: Started) -> None:
    done = actorfw_command("nodes", "--seed", started.address, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = json.loads(done.stdout)
    assert set(row) == {"id", "name", "address", "state", "resources", "labels", "hosts", "pid", "here"}
    assert (row["name"], row["address"], row["state"]) == ("first", started.address, "up")
    assert row["labels"] == {"disk": "ssd", "zone": "b"}
    assert row["resources"]["CPU"] == 1
    assert row["pid"] == started.process.pid


def test_tables_are_for_people(started: Started) -> None:
    done = actorfw_command("nodes", ACTORFW_SEEDS=started.address, COLUMNS="40")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"first +[0-9a-f]{{16}} +{re.escape(started.address)} +up .*disk=ssd, zone=b", done.stdout)
    done = actorfw_command("status", "--seed", started.address)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"first +{re.escape(started.address)} +up +1 CPU", done.stdout)


@pytest.mark.parametrize("as_json", [True, False])
def test_events_come_one_a_line(started: Started, *, as_json: bool) -> None:
    command = [sys.executable, "-m", "actorfw", "events", "--seed", started.address]
    reader = subprocess.Popen(
        [*command, "--json"] if as_json else command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment({}),
        text=True,
    )
    try:
        assert reader.stderr is not None
        assert reader.stdout is not None
        assert "listens" in reader.stderr.readline()
        second = Started("--seed", started.address, "--name", "second")
        assert second.end()[0] == 0
        seen: list[str] = []
        while "NodeLeft" not in seen:
            line = reader.stdout.readline()
            assert line
            if second.address not in line:
                continue  # of who listened before
            if as_json:
                event = json.loads(line)
                seen.append(event["kind"])
                assert (event["name"], event["address"]) == ("second", second.address)
                assert event["time"] > 0
            else:
                found = re.match(r"\d\d:\d\d:\d\d (\w+) .*name=second ", line)
                assert found, line
                seen.append(found[1])
        assert seen.index("NodeJoined") < seen.index("NodeUp") < seen.index("NodeLeft")
        reader.send_signal(signal.SIGINT)
        out, err = reader.communicate(timeout=20)
        assert (reader.returncode, out) == (130, "")
        assert err == "actorfw: interrupted\n"
    finally:
        reader.kill()
        reader.communicate()


def test_status_as_json(started: Started) -> None:
    done = actorfw_command("status", "--seed", started.address, "--json")
    (row,) = json.loads(done.stdout)
    assert (row["name"], row["available"]["CPU"], row["actors"], row["tasks_running"]) == ("first", 1, 0, 0)


def test_a_second_node_joins_and_leaves(started: Started) -> None:
    second = Started("--seed", started.address, "--name", "second", "--hosts", "own", "--namespace", "n")
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


def test_exit_statuses_without_a_cluster(started: Started, free_port: int, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("join_timeout = 0.3\n")

    def status(*arguments: str, **environment: str) -> tuple[int, str]:
        done = actorfw_command(*arguments, **{"ACTORFW_CONFIG": str(config), **environment})
        assert done.stdout == "", done.stdout
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stderr

    dead = f"127.0.0.1:{free_port}"
    code, said = status("nodes", "--seed", dead)
    assert (code, dead in said) == (3, True)
    assert status("start", "--seed", dead)[0] == 3
    code, said = status("status", "--seed", started.address, "--cluster", "another")
    assert (code, "this is cluster 'default', not 'another'" in said) == (3, True)
    code, said = status("nodes", "--seed", started.address, ACTORFW_SECRET="another secret and long enough")
    assert (code, "the secrets differ" in said) == (4, True)
    assert status("start", "--seed", started.address, ACTORFW_SECRET="another secret and long enough")[0] == 4
    code, said = status("nodes", "--seed", dead, ACTORFW_CONFIG=str(tmp_path / "none"))
    assert (code, "can't be read" in said) == (2, True)
    code, said = status("nodes")
    assert (code, "--seed" in said) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nodes", "--seed", "nonsense"], "nonsense"),
        (["nodes", "--sed", "127.0.0.1:1"], "--sed"),
        (["nodse"], "demo, start, nodes, actors"),
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
    for command in ("demo", "start", "nodes", "status"):
        assert f" {command} " in done.stdout


def test_the_console_script_is_the_same() -> None:
    script = Path(sys.executable).with_name("actorfw")
    if not script.exists():
        pytest.skip("actorfw is not installed here, only importable")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, f"{actorfw.__version__}\n")


def test_a_reader_that_goes_away_is_no_error(started: Started) -> None:
    command = f'"{sys.executable}" -m actorfw nodes --json --seed {started.address} | true; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], env=_environment({}), capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("0\n", "")
