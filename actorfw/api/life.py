"""A node's life as users see it: `init`, `shutdown`, `run` and the explicit `Node`.

Where a node runs: with no loop in this thread, or in a notebook's kernel, on a daemon thread with a loop of its own,
and it is up when `init()` returns; else on the running loop, and nothing starts before `await` or `async with`.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import sys
import threading
import warnings
from asyncio import events
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, cast

from actorfw.api.environment import completed
from actorfw.api.kernel import interactive, on_users_loop
from actorfw.api.nodeoptions import DEFAULTS, NodeOptionsDict, Secret, check_options, complete, with_defaults
from actorfw.api.verbs import DRAIN_SECONDS
from actorfw.io.env import RealEnv
from actorfw.io.secrets import hidden
from actorfw.runtime import current
from actorfw.runtime.node import Node as RuntimeNode
from actorfw.runtime.nodeoptions import NodeOptions
from actorfw.runtime.rows import DrainReport
from actorfw.values.config import Config
from actorfw.values.errors import BlockingCallError, NotInitializedError, UsageError
from actorfw.values.tls import TLS

if TYPE_CHECKING:
    from actorfw.runtime.home import Home

__all__ = ["Node", "NodeContext", "begin", "init", "run", "shutdown"]

T = TypeVar("T")

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Node:
    """A node, as `async with actorfw.init() as node` gives it, or made explicitly with the same arguments as `init`.

    Many may live in one process and one loop; the one entered with `async with` is the current one in that context.
    """

    def __init__(self, seeds: str | Sequence[str] | None = None, **options: Unpack[NodeOptionsDict]) -> None:
        check_options("Node", options, frozenset(DEFAULTS))
        if (secret := options.get("secret")) is not None:
            options["secret"] = secret = hidden(secret)
        self._made = complete(seeds, **with_defaults(options))
        self._node: RuntimeNode | None = None
        self._was: Home | None = None

    @classmethod
    def _of(cls, options: NodeOptions) -> Node:
        made = cls.__new__(cls)
        made._made = options
        made._node = None
        made._was = None
        return made

    @property
    def runtime(self) -> RuntimeNode:
        """The node behind it, for what is built on the runtime itself.

        Raises:
            NotInitializedError: it was not started.
        """
        if self._node is None:
            raise NotInitializedError(
                f"node {self._made.name} was not started: `await node.start()` or `async with node:`"
            )
        return self._node

    @property
    def seeds(self) -> list[str]:
        """Whom it joins by: as given, or of `ACTORFW_SEEDS`."""
        return list(self._made.seeds)

    @property
    def id(self) -> str:
        """16 hexadecimal digits, the same as in `nodes()`."""
        return self.runtime.id

    @property
    def name(self) -> str:
        """Unique among live members."""
        return self._made.name

    @property
    def ready(self) -> bool:
        """Whether it is a member that nobody has asked to leave."""
        node = self._node
        return node is not None and node.open and not node.leaving.begun

    @property
    def address(self) -> str:
        """Where peers dial it: "host:port"."""
        return self.runtime.address

    @property
    def dashboard_url(self) -> str | None:
        """None without a dashboard."""
        return self.runtime.dashboard_url

    def be_findable(self) -> None:
        """Before its start: have this user's programs on this host find it as "local:CLUSTER", whatever its seeds."""
        self._made.findable = True

    async def start(self) -> Node:
        """Start on the running loop; returns when this node is a member of its cluster."""
        if self._node is not None:
            raise UsageError(f"node {self.name} was started before: make a new one")
        self._node = RuntimeNode(RealEnv(tls=self._made.tls), self._made)
        await self._node.start()
        return self

    async def drain(self, timeout: float = DRAIN_SECONDS) -> DrainReport:
        """Leave the cluster without loss, as `actorfw.drain` does, and end."""
        report = await self.runtime.leaving.leave(timeout)
        await self.stop()
        return report

    async def stop(self) -> None:
        """Leave the cluster and end everything that runs here."""
        if self._node is not None:
            await self._node.stop()

    async def __aenter__(self) -> Node:
        if self._node is None:
            await self.start()
        self._was = current.entered.get()
        current.entered.set(self._node)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # By value, never Token.reset: entering and leaving may happen in different contexts.
        if current.entered.get() is self._node:
            current.entered.set(self._was)
        await self.stop()

    def __repr__(self) -> str:
        if not hasattr(self, "_made"):
            return "<actorfw.Node of wrong arguments>"
        return f"<actorfw.Node {self.name}{f' {self._node.address}' if self._node is not None else ' not started'}>"


