"""`Node`: one peer of a cluster. Its life, and the parts that do its work.

The parts know each other through the node; each has a module of its own, named after what it is responsible for:

    peers       sessions with other lives             members     who is there, and choosing among them
    objects     refs and values                       directory   names
    tasks       submitting tasks                      execution   running them, here
    pool        worker processes                      workercalls what workers submit
    calls       calling actors                        hosting     actors that live here
    windows     back-pressure of calls                deadlocks   actors that wait for each other in a circle
    guardians   actors that were made here            asks, verbs control requests
    submission  what code here starts                 inbound, outbound  messages in, values out

A node is also the `Home` of the API on its loop and in the threads beside it. Many nodes may live in one process, and
in one loop.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from actorfw.core.ledger import Ledger, Shape
from actorfw.core.shards import Entry
from actorfw.io.env import Env
from actorfw.io.tcp import join_address, split_address
from actorfw.runtime import current, lines
from actorfw.runtime.actorlist import ActorList
from actorfw.runtime.asks import Asks
from actorfw.runtime.blocking import Blocking
from actorfw.runtime.bundles import PlacementGroups
from actorfw.runtime.calls import Calls
from actorfw.runtime.context import CallContext, running_call
from actorfw.runtime.deadlocks import Deadlocks
from actorfw.runtime.definitions import ActorDefinitions, Interface, Recipe
from actorfw.runtime.detached import Detached
from actorfw.runtime.directory import Directory
from actorfw.runtime.environments import Environments
from actorfw.runtime.events import Events
from actorfw.runtime.execution import ExecutionService
from actorfw.runtime.failure import Failure
from actorfw.runtime.guardians import Guardians
from actorfw.runtime.handles import ActorHandle, Interfaces
from actorfw.runtime.heirs import Inheritance
from actorfw.runtime.hosting import Hosting
from actorfw.runtime.inbound import Inbound
from actorfw.runtime.items import Items
from actorfw.runtime.joining import Joining
from actorfw.runtime.leaving import Leaving
from actorfw.runtime.lostpeers import LostPeers
from actorfw.runtime.members import Members
from actorfw.runtime.nodelimits import limits_of
from actorfw.runtime.nodeoptions import NodeOptions
from actorfw.runtime.objects import Objects
from actorfw.runtime.outbound import Outbound
from actorfw.runtime.output import Output
from actorfw.runtime.peers import Identity, Peer, Peers
from actorfw.runtime.pool import Pool, Worker
from actorfw.runtime.pressure import MemoryPressure
from actorfw.runtime.readings import Readings
from actorfw.runtime.rebirth import Rebirth
from actorfw.runtime.refs import CANCELLED, FAILED, PENDING, READY, Grip, ObjectRef, Reply
from actorfw.runtime.rows import Hosts
from actorfw.runtime.seeds import OwnSeeds
from actorfw.runtime.store.births import Births
from actorfw.runtime.store.copies import Copies
from actorfw.runtime.store.fetches import Fetches
from actorfw.runtime.store.hostmates import HostMates
from actorfw.runtime.store.lineage import Rebuilding
from actorfw.runtime.store.listing import ObjectList
from actorfw.runtime.store.locations import Locations
from actorfw.runtime.store.pulls import Pulls
from actorfw.runtime.store.store import Store
from actorfw.runtime.store.workers import WorkerBlocks
from actorfw.runtime.streams import Stream
from actorfw.runtime.submission import Submission
from actorfw.runtime.tasks import Tasks
from actorfw.runtime.verbs import Verbs
from actorfw.runtime.visits import is_visitor
from actorfw.runtime.watching import Watching
from actorfw.runtime.windows import Windows
from actorfw.runtime.workercalls import WorkerCalls
from actorfw.runtime.workerlives import WorkerLives
from actorfw.values.errors import (
    ActorDiedError,
    NodeClosedError,
    PeerUnreachableError,
    UsageError,
)
from actorfw.values.ids import RefId, as_bytes, is_detached, life_of, node_id_of
from actorfw.wire.code import CodeTable
from actorfw.wire.codec import Codec
from actorfw.wire.failures import unpack_error

if TYPE_CHECKING:
    from actorfw.runtime.channel import WorkerProcess
    from actorfw.runtime.processcells import ProcessCell

__all__ = ["Node"]

logger = logging.getLogger("actorfw.node")

LEAVE_SECONDS = 1.0  # for handing over names; whoever is left recovers the rest


class Node:
    """A peer on the running loop. `await node.start()`, then use it; `await node.stop()`."""

    def __init__(self, env: Env, options: NodeOptions) -> None:
        self.env = env
        self.has_threads = env.pace is None
        self.options = options
        self.config = options.config
        self.name = options.name
        self.namespace = options.namespace
        self.hosts: Hosts = options.hosts
        self.labels = options.labels
        self.loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.life = life_of(env.token(8), env.token(8))
        self.id = node_id_of(self.life)
        self.address = ""
        self.listen_address = ""
        self.dashboard_url: str | None = None
        self.open = False
        self.closing = False
        self._stopped: asyncio.Future[None] | None = None
        self.ended: asyncio.Future[None] = env.create_future()  # it has stopped, whoever asked for that
        self.base_context: Context = copy_context()
        self.ledger = Ledger(options.totals)
        self.codes = CodeTable(env.host_id)
        self.codec = Codec(self.codes)
        self.store = Store(self)
        self.codec.shared = self.store if self.store.arena is not None else None
        self.actor_classes = ActorDefinitions()
        self._recipes: dict[bytes, Recipe] = {}
        self.numbers = itertools.count(1)  # of calls and objects; any thread may take the next
        self.streams: dict[int, Any] = {}
        self.objects = Objects(self)
        self.fetches = Fetches(self)
        self.copies = Copies(self)
        self.pulls = Pulls(self)
        self.locations = Locations(self)
        self.lineage = Rebuilding(self)
        self.items = Items(self)
        self.heirs = Inheritance(self)
        self.leaving = Leaving(self)
        self.interfaces = Interfaces(self._handle_class_made)
        self._handle_class_made(ActorHandle)  # so that the codec knows handles before the first is made here
        self.codec.register(ObjectRef, self.objects.export_ref, self._adopt_wire, resolves=True)
        self.outbound = Outbound(self)
        self.asks = Asks(self)
        self.readings = Readings(self)
        self.events = Events(self)
        self.members = Members(self)
        self.failure = Failure(self)
        self.seeds = OwnSeeds(self)
        self.joining = Joining(self)
        self.directory = Directory(self)
        self.detached = Detached(self)
        self.tasks = Tasks(self)
        self.pool = Pool(self)
        self.environments = Environments(self)
        self.resolver = self.environments.resolver
        self.pressure = MemoryPressure(self)
        self.execution = ExecutionService(self)
        self.calls = Calls(self)
        self.windows = Windows(self)
        self.deadlocks = Deadlocks(self)
        self.hosting = Hosting(self)
        self.guardians = Guardians(self)
        self.watching = Watching(self)
        self.bundles = PlacementGroups(self)
        self.workercalls = WorkerCalls(self)
        self.workerlives = WorkerLives(self)
        self.workerblocks = WorkerBlocks(self)
        self.hostmates = HostMates(self)
        self.output = Output(self, options.show_output)
        self.actorlist = ActorList(self)
        self.births = Births(self)
        self.objectlist = ObjectList(self)
        self.verbs = Verbs(self)
        self.inbound = Inbound(self)
        # The submitting half of `Home`, as attributes: a call passes no further frame on its way.
        submission = Submission(self)
        self.submit = submission.submit
        self.create_actor = submission.create_actor
        self.call_actor = submission.call_actor
        self.tell_actor = submission.tell_actor
        self.put = submission.put
        blocking = Blocking(self)
        self.block = blocking.block
        self.lending = blocking.lending
        self.stream_credit = self.items.taken
        self.on_large_head = self.inbound.on_large_head
        self.on_large = self.inbound.on_large
        lost = LostPeers(self)
        self.evidence = self.failure.evidence
        self.linked = self.failure.linked
        self.rested = self.failure.rested
        self.peer_lost = lost.peer_lost
        self.peer_back = lost.peer_back
        self.identity = Identity(self.life, self.name, options.cluster)
        self.peers = Peers(
            env,
            self.identity,
            self.config,
            options.secrets,
            events=self,
            handlers=self.inbound.of_peers(),
            on_unsendable=self.inbound.unsendable,
        )
        self.worker_handlers = self.inbound.of_workers()
        self.limits = limits_of(self)
        self.peers.entrance.on_unread = self.inbound.unread
        self.rebirth = Rebirth(self)

    def __repr__(self) -> str:
        state = "up" if self.open else "closed" if self.closing else "new"
        return f"<Node {self.name} {self.address or '-'} {state}, {len(self.peers.by_life)} peers>"

    # -- life ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, join and be up; raises what `Members.join` raises, and leaves nothing behind then."""
        options = self.options
        try:
            bound = await self.peers.listen(*options.listen)
        except OSError as error:
            host, port = options.listen
            raise UsageError(f"node {self.name} can't listen on {host}:{port}: {error.strerror or error}") from error
        self.listen_address = bound
        self.address = _advertised(options.advertise, bound)
        self.identity.info["address"] = self.address
        self.hostmates.start()
        self.base_context.run(current.entered.set, self)
        self.members.introduce_self()
        if options.warm and self.ledger.totals.as_dict().get("CPU"):
            self.pool.warm()
        try:
            await self.joining.join()
        except BaseException:  # cancelled or failed: what has started is to end
            await self.stop()
            raise
        self.rebirth.start()
        self.detached.start()
        self.births.start()
        self.store.start()

    async def stop(self) -> None:
        """Leave: say goodbye, end what runs here, fail what is pending, and wait until all processes are gone."""
        if self._stopped is not None:
            await asyncio.shield(self._stopped)
            return
        self._stopped = self.env.create_future()
        try:
            await self._stop()
        finally:
            self._stopped.set_result(None)
            if not self.ended.done():
                self.ended.set_result(None)

    def end_work(self, how: str = "killed") -> None:
        """Take nothing new, and end what is not done."""
        self.closing = True
        self.open = False
        self.rebirth.close()
        current.unregister(self)
        # What is pending fails because the node closes, not because of what that does to tasks and actors here.
        error = self.closed_error()
        self.tasks.close(error)
        self.calls.close(error)
        self.deadlocks.close()
        self.hosting.close(how)
        self.execution.close()

    async def _stop(self) -> None:
        self.seeds.leave()
        if not self.closing:
            self.closing = True
            self.open = False
            self.rebirth.close()
            current.unregister(self)
            if self.peers.by_life:
                await self.directory.leave(LEAVE_SECONDS)
            self.end_work()
        error = self.closed_error()
        self.detached.close()
        self.births.close()
        self.directory.close()
        self.failure.leave()
        await self.peers.close()
        self.bundles.close()
        self.guardians.close()
        self.asks.close(error)
        self.watching.close(error)
        self.readings.close()
        self.verbs.close(error)
        for stream in list(self.streams.values()):
            found = stream()
            if found is not None and found._end is None:
                found._end = (-1, error)
                found._hand_out()
        self.streams.clear()
        self.pressure.close()
        await self.pool.close()
        await self.environments.close()
        self.objects.close(error)
        self.hostmates.close()
        self.store.close()
        # Tasks that were cancelled above end within a few turns, unless user code refuses: that is not waited for.
        for _ in range(3):
            await asyncio.sleep(0)

    # -- events of peers -----------------------------------------------------------------------------------------------

    def peer_up(self, peer: Peer) -> None:
        peer.data = set()  # hashes of the definitions that it has
        self.heirs.peer_up(peer)
        self.leaving.peer_up(peer)
        self.directory.peer_up(peer)

    def peer_ended(self, peer: Peer, reason: str, detail: str, unsent: list[Sequence[Any]]) -> None:
        life, name = peer.life, peer.name
        if is_visitor(peer):
            self.verbs.visits.ended(peer)
            return
        logger.info("node %s is gone: %s (%s)", name, reason, detail)
        self.hostmates.peer_ended(life)
        self.heirs.peer_ended(life)
        self.leaving.peer_ended(life)
        if not self.rebirth.under_way:
            self.locations.peer_ended(life)
            self.pulls.peer_ended(life)
        if self.closing:
            self.objects.owner_died(life, detail)  # somebody may still hang on this node for what that one had
            self.peers.tell(self.directory.peer_ended, life)  # it takes no names over from this node
            self.peers.tell(self.members.peer_ended, life)
            return
        why = f"it left ({detail})" if reason == "left" else f"it was judged {reason}: {detail}"
        if self.rebirth.under_way:
            why = detail
        tell = self.peers.tell  # each part hears of it, whatever another one does about it
        tell(self.hosting.peer_ended, life)
        # Calls first: a guardian that ends an actor ends its route, and what was sent on it could not be found any
        # more.
        tell(self.calls.peer_ended, life, name, why, unsent)
        tell(self.windows.peer_ended, life)
        tell(self.directory.peer_ended, life)  # before guardians: what they record must not be sent to the dead
        tell(self.guardians.peer_ended, life, name, why)
        tell(self.execution.peer_ended, life)
        tell(self.pool.foreign.peer_ended, life)
        tell(self.members.peer_ended, life)
        tell(self.bundles.peer_ended, life, why)
        tell(self.tasks.peer_ended, life, name, why, unsent)
        tell(self.asks.peer_ended, life, name, why)
        if self.rebirth.under_way:
            return  # it is not they who have died
        tell(self.watching.peer_ended, life, why)
        tell(self.events.peer_ended, life)
        tell(self.objects.owner_died, life, why)
        tell(self.failure.peer_ended, peer, reason, detail)

    def reach(self, life: bytes, address: str, then: Callable[[Peer | PeerUnreachableError], object]) -> None:
        if not self.rebirth.under_way:  # else whoever wants that is about to give it up
            self.members.reach(life, lines.address_in(address), then)

    def guardian_of(self, id: RefId) -> bytes:
        """The life that guards an actor now."""
        return self.heirs.of(id[0])

    def load(self) -> float:
        """How much there is to do here: tasks running and queued."""
        return len(self.execution.by_serial) + self.tasks.waiting

    def has_room(self, executor: str, shape: Shape) -> bool:
        """Whether a task of this shape could start here now."""
        if self.closing:
            return False
        return self.pool.has_room(shape) if executor == "process" else self.ledger.has_room(shape)

    def descriptors(self) -> list[int]:
        return self.peers.descriptors() + self.hostmates.descriptors() + self.seeds.descriptors()

    # -- small things the parts share ----------------------------------------------------------------------------------

    def recipe(self, hashed: bytes) -> Recipe:
        """The definition that a message names."""
        recipe = self._recipes.get(hashed)
        if recipe is None:
            recipe = self._recipes[hashed] = Recipe.from_blob(self.codes.get(hashed))
        return recipe

    def next_number(self) -> int:
        return next(self.numbers)

    def next_serial(self) -> int:
        return self.execution.next_serial()

    def unpack_args(self, args: Any, refs: list[ObjectRef[Any]] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments as the function gets them: refs at top level replaced by their values."""
        if type(args) is int:
            assert refs is not None
            args = refs[-1]._out
        if args is None:
            return (), {}
        given, kwargs = self.codec.unpack_args(args)
        if refs:
            given = tuple(a.result() if type(a) is ObjectRef else a for a in given)
            kwargs = {k: a.result() if type(a) is ObjectRef else a for k, a in kwargs.items()}
        return given, kwargs

    def unpack_error(self, out: Any) -> Exception:
        return unpack_error(self.codec, self.objects.keep(out))

    def cell_of(self, process: WorkerProcess) -> ProcessCell | None:
        worker = self.pool.workers.get(process.index)
        return worker.cell if worker is not None else None

    def worker_calls_ended(self, worker: Worker) -> None:
        self.workercalls.worker_ended(worker.process.index)
        self.workerlives.ended(worker.process.index)

    async def handle_of(self, entry: Entry) -> ActorHandle:
        """The handle of a named actor.

        Raises:
            ActorDiedError: it has ended meanwhile, or its guardian has.
        """
        if is_detached(entry.life):
            interface = await self.detached.interface(entry.id)
            return self.objects.adopt_handle((*entry.id, ""), interface)
        guardian, address = self.heirs.where(entry.guardian, entry.address)
        if guardian == self.life:
            actor = self.guardians.actors.get((entry.life, entry.number))
            if actor is None:
                raise ActorDiedError("the actor of this name has just ended", reason="unknown", ran=False)
            interface = actor.interface
        else:
            found: asyncio.Future[Any] = self.env.create_future()
            self.reach(guardian, address, found.set_result)
            peer = await found
            if not isinstance(peer, Peer):
                raise ActorDiedError(f"the node that made the actor is gone: {peer}", reason="owner_died", ran=False)
            wire = await self.asks.ask(peer, "interface", [entry.life, entry.number])
            interface = Interface.from_wire(wire)
        return self.objects.adopt_handle((entry.life, entry.number, entry.address), interface)

    def _handle_class_made(self, made: type[ActorHandle]) -> None:
        self.codec.register(made, self.objects.export_handle, self.objects.adopt_handle, kind="handle")

    def _adopt_wire(self, wire: Any, extra: Any) -> ObjectRef[Any]:
        return self.objects.adopt(as_bytes(wire[0]), wire[1], wire[2])

    # -- Home: where things happen -------------------------------------------------------------------------------------

    def at_home(self) -> bool:
        return threading.get_ident() == self.thread

    def post(self, fn: Callable[..., object], *args: Any) -> None:
        assert self.loop is not None
        try:
            if threading.get_ident() == self.thread:
                self.env.call_soon(fn, *args)
            else:
                self.loop.call_soon_threadsafe(fn, *args)
        except RuntimeError:
            pass  # the loop is closed: the node is gone, and so is what this was for

    def wake(self, fn: Callable[[], object]) -> None:
        """As `post`, from a finalizer: it may run in any thread, at any moment, after the loop has closed."""
        self.post(fn)

    def asked(self, ref: ObjectRef[Any]) -> None:
        self.fetches.fetch(ref)

    def unasked(self, ref: ObjectRef[Any]) -> None:
        self.fetches.unasked(ref)

    def await_cancelled(self, ref: Reply[Any]) -> bool:
        if not isinstance(ref, ObjectRef):
            return True
        if ref._grip is not None or ref._owner != self.life:
            return False  # a value that stays elsewhere has a grip, too
        number = ref._number
        task = self.tasks.of_number(number)
        if task is not None and any(part._grip is not None for part in task.refs):
            return False  # another part of its result was handed on
        if not self.tasks.cancel(number, force=False, recursive=True, mark=CANCELLED):
            self.calls.cancel(number, CANCELLED)
        return ref._state == PENDING

    def grip(self, id: RefId) -> Grip:
        return self.objects.grip(id)

    def released(self, id: RefId) -> None:
        self.objects.released(id)

    def pin(self, thing: Any) -> None:
        self.objects.pin(thing)

    def adopt_ref(self, owner: bytes, number: int, address: str) -> ObjectRef[Any]:
        return self.objects.adopt(owner, number, address)

    def adopt_handle(self, guardian: bytes, number: int, address: str, interface: Interface) -> ActorHandle:
        return self.objects.adopt_handle((guardian, number, address), interface)

    # -- Home: streams -------------------------------------------------------------------------------------------------

    def stream_dropped(self, number: int) -> None:
        self.post(self._stream_dropped, number)

    def _stream_dropped(self, number: int) -> None:
        self.streams.pop(number, None)
        if self.readings.drop(number):
            return
        if not self.tasks.cancel(number, force=False, recursive=True, mark=FAILED):
            self.calls.cancel(number, CANCELLED)

    def ref_of(self, out: Any) -> ObjectRef[Any]:
        return self.objects.made(self.next_number(), READY, out)

    # -- Home: verbs ---------------------------------------------------------------------------------------------------

    def closed_error(self) -> NodeClosedError:
        """What everything that is pending ends with."""
        return NodeClosedError(f"node {self.name} was shut down")

    def check_open(self) -> None:
        if not self.open:
            raise NodeClosedError(f"node {self.name} is {'closing' if self.closing else 'not up yet'}")

    def ask(self, verb: str, *args: Any) -> Reply[Any]:
        return self.verbs.start(verb, *args)

    def cancel(self, ref: ObjectRef[Any] | Stream[Any], *, force: bool, recursive: bool) -> None:
        if threading.get_ident() == self.thread:
            self._cancel(ref, force, recursive)
        else:
            self.post(self._cancel, ref, force, recursive)

    def _cancel(self, ref: Any, force: bool, recursive: bool) -> None:
        if isinstance(ref, Stream):
            ref._cancelled()
            self.cancel_number(ref._number, force=force, recursive=recursive)
        elif ref._owner == self.life:
            self.cancel_number(ref._number, force=force, recursive=recursive)
        else:
            self.reach(ref._owner, ref._address, lambda found: self._cancel_far(found, ref._number, force, recursive))

    def _cancel_far(self, found: Peer | PeerUnreachableError, number: int, force: bool, recursive: bool) -> None:
        if isinstance(found, Peer):
            self.asks.ask(found, "cancel", [number, force, recursive])

    def cancel_number(self, number: int, *, force: bool, recursive: bool) -> None:
        """Cancel the task or call that makes an own object."""
        if self.tasks.cancel(number, force=force, recursive=recursive, mark=FAILED):
            return
        self.calls.cancel(number, FAILED)

    def accepted(self, ref: ObjectRef[Any]) -> Reply[None]:
        reply: Reply[None] = Reply(self)
        if threading.get_ident() == self.thread:
            self.windows.accepted(ref, reply)
        else:
            self.post(self.windows.accepted, ref, reply)
        return reply

    def watch(self, refs: Sequence[ObjectRef[Any]], fn: Callable[[ObjectRef[Any]], object]) -> None:
        if self.at_home():
            self.objects.watch(refs, fn)
        else:
            self.post(self.objects.watch, refs, fn)

    def wait_ready(self, refs: list[ObjectRef[Any]], num_returns: int, timeout: float | None) -> Reply[Any]:
        return self.verbs.wait(refs, num_returns, timeout)

    def call_context(self) -> CallContext | None:
        return running_call.get()


def _advertised(advertise: str | None, bound: str) -> str:
    """What peers dial; port 0 stands for the one that was bound."""
    if advertise is None:
        return bound
    host, port = split_address(advertise)
    return join_address(host, port or split_address(bound)[1])
