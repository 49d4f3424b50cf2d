"""The verbs: put, get, wait, gather, cancel, and what is asked about the cluster and its actors.

What takes time starts when it is called and returns an awaitable; `get` turns any of them into a blocking call where
blocking is allowed.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
from asyncio import events
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar, cast, overload

from actorfw.api.kernel import on_users_loop
from actorfw.runtime import current, lines
from actorfw.runtime.context import CallContext
from actorfw.runtime.exits import ActorExit
from actorfw.runtime.gathering import Completions, Gathered
from actorfw.runtime.handles import ActorHandle, Call
from actorfw.runtime.hands import Hands
from actorfw.runtime.refs import PENDING, ObjectRef, Reply
from actorfw.runtime.rows import ActorInfo, DrainReport, NodeRow, ObjectRow
from actorfw.runtime.streams import Stream
from actorfw.values.errors import BlockingCallError, GetTimeoutError, UsageError
from actorfw.wire.payload import SHARED_LEAST

__all__ = [
    "as_completed",
    "available_resources",
    "cancel",
    "cluster_resources",
    "context",
    "drain",
    "exit_actor",
    "gather",
    "get",
    "get_actor",
    "info",
    "kill",
    "nodes",
    "objects",
    "put",
    "put_async",
    "stop",
    "wait",
]

_copying: Final = Hands(2)  # more would copy no faster

T = TypeVar("T")
A = TypeVar("A")


# -- objects -----------------------------------------------------------------------------------------------------------


def put(value: T) -> ObjectRef[T]:
    """Store a copy of a value, and return a ref to it.

    The copy is taken before this returns, in this thread: on a loop, a large value is better put by `put_async`. The
    object lives while any ref to it lives anywhere.

    Raises:
        SerializationError: the value can't be pickled; names the path to the part.
    """
    _check_value(value, "put")
    made = current.home().put(value)
    lines.note(made, sys._getframe(1))
    return made


async def put_async(value: T) -> ObjectRef[T]:
    """As `put`, while the loop goes on: a large value is pickled and copied in a thread.

    Leave the value as it is until this returns. If the await is cancelled, what was copied is dropped.

    Raises:
        SerializationError: the value can't be pickled; names the path to the part.
    """
    _check_value(value, "put_async")
    frame = sys._getframe(1)
    home = current.home()
    made: ObjectRef[T]
    if _is_small(value) or not home.has_threads:
        made = home.put(value)
    else:
        made = await _copying.do(lambda: home.put(value))
    lines.note(made, frame)
    return made


def _check_value(value: object, verb: str) -> None:
    if isinstance(value, ObjectRef):
        raise UsageError(f"{verb} takes a value, and this is a ref: pass the ref itself on")


def _is_small(value: object) -> bool:
    """Whether copying takes less than handing over to a thread; False if that can't be seen at once."""
    if value is None or isinstance(value, (bool, int, float)):
        return True
    return isinstance(value, (str, bytes, bytearray)) and len(value) < SHARED_LEAST


def _check_blocking() -> None:
    if on_users_loop():
        raise BlockingCallError(
            "get() would block the event loop that runs in this thread: use `await` here (`await ref`,"
            " `await actorfw.gather(refs)`)"
        )


@overload
def get(ref: Awaitable[T], *, timeout: float | None = ...) -> T: ...
@overload
def get(ref: Sequence[Awaitable[T]], *, timeout: float | None = ...) -> list[T]: ...
def get(ref: Any, *, timeout: float | None = None) -> Any:
    """Wait for values where blocking is allowed: in scripts, threads, worker processes and notebook cells.

    Args:
        ref: an `ObjectRef`, a `Reply`, `handle.method(...)`, an asyncio future of the node's loop, or a list or tuple
            of them.
        timeout: seconds, for all together; None waits without end. A timeout cancels nothing.

    Returns:
        The value, or the list of values in the order given.

    Raises:
        BlockingCallError: a loop runs in this thread: use await.
        GetTimeoutError: not all values were there in time.
        TypeError: something else was given, such as a coroutine of the user's: that is for `asyncio.run`.
        Exception: what the first failed ref ended with.
    """
    if events._get_running_loop() is not None:
        _check_blocking()
    many = isinstance(ref, (list, tuple))
    waiting = [_awaitable(one) for one in (ref if many else (ref,))]
    pending: list[Reply[Any]] = []
    for one in waiting:
        if isinstance(one, Gathered) and one._state == PENDING:
            pending += [ref for ref in one.refs if ref._state == PENDING]
        elif isinstance(one, Reply) and one._state == PENDING:
            pending.append(one)
    # What is there already needs no node: refs outlive theirs with what they came to.
    if pending and not current.home().block(pending, timeout):
        left = sum(1 for one in pending if one._state == PENDING)
        raise GetTimeoutError(f"{left} of {len(waiting)} values were not there within {timeout:g} s; the work goes on")
    values = [one.result() if isinstance(one, Reply) else _of_future(one, timeout) for one in waiting]
    return values if many else values[0]