class _Thread:
    """A node on a thread and loop of its own; made when the node is up."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.gone: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._up = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._halt: asyncio.Event | None = None
        # Not a daemon would be joined before atexit runs: the interpreter would never end.
        self._thread = threading.Thread(target=self._main, name="actorfw", daemon=True)
        self._thread.start()
        try:
            self._up.wait()
        except BaseException:  # Ctrl-C, while it looks for its seeds
            self.close()
            raise
        if self._error is not None:
            self._thread.join()
            try:
                raise self._error
            finally:
                self._error = None  # it refers to this frame
        atexit.register(self.close)

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._live())
        except BaseException as error:  # whoever waits for the start raises it
            if self._up.is_set():
                raise
            self._error = error
        finally:
            self._up.set()
            self.gone.set_result(None)

    async def _live(self) -> None:
        self._halt = asyncio.Event()
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        await self.node.start()
        self._up.set()
        await self._halt.wait()
        await self.node.stop()

    def end(self) -> None:
        """Have the node stop; `gone` is done when its thread is about to end."""
        atexit.unregister(self.close)
        if self._thread.is_alive() and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._end)
            except RuntimeError:
                pass  # it has just ended

    def _end(self) -> None:
        if self._halt is not None and self._up.is_set():
            self._halt.set()
        elif self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        """Stop the node and its thread; blocks until both are gone."""
        self.end()
        self._thread.join()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class NodeContext:
    """What `init` returns: enter it, await it, or, where it runs in the background, just use it."""

    def __init__(self, options: NodeOptions, arguments: tuple[Any, ...], where: str, in_thread: bool) -> None:
        self._node = Node._of(options)
        self._arguments = arguments
        self._where = where
        self._thread: _Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started: asyncio.Future[None] | None = None
        self._was: Home | None = None
        self._said_so = in_thread
        if in_thread:
            self._thread = _Thread(self._node)
            current.contexts.append(self)
        else:
            current.forgotten_init(where)

    @property
    def id(self) -> str:
        """16 hexadecimal digits, the same as in `nodes()`."""
        return self._node.runtime.id

    @property
    def name(self) -> str:
        """Unique among live members."""
        return self._node.name

    @property
    def address(self) -> str:
        """Where peers dial it: "host:port"."""
        return self._node.runtime.address

    @property
    def dashboard_url(self) -> str | None:
        """None without a dashboard."""
        return self._node.runtime.dashboard_url

    @property
    def node(self) -> Node:
        """The node itself."""
        return self._node

    @property
    def is_up(self) -> bool:
        """Whether its node runs."""
        node = self._node._node
        return node is not None and node.open

    async def _enter(self) -> Node:
        if self._thread is not None:
            return self._node
        if self._started is None:
            self._said_so = True
            current.forgotten_init(None)
            self._loop = asyncio.get_running_loop()
            _check_free(self._loop, False)
            self._started = self._loop.create_future()
            current.contexts.append(self)
            try:
                await self._node.start()
            except BaseException as error:
                self._forget()
                self._started.set_exception(
                    error if isinstance(error, Exception) else UsageError("its start was cancelled")
                )
                self._started.exception()  # whoever else awaits it is told; nobody need
                raise
            current.bind_loop(self._loop, self._node.runtime)
            self._started.set_result(None)
        await asyncio.shield(self._started)
        return self._node

    def _forget(self) -> None:
        if self in current.contexts:
            current.contexts.remove(self)

    def __await__(self) -> Generator[Any, None, Node]:
        return self._enter().__await__()

    async def __aenter__(self) -> Node:
        node = await self._enter()
        self._was = current.entered.get()
        current.entered.set(node.runtime)
        return node

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if current.entered.get() is self._node.runtime:
            current.entered.set(self._was)
        await self._stop()

    def __enter__(self) -> Node:
        if self._thread is None:
            self._said_so = True  # here and now; no second warning when it is dropped
            current.forgotten_init(None)
            raise BlockingCallError("an event loop runs in this thread: write `async with actorfw.init()`")
        self._was = current.entered.get()
        current.entered.set(self._node.runtime)
        return self._node

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if current.entered.get() is self._node.runtime:
            current.entered.set(self._was)
        self._close()

    def _close(self) -> None:
        self._forget()
        if self._thread is not None:
            self._thread.close()

    async def _stop(self) -> None:
        self._forget()
        if self._thread is not None:
            self._thread.end()
            await asyncio.wrap_future(self._thread.gone)
            self._thread.close()
        else:
            await self._node.stop()

    def __del__(self) -> None:
        if not getattr(self, "_said_so", True):
            said = f"actorfw.init() at {self._where} was never awaited"
            warnings.warn(said, RuntimeWarning, stacklevel=1, source=self)

    def __repr__(self) -> str:
        return f"<actorfw.init() at {self._where}: {self._node!r}>"


def _where() -> str:
    """FILE:LINE of the code outside this package that called."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "?"


