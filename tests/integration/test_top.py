"""`actorfw top` in a terminal: what it shows, its keys, and that the terminal is as it was, however it ends."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.shell import Started, environment, new_folder

pyte = pytest.importorskip("pyte", reason="pyte, of the test group, is the terminal here")

pytestmark = pytest.mark.real

SECONDS = 20.0


class Terminal:
    """A terminal of 80 columns and 24 lines, with one program in it."""

    def __init__(self, words: list[str], env: dict[str, str]) -> None:
        self.screen = pyte.Screen(80, 24)
        self.alternate = False
        self._stream = pyte.ByteStream(self.screen)
        self.fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        env = {**env, "TERM": env["TERM"] if env.get("TERM") == "dumb" else "xterm-256color"}
        del env["COLUMNS"]  # and xdist sets both
        env.pop("LINES", None)
        self.process = subprocess.Popen(
            words,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=env,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that its Ctrl-C is a signal
        )

    def shows(self, what: Callable[[list[str]], object]) -> list[str]:
        """Read until the screen is like this."""
        until = time.monotonic() + SECONDS
        while not what(self.lines):
            assert time.monotonic() < until, "\n".join(self.lines)
            self._read(0.1)
        return self.lines

    def _read(self, seconds: float) -> bool:
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        data = os.read(self.fd, 65536)
        for mode, on in ((b"\x1b[?1049h", True), (b"\x1b[?1049l", False)):
            if mode in data:
                self.alternate = on
        self._stream.feed(data)
        return True

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    def press(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)
        self.process.send_signal(signal.SIGWINCH)

    def ended(self) -> int:
        """Its exit status; checks that the terminal is as it was."""
        until = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < until, "\n".join(self.lines)
            self._read(0.05)
        while self._read(0.0):
            pass
        assert termios.tcgetattr(self._theirs) == self.before
        assert not self.alternate
        assert not self.screen.cursor.hidden
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.fd)
        os.close(self._theirs)


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    made = new_folder()
    nodes = [Started(made, "--name", name) for name in ("left", "right")]
    for node in nodes:
        node.up()
    yield made
    for node in nodes:
        assert node.end()[0] == 0
    shutil.rmtree(made)


@pytest.fixture
def open_top() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_one(folder: str, *arguments: str) -> Terminal:
        words = [sys.executable, "-m", "actorfw", "top", "--interval", "0.3", *arguments]
        opened.append(Terminal(words, environment(folder)))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()


def test_a_terminal_that_can_not_be_drawn_on_gets_one_look(folder: str) -> None:
    words = [sys.executable, "-m", "actorfw", "top"]
    terminal = Terminal(words, environment(folder, TERM="dumb"))
    try:
        assert terminal.ended() == 0
        assert any(line.startswith("right ") for line in terminal.lines), terminal.lines
    finally:
        terminal.close()


def is_up(lines: list[str]) -> bool:
    return lines[0].startswith("actorfw top") and any(line.startswith("right") for line in lines)


def test_it_shows_the_cluster_and_takes_keys(folder: str, open_top: Callable[..., Terminal]) -> None:
    terminal = open_top(folder)
    lines = terminal.shows(is_up)
    assert terminal.alternate
    assert lines[0].endswith(("by way of left", "by way of right"))
    assert "cluster default, 2 nodes" in lines[0]
    assert "CPUs: 0 of 2 taken" in lines[1]
    assert lines[3].split() == ["NODE", "STATE", "CPU", "RUN", "WAIT", "DONE/S", "ACTORS", "MEMORY"]
    assert lines[4].split()[:5] == ["left", "up", "0/1", "0", "0"]
    assert lines[7].split() == ["TASK", "STATE", "FOR", "NODE", "TRY", "ID"]
    assert lines[-1] == " q quit  a actors  s sort: name  arrows, pages scroll  tasks none"
    clock = lines[0].split()[2]
    terminal.shows(lambda lines: lines[0].split()[2] != clock)  # it goes on
    terminal.press(b"as")
    lines = terminal.shows(lambda lines: "sort: running" in lines[-1])
    assert lines[7].split() == ["ACTOR", "WAITING", "CALLS", "NODE", "LIFE", "ID"]
    terminal.resize(60, 12)
    terminal.shows(lambda lines: lines[11].startswith(" q quit") and is_up(lines))
    terminal.press(b"\x1b[B\x1b[5~?")  # nothing to scroll, and a key that means nothing
    terminal.press(b"q")
    assert terminal.ended() == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + 15), (signal.SIGHUP, 128 + 1)]
)
def test_a_signal_ends_it(folder: str, open_top: Callable[..., Terminal], number: int, status: int) -> None:
    terminal = open_top(folder)
    terminal.shows(is_up)
    if number == signal.SIGINT:
        terminal.press(b"\x03")  # as the terminal makes it
    else:
        terminal.process.send_signal(number)
    assert terminal.ended() == status


def test_the_members_go_away_under_it(open_top: Callable[..., Terminal]) -> None:
    folder = new_folder()
    nodes = {name: Started(folder, "--name", name).up() for name in ("left", "right")}
    try:
        terminal = open_top(folder)
        asked = terminal.shows(is_up)[0].rpartition(" ")[2]
        other = next(name for name in nodes if name != asked)
        nodes[asked].process.kill()
        terminal.shows(lambda lines: lines[0].endswith(f"1 nodes, asked by way of {other}"))
        nodes[other].process.kill()
        assert terminal.ended() == 3
        assert any("no node of cluster 'default' could be reached" in line for line in terminal.lines)
    finally:
        for node in nodes.values():
            node.process.kill()
            node.process.communicate()
        shutil.rmtree(folder)


def test_an_error_of_the_start_leaves_the_terminal_alone(open_top: Callable[..., Terminal], free_port: int) -> None:
    folder = new_folder()
    terminal = open_top(folder, "--seed", f"127.0.0.1:{free_port}")
    assert terminal.ended() == 3
    assert any("nobody listens there" in line for line in terminal.lines)
    os.rmdir(folder)


def test_in_tmux(folder: str) -> None:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed here; the tests above have a terminal of their own")
    server = ["tmux", "-L", f"actorfw-{os.getpid()}", "-f", "/dev/null"]

    def tmux(*words: str) -> str:
        done = subprocess.run([*server, *words], capture_output=True, text=True, timeout=SECONDS, check=True)
        return done.stdout

    def shows(what: Callable[[str], Any]) -> str:
        until = time.monotonic() + SECONDS
        while not what(text := tmux("capture-pane", "-p")):
            assert time.monotonic() < until, text
            time.sleep(0.05)
        return text

    env = environment(folder)
    shell = subprocess.run(
        [*server, "new-session", "-d", "-x", "80", "-y", "24", "bash --norc --noprofile"], env=env, timeout=SECONDS
    )
    assert shell.returncode == 0
    try:
        tmux("send-keys", f"{sys.executable} -m actorfw top; echo status $?", "Enter")
        text = shows(lambda text: "CPUs: 0 of 2 taken" in text)
        assert "bash-" not in text
        tmux("send-keys", "C-z")
        text = shows(lambda text: "Stopped" in text)
        assert "CPUs:" not in text
        tmux("send-keys", "fg", "Enter")
        shows(lambda text: "CPUs: 0 of 2 taken" in text)
        tmux("send-keys", "q")
        shows(lambda text: "CPUs:" not in text and text.rstrip().rpartition("\n")[2].startswith("bash-"))
        tmux("send-keys", "stty -a | grep -ow -- -icanon; echo looked", "Enter")
        assert "\n-icanon" not in shows(lambda text: "\nlooked" in text)
    finally:
        tmux("kill-server")