def _awaitable(given: Any) -> Any:
    if isinstance(given, Reply):
        return given
    if isinstance(given, Call):
        return given.ref
    if isinstance(given, asyncio.Future):
        return given
    if asyncio.iscoroutine(given):
        given.close()
        raise TypeError(
            "get takes refs and replies, and this is a coroutine of your own: run it with asyncio.run or actorfw.run"
        )
    raise TypeError(f"get takes refs, replies and calls of handles, alone or in a list, not {type(given).__name__}")


def _of_future(future: asyncio.Future[Any], timeout: float | None) -> Any:
    done: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def copy(outcome: asyncio.Future[Any]) -> None:
        if outcome.cancelled():
            done.set_exception(asyncio.CancelledError())
        elif outcome.exception() is not None:
            done.set_exception(outcome.exception())
        else:
            done.set_result(outcome.result())

    future.get_loop().call_soon_threadsafe(future.add_done_callback, copy)
    try:
        return done.result(timeout)
    except concurrent.futures.TimeoutError:
        if future.done():
            raise
        raise GetTimeoutError(f"the future was not done within {timeout:g} s") from None


def wait(
    refs: Iterable[ObjectRef[T]], *, num_returns: int = 1, timeout: float | None = None
) -> Reply[tuple[list[ObjectRef[T]], list[ObjectRef[T]]]]:
    """Wait until some of the refs are ready, without fetching or cancelling any.

    Args:
        refs: distinct refs.
        num_returns: how many are enough.
        timeout: seconds; None waits without end, 0 only looks.

    Returns:
        A reply of (ready, pending), both in the order given, `ready` with at most `num_returns` of them.

    Raises:
        UsageError: a ref stands there twice, or `num_returns` is not between 0 and their number.
    """
    listed = list(refs)
    for one in cast("list[object]", listed):
        if not isinstance(one, ObjectRef):
            raise TypeError(f"wait takes ObjectRefs, not {type(one).__name__}")
    if len(set(listed)) != len(listed):
        raise UsageError("wait takes distinct refs, and one stands there twice")
    if not 0 <= num_returns <= len(listed):
        raise UsageError(f"num_returns is {num_returns}; it must be between 0 and the number of refs, {len(listed)}")
    return current.home().wait_ready(listed, num_returns, timeout)


def _no_progress(progress: object) -> None:
    if progress is not None:
        raise UsageError("progress= is not there yet: it comes with the tools for watching a cluster")


class as_completed(Generic[T]):  # noqa: N801  (a function to its users, as asyncio's is)
    """Iterate over refs in the order in which they get ready: `async for`, or `for` where blocking is allowed.

    Args:
        refs: the refs; each comes out once.
        progress: not there yet.
    """

    def __init__(self, refs: Iterable[ObjectRef[T]], *, progress: object = None) -> None:
        _no_progress(progress)
        self._completions: Completions[T] = Completions(current.home(), _refs(refs, "as_completed"))

    def __aiter__(self) -> AsyncIterator[ObjectRef[T]]:
        return self

    async def __anext__(self) -> ObjectRef[T]:
        reply = self._completions.next()
        if reply is None:
            raise StopAsyncIteration
        return await reply

    def __iter__(self) -> Iterator[ObjectRef[T]]:
        return self

    def __next__(self) -> ObjectRef[T]:
        reply = self._completions.next()
        if reply is None:
            raise StopIteration
        return get(reply)


def _refs(given: Iterable[Any], verb: str) -> list[ObjectRef[Any]]:
    """Distinct refs, in order."""
    found: dict[ObjectRef[Any], None] = {}
    for one in given:
        ref: object = one.ref if isinstance(one, Call) else one
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"{verb} takes ObjectRefs, not {type(one).__name__}")
        found[ref] = None
    return list(found)


def gather(refs: Iterable[ObjectRef[T]], *, progress: object = None) -> Reply[list[T]]:
    """Wait for all refs: `await actorfw.gather(refs)` gives their values in order, or raises the first error.

    Cancelling it cancels the calls behind the refs, as `asyncio.gather` does.

    Args:
        refs: the refs; one may stand there twice.
        progress: not there yet.
    """
    _no_progress(progress)
    listed: list[Any] = list(refs)
    _refs(listed, "gather")
    return Gathered(current.home(), [one.ref if isinstance(one, Call) else one for one in listed])


def cancel(
    ref: ObjectRef[object] | Stream[object] | Coroutine[Any, Any, object] | AsyncIterator[object] | Iterator[object],
    *,
    force: bool = False,
    recursive: bool = True,
) -> None:
    """Cancel the call that makes a ref or feeds a stream; every await of it raises `TaskCancelledError`.

    What is queued never runs; what runs on a loop is cancelled; what runs in a worker process is interrupted; of a
    thread only the result is dropped. What is done is left alone.

    Args:
        ref: what `.remote(...)` or `handle.method(...)` gave.
        force: kill the worker process that runs it.
        recursive: cancel the tasks that it submitted, too.
    """
    # Checkers see calls of handles as what the class's own methods return.
    given: object = ref
    target = given.ref if isinstance(given, Call) else given
    if not isinstance(target, (ObjectRef, Stream)):
        raise TypeError(f"cancel takes a ref or a stream, not {type(ref).__name__}")
    current.home().cancel(target, force=force, recursive=recursive)


