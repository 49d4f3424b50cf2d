"""`Line`: a worker's end of the socketpair with its node.

Responsible for: reading (by one thread at a time, the main thread as long as it is alone), sorting what came into
what waits for its turn (`inbox`) and what is dealt with at once, and sending in batches. What messages mean is left
to those who register handlers.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic, perf_counter
from typing import Any, Final

from actorfw.values.errors import ProtocolError
from actorfw.wire.chunks import BATCH, SLICE, Decoder, Encoder, Lodging
from actorfw.wire.messages import KINDS, TASK

__all__ = ["CHANNEL_LOST", "Line"]

CHANNEL_LOST: Final = 117  # exit status of a worker whose descriptors user code has closed

_REPLY_DELAY: Final = 0.0002  # how long a finished reply may wait for others to go with it

_HANDOVER: Final = 0.05


class Line:
    """The connection to the node, for all threads of a worker process.

    Attributes:
        inbox: messages that wait for the main thread, in order of arrival.
        outbox: messages to be sent with the next `flush`; anybody appends.
        lock: held while a message is dealt with; callbacks of refs are touched under it.
        news: notified when messages came, for those who do not read themselves.
        dealt: how often messages were read and dealt with.
        flushed: when something was last sent, by `perf_counter`.
        before_flush: called before each sending, to add what has collected elsewhere.
    """

    def __init__(self, channel: socket.socket, lodging: Lodging | None = None) -> None:
        self._channel = channel
        self._decoder = Decoder(lodging)
        self._encoder = Encoder(lodging)
        self.inbox: deque[list[Any]] = deque()
        self.outbox: list[Sequence[Any]] = []
        self.lock = threading.RLock()
        self.news = threading.Condition(self.lock)
        self.dealt = 0
        self.flushed = 0.0
        self.before_flush: Callable[[], None] = _nothing
        self._sleepers = 0
        self._reading = threading.Lock()
        self._sending = threading.Lock()
        self._reader: threading.Thread | None = None
        self._handlers: list[Callable[[list[Any]], None]] = [self._unknown] * KINDS

    def on(self, kind: int, handler: Callable[[list[Any]], None]) -> None:
        """Deal with messages of this kind at once, in whichever thread reads, under the lock."""
        self._handlers[kind] = handler

    # -- out -----------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send all that is in the outbox. The main thread must not be interrupted meanwhile (`Interrupts.shield`)."""
        with self._sending:
            self.before_flush()
            outbox = self.outbox
            if not outbox:
                return
            # Slices, since others append at any moment.
            batch = outbox[:BATCH]
            while batch:
                del outbox[: len(batch)]
                head, attachments = self._encoder.encode(batch)
                try:
                    self._channel.sendall(head)
                    for view in attachments:
                        for at in range(0, len(view), SLICE):
                            self._channel.sendall(view[at : at + SLICE])
                except (BrokenPipeError, ConnectionResetError):
                    os._exit(0)  # the node is gone
                except OSError:
                    os._exit(CHANNEL_LOST)
                batch = outbox[:BATCH]
            self.flushed = perf_counter()

    def flush_if_due(self) -> None:
        """Send unless something was sent a moment ago: the next call, or the overseer, takes care then."""
        if perf_counter() - self.flushed > _REPLY_DELAY:
            self.flush()

    # -- in ------------------------------------------------------------------------------------------------------------

    def read(self, dealt: int, timeout: float | None = None) -> None:
        """Wait for bytes, so long, and deal with them. Ends the process when the node has closed its end.

        `dealt` is what the attribute was before the caller found that it has to wait. If it has changed, somebody else
        has read meanwhile, perhaps what the caller waits for: then there is nothing to wait for here.
        """
        # The main thread must not queue up behind the reader, who takes the lock again before anybody else can.
        while not self._reading.acquire(timeout=_HANDOVER):
            if self._reader is not None:
                return
        try:
            if self._reader is None and self.dealt == dealt and (timeout is None or self._comes(timeout)):
                self._receive(0)
        finally:
            self._reading.release()

    def _comes(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def read_now(self) -> None:
        """Deal with what has come, if anything, without waiting; not when somebody else is reading."""
        if self._reader is None and self._reading.acquire(blocking=False):
            try:
                self._receive(socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
            finally:
                self._reading.release()

    def _receive(self, flags: int) -> None:
        decoder = self._decoder
        try:
            n = self._channel.recv_into(decoder.space(), 0, flags)
        except BlockingIOError:
            raise
        except ConnectionResetError:
            n = 0
        except OSError:
            os._exit(CHANNEL_LOST)
        if n == 0:
            os._exit(0)  # the node is gone
        try:
            messages = decoder.received(n)
        except ProtocolError as error:
            os.write(2, f"{error}\n".encode())
            os._exit(1)
        if not messages:
            return
        inbox = self.inbox
        with self.lock:
            for message in messages:
                kind = message[0]
                if kind == TASK and message[5] is None:
                    args = message[3]
                    if type(args) is not list or not args or type(args[0]) is not bytes:
                        inbox.append(message)  # no deadline and no refs: nothing needs care before its turn
                        continue
                try:
                    self._handlers[kind](message)
                except Exception as error:
                    # A callback of user code, run by what this message settled. Others must not miss theirs for it.
                    sys.excepthook(type(error), error, error.__traceback__)
            self.tell_sleepers()
        self.dealt += 1

    def tell_sleepers(self) -> None:
        """Something may have become true that others wait for. Under the lock."""
        if self._sleepers:
            self.news.notify_all()

    def _unknown(self, message: list[Any]) -> None:
        os.write(2, f"worker {os.getpid()}: a message of unknown kind {message[0]} is ignored\n".encode())

    # -- waiting -------------------------------------------------------------------------------------------------------

    @property
    def locked(self) -> bool:
        """Whether this thread has the lock: it must not wait for a message then."""
        return self.lock._is_owned()  # type: ignore[attr-defined, no-any-return]

    @property
    def shared(self) -> bool:
        """Whether a thread of its own reads."""
        return self._reader is not None

    def share(self) -> None:
        """From now on, a thread of its own reads: somebody besides the main thread waits for messages."""
        with self.lock:
            if self._reader is None:
                self._reader = threading.Thread(target=self._read_for_ever, name="actorfw-reader", daemon=True)
                self._reader.start()

    def _read_for_ever(self) -> None:
        while True:
            with self._reading:
                self._receive(0)

    def wait(self, done: Callable[[], bool], timeout: float | None, *, reads: bool) -> bool:
        """Wait until `done()`; False when the time is out. `reads`: this is the main thread, which reads if nobody
        else does."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            dealt = self.dealt
            if done():
                return True
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return False
            if reads and self._reader is None:
                self.read(dealt, left)
                continue
            with self.news:
                if done():
                    return True
                self._sleepers += 1
                try:
                    self.news.wait(left)
                finally:
                    self._sleepers -= 1

    def abandon(self) -> None:
        """In a process that user code forked: this is not its connection."""
        self._channel.close()
        self.inbox.clear()


def _nothing() -> None:
    pass
