"""A worker's end of the line: who reads, and what two threads that look at the same time must not miss."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from actorfw.runtime.exits import Interrupted
from actorfw.runtime.worker.interrupts import Interrupts
from actorfw.runtime.worker.line import Line
from actorfw.wire.chunks import Encoder
from actorfw.wire.messages import CANCEL, END


class Node:
    """The other end."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self._encoder = Encoder()

    def send(self, *message: Any) -> None:
        head, attachments = self._encoder.encode([message])
        assert not attachments
        self.channel.sendall(head)


@pytest.fixture
def ends() -> Iterator[tuple[Node, Line]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Node(theirs), Line(ours)


def ends_within(seconds: float, fn: Callable[[], object], otherwise: Callable[[], object]) -> bool:
    """Whether a thread that runs this ends; `otherwise` makes it end."""
    thread = threading.Thread(target=fn)
    thread.start()
    thread.join(seconds)
    ended = not thread.is_alive()
    if not ended:
        otherwise()
    thread.join()
    return ended


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_who_is_about_to_wait_notices_that_another_thread_has_read_it(
    ends: tuple[Node, Line], timeout: float | None
) -> None:
    node, line = ends
    got: list[list[Any]] = []
    line.on(END, got.append)
    node.send(END, "first")

    def done() -> bool:
        seen = bool(got)
        if not seen:  # the overseer looks after this has looked, and before it reads
            other = threading.Thread(target=line.read_now)
            other.start()
            other.join()
        return seen

    assert ends_within(5, lambda: line.wait(done, timeout, reads=True), lambda: node.send(END, "second"))
    assert got == [[END, "first"]]


def test_a_signal_that_comes_while_the_one_before_is_looked_into_is_not_lost(ends: tuple[Node, Line]) -> None:
    node, line = ends
    interrupts = Interrupts(line)
    line.on(CANCEL, lambda message: interrupts.cancel(message[1]))
    read_now = line.read_now

    def read_and_then_more_comes() -> None:
        read_now()
        line.read_now = read_now  # type: ignore[method-assign]
        node.send(CANCEL, 7)
        interrupts._signalled(2, None)

    line.read_now = read_and_then_more_comes  # type: ignore[method-assign]
    interrupts.begin(7)
    with pytest.raises(Interrupted):
        interrupts._signalled(2, None)
    assert not interrupts.running