def objects(limit: int = 1000) -> Reply[list[ObjectRow]]:
    """The living objects of the cluster, the largest first: who holds each, where it is, and which may be leaks.

    All of them count: what was put, results, pending ones too, held by a ref anywhere. Every member is asked; what one
    owns that does not answer within five seconds is missing.

    Args:
        limit: how many rows at most, 10,000 or less.

    Raises:
        UsageError: `limit` is out of range.
    """
    given = cast("object", limit)
    if isinstance(given, bool) or not isinstance(given, int):
        raise UsageError(f"limit is {limit!r}; it must be an integer")
    return current.home().ask("objects", limit)


# -- actors ------------------------------------------------------------------------------------------------------------


@overload
def get_actor(name: str, *, namespace: str | None = ...) -> Reply[Any]: ...
@overload
def get_actor(name: str, cls: type[A], *, namespace: str | None = ...) -> Reply[A]: ...
def get_actor(name: str, cls: Any = None, *, namespace: str | None = None) -> Reply[Any]:
    """The handle of the actor with this name, from any node.

    Args:
        name: as given in `options(name=)`.
        cls: only types the handle.
        namespace: default: the node's.

    Raises:
        ActorNotFoundError: nobody has this name; lists those that exist.
    """
    return current.home().ask("get_actor", name, namespace)


def _handle(given: Any, verb: str) -> ActorHandle:
    if not isinstance(given, ActorHandle):
        raise TypeError(f"{verb} takes the handle of an actor, not {type(given).__name__}")
    return given


def stop(handle: object, timeout: float | None = None) -> Reply[None]:
    """End an actor when it has finished what it accepted; awaiting the answer waits for that.

    Args:
        handle: of the actor.
        timeout: seconds after which it is killed instead; None waits.
    """
    return current.home().ask("stop", _handle(handle, "stop"), timeout)


def kill(handle: object) -> None:
    """End an actor now: what it runs is cancelled, what waits fails, `on_stop` is not called."""
    current.home().ask("kill", _handle(handle, "kill"))


def info(handle: object) -> Reply[ActorInfo]:
    """What there is to know about an actor: id, name, state, node."""
    return current.home().ask("info", _handle(handle, "info"))


def exit_actor() -> None:
    """From inside a method: end this actor and leave the method, at once.

    What else the actor runs fails with `ActorDiedError`.

    Raises:
        UsageError: no method of an actor runs here.
    """
    if not context().actor_id:
        raise UsageError("exit_actor() ends the actor whose method calls it, and no method of an actor runs here")
    raise ActorExit


# -- the cluster -------------------------------------------------------------------------------------------------------


def nodes() -> Reply[list[NodeRow]]:
    """The members of the cluster as this node sees them, this one first."""
    return current.home().ask("nodes")


DRAIN_SECONDS: Final = 30.0


def drain(node: NodeRow | str | None = None, timeout: float = DRAIN_SECONDS) -> Reply[DrainReport]:
    """Have a node leave the cluster without loss: what it is asked for is finished, what others hold of it lives on.

    Nothing new is placed there. Tasks that wait there go elsewhere, those that run are finished; the calls of its own
    program are awaited. Actors that are detached, or have restarts, move; others may end by themselves. Then another
    node takes over the objects that were put there, and the actors that were created there, as far as others hold
    them. At the end the node is closed.

    Args:
        node: a row of `nodes()`, a node's name or its id; None for this node.
        timeout: seconds after which it leaves all the same; the report says what was given up.
    """
    if isinstance(node, NodeRow):
        node = node.id
    given = cast("object", node)
    if not (given is None or isinstance(given, str)):
        raise UsageError(f"node is {given!r}; it must be a row of nodes(), a name, an id, or None for this node")
    seconds = cast("object", timeout)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds < 0:
        raise UsageError(f"timeout is {timeout!r}; it must be a number of seconds, 0 or more")
    return current.home().ask("drain", node, float(timeout))


def cluster_resources() -> Reply[dict[str, float]]:
    """All that the members have, summed by name."""
    return current.home().ask("cluster_resources")


def available_resources() -> Reply[dict[str, float]]:
    """What of it is free now, as the members said just now."""
    return current.home().ask("available_resources")


def context() -> CallContext:
    """What is known about the running call: node_id, task_id, actor_id, attempt, deadline, gpus, handle, fencing_token.

    Outside any call only `node_id` is set.
    """
    home = current.home()
    running = home.call_context()
    return running if running is not None else CallContext(node_id=home_id(home))


def home_id(home: Any) -> str:
    """The id of the node that a home is or belongs to."""
    return cast("str", getattr(home, "node_id", None) or home.id)
