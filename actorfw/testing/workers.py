"""`SimWorker`: a worker process of a simulated node, inline in the simulation's loop.

To the node it is a `WorkerProcess` of `runtime.channel`: it takes and sends the same messages, encoded and decoded by
the same code. What happens inside takes virtual time, drawn from a seed, and the whole can be stalled or killed at any
moment. What runs in it is in `actorfw.testing.guest`.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from actorfw.runtime import current
from actorfw.runtime.runtimeenv import Resolver
from actorfw.testing.guest import Guest
from actorfw.testing.loop import NODE
from actorfw.wire.chunks import Decoder, Encoder
from actorfw.wire.messages import CANCEL

if TYPE_CHECKING:
    from actorfw.runtime.channel import WorkerProcess
    from actorfw.runtime.node import Node
    from actorfw.testing.network import SimEnv

__all__ = ["Duration", "SimWorker", "SimWorkers"]

Duration: TypeAlias = "float | tuple[float, float] | Callable[[str], float]"
"""Virtual seconds that a task or method takes: always the same, between two bounds, or by its name."""

_log = logging.getLogger("actorfw.worker")

LINE_DELAY: Final = 0.0001  # of a message between a node and its worker
START_DELAY: Final = 0.005  # from the request for a worker to its first message
DEATH_DELAY: Final = 0.001  # from SIGKILL to the report of the end


class SimWorkers:
    """The worker processes of one simulated node: what `SimEnv.worker_factory` is set to.

    Args:
        env: the node's world.
        seed: of the durations.
        duration: of tasks and of `def` methods; generators take a part of it for each item.
        first_pid: process ids are counted from here.
    """

    def __init__(
        self, env: SimEnv, seed: int | str = 0, duration: Duration = (0.001, 0.01), first_pid: int = 1000
    ) -> None:
        self.env = env
        self.duration = duration
        self.random = random.Random(f"workers/{seed}/{env.node}")
        self.alive: dict[int, SimWorker] = {}
        self._first_pid = first_pid

    def __call__(self, node: Node, index: int, ended: Callable[[Any, str], None]) -> WorkerProcess:
        worker = self.alive[index] = SimWorker(self, node, index, self._first_pid + index, ended)
        return cast("WorkerProcess", worker)

    def draw(self, name: str) -> float:
        """How long something of this name takes."""
        duration = self.duration
        if callable(duration):
            return duration(name)
        if isinstance(duration, tuple):
            return self.random.uniform(*duration)
        return duration


class SimWorker:
    """One simulated worker process.

    Attributes:
        index: its number at its node.
        pid: a number that no other worker of the simulation has.
        label: what it is running, kept by the node.
        alive: whether it has not ended.
        orphan: False; see `WorkerProcess`.
        place: the name under which the loop knows it: it is frozen, slowed and buried apart from its node.
    """

    def __init__(
        self, workers: SimWorkers, node: Node, index: int, pid: int, ended: Callable[[Any, str], None]
    ) -> None:
        self.index = index
        self.pid = pid
        self.label = ""
        self.alive = True
        self.orphan = False
        self.loop = workers.env.loop
        self.place = f"{workers.env.node}/w{index}"
        self._workers = workers
        self._handlers = node.worker_handlers
        self._ended = ended
        self._dying = ""
        self._to_node = _Pipe(workers, workers.env.node, self.place, self._at_node)
        self._to_guest = _Pipe(workers, self.place, workers.env.node, self._at_guest)
        self._out: list[Any] = []
        self._flush_due = False
        self._started = self.loop.time() + START_DELAY
        env = workers.env
        config = node.config
        self.resolver = Resolver(lambda: env.package_files(config.package_cache), config.package_limit, env.time)
        self._guest = Guest(self, node.life, node.id, workers.env.host_id, node.address, node.namespace)

    def __repr__(self) -> str:
        return f"<SimWorker {self.place} {'alive' if self.alive else 'ended'}{' ' + self.label if self.label else ''}>"

    # -- what its node uses --------------------------------------------------------------------------------------------

    def send(self, message: Sequence[Any]) -> None:
        """Send a message, together with all others of this turn of the loop."""
        if self.alive:
            self._out.append(message)
            if not self._flush_due:
                self._flush_due = True
                self._workers.env.call_soon(self.flush)

    def flush(self) -> None:
        """Send what has collected."""
        self._flush_due = False
        out, self._out = self._out, []
        if out and self.alive:
            self._to_guest.put(out, max(0.0, self._started - self.loop.time()))

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait for the worker to read."""
        return self._to_guest.size

    def interrupt(self, no: int, *, recursive: bool = False) -> None:
        """Cancel call `no`, while it runs too."""
        self.send((CANCEL, no, False, recursive))
        self.flush()

    def begun(self) -> tuple[int, ...]:
        """What it has noted of what it starts, as real ones do in shared memory."""
        return tuple(self._guest.marks)

    def kill(self, why: str = "") -> None:
        """SIGKILL: nothing of it runs from now on; its node hears so a moment later."""
        if self.alive and not self._dying:
            self._die(f"worker process {self.pid} was killed{self._running()}: {why or 'its node ended it'}")

    # -- what tests do -------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """What a segmentation fault does."""
        if self.alive and not self._dying:
            self._die(f"worker process {self.pid} was killed by signal SIGSEGV (Segmentation fault){self._running()}")

    def stall(self) -> None:
        """Run nothing of it until `resume`; messages wait."""
        self.loop.freeze(self.place)

    def resume(self) -> None:
        """Go on after `stall`."""
        self.loop.thaw(self.place)

    def bury(self) -> None:
        """Its node's machine is gone: nobody is told."""
        self.alive = False
        self._workers.alive.pop(self.index, None)
        self.loop.crash(self.place)

    # -- what the guest uses -------------------------------------------------------------------------------------------

    def say(self, messages: list[Any]) -> None:
        """Messages for the node."""
        if self.alive and not self._dying:
            self._to_node.put(messages, 0.0)

    def exit(self) -> None:
        """The process ends by itself, after what it has said."""
        if self.alive and not self._dying:
            self._die(f"worker process {self.pid} exited with status 0{self._running()}")

    def write(self, text: str) -> None:
        """What it prints on standard error."""
        print(f"({self.place}) {text}", end="")  # noqa: T201

    def duration(self, name: str) -> float:
        """Of something that it runs, in virtual seconds."""
        return self._workers.draw(name)

    def halves(self, name: str) -> tuple[float, float]:
        """The same in two parts: what it does, it does in between."""
        whole = self._workers.draw(name)
        before = whole * self._workers.random.random()
        return before, whole - before

    # -- inside --------------------------------------------------------------------------------------------------------

    def _running(self) -> str:
        return f" while it ran {self.label}" if self.label else ""

    def _die(self, sentence: str) -> None:
        self._dying = sentence
        self.loop.crash(self.place)
        # What it had written is read to the last byte before its end is told, so that goes through the same pipe.
        self._to_node.put([], DEATH_DELAY)

    def _at_node(self, messages: list[Any]) -> None:
        if not self.alive:
            return
        for message in messages:
            try:
                self._handlers[message[0]](cast("WorkerProcess", self), message)
            except Exception:  # the messages behind it are about others
                _log.exception("a message of kind %r from worker %s could not be handled", message[:1], self.pid)
        if not messages:
            self.alive = False
            self._workers.alive.pop(self.index, None)
            self._ended(self, self._dying)

    def _at_guest(self, messages: list[Any]) -> None:
        for message in messages:
            self._guest.hear(message)
        self._guest.line.flush()