def _check_free(loop: asyncio.AbstractEventLoop | None, in_thread: bool) -> None:
    """Refuse a second node of `init()` in one place."""
    context = _in_place(loop, in_thread)
    if context is not None:
        raise UsageError(
            f"a node runs here already, of actorfw.init() at {context._where}: use it, or call actorfw.shutdown() first"
        )


def _in_place(loop: asyncio.AbstractEventLoop | None, in_thread: bool) -> NodeContext | None:
    for context in cast("list[NodeContext]", current.contexts):
        same = context._thread is not None if in_thread else context._thread is None and context._loop is loop
        if same and (context.is_up or not (context._started is None or context._started.done())):
            return context
    return None


def init(
    seeds: str | Sequence[str] | None = None,
    *,
    listen: str | None = None,
    advertise: str | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    resources: Mapping[str, float] | None = None,
    object_store_memory: int | None = None,
    secret: Secret | None = None,
    tls: TLS | None = None,
    dashboard: str | None = None,
    namespace: str | None = None,
    cluster: str | None = None,
    hosts: Literal["all", "own"] | None = None,
    thread: bool | None = None,
    log_to_driver: bool | None = None,
    config: Config | None = None,
) -> NodeContext:
    """Make this process a peer.

    In async code: `async with actorfw.init():` or `await actorfw.init()`. In a script: `with actorfw.init():`, or just
    `actorfw.init()`; the node then runs on a background thread and is up when this returns. Arguments are checked at
    once. Those that say who this node is have a variable of the environment that stands in for them, such as
    `ACTORFW_LISTEN`.

    Args:
        seeds: live peers of the cluster to join: "host:port" each, the name of a service with SRV records such as
            "_actorfw._tcp.example.com", or "local:CLUSTER" for this user's live nodes of that cluster on this host.
            Default `ACTORFW_SEEDS`; none founds a cluster of one.
        listen: where to accept peers; port 0 takes a free one. Beyond loopback a secret is needed. Default
            "127.0.0.1:0".
        advertise: the address that peers dial, where it differs from `listen`.
        name: of this node, unique among live members; default: made from host and process.
        labels: for `Labels` scheduling.
        num_cpus: worker processes at most at work at a time; default: the machine's cores. With 0, nothing that asks
            for CPU runs here.
        num_gpus: devices, numbered from 0.
        memory: bytes to be shared out by `memory=`; default: those of the machine or its control group, less
            `object_store_memory`.
        resources: further resources by name.
        object_store_memory: bytes of shared memory for values, at most; default: 30 % of what the machine has, or its
            control group. It is taken when values come, not before.
        secret: text of at least 16 random bytes, or (new, old); default `ACTORFW_SECRET`, `ACTORFW_SECRET_FILE`, then a
            file of this user's.
        tls: certificate, key and authority: then all links are mutual TLS 1.3. Default `ACTORFW_TLS_CERTIFICATE`,
            `ACTORFW_TLS_KEY` and `ACTORFW_TLS_AUTHORITY`, then `config`.
        dashboard: not there yet.
        namespace: of actors' names; default "default".
        cluster: nodes of another cluster are refused. Default: that of a "local:CLUSTER" seed, else `ACTORFW_CLUSTER`,
            else "default".
        hosts: "own" keeps work of other nodes away from here.
        thread: True asks for the background thread in async code too.
        log_to_driver: print what tasks print; default: in scripts and REPLs. Else it goes to the logger
            `actorfw.worker`.
        config: see `Config`; default `ACTORFW_CONFIG`, a TOML file.

    Returns:
        The context, of which `async with` and `await` give the `Node`.

    Raises:
        UsageError: an argument is wrong, or a node of `init()` runs here already (it is named).
        PeerUnreachableError: no seed could be joined within `join_timeout`; names each address tried and why.
        AuthenticationError, VersionMismatchError, ProtocolError: a seed refused this node for good.
    """
    arguments: dict[str, Any] = {
        "listen": listen,
        "advertise": advertise,
        "name": name,
        "labels": labels,
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "memory": memory,
        "resources": resources,
        "object_store_memory": object_store_memory,
        "secret": None if secret is None else hidden(secret),
        "tls": tls,
        "dashboard": dashboard,
        "namespace": namespace,
        "cluster": cluster,
        "hosts": hosts,
        "log_to_driver": log_to_driver,
        "config": config,
    }
    return begin(seeds, arguments, thread, os.environ)


