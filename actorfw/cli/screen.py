"""The terminal as a screen: another screen than the shell's while it lasts, keys as they are pressed.

However it ends, the terminal is as it was: at its end, on an error, on a signal, and while the process is stopped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

__all__ = ["Screen"]

_KEYS: Final = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[5~": "pageup",
    b"\x1b[6~": "pagedown",
    b"\x1b[H": "home",
    b"\x1b[1~": "home",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
}
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Screen:
    """A context manager, on a running loop.

    Args:
        pressed: called with the name of each key: a character, or "up", "pagedown" and so on.
        ended: called with the number of a signal that is to end the view.
        resized: called when the terminal has another size, or is ours again.
    """

    def __init__(
        self, pressed: Callable[[str], object], ended: Callable[[int], object], resized: Callable[[], object]
    ) -> None:
        self._pressed = pressed
        self._ended = ended
        self._resized = resized
        self._console = Console(highlight=False)
        self._live: Live | None = None
        self._fd = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else -1
        self._was: list[Any] | None = None

    def __enter__(self) -> Screen:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._ended, number)
        loop.add_signal_handler(signal.SIGWINCH, self._resized)
        loop.add_signal_handler(signal.SIGTSTP, self._stop)
        self._take()
        if self._fd >= 0:
            loop.add_reader(self._fd, self._readable)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        if self._fd >= 0:
            loop.remove_reader(self._fd)
        self._give_back()
        for number in (*_SIGNALS, signal.SIGWINCH, signal.SIGTSTP):
            loop.remove_signal_handler(number)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, now."""
        found = self._console.size
        return found.width, found.height

    def show(self, lines: Sequence[tuple[str, str]]) -> None:
        """Show these lines, each a text and its style."""
        if self._live is not None:
            texts = [Text(text, style=style, no_wrap=True, overflow="crop") for text, style in lines]
            self._live.update(Group(*texts), refresh=True)

    def _take(self) -> None:
        if self._fd >= 0:
            self._was = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
        live = self._live = Live(console=self._console, screen=True, auto_refresh=False)
        live.start()

    def _give_back(self) -> None:
        live, self._live = self._live, None
        try:
            if live is not None:
                live.stop()
        finally:
            if self._was is not None:
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._was)
                self._was = None

    def _stop(self) -> None:
        """Ctrl-Z: the shell has the terminal until we are continued."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()
        self._resized()

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, 1024)
        except OSError:
            data = b""
        if not data:  # the terminal is gone
            asyncio.get_running_loop().remove_reader(self._fd)
            self._ended(signal.SIGHUP)
        while data:
            known = next((code for code in _KEYS if data.startswith(code)), None)
            if known is not None:
                self._pressed(_KEYS[known])
                data = data[len(known) :]
            elif data[0] == 0x1B:
                return  # a key that means nothing here
            else:
                self._pressed(chr(data[0]))
                data = data[1:]
