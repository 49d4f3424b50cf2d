"""What code on a node starts: tasks, calls, actors, objects. The half of `Home` that the hot path goes through.

Arguments are packed, and thereby copied, before anything here returns, in the thread that calls; the rest happens on
the node's loop.
"""

from __future__ import annotations

import threading
import weakref
from asyncio import events
from typing import TYPE_CHECKING, Any

from actorfw.core.credit import FIRST_ITEM, ITEM_BITS
from actorfw.runtime.cells import CellContext
from actorfw.runtime.context import running_call
from actorfw.runtime.groups import BESIDE
from actorfw.runtime.guarded import Guarded
from actorfw.runtime.handles import ActorHandle, hash_by_name
from actorfw.runtime.refs import ObjectRef, Reply
from actorfw.runtime.routes import ActorCall
from actorfw.runtime.streams import WINDOW, Stream
from actorfw.runtime.submitted import Task
from actorfw.wire.payload import size_of

if TYPE_CHECKING:
    from actorfw.runtime.definitions import Definition, MethodInfo
    from actorfw.runtime.node import Node

__all__ = ["Submission"]


class Submission:
    """The submitting verbs of one node; see `Home` for each."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def submit(self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        node = self.node
        if not node.open:
            node.check_open()
        context = running_call.get()
        environment = None
        if definition.runtime_env is not None or (context is not None and context.environment is not None):
            environment = node.environments.of(definition, None if context is None else context.environment)
        hashed, recipe = definition.wire(node.codes, environment)
        if definition.goes_along:
            args = (definition.target, *args)
        wire, deps = node.codec.pack_args(args, kwargs)
        options = definition.options
        task = Task(next(node.numbers), hashed, recipe, wire, None, options)
        task.name = definition.name
        if deps:
            task.deps = [node.objects.export_ref(ref)[0] for ref in deps]
        timeout = options.get("timeout")
        if timeout is not None:
            task.deadline = node.env.time() + timeout
        if context is not None:
            task.parent = context.number
            task.trace = context.trace
            if context.deadline is not None and (task.deadline is None or context.deadline < task.deadline):
                task.deadline = context.deadline
        life = node.life
        answer: Any
        if definition.streams:
            answer = Stream(node, task.no)
            task.stream = node.streams[task.no] = weakref.ref(answer)
            task.credit = WINDOW
        else:
            count = options.get("num_returns", 1)
            task.num_returns = count
            if count == 1:
                answer = ObjectRef(node, life, task.no)
                task.refs = (answer,)
            elif count == 0:
                answer = ()
            else:
                rest = [ObjectRef[Any](node, life, next(node.numbers)) for _ in range(count - 1)]
                answer = task.refs = (ObjectRef[Any](node, life, task.no), *rest)
        size = 0 if type(wire) is list else size_of(wire)
        tasks = node.tasks
        if threading.get_ident() == node.thread:
            tasks.outbox.check(size)
            tasks.enter(task)
        elif events._get_running_loop() is not None:
            tasks.outbox.check(size)
            node.post(tasks.enter, task)
        else:
            with node.lending():
                tasks.outbox.enter(size)
            node.post(tasks.enter_from_thread, task, size)
        return answer

    def create_actor(self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorHandle:
        node = self.node
        if not node.open:
            node.check_open()
        context = running_call.get()
        environment = node.environments.of(definition, None if context is None else context.environment)
        hashed, recipe = definition.wire(node.codes, environment)
        wire, deps = node.codec.pack_args(args, kwargs)
        if definition.options.get("detached"):
            return node.detached.create(definition, hashed, recipe, wire, (args, kwargs))
        assert definition.interface is not None
        interface = node.interfaces.known(definition.interface)
        number = next(node.numbers)
        made = node.interfaces.handle_class(interface)
        with node.objects._lock:  # which a rebirth holds while it renames
            id = (node.life, number)
            handle = made(node, node.life, number, node.address, interface, node.objects.grip(id))
            node.objects.intern_handle(handle)
        name = definition.options.get("name")
        if name is not None:
            hash_by_name(handle, definition.options.get("namespace") or node.namespace, name)
        actor = Guarded(id, hashed, recipe, interface)
        actor.args = wire
        if deps:
            actor.deps = [node.objects.export_ref(ref)[0] for ref in deps]
        if threading.get_ident() == node.thread:
            node.guardians.enter(actor, definition.options)
        else:
            node.post(node.guardians.enter, actor, definition.options)
        return handle

    def call_actor(self, handle: ActorHandle, method: MethodInfo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        node = self.node
        if not node.open:
            node.check_open()
        wire, deps = node.codec.pack_args(args, kwargs)
        call = ActorCall(next(node.numbers), method.name, wire, None)
        if method.group or method.interleave:
            call.group = BESIDE if method.interleave else method.group
        if deps:
            call.deps = [node.objects.export_ref(ref)[0] for ref in deps]
        # An actor's handle to itself does not hold it, but a call does.
        call.hold = handle if handle._grip is not None else node.objects.grip((handle._guardian, handle._number))
        if method.max_task_retries:
            call.retries = method.max_task_retries
        context = running_call.get()
        if method.timeout is not None:
            call.deadline = node.env.time() + method.timeout
        if context is not None:
            call.trace = context.trace
            deadline = context.deadline
            if deadline is not None and (call.deadline is None or deadline < call.deadline):
                call.deadline = deadline
            if type(context) is CellContext and context.cell.id == (handle._guardian, handle._number):
                node.post(node.deadlocks.calls_itself, context.cell)
        answer: Any
        if method.streams:
            answer = Stream(node, call.no)
            call.stream = node.streams[call.no] = weakref.ref(answer)
            call.credit = [WINDOW, FIRST_ITEM | next(node.numbers) << ITEM_BITS, 0, None]
        elif method.num_returns == 1:
            answer = call.ref = ObjectRef(node, node.life, call.no)
        else:
            count = method.num_returns
            rest = [ObjectRef[Any](node, node.life, next(node.numbers)) for _ in range(max(0, count - 1))]
            answer = call.ref = (ObjectRef[Any](node, node.life, call.no), *rest)[:count]
            call.num_returns = [ref._number for ref in answer] or 0
        if type(wire) is not list:
            call.size = size_of(wire)
            node.windows.admit(handle._interface.name, call.size)
        elif not call.no & 63:  # scalars take next to nothing: they are looked at in batches
            node.windows.admit(handle._interface.name, 0)
        grip = handle._grip
        id = (handle._guardian, handle._number) if grip is None else grip.id
        if threading.get_ident() == node.thread:
            node.calls.start(call, id, handle._address)
        else:
            node.post(node.calls.start, call, id, handle._address)
        return answer

    def tell_actor(
        self, handle: ActorHandle, method: MethodInfo, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Reply[None]:
        node = self.node
        if not node.open:
            node.check_open()
        wire, deps = node.codec.pack_args(args, kwargs)
        call = ActorCall(0, method.name, wire, None)
        context = running_call.get()
        if context is not None:
            call.trace = context.trace
        if method.group or method.interleave:
            call.group = BESIDE if method.interleave else method.group
        if deps:
            call.deps = [node.objects.export_ref(ref)[0] for ref in deps]
        if type(wire) is not list:
            call.size = size_of(wire)
        node.windows.admit(handle._interface.name, call.size)
        id = (handle._guardian, handle._number)
        if threading.get_ident() == node.thread:
            return node.windows.tell(call, id, handle._address)
        reply: Reply[None] = Reply(node)

        def tell() -> None:
            node.windows.tell(call, id, handle._address).add_done_callback(lambda done: reply._settle(None))

        node.post(tell)
        return reply

    def put(self, value: Any) -> ObjectRef[Any]:
        node = self.node
        if not node.open:
            node.check_open()
        return node.ref_of(node.codec.pack(value))
