"""Control requests of this node's own code and of its workers: what `nodes`, `get_actor`, `stop` and `wait` do.

Each verb is a coroutine; `start` runs it at once and gives its answer as a `Reply`. Those that other nodes may ask for
by message are entered in `Asks`.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from actorfw.runtime.handles import ActorHandle
from actorfw.runtime.refs import PENDING, ObjectRef, Reply
from actorfw.runtime.rows import ActorInfo, NodeRow
from actorfw.values.errors import ActorDiedError, ActorFwError, ActorNotFoundError, PeerUnreachableError, UsageError
from actorfw.values.ids import RefId, node_id_of, text_id
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Verbs"]

T = TypeVar("T")

STATUS_SECONDS: Final = 2.0  # how long a peer may take to say how it is


class Verbs:
    """The control requests that one node answers."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed: Exception | None = None
        self._known: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
            "nodes": self._nodes,
            "cluster_resources": self._cluster_resources,
            "available_resources": self._available_resources,
            "get_actor": self._get_actor,
            "stop": self._stop,
            "kill": self._kill,
            "info": self._info,
            "status": self._status,
            "wait": self._wait,
            "room": self._room,
            "room_at": self._room_at,
        }
        verbs = node.asks.verbs
        verbs["members"] = lambda peer, payload: node.members.rows_on_wire()
        verbs["dial_back"] = lambda peer, payload: node.members.dial_back(peer, payload)
        verbs["available"] = lambda peer, payload: node.ledger.available()
        verbs["pump"] = lambda peer, payload: node.guardians.pump()
        verbs["interface"] = self._tell_interface
        verbs["info"] = self._tell_info
        verbs["stop"] = self._stop_for
        verbs["cancel"] = self._cancel_for
        verbs["ready"] = self._when_ready
        verbs["status"] = lambda peer, payload: self.own_status()

    def start(self, verb: str, *args: Any) -> Reply[Any]:
        """Begin a request; any thread."""
        reply: Reply[Any] = Reply(self.node)
        self.node.check_open()
        if self.node.at_home():
            self._begin(reply, verb, args)
        else:
            self.node.post(self._begin, reply, verb, args)
        return reply

    def _begin(self, reply: Reply[Any], verb: str, args: tuple[Any, ...]) -> None:
        fn = self._known.get(verb)
        if fn is None:
            reply._fail(UsageError(f"no request is called {verb!r}"))
            return
        task = self._keep(reply, verb, fn(*args))
        if verb == "wait":
            reply.add_done_callback(lambda _: task.cancel())

    def begin(self, name: str, coro: Coroutine[Any, Any, T]) -> Reply[T]:
        """Run a coroutine on the node's loop, from any thread; ends with the node at the latest."""
        self.node.check_open()
        reply: Reply[T] = Reply(self.node)
        if self.node.at_home():
            self._keep(reply, name, coro)
        else:
            self.node.post(self._keep, reply, name, coro)
        return reply

    def _keep(self, reply: Reply[Any], name: str, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        task = self.node.env.create_task(self._run(reply, coro), name=f"actorfw {name}")
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(task, reply, coro))
        if self._closed is not None:
            task.cancel()
        return task

    def _ended(self, task: asyncio.Task[None], reply: Reply[Any], coro: Coroutine[Any, Any, Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():  # before its first step: `_run` had no chance to say so
            coro.close()
            self._cut_off(reply)

    def _cut_off(self, reply: Reply[Any]) -> None:
        if self._closed is not None:
            reply._fail(self._closed)
        else:
            reply._cancel()

    async def _run(self, reply: Reply[Any], coro: Coroutine[Any, Any, Any]) -> None:
        try:
            reply._settle(await coro)
        except asyncio.CancelledError:
            self._cut_off(reply)
        except Exception as error:
            reply._fail(error)

    def close(self, error: Exception) -> None:
        self._closed = error
        for task in self._tasks:
            task.cancel()

    # -- the cluster ---------------------------------------------------------------------------------------------------

    async def _nodes(self) -> list[NodeRow]:
        return self.node.members.listing()

    async def _cluster_resources(self) -> dict[str, float]:
        total: dict[str, float] = {}
        for row in self.node.members.listing():
            for name, amount in row.resources.items():
                total[name] = total.get(name, 0) + amount
        return total

    async def _available_resources(self) -> dict[str, float]:
        node = self.node
        answers: list[Any] = [node.ledger.available()]
        asked = [node.asks.ask(peer, "available", None) for peer in node.peers.by_life.values()]
        answers += await asyncio.gather(*asked, return_exceptions=True)
        total: dict[str, float] = {}
        for answer in answers:
            if isinstance(answer, dict):
                for name, amount in answer.items():
                    total[name] = total.get(name, 0) + amount
        return total

    async def _status(self) -> list[dict[str, Any]]:
        node = self.node
        peers = list(node.peers.by_life.values())
        asked = [asyncio.ensure_future(self._status_of(peer)) for peer in peers]
        return [self.own_status(), *await asyncio.gather(*asked)]

    async def _status_of(self, peer: Peer) -> dict[str, Any]:
        try:
            async with asyncio.timeout(STATUS_SECONDS):
                answer: dict[str, Any] = await self.node.asks.ask(peer, "status", None)
                return answer
        except (ActorFwError, TimeoutError):
            # It is there and says nothing: what is known of it is all there is.
            return {"id": node_id_of(peer.life), "name": peer.name, "address": peer.address, "state": "stalled"}

    def own_status(self) -> dict[str, Any]:
        """Figures of this node, for `actorfw status`."""
        node = self.node
        return {
            "id": node.id,
            "name": node.name,
            "address": node.address,
            "state": node.members.state,
            "python": platform.python_version(),
            "peers": len(node.peers.by_life),
            "resources": node.ledger.totals.as_dict(),
            "available": node.ledger.available(),
            "workers": len(node.pool.workers),
            "resident_bytes": self._resident_bytes(),
            "worker_deaths": node.pool.deaths,
            "tasks_open": len(node.tasks.open),
            "tasks_waiting": node.tasks.waiting,
            "tasks_running": len(node.execution.by_serial),
            "tasks_finished": node.execution.finished,
            "tasks_retried": node.tasks.retried,
            "actors": len(node.hosting.cells),
            "calls_open": len(node.calls.open),
            "outbox_bytes": node.outbound.outbox_bytes(),
            "counters": dict(node.peers.counters),
        }

    def _resident_bytes(self) -> int:
        """Memory of this process and its workers; what they share counts in each."""
        import psutil  # 30 ms, and only `status` needs it

        total = 0
        for pid in (self.node.env.pid, *(worker.pid for worker in self.node.pool.workers.values())):
            try:
                total += psutil.Process(pid).memory_info().rss if pid else 0
            except psutil.Error:
                pass  # it has just ended, or is simulated
        return total

    # -- actors --------------------------------------------------------------------------------------------------------

    async def _get_actor(self, name: str, namespace: str | None) -> ActorHandle:
        node = self.node
        where = namespace or node.namespace
        entry = await node.directory.lookup(where, name)
        if entry is None:
            listed = sorted(found for _, found, _ in await node.directory.listing(where))
            there = f"; there are {', '.join(map(repr, listed))}" if listed else ""
            raise ActorNotFoundError(f"no actor is named {name!r} in namespace {where!r}{there}")
        try:
            return await node.handle_of(entry)
        except ActorDiedError as error:
            raise ActorNotFoundError(f"no actor is named {name!r} in namespace {where!r} any more: {error}") from error

    async def _stop(self, handle: ActorHandle, timeout: float | None) -> None:
        id = (handle._guardian, handle._number)
        ending = asyncio.ensure_future(self._stop_id(id, handle._address))
        try:
            await asyncio.wait_for(asyncio.shield(ending), timeout)
        except TimeoutError:
            await self._kill(handle)
            await ending

    async def _stop_id(self, id: RefId, address: str) -> None:
        node = self.node
        if id[0] == node.life:
            reply = node.guardians.end(id[1], "stopped")
            if reply is not None:
                await reply
            return
        peer = await self._peer(id[0], address)
        if peer is not None:
            await node.asks.ask(peer, "stop", id[1])

    def _stop_for(self, peer: Peer, number: int) -> Reply[Any] | None:
        return self.node.guardians.end(number, "stopped")

    async def _kill(self, handle: ActorHandle) -> None:
        node = self.node
        if handle._guardian == node.life:
            node.guardians.end(handle._number, "killed")
            return
        peer = await self._peer(handle._guardian, handle._address)
        if peer is not None:
            peer.send((m.END, handle._guardian, handle._number, "killed"))

    async def _peer(self, life: bytes, address: str) -> Peer | None:
        found: asyncio.Future[Any] = self.node.env.create_future()
        self.node.reach(life, address, found.set_result)
        peer = await found
        return None if isinstance(peer, PeerUnreachableError) else peer

    async def _info(self, handle: ActorHandle) -> ActorInfo:
        node = self.node
        number = handle._number
        if handle._guardian == node.life:
            found = node.guardians.info(number)
        else:
            peer = await self._peer(handle._guardian, handle._address)
            found = await node.asks.ask(peer, "info", number) if peer is not None else None
        if found is None:
            text = text_id((handle._guardian, number))
            raise ActorDiedError(f"actor {text[-20:]} has ended and is forgotten", reason="unknown", ran=False)
        return ActorInfo(**found)

    def _tell_info(self, peer: Peer, number: int) -> dict[str, Any] | None:
        return self.node.guardians.info(number)

    def _tell_interface(self, peer: Peer, number: int) -> list[Any]:
        actor = self.node.guardians.actors.get(number)
        if actor is None:
            raise ActorDiedError("the actor has just ended", reason="unknown", ran=False)
        return actor.interface.to_wire()

    def _when_ready(self, peer: Peer, number: int) -> Reply[Any]:
        reply: Reply[Any] = Reply(self.node)
        ref = self.node.objects.adopt(self.node.life, number, "")
        self.node.objects.when_done(ref, lambda _: reply._settle(None))
        return reply

    def _cancel_for(self, peer: Peer, payload: list[Any]) -> None:
        number, force, recursive = payload
        self.node.cancel_number(number, force=force, recursive=recursive)

    async def _room(self) -> None:
        """A worker has submitted much, and goes on when there is room for more."""
        await self.node.tasks.outbox.ask(Reply(self.node))
        await self.node.calls.has_room()

    async def _room_at(self, guardian: bytes, number: int) -> None:
        """A worker has told an actor much, and goes on when this node's window to it has room."""
        await self.node.calls.window((guardian, number))

    # -- waiting -------------------------------------------------------------------------------------------------------

    async def _wait(
        self, refs: list[ObjectRef[Any]], num_returns: int, timeout: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Which refs are ready, without fetching any."""
        ready = await self._until_ready(refs, num_returns, timeout)
        first = [ref for ref in refs if ref in ready][:num_returns]
        taken = set(map(id, first))
        return first, [ref for ref in refs if id(ref) not in taken]

    async def _until_ready(
        self, refs: list[ObjectRef[Any]], num_returns: int, timeout: float | None
    ) -> set[ObjectRef[Any]]:
        node = self.node
        ready = {ref for ref in refs if ref._state != PENDING}
        enough: asyncio.Future[None] = node.env.create_future()

        def one(ref: ObjectRef[Any]) -> None:
            ready.add(ref)
            if len(ready) >= num_returns and not enough.done():
                enough.set_result(None)

        watched: list[tuple[ObjectRef[Any], Any]] = []
        if len(ready) < num_returns:
            for ref in refs:
                if ref._state == PENDING:
                    if ref._lazy:
                        node.objects.when_ready(ref, one)
                    else:
                        ref.add_done_callback(one)
                        watched.append((ref, one))
            try:
                await asyncio.wait_for(enough, timeout)
            except TimeoutError:
                pass
            finally:
                for ref, callback in watched:
                    ref.remove_done_callback(callback)
        return ready

    def wait(self, refs: list[ObjectRef[Any]], num_returns: int, timeout: float | None) -> Reply[Any]:
        """`actorfw.wait`."""
        return self.start("wait", refs, num_returns, timeout)
