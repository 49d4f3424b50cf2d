"""The sentence that says how a worker process ended."""

from __future__ import annotations

import signal

import pytest

from actorfw.runtime.deaths import sentence
from actorfw.runtime.worker.line import CHANNEL_LOST

FAULT = b"...\nFatal Python error: Segmentation fault\n\n  File x.py in f\n"


@pytest.mark.parametrize(
    ("status", "running", "because", "words", "said"),
    [
        (7 << 8, "f", "", b"", "exited with status 7 while it ran f, by os._exit()"),
        (0, "", "", b"", "exited with status 0, by"),
        (0, "", "it was asked to", b"", "worker process 5 ended: it was asked to"),
        (CHANNEL_LOST << 8, "f", "", b"", "ended while it ran f: its code closed the connection"),
        (signal.SIGKILL, "f", "", b"", "killed by signal SIGKILL (Killed) while it ran f; often"),
        (signal.SIGKILL, "f", "cancelled", b"", "worker process 5 was killed while it ran f: cancelled"),
        (signal.SIGTERM, "", "cancelled", b"", "killed by signal SIGTERM (Terminated)"),
        (signal.SIGSEGV, "f", "", FAULT, "(Segmentation fault) while it ran f\nFatal Python error: Segmentation"),
        (signal.SIGSEGV | 128, "f", "", b"", "SIGSEGV"),  # with a core file
        (getattr(signal, "SIGRTMIN", 34) + 3, "f", "", b"", "killed by signal number"),
    ],
)
def test_sentence(status: int, running: str, because: str, words: bytes, said: str) -> None:
    assert said in sentence(5, int(status), running, because, words)
