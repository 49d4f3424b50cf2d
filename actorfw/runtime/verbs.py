"""Control requests of this node's own code and of its workers: what `nodes`, `get_actor`, `stop` and `wait` do.

Each verb is a coroutine; `start` runs it at once and gives its answer as a `Reply`. Those that other nodes may ask for
by message are entered in `Asks`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, TypeVar

from actorfw.core.bundles import Strategy, shape_of
from actorfw.runtime.canvass import Canvass
from actorfw.runtime.checkup import Checkup
from actorfw.runtime.handles import ActorHandle, hash_by_name
from actorfw.runtime.refs import PENDING, ObjectRef, Reply
from actorfw.runtime.rows import ActorInfo, DrainReport, NodeRow
from actorfw.runtime.tasklist import TaskList
from actorfw.runtime.visits import Visits
from actorfw.values.errors import (
    ActorDiedError,
    ActorNotFoundError,
    PeerLostError,
    PeerUnreachableError,
    UsageError,
)
from actorfw.values.ids import RefId, is_detached, node_id_of, text_id
from actorfw.values.scheduling import PlacementGroup
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Verbs"]

T = TypeVar("T")

GOODBYE_SECONDS: Final = 2.0  # in which a node that has drained says goodbye, after its report


class Verbs:
    """The control requests that one node answers."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.tasklist = TaskList(node)
        self.checkup = Checkup(node)
        self.visits = Visits(node)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed: Exception | None = None
        self._known: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
            "nodes": self._nodes,
            "cluster_resources": self._cluster_resources,
            "available_resources": self._available_resources,
            "get_actor": self._get_actor,
            "stop": self._stop,
            "drain": self._drain,
            "kill": self._kill,
            "actors": lambda: node.actorlist.everywhere(Canvass(node)),
            "kill_actor": node.actorlist.kill,
            "objects": node.objectlist.everywhere,
            "info": self._info,
            "status": lambda: self.status(Canvass(node)),
            "wait": self._wait,
            "placement_group": self._placement_group,
            "remove_placement_group": self._remove_placement_group,
            "room": self._room,
            "room_at": self._room_at,
        }
        # Answered without a task each: they may wait for long, or come often.
        self._direct: dict[str, Callable[..., object]] = {
            "watch": node.watching.watch,
            "watch_restarts": self._watch_restarts,
            "accepted": self._accepted,
            "events": self._events,
            "read": node.readings.take,
        }
        verbs = node.asks.verbs
        verbs["available"] = lambda peer, payload: node.ledger.available()
        verbs["pump"] = lambda peer, payload: node.guardians.placing.pump()
        verbs["remove_placement_group"] = lambda peer, payload: node.bundles.remove(payload)
        verbs["interface"] = self._tell_interface
        verbs["info"] = self._tell_info
        verbs["stop"] = self._stop_for
        verbs["drain"] = self._drain_for
        verbs["actors"] = lambda peer, payload: node.actorlist.own()
        verbs["objects"] = lambda peer, limit: node.objectlist.asked(limit)
        verbs["object_holders"] = lambda peer, ids: node.objectlist.held_here(ids)
        verbs["move"] = lambda peer, id: node.guardians.move((id[0], id[1]))
        verbs["inherit"] = node.heirs.asked
        verbs["hosted"] = lambda peer, cell: node.guardians.hosts(peer.life, (cell[0], cell[1]), cell[2])
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
        direct = self._direct.get(verb)
        if direct is not None:
            direct(reply, *args)
            return
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
        except Exception as error:  # whoever asked is told
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
        asked = [node.asks.ask(peer, "available", None) for peer in node.members.peers()]
        answers += await asyncio.gather(*asked, return_exceptions=True)
        total: dict[str, float] = {}
        for answer in answers:
            if isinstance(answer, dict):
                for name, amount in answer.items():
                    total[name] = total.get(name, 0) + amount
        return total

    async def status(self, canvass: Canvass) -> list[dict[str, Any]]:
        """Figures of all members. Of one that gives no answer there is only what everybody knows."""
        answers = await canvass.ask("status")
        rows = [self.own_status(), *answers.values()]
        for fact in self.node.members.facts.values():
            if fact.node_id in canvass.silent:
                address = self.node.members.addresses.get(fact.life, "")
                known = {"id": fact.node_id, "name": fact.name, "address": address, "state": fact.state}
                rows.append({**known, "answered": False})
        return rows

    def own_status(self) -> dict[str, Any]:
        """Figures of this node, for `actorfw status`."""
        node = self.node
        return {
            "id": node.id,
            "name": node.name,
            "address": node.address,
            "state": node.members.state,
            "answered": True,
            "python": sys.version.partition(" ")[0],
            "peers": len(node.members.facts) - 1,
            "resources": node.ledger.totals.as_dict(),
            "available": node.ledger.available(),
            "workers": len(node.pool.workers),
            "resident_bytes": self._resident_bytes(),
            "worker_deaths": node.pool.deaths,
            "tasks_open": len(node.tasks.open),
            "tasks_waiting": node.tasks.waiting + node.pool.foreign.waiting,
            "tasks_running": len(node.execution.by_serial),
            "tasks_finished": node.execution.finished,
            "tasks_retried": node.tasks.retried,
            "actors": len(node.hosting.cells),
            "calls_open": len(node.calls.open),
            "outbox_bytes": node.outbound.outbox_bytes(),
            "counters": dict(node.peers.counters),
            "limits": node.limits.rows(),
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

    async def _drain(self, target: str | None, timeout: float) -> DrainReport:
        node = self.node
        rows = node.members.listing()
        found = [row for row in rows if row.here if target is None] or [
            row for row in rows if target in (row.id, row.name, row.address)
        ]
        if not found:
            known = ", ".join(f"{row.name} ({row.id})" for row in rows)
            raise UsageError(f"no member of the cluster has the name or id {target!r}; there are {known}")
        if found[0].here:
            return await node.leaving.leave(timeout)
        life = next(life for life in node.members.facts if node_id_of(life) == found[0].id)
        peer = await self._peer(life, found[0].address)
        if peer is None:
            raise PeerUnreachableError(f"node {found[0].name} at {found[0].address} can't be reached")
        report = DrainReport(**await node.asks.ask(peer, "drain", timeout))
        until = node.env.time() + GOODBYE_SECONDS
        while life in node.members.facts and node.env.time() < until:  # noqa: ASYNC110  (its goodbye is on its way)
            await asyncio.sleep(0.01)
        return report

    def _drain_for(self, peer: Peer, timeout: float) -> Reply[Any]:
        reply: Reply[Any] = Reply(self.node)

        def done(leaving: asyncio.Future[DrainReport]) -> None:
            if not leaving.cancelled():
                reply._settle(leaving.result().as_dict())

        self.node.leaving.leave(timeout).add_done_callback(done)
        return reply

    # -- answered without a task ---------------------------------------------------------------------------------------

    def _watch_restarts(self, reply: Reply[Any], handle: ActorHandle) -> None:
        reply._settle(self.node.watching.read(handle))

    def _accepted(self, reply: Reply[None], owner: bytes, number: int) -> None:
        self.node.windows.accepted(self.node.objects.adopt(owner, number, ""), reply)

    def _events(self, reply: Reply[Any]) -> None:
        reply._settle(self.node.events.read())

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
            handle = await node.handle_of(entry)
        except ActorDiedError as error:
            raise ActorNotFoundError(f"no actor is named {name!r} in namespace {where!r} any more: {error}") from error
        hash_by_name(handle, where, name)
        return handle

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
        while True:
            guardian = node.guardian_of(id)
            if is_detached(guardian):
                await node.detached.end(id, "stopped")
                return
            if guardian == node.life:
                reply = node.guardians.end(id, "stopped")
                if reply is not None:
                    await reply
                return
            peer = await self._peer(guardian, node.heirs.where(id[0], address)[1])
            if peer is None:
                return
            try:
                await node.asks.ask(peer, "stop", list(id))
                return
            except PeerLostError:
                if node.guardian_of(id) == guardian:
                    raise  # else it has left, and its heir knows

    def _stop_for(self, peer: Peer, id: list[Any]) -> Reply[Any] | None:
        heir = self.node.leaving.now_guards((id[0], id[1]))
        if heir is not None:
            return self.node.asks.ask(heir, "stop", id)
        return self.node.guardians.end((id[0], id[1]), "stopped")

    async def _kill(self, handle: ActorHandle) -> None:
        await self.kill_id((handle._guardian, handle._number), handle._address)

    async def kill_id(self, id: RefId, address: str) -> None:
        """Kill an actor; `address`: where its creator was."""
        node = self.node
        guardian = node.guardian_of(id)
        if is_detached(guardian):
            await node.detached.end(id, "killed")
            return
        if guardian == node.life:
            node.guardians.end(id, "killed")
            return
        peer = await self._peer(guardian, node.heirs.where(id[0], address)[1])
        if peer is not None:
            peer.send((m.END, *id, "killed", 0))

    async def _peer(self, life: bytes, address: str) -> Peer | None:
        found: asyncio.Future[Any] = self.node.env.create_future()
        self.node.reach(life, address, found.set_result)
        peer = await found
        return None if isinstance(peer, PeerUnreachableError) else peer

    async def _info(self, handle: ActorHandle) -> ActorInfo:
        node = self.node
        number = handle._number
        guardian = node.guardian_of((handle._guardian, number))
        if is_detached(guardian):
            found = await node.detached.info((handle._guardian, number))
        elif guardian == node.life:
            found = node.guardians.info((handle._guardian, number))
        else:
            peer = await self._peer(guardian, node.heirs.where(handle._guardian, handle._address)[1])
            found = await node.asks.ask(peer, "info", [handle._guardian, number]) if peer is not None else None
        if found is None:
            text = text_id((handle._guardian, number))
            raise ActorDiedError(f"actor {text[-20:]} has ended and is forgotten", reason="unknown", ran=False)
        return ActorInfo(**found)

    def _tell_info(self, peer: Peer, id: list[Any]) -> dict[str, Any] | None:
        return self.node.guardians.info((id[0], id[1]))

    def _tell_interface(self, peer: Peer, id: list[Any]) -> list[Any]:
        actor = self.node.guardians.actors.get((id[0], id[1]))
        if actor is None:
            raise ActorDiedError("the actor has just ended", reason="unknown", ran=False)
        return actor.interface.to_wire()

    def _when_ready(self, peer: Peer, id: list[Any]) -> Reply[Any]:
        reply: Reply[Any] = Reply(self.node)
        ref = self.node.objects.adopt(id[0], id[1], "")
        self.node.objects.watch([ref], lambda _: reply._settle(None))
        return reply

    def _cancel_for(self, peer: Peer, payload: list[Any]) -> None:
        number, force, recursive = payload
        self.node.cancel_number(number, force=force, recursive=recursive)

    async def _room(self) -> None:
        """A worker has submitted much, and goes on when there is room for more."""
        await self.node.tasks.outbox.ask(Reply(self.node))
        await self.node.windows.has_room()

    async def _room_at(self, guardian: bytes, number: int) -> None:
        """A worker has told an actor much, and goes on when this node's window to it has room."""
        await self.node.windows.room_at((guardian, number))

    # -- placement groups ----------------------------------------------------------------------------------------------

    async def _placement_group(
        self, bundles: list[dict[str, float]], strategy: Strategy, timeout: float | None
    ) -> PlacementGroup:
        reply = self.node.bundles.create(list(map(shape_of, bundles)), strategy, timeout)
        return await reply

    async def _remove_placement_group(self, group: PlacementGroup) -> None:
        node = self.node
        if group.owner == node.life:
            node.bundles.remove(group.number)
            return
        peer = await self._peer(group.owner, group.address)
        if peer is not None:
            await node.asks.ask(peer, "remove_placement_group", group.number)

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
                        ref._add((one, copy_context(), None))
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
