"""The node's side of its worker processes: the zygote that they come from, and one socketpair with each.

`Zygote` starts the process that forks workers and passes its reports on. `WorkerProcess` is one of them: messages go
out in one write per loop turn and come in through a table of handlers. Which worker gets what, and what it costs when
one dies, is `runtime.pool`'s affair.

The loop is used through `add_reader` and `add_writer`, since a transport neither receives large values into the memory
where they stay, nor reads to the last byte what a worker that died has written before its end is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack

from actorfw.io.secrets import child_environment
from actorfw.io.sharedmem import SharedMemory
from actorfw.runtime import boot
from actorfw.runtime.deaths import sentence
from actorfw.runtime.marks import Marks
from actorfw.runtime.rawoutput import RawOutput
from actorfw.runtime.worker import zygote as other
from actorfw.values.errors import ProtocolError
from actorfw.wire.chunks import BATCH, SLICE, Decoder, Encoder, Lodging
from actorfw.wire.messages import CANCEL

__all__ = ["Handler", "WorkerProcess", "Zygote"]

_TURN_BYTES: Final = 1 << 20  # how much of a large value goes in or out of one worker per turn of the loop
_BUFFER: Final = 1 << 22  # of each direction; larger ones mean fewer changes between the processes
_FORKS_AT_ONCE: Final = 64  # requests that the zygote has not answered: the kernel limits descriptors on their way
_EXIT_PATIENCE: Final = 0.5  # between the end of a socket and that of its process
_CLOSE_PATIENCE: Final = 5.0
_POLL: Final = 0.005

Handler = Callable[["WorkerProcess", list[Any]], None]

_log = logging.getLogger("actorfw.worker")


class WorkerProcess:
    """One worker process, from the moment it was asked for.

    Attributes:
        index: its number at this node, never used again.
        pid: its process id, None until the zygote has forked it.
        label: what it is running, for the report of its death; kept by whoever gives it work.
        ended: called once, with the worker and a sentence, after its last message; set it before the loop turns.
        output: called with whole lines (text) that it or its children wrote past `sys.stdout`.
        orphan: it is going down with its parent, which alone could have said when it is gone.
    """

    def __init__(
        self,
        zygote: Zygote,
        index: int,
        channel: socket.socket,
        output_fd: int,
        handlers: Sequence[Handler],
        ended: Callable[[WorkerProcess, str], None],
        output: Callable[[WorkerProcess, str], None],
        lodging: Lodging | None,
    ) -> None:
        self.index = index
        self.pid: int | None = None
        self.label = ""
        self.ended = ended
        self.output = output
        self.alive = True
        self.orphan = False
        self._zygote = zygote
        self.slot = zygote.marks.take()
        self._loop = zygote.loop
        self._handlers = handlers
        self._channel = channel
        self._decoder = Decoder(lodging)
        self._encoder = Encoder(lodging)
        self._out: list[Any] = []
        self._scheduled = False
        # What the socket had no room for, in order; a callable is called when all before it is written.
        self._backlog: deque[memoryview | Callable[[], None]] = deque()
        self._backlog_bytes = 0
        self._killed_because = ""
        self._dying: asyncio.TimerHandle | None = None
        self._raw = RawOutput(self._loop, output_fd, lambda text: self.output(self, text))
        self._loop.add_reader(channel.fileno(), self._readable)

    # -- out -----------------------------------------------------------------------------------------------------------

    def send(self, message: Sequence[Any]) -> None:
        """Send a message, together with all others of this turn of the loop. Buffers in it are not copied: leave them
        alone."""
        self._out.append(message)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what `send` has collected, now."""
        self._scheduled = False
        if not self._out or not self.alive:
            return
        out, self._out = self._out, []
        for at in range(0, len(out), BATCH):
            head, attachments = self._encoder.encode(out[at : at + BATCH] if len(out) > BATCH else out)
            if self._backlog:
                self._queue(memoryview(head))
            else:
                self._write(head)
            for view in attachments:
                self._queue(view)

    def _write(self, head: bytes) -> None:
        try:
            sent = self._channel.send(head)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return  # it is dying: the zygote reports it
        if sent < len(head):
            self._queue(memoryview(head)[sent:])

    def _queue(self, item: memoryview) -> None:
        if not self._backlog:
            self._loop.add_writer(self._channel.fileno(), self._writable)
        self._backlog.append(item)
        self._backlog_bytes += len(item)

    def _writable(self) -> None:
        backlog = self._backlog
        allowed = _TURN_BYTES
        while backlog:
            item = backlog[0]
            if callable(item):
                backlog.popleft()
                item()
                continue
            if allowed <= 0:
                return
            try:
                sent = self._channel.send(item[:SLICE])
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._drop_backlog()  # it is dying: the zygote reports it
                return
            allowed -= sent
            self._backlog_bytes -= sent
            if sent == len(item):
                backlog.popleft()
            else:
                backlog[0] = item[sent:]
        self._loop.remove_writer(self._channel.fileno())

    def _drop_backlog(self) -> None:
        if self._backlog:
            self._backlog.clear()
            self._backlog_bytes = 0
            self._loop.remove_writer(self._channel.fileno())

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait for the worker to read."""
        return self._backlog_bytes

    def interrupt(self, no: int, *, recursive: bool = False) -> None:
        """Cancel call `no` in the worker, while it runs too: its code gets an exception. Others of its calls are not
        touched."""
        self.send((CANCEL, no, False, recursive))
        self.flush()
        # The signal says "look into your socket": it must not come before what is to be found there.
        if self._backlog:
            self._backlog.append(self._poke)
        else:
            self._poke()

    def _poke(self) -> None:
        self._zygote.signal(self.index, signal.SIGINT)

    def kill(self, why: str = "") -> None:
        """SIGKILL it; `ended` follows, and its sentence says why."""
        if self.alive:
            self._killed_because = self._killed_because or why or "its node ended it"
            self._zygote.signal(self.index, signal.SIGKILL)

    # -- in ------------------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Take what is there, up to a turn's worth."""
        allowed = _TURN_BYTES
        while allowed > 0:
            space = self._decoder.space()
            try:
                received = self._channel.recv_into(space)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                received = 0
            if received == 0:
                self._end_of_channel()
                return
            self._received(received)
            # Less than asked for: nothing more is there now, most likely. The loop says when.
            if received < len(space) or not self.alive:
                return
            allowed -= received

    def _received(self, n: int) -> None:
        try:
            messages = self._decoder.received(n)
        except ProtocolError as error:
            self._loop.remove_reader(self._channel.fileno())
            self.kill(str(error))
            return
        handlers = self._handlers
        for message in messages:
            try:
                handlers[message[0]](self, message)
            except Exception:  # the messages behind it are about others
                _log.exception("a message of kind %r from worker %s could not be handled", message[:1], self.pid)

    def _end_of_channel(self) -> None:
        # It is dying, and the zygote says so in a moment; or user code closed the descriptor, and it is of no more use.
        self._loop.remove_reader(self._channel.fileno())
        self._dying = self._loop.call_later(_EXIT_PATIENCE, self.kill, "its code closed the connection to the node")

    # -- its end -------------------------------------------------------------------------------------------------------

    def _exited(self, status: int) -> None:
        if not self.alive:
            return
        self._read_to_the_end()
        self._finish(sentence(self.pid, status, self.label, self._killed_because, self._raw.tail))

    def _failed(self, reason: str) -> None:
        if self.alive:
            self._finish(reason)

    def _finish(self, said: str) -> None:
        self._close()
        self.ended(self, said)
        self._zygote.marks.give_back(self.slot)

    def begun(self) -> tuple[int, ...] | None:
        """What it has noted in its slot (`runtime.marks`); None: before it starts more, it sends what it has."""
        return self._zygote.marks.read(self.slot)

    def _read_to_the_end(self) -> None:
        # The process is gone, so all that it ever wrote is in the kernel's buffers now. A child of its own may hold
        # the other ends open, so there need be no end of file.
        try:
            while (n := self._channel.recv_into(self._decoder.space())) > 0:
                self._received(n)
        except OSError:
            pass
        self._raw.read_to_the_end()

    def _close(self) -> None:
        if not self.alive:
            return
        self.alive = False
        if self._dying is not None:
            self._dying.cancel()
        self._drop_backlog()
        self._out.clear()
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
        self._raw.close()
        self._zygote.forget(self)

    def __repr__(self) -> str:
        state = "alive" if self.alive else "ended"
        return f"<WorkerProcess {self.index} pid={self.pid} {state}{' ' + self.label if self.label else ''}>"