class _Pipe:
    """One direction of the connection: batches in order, each a moment after it was written."""

    def __init__(self, workers: SimWorkers, reader: str, writer: str, take: Callable[[list[Any]], None]) -> None:
        self._env = workers.env
        self._reader = reader
        self._writer = writer
        self._take = take
        self._context = Context()
        self._context.run(NODE.set, reader)
        self._context.run(current.entered.set, None)
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._on_the_way: deque[bytes] = deque()
        self._last = 0.0
        self.size = 0

    def put(self, messages: list[Any], delay: float) -> None:
        """Write a batch; an empty one says that there will be no more."""
        data = b""
        if messages:
            head, attachments = self._encoder.encode(messages)
            data = b"".join((head, *attachments))
        self._on_the_way.append(data)
        self.size += len(data)
        loop = self._env.loop
        # Timers of one instant have no order among themselves, so it is the queue that keeps it.
        self._last = max(self._last, loop.time() + LINE_DELAY + delay)
        loop.call_at(self._last, self._arrived, context=self._context)

    def _arrived(self) -> None:
        data = self._on_the_way.popleft()
        self.size -= len(data)
        self._env.network.note(self._writer, self._reader, data)
        if not data:
            self._take([])
            return
        messages: list[Any] = []
        at = 0
        while at < len(data):
            space = self._decoder.space()
            n = min(len(space), len(data) - at)
            space[:n] = data[at : at + n]
            messages += self._decoder.received(n)
            at += n
        if messages:
            self._take(messages)