def begin(
    seeds: str | Sequence[str] | None, arguments: dict[str, Any], thread: bool | None, environ: Mapping[str, str]
) -> NodeContext:
    """As `init`, with what is not among the arguments from an environment."""
    for option, value in (("thread", thread), ("log_to_driver", arguments.get("log_to_driver"))):
        if value is not None and not isinstance(value, bool):
            raise UsageError(f"{option} is {value!r}; it must be True, False or None")
    on_loop = on_users_loop()
    in_thread = not on_loop or bool(thread)
    running = events._get_running_loop()
    there = _in_place(running, in_thread)
    given = (seeds, arguments, thread)
    if there is not None and there.is_up and interactive() and there._arguments == given:
        return there
    _check_free(running, in_thread)
    whole = completed(arguments, environ)
    if whole.get("log_to_driver") is None:
        whole["log_to_driver"] = not on_loop or interactive()
    options = complete(seeds, **with_defaults(whole), environ=environ)
    return NodeContext(options, given, _where(), in_thread)


class _Stopping:
    """What `shutdown()` gives in async code: it has started already."""

    def __init__(self, task: asyncio.Task[None] | None) -> None:
        self._task = task

    def __await__(self) -> Generator[Any, None, None]:
        if self._task is not None:
            yield from asyncio.shield(self._task).__await__()


def shutdown() -> Awaitable[None]:
    """End the node that `init()` started here. Awaited in async code; blocks where `init()` started a thread.

    Does nothing if none runs.
    """
    on_loop = on_users_loop()
    running = events._get_running_loop()
    contexts = cast("list[NodeContext]", current.contexts)
    if not on_loop:
        for context in reversed(contexts):
            if context._thread is not None:
                context._close()
                break
        return cast("Awaitable[None]", None)  # has blocked: there is nothing to await, and a prompt has nothing to show
    # Its own node first, then one that was asked for with thread=True.
    own = [context for context in reversed(contexts) if context._loop is running]
    threaded = [context for context in reversed(contexts) if context._thread is not None]
    found = next(iter((*own, *threaded)), None)
    return _Stopping(None if found is None else asyncio.ensure_future(found._stop()))


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine under uvloop where it is installed, else as `asyncio.run` does.

    Raises:
        BlockingCallError: a loop runs in this thread.
    """
    if events._get_running_loop() is not None:
        main.close()
        raise BlockingCallError("an event loop runs in this thread: await the coroutine")
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)
