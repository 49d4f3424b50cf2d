"""What user code prints: `sys.stdout` and `sys.stderr` of a worker, sent to the node line by line with the name of
what is running.

What goes past them (C libraries, child processes, faulthandler) is written to the descriptors 1 and 2, a pipe that
the node reads.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable
from typing import Final

from actorfw.runtime.worker.interrupts import Interrupts
from actorfw.runtime.worker.line import Line
from actorfw.wire.messages import OUTPUT

__all__ = ["Output"]

_LONG_LINE: Final = 64 * 1024


class Output(io.TextIOBase):
    """A text stream whose lines become OUTPUT messages.

    Args:
        name: "stdout" or "stderr".
        label: what to call whoever is writing now.

    Attributes:
        unfinished: the pieces of a line whose end has not come.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, name: str, line: Line, interrupts: Interrupts, label: Callable[[], str]) -> None:
        super().__init__()
        self.name = name
        self.mode = "w"
        self._line = line
        self._interrupts = interrupts
        self._label = label
        self._lock = threading.RLock()
        self.unfinished: list[str] = []
        self._size = 0
        self._descriptor = 1 if name == "stdout" else 2
        self._bytes: _Bytes | None = None

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        # One flush per line: who prints before a crash wants to see it.
        if text:
            with self._interrupts.shield, self._lock:
                self.unfinished.append(text)
                self._size += len(text)
                if "\n" in text or self._size > _LONG_LINE:
                    whole, newline, rest = "".join(self.unfinished).rpartition("\n")
                    if not newline:
                        whole, rest = rest, ""
                    self.unfinished = [rest] if rest else []
                    self._size = len(rest)
                    self._send(whole + newline)
        return len(text)

    def _send(self, text: str) -> None:
        # A lone surrogate can be printed, and not be packed.
        text = text.encode("utf-8", "backslashreplace").decode()
        self._line.outbox.append((OUTPUT, self._label(), self.name, text))
        self._line.flush()

    def flush(self) -> None:
        with self._interrupts.shield, self._lock:
            if self.unfinished:
                text = "".join(self.unfinished)
                self.unfinished = []
                self._size = 0
                self._send(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return False

    @property
    def line_buffering(self) -> bool:
        return True

    def reconfigure(self, **options: object) -> None:
        """Accepted and ignored: it is line-buffered UTF-8."""

    @property
    def buffer(self) -> io.BufferedIOBase:
        """A binary stream in front of this one."""
        if self._bytes is None:
            self._bytes = _Bytes(self)
        return self._bytes

    def close(self) -> None:
        """Only flushes: the next task wants to print too."""
        self.flush()

    def __del__(self) -> None:
        pass  # IOBase's would call close() at exit, when nobody reads any more

    def install(self) -> None:
        """Become `sys.stdout` or `sys.stderr`."""
        setattr(sys, self.name, self)


class _Bytes(io.BufferedIOBase):
    def __init__(self, text: Output) -> None:
        self._text = text

    def write(self, data: object, /) -> int:
        raw = bytes(memoryview(data))  # type: ignore[arg-type]
        self._text.write(raw.decode("utf-8", "backslashreplace"))
        return len(raw)

    def flush(self) -> None:
        self._text.flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._text.fileno()

    def close(self) -> None:
        self.flush()

    def __del__(self) -> None:
        pass
