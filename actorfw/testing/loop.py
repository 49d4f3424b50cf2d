"""`VirtualLoop`: an event loop whose clock jumps to the next timer, and in which nodes can be stopped one by one.

Every handle that asyncio schedules has a context, and a context variable in it says to which node it belongs. So one
node of many can be frozen (its handles wait), slowed (they take virtual time), skewed (its timers run late or early)
or crashed (they are buried: nothing of it runs again, not even a `finally`) while the others go on, and user code
sleeps with plain `asyncio.sleep`.

The network is in `actorfw.testing.network`; what a simulated node consists of is not known here.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import io
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple, Unpack, cast
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["LIMIT", "NODE", "StuckError", "VirtualLoop", "run"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NODE: Final[ContextVar[str | None]] = ContextVar("actorfw_simulated_node", default=None)
"""The name of the simulated node that the running code belongs to; None for the test itself."""

# Virtual time that one turn of the loop may spend at one instant before it is taken for a livelock.
_TURNS_PER_INSTANT: Final = 200_000

_TICK: Final = 1e-9


LIMIT: Final = 8 * 3600.0
"""Virtual seconds that `run` gives a test. Nodes ask after each other for ever, so a cluster never falls silent."""


class StuckError(Exception):
    """Nothing can ever happen again in this loop, or what was waited for did not happen within the limit."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop in virtual time. It reads no file descriptor while it runs and needs no real time.

    Threads are invisible to it: `run_in_executor` raises, `call_soon_threadsafe` works from the loop's own thread.
    """

    # asyncio's own bookkeeping, the same in CPython 3.11 to 3.14.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self.limit = float("inf")  # virtual seconds, after which it raises StuckError
        self._turns = 0
        self._frozen: dict[str, list[asyncio.Handle]] = {}
        self._slow: dict[str, float] = {}
        self._slow_until: dict[str, float] = {}
        self._held: dict[str, deque[asyncio.Handle]] = {}
        self._clocks: dict[str, tuple[float, float, float]] = {}  # node: since, its time then, rate
        self._crashed: set[str] = set()
        self._tasks_of: dict[str, WeakSet[asyncio.Task[Any]]] = {}
        self._grave: list[object] = []

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    # Nodes.

    def freeze(self, node: str) -> None:
        """Run nothing of this node until `thaw`: what SIGSTOP does."""
        self._frozen.setdefault(node, [])

    def thaw(self, node: str) -> None:
        """Run what waited while the node was frozen."""
        self._ready.extend(self._frozen.pop(node, []))

    def slow(self, node: str, seconds: float) -> None:
        """Let each turn of this node take so much virtual time; 0 makes it fast again."""
        if seconds > 0:
            self._slow[node] = seconds
        else:
            self._slow.pop(node, None)

    def skew(self, node: str, rate: float) -> None:
        """Let this node's timers take `rate` times as long, from now on; 1 is a true clock."""
        self._clocks[node] = (self._now, self.node_time(node), rate)

    def node_time(self, node: str) -> float:
        """What this node's own clock says."""
        since, then, rate = self._clocks.get(node, (0.0, 0.0, 1.0))
        return then + (self._now - since) / rate

    def crash(self, node: str) -> None:
        """Run nothing of this node ever again; what it held stays where it is until the loop is closed."""
        self._crashed.add(node)
        self._grave.extend(self._tasks_of.pop(node, ()))  # a task that is collected would run its `finally`
        self._grave.append(self._frozen.pop(node, None))
        self._grave.append(self._held.pop(node, None))

    def is_crashed(self, node: str) -> bool:
        """Whether `crash` was called for it."""
        return node in self._crashed

    def is_frozen(self, node: str) -> bool:
        """Whether it is frozen now."""
        return node in self._frozen

    @contextmanager
    def within(self, node: str | None) -> Generator[None]:
        """What is scheduled inside belongs to this node."""
        before = NODE.set(node)
        try:
            yield
        finally:
            NODE.reset(before)

    def context_of(self, node: str | None) -> Context:
        """A fresh context for handles of this node."""
        context = copy_context()
        context.run(NODE.set, node)
        return context

    # asyncio's loop, with another idea of time.

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_at`."""
        if self._clocks:
            node = NODE.get() if context is None else context.get(NODE)
            if node in self._clocks:
                # Rounded up: a timer that is early by its node's own clock would be set again, for no time at all.
                when = self._now + (when - self._now) * self._clocks[node][2] + _TICK
        return super().call_at(when, callback, *args, context=context)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """See `asyncio.loop.create_task`."""
        context: Context | None = options.get("context")
        node = NODE.get() if context is None else context.get(NODE)
        task: asyncio.Task[Any] = super().create_task(coro, **options)
        if node in self._crashed:
            self._grave.append(task)  # what was begun elsewhere in its name will never have its first step
        elif node is not None:
            self._tasks_of.setdefault(node, WeakSet()).add(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Not in virtual time: a thread's end can't be foreseen."""
        raise RuntimeError("threads don't exist in virtual time: give the node an executor that runs inline")

    def _run_once(self) -> None:
        scheduled = self._scheduled
        while scheduled and scheduled[0].cancelled():
            _unschedule(heapq.heappop(scheduled))
        if not self._ready and not self._stopping:
            if not scheduled:
                first = f"nothing can happen after {self._now:.6f} virtual seconds: no handle is ready, no timer is set"
                raise StuckError(self._everything_waits(first))
            when = scheduled[0].when()
            if when > self.limit:
                first = f"nothing has ended within {self.limit:g} virtual seconds"
                self.limit = float("inf")  # what is cleaned up now may take its time
                raise StuckError(self._everything_waits(first))
            if when > self._now:
                self._now = when
                self._turns = 0
        self._turns += 1
        if self._turns > _TURNS_PER_INSTANT:
            raise StuckError(f"{_TURNS_PER_INSTANT} turns at {self._now:.6f} s: a loop without a pause?")
        while scheduled and scheduled[0].when() <= self._now:
            due = heapq.heappop(scheduled)
            _unschedule(due)
            self._ready.append(due)
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if not handle.cancelled() and self._may_run(handle):
                handle._run()

    def _may_run(self, handle: asyncio.Handle) -> bool:
        node = cast("Context", cast("Any", handle)._context).get(NODE)
        if node is None:
            return True
        if node in self._crashed:
            self._grave.append(handle)
            return False
        if node in self._frozen:
            self._frozen[node].append(handle)
            return False
        if self._slow or node in self._held:
            return self._its_turn(node, handle)
        return True

    def _its_turn(self, node: str, handle: asyncio.Handle) -> bool:
        """One handle per `slow` seconds, in order."""
        pace = self._slow.get(node, 0.0)
        waiting = self._held.get(node)
        if waiting is None:
            if not pace or self._slow_until.get(node, 0.0) <= self._now:
                self._slow_until[node] = self._now + pace
                return True
            waiting = self._held[node] = deque()
            self._wake_at(node, self._slow_until[node])
        waiting.append(handle)
        return False

    def _wake_at(self, node: str, when: float) -> None:
        super().call_at(when, self._next_held, node, context=self.context_of(None))

    def _next_held(self, node: str) -> None:
        waiting = self._held.get(node)
        if waiting is None or node in self._crashed:
            return
        if node in self._frozen:
            self._frozen[node].extend(waiting)
            del self._held[node]
            return
        pace = self._slow.get(node, 0.0)
        while waiting:
            handle = waiting.popleft()
            if not handle.cancelled():
                handle._run()
                if pace:
                    break
        self._slow_until[node] = self._now + pace
        if waiting:
            self._wake_at(node, self._slow_until[node])
        else:
            self._held.pop(node, None)

    def cancel_all_tasks(self) -> None:
        """Cancel the tasks of all nodes that did not crash, and let them end, as `asyncio.run` does."""
        for node in [*self._frozen]:
            self.thaw(node)
        dead = {id(task) for task in self._grave if isinstance(task, asyncio.Task)}
        tasks = [task for task in asyncio.all_tasks(self) if id(task) not in dead]
        for task in tasks:
            task.cancel()
        try:
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        except StuckError:
            self._grave.extend(tasks)  # one of them ignores its cancellation

    def close(self) -> None:
        """Close, and let go of what crashed nodes held: their `finally` blocks run now, when nobody sees it."""
        if not self.is_closed():
            self._grave.extend(asyncio.all_tasks(self))  # what was started in the last turn, or in a dead node's name
            for found in self._grave:
                if isinstance(found, asyncio.Task) and not found.done():
                    task = cast("Any", found)
                    task._log_destroy_pending = False
                    try:
                        task.get_coro().close()
                    except BaseException:
                        pass  # whatever a dead node still wanted to say
            self._grave.clear()
        super().close()

    def _everything_waits(self, first: str) -> str:
        lines = [f"{first}."]
        frozen = ", ".join(sorted(self._frozen))
        crashed = ", ".join(sorted(self._crashed))
        if frozen:
            lines.append(f"Frozen: {frozen}.")
        if crashed:
            lines.append(f"Crashed: {crashed}.")
        lines.append("The tasks that wait:")
        for task in sorted(asyncio.all_tasks(self), key=lambda found: found.get_name()):
            text = io.StringIO()
            task.print_stack(file=text)
            lines.append(text.getvalue().rstrip())
        return "\n".join(lines)


def _unschedule(handle: asyncio.TimerHandle) -> None:
    cast("Any", handle)._scheduled = False


def run(main: Coroutine[Any, Any, T] | Callable[[], Coroutine[Any, Any, T]], *, limit: float = LIMIT) -> T:
    """Run a coroutine, or what `main()` returns, in a fresh `VirtualLoop`, and close it.

    Args:
        main: the test.
        limit: virtual seconds that it may take.

    Raises:
        StuckError: nothing could ever happen again, or it has not ended within `limit`; the message has every task's
            stack.
    """
    gc.freeze()  # what was there before, garbage or not, is not looked at in the meantime
    try:
        return _run(main, limit)
    finally:
        gc.collect()  # a cluster is a heap of circles, and one run after another would pile them up
        gc.unfreeze()


def _run(main: Coroutine[Any, Any, T] | Callable[[], Coroutine[Any, Any, T]], limit: float) -> T:
    loop = VirtualLoop()
    loop.limit = limit
    asyncio.set_event_loop(loop)
    try:
        try:
            return loop.run_until_complete(main() if callable(main) else main)
        finally:
            loop.cancel_all_tasks()
    finally:
        asyncio.set_event_loop(None)
        loop.close()
