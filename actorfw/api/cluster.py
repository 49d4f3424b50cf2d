"""`LocalCluster`: several peers on one machine, as child processes beside this process's own node.

Here is the parent's side; what a child does is in `api.member`. A child holds two pipes of its parent's: the end of its
standard input tells it that the parent is gone, the end of its report pipe tells the parent that the child is.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from asyncio import events
from collections.abc import Coroutine
from dataclasses import asdict
from types import TracebackType
from typing import Any, Final, TypeVar, Unpack, cast

import actorfw
from actorfw.api.kernel import on_users_loop
from actorfw.api.life import Node, NodeContext, begin
from actorfw.api.nodeoptions import ClusterOptions, MemberOptions, NodeOptionsDict, check_options
from actorfw.api.verbs import DRAIN_SECONDS
from actorfw.io.env import usual_store_memory
from actorfw.io.secrets import child_environment, hidden
from actorfw.runtime.refs import Reply
from actorfw.runtime.rows import DrainReport
from actorfw.values.errors import ActorFwError, BlockingCallError, UsageError

__all__ = ["LocalCluster"]

T = TypeVar("T")

_STOP_SECONDS: Final = 10.0

# Nothing of the parent's path may stand before the standard library: a user's own socket.py would be taken for it. The
# package itself may be reachable by that path only.
_CHILD: Final = """\
import json, sys
told = json.loads(sys.stdin.readline())
sys.path += [p for p in told.pop("path") if p not in sys.path]
from actorfw.api.member import child
child(told)
"""


class _Child:
    """A child process, seen from the loop of the parent's node."""

    def __init__(self, index: int, told: dict[str, Any]) -> None:
        self.index = index
        self.address = ""
        self._loop = asyncio.get_running_loop()
        self._said = b""
        self._report, theirs = os.pipe()
        self._news: asyncio.Future[None] = self._loop.create_future()
        try:
            self.process = subprocess.Popen(
                [os.environ.get("ACTORFW_PYTHON") or sys.executable, "-P", *_interpreter_flags(), "-c", _CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL if _closed(2) else 2,  # this process's stdout is for data of its own
                pass_fds=[theirs],
                env=child_environment(),
                process_group=0,  # Ctrl-C is for the driver, which then stops its children
            )
        except BaseException:  # nothing that was opened for it is to stay
            os.close(self._report)
            raise
        finally:
            os.close(theirs)
        os.set_blocking(self._report, False)
        self._loop.add_reader(self._report, self._readable)
        assert self.process.stdin is not None
        try:
            # By the pipe, not as arguments or in the environment, which others can read.
            self.process.stdin.write(json.dumps({**told, "report": theirs}, default=_as_text).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended already, and `up` says so

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def _readable(self) -> None:
        try:
            data = os.read(self._report, 65536)
        except BlockingIOError:
            return
        self._said += data
        if not data:
            self._forget_report()
        if not self._news.done():
            self._news.set_result(None)

    def _forget_report(self) -> None:
        if self._report >= 0:
            self._loop.remove_reader(self._report)
            os.close(self._report)
            self._report = -1

    async def _next_news(self) -> None:
        if self._news.done():
            self._news = self._loop.create_future()
        await asyncio.shield(self._news)

    async def up(self) -> None:
        """Wait until it is a member.

        Raises:
            ActorFwError: it did not become one; says why.
        """
        while b"\n" not in self._said and self._report >= 0:
            await self._next_news()
        word, _, rest = self._said.partition(b"\n")[0].decode("utf-8", "replace").partition(" ")
        if word != "up":
            self.abandon()
            why = rest or f"its process ended with status {self.process.returncode}; see what it wrote to stderr"
            raise ActorFwError(f"node {self.index} of the cluster did not start: {why}")
        self.address = rest

    async def end(self, patience: float) -> None:
        """Have it say goodbye and end, without draining; after `patience` seconds it is killed."""
        if self._report >= 0 and patience > 0:
            self._hang_up()
            try:
                async with asyncio.timeout(patience):
                    while self._report >= 0:
                        await self._next_news()
            except TimeoutError:
                pass
        if self._report >= 0:
            self._signal(signal.SIGKILL)
            while self._report >= 0:
                await self._next_news()
        self._reap()

    def abandon(self) -> None:
        """Kill it, and block for the moment that this takes; its loop may be closed already."""
        if events._get_running_loop() is self._loop:
            self._forget_report()
        elif self._report >= 0:
            os.close(self._report)
            self._report = -1
        self._signal(signal.SIGKILL)
        self._reap()

    def _hang_up(self) -> None:
        # It ends when its standard input does.
        if self.process.stdin is not None:
            try:
                self.process.stdin.close()
            except OSError:
                pass

    def _signal(self, number: int) -> None:
        if self.alive:
            self.process.send_signal(number)

    def _reap(self) -> None:
        # The report pipe closes as the process ends: this takes a moment at most.
        self.process.wait()
        self._hang_up()


class LocalCluster:
    """An async (and plain) context manager that starts peers as child processes on loopback beside this process's own.

    `add_node`, `kill` and `stop` start when they are called; await them, or use `actorfw.get` where blocking is
    allowed.

    Args:
        nodes: how many children to start.
        num_cpus: of each child.
        driver_cpus: of this process's own node; default: as each child. 0 keeps work that asks for CPU out of it.
        **options: further arguments of `init`, for this process's own node; the children share its secret, namespace,
            cluster and config. If `object_store_memory` is not among them, each of the nodes takes its part of what one
            node would take.
    """

    def __init__(
        self,
        nodes: int = 3,
        num_cpus: float = 1,
        *,
        driver_cpus: float | None = None,
        **options: Unpack[ClusterOptions],
    ) -> None:
        if isinstance(nodes, bool) or not isinstance(cast("object", nodes), int) or nodes < 0:
            raise UsageError(f"nodes is {nodes!r}; it must be an integer, 0 or more")
        check_options("LocalCluster", options, ClusterOptions.__optional_keys__ | {"nodes", "num_cpus", "driver_cpus"})
        self._count = nodes
        self._num_cpus = num_cpus
        if (secret := options.get("secret")) is not None:
            options["secret"] = secret = hidden(secret)
        self._options: NodeOptionsDict = {**options, "num_cpus": num_cpus if driver_cpus is None else driver_cpus}
        # Of one machine's memory all of them together take what a node alone would, unless somebody says otherwise.
        self._shares_memory = options.get("object_store_memory") is None
        if self._shares_memory:
            self._options["object_store_memory"] = usual_store_memory(nodes + 1)
        self._children: dict[int, _Child] = {}
        self._leaving: set[_Child] = set()
        self._next = 0
        self._context: NodeContext | None = None

    @property
    def node(self) -> Node:
        """This process's own node, the current one inside the context."""
        if self._context is None:
            raise UsageError("the cluster was not started: `async with actorfw.LocalCluster() as cluster:`")
        return self._context.node

    @property
    def addresses(self) -> list[str]:
        """Of the children that live, by index."""
        return [self._children[index].address for index in self.indices]

    @property
    def indices(self) -> list[int]:
        """The indices of the children that live, in the order of `addresses`."""
        return sorted(index for index, child in self._children.items() if child.address and child.alive)

    def pid(self, index: int) -> int:
        """The process id of a child."""
        return self._child(index).process.pid

    def add_node(self, num_cpus: float | None = None, **options: Unpack[MemberOptions]) -> Reply[int]:
        """Start another child; the answer is its index, given when it is a member.

        Args:
            num_cpus: of the child; default as for the others.
            **options: further arguments of `init` for it: name, labels, num_gpus, memory, resources, hosts.
        """
        check_options("add_node", options, MemberOptions.__optional_keys__ | {"num_cpus"})
        return self._begin(self._add(self._take_index(), num_cpus, options))

    def kill(self, index: int) -> Reply[None]:
        """SIGKILL a child: its index is not used again."""
        child = self._take(index)
        child.process.kill()
        return self._begin(self._end(child, 0.0))

    def stop(self, index: int, timeout: float = DRAIN_SECONDS) -> Reply[DrainReport]:
        """Have a child leave the cluster without loss, as `actorfw.drain` does, and end.

        Args:
            index: of the child.
            timeout: seconds after which it leaves all the same; the answer says what was given up.
        """
        return self._begin(self._drain(self._take(index), timeout))

    # -- async ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> LocalCluster:
        self._context = begin([], dict(self._options), None, {})
        await self._context.__aenter__()
        try:
            await self._on_node(self._add_all())
        except BaseException:  # failed or cancelled: what has started is to end
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._context is not None
        try:
            if self._context.is_up:
                await self._on_node(self._end_all())
            self._abandon()
        finally:
            await self._context.__aexit__(kind, error, trace)

    async def _on_node(self, coro: Coroutine[Any, Any, None]) -> None:
        """Run on the node's loop, which in a notebook is not the running one."""
        loop = self.node.runtime.loop
        assert loop is not None
        if loop is asyncio.get_running_loop():
            await coro
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coro, loop))

    async def _add_all(self) -> None:
        adding = [asyncio.ensure_future(self._add(self._take_index(), None, {})) for _ in range(self._count)]
        try:
            await asyncio.gather(*adding)
        except BaseException:  # likewise
            for one in adding:
                one.cancel()
            await asyncio.gather(*adding, return_exceptions=True)
            raise

    async def _end_all(self) -> None:
        self._leaving.update(self._children.values())
        self._children.clear()
        await asyncio.gather(*(self._end(child, _STOP_SECONDS) for child in [*self._leaving]))

    async def _drain(self, child: _Child, timeout: float) -> DrainReport:
        try:
            async with asyncio.timeout(timeout + _STOP_SECONDS):
                report: DrainReport = await self.node.runtime.ask("drain", child.address, timeout)
            return report
        finally:
            await self._end(child, _STOP_SECONDS)

    async def _end(self, child: _Child, patience: float) -> None:
        await child.end(patience)
        self._leaving.discard(child)

    def _abandon(self) -> None:
        for child in (*self._children.values(), *self._leaving):
            child.abandon()
        self._children.clear()
        self._leaving.clear()

    # -- plain ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> LocalCluster:
        if on_users_loop():
            raise BlockingCallError("an event loop runs in this thread: write `async with actorfw.LocalCluster()`")
        self._context = begin([], dict(self._options), None, {})
        self._context.__enter__()
        try:
            self._wait(self._add_all())
        except BaseException:  # likewise, a KeyboardInterrupt too
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._context is not None
        try:
            if self._context.is_up:
                self._wait(self._end_all())
            self._abandon()
        finally:
            self._context.__exit__(kind, error, trace)

    def _wait(self, coro: Coroutine[Any, Any, None]) -> None:
        loop = self.node.runtime.loop
        assert loop is not None
        doing = asyncio.run_coroutine_threadsafe(coro, loop)
        try:
            doing.result()
        except BaseException:  # the wait was interrupted, or it failed itself and this does nothing
            doing.cancel()
            raise

    # -- children ------------------------------------------------------------------------------------------------------

    def _begin(self, coro: Coroutine[Any, Any, T]) -> Reply[T]:
        try:
            return self.node.runtime.verbs.begin("local cluster", coro)
        except BaseException:  # it will never run: else Python warns that it was not awaited
            coro.close()
            raise

    def _take_index(self) -> int:
        self._next += 1
        return self._next - 1

    def _child(self, index: int) -> _Child:
        if index not in self.indices:
            raise UsageError(f"the cluster has no live node {index!r}; it has {self.indices}")
        return self._children[index]

    def _take(self, index: int) -> _Child:
        child = self._child(index)
        del self._children[index]
        self._leaving.add(child)
        return child

    async def _add(self, index: int, num_cpus: float | None, options: MemberOptions) -> int:
        runtime = self.node.runtime
        child = _Child(
            index,
            {
                "path": _import_path(),
                "secrets": list(runtime.options.secrets),
                "tls": None if runtime.options.tls is None else asdict(runtime.options.tls),
                "config": asdict(runtime.config),
                "options": {
                    "seeds": [runtime.address],
                    "num_cpus": self._num_cpus if num_cpus is None else num_cpus,
                    "namespace": runtime.options.namespace,
                    "cluster": runtime.options.cluster,
                    "object_store_memory": self._store_memory(),
                    **options,
                },
            },
        )
        self._children[index] = child
        try:
            await child.up()
            await self._seen(child)
        except BaseException:
            # What has started is to end. Without waiting: this may be a cancellation, and a second one may come.
            self._children.pop(index, None)
            child.abandon()
            raise
        return index

    def _store_memory(self) -> int | None:
        own = self.node.runtime.options.store_memory
        if own is None or not self._shares_memory:
            return own
        return min(own, usual_store_memory(len(self._children) + 2))

    async def _seen(self, child: _Child) -> None:
        # The child says that it is up; what this node hears of it may be a moment behind.
        members = self.node.runtime.members
        while child.address not in members.addresses_up():
            if not child.alive:
                raise ActorFwError(
                    f"node {child.index} of the cluster ended with status {child.process.returncode}"
                    " as soon as it was up"
                )
            await asyncio.sleep(0.001)


def _interpreter_flags() -> list[str]:
    # What multiprocessing uses; the stubs do not tell.
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags


def _as_text(secret: bytes) -> str:
    return bytes(secret).decode("latin-1")


def _closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


def _import_path() -> list[str]:
    """Where this process imports from, this package included, in words that hold in any folder."""
    return [os.path.abspath(p) for p in (*sys.path, os.path.dirname(os.path.dirname(actorfw.__file__)))]