class Zygote:
    """The process that this node's workers are forked from.

    Args:
        settings: what every worker is told at birth: `life` (bytes), `node_id` (str), `host_id` (str), `address` (str).
        handlers: by the kind of message, called with the worker and the message.
        ended: called with a worker and a sentence when it has ended, by itself or by a kill; not for those that
            `close` ends.
        output: called with a worker (None: the zygote itself) and the lines that were written past `sys.stdout`.
        lost: called with a sentence when the zygote itself ended unasked; `ended` has been called for its workers.
        arena: the shared memory that workers map, and its token; None: there is none.
        lodging: makes the node's end of what a worker is lent there, by its index.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        handlers: Sequence[Handler],
        *,
        ended: Callable[[WorkerProcess, str], None],
        output: Callable[[WorkerProcess | None, str], None],
        lost: Callable[[str], None],
        arena: tuple[SharedMemory, bytes] | None = None,
        lodging: Callable[[int], Lodging] | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.workers: dict[int, WorkerProcess] = {}
        self.marks = Marks()
        self._settings = {**settings, "marks": self.marks.fd, "memory": -1}
        self._passed: list[int] = []
        self._lodging = lodging if arena is not None else None
        if arena is not None:
            memory, token = arena
            self._settings |= {"memory": memory.fd, "arena": token}
            self._passed.append(memory.fd)
        self._handlers = handlers
        self._ended = ended
        self._output = output
        self._lost = lost
        self._ready: asyncio.Future[None] = self.loop.create_future()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._reports = b""
        # Requests with the descriptors that they carry, which are ours to close.
        self._requests: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._unanswered = 0
        self._raw: RawOutput | None = None

    # -- start ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start it and wait until it can fork; `fork` may be called before that, and its workers come then.

        Raises:
            RuntimeError: the process did not start; the message holds what it wrote.
        """
        self.launch()
        await self.ready()

    async def ready(self) -> None:
        """Wait until it can fork; raises as `start` does."""
        await asyncio.shield(self._ready)

    def launch(self) -> None:
        """Start it, without waiting for anything."""
        ours, theirs = socket.socketpair()
        read_fd, write_fd = os.pipe()
        try:
            self._process = subprocess.Popen(
                [
                    os.environ.get("ACTORFW_PYTHON") or sys.executable,
                    "-P",  # nothing of the current folder may stand in for a module of the standard library
                    *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                    "-c",
                    boot.PROGRAM,
                    str(theirs.fileno()),
                    str(os.getpid()),
                    boot.PACKAGE_FILE,
                ],
                stdin=subprocess.DEVNULL,
                stdout=write_fd,
                stderr=write_fd,
                pass_fds=[theirs.fileno(), *self._passed, *([self.marks.fd] if self.marks.fd >= 0 else [])],
                process_group=0,
                env=child_environment(),
            )
        except BaseException:  # nothing that was opened for it is to stay
            ours.close()
            os.close(read_fd)
            raise
        finally:
            theirs.close()
            os.close(write_fd)
            self.marks.hand_over()
        with contextlib.suppress(ConnectionError):  # it has ended already: its status is read below, and what it said
            ours.sendall(other.LENGTH.pack(len(settings := msgpack.packb(self._settings))) + settings)
        ours.setblocking(False)
        self._control = ours
        self._raw = RawOutput(self.loop, read_fd, self._said)
        self.loop.add_reader(ours.fileno(), self._readable)

    # -- workers -------------------------------------------------------------------------------------------------------

    def fork(self, index: int) -> WorkerProcess:
        """A new worker. It takes messages at once; its `pid` comes later.

        Raises:
            RuntimeError: the zygote is not running.
            OSError: this process has no descriptors left.
        """
        if self._control is None:
            raise RuntimeError("no worker can be started: the zygote is not running")
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)  # the kernel grants what it allows
        try:
            read_fd, write_fd = os.pipe()
        except OSError:
            ours.close()
            theirs.close()
            raise
        ours.setblocking(False)
        lodging = None if self._lodging is None else self._lodging(index)
        worker = WorkerProcess(self, index, ours, read_fd, self._handlers, self._ended, self._output, lodging)
        self.workers[index] = worker
        self._request(other.REQUEST.pack(other.FORK, worker.slot, index), (theirs.detach(), write_fd))
        return worker

    def signal(self, index: int, number: int) -> None:
        """Send a signal to a worker, if it lives: through its parent, who knows."""
        self._request(other.REQUEST.pack(other.SIGNAL, number, index), ())

    def forget(self, worker: WorkerProcess) -> None:
        """A worker has ended."""
        self.workers.pop(worker.index, None)

    def _request(self, request: bytes, fds: tuple[int, ...]) -> None:
        self._requests.append((request, fds))
        self._send_requests()

    def _send_requests(self) -> None:
        control = self._control
        if control is None:
            return
        blocked = False
        while self._requests:
            request, fds = self._requests[0]
            if fds and self._unanswered >= _FORKS_AT_ONCE:
                break  # the next answer brings us back
            try:
                if fds:
                    socket.send_fds(control, [request], list(fds))
                else:
                    control.send(request)
            except (BlockingIOError, InterruptedError):
                blocked = True
                break
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS or not self._unanswered:
                    return  # it is gone: the end of file follows
                break
            self._requests.popleft()
            if fds:
                self._unanswered += 1
                for fd in fds:
                    os.close(fd)
        if blocked:
            self.loop.add_writer(control.fileno(), self._send_requests)
        else:
            self.loop.remove_writer(control.fileno())

    # -- reports -------------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(SLICE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._gone()
            return
        data = self._reports + data
        size = other.REPORT.size
        whole = len(data) - len(data) % size
        for verb, index, pid, status in other.REPORT.iter_unpack(data[:whole]):
            self._report(verb, index, pid, status)
        self._reports = data[whole:]

    def _report(self, verb: bytes, index: int, pid: int, status: int) -> None:
        if verb == other.READY:
            if not self._ready.done():
                self._ready.set_result(None)
            return
        worker = self.workers.get(index)
        if verb in (other.FORKED, other.FAILED):
            self._unanswered -= 1
            self._send_requests()
        if worker is None:
            return
        if verb == other.FORKED:
            worker.pid = pid
        elif verb == other.FAILED:
            worker._failed(f"a worker process could not be started: {os.strerror(status)}")
        elif verb == other.EXITED:
            worker._exited(status)

    def _said(self, text: str) -> None:
        if self._ready.done():
            self._output(None, text)

    def _gone(self) -> None:
        """It ended, and nobody had asked it to."""
        process = self._process
        assert process is not None
        raw = self._raw
        assert raw is not None
        raw.read_to_the_end()
        text = raw.tail.decode("utf-8", "backslashreplace").strip()
        try:
            status = process.wait(_EXIT_PATIENCE)  # its socket is closed, so it is on its way out
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        said = f"; it wrote:\n{text}" if text else ""
        how = f"the process that worker processes are forked from ended with status {status}{said}"
        self._close_descriptors()
        for worker in list(self.workers.values()):
            worker._read_to_the_end()
            worker.orphan = True
            worker._finish(f"worker process {worker.pid} went down with its parent: {how}")
        self.marks.close()
        if not self._ready.done():
            self._ready.set_exception(RuntimeError(how))
            self._ready.exception()  # whether or not somebody waits
        self._lost(how)

    # -- end -----------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End it and all of its workers, and wait until the processes are gone."""
        process = self._process
        self._shut()
        if process is None:
            return
        gone: asyncio.Future[None] = self.loop.create_future()

        def reap() -> None:
            try:
                process.wait(_CLOSE_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            try:
                self.loop.call_soon_threadsafe(_done, gone)
            except RuntimeError:
                pass  # that loop is closed: nobody waits

        thread = threading.Thread(target=reap, name="actorfw-reap", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, and starts no more threads
            until = self.loop.time() + _CLOSE_PATIENCE
            while process.poll() is None and self.loop.time() < until:  # noqa: ASYNC110  (only a wait tells of its end)
                await asyncio.sleep(_POLL)
            reap()
            return
        await gone
        thread.join()

    def abort(self) -> None:
        """The same at once, without the loop: SIGKILL."""
        process = self._process
        self._shut()
        if process is not None:
            process.kill()
            process.wait()

    def _shut(self) -> None:
        self._process = None
        for worker in list(self.workers.values()):
            worker._close()
        self._close_descriptors()
        self.marks.close()
        if not self._ready.done():
            self._ready.set_exception(RuntimeError("the node is closing"))
            self._ready.exception()

    def _close_descriptors(self) -> None:
        control, self._control = self._control, None
        if control is None:
            return
        self.loop.remove_reader(control.fileno())
        self.loop.remove_writer(control.fileno())
        control.close()
        if self._raw is not None:
            self._raw.close()
        while self._requests:
            for fd in self._requests.popleft()[1]:
                os.close(fd)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():  # whoever waited may have been cancelled
        future.set_result(None)
